"""Which jobs a worker takes, in which order, and what becomes of those that it does not take."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.workers import wait_for

from bananas import TaskError
from bananas.inspector import audit, workers
from bananas.task import Call, read_options

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site

    from bananas import Job


async def submit_many(site: Site, count: int, task: str, *args: Any, **options: Any) -> list[Job[Any]]:
    return await site.app.submit_many(Call(task, args, {}, read_options(options)) for _ in range(count))


def order(site: Site) -> list[str]:
    return [line.id for line in site.ledger.lines("start")]


async def state(job: Job[Any]) -> str:
    return (await job.info()).state


async def until(condition: Any, what: str, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not await condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        await asyncio.sleep(0.01)


# --- order ----------------------------------------------------------------------------------------------------------


async def test_priorities_are_strict_and_jobs_of_one_run_in_order_of_their_submit(site: Site) -> None:
    jobs = [await site.app.submit("work", 0, options={"priority": p}) for p in ("low", 700, "normal", "high", 3, "low", "normal", 3)]
    site.start(worker_concurrency=1, burst=True).wait()
    assert order(site) == [jobs[i].id for i in (4, 7, 3, 2, 6, 1, 0, 5)]


async def test_queues_are_served_in_the_order_named_and_none_starves(site: Site) -> None:
    first, second = await submit_many(site, 60, "work", 0, queue="a"), await submit_many(site, 60, "work", 0, queue="b")
    site.start(worker_concurrency=1, worker_routing_keys="a,b", burst=True).wait()
    queues = [name[0] for name in order(site)]
    assert len(queues) == len(first) + len(second)
    assert 50 <= queues[:60].count("a") < 60
    assert set(queues[-40:]) == {"b"}


async def test_queues_are_served_by_weight(site: Site) -> None:
    await submit_many(site, 80, "work", 0, queue="a")
    await submit_many(site, 80, "work", 0, queue="b")
    site.start(worker_concurrency=1, worker_routing_keys="a:3,b:1", burst=True).wait()
    queues = [name[0] for name in order(site)]
    assert 27 <= queues[:40].count("a") <= 33


async def test_a_queue_that_no_worker_names_waits(site: Site) -> None:
    other = await site.app.submit("work", 0, options={"queue": "elsewhere"})
    mine = await site.app.submit("work", 0)
    site.worker()
    await mine.result(timeout=10)
    assert await state(other) == "ready"


# --- modes ----------------------------------------------------------------------------------------------------------


async def test_a_specialized_worker_takes_only_its_priorities(site: Site) -> None:
    low = await submit_many(site, 5, "work", 0, priority="low")
    high = await submit_many(site, 5, "work", 0, priority="high")
    odd = await site.app.submit("work", 0, options={"priority": 7})
    site.worker(worker_mode="specialized", worker_priorities=["high", 7])
    for job in [*high, odd]:
        await job.result(timeout=10)
    assert {await state(job) for job in low} == {"ready"}
    site.worker(worker_mode="specialized", worker_priorities="low")
    for job in low:
        await job.result(timeout=10)


async def test_a_job_specialized_worker_finds_its_task_behind_thousands_of_others(site: Site) -> None:
    others = await submit_many(site, 2_500, "work", 0)
    mine = [await site.app.submit("double", n) for n in range(3)]
    site.worker(worker_mode="job-specialized", worker_job_types="double")
    assert [await job.result(timeout=10) for job in mine] == [0, 2, 4]
    counts = await site.app.queue("default").counts()
    assert (counts.ready, counts.scheduled, counts.running) == (len(others), 0, 0)
    assert order(site) == []


async def test_workers_for_different_tasks_do_not_keep_each_other_asleep(site: Site) -> None:
    site.worker(worker_mode="job-specialized", worker_job_types="double")
    site.worker(worker_mode="job-specialized", worker_job_types="double_sync")
    began = time.monotonic()
    for number in range(10):
        job = await site.app.submit("double" if number % 2 else "double_sync", number)
        assert await job.result(timeout=5) == 2 * number
    assert time.monotonic() - began < 10


async def test_a_scheduler_only_worker_promotes_and_takes_back_but_runs_nothing(site: Site) -> None:
    doomed = site.worker()
    taken = await site.app.submit("follow", str(site.gate()))
    await asyncio.to_thread(wait_for, lambda: site.ledger.lines("start", taken.id), "the start")
    doomed.kill_tree()
    due = await site.app.submit("double", 1, options={"delay": 0.2})
    scheduler = site.worker(worker_mode="scheduler-only")

    async def both_ready() -> bool:
        return {await state(due), await state(taken)} == {"ready"}

    await until(both_ready, "the jobs in ready")
    assert (await taken.info()).crashes == 1
    assert len(site.ledger.lines("start")) == 1
    assert scheduler.stop() == 0


async def test_a_thin_worker_has_five_slots(site: Site) -> None:
    site.worker(worker_mode="thin")
    gate = site.gate()
    jobs = await submit_many(site, 8, "follow", str(gate))
    await asyncio.to_thread(wait_for, lambda: len(order(site)) >= 5, "five starts")
    assert [worker.slots for worker in await workers(site.app)] == [5]
    counts = await site.app.queue("default").counts()
    assert (counts.running, counts.ready) == (5, 3)
    gate.touch()
    for job in jobs:
        await job.result(timeout=10)


async def test_a_mode_without_its_list_is_refused(site: Site) -> None:
    worker = site.start(worker_mode="job-specialized", worker_job_types="no_such_task")
    assert worker.wait() != 0
    assert "no_such_task" in worker.log


# --- two versions of the code ---------------------------------------------------------------------------------------


async def test_a_job_of_a_task_that_a_worker_lacks_is_handed_back_and_run_by_one_that_has_it(site: Site) -> None:
    older = site.worker()
    job = await site.app.submit("only_newer")

    async def handed_back() -> bool:
        return await state(job) == "scheduled"

    await until(handed_back, "the job handed back")
    assert (await job.info()).attempts == 0
    newer = site.worker("tests.apps.newer:app")
    older.send(signal.SIGUSR1)
    assert await job.result(timeout=10) in newer.children()
    assert (await job.info()).attempts == 1
    assert (await audit(site.app)).findings == ()


async def test_a_job_whose_arguments_no_longer_fit_fails_alone(site: Site) -> None:
    site.worker("tests.apps.newer:app")
    old, fine = await site.app.submit("double", 3), await site.app.submit("double", 3, 4)
    assert await fine.result(timeout=10) == 12
    with pytest.raises(TaskError) as caught:
        await old.result(timeout=10)
    assert (caught.value.state, caught.value.attempts) == ("dead", 1)


# --- cron -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disturbed", [False, True], ids=["two workers", "one of them stopped meanwhile"])
async def test_each_tick_fires_exactly_once(site: Site, disturbed: bool) -> None:
    first = site.worker("tests.apps.ticking:app")
    site.worker("tests.apps.ticking:app")

    def ticks() -> list[int]:
        return [int(line.more) for line in site.ledger.lines("tick")]

    if disturbed:
        await asyncio.to_thread(wait_for, lambda: len(ticks()) >= 3, "ticks")
        stopped = [first.pid, *first.children()]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        seen = len(ticks())
        await asyncio.to_thread(wait_for, lambda: len(ticks()) >= seen + 5, "ticks of the other worker")
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    seen = len(ticks())
    await asyncio.to_thread(wait_for, lambda: len(ticks()) >= seen + 10, "ten more ticks", 30)
    newest = max(ticks()) - 1_000
    found = [tick for tick in ticks() if tick <= newest]
    assert len(found) == len(set(found))
    if not disturbed:  # a stopped worker may hold the job of a tick; that one runs again later
        assert sorted(found) == list(range(min(found), max(found) + 1, 200))
