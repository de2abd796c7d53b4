"""Handlers that end in ways that nobody foresees: the worker goes on, every slot comes back, and the job is settled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from bananas import TaskError
from bananas.testing import worker_for

if TYPE_CHECKING:
    from bananas import Bananas


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
