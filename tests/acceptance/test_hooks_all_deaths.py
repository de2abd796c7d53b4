"""`on_dead` for jobs that die without a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.support import eventually

from bananas import TaskError, broker
from bananas.broker import NewJob
from bananas.keys import id_suffix, new_id

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site

TARGET = "tests.apps.deaths:app"


async def hooks(site: Site, job_id: str, count: int = 1) -> list[str]:
    await eventually(lambda: len(site.ledger.hooks(job_id)) >= count, f"{count} hooks of {job_id}", 30)
    return site.ledger.hooks(job_id)


async def end(site: Site, job: Any) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await job.result(timeout=30)
    return caught.value


async def test_poison_is_told_to_the_app_and_to_its_task(site: Site) -> None:
    site.worker(TARGET)
    job = await site.app.submit("poison", options={"priority": 7, "headers": {"tenant": "acme"}})
    for_app, for_task = await hooks(site, job.id, 2)
    assert for_app == "dead app JobPoisoned poison default 7 1 open {'tenant': 'acme'}"
    assert for_task == "dead task JobPoisoned 3 worker processes died while they ran this job alone"
    assert (await end(site, job)).error_type == "Poison"
    assert len(site.ledger.hooks(job.id)) == 2


async def test_a_task_that_no_worker_knew_for_too_long_is_told_to_the_app(site: Site) -> None:
    site.worker(TARGET, unknown_task_ttl=0.5)
    job = await site.app.submit("of_tomorrow")
    assert await hooks(site, job.id) == ["dead app UnknownTask of_tomorrow default 500 1 open {}"]
    assert (await end(site, job)).error_type == "UnknownTask"


async def test_a_body_that_cannot_be_read_is_told_to_the_app(site: Site) -> None:
    site.worker(TARGET)
    keys, job_id = site.app.producer.keys("default"), new_id(id_suffix("poison", 100))
    await site.app.client.ask(keys, broker.enqueue(keys, f"{0xABC000:016x}", 1, [NewJob(job_id, b"\x01\xc1")]), "submitting")
    job = site.app.job(keys.public(job_id))
    assert await hooks(site, job.id) == ["dead app JobUndecodable unknown default 100 1 open {}"]
    assert (await end(site, job)).error_type == "Undecodable"


async def test_expired_and_cancelled_jobs_are_no_dead_letters(site: Site) -> None:
    expired = await site.app.submit("work", options={"expires_in": 0.01})
    cancelled = await site.app.submit("work")
    assert await cancelled.cancel()
    site.worker(TARGET)
    assert [(await end(site, job)).state for job in (expired, cancelled)] == ["expired", "cancelled"]
    sentinel = await site.app.submit("fails")
    assert await hooks(site, sentinel.id)
    assert site.ledger.hooks(expired.id) + site.ledger.hooks(cancelled.id) == []
