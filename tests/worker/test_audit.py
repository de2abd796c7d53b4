"""The structural audit on queues that were put in order by the transitions, damaged by hand, and at work."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.worker.damage import BOOT, DAMAGE, Filled, spelt

from bananas import Bananas, Retry, Snooze, broker
from bananas.audit import CHUNK
from bananas.inspector import audit, workers
from bananas.orders import announce
from bananas.server import PrivateServer, server_binaries
from bananas.task import Call, read_options
from bananas.testing import worker_for

if TYPE_CHECKING:
    from bananas import Job
    from bananas.keys import QueueKeys


@pytest.fixture
async def filled(app: Bananas) -> Filled:
    return await Filled(app).fill()


async def test_what_the_transitions_leave_is_clean(filled: Filled) -> None:
    seen = await audit(filled.app)
    assert (seen.queues, seen.jobs, seen.findings, seen.clean) == (("default",), 4, (), True)


async def test_a_namespace_without_queues_is_clean(app: Bananas) -> None:
    assert (await audit(app)).clean
    assert (await audit(app, ["nowhere"])).jobs == 0


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DAMAGE)
async def test_each_damage_is_found_and_named(filled: Filled, name: str) -> None:
    (verb, *words), expected = DAMAGE[name]
    await filled.command(verb, *[spelt(filled, word) for word in words])
    found = (await audit(filled.app)).findings
    assert {(finding.kind, finding.id, finding.place, finding.member) for finding in found} == {
        (kind, spelt(filled, who), place, spelt(filled, entry[0] if entry else who)) for kind, who, place, *entry in expected
    }
    assert len(found) == len(expected)
    assert {finding.queue for finding in found} == {"default"}
    assert all(finding.detail for finding in found)


async def test_a_lease_is_not_late_while_nobody_may_reclaim(filled: Filled) -> None:
    await filled.command("ZADD", filled.keys.leases, 5, filled.member)
    await filled.command("HSET", filled.keys.meta, "hold", round(time.time() * 1000))
    assert (await audit(filled.app)).clean


# --- bounds ---------------------------------------------------------------------------------------------------------


async def submit(app: Bananas, count: int, task: str = "task", **options: Any) -> list[Job[Any]]:
    return await app.submit_many(Call(task, (), {}, read_options(options)) for _ in range(count))


async def test_one_lost_job_is_found_among_thousands(app: Bananas) -> None:
    jobs = await submit(app, 2_500)
    keys = app.producer.keys("default")
    assert (await audit(app)).jobs == len(jobs)
    await app.client.ask(keys, broker.plain(int, "ZREM", keys.ready, jobs[1_234].place[1]), "damaging")
    (finding,) = (await audit(app)).findings
    assert (finding.kind, finding.id) == ("no place", jobs[1_234].place[1])


async def test_leases_beyond_those_searched_are_known_from_the_scan(app: Bananas, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("bananas.audit", "bananas.findings"):
        monkeypatch.setattr(f"{module}.SEARCHED_LEASES", 3)
    keys, jobs = app.producer.keys("default"), await submit(app, 20)
    claim = await app.client.ask(keys, broker.claim(keys, BOOT, 1, 20, 60_000), "claiming")
    assert len(claim.bodies) == len(jobs)
    assert (await audit(app)).clean
    await app.client.ask(keys, broker.plain(int, "ZREM", keys.leases, f"{jobs[4].place[1]}:{BOOT}:{claim.fence:010d}"), "damaging")
    (finding,) = (await audit(app)).findings
    assert (finding.kind, finding.id) == ("no place", jobs[4].place[1])


def watch(app: Bananas, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The commands that the app sends from now on."""
    lane, asked = app.client.here().lanes.home(app.settings.namespace), list[tuple[Any, ...]]()
    ask = lane.ask

    async def watched(keys: QueueKeys | None, requests: Any, *more: Any) -> Any:
        asked.extend(request.command() for request in requests)
        return await ask(keys, requests, *more)

    monkeypatch.setattr(lane, "ask", watched)
    return asked


