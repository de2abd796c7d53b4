"""jot.lua alone: what jobs tell is written once, bounded, and only by who holds the lease."""

from typing import Any

import pytest
from tests.broker.test_transitions import T0, claimed, job

from bananas import broker
from bananas.broker import Ending
from bananas.connection import Connection
from bananas.info import job_info
from bananas.job import JobInfo
from bananas.keys import QueueKeys
from bananas.notes import MOST_LINES, pack_line, pack_progress
from bananas.seals import UNSEALED
from bananas.worker.notes import Entry, jot


def entry(member: bytes, number: int, *texts: str, keys: QueueKeys, fraction: float | None = None, ttl_ms: int = 60_000) -> Entry:
    place = keys, member[:43].decode()
    progress = b"" if fraction is None else pack_progress(int(member[-10:]), fraction, f"{fraction:.0%}", None, place)
    return Entry(member, number, ttl_ms, progress, len(texts), b"".join(pack_line(T0, 1, text, None, place) for text in texts))


async def told(ask: Any, keys: QueueKeys, member: bytes) -> JobInfo:
    job_id = member[:43].decode()
    return job_info(keys, job_id, await ask(broker.info(keys, job_id)), UNSEALED)


async def log(ask: Any, keys: QueueKeys, member: bytes) -> list[str]:
    return [line.text for line in (await told(ask, keys, member)).log]


async def test_lines_are_added_and_a_progress_stays_until_the_next(ask: Any, keys: QueueKeys, connection: Connection) -> None:
    first, second = await claimed(ask, keys, [job(), job()])
    written = [
        entry(first, 1, "a", "b", keys=keys, fraction=0.5),
        entry(second, 1, keys=keys, fraction=0.1),
        entry(first, 2, "c", keys=keys),
    ]
    assert await ask(jot(keys, written)) == [True] * 3
    info = await told(ask, keys, first)
    assert (info.progress, info.progress_text, [line.text for line in info.log]) == (0.5, "50%", ["a", "b", "c"])
    assert ((await told(ask, keys, second)).progress, await log(ask, keys, second)) == (0.1, [])
    (ttl,) = await connection.execute([("PTTL", keys.notes(first[:43].decode()))], 5)
    assert 0 < ttl <= 60_000


async def test_a_resent_note_is_written_once(ask: Any, keys: QueueKeys) -> None:
    (member,) = await claimed(ask, keys, [job()])
    sent = [entry(member, 1, "once", keys=keys)]
    assert [await ask(jot(keys, sent)) for _ in range(3)] == [[True]] * 3
    assert await log(ask, keys, member) == ["once"]


async def test_who_does_not_hold_the_lease_changes_nothing(ask: Any, keys: QueueKeys, connection: Connection) -> None:
    (member,) = await claimed(ask, keys, [job()])
    stale = member[:-1] + b"9"
    assert await ask(jot(keys, [entry(member, 1, "mine", keys=keys)])) == [True]
    other = [entry(stale, 1, "not mine", keys=keys), entry(stale, 2, keys=keys, ttl_ms=0)]
    assert await ask(jot(keys, other)) == [False, False]
    assert await log(ask, keys, member) == ["mine"]
    await ask(broker.complete(keys, "aa", 1, [Ending(member)], full=False, dropped=b""))
    assert await ask(jot(keys, [entry(member, 2, "too late", keys=keys)])) == [False]
    (kept,) = await connection.execute([("GET", keys.notes(member[:43].decode()))], 5)
    assert b"too late" not in kept


async def test_the_oldest_lines_go(ask: Any, keys: QueueKeys) -> None:
    (member,) = await claimed(ask, keys, [job()])
    for number in range(1, 4):
        await ask(jot(keys, [entry(member, number, *(f"{number}.{line}" for line in range(40)), keys=keys)]))
    assert await log(ask, keys, member) == [f"{number}.{line}" for number in range(1, 4) for line in range(40)][-MOST_LINES:]


async def test_without_a_lifetime_what_is_stored_is_deleted(ask: Any, keys: QueueKeys, connection: Connection) -> None:
    (member,) = await claimed(ask, keys, [job()])
    await ask(jot(keys, [entry(member, 1, "a", keys=keys)]))
    assert await ask(jot(keys, [entry(member, 2, keys=keys, ttl_ms=0)])) == [True]
    assert await connection.execute([("EXISTS", keys.notes(member[:43].decode()))], 5) == [0]


@pytest.mark.parametrize("damaged", [b"", b"x", b"1 1 900 0 abc", b"0000000001 1 99 5 12", b"0000000001 1 100 0 \xff\xff\xff\xff"])
async def test_a_damaged_value_is_written_over(ask: Any, keys: QueueKeys, connection: Connection, damaged: bytes) -> None:
    (member,) = await claimed(ask, keys, [job()])
    await connection.execute([("SET", keys.notes(member[:43].decode()), damaged, "EX", 60)], 5)
    assert (await told(ask, keys, member)).log == ()
    assert await ask(jot(keys, [entry(member, 2, *["b"] * MOST_LINES, keys=keys)])) == [True]
    await told(ask, keys, member)
