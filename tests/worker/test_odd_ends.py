"""Handlers that end in ways that nobody foresees: the worker goes on, every slot comes back, and the job is settled."""

from __future__ import annotations

import asyncio
import sys
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from bananas import TaskError, broker, current_job
from bananas.codec import pack_tries
from bananas.job import Tries
from bananas.testing import worker_for
from bananas.worker.run import Runnable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bananas import Bananas, CurrentJob

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit("its text cannot be made")


def declare(app: Bananas) -> dict[str, Any]:
    @app.task(max_retries=0)
    def stops_on_a_thread() -> int:
        return next(iter([]))

    @app.task(max_retries=0)
    async def stops() -> int:
        return next(iter([]))

    @app.task(max_retries=0)
    async def has_a_surrogate() -> None:
        raise FileNotFoundError("bad\udcff")

    @app.task(max_retries=0)
    async def has_no_text() -> None:
        raise Unspeakable

    @app.task(max_retries=0)
    async def exits() -> None:
        raise SystemExit(3)

    @app.task(max_retries=0)
    def exits_on_a_thread() -> None:
        raise SystemExit(3)

    @app.task(max_retries=0)
    async def returns_a_surrogate() -> str:
        return "bad\udcff"

    return {name: task for name, task in locals().items() if name != "app"}


async def test_every_odd_end_is_an_error_of_that_job_alone(app: Bananas) -> None:
    tasks = declare(app)

    @app.task
    async def fine() -> int:
        return 1

    async with worker_for(app) as worker:
        odd = {name: await task.submit() for name, task in tasks.items()}
        good = await fine.submit()
        await worker.run_until_idle(10)
        assert await good.result(5) == 1
        for name, job in odd.items():
            with pytest.raises(TaskError):
                await job.result(5)
            assert (await job.info()).state == "dead", name
    counts = await app.queue("default").counts()
    assert (counts.ready, counts.running, counts.dead) == (0, 0, len(odd))


async def test_a_handler_that_cancels_itself_anywhere_in_a_row_stops_nobody(app: Bananas) -> None:
    @app.task(max_retries=0)
    async def counts(number: int) -> int:
        if number % 10 == 9:  # among them the last one before the loop gets its turn
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        return number

    await app.queue("default").pause()
    jobs = await app.submit_many(counts.bind(number) for number in range(100))
    await app.queue("default").resume()
    async with worker_for(app, worker_concurrency=100) as worker:
        await worker.run_until_idle(10)
    assert [await job.result(5) for job in jobs] == list(range(100))


async def test_a_hook_that_exits_ends_nothing(app: Bananas) -> None:
    called: list[int] = []

    @app.on_success
    def leave(_job: CurrentJob, value: int) -> None:
        called.append(value)
        raise SystemExit(3)

    @app.task
    async def echo(number: int) -> int:
        return number

    async with worker_for(app) as worker:
        jobs = await app.submit_many(echo.bind(number) for number in range(3))
        await worker.run_until_idle(10)
        assert [await job.result(5) for job in jobs] == [0, 1, 2]
    assert sorted(called) == [0, 1, 2]


async def test_a_suspect_whose_arguments_fit_no_more_is_dead_and_the_worker_goes_on(app: Bananas) -> None:
    @app.task(max_retries=0)
    async def changed(text: str) -> str:
        return text

    job = await changed.submit("x")
    keys, job_id = job.place
    await app.client.ask(keys, broker.plain(int, "HSET", keys.tries, job_id, pack_tries(Tries(crashes=1))), "making a suspect")

    @app.task(name="other", max_retries=0)
    async def new(number: int) -> int:
        return number

    app.registry.tasks[changed.name] = new
    async with worker_for(app) as worker:
        await worker.run_until_idle(5)
        with pytest.raises(TaskError, match="signature"):
            await job.result(5)
        assert await (await new.submit(1)).result(5) == 1


async def test_middleware_that_is_a_plain_function_runs_in_the_context_of_its_job(app: Bananas) -> None:
    seen: list[tuple[bool, str]] = []

    @app.middleware
    class Plain:
        def run(self, job: CurrentJob, proceed: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
            seen.append((current_job().id == job.id, tenant.get()))
            tenant.set("acme")
            return proceed()

    @app.task
    async def waits() -> None:
        await asyncio.sleep(0)

    async with worker_for(app) as worker:
        await app.submit_many(waits.bind() for _ in range(3))
        await worker.run_until_idle(5)
    assert seen == [(True, "nobody")] * 3


async def test_middleware_that_raises_stop_iteration_has_run_no_job(app: Bananas) -> None:
    @app.middleware
    class Plain:
        def run(self, job: CurrentJob, proceed: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
            raise StopIteration

    @app.task(max_retries=0)
    async def work() -> None: ...

    async with worker_for(app):
        with pytest.raises(TaskError, match="StopIteration"):
            await (await work.submit()).result(5)


async def test_a_worker_that_ends_starts_no_job_that_waits_for_its_turn(app: Bananas) -> None:
    began: list[float] = []
    one = asyncio.Event()

    @app.task(max_retries=0)
    async def begins() -> None:
        one.set()
        began.append(time.monotonic())
        time.sleep(0.02)  # noqa: ASYNC251  # so that others wait for their turn when the worker ends
        await asyncio.Event().wait()

    await app.queue("default").pause()
    await app.submit_many(begins.bind() for _ in range(20))
    await app.queue("default").resume()
    async with worker_for(app, worker_concurrency=20):
        await asyncio.wait_for(one.wait(), 5)
        ends = time.monotonic()
    assert not [at for at in began if at > ends]
    counts = await app.queue("default").counts()
    assert (counts.ready, counts.running, counts.dead) == (20, 0, 0)


async def test_a_lease_that_the_supervisor_called_gone_is_not_valid_though_the_loop_has_not_heard(app: Bananas) -> None:
    valid: list[bool] = []

    async with worker_for(app) as worker:
        table = worker._engine.table

        @app.task
        async def blocks() -> None:
            (lease,) = table.held()
            valid.append(current_job().lease_valid)
            table.mark_lost(lease)
            table.note_beat(time.monotonic(), [0], full=False)
            valid.append(current_job().lease_valid)

        worker._engine.runner.tasks[blocks.name] = Runnable(blocks, app.settings, app.registry.hooks)
        await blocks.submit()
        await worker.run_until_idle(5)
    assert valid == [True, False]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12")
async def test_many_slots_fill_in_a_loop_with_eager_tasks(app: Bananas) -> None:
    @app.task
    async def waits() -> None:
        await asyncio.sleep(0.01)

    await app.queue("default").pause()
    await app.submit_many(waits.bind() for _ in range(400))
    await app.queue("default").resume()
    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  # mypy looks at it as Python 3.11 does
    async with worker_for(app, worker_concurrency=400) as worker:
        assert await worker.run_until_idle(10) == 400
