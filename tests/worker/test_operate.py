"""What operators do, on a real server: searches, figures, failures in groups, and acts on many jobs, with what races them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from bananas import Bananas, ConfigError, QueueFull, broker, operate
from bananas.audit import audit
from bananas.job import Tries
from bananas.keys import parse_public_id
from bananas.operate import Cancel, Delete, Move, Reschedule, Retry, SetPriority, act, errors, search, select, why
from bananas.operate.moving import Mover
from bananas.operate.requests import hold
from bananas.task import Call, SubmitOptions
from bananas.testing import worker_for

if TYPE_CHECKING:
    from bananas import Job
    from bananas.server import PrivateServer


async def told(app: Bananas, query: str, **given: Any) -> list[str]:
    return [job.id for job in (await search(app, query, **given)).jobs]


class Shop:
    """An app with tasks, and jobs of it in every place."""

    def __init__(self, app: Bananas) -> None:
        self.app = app
        app.task(self.send, name="send", max_retries=0)
        app.task(self.wait, name="wait", timeout=30)
        app.task(self.flaky, name="flaky", max_retries=1)
        self.gate = asyncio.Event()

    async def send(self, to: str, user: Any = None) -> str:
        raise ValueError(f"no such host for {to}")

    async def wait(self) -> str:
        await self.gate.wait()
        return "done"

    async def flaky(self) -> None:
        raise KeyError("flaky")

    async def dead(self, count: int, **options: Any) -> list[Job[Any]]:
        """Jobs that died."""
        jobs = [await self.app.submit("send", f"u{i}", {"id": i}, options=options) for i in range(count)]  # type: ignore[arg-type]
        async with worker_for(self.app) as worker:
            await worker.run_until_idle()
        return jobs


@pytest.fixture
def shop(app: Bananas) -> Shop:
    return Shop(app)


# --- search ---------------------------------------------------------------------------------------------------------


async def test_each_place_and_qualifier_is_found(shop: Shop) -> None:
    app = shop.app
    (dead,) = await shop.dead(1)
    said: SubmitOptions = {"queue": "bulk", "priority": "high", "unique": "one", "headers": {"tenant": "acme"}, "tags": ["vip"]}
    ready = await app.submit("wait", options=said)
    later = await app.submit("wait", options={"delay": 600})
    async with worker_for(app, worker_concurrency=1) as worker:
        running = await app.submit("wait")
        while (await running.info()).state != "running":
            await asyncio.sleep(0.01)
        assert await told(app, "state:running") == [running.id]
        assert set(await told(app, "worker:*")) == {dead.id, running.id}
        shop.gate.set()
        await worker.run_until_idle()
    for query, expected in {
        "": [ready.id, later.id, dead.id],
        "state:dead error:host": [dead.id],
        "args.to:u0": [dead.id],
        "args.user.id:0 task:send": [dead.id],
        "queue:bulk": [ready.id],
        "priority:high": [ready.id],
        "unique:one": [ready.id],
        "header.tenant:acme": [ready.id],
        "tag:vip": [ready.id],
        "tag:vi": [],
        "due<1h": [later.id],
        f"id:{later.id},{dead.id}": [later.id, dead.id],
        f"id:{later.id} state:dead": [],
        "task:wait -queue:bulk": [later.id],
        "died<1h attempts:1": [dead.id],
        "waited<1h": [ready.id],
        "age>1h": [],
        "queue:nowhere": [],
    }.items():
        assert sorted(await told(app, query)) == sorted(expected), query


async def test_many_jobs_are_found_in_bounded_steps(app: Bananas) -> None:
    await app.submit_many(Call(f"task{i % 10}", (i,), {}) for i in range(20_000))
    sent: list[Any] = []
    lane, ask = app.client.here().lanes.of(app.producer.keys("default")), None
    ask = lane.ask

    async def counted(keys: Any, requests: Any, budget: float, what: str) -> list[Any]:
        sent.append(requests)
        return await ask(keys, requests, budget, what)

    lane.ask = counted  # type: ignore[method-assign]  # to count round trips
    began = time.monotonic()
    page = await search(app, "args.0:19999")
    assert [job.args for job in page.jobs] == [(19_999,)]
    assert (page.scanned, page.total, page.cursor) == (20_000, 20_000, "")
    assert len(sent) <= 35  # listing, measuring four places, 20 steps, the workers
    assert time.monotonic() - began < 30
    found, cursor, pages = list[int](), "", 0
    while True:
        page = await search(app, "task:task3", limit=700, cursor=cursor)
        found += [job.args[0] for job in page.jobs if job.args]
        pages, cursor = pages + 1, page.cursor
        if not cursor:
            break
    assert sorted(found) == list(range(3, 20_000, 10))
    assert pages == 3
    part = await search(app, "no-such-text", scan_limit=2_500)
    assert (part.scanned, part.total, bool(part.cursor)) == (2_500, 20_000, True)
    rest = await search(app, "args.0:19999", cursor=part.cursor)
    assert (len(rest.jobs), rest.scanned) == (1, 17_500)
    newest = await search(app, "", newest=True, limit=3)
    assert len(newest.jobs) == 3
    assert newest.jobs[0].id > newest.jobs[2].id


async def test_a_page_goes_on_where_the_one_before_was_taken_away(app: Bananas) -> None:
    await app.submit_many(Call("task", (i,), {}) for i in range(50))
    page = await search(app, "", limit=20)
    await act(app, await select(app, f"id:{','.join(job.id for job in page.jobs[10:])}"), Cancel())
    rest = await search(app, "", limit=100, cursor=page.cursor)
    assert not {job.id for job in rest.jobs} & {job.id for job in page.jobs}
    assert len(rest.jobs) == 30


async def test_shards_are_searched_and_counted_together(server: PrivateServer) -> None:
    app = Bananas(server.url, namespace="sharded", queue_shards="email:3")
    try:
        await app.submit_many(Call("task", (i,), {}, options=broker_options("email")) for i in range(30))
        assert len((await search(app, "queue:email")).jobs) == 30
        assert len((await search(app, "queue:email.1")).jobs) == 10
        (figures,) = await operate.queues(app, ["email"])
        assert (figures.shards, figures.ready, figures.priorities[0].ready) == (3, 30, 30)
        outcome = await act(app, await select(app, "queue:email"), Move("other"))
        assert (outcome.done, outcome.left) == (30, {})
        assert (await audit(app)).findings == ()
        outcome = await act(app, await select(app, "queue:other"), Move("email"))
        assert outcome.done == 30
        assert len((await search(app, "queue:email")).jobs) == 30
    finally:
        await app.close()


def broker_options(queue: str) -> Any:
    from bananas.task import Options

    return Options(queue=queue)


@pytest.mark.parametrize("cursor", ["nonsense", "ready/elsewhere/5:x", "ready/default/x:y"])
async def test_a_cursor_of_another_search_is_refused(app: Bananas, cursor: str) -> None:
    await app.submit("task")
    with pytest.raises(ConfigError, match="no cursor"):
        await search(app, "", cursor=cursor)


# --- failures and figures -------------------------------------------------------------------------------------------


async def test_failures_are_grouped_by_error_and_place(shop: Shop) -> None:
    await shop.dead(7)
    job = await shop.app.submit("flaky")
    async with worker_for(shop.app):
        while (await job.info()).attempts == 0:
            await asyncio.sleep(0.01)
    groups = (await errors(shop.app)).groups
    assert [(group.type, group.dead, group.retrying, group.tasks) for group in groups] == [
        ("ValueError", 7, 0, ("send",)),
        ("KeyError", 0, 1, ("flaky",)),
    ]
    assert groups[0].frame.endswith(" in send")
    assert len(groups[0].samples) == 5
    assert 0 < groups[0].first_ms <= groups[0].last_ms
    assert len((await errors(shop.app, "args.user.id:3")).groups) == 1


async def test_the_figures_of_queues(shop: Shop) -> None:
    app = shop.app
    await shop.dead(2)
    await app.submit("wait", options={"priority": "high"})
    await app.submit("wait", options={"priority": 7})
    await app.submit("wait", options={"delay": 60})
    await app.submit("wait", options={"queue": "other"})
    await app.queue("other").pause()
    default, other = await operate.queues(app)
    assert (default.ready, default.scheduled, default.running, default.dead, default.paused) == (2, 1, 0, 2, False)
    assert [(each.priority, each.ready) for each in default.priorities] == [(7, 1), (100, 1)]
    assert default.oldest_ms is not None
    assert default.next_due_ms is not None
    assert 50_000 < default.next_due_ms <= 60_000
    assert (other.name, other.ready, other.paused, other.workers) == ("other", 1, True, 0)


async def test_cron_entries_are_listed_before_and_after_they_are_announced(app: Bananas) -> None:
    @app.cron("0 3 * * *", timezone="Europe/Berlin")
    async def nightly() -> None: ...

    (before,) = await operate.cron_entries(app)
    assert (before.name, before.schedule, before.timezone, before.next_ms, before.announced) == (
        "nightly",
        "0 3 * * *",
        "Europe/Berlin",
        None,
        False,
    )
    keys = app.producer.keys("default")
    await app.client.ask(keys, broker.cron_register(keys, [("nightly", b"0 once Europe/Berlin 0 3 * * *", 5)]), "a test")
    await app.submit("task")
    other = Bananas(str(app.settings.redis_url), namespace=app.settings.namespace)
    (after,) = await operate.cron_entries(other)
    await other.close()
    assert (after.next_ms, after.announced, after.schedule) == (5, True, "0 3 * * *")


# --- acts -----------------------------------------------------------------------------------------------------------


async def test_dead_jobs_are_retried_or_deleted(shop: Shop) -> None:
    app = shop.app
    jobs = await shop.dead(5)
    selection = await select(app, "state:dead args.user.id<3")
    assert (selection.count, selection.complete) == (3, True)
    await app.queue("default").dead.delete(jobs[0].id)  # meanwhile
    outcome = await act(app, selection, Retry(), who="ada")
    assert (outcome.selected, outcome.done, outcome.left) == (3, 2, {"gone": 1})
    assert (await jobs[1].info()).state == "ready"
    assert (await act(app, await select(app, "state:dead"), Delete())).done == 2
    assert await told(app, "state:dead") == []
    newest, oldest = await operate.trail(app)
    assert (oldest.who, oldest.action, oldest.query, oldest.selected, oldest.done) == ("ada", "retry", "state:dead args.user.id<3", 3, 2)
    assert newest.action == "delete"


async def test_waiting_jobs_are_cancelled_and_running_ones_only_where_they_are_meant(shop: Shop) -> None:
    app = shop.app
    waiting = [await app.submit("wait") for _ in range(3)]
    selection = await select(app, "task:wait state:ready")
    async with worker_for(app, worker_concurrency=1) as worker:
        while (await waiting[0].info()).state != "running":
            await asyncio.sleep(0.01)
        outcome = await act(app, selection, Cancel())
        assert (outcome.done, outcome.left) == (2, {"running": 1})
        assert not (await waiting[0].info()).cancel_requested
        assert (await act(app, await select(app, "state:running"), Cancel())).done == 1
        await worker.run_until_idle()
    assert [(await job.info()).state for job in waiting] == ["cancelled"] * 3


async def test_priorities_and_times_are_changed(app: Bananas) -> None:
    jobs = [await app.submit("task", i) for i in range(4)]
    done = await act(app, await select(app, "args.0<2"), SetPriority("high"))
    assert (done.done, done.action) == (2, "setpriority high")
    assert [(await job.info()).priority for job in jobs] == [100, 100, 500, 500]
    selection = await select(app, "args.0>=2")
    await jobs[3].cancel()
    outcome = await act(app, selection, Reschedule(600))
    assert (outcome.done, outcome.left) == (1, {"gone": 1})
    assert await told(app, "due>5m") == [jobs[2].id]
    with pytest.raises(ConfigError):
        await act(app, selection, SetPriority(5_000))


async def test_a_selection_is_bounded_and_progress_is_told(app: Bananas) -> None:
    await app.submit_many(Call("task", (i,), {}) for i in range(1_200))
    selection = await select(app, "", most=1_100)
    assert (selection.count, selection.complete) == (1_100, False)
    told_: list[tuple[int, int]] = []
    await act(app, selection, Cancel(), progress=lambda handled, total: told_.append((handled, total)))
    assert told_ == [(500, 1_100), (1_000, 1_100), (1_100, 1_100)]
    assert (await select(app, "")).count == 100


# --- moves ----------------------------------------------------------------------------------------------------------


async def test_a_moved_job_runs_in_its_new_queue_and_its_old_id_leads_there(shop: Shop) -> None:
    app = shop.app
    job = await app.submit("wait", options={"queue": "slow", "unique": "k", "priority": 3})
    later = await app.submit("wait", options={"queue": "slow", "delay": 600})
    waits = asyncio.create_task(job.result(timeout=20))
    outcome = await act(app, await select(app, "queue:slow"), Move("default"))
    assert (outcome.done, outcome.left) == (2, {})
    info = await job.info()
    assert (info.queue, info.state, info.priority) == ("default", "ready", 3)
    assert 500_000 < ((await later.info()).due_ms or 0) - time.time() * 1000 < 601_000
    assert [reason.kind for reason in (await why(app, job.id)).reasons] == ["moved"]
    assert (await audit(app)).findings == ()
    assert (await app.submit("wait", options={"unique": "k"})).id == info.id
    shop.gate.set()
    async with worker_for(app) as worker:
        await worker.run_until_idle()
        assert await waits == "done"
    assert await job.result(timeout=5) == "done"


async def test_a_move_leaves_what_it_cannot_move(shop: Shop) -> None:
    app = shop.app
    held = await app.submit("wait", options={"queue": "slow", "unique": "k"})
    await app.submit("wait", options={"unique": "k"})
    gone = await app.submit("wait", options={"queue": "slow"})
    selection = await select(app, "queue:slow")
    await gone.cancel()
    outcome = await act(app, selection, Move("default"))
    assert (outcome.done, outcome.left) == (0, {"unique key held by another": 1, "gone": 1})
    assert (await held.info()).state == "ready"
    same = await act(app, await select(app, "queue:slow"), Move("slow"))
    assert same.left == {"already in that queue": 1}
    assert (await audit(app)).findings == ()


async def test_a_move_that_was_cut_off_is_repeated_without_a_second_job(app: Bananas) -> None:
    job = await app.submit("task", options={"queue": "slow"})
    keys, job_id = job.place
    mover = Mover(app, "default")
    (held,) = await app.client.ask(keys, hold(keys, 60_000, [job_id]), "a test")
    assert (await job.info()).state == "scheduled"
    assert await mover._move(keys, job_id, held, "a test") == ""
    assert await mover.move(keys, [job_id]) == ["gone"]
    assert len((await search(app, "")).jobs) == 1
    other = await app.submit("task", options={"queue": "slow"})
    keys, other_id = other.place
    (held,) = await app.client.ask(keys, hold(keys, 60_000, [other_id]), "a test")
    await mover._move(keys, other_id, held, "a test")
    moved = parse_public_id((await other.info()).id)
    assert await app.job((await other.info()).id).cancel()  # it ended in its new queue
    assert await mover._move(keys, other_id, held, "a test") == ""
    assert (await app.queue("default").counts()).ready == 1
    assert moved.queue == "default"


async def test_a_full_server_takes_no_moved_job_in_and_none_is_lost(app: Bananas) -> None:
    jobs = [await app.submit("task", "x" * 1_000, options={"queue": "slow"}) for _ in range(3)]
    selection, keys = await select(app, "queue:slow"), app.producer.keys("slow")
    await app.client.ask(keys, broker.plain(bytes, "CONFIG", "SET", "maxmemory", 1), "a test")
    with pytest.raises(QueueFull):
        await act(app, selection, Move("default"))
    await app.client.ask(keys, broker.plain(bytes, "CONFIG", "SET", "maxmemory", 0), "a test")
    assert [(await job.info()).state for job in jobs] == ["ready"] * 3
    assert (await audit(app)).findings == ()
    assert (await act(app, await select(app, "queue:slow"), Move("default"))).done == 3


# --- why ------------------------------------------------------------------------------------------------------------


async def kinds(app: Bananas, job: Job[Any]) -> list[str]:
    return [reason.kind for reason in (await why(app, job.id)).reasons]


async def test_why_a_job_waits_is_told(shop: Shop) -> None:
    app = shop.app
    first = await app.submit("wait", options={"unique": "k", "expires_in": 600})
    second = await app.submit("wait")
    later = await app.submit("wait", options={"delay": 600})
    assert await kinds(app, first) == ["no_worker", "expires", "unique"]
    assert await kinds(app, second) == ["no_worker", "behind"]
    assert await kinds(app, later) == ["delayed", "no_worker"]
    await app.queue("default").pause()
    paused = await why(app, second.id)
    assert [reason.kind for reason in paused.reasons] == ["paused", "no_worker", "behind"]
    assert paused.reasons[2].figures == {"ahead": 1, "priority": 500}
    assert await kinds(app, app.job("default." + "0" * 40 + "1f4")) == ["not_found"]


async def test_why_a_job_is_dead_or_waits_for_its_retry_is_told(shop: Shop) -> None:
    (dead,) = await shop.dead(1)
    explanation = await why(shop.app, dead.id)
    assert [reason.kind for reason in explanation.reasons] == ["dead"]
    assert "ValueError: no such host" in explanation.reasons[0].sentence
    job = await shop.app.submit("flaky")
    async with worker_for(shop.app):
        while (await job.info()).attempts == 0:
            await asyncio.sleep(0.01)
    if (await job.info()).state == "scheduled":
        assert (await kinds(shop.app, job))[0] in ("retry_waits", "no_worker")


def test_every_other_reason_from_its_situation() -> None:
    from bananas.inspector import WorkerInfo
    from bananas.job import History, JobInfo
    from bananas.operate.requests import Measures
    from bananas.operate.why import Situation, explain

    now = 1_000_000
    figures = Measures(now, 1, 0, 0, 0, None, None, [])

    def job(**given: Any) -> JobInfo:
        return JobInfo(
            **{"id": "q.1", "queue": "q", "state": "ready", "task": "t", "priority": 500, "place": 0, "born_ms": now - 5_000} | given
        )

    def worker(**given: Any) -> WorkerInfo:
        usual: dict[str, Any] = {"queues": ("q",), "tasks": ("t",), "slots": 2, "running": (), "overdue": (), "started_ms": 0}
        return WorkerInfo(**{"boot": "b", "host": "h", "pid": 1, "supervisor": 1} | usual | given)

    def said(info: JobInfo, *workers: WorkerInfo, tries: Tries | None = None, **more: Any) -> list[str]:
        return [reason.kind for reason in explain(Situation(info, tries or Tries(), figures, workers, **more))]

    assert said(job(), worker()) == ["soon"]
    assert said(job(), worker(slots=0)) == ["no_worker"]
    assert said(job(), worker(queues=("other",))) == ["no_worker"]
    assert said(job(), worker(phase="quiet"), worker(phase="stopping")) == ["workers_quiet"]
    assert said(job(), worker(phase="quiet"), worker()) == ["soon"]
    assert said(job(), worker(tasks=("other",))) == ["task_unknown_to_workers"]
    assert said(job(), worker(only_priorities=(100,))) == ["excluded"]
    assert said(job(), worker(only_tasks=("other",))) == ["excluded"]
    assert said(job(), worker(running=("q.2", "q.3"))) == ["slots_busy"]
    assert said(job(), worker(running=("q.2", "q.3")), worker(boot="c")) == ["soon"]
    assert said(job(crashes=1), worker(), tries=Tries(crashes=1)) == ["suspect"]
    unknown = Tries(history=History((), now - 60_000, 3))
    assert said(job(state="scheduled", place=None, due_ms=now + 9_000), worker(), tries=unknown) == ["unknown_task"]
    assert said(job(state="scheduled", place=None, due_ms=now + 9_000, attempts=1), worker()) == ["retry_waits"]
    assert said(job(), worker(), memory=(100, 100)) == ["server_full", "soon"]
    assert said(job(cancel_requested=True), worker(), expires_ms=1_000) == ["cancel_requested", "expired", "soon"]
    running = job(state="running", worker="h:1", lease_expires_ms=now + 5)
    assert said(running) == ["running"]
    assert said(job(state="running", worker="h:1", lease_expires_ms=now - 5)) == ["worker_gone"]
    assert said(job(state="running", worker="h:1", overdue=True, cancel_requested=True)) == ["overdue", "cancel_requested"]
    assert said(job(state="success")) == ["ended"]
