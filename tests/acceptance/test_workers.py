"""Workers as users run them: real processes, real signals, a real server."""

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.acceptance.workers import Line, WorkerProcess, check, ledger
from tests.support import eventually

from bananas import Bananas, ResultsDisabled, TaskError
from bananas.inspector import audit
from bananas.server import PrivateServer, find_server_binary

_names = itertools.count()
Start = Callable[..., WorkerProcess]


@pytest.fixture
def namespace() -> str:
    return f"workers{next(_names)}"


@pytest.fixture
async def shop(server: PrivateServer, namespace: str) -> AsyncIterator[Bananas]:
    made = Bananas(server.url, namespace=namespace)
    yield made
    await made.close()


@pytest.fixture
def start(server: PrivateServer, namespace: str, tmp_path: Path) -> Iterator[Start]:
    """Start a worker; all are gone after the test."""
    started: list[WorkerProcess] = []

    def call(**settings: Any) -> WorkerProcess:
        started.append(WorkerProcess(tmp_path, server.url, namespace, **settings))
        return started[-1]

    yield call
    for worker in started:
        worker.__exit__()


async def running(job: Any) -> bool:
    return (await job.info()).state == "running"


async def empty(app: Bananas) -> bool:
    counts = await app.queue("default").counts()
    return counts.ready + counts.scheduled + counts.running == 0


def test_the_checker_finds_a_lost_and_a_duplicated_job() -> None:
    lines = [Line("start", "a", 1, 1), Line("end", "a", 1, 1), Line("start", "a", 1, 2), Line("start", "b", 1, 1), Line("end", "x", 1, 1)]
    verdict = check({"a", "b"}, lines)
    assert (verdict.lost, verdict.ghosts, verdict.duplicate_runs) == ({"b"}, {"x"}, 1)


async def test_nothing_is_lost_while_workers_are_killed(shop: Bananas, start: Start, tmp_path: Path) -> None:
    from bananas.task import Call

    workers = [start(cron_scheduler_enabled=False), start(cron_scheduler_enabled=False)]
    jobs = await shop.submit_many(Call("work", (5,), {}) for _ in range(2_000))
    submitted = {job.id for job in jobs}
    turns, kills = itertools.cycle(workers), 0
    deadline = time.monotonic() + 60
    next_kill = time.monotonic() + 0.3
    while not await empty(shop):
        assert time.monotonic() < deadline, check(submitted, ledger(tmp_path))
        if time.monotonic() >= next_kill:
            kills += next(turns).kill_child()
            next_kill = time.monotonic() + 0.3
        await asyncio.sleep(0.02)
    assert kills > 0
    verdict = check(submitted, ledger(tmp_path))
    assert (verdict.lost, verdict.ghosts) == (set(), set())
    assert (await audit(shop)).clean
    assert (await shop.queue("default").counts()).dead == 0
    assert [worker.stop() for worker in workers] == [0, 0]


async def test_a_job_of_a_killed_machine_runs_elsewhere(shop: Bananas, start: Start) -> None:
    first = start()
    job = await shop.submit("forever")
    await eventually(lambda: running(job))
    fence = (await job.info()).fence
    first.kill_all()
    start()

    async def taken_over() -> bool:
        info = await job.info()
        return info.state == "running" and info.fence != fence and info.crashes == 1 and info.attempts == 0

    await eventually(taken_over, 10)
    assert await job.cancel() is True
    with pytest.raises(TaskError, match="cancelled"):
        await job.result(timeout=10)


async def test_a_blocked_event_loop_keeps_its_lease(shop: Bananas, start: Start, tmp_path: Path) -> None:
    start()
    start()
    job = await shop.submit("block", 2.5)
    assert await job.result(timeout=20) == "done"
    assert [line.what for line in ledger(tmp_path) if line.job == job.id] == ["start", "end"]


async def test_a_stopped_worker_loses_its_lease_and_its_late_outcome(shop: Bananas, start: Start, tmp_path: Path) -> None:
    import os

    first = start()
    job = await shop.submit("forever")
    await eventually(lambda: running(job))
    fence = (await job.info()).fence
    for pid in first.children():
        os.kill(pid, signal.SIGSTOP)
    start()

    async def elsewhere() -> bool:
        info = await job.info()
        return info.state == "running" and info.fence != fence

    await eventually(elsewhere, 15)
    for pid in first.children():
        os.kill(pid, signal.SIGCONT)
    await job.cancel()
    with pytest.raises(TaskError, match="cancelled"):
        await job.result(timeout=10)
    assert first.stop() == 0


