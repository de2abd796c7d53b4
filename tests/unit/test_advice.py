"""Each rule of advice fires on its case, with its figures, and is silent on its neighbour."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from bananas.config import Settings
from bananas.inspector import WorkerInfo, WorkerRun
from bananas.operate import PriorityFigures, QueueFigures
from bananas.operate.advice.advising import RULES, advice
from bananas.operate.advice.facts import Advice, Kind, Sample, Server, Snapshot
from bananas.operate.history import Depth, History, Point, TaskFigures, Times

NOW_MS = 1_800_000
QUEUE: dict[str, Any] = {
    "name": "email",
    "shards": 1,
    "ready": 0,
    "scheduled": 0,
    "running": 0,
    "dead": 0,
    "paused": False,
    "oldest_ms": None,
    "next_due_ms": None,
    "priorities": (),
    "workers": 1,
    "slots": 10,
    "busy": 0,
}
WELL = Server(used_bytes=10**9, max_bytes=10**10, core_share=0.1)


def queue(**given: Any) -> QueueFigures:
    return QueueFigures(**QUEUE | given)


def worker(boot: str = "w1", queues: tuple[str, ...] = ("email",), **given: Any) -> WorkerInfo:
    base: dict[str, Any] = {"boot": boot, "host": "web-1", "pid": 7, "supervisor": 1, "queues": queues, "tasks": ("send",), "slots": 10}
    return WorkerInfo(**base | {"running": (), "overdue": (), "started_ms": 0} | given)


def history(*tasks: TaskFigures, ready_before: int | None = None) -> History:
    """Half an hour, in which so many jobs were ready ten minutes before its end, and more before that."""
    depth = None if ready_before is None else Depth(0, ready_before, 0, 0, 0)
    depths = {0: Depth(0, 10**6, 0, 0, 0), 20: depth} if depth else {}
    points = [Point(minute * 60_000, 0, 0, 0, 0, None, None, depths.get(minute)) for minute in range(30)]
    return History(NOW_MS, 60, points, list(tasks))


def ended(success: int, retried: int = 0, dead: int = 0, queue: str = "email", task: str = "send", run: Times | None = None) -> TaskFigures:
    return TaskFigures(task, queue, success, retried, dead, 0, None, run)


def snapshot(*queues: QueueFigures, recent: History | None = None, before: int | None = None, **given: Any) -> Snapshot:
    by_queue = {} if before is None else {each.name: history(ready_before=before) for each in queues}
    seen = recent or history()
    base: dict[str, Any] = {"workers": (worker(),), "servers": (WELL,), "by_queue": by_queue, "recent": seen, "lately": seen}
    return Snapshot(queues=queues, **base | given)


def only(at: Snapshot) -> Advice:
    (found,) = advice(at)
    return found


def kinds(at: Snapshot) -> list[str]:
    return [each.kind for each in advice(at)]


def test_a_namespace_that_is_well_gets_no_advice() -> None:
    assert advice(snapshot(queue(ready=5, oldest_ms=1_000, busy=10), recent=history(ended(18_000)), before=5)) == []
    assert advice(snapshot(workers=())) == []


# --- workers and queues -----------------------------------------------------------------------------------------------


def test_no_workers_while_jobs_wait() -> None:
    upkeep, quiet = worker(slots=0), worker("w2", phase="quiet")
    for workers, told in (
        ((), "No worker that takes jobs is alive, while 3"),
        ((upkeep,), "(1 for upkeep alone), while 3"),
        ((upkeep, quiet), "(1 for upkeep alone, 1 quiet or stopping), while 3"),
    ):
        found = only(snapshot(queue(ready=3, scheduled=2, workers=0, slots=0, oldest_ms=5), workers=workers))
        assert (found.kind, found.level, found.figures) == ("no_workers", "error", {"ready": 3, "scheduled": 2})
        assert told in found.why
    assert advice(snapshot(queue(workers=0, slots=0), workers=())) == []


def test_a_queue_that_nobody_serves() -> None:
    found = only(snapshot(queue(name="bulk", ready=3, oldest_ms=61_000, workers=0, slots=0)))
    assert (found.kind, found.level, found.queue) == ("unserved", "error", "bulk")
    assert "the oldest for 1 min 1 s" in found.why
    assert "--queues bulk" in found.action
    assert advice(snapshot(queue(name="bulk", workers=0, slots=0))) == []  # nothing waits there
    leaving = worker("w2", queues=("bulk",), phase="stopping")
    assert kinds(snapshot(queue(name="bulk", ready=3, oldest_ms=5), workers=(worker(), leaving))) == ["unserved"]
    shard = worker(queues=("bulk.0", "bulk.1"))
    assert advice(snapshot(queue(name="bulk", ready=3, oldest_ms=5), workers=(shard,))) == []


def test_a_priority_that_nobody_takes() -> None:
    waiting = queue(ready=3, oldest_ms=5, priorities=(PriorityFigures(100, 1, 5), PriorityFigures(900, 2, 5)))
    found = only(snapshot(waiting, workers=(worker(only_priorities=(100,)),)))
    assert (found.kind, found.figures) == ("unserved", {"ready": 2, "priority": 900, "workers": 1})
    assert advice(snapshot(waiting, workers=(worker(only_priorities=(100,)), worker("w2")))) == []


def test_a_paused_queue_with_a_backlog() -> None:
    found = only(snapshot(queue(ready=3, oldest_ms=90_000, paused=True, busy=10)))
    assert (found.kind, found.level, found.figures) == ("paused", "warning", {"ready": 3})
    assert "bananas queues resume email" in found.action
    assert advice(snapshot(queue(paused=True))) == []


def test_a_backlog_that_grows_while_all_slots_are_busy() -> None:
    at = snapshot(queue(ready=640, oldest_ms=90_000, busy=10), recent=history(ended(18_000)), before=100)
    found = only(at)
    assert (found.kind, found.level, found.queue) == ("add_workers", "warning", "email")
    assert found.figures == {"slots": 10, "busy": 10, "more_slots": 4, "ready": 640, "rate_s": 10.0, "growth_s": 1.0, "backlog_s": 64.0}
    assert "growing by 1 jobs/s" in found.why  # (640 - 100) / 540 s
    assert "11 jobs/s come in; at the pace of now that takes about 14 slots" in found.why  # 11 / (10 per 10 slots) / 0.8 = 13.75
    assert found.action == "Start more workers: about 4 more slot(s)."


def test_a_backlog_with_a_free_slot_or_that_shrinks_is_no_lack_of_workers() -> None:
    grows = {"recent": history(ended(18_000)), "before": 100}
    assert kinds(snapshot(queue(ready=640, oldest_ms=90_000, busy=9), **grows)) == []
    assert kinds(snapshot(queue(ready=500, oldest_ms=90_000, busy=10), recent=history(ended(18_000)), before=1_000)) == []
    assert kinds(snapshot(queue(ready=109, oldest_ms=90_000, busy=10), **grows)) == []  # it sways


def test_a_backlog_that_stands_is_a_hint_and_a_long_one_a_warning() -> None:
    for ready, level in ((700, "hint"), (3_100, "warning")):
        found = only(snapshot(queue(ready=ready, oldest_ms=90_000, busy=10), recent=history(ended(18_000)), before=ready))
        assert (found.kind, found.level) == ("add_workers", level)
    nothing_ends = only(snapshot(queue(ready=5, oldest_ms=90_000, busy=10)))
    assert (nothing_ends.kind, nothing_ends.figures["backlog_s"]) == ("add_workers", 90.0)


def test_slots_are_advised_where_handlers_wait() -> None:
    at = snapshot(queue(ready=640, oldest_ms=90_000, busy=10), recent=history(ended(18_000)), workers=(worker(cpu_percent=12.0),))
    assert "raise worker_concurrency (10 now)" in only(at).action
    between = msgspec.structs.replace(at, workers=(worker(cpu_percent=60.0),))
    assert "worker_concurrency" not in only(between).action


def test_processes_at_a_full_core() -> None:
    at = snapshot(
        queue(ready=640, oldest_ms=90_000, busy=4), recent=history(ended(18_000)), workers=(worker(cpu_percent=97.0), worker("w2"))
    )
    found = only(at)
    assert (found.kind, found.figures["processes"], found.figures["at_full_core"]) == ("add_processes", 2, 1)
    assert "worker_processes" in found.action
    assert kinds(msgspec.structs.replace(at, workers=(worker(cpu_percent=84.0), worker("w2")))) == []  # slots are free
    assert kinds(msgspec.structs.replace(at, queues=(queue(),))) == []  # nothing waits


def test_a_queue_that_starves_behind_others() -> None:
    both = (worker(queues=("email", "bulk")),)
    recent = history(ended(18_000), ended(900, queue="bulk"))
    late, quick = queue(name="bulk", ready=5, oldest_ms=100_000, busy=10), queue(ready=5, oldest_ms=9_000, busy=10)
    found = only(snapshot(quick, late, workers=both, recent=recent))
    assert (found.kind, found.queue, found.figures) == ("starving", "bulk", {"oldest_s": 100.0, "others_s": 9.0, "ready": 5})
    assert "worker_routing_keys (for example bulk:3,email:1)" in found.action
    same_age = queue(ready=5, oldest_ms=11_000, busy=10)
    assert kinds(snapshot(same_age, late, workers=both, recent=recent)) == []
    apart = (worker(), worker("w2", queues=("bulk",)))
    assert kinds(snapshot(quick, late, workers=apart, recent=recent)) == []
    free = queue(name="bulk", ready=5, oldest_ms=100_000, busy=3)
    assert kinds(snapshot(quick, free, workers=both, recent=recent)) == []


def test_a_low_priority_that_starves() -> None:
    recent = history(ended(18_000))

    def of(high_ms: int, low_ms: int) -> Snapshot:
        priorities = (PriorityFigures(100, 5, high_ms), PriorityFigures(900, 20, low_ms))
        return snapshot(queue(ready=25, oldest_ms=low_ms, priorities=priorities, busy=5), recent=recent)

    found = only(of(1_000, 400_000))
    assert (found.kind, found.figures) == ("low_priority", {"priority": 900, "ready": 20, "oldest_s": 400.0})
    assert "worker_priorities=900" in found.action
    assert kinds(of(41_000, 400_000)) == []
    assert kinds(of(1_000, 299_000)) == []


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_a_task_that_fails() -> None:
    found = only(snapshot(recent=history(ended(80, 15, 5))))
    assert (found.kind, found.level, found.task, found.queue) == ("failing", "warning", "send", "email")
    assert found.figures == {"runs": 100, "failed": 20, "dead": 5, "share": 0.2}
    assert "20 of 100 runs (20%) failed in the last 30 min, 5 of them for good" in found.why
    assert only(snapshot(recent=history(ended(50, 50)))).level == "error"
    assert kinds(snapshot(recent=history(ended(81, 19)))) == []
    assert kinds(snapshot(recent=history(ended(0, 19)))) == []  # few


def test_a_timeout_below_the_99th_percentile() -> None:
    recent = history(ended(100, run=Times(100, 900.0, 5_000.0, 26_000.0)))
    found = only(snapshot(recent=recent, timeouts={"send": 30.0}))
    assert (found.kind, found.task, found.figures["p99_s"], found.figures["timeout_s"]) == ("timeout", "send", 26.0, 30.0)
    assert "ended after 30 s" in found.why
    assert "job_timeout" in found.action
    assert kinds(snapshot(recent=recent, timeouts={"send": 33.0})) == []
    assert kinds(snapshot(recent=recent)) == []  # nobody knows its timeout
    waiting = (Sample("email", "send", 100, 20.0),)
    assert only(snapshot(recent=recent, samples=waiting)).figures["timeout_s"] == 20.0
    few = history(ended(19, run=Times(19, 900.0, 5_000.0, 26_000.0)))
    assert kinds(snapshot(recent=few, timeouts={"send": 30.0})) == []


def test_jobs_that_are_large() -> None:
    large = tuple(Sample("email", "send", size) for size in (40_000, 41_000, 10))
    found = only(snapshot(samples=large))
    assert (found.kind, found.level, found.figures) == ("payload", "hint", {"sampled": 3, "median_bytes": 40_000, "largest_bytes": 41_000})
    assert "compression=zstd" in found.action
    assert "compression" not in only(snapshot(samples=large, compressed=True)).action
    assert only(snapshot(samples=(Sample("email", "send", 300_000),))).level == "warning"
    assert kinds(snapshot(samples=(Sample("email", "send", 32_767), Sample("email", "send", 200_000), Sample("email", "send", 1)))) == []


def test_a_task_that_no_worker_knows() -> None:
    waiting = (Sample("email", "send", 10), Sample("email", "new", 10))
    found = only(snapshot(samples=waiting))
    assert (found.kind, found.level, found.task) == ("unknown_task", "error", "new")
    assert kinds(snapshot(samples=waiting, workers=(worker(tasks=("send", "new")),))) == []
    assert "unknown_task" not in kinds(snapshot(queue(ready=1, workers=0), samples=waiting, workers=()))  # nobody is there at all


def test_runs_that_do_not_end() -> None:
    run = WorkerRun("email.1", "send", 0, True)
    found = only(snapshot(workers=(worker(overdue=("email.1",), runs=(run,)),)))
    assert (found.kind, found.task, found.figures) == ("overdue", "send", {"overdue": 1, "slots": 10})
    assert "1 run(s) (send) of worker web-1:7" in found.why
    assert kinds(snapshot(workers=(worker(running=("email.1",)),))) == []


def test_dead_letters_that_come_to_their_number() -> None:
    assert only(snapshot(queue(dead=80), dead_max_count=100)).kind == "dead_letters"
    assert kinds(snapshot(queue(dead=79), dead_max_count=100)) == []
    assert kinds(snapshot(queue(dead=80, shards=2), dead_max_count=100)) == []


# --- servers ----------------------------------------------------------------------------------------------------------


def test_a_server_that_evicts() -> None:
    found = only(snapshot(servers=(WELL, msgspec.structs.replace(WELL, policy="allkeys-lru", evicted=3))))
    assert (found.kind, found.level, found.figures) == ("policy", "error", {"policy": "allkeys-lru", "evicted": 3})


def test_a_server_that_forgets() -> None:
    assert only(snapshot(servers=(msgspec.structs.replace(WELL, append_only=False),))).kind == "persistence"


@pytest.mark.parametrize(("used", "told"), [(79, []), (80, ["warning"]), (99, ["warning"]), (100, ["error"])])
def test_a_server_that_is_nearly_full(used: int, told: list[str]) -> None:
    found = advice(snapshot(servers=(Server(used_bytes=used, max_bytes=100),)))
    assert [each.level for each in found if each.kind == "memory"] == told
    assert all("result_ttl_success" in each.action for each in found)


def test_a_server_without_a_limit() -> None:
    assert (only(snapshot(servers=(Server(used_bytes=5, max_bytes=0),))).kind) == "memory_limit"


def test_a_server_that_will_be_full_soon() -> None:
    grows = queue(ready=640, oldest_ms=90_000, busy=5)  # by 1 job/s; slots are free
    jobs = (Sample("email", "send", 1_000),)  # 1,550 bytes each
    recent = history(ended(180_000))
    soon = Server(used_bytes=78_000_000, max_bytes=100_000_000)
    found = only(snapshot(grows, recent=recent, before=100, samples=jobs, servers=(soon,)))
    assert (found.kind, found.queue) == ("memory_growth", "email")
    assert found.figures == {"bytes_s": 1_550, "left_bytes": 22_000_000, "full_in_s": 14_194}
    later = Server(used_bytes=77_000_000, max_bytes=100_000_000)
    assert kinds(snapshot(grows, recent=recent, before=100, samples=jobs, servers=(later,))) == []
    assert kinds(snapshot(grows, recent=recent, before=640, samples=jobs, servers=(soon,))) == []


def test_a_server_whose_core_is_busy() -> None:
    busy = Server(used_bytes=1, max_bytes=100, core_share=0.75)
    one, two = queue(), queue(name="bulk")
    found = only(snapshot(one, two, recent=history(ended(900), ended(100, queue="bulk")), servers=(busy,)))
    assert (found.kind, found.queue, found.figures["largest_share"]) == ("add_shards", "email", 0.9)
    assert "queue_shards=email:9" in found.action
    even = only(snapshot(one, two, recent=history(ended(500), ended(500, queue="bulk")), servers=(busy,)))
    assert (even.queue, "its queues spread" in even.action) == ("", True)
    assert "Add primaries" in only(snapshot(one, servers=(busy,), clustered=True)).action
    assert kinds(snapshot(one, servers=(Server(used_bytes=1, max_bytes=100, core_share=0.74),))) == []
    assert kinds(snapshot(one, servers=(Server(used_bytes=1, max_bytes=100, core_share=None),))) == []


# --- all of it --------------------------------------------------------------------------------------------------------


def test_the_most_pressing_comes_first() -> None:
    server = Server(used_bytes=5, max_bytes=0, policy="allkeys-lru")
    at = snapshot(queue(ready=3, paused=True, oldest_ms=5), servers=(server,))
    assert [each.level for each in advice(at)] == ["error", "warning", "hint"]


def test_every_kind_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    assert [kind for kind in get_args(Kind) if f"`{kind}`" not in page] == []


def test_settings_in_advice_are_those_of_the_settings_page() -> None:
    import re

    sources = [path.read_text() for path in (Path(__file__).parents[2] / "src/bananas/operate/advice").glob("*.py")]
    named = {word for text in sources for word in re.findall(r"\b(?:worker|result|dead|queue|job|max|unknown)_[a-z_]+\b", text)}
    ours = {name for name in named if name in Settings.__struct_fields__}
    assert ours >= {
        *(
            "worker_concurrency",
            "worker_processes",
            "worker_routing_keys",
            "worker_mode",
            "worker_priorities",
            "queue_shards",
            "job_timeout",
        ),
        *("result_ttl_success", "result_ttl_failure", "dead_max_count", "dead_max_age", "max_payload_bytes", "unknown_task_ttl"),
    }
    page = (Path(__file__).parents[2] / "docs/settings.md").read_text()
    assert all(f"| `{name}` |" in page for name in ours)
    assert len(RULES) == len({rule.__name__ for rule in RULES}) == 17
