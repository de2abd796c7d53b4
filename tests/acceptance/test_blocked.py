"""What is logged of handlers that block the event loop, and that nothing is logged of those that do not."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.apps import blocking
from tests.support import eventually, kill

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site
    from tests.workers import WorkerProcess

TARGET = "tests.apps.blocking:app"
BLOCKED, OVER = "the event loop is blocked", "the event loop turns again"
SOURCE = Path(blocking.__file__).read_text(encoding="utf-8").splitlines()


def line_of(mark: str) -> int:
    (number,) = [number for number, line in enumerate(SOURCE, 1) if line.endswith(f"# {mark}")]
    return number


def told(worker: WorkerProcess, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in worker.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def start(site: Site, **settings: Any) -> WorkerProcess:
    return site.worker(TARGET, **{"log_format": "json", "blocked_loop_warning": 0.4} | settings)


@pytest.mark.parametrize(("task", "mark"), [("spins", "spinning"), ("sleeps", "sleeping"), ("matches", "matching")])
async def test_who_blocks_the_loop_is_told_once_with_place_and_job_and_again_when_it_is_over(site: Site, task: str, mark: str) -> None:
    worker = start(site)
    job = await site.app.submit(task, 1.5)
    await job.result(timeout=50)
    await eventually(lambda: told(worker, OVER), "that the loop turns again")
    first, over = told(worker, BLOCKED)[-1], told(worker, OVER)[-1]
    assert f'blocking.py", line {line_of(mark)}, in {task}' in first["stack"]
    assert f"blocking.py:{line_of(mark)} in {task}" in first["where"]
    assert "runner.py" not in first["stack"]
    assert (first["job"], first["task"], first["level"]) == (job.id, task, "warning")
    assert (over["job"], over["task"]) == (job.id, task)
    assert over["seconds"] >= first["seconds"] > 0.4
    if task != "matches":  # which tries shorter ones first, each of which may be long enough
        assert (len(told(worker, BLOCKED)), len(told(worker, OVER))) == (1, 1)
    assert worker.stop() == 0


async def test_who_holds_the_gil_in_c_is_told_while_it_lasts(site: Site) -> None:
    """It uses no processor time, and the watching thread cannot run: the supervisor has the process write its stack."""
    worker = start(site)
    job = await site.app.submit("naps_in_c", 4.0)
    await eventually(lambda: f"line {line_of('napping')} in naps_in_c" in worker.log, "the stack")
    assert "the GIL is held in C" in worker.log
    await job.result(timeout=20)
    assert worker.log.count("the GIL is held in C") == 1
    assert worker.stop() == 0


async def test_nothing_is_told_of_handlers_that_take_long_elsewhere(site: Site) -> None:
    worker = start(site)
    jobs = [await site.app.submit(task, 2.0) for task in ("follows", "follows_sync")]
    for job in jobs:
        await job.result(timeout=20)
    assert "blocked" not in worker.log
    assert worker.stop() == 0


@pytest.mark.parametrize("whole", [False, True])
async def test_nothing_is_told_of_a_process_that_was_stopped_and_goes_on(site: Site, whole: bool) -> None:
    worker = start(site, worker_heartbeat_file=str(site.folder / "heartbeat"))
    child = worker.children()[0]
    pids = [worker.pid, child] if whole else [child]
    for pid in pids:
        kill(pid, signal.SIGSTOP)
    until = time.monotonic() + 2.5  # no process of theirs can say that this has passed
    await eventually(lambda: time.monotonic() > until)
    for pid in reversed(pids):
        kill(pid, signal.SIGCONT)
    for _ in range(3):
        await (await site.app.submit("follows", 0.3)).result(timeout=20)
    assert "blocked" not in worker.log
    assert "GIL" not in worker.log
    assert worker.stop() == 0


async def test_nothing_is_told_where_that_is_off(site: Site) -> None:
    worker = start(site, blocked_loop_warning=0)
    await (await site.app.submit("spins", 1.0)).result(timeout=20)
    await (await site.app.submit("follows", 0.1)).result(timeout=20)
    assert "blocked" not in worker.log
    assert worker.stop() == 0
