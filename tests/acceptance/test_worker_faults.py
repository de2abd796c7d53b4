"""Workers that are killed, stopped or blocked while they run jobs: who runs the job then, and whose outcome counts."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.workers import Line, kill, state_of, wait_for

from bananas import TaskError, broker
from bananas.inspector import audit, workers

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site

LEASE_S = 1.0
GRACE_S = 0.5


async def started(site: Site, job_id: str, runs: int = 1, timeout: float = 10.0) -> Line:
    """Wait for that run of the job to start."""
    await asyncio.to_thread(wait_for, lambda: len(site.ledger.lines("start", job_id)) >= runs, f"run {runs} of the job", timeout)
    return site.ledger.lines("start", job_id)[runs - 1]


async def assert_nothing_left(site: Site) -> None:
    """Everything has ended, and the audit is clean."""
    queue = site.app.queue("default")
    deadline = time.monotonic() + 10
    while (counts := await queue.counts()).ready + counts.scheduled + counts.running:
        assert time.monotonic() < deadline, f"{counts}, {(await audit(site.app)).findings}"
        await asyncio.sleep(0.02)
    assert (await audit(site.app)).findings == ()


async def test_a_killed_childs_job_runs_again_at_once_with_a_crash_counted_and_no_attempt(site: Site) -> None:
    worker, gate = site.worker(), site.gate()
    job = await site.app.submit("follow", str(gate))
    first = await started(site, job.id)
    killed = time.monotonic()
    kill(first.pid)
    second = await started(site, job.id, 2)
    assert second.at_ns / 1e9 - killed < 5
    assert (second.attempt, second.pid != first.pid, second.fence > first.fence) == (1, True, True)
    info = await job.info()
    assert (info.attempts, info.crashes) == (0, 1)
    gate.touch()
    assert await job.result(timeout=10) == second.pid
    await assert_nothing_left(site)
    assert worker.stop() == 0


async def test_a_killed_childs_job_is_ready_for_another_worker_before_its_lease_ends(site: Site) -> None:
    worker, gate = site.worker(), site.gate()
    job = await site.app.submit("follow", str(gate))
    first = await started(site, job.id)
    other = site.worker()
    kill(first.pid)
    killed = time.monotonic()
    second = await started(site, job.id, 2, timeout=LEASE_S)
    assert second.at_ns / 1e9 - killed < LEASE_S
    assert second.pid in other.children() + worker.children()
    gate.touch()
    await job.result(timeout=10)


async def test_a_killed_tree_is_taken_over_after_lease_and_grace(site: Site) -> None:
    doomed, gate = site.worker(), site.gate()
    jobs = [await site.app.submit("follow", str(gate)) for _ in range(3)]
    for job in jobs:
        await started(site, job.id)
    heir = site.worker()
    doomed.kill_tree()
    killed = time.monotonic()
    gate.touch()
    heirs = heir.children()
    for job in jobs:
        assert await job.result(timeout=10) in heirs
        assert (await job.info()).attempts == 1
    assert LEASE_S * 0.6 < time.monotonic() - killed < LEASE_S + GRACE_S + 2
    await assert_nothing_left(site)


async def test_an_orphaned_child_stops_by_itself_and_hands_its_job_back(site: Site) -> None:
    worker, gate = site.worker(), site.gate()
    job = await site.app.submit("follow", str(gate))
    first = await started(site, job.id)
    kill(worker.pid)
    await asyncio.to_thread(wait_for, lambda: not state_of(first.pid), "the end of the child without a supervisor")
    heir = site.worker()
    gate.touch()
    assert await job.result(timeout=10) in heir.children()
    await assert_nothing_left(site)


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


@pytest.mark.parametrize("who", ["child", "supervisor", "tree"])
async def test_a_worker_stopped_past_its_lease_gives_the_job_up_and_the_second_run_counts(site: Site, who: str) -> None:
    worker, gate = site.worker(), site.gate()
    job = await site.app.submit("follow", str(gate))
    first = await started(site, job.id)
    heir = site.worker()
    stopped = {"child": [first.pid], "supervisor": [worker.pid], "tree": [worker.pid, first.pid]}[who]
    signal_all(stopped, signal.SIGSTOP)
    second = await started(site, job.id, 2)
    assert second.pid in heir.children()
    assert second.fence > first.fence
    signal_all(stopped, signal.SIGCONT)
    await asyncio.to_thread(wait_for, lambda: "ease lost" in worker.log, "word of the lost lease")
    gate.touch()
    assert await job.result(timeout=10) == second.pid
    await assert_nothing_left(site)
    assert [line.pid for line in site.ledger.lines("end", job.id)] == [second.pid]


async def test_a_worker_stopped_past_its_lease_cannot_settle_a_job_that_has_ended_elsewhere(site: Site) -> None:
    worker, gate = site.worker(), site.gate()
    job = await site.app.submit("follow", str(gate))
    first = await started(site, job.id)
    heir = site.worker()
    signal_all([worker.pid, first.pid], signal.SIGSTOP)
    second = await started(site, job.id, 2)
    gate.touch()
    assert await job.result(timeout=10) == second.pid
    signal_all([worker.pid, first.pid], signal.SIGCONT)
    await asyncio.to_thread(wait_for, lambda: "ease lost" in worker.log, "word of the lost lease")
    assert await site.app.job(job.id).result(timeout=1) == second.pid
    assert heir.stop() == 0
    assert await (await site.app.submit("double", 1)).result(timeout=10) == 2  # by the first one, which works on
    await assert_nothing_left(site)


async def test_a_child_stopped_for_less_than_its_lease_keeps_its_job(site: Site) -> None:
    site.worker()
    gate = site.gate()
    job = await site.app.submit("follow", str(gate))
    first = await started(site, job.id)
    site.worker()
    expiry_ms = (await job.info()).lease_expires_ms
    os.kill(first.pid, signal.SIGSTOP)
    time.sleep(LEASE_S / 4)  # noqa: ASYNC251  # how long it is stopped is what is tested
    os.kill(first.pid, signal.SIGCONT)
    while (await job.info()).lease_expires_ms == expiry_ms:
        await asyncio.sleep(0.01)
    gate.touch()
    assert await job.result(timeout=10) == first.pid
    assert len(site.ledger.lines("start", job.id)) == 1


@pytest.mark.parametrize(("task", "seconds"), [("block_loop", 2.5), ("hold_gil", 2.0)])
async def test_a_handler_that_blocks_its_whole_process_beyond_the_lease_keeps_it(site: Site, task: str, seconds: float) -> None:
    site.worker(worker_concurrency=2)
    site.worker(worker_concurrency=2)
    job = await site.app.submit(task, seconds)
    await job.result(timeout=50)
    (start,), (end,) = site.ledger.lines("start", job.id), site.ledger.lines("end", job.id)
    assert (end.at_ns - start.at_ns) / 1e9 > LEASE_S + GRACE_S
    assert (await job.info()).attempts == 1
    await assert_nothing_left(site)


async def test_poison_is_dead_after_three_crashes_alone_and_its_neighbours_are_unharmed(site: Site) -> None:
    await site.app.queue("default").pause()
    innocents = [await site.app.submit("work", 0.05) for _ in range(50)]
    culprit = await site.app.submit("poison")
    await site.app.queue("default").resume()
    site.worker(worker_concurrency=51)
    with pytest.raises(TaskError) as caught:
        await culprit.result(timeout=40)
    assert (caught.value.state, caught.value.error_type, caught.value.attempts) == ("dead", "Poison", 0)
    assert "3 worker processes died" in caught.value.error_message
    for job in innocents:
        assert await job.result(timeout=20) == "done"
        assert (await job.info()).attempts == 1
    verdict = site.ledger.judge(job.id for job in innocents)
    assert not verdict.lost
    assert not verdict.ended_twice
    assert len(site.ledger.lines("start", culprit.id)) <= 4
    await assert_nothing_left(site)


async def test_each_of_several_processes_is_replaced_when_it_dies(site: Site) -> None:
    worker = site.worker(worker_processes=2)
    before = set(worker.children())
    assert len(before) == 2
    doomed = min(before)
    kill(doomed)
    await asyncio.to_thread(wait_for, lambda: len(worker.children()) == 2 and doomed not in worker.children(), "a new process")
    await asyncio.to_thread(worker.ready, 3)

    async def names() -> set[int]:
        return {info.pid for info in await workers(site.app)}

    deadline = time.monotonic() + 10
    while await names() != set(worker.children()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert worker.stop() == 0


async def test_garbage_among_the_leases_is_not_in_the_way_of_taking_over(site: Site) -> None:
    keys = site.app.producer.keys("default")
    gone: Any = broker.plain(int, "ZADD", keys.leases, 1, "0" * 43 + ":abc:1")
    await site.app.client.ask(keys, gone, "spoiling the leases")
    site.worker()
    gate = site.gate()
    gate.touch()
    await (await site.app.submit("follow", str(gate))).result(timeout=10)
    await assert_nothing_left(site)


async def test_processes_that_die_over_and_over_do_not_cost_their_neighbour_its_lease(site: Site) -> None:
    worker, gate = site.worker(worker_processes=3), site.gate()
    job = await site.app.submit("follow", str(gate))
    steady = (await started(site, job.id)).pid
    killed: set[int] = set()

    def kill_the_others() -> bool:
        others = set(worker.children()) - killed - {steady}
        if len(others) == 2:
            for pid in others:
                kill(pid)
            killed.update(others)
        return len(killed) >= 18

    await asyncio.to_thread(wait_for, kill_the_others, "eighteen deaths", 30)
    gate.touch()
    assert await job.result(timeout=10) == steady
    assert site.ledger.lines("untrusted") == []
    assert worker.stop() == 0
