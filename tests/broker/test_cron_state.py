"""Cron entries that operators pause, resume and run, by their scripts, also beside those of a version that knows nothing of it."""

from __future__ import annotations

from typing import Any

import pytest

from bananas import broker
from bananas.broker import NewJob, Request
from bananas.keys import QueueKeys, id_suffix, new_id
from bananas.operate.requests import cron_pause, cron_run
from bananas.scripts import Script, _read

T0 = 1_000_000
FAR = 9_999_999_999_999
EVERY = b"1000 once UTC "
SUFFIX = id_suffix("sweep", 500)

# The scripts of the version before, whose workers may share the server.
OLD_REGISTER = """
local GRACE = 30000
local reply, now = {NOW}, string.format('%.0f', NOW)

local function read(field) return string.match(call('HGET', KEYS[12], field) or '', '^(%d+) (%d+) (.*)$') end

for i = 2, #ARGV, 3 do
  local name, wanted = ARGV[i], ARGV[i + 1]
  local next_ms, announced, schedule = read(name)
  local _, _, older = read(name .. '\0older')
  if schedule and schedule ~= wanted and older == wanted and NOW - announced < GRACE then
    reply[#reply + 1] = NOW + GRACE
  else
    if schedule and schedule ~= wanted then
      call('HSET', KEYS[12], name .. '\0older', '0 ' .. now .. ' ' .. schedule)
    end
    if schedule ~= wanted then next_ms = ARGV[i + 2] end
    call('HSET', KEYS[12], name, next_ms .. ' ' .. now .. ' ' .. wanted)
    reply[#reply + 1] = tonumber(next_ms)
  end
end
return reply
"""
OLD_FIRE = """
local seen, announced, schedule = string.match(call('HGET', KEYS[12], ARGV[2]) or '', '^(%d+) (%d+) (.*)$')
if seen ~= ARGV[4] or schedule ~= ARGV[3] then return {0, 0} end
local scored = {}
for i = 6, #ARGV, 3 do
  local id, key = ARGV[i], ARGV[i + 2]
  if key == '' or call('HSETNX', UNIQUE, '=' .. key, id) == 1 then
    if key ~= '' then call('HSET', UNIQUE, id, key) end
    call('HSET', JOBS, id, struct.pack('>I8', NOW) .. ARGV[i + 1])
    scored[#scored + 1], scored[#scored + 2] = score_at(id, NOW), id
  end
end
make_ready(scored)
call('HSET', KEYS[12], ARGV[2], ARGV[5] .. ' ' .. announced .. ' ' .. schedule)
return {1, #scored / 2}
"""


def job(unique: str = "") -> NewJob:
    return NewJob(new_id(SUFFIX), b"body", unique=unique)


def old(source: str, keys: QueueKeys, *args: Any) -> Request[Any]:
    import hashlib

    whole = f"#!lua\n{_read('_prelude')}{source}"
    made = Script("old", whole, hashlib.sha1(whole.encode(), usedforsecurity=False).hexdigest())
    return Request(lambda reply: reply, made, (*keys.fixed, keys.cron), args)


class Entry:
    """The entry `sweep`, which two versions of the code announce and fire."""

    def __init__(self, ask: Any, keys: QueueKeys) -> None:
        self._ask, self._keys = ask, keys

    async def register(self, now: int, first: int = T0 + 1_000, schedule: bytes = EVERY) -> tuple[int, int]:
        """The next tick, and when a run was asked for."""
        _, tick, asked = await self._ask(broker.cron_register(self._keys, [("sweep", schedule, first)]).at(now))
        return tick, asked

    async def fire(self, tick: int, following: int | None, now: int, missed: int = 0, unique: str = "") -> tuple[bool, int]:
        request = broker.cron_fire(self._keys, "sweep", EVERY, tick, following, [job(unique)], missed)
        fired: tuple[bool, int] = await self._ask(request.at(now))
        return fired

    async def old_register(self, now: int, schedule: bytes = EVERY) -> int:
        _, tick = await self._ask(old(OLD_REGISTER, self._keys, "sweep", schedule, T0 + 1_000).at(now))
        return int(tick)

    async def old_fire(self, tick: int, following: int, now: int) -> list[int]:
        new = job()
        request = old(OLD_FIRE, self._keys, "sweep", EVERY, tick, following, new.job_id, new.body, "")
        return list(await self._ask(request.at(now)))

    async def pause(self, paused: bool, now: int, following: int = 0, schedule: bytes = EVERY) -> int:
        return int(await self._ask(cron_pause(self._keys, "sweep", schedule, paused, following).at(now)))

    async def run(self, now: int) -> int:
        return int(await self._ask(cron_run(self._keys, "sweep", 60_000).at(now)))


@pytest.fixture
def entry(ask: Any, keys: QueueKeys) -> Entry:
    return Entry(ask, keys)


