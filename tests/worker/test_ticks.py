"""Cron ticks at the moment when two processes fire them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bananas import Bananas
from bananas.worker.maintenance import Clock

if TYPE_CHECKING:
    from collections.abc import Generator

    from bananas.middleware import Draft


async def test_of_two_that_fire_at_once_one_stores_and_the_other_is_closed(app: Bananas) -> None:
    events: list[str] = []

    @app.middleware
    class Watch:
        def submit(self, draft: Draft) -> Generator[None, None, None]:
            events.append("begun")
            try:
                yield
                events.append("stored")
            except Exception:
                events.append("failed")
                raise
            finally:
                events.append("closed")

    @app.cron(every=0.05)
    async def sweep() -> None: ...

    entries = list(app.registry.crons.values())
    clocks = [Clock(app.client.here(), entries, app.producer, app.settings) for _ in range(2)]
    async with asyncio.timeout(10):
        while len(events) < 15:
            await asyncio.sleep(min(await asyncio.gather(*[clock.tick() for clock in clocks])))
    counts = {event: events.count(event) for event in ("begun", "stored", "failed", "closed")}
    ready = (await app.queue("default").counts()).ready
    assert (counts["stored"], counts["failed"], counts["closed"]) == (ready, 0, counts["begun"])
    assert counts["begun"] > ready, "no tick was fired twice"
