"""The commands for operators as people use them: real processes, their output, and their exit codes; the page's examples among them."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import clean_environment, eventually

import bananas

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
HOSTILE = "[red]bold\x1b[2J\r\nnext\u202e\x07"


def run(site: Site, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(**{name: value for name, value in site.environment.items() if name != "LEDGER"} | variables)
    command = [sys.executable, "-m", "bananas", *arguments]
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)


def lines(site: Site, *arguments: str) -> list[Any]:
    found = run(site, *arguments, "--json")
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


async def dead(site: Site, count: int) -> list[str]:
    """The ids of jobs that died on a real worker."""
    jobs = await site.submit_many(count, "steers", "dead")
    worker = site.worker()

    async def all_dead() -> bool:
        return (await site.app.queue("default").counts()).dead == count

    await eventually(all_dead, "all are dead")
    assert worker.stop() == 0
    return [job.id for job in jobs]


async def test_jobs_are_listed_shown_and_retried(site: Site) -> None:
    ids = await dead(site, 3)
    assert sorted(job["id"] for job in lines(site, "dead")) == sorted(ids)
    shown = run(site, "jobs", "task:steers", "state:dead")
    assert (shown.returncode, len(shown.stdout.splitlines())) == (0, 4)
    assert shown.stdout.startswith("ID\tTASK\tSTATE\t")
    assert "scanned 3 of 3" in shown.stderr
    one = run(site, "job", ids[0])
    assert "dead" in one.stdout
    assert "It is dead since" in one.stdout
    assert lines(site, "errors")[0]["dead"] == 3
    refused = run(site, "jobs", "state:dead", "--retry")
    assert (refused.returncode, "--yes" in refused.stderr) == (2, True)
    assert run(site, "jobs", "state:dead", "--retry", "--dry-run").returncode == 0
    assert len(lines(site, "dead")) == 3
    done = run(site, "jobs", "state:dead", "--retry", "--yes", "--json", BANANAS_OPERATOR="ada")
    assert json.loads(done.stdout) == {"action": "retry", "selected": 3, "done": 3, "left": {}}
    assert (lines(site, "trail")[0]["who"], lines(site, "dead")) == ("ada", [])
    assert len(lines(site, "jobs", "state:ready")) == 3


async def test_running_jobs_and_their_workers_are_seen(site: Site) -> None:
    site.worker(worker_concurrency=1)
    running, _ = await site.running(str(site.gate()))
    waiting = await site.app.submit("double", 1)

    def announced() -> bool:
        return any(worker["running"] == [running.id] for worker in lines(site, "workers"))

    await eventually(announced, "the worker announces what it runs")
    (worker,) = lines(site, "workers")
    assert (worker["slots"], worker["queues"], worker["version"]) == (1, ["default"], bananas.__version__)
    (taken,) = worker["runs"]
    assert (taken["id"], taken["task"], taken["overdue"]) == (running.id, "follow", False)
    born_ms = (await running.info()).born_ms
    assert born_ms is not None
    assert born_ms - 1_000 <= taken["started_ms"] <= time.time() * 1000 + 1_000
    assert worker["memory_bytes"] > 2**20
    assert worker["cpu_percent"] >= 0
    (queue,) = lines(site, "queues")
    assert (queue["running"], queue["ready"], queue["busy"], queue["slots"]) == (1, 1, 1, 1)
    assert "All 1 slot(s)" in run(site, "job", waiting.id, "--why").stdout
    (found,) = lines(site, "jobs", f"worker:{worker['host']}")
    assert found["id"] == running.id
    assert [reason["kind"] for reason in lines(site, "job", running.id, "--why")[0]] == ["running"]
    assert json.loads(run(site, "jobs", "state:running", "--cancel", "--yes", "--json").stdout)["done"] == 1

    async def gone() -> bool:
        return (await running.info()).state == "cancelled"

    await eventually(gone, "the running job is cancelled")


async def test_why_with_workers_that_do_not_take_it(site: Site) -> None:
    site.worker(worker_mode="specialized", worker_priorities="high")
    job = await site.app.submit("double", 1)
    unknown = await site.app.submit("nobody_knows_it", options={"priority": "high"})

    async def handed_back() -> bool:
        return (await unknown.info()).state == "scheduled"

    await eventually(handed_back, "the worker hands the unknown job back")
    assert "are specialized" in run(site, "job", job.id, "--why").stdout

    def said() -> bool:  # not in the moments in which it is ready again
        told = run(site, "job", unknown.id, "--why").stdout
        return all(each in told for each in ("No worker that took it knew task nobody_knows_it", "none knows task nobody_knows_it"))

    await eventually(said, "both reasons are told", 30)


async def test_a_cron_entry_is_paused_resumed_and_run(site: Site) -> None:
    assert run(site, "cron", "run", "sweep").returncode == 1
    site.worker("tests.apps.sweeping:app")
    await eventually(lambda: lines(site, "cron"), "the entry")
    assert run(site, "cron", "pause", "sweep").stdout == "cron entry sweep is paused\n"
    assert run(site, "cron", "pause", "sweep").stdout == "cron entry sweep was paused already\n"
    (paused,) = lines(site, "cron")
    assert (paused["paused"], paused["next_ms"], paused["last_id"]) == (True, None, "")
    ran = run(site, "cron", "--namespace", site.namespace, "run", "sweep", "--queue", "default")
    assert ran.returncode == 0, ran.stderr
    assert await site.app.job(ran.stdout.split()[1]).result(timeout=10) == "swept"
    assert "paused" in run(site, "cron").stdout
    assert run(site, "cron", "tests.apps.sweeping:app", "resume", "sweep").stdout == "cron entry sweep is resumed\n"
    (resumed,) = lines(site, "cron")
    assert (resumed["paused"], resumed["last_id"], resumed["missed_ticks"]) == (False, ran.stdout.split()[1], 0)
    assert run(site, "cron", "pause", "sweep", "--queue", "other").returncode == 1
    assert [deed["action"] for deed in lines(site, "trail")] == ["resume cron", "run cron", "pause cron"]


async def test_queues_are_paused_resumed_and_purged(site: Site) -> None:
    await site.submit_many(2, "double", 1)
    assert run(site, "queues", "pause", "default").stdout == "queue default is paused\n"
    assert lines(site, "queues")[0]["paused"]
    assert run(site, "queues", "resume", "default").stdout == "queue default is resumed\n"
    assert run(site, "queues", "purge", "default").returncode == 2
    assert run(site, "queues", "purge", "default", "--yes").stdout == "2 job(s) of queue default are purged\n"
    assert [deed["action"] for deed in lines(site, "trail")] == ["purge", "resume", "pause"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("jobs", "tsk:x"), 2, "did you mean task:?"),
        (("jobs", "state:dead", "--retry", "--cancel", "--yes"), 2, "one act at a time"),
        (("jobs", "--priority", "urgent"), 2, "priority"),
        (("job", "nonsense"), 2, "is not a job id"),
        (("job", "default." + "0" * 40 + "1f4"), 1, "there is no job"),
        (("queues", "pause", "a b"), 2, "a b"),
        (("jobs", "--cursor", "x"), 2, "no cursor"),
    ],
)
def test_what_is_wrong_ends_with_its_exit_code(site: Site, arguments: tuple[str, ...], code: int, says: str) -> None:
    ended = run(site, *arguments)
    assert (ended.returncode, says in ended.stderr) == (code, True), ended.stderr
    assert "Traceback" not in ended.stderr


async def test_tags_are_shown_and_found(site: Site) -> None:
    job = await site.app.submit("double", 1, options={"tags": ["vip", "customer:42"]})
    await site.app.submit("double", 2)
    assert re.search("^tags: +vip, customer:42$", run(site, "job", job.id).stdout, re.MULTILINE)
    found = [json.loads(line) for line in run(site, "jobs", "tag:customer:*", "--json").stdout.splitlines()]
    assert [(each["id"], each["tags"]) for each in found] == [(job.id, ["vip", "customer:42"])]


async def test_progress_and_log_are_shown(site: Site) -> None:
    gate = site.gate()
    site.worker("tests.apps.isolated:app")
    job = await site.app.submit("tells", str(gate))
    await eventually(lambda: "waits" in run(site, "job", job.id).stdout, "the log")
    shown = run(site, "job", job.id).stdout
    assert re.search("^progress: +50% half$", shown, re.MULTILINE)
    assert re.search("^....-..-.. ..:..:.. UTC, attempt 1: [0-9]+ waits$", shown, re.MULTILINE)
    told = json.loads(run(site, "job", job.id, "--json").stdout)["job"]
    assert (told["progress"], told["progress_text"], [set(line) for line in told["log"]]) == (0.5, "half", [{"at_ms", "attempt", "text"}])
    gate.touch()
    assert await job.result(timeout=15) == "told"


async def test_hostile_text_is_shown_as_text(site: Site) -> None:
    job = await site.app.submit("double", HOSTILE, options={"headers": {"x": HOSTILE}, "unique": HOSTILE})
    for arguments in (("jobs",), ("job", job.id), ("jobs", "--json"), ("job", job.id, "--json")):
        shown = run(site, *arguments).stdout
        assert "[red]bold" in shown
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown), arguments
    assert json.loads(run(site, "jobs", "--json").stdout)["args"] == [HOSTILE]
    assert b"[red]bold" in at_terminal(site, "jobs")
    assert b"\x1b[2J" not in at_terminal(site, "jobs")


def at_terminal(site: Site, *arguments: str, keys: bytes = b"", until: bytes = b"") -> bytes:
    """What a command writes to a terminal; the keys are pressed once it wrote `until`."""
    master, slave = pty.openpty()
    environment = clean_environment(
        **{name: value for name, value in site.environment.items() if name != "LEDGER"}, TERM="xterm", COLUMNS="200"
    )
    process = subprocess.Popen([sys.executable, "-m", "bananas", *arguments], env=environment, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    written, deadline, pressed = b"", time.monotonic() + 30, not keys
    try:
        while time.monotonic() < deadline:
            if not select.select([master], [], [], 0.1)[0]:
                if process.poll() is not None:
                    break
                continue
            try:
                written += os.read(master, 65_536)
            except OSError:  # the other side is closed
                break
            if not pressed and until in written:
                os.write(master, keys)
                pressed = True
        assert process.wait(10) in (0, 1)
    finally:
        process.kill()
        process.wait()
        os.close(master)
    return written


async def test_a_terminal_is_asked_before_an_act(site: Site) -> None:
    await site.submit_many(2, "double", 1)
    assert b"nothing was done" in at_terminal(site, "jobs", "state:ready", "--cancel", keys=b"n\n", until=b"[y/N]")
    assert len(lines(site, "jobs")) == 2
    assert b"2 of 2 done" in at_terminal(site, "jobs", "state:ready", "--cancel", keys=b"y\n", until=b"[y/N]")
    assert lines(site, "jobs") == []


LINES = PAGE.read_text(encoding="utf-8").splitlines()
EXAMPLES = [
    line.partition("#")[0].strip() for line in LINES if line.startswith("bananas ") and not line.startswith("bananas top  ")
]  # by keys


@pytest.mark.parametrize("example", EXAMPLES)
async def test_the_examples_of_the_page_run(site: Site, example: str) -> None:
    if "sweep" in example:  # it is about a cron entry
        site.worker("tests.apps.sweeping:app")
        await eventually(lambda: lines(site, "cron"), "the entry")
    elif "$" in example:  # it is about a worker, or what it runs
        site.worker()
        running, _ = await site.running(str(site.gate()))
        await eventually(lambda: lines(site, "workers"), "a worker in the registry")
        example = example.replace("$BOOT", lines(site, "workers")[0]["boot"]).replace("$ID", running.id)
    else:
        await site.app.submit("double", 1)
    ended = run(site, *shlex.split(example)[1:])
    assert ended.returncode == 0, ended.stderr


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) >= 17


def test_every_qualifier_and_reason_is_on_the_page() -> None:
    from typing import get_args

    from bananas.operate.query import NAMES
    from bananas.operate.why import Kind

    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in NAMES if not re.search(rf"`{name}\b", text)] == []
    assert [kind for kind in get_args(Kind) if f"`{kind}`" not in text] == []
