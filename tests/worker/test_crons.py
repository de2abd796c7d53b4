"""What operators do to cron entries, with real clocks that fire them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from bananas import Bananas, CronEntryNotFound, JobConflict, QueueFull, broker
from bananas.operate import cron_entries, pause_cron, resume_cron, run_cron, trail
from bananas.worker.maintenance import CRON_FORGOTTEN_MS, Clock, Upkeep
from bananas.worker.served import Served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bananas.operate import CronState


class Ticking:
    """An app with a cron entry, and a clock that fires it while it is wound."""

    def __init__(self, app: Bananas) -> None:
        self.app = app
        self.clock = Clock(app.client.here(), list(app.registry.crons.values()), app.producer, app.settings)
        self._task: asyncio.Task[None] | None = None

    async def _go(self) -> None:
        while True:
            await asyncio.sleep(min(await self.clock.tick(), 0.02))

    def wind(self) -> None:
        self._task = asyncio.create_task(self._go())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def state(self, name: str = "sweep") -> CronState:
        (found,) = [each for each in await cron_entries(self.app) if each.name == name]
        return found


@pytest.fixture
async def ticking(app: Bananas) -> AsyncIterator[Ticking]:
    @app.cron("0 3 1 1 *", priority=7)
    async def sweep() -> None: ...

    @app.cron("0 3 1 1 *", unique=True)
    async def alone() -> None: ...

    made = Ticking(app)
    yield made
    await made.stop()


async def test_a_run_is_submitted_by_who_has_the_code_with_its_options(ticking: Ticking) -> None:
    ticking.wind()
    await ticking.clock.tick()
    before = await ticking.state()
    assert (before.last_ms, before.last_id, before.paused, before.missed_ticks) == (None, "", False, 0)
    public = await run_cron(ticking.app, "default", "sweep", who="ada")
    info = await ticking.app.job(public).info()
    assert (info.state, info.task, info.priority) == ("ready", "sweep", 7)
    after = await ticking.state()
    assert (after.last_id, after.asked_ms, after.next_ms) == (public, None, before.next_ms)
    assert after.last_ms is not None
    assert [(deed.who, deed.action, deed.query) for deed in await trail(ticking.app)] == [("ada", "run cron", "cron:default/sweep")]


async def test_a_paused_entry_is_run_by_hand_alone(ticking: Ticking) -> None:
    ticking.wind()
    await ticking.clock.tick()
    assert await pause_cron(ticking.app, "default", "sweep") is True
    assert await pause_cron(ticking.app, "default", "sweep") is False
    paused = await ticking.state()
    assert (paused.paused, paused.next_ms) == (True, None)
    assert paused.paused_ms is not None
    assert await run_cron(ticking.app, "default", "sweep")
    assert (await ticking.state()).paused
    assert await resume_cron(ticking.app, "default", "sweep") is True
    assert await resume_cron(ticking.app, "default", "sweep") is False
    resumed = await ticking.state()
    assert (resumed.paused, resumed.paused_ms) == (False, None)
    assert resumed.next_ms is not None
    assert [deed.action for deed in await trail(ticking.app)] == ["resume cron", "run cron", "pause cron"]


async def test_ticks_stop_with_a_pause_and_go_on_after_it(app: Bananas) -> None:
    @app.cron(every=0.05, missed="all")
    async def often() -> None: ...

    ticking = Ticking(app)
    ticking.wind()

    async def ready() -> int:
        return (await app.queue("default").counts()).ready

    async with asyncio.timeout(20):
        while await ready() < 2:
            await asyncio.sleep(0.01)
        await pause_cron(app, "default", "often")
        count = await ready()
        for _ in range(20):
            await ticking.clock.tick()
        assert await ready() == count
        await resume_cron(app, "default", "often")
        while await ready() < count + 2:
            await asyncio.sleep(0.01)
    await ticking.stop()


async def test_missed_ticks_are_counted(app: Bananas) -> None:
    @app.cron(every=10)
    async def seldom() -> None: ...

    ticking, keys = Ticking(app), app.producer.keys("default")
    await ticking.clock.tick()
    record = (await app.client.ask(keys, broker.plain(bytes, "HGET", keys.cron, "seldom"), "a test")).decode()
    next_ms, rest = record.split(" ", 1)
    late = f"{int(next_ms) - 50_000} {rest}"
    await app.client.ask(keys, broker.plain(int, "HSET", keys.cron, "seldom", late), "a test")
    await ticking.clock.tick()
    state = await ticking.state("seldom")
    assert (state.missed_ticks, (await app.queue("default").counts()).ready) == (4, 1)


async def test_a_unique_entry_is_not_run_while_its_job_is_alive(ticking: Ticking) -> None:
    ticking.wind()
    await ticking.clock.tick()
    assert await run_cron(ticking.app, "default", "alone")
    with pytest.raises(JobConflict, match="earlier tick is alive"):
        await run_cron(ticking.app, "default", "alone")
    assert (await ticking.state("alone")).missed_ticks == 0


async def test_who_is_not_there_is_not_run(ticking: Ticking) -> None:
    for call in (run_cron, pause_cron, resume_cron):
        for queue, name in (("default", "nobody"), ("other", "sweep"), ("default", "sweep\0state")):
            with pytest.raises(CronEntryNotFound):
                await call(ticking.app, queue, name)
    await ticking.clock.tick()
    keys = ticking.app.producer.keys("default")
    await ticking.app.client.ask(keys, broker.plain(int, "HSET", keys.cron, "sweep", "5 5 0 once UTC 0 3 1 1 *"), "a test")
    with pytest.raises(CronEntryNotFound, match="nobody would run it"):
        await run_cron(ticking.app, "default", "sweep")
    assert await trail(ticking.app) == []


async def test_a_run_waits_for_a_worker_and_for_room_on_the_server(ticking: Ticking) -> None:
    await ticking.clock.tick()
    keys, ask = ticking.app.producer.keys("default"), ticking.app.client.ask
    await ask(keys, broker.plain(bytes, "CONFIG", "SET", "maxmemory", 1), "a test")
    assert await run_cron(ticking.app, "default", "sweep", wait=0) == "", "nobody looks"
    with pytest.raises(QueueFull):
        await ticking.clock.tick()
    assert (await ticking.state()).asked_ms is not None
    await ask(keys, broker.plain(bytes, "CONFIG", "SET", "maxmemory", 0), "a test")
    await ticking.clock.tick()
    state = await ticking.state()
    assert (state.asked_ms, state.last_id != "") == (None, True)


async def test_what_stands_beside_an_entry_goes_with_it(ticking: Ticking) -> None:
    await ticking.clock.tick()
    await pause_cron(ticking.app, "default", "sweep")
    keys, ask = ticking.app.producer.keys("default"), ticking.app.client.ask
    upkeep = Upkeep(ticking.app.client.here(), [Served(0, keys, "aa")], ticking.app.settings, promotes=False)
    await upkeep._trim(keys)
    assert (await ticking.state()).paused, "it stays while the entry does"
    now, _ = await ask(keys, broker.plain(tuple, "TIME"), "a test")
    long_ago = f"5 {int(now) * 1000 - CRON_FORGOTTEN_MS - 1} 0 once UTC 0 3 1 1 *"
    await ask(keys, broker.plain(int, "HSET", keys.cron, "sweep", long_ago), "a test")
    await upkeep._trim(keys)
    await upkeep._trim(keys)
    left = await ask(keys, broker.plain(list, "HKEYS", keys.cron), "a test")
    assert left == [b"alone"]