async def test_sigterm_hands_a_long_job_back_without_an_attempt(shop: Bananas, start: Start) -> None:
    worker = start(shutdown_timeout=0.3)
    job = await shop.submit("forever")
    await eventually(lambda: running(job))
    assert worker.stop() == 0
    info = await job.info()
    assert (info.state, info.attempts, info.crashes) == ("ready", 0, 0)
    assert (await audit(shop)).clean


async def test_a_poison_dies_alone_and_its_neighbours_live(shop: Bananas, start: Start) -> None:
    bad = await shop.submit("poison")
    jobs = [await shop.submit("work", 5) for _ in range(40)]
    start()
    async for job in shop.as_completed(jobs, timeout=40):
        assert await job.result() == 5
    with pytest.raises(TaskError, match="died while they ran this job alone"):
        await bad.result(timeout=40)
    assert (await bad.info()).crashes >= 3


async def test_a_task_that_a_worker_does_not_know_waits_for_one_that_does(shop: Bananas, start: Start) -> None:
    start()
    job = await shop.submit("of_the_next_version")

    async def handed_back() -> bool:
        return (await job.info()).state == "scheduled"

    await eventually(handed_back)
    assert (await job.info()).attempts == 0


async def test_specialised_workers_leave_other_jobs_queued(shop: Bananas, start: Start) -> None:
    low = await shop.submit("double", 1, options={"priority": "low"})
    other = await shop.submit("work", 1, options={"priority": "high"})
    mine = await shop.submit("double", 2, options={"priority": "high"})
    by_task = start(worker_mode="job-specialized", worker_job_types="double", cron_scheduler_enabled=False)
    assert [await low.result(timeout=10), await mine.result(timeout=10)] == [2, 4]
    assert (await other.info()).state == "ready"
    assert by_task.stop() == 0
    low = await shop.submit("double", 1, options={"priority": "low"})
    start(worker_mode="specialized", worker_priorities="high", cron_scheduler_enabled=False)
    assert await other.result(timeout=10) == 1
    assert (await low.info()).state == "ready"


async def test_burst_ends_when_nothing_is_ready(shop: Bananas, start: Start) -> None:
    jobs = [await shop.submit("double", number) for number in range(50)]
    worker = start(burst=True, cron_scheduler_enabled=False)
    assert worker.process.wait(20) == 0
    assert [await job.result(timeout=1) for job in jobs] == [2 * number for number in range(50)]


async def test_priorities_are_strict_and_first_in_first_out(shop: Bananas, start: Start, tmp_path: Path) -> None:
    jobs = [await shop.submit("work", 0, options={"priority": priority}) for priority in ("low", "normal", "high", "normal", 7)]
    expected = [jobs[index].id for index in (4, 2, 1, 3, 0)]
    start(worker_concurrency=1, burst=True, cron_scheduler_enabled=False).process.wait(20)
    assert [line.job for line in ledger(tmp_path) if line.what == "start"] == expected


async def test_a_handler_may_fail_steer_time_out_or_be_isolated(shop: Bananas, start: Start) -> None:
    start(cron_scheduler_enabled=False)

    async def value(task: str, *args: Any) -> Any:
        return await (await shop.submit(task, *args)).result(timeout=15)

    assert await value("flaky", 2) == 3
    assert [await value("steered", "later"), await value("steered", "snooze")] == ["later 2", "snooze 1"]
    assert await value("double", 4) == 8
    first, second = await value("isolated", "pid"), await value("isolated", "pid")
    assert first == second, "the pool is warm"
    expected = {
        ("steered", "discard"): "discarded",
        ("steered", "dead"): "hopeless",
        ("flaky", 9): "not yet",
        ("slow",): "timeout of 0.1",
        ("slow_sync",): "timeout of 0.1",
        ("isolated", "hang"): "timeout of 0.5",
        ("isolated", "exit"): "exit code 3",
        ("isolated", "fail"): "KeyError",
        ("double", "x"): "do not fit",
    }
    for call, text in expected.items():
        with pytest.raises(TaskError, match=text):
            await value(*call)
    job = await shop.submit("silent", options={"result_ttl": 0})
    with pytest.raises(ResultsDisabled):
        await job.result(timeout=10)
    dead = await shop.queue("default").dead.list()
    assert len(dead) == 8
    assert dead[-1].errors[-1].message
    await shop.queue("default").dead.replay(dead[0].id)
    assert await shop.queue("default").dead.purge() >= 7
    assert (await audit(shop)).clean


