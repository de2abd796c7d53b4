"""The backlog of a queue, as workers make it, on a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import eventually

from bananas import operate
from bananas.testing import worker_for

if TYPE_CHECKING:
    from bananas import Bananas


async def test_a_backlog_is_told_by_the_rate_or_by_the_oldest(app: Bananas) -> None:
    @app.task(queue="email")
    async def send() -> None: ...

    for _ in range(40):
        await send.submit()
    (before,) = await operate.backlog(app)
    assert (before.queue, before.ready, before.rate_s) == ("email", 40, 0.0)
    assert before.seconds == (before.oldest_ms or 0) / 1000
    async with worker_for(app) as worker:
        await worker.run_until_idle()

    async def counted() -> bool:
        return (await operate.backlog(app))[0].rate_s > 0

    await eventually(counted, "the runs are counted")
    for _ in range(10):
        await send.submit()
    (after,) = await operate.backlog(app, ["email"])
    assert after.ready == 10
    assert after.seconds == 10 / after.rate_s
