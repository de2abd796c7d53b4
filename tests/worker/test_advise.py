"""Advice about a real namespace on a real server: what is looked at is what is there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import eventually

from bananas import Bananas, broker, operate
from bananas.operate.advice.advising import look
from bananas.task import Call
from bananas.testing import worker_for

if TYPE_CHECKING:
    from bananas.server import PrivateServer


async def server_says(app: Bananas, *command: Any) -> None:
    await app.client.ask_home(app.settings.namespace, broker.plain(lambda reply: reply, *command), "setting up")


async def kinds(app: Bananas) -> dict[str, operate.Advice]:
    return {each.kind: each for each in await operate.advise(app)}


async def test_jobs_that_nobody_takes_and_a_server_that_is_set_wrong(app: Bananas) -> None:
    await app.submit_many(Call("send", ("x" * 40_000,), {}) for _ in range(5))
    await app.queue("default").pause()
    await server_says(app, "CONFIG", "SET", "maxmemory", 10**9)
    await server_says(app, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    found = await kinds(app)
    assert (found["no_workers"].figures, found["paused"].figures) == ({"ready": 5, "scheduled": 0}, {"ready": 5})
    assert found["policy"].level == "error"
    assert found["payload"].figures["sampled"] == 5
    assert isinstance(size := found["payload"].figures["median_bytes"], int)
    assert 40_000 < size < 41_000
    assert "add_shards" not in found
    assert next(iter(found.values())).level == "error"


async def test_what_runs_is_judged_by_what_was_counted(app: Bananas) -> None:
    @app.task(max_retries=0, timeout=0.2)
    async def breaks() -> None:
        raise ValueError("no")

    @app.task(timeout=1)
    async def near() -> None:
        await asyncio.sleep(0.85)

    for _ in range(25):
        await breaks.submit()
        await near.submit()
    async with worker_for(app, worker_concurrency=25) as worker:
        await worker.run_until_idle()

        async def counted() -> bool:
            return {("failing", "breaks"), ("timeout", "near")} <= {(each.kind, each.task) for each in await operate.advise(app)}

        await eventually(counted, "failures and timeouts are told", 30)
        found = {(each.kind, each.task): each for each in await operate.advise(app)}
        assert found["failing", "breaks"].figures["share"] == 1.0
        assert found["timeout", "near"].figures["timeout_s"] == 1.0
        assert ("no_workers", "") not in found


async def test_a_namespace_without_a_queue_is_looked_at_too(server: PrivateServer) -> None:
    app = Bananas(server.url, namespace="empty")
    try:
        seen = await look(app)
        assert (seen.queues, seen.samples, len(seen.servers)) == ((), (), 1)
        assert seen.servers[0].used_bytes > 100_000
        share = seen.servers[0].core_share
        assert share is not None
        assert 0 <= share < 0.75
    finally:
        await app.close()


async def test_looking_changes_no_key(app: Bananas) -> None:
    await app.submit("send", options={"delay": 600})

    async def keys() -> Any:
        return await app.client.ask_home(app.settings.namespace, broker.plain(sorted, "KEYS", "*"), "looking")

    before = await keys()
    await operate.advise(app)
    assert await keys() == before


@pytest.mark.parametrize("body", [b"", b"\x00" * 20, b"no body at all"])
async def test_a_body_that_cannot_be_read_is_left_out(app: Bananas, body: bytes) -> None:
    job = await app.submit("send")
    keys = app.producer.keys("default")
    await server_says(app, "HSET", keys.jobs, job.id.rpartition(".")[2], body)
    assert (await look(app)).samples == ()
