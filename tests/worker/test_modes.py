"""Which jobs a worker takes, in which order, and what becomes of those that it does not take: workers in the test's process."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import eventually

from bananas import Bananas, ConfigError, current_job
from bananas.testing import worker_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bananas import Job
    from bananas.server import PrivateServer


@pytest.fixture
def order() -> list[str]:
    """The ids of the jobs that have begun."""
    return []


@pytest.fixture
async def shop(app: Bananas, order: list[str]) -> Bananas:
    @app.task
    async def work() -> None:
        order.append(current_job().id)

    @app.task
    async def double(number: int) -> int:
        return 2 * number

    return app


@pytest.fixture
async def other(server: PrivateServer, app: Bananas) -> AsyncIterator[Bananas]:
    """Another version of the code, on the same queues."""
    made = Bananas(server.url, namespace=app.settings.namespace)
    yield made
    await made.close()


async def submit_many(app: Bananas, count: int, **options: Any) -> list[Job[None]]:
    task = app.registry.tasks["work"].options(**options)
    return await app.submit_many(task.bind() for _ in range(count))


async def run_all(app: Bananas, **settings: Any) -> int:
    async with worker_for(app, **settings) as worker:
        return await worker.run_until_idle()


async def states(jobs: list[Job[Any]]) -> set[str]:
    return {(await job.info()).state for job in jobs}


# --- order ----------------------------------------------------------------------------------------------------------


async def test_priorities_are_strict_and_jobs_of_one_run_in_order_of_their_submit(shop: Bananas, order: list[str]) -> None:
    jobs = [await shop.submit("work", options={"priority": p}) for p in ("low", 700, "normal", "high", 3, "low", "normal", 3)]
    await run_all(shop, worker_concurrency=1)
    assert order == [jobs[i].id for i in (4, 7, 3, 2, 6, 1, 0, 5)]


async def test_queues_are_served_in_the_order_named_and_none_starves(shop: Bananas, order: list[str]) -> None:
    for queue in "ab":
        await submit_many(shop, 60, queue=queue)
    await run_all(shop, worker_concurrency=1, worker_routing_keys="a,b")
    queues = [name[0] for name in order]
    assert len(queues) == 120
    assert 50 <= queues[:60].count("a") < 60
    assert set(queues[-40:]) == {"b"}


async def test_queues_are_served_by_weight(shop: Bananas, order: list[str]) -> None:
    for queue in "ab":
        await submit_many(shop, 80, queue=queue)
    await run_all(shop, worker_concurrency=1, worker_routing_keys="a:3,b:1")
    assert 27 <= [name[0] for name in order][:40].count("a") <= 33


async def test_a_queue_that_no_worker_names_waits(shop: Bananas) -> None:
    elsewhere = await submit_many(shop, 1, queue="elsewhere")
    mine = await submit_many(shop, 1)
    assert await run_all(shop) == 1
    assert (await states(mine), await states(elsewhere)) == ({"success"}, {"ready"})


# --- modes ----------------------------------------------------------------------------------------------------------


async def test_a_specialized_worker_takes_only_its_priorities(shop: Bananas) -> None:
    low, high, odd = [await submit_many(shop, 5, priority=priority) for priority in ("low", "high", 7)]
    async with worker_for(shop, worker_mode="specialized", worker_priorities=["high", 7]):
        await eventually(lambda: all_ended(high + odd), "the jobs of its priorities")
        assert await states(low) == {"ready"}
    async with worker_for(shop, worker_mode="specialized", worker_priorities="low"):
        await eventually(lambda: all_ended(low), "the others")


async def all_ended(jobs: list[Job[Any]]) -> bool:
    return await states(jobs) == {"success"}


async def test_a_job_specialized_worker_finds_its_task_behind_thousands_of_others(shop: Bananas, order: list[str]) -> None:
    others = await submit_many(shop, 2_500)
    mine = [await shop.submit("double", n) for n in range(3)]
    async with worker_for(shop, worker_mode="job-specialized", worker_job_types="double"):
        assert [await job.result(timeout=10) for job in mine] == [0, 2, 4]
    counts = await shop.queue("default").counts()
    assert (counts.ready, counts.scheduled, counts.running) == (len(others), 0, 0)
    assert order == []


async def test_workers_for_different_tasks_do_not_keep_each_other_asleep(shop: Bananas, other: Bananas) -> None:
    for app in (shop, other):

        @app.task(name="treble")
        def treble(number: int) -> int:
            return 3 * number

    @other.task(name="double")
    async def double(number: int) -> int:
        raise AssertionError("not this worker's")

    async with AsyncExitStack() as stack:
        for app, task in ((shop, "double"), (other, "treble")):
            await stack.enter_async_context(worker_for(app, worker_mode="job-specialized", worker_job_types=task))
        began = asyncio.get_running_loop().time()
        for number in range(10):
            job = await shop.submit("double" if number % 2 else "treble", number)
            assert await job.result(timeout=5) == (2 if number % 2 else 3) * number
        assert asyncio.get_running_loop().time() - began < 10


async def test_a_thin_worker_has_five_slots(shop: Bananas) -> None:
    gate, started = asyncio.Event(), 0

    @shop.task
    async def follow() -> None:
        nonlocal started
        started += 1
        await gate.wait()

    jobs = [await shop.submit("follow") for _ in range(8)]
    async with worker_for(shop, worker_mode="thin") as worker:
        await eventually(lambda: started >= 5, "five starts")
        counts = await shop.queue("default").counts()
        assert (counts.running, counts.ready, started) == (5, 3, 5)
        gate.set()
        assert await worker.run_until_idle() == len(jobs)


async def test_a_mode_that_names_an_unknown_task_is_refused(shop: Bananas) -> None:
    with pytest.raises(ConfigError, match="no_such_task"):
        await run_all(shop, worker_mode="job-specialized", worker_job_types="no_such_task")
