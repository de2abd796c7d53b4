"""What middleware meets around a run whose lease is lost, and what a worker leaves behind in its process."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from tests.support import eventually

from bananas import Bananas, Job, LeaseLost, broker
from bananas.testing import inline, worker_for

if TYPE_CHECKING:
    from bananas import CurrentJob


async def lose_lease(app: Bananas, job: Job[Any]) -> None:
    """Take a running job away from its worker, as another would when the lease is over."""
    keys, job_id = job.place
    members = await app.client.ask(keys, broker.plain(list, "ZRANGE", keys.leases, 0, -1), "reading leases")
    held = [member for member in members if member.startswith(job_id.encode())]
    assert await app.client.ask(keys, broker.reclaim(keys, 1_000, held), "taking a lease away") == 1


async def test_middleware_meets_lease_lost_where_the_handler_ran_in_vain(app: Bananas) -> None:
    met: list[str] = []
    release = threading.Event()
    begun: set[str] = set()

    def first(name: str) -> bool:
        """Whether a handler runs for the first time."""
        return name not in begun and not begun.add(name)  # type: ignore[func-returns-value]

    @app.middleware
    class Commit:
        async def run(self, job: CurrentJob, proceed: Any) -> Any:
            try:
                value = await proceed()
            except LeaseLost as error:
                met.append(f"{job.task} {type(error.__cause__).__name__} {job.id in str(error)}")
                raise
            met.append(f"{job.task} committed")
            return value

    @app.task
    async def cancelled() -> str:
        if first("cancelled"):
            await asyncio.Event().wait()
        return "second run"

    @app.task
    def unstoppable() -> str:
        if first("unstoppable"):
            assert release.wait(10)
            return "first run"
        return "second run"

    async with worker_for(app, lease=1) as worker:
        for task, cause in ((cancelled, "CancelledError"), (unstoppable, "NoneType")):
            job = await task.submit()

            (run,) = await eventually(lambda name=task.name: name in begun and list(worker._engine.runner.running.values()))  # type: ignore[misc]
            await lose_lease(app, job)
            await eventually(lambda run=run: run.stop == "lost", "the loss to be noticed")  # type: ignore[misc]
            release.set()
            await worker.run_until_idle()
            assert await job.result(timeout=5) == "second run"
            assert met == [f"{task.name} {cause} True", f"{task.name} committed"]
            met.clear()
            release.clear()


async def test_a_worker_in_a_test_leaves_no_threads_behind(app: Bananas) -> None:
    @app.task
    def work() -> None: ...

    def ours() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("bananas_")]

    async with worker_for(app) as worker:
        await work.submit()
        await worker.run_until_idle()
        assert ours()
    await eventually(lambda: not ours(), "the end of the threads", 5)
    with inline(app):
        await work.submit()
    await eventually(lambda: not ours(), "the end of the threads", 5)
    assert worker is not None
