"""Jobs that ended lately: a sample that each queue keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bananas import Bananas, Dead, Discard, broker, operate
from bananas.broker import Tallied
from bananas.codec import pack
from bananas.keys import new_id, task_tag
from bananas.testing import worker_for
from bananas.worker.counting import SAMPLED

if TYPE_CHECKING:
    from bananas.keys import QueueKeys


def declare(app: Bananas) -> dict[str, Any]:
    @app.task
    async def fine() -> str:
        return "well"

    @app.task(result_ttl=0)
    async def plain() -> None: ...

    @app.task
    async def hopeless() -> None:
        raise Dead("never")

    @app.task
    async def unwanted() -> None:
        raise Discard("not today")

    return {"fine": fine, "plain": plain, "hopeless": hopeless, "unwanted": unwanted}


async def tell(app: Bananas, keys: QueueKeys, number: int, ended: list[tuple[int, bytes]], names: dict[str, str]) -> None:
    request = broker.tally(keys, "boot", number, 60_000, Tallied(28_000_000, names, {}, ended))
    assert await app.client.ask(keys, request, "telling") is True


async def test_what_ended_is_told_with_how_and_how_long(app: Bananas) -> None:
    tasks = declare(app)
    jobs = {name: await task.submit() for name, task in tasks.items()}
    async with worker_for(app) as worker:
        await worker.run_until_idle()
    found = {each.task: each for each in await operate.recent(app)}
    assert {name: (each.id, each.outcome) for name, each in found.items()} == {
        "fine": (jobs["fine"].id, "success"),
        "plain": (jobs["plain"].id, "success"),
        "hopeless": (jobs["hopeless"].id, "dead"),
        "unwanted": (jobs["unwanted"].id, "other"),
    }
    assert all(each.run_ms is not None and each.run_ms >= 0 and each.queue == "default" for each in found.values())
    born_ms = (await jobs["hopeless"].info()).born_ms
    assert 0 <= found["hopeless"].finished_ms - born_ms < 60_000


async def test_each_time_a_worker_tells_the_first_few_only(app: Bananas) -> None:
    tasks = declare(app)
    await app.submit_many([tasks["plain"].bind() for _ in range(SAMPLED * 3)])
    async with worker_for(app) as worker:
        await worker.run_until_idle()
    assert 0 < len(await operate.recent(app, limit=200)) < SAMPLED * 3


async def test_a_queue_keeps_the_last_of_them_the_newest_first(app: Bananas) -> None:
    keys, tag = app.producer.keys("default"), task_tag("old")
    for number in range(1, 5):
        ends_ms = range(number * 1_000, number * 1_000 + 70)
        entries = [(at_ms, pack((new_id(f"{tag}1f4"), 0, at_ms, 1.5))) for at_ms in ends_ms]
        await tell(app, keys, number, entries, {tag: "old"})
    await tell(app, keys, 5, [(9_000, b"no entry"), (9_001, pack(("x", 99, 0, None)))], {})
    found = await operate.recent(app, "default", 200)
    assert [each.finished_ms for each in found[:2]] == [4_069, 4_068]
    assert len(found) == 198
    assert {each.task for each in found} == {"old"}
    assert await app.client.ask(keys, broker.plain(int, "TTL", keys.recent), "looking") in range(1, 61)


async def test_where_nothing_is_counted_nothing_is_told(app: Bananas) -> None:
    tasks = declare(app)
    await tasks["plain"].submit()
    async with worker_for(app, stats_ttl=0) as worker:
        await worker.run_until_idle()
    assert await operate.recent(app) == []


async def test_a_limit_that_is_out_of_range_is_refused(app: Bananas) -> None:
    with pytest.raises(ValueError, match="200"):
        await operate.recent(app, limit=201)
