"""Bananas behind sentinels: whoever is the primary is found, also after it changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.support import eventually

from bananas import Bananas
from bananas.errors import ServerUnsuitable
from bananas.groups import PRIMARY_NAME, ask
from bananas.inspector import audit
from bananas.task import Call

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.conftest import Site

    from bananas import Job
    from bananas.groups import Replicated

pytestmark = pytest.mark.timeout(120)


async def test_a_planned_failover_loses_nothing(replicated: Replicated, site_at: Callable[..., Site]) -> None:
    site = site_at(replicated.url, lease=2.0, call_timeout=20)
    site.worker()
    jobs: list[Job[object]] = []

    async def submit() -> None:
        for _ in range(50):
            jobs.extend(await site.app.submit_many(Call("work", (0.001,), {}) for _ in range(10)))
            await asyncio.sleep(0.01)

    submitting = asyncio.create_task(submit())
    await eventually(lambda: len(jobs) >= 50, "some jobs")
    old, new = replicated.data
    ask(old, "FAILOVER")
    await eventually(lambda: ask(new, "ROLE")[0] == b"master", "the failover", 20)
    # Whoever asks the sentinels is told of it once they have noticed; the old primary answers READONLY until then.
    await submitting
    ended = {job.id async for job in site.app.as_completed(jobs, timeout=40)}
    verdict = site.ledger.judge({job.id for job in jobs})
    assert (len(ended), verdict.lost, verdict.ghosts) == (500, set(), set())
    assert (await audit(site.app)).findings == ()


async def test_a_long_job_keeps_its_lease_over_a_planned_failover(replicated: Replicated, site_at: Callable[..., Site]) -> None:
    site = site_at(replicated.url, lease=2.0, call_timeout=20)
    site.worker()
    job, line = await site.running(str(site.gate()))
    old, new = replicated.data
    ask(old, "FAILOVER")
    await eventually(lambda: ask(new, "ROLE")[0] == b"master", "the failover", 20)
    beaten = (await job.info()).lease_expires_ms or 0

    async def is_beaten() -> bool:
        return ((await job.info()).lease_expires_ms or 0) > beaten + 3_000

    await eventually(is_beaten, "beats at the new primary")
    site.gate().touch()
    assert await job.result(timeout=20) == line.pid
    assert len(site.ledger.lines("start")) == 1


async def test_a_killed_primary_is_replaced_and_everyone_goes_on_by_itself(replicated: Replicated, site_at: Callable[..., Site]) -> None:
    site = site_at(replicated.url, lease=2.0, call_timeout=30)
    site.worker()
    assert await (await site.app.submit("double", 1)).result(timeout=10) == 2
    waiting, _ = await site.running(str(site.gate()))
    waiter = asyncio.create_task(waiting.result(timeout=60))
    replicated.data[0].kill()
    job = await site.app.submit("double", 2)  # within its budget
    assert await job.result(timeout=30) == 4
    site.gate().touch()
    assert await waiter == site.ledger.lines("start", waiting.id)[0].pid


async def test_a_primary_that_no_sentinel_knows_is_told_at_once(replicated: Replicated) -> None:
    app = Bananas(replicated.url.replace(f"/{PRIMARY_NAME}", "/another"))
    with pytest.raises(ServerUnsuitable, match="no sentinel knows a primary called 'another'"):
        await app.submit("double", 1)