async def test_a_paused_entry_has_no_tick_until_it_is_resumed(entry: Entry) -> None:
    assert await entry.pause(True, T0) == -1, "no such entry"
    assert await entry.register(T0) == (T0 + 1_000, 0)
    assert [await entry.pause(True, T0), await entry.pause(True, T0)] == [1, 0]
    assert await entry.fire(T0 + 1_000, T0 + 2_000, T0 + 1_000) == (False, 0)
    assert await entry.register(T0 + 5_000) == (FAR, 0)
    assert await entry.register(T0 + 5_000, T0 + 7_000, b"2000 once UTC ") == (FAR, 0), "a new schedule does not end the pause"
    assert await entry.pause(False, T0 + 5_000, T0 + 6_000) == -1, "the schedule is another by now"
    assert await entry.pause(False, T0 + 5_000, T0 + 6_000, b"2000 once UTC ") == 1
    assert await entry.register(T0 + 5_000, T0 + 9_000, b"2000 once UTC ") == (T0 + 6_000, 0)
    assert await entry.pause(False, T0 + 5_000, T0 + 6_000, b"2000 once UTC ") == 0


async def test_a_run_that_is_asked_for_comes_once_and_changes_no_tick(entry: Entry) -> None:
    assert await entry.run(T0) == -1, "no such entry"
    await entry.register(T0)
    assert await entry.run(T0 + 60_001) == -2, "nobody announces it"
    await entry.register(T0 + 60_001)
    asked = await entry.run(T0 + 60_001)
    assert [asked, await entry.run(T0 + 60_005)] == [T0 + 60_001] * 2, "the one that was asked for stands"
    assert await entry.register(T0 + 60_010) == (T0 + 1_000, asked)
    assert await entry.fire(asked - 1, None, T0 + 60_010) == (False, 0)
    assert [await entry.fire(asked, None, T0 + 60_010), await entry.fire(asked, None, T0 + 60_010)] == [(True, 1), (False, 0)]
    assert await entry.register(T0 + 60_011) == (T0 + 1_000, 0)


async def test_a_paused_entry_may_be_run_and_stays_paused(entry: Entry) -> None:
    await entry.register(T0)
    await entry.pause(True, T0)
    asked = await entry.run(T0 + 1)
    assert await entry.register(T0 + 2) == (FAR, asked)
    assert await entry.fire(asked, None, T0 + 2) == (True, 1)
    assert await entry.register(T0 + 3) == (FAR, 0)


async def test_missed_ticks_and_the_last_job_are_kept(ask: Any, keys: QueueKeys, entry: Entry) -> None:
    await entry.register(T0)
    assert await entry.fire(T0 + 1_000, T0 + 5_000, T0 + 4_000, missed=3, unique="u") == (True, 1)
    assert await entry.fire(T0 + 5_000, T0 + 6_000, T0 + 5_000, unique="u") == (True, 0), "the earlier job is alive"
    (state,) = [await ask(broker.plain(bytes, "HGET", keys.cron, "sweep\0state"))]
    (newest,) = await ask(broker.plain(list, "ZRANGE", keys.ready, 0, -1))
    assert state.decode() == f"0 {FAR} 0 0 {T0 + 4_000} 4 {newest.decode()}"


async def test_a_version_that_knows_no_pause_does_not_fire_a_paused_entry(entry: Entry) -> None:
    assert await entry.old_register(T0) == T0 + 1_000
    assert await entry.pause(True, T0) == 1
    assert await entry.old_register(T0 + 2_000) == FAR
    assert await entry.old_fire(T0 + 1_000, T0 + 2_000, T0 + 2_000) == [0, 0]
    assert await entry.pause(False, T0 + 2_000, T0 + 3_000) == 1
    assert await entry.old_fire(T0 + 3_000, T0 + 4_000, T0 + 3_000) == [1, 1]
    assert await entry.register(T0 + 3_500) == (T0 + 4_000, 0)
    assert await entry.fire(T0 + 4_000, T0 + 5_000, T0 + 4_000) == (True, 1)
    assert await entry.old_register(T0 + 4_100) == T0 + 5_000


async def test_a_pause_that_an_old_version_ends_by_a_new_schedule_is_mended_by_a_newer_one(entry: Entry) -> None:
    await entry.old_register(T0, b"5000 once UTC ")
    assert await entry.pause(True, T0, 0, b"5000 once UTC ") == 1
    assert await entry.old_register(T0 + 1) == T0 + 1_000, "it takes the entry for a changed one"
    assert await entry.fire(T0 + 1_000, T0 + 2_000, T0 + 1_000) == (False, 0), "paused all the same"
    assert await entry.register(T0 + 1_001) == (FAR, 0)
    assert await entry.old_fire(T0 + 1_000, T0 + 2_000, T0 + 1_002) == [0, 0]


def test_what_stands_beside_an_entry_is_no_entry_to_an_old_version() -> None:
    """It reads the second word as the time of the last announcement, and deletes what nobody has announced for a day."""
    assert int(f"0 {FAR} 1 0 0 0 ".encode().split(b" ", 2)[1]) == FAR
