"""`bananas.testing.worker_for`: a worker in the test's process, on a real server."""

import asyncio
import os
import threading

import pytest

from bananas import Bananas, BananasError, ConfigError, CurrentJob, Retry, TaskError, current_job
from bananas.server import PrivateServer
from bananas.testing import run_until_idle, worker_for

HOUR = Retry(base=3_600, factor=1, cap=3_600, jitter=False)


async def test_jobs_run_in_this_process_until_nothing_is_left(app: Bananas) -> None:
    @app.task(queue="email")
    async def send(to: str) -> int:
        return os.getpid()

    @app.task(isolation="process")
    def report() -> int:
        return os.getpid()

    async with worker_for(app) as worker:
        jobs = await app.submit_many([*[send.bind(str(number)) for number in range(50)], report.bind()])
        assert await worker.run_until_idle() == 51
        assert {await job.result(timeout=1) for job in jobs} == {os.getpid()}
        late = await send.submit("late")
        assert await worker.run_until_idle() == 52
        assert (await late.info()).state == "success"


async def test_what_waits_for_later_runs_only_when_asked(app: Bananas) -> None:
    @app.task(max_retries=3, retry=HOUR)
    async def flaky(good_at: int) -> int:
        if current_job().attempt < good_at:
            raise ValueError("not yet")
        return current_job().attempt

    async with worker_for(app) as worker:
        retried, delayed = await flaky.submit(3), await flaky.options(delay=3_600).submit(1)
        assert await worker.run_until_idle() == 1
        assert [(await job.info()).state for job in (retried, delayed)] == ["scheduled", "scheduled"]
        await worker.run_until_idle(include_scheduled=True)
        assert [await job.result(timeout=1) for job in (retried, delayed)] == [3, 1]
        hopeless = await flaky.submit(9)
        await worker.run_until_idle(include_scheduled=True)
        with pytest.raises(TaskError) as caught:
            await hopeless.result(timeout=1)
        assert caught.value.attempts == 4
        assert [info.id for info in await app.queue("default").dead.list()] == [hopeless.id]


async def test_idle_means_that_follow_up_jobs_and_hooks_have_ended_too(app: Bananas) -> None:
    events: list[str] = []

    @app.on_success
    async def succeeded(job: CurrentJob, value: object) -> None:
        await asyncio.sleep(0.02)
        events.append(job.task)

    @app.task
    async def last() -> None: ...

    @app.task
    def first() -> None:
        last.submit_sync()

    async with worker_for(app) as worker:
        await first.submit()
        await worker.run_until_idle()
        assert sorted(events) == ["first", "last"]


async def test_a_job_that_does_not_end_is_named(app: Bananas) -> None:
    @app.task
    async def stuck() -> None:
        await asyncio.Event().wait()

    async with worker_for(app) as worker:
        job = await stuck.submit()
        with pytest.raises(TimeoutError, match=r"not idle within 0\.1 s: stuck runs"):
            await worker.run_until_idle(timeout=0.1)
    info = await job.info()
    assert (info.state, info.attempts) == ("ready", 0)


async def test_a_running_job_can_be_cancelled(app: Bananas) -> None:
    @app.task
    async def stuck() -> None:
        await asyncio.Event().wait()

    async with worker_for(app) as worker:
        job = await stuck.submit()
        with pytest.raises(TimeoutError):
            await worker.run_until_idle(timeout=0.05)
        assert await job.cancel()
        await worker.run_until_idle()
        with pytest.raises(TaskError, match="cancelled"):
            await job.result(timeout=1)


async def test_leases_are_renewed_while_a_job_runs(app: Bananas) -> None:
    done = threading.Event()
    fences: list[int] = []

    @app.task
    def slow() -> bool:
        fences.append(current_job().fence)
        assert done.wait(10)
        return current_job().lease_valid

    async with worker_for(app, lease=1) as worker:
        job = await slow.submit()
        began, expiries = asyncio.get_running_loop().time(), set[int | None]()
        while len(expiries) < 6 and asyncio.get_running_loop().time() < began + 10:
            info = await job.info()
            if info.lease_expires_ms is not None:
                expiries.add(info.lease_expires_ms)
            await asyncio.sleep(0.01)
        done.set()
        await worker.run_until_idle()
        assert asyncio.get_running_loop().time() > began + 1
        assert await job.result(timeout=1) is True
    assert len(fences) == 1


async def test_the_lifespan_is_open_and_settings_hold_within_the_block(app: Bananas) -> None:
    events: list[str] = []
    most = 0

    @app.lifespan
    async def resources():  # type: ignore[no-untyped-def]
        events.append("open")
        yield {"db": 1}
        events.append("closed")

    @app.task
    async def work() -> int:
        nonlocal most
        running.add(current_job().id)
        most = max(most, len(running))
        await asyncio.sleep(0.001)
        running.discard(current_job().id)
        return int(current_job().state["db"])

    running: set[str] = set()
    before = app.settings
    async with worker_for(app, worker_concurrency=2) as worker:
        jobs = await app.submit_many(work.bind() for _ in range(10))
        await worker.run_until_idle()
        assert {await job.result(timeout=1) for job in jobs} == {1}
    assert most == 2
    assert events == ["open", "closed"]
    assert app.settings is before
    with pytest.raises(ConfigError):
        async with worker_for(app, leese=1):
            pass


async def test_another_server_stands_in_for_the_block(server: PrivateServer) -> None:
    app = Bananas("redis://127.0.0.1:1/0", call_timeout=0.2)

    @app.task
    async def work() -> int:
        return 7

    jobs = []
    for _ in range(2):
        async with worker_for(app, server.url) as worker:
            assert (await app.queue("default").counts()).ready == 0
            jobs.append(await work.submit())
            assert await worker.run_until_idle() == 1
            assert await jobs[-1].result(timeout=1) == 7
    with pytest.raises(BananasError):
        await work.submit()


async def test_run_until_idle_without_a_block(app: Bananas) -> None:
    @app.task
    async def work() -> int:
        return 7

    job = await work.options(delay=3_600).submit()
    assert await run_until_idle(app) == 0
    assert await run_until_idle(app, include_scheduled=True) == 1
    assert await job.result(timeout=1) == 7


async def test_a_paused_queue_is_idle(app: Bananas) -> None:
    @app.task
    async def work() -> None: ...

    await app.queue("default").pause()
    job = await work.submit()
    assert await run_until_idle(app) == 0
    assert (await job.info()).state == "ready"
