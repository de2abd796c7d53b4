"""How a worker ends: by a signal, by itself, and what becomes of the jobs that run meanwhile."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

from tests.workers import state_of, wait_for

from bananas.inspector import audit, workers

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site
    from tests.workers import WorkerProcess


async def started(site: Site, job_id: str) -> None:
    await asyncio.to_thread(wait_for, lambda: site.ledger.lines("start", job_id), "the start of the job")


async def ended(worker: WorkerProcess, timeout: float = 15.0) -> int:
    return await asyncio.to_thread(worker.wait, timeout)


async def test_sigterm_under_load_lets_running_jobs_finish_and_leaves_the_rest_queued(site: Site) -> None:
    worker, gate = site.worker(worker_concurrency=4), site.gate()
    long_one = await site.app.submit("follow", str(gate))
    await started(site, long_one.id)
    jobs = [await site.app.submit("work", 0.02) for _ in range(300)]
    await asyncio.to_thread(wait_for, lambda: len(site.ledger.lines("end")) > 20, "load")
    worker.send(signal.SIGTERM)
    await asyncio.to_thread(wait_for, lambda: "stopping" in worker.log, "the stop")
    gate.touch()
    assert await ended(worker) == 0
    assert isinstance(await long_one.result(timeout=1), int)
    verdict = site.ledger.judge(job.id for job in [*jobs, long_one])
    counts = await site.app.queue("default").counts()
    assert (counts.running, counts.ready) == (0, len(verdict.lost))
    assert counts.ready > 0
    assert not verdict.ended_twice
    assert len(site.ledger.lines("start")) == len(site.ledger.lines("end"))
    assert (await audit(site.app)).findings == ()
    assert await workers(site.app) == []


async def test_a_job_that_outlasts_the_shutdown_timeout_goes_back_without_an_attempt(site: Site) -> None:
    worker, gate = site.worker(shutdown_timeout=0.3), site.gate()
    job = await site.app.submit("follow", str(gate))
    await started(site, job.id)
    worker.send(signal.SIGTERM)
    assert await ended(worker) == 0
    info = await job.info()
    assert (info.state, info.attempts, info.crashes) == ("ready", 0, 0)
    gate.touch()
    site.worker()
    await job.result(timeout=10)
    assert [line.attempt for line in site.ledger.lines("start", job.id)] == [1, 1]
    assert (await audit(site.app)).findings == ()


async def test_a_second_signal_cancels_what_runs(site: Site) -> None:
    worker = site.worker(shutdown_timeout=60)
    job = await site.app.submit("follow", str(site.gate()))
    await started(site, job.id)
    worker.send(signal.SIGINT)
    await asyncio.to_thread(wait_for, lambda: "stopping" in worker.log, "the first signal")
    worker.send(signal.SIGINT)
    assert await ended(worker, 10) == 0
    info = await job.info()
    assert (info.state, info.attempts, info.crashes) == ("ready", 0, 0)


async def test_a_handler_that_ignores_its_cancellation_does_not_hold_up_the_end(site: Site) -> None:
    worker = site.worker(shutdown_timeout=0.2)
    job = await site.app.submit("stubborn", str(site.gate()))
    await started(site, job.id)
    worker.send(signal.SIGTERM)
    assert await ended(worker) == 0
    info = await job.info()
    assert (info.state, info.attempts, info.crashes) == ("ready", 0, 0)
    assert (await audit(site.app)).findings == ()


async def test_a_sync_handler_that_does_not_end_does_not_hold_up_the_end(site: Site) -> None:
    worker = site.worker(shutdown_timeout=0.2)
    job = await site.app.submit("follow_sync", str(site.gate()))
    await started(site, job.id)
    worker.send(signal.SIGTERM)
    assert await ended(worker) == 0
    info = await job.info()
    assert (info.state, info.attempts, info.crashes) == ("ready", 0, 0)


async def test_isolated_processes_end_with_their_worker(site: Site) -> None:
    worker = site.worker(shutdown_timeout=0.2)
    job = await site.app.submit("follow_isolated", str(site.gate()))
    await started(site, job.id)
    (start,) = site.ledger.lines("start", job.id)
    worker.send(signal.SIGTERM)
    assert await ended(worker) == 0
    await asyncio.to_thread(wait_for, lambda: not state_of(start.pid), "the end of the isolated process")
    assert (await job.info()).state == "ready"


async def test_isolated_processes_end_when_their_worker_is_killed(site: Site) -> None:
    worker = site.worker()
    pid = await (await site.app.submit("pid_isolated")).result(timeout=10)
    worker.kill_tree_but(pid)
    await asyncio.to_thread(wait_for, lambda: not state_of(pid), "the end of the isolated process")


async def test_sigusr1_makes_a_worker_quiet(site: Site) -> None:
    worker, gate = site.worker(), site.gate()
    job = await site.app.submit("follow", str(gate))
    await started(site, job.id)
    worker.send(signal.SIGUSR1)
    await asyncio.to_thread(wait_for, lambda: "quiet" in worker.log, "quiet")
    late = await site.app.submit("work", 0)
    gate.touch()
    await job.result(timeout=10)
    assert (await late.info()).state == "ready"
    heir = site.worker()
    await late.result(timeout=5)
    assert site.ledger.lines("start", late.id)[0].pid in heir.children()
    assert worker.process.poll() is None
    assert worker.stop() == 0


async def test_a_burst_ends_when_nothing_is_ready_or_running(site: Site) -> None:
    jobs = [await site.app.submit("work", 0.01) for _ in range(50)]
    worker = site.start(burst=True)
    assert await ended(worker) == 0
    verdict = site.ledger.judge(job.id for job in jobs)
    assert (verdict.lost, verdict.runs) == (set(), 50)
    counts = await site.app.queue("default").counts()
    assert counts.ready + counts.running == 0


async def test_a_process_is_replaced_after_its_jobs(site: Site) -> None:
    worker = site.worker(max_jobs=20, worker_concurrency=2)
    first = set(worker.children())
    jobs = [await site.app.submit("work", 0.01) for _ in range(100)]
    for job in jobs:
        await job.result(timeout=20)
    verdict = site.ledger.judge(job.id for job in jobs)
    assert (verdict.lost, verdict.runs) == (set(), 100)
    pids = {line.pid for line in site.ledger.lines("start")}
    assert first < pids
    assert all((line.attempt == 1) for line in site.ledger.lines("start"))
    assert worker.stop() == 0


async def test_a_worker_whose_app_cannot_be_imported_says_so_and_ends(site: Site) -> None:
    worker = site.start("tests.apps.absent:app")
    assert await ended(worker) != 0
    assert "no module 'tests.apps.absent'" in worker.log


async def test_an_idle_worker_ends_at_once(site: Site) -> None:
    worker = site.worker()
    began = time.monotonic()
    worker.send(signal.SIGTERM)
    assert await ended(worker) == 0
    assert time.monotonic() - began < 2