async def test_delays_expiry_and_cancel_hold(shop: Bananas, start: Start) -> None:
    expired = await shop.submit("double", 1, options={"expires_in": 0.001})
    began = time.monotonic()
    delayed = await shop.submit("double", 2, options={"delay": 0.4})
    start(cron_scheduler_enabled=False)
    with pytest.raises(TaskError, match="expired"):
        await expired.result(timeout=10)
    assert await delayed.result(timeout=10) == 4
    assert time.monotonic() - began >= 0.4
    job = await shop.submit("forever")
    await eventually(lambda: running(job))
    assert await job.cancel() is True
    with pytest.raises(TaskError, match="cancelled"):
        await job.result(timeout=5)
    assert await job.cancel() is False


async def test_a_thread_that_overruns_is_reported_until_it_returns(shop: Bananas, start: Start) -> None:
    start(cron_scheduler_enabled=False)
    job = await shop.submit("slow_sync", 3.0)

    async def overdue() -> bool:
        info = await job.info()
        return info.overdue and info.worker is not None and ":" in info.worker

    await eventually(overdue, 10)
    with pytest.raises(TaskError, match=r"timeout of 0\.1"):
        await job.result(timeout=10)


async def test_cron_ticks_fire_once_however_many_workers_run(shop: Bananas, start: Start, tmp_path: Path) -> None:
    start()
    start()

    async def enough() -> bool:
        return sum(line.what == "tick" for line in ledger(tmp_path)) >= 8

    began = time.time()
    await eventually(enough, 20)
    ticks = [line.job for line in ledger(tmp_path) if line.what == "tick"]
    assert len(set(ticks)) == len(ticks)
    assert len(ticks) <= (time.time() - began) / 0.2 + 3


async def test_garbage_in_a_body_is_dead_with_the_reason_and_the_loop_goes_on(shop: Bananas, start: Start) -> None:
    from bananas.broker import NewJob, enqueue
    from bananas.keys import id_suffix, new_id

    keys = shop.producer.keys("default")
    bodies = [b"", b"\x01", b"\x07what", b"\x01\x93\xa1a", b"\x01" + b"\x91" * 1_000]
    jobs = [NewJob(new_id(id_suffix("double", 500)), body) for body in bodies]
    await shop.client.ask(keys, enqueue(keys, "garbage", 1, jobs), "test")
    start(cron_scheduler_enabled=False)
    assert await (await shop.submit("double", 3)).result(timeout=10) == 6
    dead = await shop.queue("default").dead.list()
    assert sorted(info.errors[-1].type for info in dead) == ["Undecodable"] * len(bodies)


async def test_a_server_that_was_killed_and_restarted_loses_nothing(tmp_path: Path, server_kind: str, namespace: str) -> None:
    with PrivateServer(tmp_path / "data", binary=find_server_binary(server_kind), appendonly=True) as private:
        app = Bananas(private.url, namespace=namespace, call_timeout=10)
        from bananas.task import Call

        with WorkerProcess(tmp_path, private.url, namespace, cron_scheduler_enabled=False) as worker:
            jobs = await app.submit_many(Call("work", (5,), {}) for _ in range(500))
            await eventually(lambda: _some_ended(tmp_path))
            private.kill()
            private.restart()
            more = await app.submit_many(Call("work", (1,), {}) for _ in range(50))
            await eventually(lambda: empty(app), 30)
            verdict = check({job.id for job in [*jobs, *more]}, ledger(tmp_path))
            assert (verdict.lost, verdict.ghosts) == (set(), set())
            assert (await audit(app)).clean
            assert worker.stop() == 0
        await app.close()


async def _some_ended(folder: Path) -> bool:
    return sum(line.what == "end" for line in ledger(folder)) > 20
