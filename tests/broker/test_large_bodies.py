"""Bodies that are stored as they came, with the time that their client put in front, where that is right."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from bananas import Bananas, broker
from bananas.broker import LARGE_BODY, NewJob
from bananas.codec import birth_ms
from bananas.keys import id_suffix, new_id

if TYPE_CHECKING:
    from bananas.keys import QueueKeys

LARGE = b"\x01" + b"x" * LARGE_BODY
SMALL = b"\x01" + b"x" * 100


async def stored(app: Bananas, keys: QueueKeys, job_id: str) -> bytes:
    found: bytes = await app.client.ask(keys, broker.plain(bytes, "HGET", keys.jobs, job_id), "looking")
    return found


async def enqueue(app: Bananas, body: bytes, at_ms: int | None = None, number: int = 1) -> tuple[Any, bytes]:
    keys, job_id = app.producer.keys("default"), new_id(id_suffix("task", 500))
    request = broker.enqueue(keys, f"boot{number}", number, [NewJob(job_id, body)])
    assert await app.client.ask(keys, request if at_ms is None else request.at(at_ms), "submitting") is None
    return request, await stored(app, keys, job_id)


def now_ms() -> int:
    return int(time.time() * 1000)


async def test_a_large_body_is_stored_once_behind_the_time_of_its_call(app: Bananas) -> None:
    before = now_ms()
    _, kept = await enqueue(app, LARGE)
    assert kept[8:] == LARGE
    assert before <= birth_ms(kept) <= now_ms()


@pytest.mark.parametrize("off_ms", [-3_600_000, -251, 1, 60_000])
async def test_a_time_that_is_not_the_servers_is_put_right(app: Bananas, off_ms: int) -> None:
    """The client's clock is ahead of the server's, or far behind."""
    keys, job_id = app.producer.keys("default"), new_id(id_suffix("task", 500))
    request = broker.enqueue(keys, "boot", 1, [NewJob(job_id, LARGE)])
    claimed_ms = birth_ms(request.args[3])
    assert await app.client.ask(keys, request.at(claimed_ms - off_ms), "submitting") is None
    kept = await stored(app, keys, job_id)
    assert (birth_ms(kept), kept[8:]) == (claimed_ms - off_ms, LARGE)


async def test_a_small_body_gets_its_time_from_the_server(app: Bananas) -> None:
    request, kept = await enqueue(app, SMALL, at_ms=1_700_000_000_000)
    assert request.args[3] == SMALL
    assert (birth_ms(kept), kept[8:]) == (1_700_000_000_000, SMALL)


async def test_a_large_job_runs_with_what_it_was_given(app: Bananas) -> None:
    from bananas.testing import worker_for

    seen: list[int] = []

    @app.task
    async def measure(text: str) -> None:
        seen.append(len(text))

    job = await measure.submit("x" * 100_000)
    assert abs((await job.info()).born_ms - now_ms()) < 60_000
    async with worker_for(app) as worker:
        await worker.run_until_idle()
    assert seen == [100_000]