async def test_no_read_asks_for_more_than_a_chunk(app: Bananas, monkeypatch: pytest.MonkeyPatch) -> None:
    await submit(app, 2_500)
    asked = watch(app, monkeypatch)
    assert (await audit(app)).jobs == 2_500
    assert {command[0] for command in asked} == {"SSCAN", "HSCAN", "ZSCAN", "EVALSHA"}
    assert all(command[command.index("COUNT") + 1] <= CHUNK for command in asked if command[0] != "EVALSHA")
    ids = 3 + 11 + 2  # behind sha, count, keys, clock and most leases
    assert 1 < max(command[ids] for command in asked if command[0] == "EVALSHA") <= CHUNK


async def test_bodies_are_not_read_where_their_number_is_right(app: Bananas, monkeypatch: pytest.MonkeyPatch) -> None:
    await submit(app, 10)
    asked = watch(app, monkeypatch)
    assert (await audit(app)).clean
    assert app.producer.keys("default").jobs not in {command[1] for command in asked if command[0] == "HSCAN"}


async def test_a_server_that_cannot_leave_out_values_is_read_in_smaller_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    older = [binary for binary in server_binaries("redis", []) if binary.version < (7, 4)]
    if not older:
        pytest.skip("no server here is so old")
    with PrivateServer(binary=older[0]) as server:
        app = Bananas(server.url)
        jobs = await submit(app, 600)
        keys = app.producer.keys("default")
        await app.client.ask(keys, broker.plain(int, "ZREM", keys.ready, jobs[5].place[1]), "damaging")
        asked = watch(app, monkeypatch)
        monkeypatch.setattr("bananas.audit.CHUNK_BYTES", 2_000)
        (finding,) = (await audit(app)).findings
        assert (finding.kind, finding.id) == ("no place", jobs[5].place[1])
        assert "NOVALUES" in {command[-1] for command in asked}
        counts = [command[-1] for command in asked if command[1] == keys.jobs and command[-1] != "NOVALUES"]
        assert len(counts) > 1
        assert max(counts) < 200
        await app.close()


# --- a queue at work ------------------------------------------------------------------------------------------------


async def test_a_busy_queue_gives_no_finding_and_its_damage_is_found(server: Any) -> None:
    app = Bananas(server.url, namespace="busy", call_timeout=5)

    @app.task(max_retries=1_000_000, retry=Retry(base=0.001, cap=0.002))
    async def fails() -> None:
        raise ValueError("again")

    @app.task(max_retries=1_000_000)
    async def snoozes() -> None:
        raise Snooze(0.001)

    @app.task(result_ttl=0)
    async def works() -> None:
        await asyncio.sleep(0)

    async def keep_busy() -> None:
        for number in range(100_000):
            await submit(app, 50, "works", priority=number % 1000)
            await submit(app, 5, "works", unique=f"key{number % 7}")
            await (await app.submit("works", options={"delay": 0.005})).set_priority(3)

    async with worker_for(app, worker_concurrency=50):
        await submit(app, 3, "fails")
        await submit(app, 30, "snoozes")
        busy = asyncio.ensure_future(keep_busy())
        for _ in range(20):
            assert (await audit(app)).findings == ()
        keys = app.producer.keys("default")
        lost = (await app.submit("works", options={"delay": 600})).place[1]
        await app.client.ask(keys, broker.plain(int, "ZREM", keys.scheduled, lost), "damaging")
        for _ in range(5):
            assert [(finding.kind, finding.id) for finding in (await audit(app)).findings] == [("no place", lost)]
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
    await app.close()


# --- who works ------------------------------------------------------------------------------------------------------


async def test_the_registry_lists_the_workers_that_are_alive(app: Bananas) -> None:
    namespace, keys = app.settings.namespace, app.producer.keys("default")
    record = {
        "host": "h",
        "pid": 1,
        "supervisor": 2,
        "queues": ["q"],
        "tasks": ["t"],
        "slots": 3,
        "running": [],
        "overdue": [],
        "started_ms": 4,
        "added_later": True,
    }
    packed = msgspec.msgpack.encode(record)
    for boot, ttl_ms in (("aa", 60_000), ("bb", -1)):
        await app.client.ask(keys, announce(namespace, boot, ttl_ms, packed, ["q"]), "announcing")
    (worker,) = await workers(app)
    assert (worker.boot, worker.host, worker.pid, worker.queues, worker.slots) == ("aa", "h", 1, ("q",), 3)
