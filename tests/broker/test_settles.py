"""Settles and changes in detail: resends and late batches, results and who hears of them, and what a job keeps on its way."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.support import eventually

from bananas import broker
from bananas.address import parse_url
from bananas.broker import Burial, Claim, Comeback, Ending, KeptResult, NewJob, Request
from bananas.connection import Connection
from bananas.errors import ScriptFailed
from bananas.keys import QueueKeys, id_suffix, new_id
from bananas.server import PrivateServer

T0 = 1_800_000_000_000
LEASE = 8_000
STEP = 2**42
Ask = Callable[[Request[Any]], Awaitable[Any]]


def job(delay_ms: int = 0, unique: str = "", priority: int = 500) -> NewJob:
    return NewJob(new_id(id_suffix("task", priority)), b"body", delay_ms, unique)


def members(claim: Claim, boot: str = "aa") -> list[bytes]:
    return [claim.ids_and_scores[2 * i] + f":{boot}:{claim.fence:010d}".encode() for i in range(len(claim.bodies))]


async def claimed(ask: Ask, keys: QueueKeys, *jobs: NewJob, turn: int = 1) -> Claim:
    await ask(broker.enqueue(keys, "client", turn, jobs).at(T0))
    claim: Claim = await ask(broker.claim(keys, "aa", turn, 100, LEASE).at(T0))
    return claim


async def snapshot(connection: Connection, keys: QueueKeys) -> list[Any]:
    """All that a queue holds but its pulse."""
    sets = [("ZRANGE", name, 0, -1, "WITHSCORES") for name in (keys.ready, keys.scheduled, keys.leases, keys.dead)]
    hashes = [("HGETALL", name) for name in (keys.jobs, keys.tries, keys.base + "prio", keys.base + "unique")]
    return await connection.execute([*sets, *hashes, ("SMEMBERS", keys.base + "cancelled")], 5)


def settles(keys: QueueKeys, turn: int, member: bytes, score: bytes) -> list[Request[list[bool]]]:
    return [
        broker.complete(keys, "aa", turn, [Ending(member, KeptResult(60_000, b"value"))], full=False, dropped=b""),
        broker.bury(keys, "aa", turn, [Burial(member, b"1 0 0 0 - ", KeptResult(60_000, b"error"))], full=False, dropped=b""),
        broker.retry(keys, "aa", turn, [Comeback(member, 10, b"1 0 0 0 - ")]),
        broker.release(keys, "aa", turn, [(member, score)]),
    ]


@pytest.mark.parametrize("kind", range(4), ids=["complete", "bury", "retry", "release"])
async def test_a_settle_sent_twice_has_one_effect_and_one_answer(ask: Ask, keys: QueueKeys, connection: Connection, kind: int) -> None:
    claim = await claimed(ask, keys, job())
    request = settles(keys, 1, members(claim)[0], claim.ids_and_scores[1])[kind]
    assert await ask(request.at(T0)) == [True]
    after = await snapshot(connection, keys)
    assert await ask(request.at(T0 + 5)) == [True]
    assert await snapshot(connection, keys) == after


@pytest.mark.parametrize("kind", range(4), ids=["complete", "bury", "retry", "release"])
async def test_a_settle_of_a_lease_that_is_lost_changes_nothing(ask: Ask, keys: QueueKeys, connection: Connection, kind: int) -> None:
    claim = await claimed(ask, keys, job())
    (lost,) = members(claim)
    await ask(broker.reclaim(keys, LEASE, [lost]).at(T0))
    await ask(broker.claim(keys, "bb", 1, 1, LEASE).at(T0))
    before = await snapshot(connection, keys)
    assert await ask(settles(keys, 1, lost, claim.ids_and_scores[1])[kind].at(T0)) == [False]
    assert await snapshot(connection, keys) == before
    assert await connection.execute([("EXISTS", keys.result(lost[:43].decode()))], 5) == [0]


@pytest.mark.parametrize("kind", range(4), ids=["complete", "bury", "retry", "release"])
async def test_a_settle_that_arrives_behind_a_later_one_is_refused(ask: Ask, keys: QueueKeys, connection: Connection, kind: int) -> None:
    claim = await claimed(ask, keys, job(), job())
    first, second = members(claim)
    assert await ask(settles(keys, 2, first, claim.ids_and_scores[1])[kind].at(T0)) == [True]
    before = await snapshot(connection, keys)
    with pytest.raises(ScriptFailed, match="STALE"):
        await ask(settles(keys, 1, second, claim.ids_and_scores[3])[kind].at(T0))
    assert await snapshot(connection, keys) == before


async def test_one_batch_says_for_each_job_whether_its_lease_was_held(ask: Ask, keys: QueueKeys, connection: Connection) -> None:
    held, lost, last = members(await claimed(ask, keys, job(), job(), job()))
    await ask(broker.reclaim(keys, LEASE, [lost]).at(T0))
    endings = [Ending(member, KeptResult(60_000, member)) for member in (held, lost, last)]
    assert await ask(broker.complete(keys, "aa", 1, endings, full=False, dropped=b"")) == [True, False, True]
    results = await connection.execute([("GET", keys.result(member[:43].decode())) for member in (held, lost, last)], 5)
    assert results == [held, None, last]


async def test_every_outcome_is_announced_on_its_channel_with_its_bytes(
    ask: Ask, keys: QueueKeys, server: PrivateServer, connection: Connection
) -> None:
    done, dead = members(await claimed(ask, keys, job(), job()))
    waiting = job(delay_ms=1_000)
    await ask(broker.enqueue(keys, "client", 2, [waiting]).at(T0))
    heard: list[Any] = []
    listening = await Connection.open(parse_url(server.url), on_message=heard.append)
    channels = [keys.result(job_id) for job_id in (done[:43].decode(), dead[:43].decode(), waiting.job_id)]
    listening.post(("SSUBSCRIBE", *channels))

    async def subscribed() -> bool:
        return len(heard) == 3

    await eventually(subscribed)
    await ask(broker.complete(keys, "aa", 1, [Ending(done, KeptResult(60_000, b"value"))], full=False, dropped=b""))
    await ask(broker.bury(keys, "aa", 1, [Burial(dead, b"1 0 0 0 - ", KeptResult(60_000, b"error"))], full=False, dropped=b""))
    await ask(broker.cancel(keys, [waiting.job_id], KeptResult(60_000, b"cancelled"), running=True))

    async def told() -> bool:
        return len(heard) == 6

    await eventually(told)
    listening.close()
    assert [(name.decode(), data) for _, name, data in heard[3:]] == list(zip(channels, [b"value", b"error", b"cancelled"], strict=True))
    lives = await connection.execute([("PTTL", channel) for channel in channels], 5)
    assert all(0 < life <= 60_000 for life in lives)


async def test_a_priority_that_changed_while_a_job_ran_holds_when_it_is_handed_back(
    ask: Ask, keys: QueueKeys, connection: Connection
) -> None:
    claim = await claimed(ask, keys, job(), job())
    (first, second), (_, score, _, other) = members(claim), claim.ids_and_scores
    assert await ask(broker.reprioritize(keys, 100, [first[:43].decode()])) == "l"
    await ask(broker.release(keys, "aa", 1, [(first, score), (second, other)]))
    scores = await connection.execute([("ZSCORE", keys.ready, member[:43]) for member in (first, second)], 5)
    assert [float(found) for found in scores] == [100 * STEP + T0, 500 * STEP + T0]


async def test_a_changed_priority_holds_for_retries_crashes_and_replays(ask: Ask, keys: QueueKeys, connection: Connection) -> None:
    late = job(delay_ms=50)
    claim = await claimed(ask, keys, job(), job(), late)
    crashed, dead = members(claim)
    ids = [crashed[:43].decode(), dead[:43].decode(), late.job_id]
    assert await ask(broker.reprioritize(keys, 7, ids)) == "lls"
    await ask(broker.reclaim(keys, LEASE, [crashed]).at(T0 + 1))
    await ask(broker.bury(keys, "aa", 1, [Burial(dead, b"1 0 0 0 - ")], full=False, dropped=b"").at(T0))
    assert await ask(broker.reprioritize(keys, 8, [ids[1]])) == "d"
    await ask(broker.replay(keys, [ids[1]]).at(T0 + 2))
    await ask(broker.promote(keys).at(T0 + 60))
    scores = await connection.execute([("ZSCORE", keys.ready, job_id) for job_id in ids], 5)
    assert [float(found) for found in scores] == [7 * STEP + T0 + 1, 8 * STEP + T0 + 2, 7 * STEP + T0 + 50]


async def test_making_a_ready_job_ready_keeps_its_place(ask: Ask, keys: QueueKeys) -> None:
    first, second = job(), job()
    await ask(broker.enqueue(keys, "client", 1, [first, second]).at(T0))
    assert await ask(broker.reschedule(keys, 0, [first.job_id]).at(T0 + 50)) == "e"
    claim = await ask(broker.claim(keys, "aa", 1, 1, LEASE).at(T0 + 50))
    assert claim.ids_and_scores == [first.job_id.encode(), str(500 * STEP + T0).encode()]


async def test_a_cancel_of_a_running_job_is_remembered_until_it_ends(ask: Ask, keys: QueueKeys, connection: Connection) -> None:
    claim = await claimed(ask, keys, job())
    (member,) = members(claim)
    assert await ask(broker.cancel(keys, [member[:43].decode()], KeptResult(0, b""), running=True)) == "m"
    await ask(broker.release(keys, "aa", 1, [(member, claim.ids_and_scores[1])]))
    again = await ask(broker.claim(keys, "bb", 1, 1, LEASE).at(T0))
    assert again.cancelled == [1]
    await ask(broker.complete(keys, "bb", 1, [Ending(members(again, "bb")[0])], full=False, dropped=b""))
    assert await connection.execute([("EXISTS", keys.base + "cancelled")], 5) == [0]


async def test_a_replay_forgets_the_old_outcome_and_counts_afresh(ask: Ask, keys: QueueKeys, connection: Connection) -> None:
    (member,) = members(await claimed(ask, keys, job(unique="k")))
    job_id = member[:43].decode()
    await ask(broker.bury(keys, "aa", 1, [Burial(member, b"4 1 1 0 - ", KeptResult(60_000, b"error"))], full=False, dropped=b""))
    assert await ask(broker.replay(keys, [job_id, new_id(id_suffix("task", 500))]).at(T0 + 9)) == "e0"
    assert await connection.execute([("EXISTS", keys.result(job_id))], 5) == [0]
    (tries,) = (await ask(broker.claim(keys, "aa", 2, 1, LEASE).at(T0 + 9))).tries
    assert tries == f"0 0 0 {T0 + 9} - ".encode()
    assert await ask(broker.enqueue(keys, "client", 2, [job(unique="k")])) == [job_id], "its unique key is its own again"


async def test_extending_never_shortens_a_lease(ask: Ask, keys: QueueKeys, connection: Connection) -> None:
    (member,) = members(await claimed(ask, keys, job()))
    await ask(broker.extend(keys, 500, [member]).at(T0 + 10))
    assert await connection.execute([("ZSCORE", keys.leases, member)], 5) == [str(T0 + LEASE).encode()]


async def test_only_the_leases_that_a_lost_reply_held_are_undone(ask: Ask, keys: QueueKeys, connection: Connection) -> None:
    kept = await claimed(ask, keys, job())
    lost = await claimed(ask, keys, job(), turn=2)
    await ask(broker.enqueue(keys, "client", 3, [job()]).at(T0))
    other = await ask(broker.claim(keys, "bb", 1, 1, LEASE).at(T0))
    assert await ask(broker.recover(keys, "aa", 2, kept.fence)) == 1
    (leases, ready) = await connection.execute([("ZRANGE", keys.leases, 0, -1), ("ZRANGE", keys.ready, 0, -1)], 5)
    assert (set(leases), ready) == ({members(kept)[0], members(other, "bb")[0]}, [lost.ids_and_scores[0]])


async def test_a_batch_of_a_thousand_goes_through_every_transition(ask: Ask, keys: QueueKeys, connection: Connection) -> None:
    await ask(broker.enqueue(keys, "client", 1, [job(1, f"key {number}") for number in range(1_000)]).at(T0))
    assert await ask(broker.promote(keys).at(T0 + 1)) == (1_000, -1)
    claim = await ask(broker.claim(keys, "aa", 1, 1_000, LEASE).at(T0 + 1))
    held = members(claim)
    pairs = [(member, claim.ids_and_scores[2 * index + 1]) for index, member in enumerate(held)]
    assert len(held) == sum((await ask(broker.extend(keys, LEASE, held).at(T0 + 2))).held) == 1_000
    assert all(await ask(broker.release(keys, "aa", 1, pairs)))
    held = members(await ask(broker.claim(keys, "aa", 2, 1_000, LEASE).at(T0 + 3)))
    assert await ask(broker.reclaim(keys, LEASE, held).at(T0 + 4)) == 1_000
    held = members(await ask(broker.claim(keys, "aa", 3, 1_000, LEASE).at(T0 + 5)))
    assert all(await ask(broker.retry(keys, "aa", 1, [Comeback(member, 1, b"1 1 0 0 - ") for member in held]).at(T0 + 5)))
    ids = [member[:43].decode() for member in held]
    assert await ask(broker.reschedule(keys, 0, ids).at(T0 + 6)) == "e" * 1_000
    held = members(await ask(broker.claim(keys, "aa", 4, 1_000, LEASE).at(T0 + 6)))
    buried = [Burial(member, b"2 1 0 0 - ", KeptResult(60_000, b"error")) for member in held]
    assert all(await ask(broker.bury(keys, "aa", 1, buried, full=False, dropped=b"")))
    assert await ask(broker.replay(keys, ids).at(T0 + 7)) == "e" * 1_000
    held = members(await ask(broker.claim(keys, "aa", 5, 1_000, LEASE).at(T0 + 7)))
    ended = [Ending(member, KeptResult(60_000, b"value")) for member in held]
    assert all(await ask(broker.complete(keys, "aa", 1, ended, full=False, dropped=b"")))
    assert not any(await snapshot(connection, keys))


async def test_a_job_that_was_to_be_cancelled_when_it_died_runs_when_it_is_replayed(ask: Ask, keys: QueueKeys) -> None:
    (member,) = members(await claimed(ask, keys, job()))
    await ask(broker.cancel(keys, [member[:43].decode()], KeptResult(0, b""), running=True))
    await ask(broker.bury(keys, "aa", 1, [Burial(member, b"1 0 0 0 - ")], full=False, dropped=b""))
    await ask(broker.replay(keys, [member[:43].decode()]).at(T0))
    claim = await ask(broker.claim(keys, "aa", 2, 1, LEASE).at(T0))
    assert (len(claim.bodies), any(claim.cancelled)) == (1, False)


async def test_deleting_a_dead_job_leaves_its_unique_key_to_the_job_that_holds_it_now(ask: Ask, keys: QueueKeys) -> None:
    (member,) = members(await claimed(ask, keys, job(unique="k")))
    await ask(broker.bury(keys, "aa", 1, [Burial(member, b"1 0 0 0 - ")], full=False, dropped=b""))
    holder = job(unique="k")
    assert await ask(broker.enqueue(keys, "client", 2, [holder])) is None
    assert await ask(broker.discard(keys, [member[:43].decode()])) == 1
    assert await ask(broker.enqueue(keys, "client", 3, [job(unique="k")])) == [holder.job_id]
