"""How a worker ends: by a signal, by itself, and what becomes of the jobs that run meanwhile."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from tests.support import eventually, is_gone

from bananas.inspector import workers

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site
    from tests.workers import WorkerProcess


async def ended(worker: WorkerProcess, timeout: float = 15.0) -> int:
    return await asyncio.to_thread(worker.wait, timeout)


async def test_sigterm_under_load_lets_running_jobs_finish_and_leaves_the_rest_queued(site: Site) -> None:
    worker, gate = site.worker(worker_concurrency=4), site.gate()
    long_one, _ = await site.running(str(gate))
    jobs = [long_one, *await site.submit_many(300, "work", 0.02)]
    await eventually(lambda: len(site.ledger.lines("end")) > 20, "load")
    worker.send(signal.SIGTERM)
    await eventually(lambda: "stopping" in worker.log, "the stop")
    gate.touch()
    assert await ended(worker) == 0
    assert isinstance(await long_one.result(timeout=1), int)
    verdict = site.ledger.judge(job.id for job in jobs)
    assert verdict.lost
    assert not verdict.ended_twice
    assert verdict.runs == len(jobs) - len(verdict.lost)
    await site.assert_handed_back(*(job for job in jobs if job.id in verdict.lost))
    assert (await site.app.queue("default").counts()).running == 0
    assert await workers(site.app) == []


async def test_jobs_that_outlast_the_shutdown_timeout_go_back_without_an_attempt(site: Site) -> None:
    worker, gate = site.worker(shutdown_timeout=0.3), site.gate()
    started = [await site.running(str(gate), task=task) for task in ("follow", "follow_sync", "follow_isolated")]
    isolated = started[-1][1].pid
    assert isolated not in worker.children()
    worker.send(signal.SIGTERM)
    assert await ended(worker) == 0
    await eventually(lambda: is_gone(isolated), "the end of the isolated process")
    jobs = [job for job, _ in started]
    await site.assert_handed_back(*jobs)
    gate.touch()
    site.start()
    for job in jobs:
        await job.result(timeout=15)
        assert [line.attempt for line in site.ledger.lines("start", job.id)] == [1, 1]
    await site.assert_nothing_left()


async def test_a_second_signal_cancels_what_runs_and_waits_for_no_handler_that_ignores_it(site: Site) -> None:
    worker = site.worker(shutdown_timeout=60)
    polite, _ = await site.running(str(site.gate()))
    stubborn, _ = await site.running(str(site.gate()), task="stubborn")
    worker.send(signal.SIGINT)
    await eventually(lambda: "stopping" in worker.log, "the first signal")
    assert site.ledger.lines("cancelled") == []
    worker.send(signal.SIGINT)
    assert await ended(worker, 10) == 0
    assert site.ledger.lines("cancelled", stubborn.id)
    await site.assert_handed_back(polite, stubborn)


async def test_a_burst_ends_when_nothing_is_ready_or_running_and_its_last_hooks_have_ended(site: Site) -> None:
    jobs = await site.submit_many(50, "work", 0.01)
    last = await site.app.submit("double", 3, options={"headers": {"hook-after": "0.3"}, "priority": "low"})
    assert await ended(site.start(burst=True)) == 0
    verdict = site.ledger.judge(job.id for job in jobs)
    assert (verdict.lost, verdict.runs) == (set(), 50)
    assert site.ledger.hooks(last.id) == ["success 6"]
    assert await site.idle()


async def test_a_burst_whose_processes_are_replaced_goes_on_until_nothing_is_ready(site: Site) -> None:
    jobs = await site.submit_many(40, "work", 0.01)
    assert await ended(site.start(burst=True, max_jobs=5, worker_concurrency=2)) == 0
    verdict = site.ledger.judge(job.id for job in jobs)
    assert (verdict.lost, verdict.runs) == (set(), 40)
    assert await site.idle()


async def test_a_process_is_replaced_after_its_jobs(site: Site) -> None:
    worker = site.worker(max_jobs=20, worker_concurrency=2)
    first = set(worker.children())
    jobs = await site.submit_many(50, "work", 0.01)
    for job in jobs:
        await job.result(timeout=20)
    verdict = site.ledger.judge(job.id for job in jobs)
    assert (verdict.lost, verdict.runs) == (set(), 50)
    starts = site.ledger.lines("start")
    assert first < {line.pid for line in starts}
    assert {line.attempt for line in starts} == {1}
    assert worker.stop() == 0


async def test_a_worker_that_cannot_start_says_why_and_ends(site: Site) -> None:
    workers = [site.start("tests.apps.absent:app"), site.start(worker_mode="job-specialized", worker_job_types=["no_such_task"])]
    assert [await ended(worker) for worker in workers] == [2, 2]
    assert "no module 'tests.apps.absent'" in workers[0].log
    assert "no_such_task" in workers[1].log
