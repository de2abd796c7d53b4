"""Workers beside each other: of two versions of the code, one that only schedules, and several that fire the same cron entry."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest
from tests.support import eventually, kill

from bananas import TaskError

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site


async def test_a_new_version_takes_over_from_an_old_one_that_is_made_quiet(site: Site) -> None:
    older, gate = site.worker(), site.gate()
    new, running = await site.app.submit("only_newer"), await site.running(str(gate))

    async def handed_back() -> bool:
        info = await new.info()
        return (info.state, info.attempts) == ("scheduled", 0)

    await eventually(handed_back, "a job of an unknown task handed back")
    older.send(signal.SIGUSR1)
    await eventually(lambda: "quiet" in older.log, "quiet")
    late, unfit = await site.app.submit("whoami"), await site.app.submit("double", 3)
    fitting = await site.app.submit("double", 3, 4)
    gate.touch()
    assert await running[0].result(timeout=10) in older.children(), "what runs may finish"
    assert (await late.info()).state == "ready", "a quiet worker claims nothing"
    newer = site.worker("tests.apps.newer:app")
    assert await late.result(timeout=10) in newer.children()
    assert await new.result(timeout=10) in newer.children()
    assert (await new.info()).attempts == 1
    assert await fitting.result(timeout=10) == 12
    with pytest.raises(TaskError) as caught:
        await unfit.result(timeout=10)
    assert (caught.value.state, caught.value.attempts) == ("dead", 1), "arguments that no longer fit fail that job alone"
    await site.assert_nothing_left()
    assert older.process.poll() is None
    began = time.monotonic()
    assert [older.stop(), newer.stop()] == [0, 0]
    assert time.monotonic() - began < 4, "idle workers end at once"


async def test_a_process_that_replaces_another_of_a_quiet_worker_is_quiet_too(site: Site) -> None:
    worker, gate = site.worker(), site.gate()
    running = await site.running(str(gate))
    worker.send(signal.SIGUSR1)
    await eventually(lambda: "quiet" in worker.log, "quiet")
    kill(running[1].pid)
    await eventually(lambda: worker.log.count("quiet") >= 2, "its replacement, quiet")
    late = await site.app.submit("double", 2)
    gate.touch()
    assert await (await site.app.submit("double", 1, options={"queue": "other"})).cancel()
    newer = site.worker()
    assert await late.result(timeout=10) == 4
    assert {line.pid for line in site.ledger.lines("start")} <= {running[1].pid, *newer.children()}
    assert [worker.stop(), newer.stop()] == [0, 0]


async def test_a_scheduler_only_worker_promotes_and_takes_back_but_runs_nothing(site: Site) -> None:
    doomed = site.worker()
    taken, _ = await site.running(str(site.gate()))
    doomed.kill_tree()
    due = await site.app.submit("double", 1, options={"delay": 0.2})
    scheduler = site.worker(worker_mode="scheduler-only")

    async def both_ready() -> bool:
        return {(await due.info()).state, (await taken.info()).state} == {"ready"}

    await eventually(both_ready, "the jobs in ready")
    assert (await taken.info()).crashes == 1
    assert len(site.ledger.lines("start")) == 1
    assert scheduler.stop() == 0


async def test_each_tick_fires_exactly_once_also_while_one_of_two_workers_is_stopped(site: Site) -> None:
    first, _ = site.workers(2, "tests.apps.ticking:app")

    def jobs() -> dict[int, set[str]]:
        """The jobs of each tick that have run. One that ran twice, because its worker was stopped, is one."""
        found: dict[int, set[str]] = {}
        for line in site.ledger.lines("tick"):
            found.setdefault(int(line.more), set()).add(line.id)
        return found

    async def more(count: int) -> int:
        """The newest tick, when so many have come since."""
        seen = len(jobs())
        await eventually(lambda: len(jobs()) >= seen + count, f"{count} more ticks", 30)
        return max(jobs())

    await more(10)
    stopped = [first.pid, *first.children()]
    for pid in stopped:
        kill(pid, signal.SIGSTOP)
    await more(10)
    for pid in stopped:
        kill(pid, signal.SIGCONT)
    ticks = range(min(jobs()), await more(10) + 1, 100)
    await eventually(lambda: set(ticks) <= jobs().keys(), "every tick")
    assert all(len(ids) == 1 for ids in jobs().values())
