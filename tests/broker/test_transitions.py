"""Each transition alone, under a clock of the test's: what stood where before, and after."""

from typing import Any

import pytest

from bananas import broker
from bananas.broker import Burial, Claim, Comeback, Ending, Filter, KeptResult, NewJob
from bananas.codec import unpack_tries
from bananas.connection import Connection
from bananas.errors import ScriptFailed
from bananas.keys import QueueKeys, id_suffix, new_id, task_tag
from bananas.orders import Answer, Order, announce, answer, order, read_answer, read_order

T0 = 1_800_000_000_000
LEASE = 8_000
NORMAL = id_suffix("task", 500)


def job(suffix: str = NORMAL, body: bytes = b"body", delay_ms: int = 0, unique: str = "") -> NewJob:
    return NewJob(new_id(suffix), body, delay_ms, unique)


def members(claim: Claim, boot: str = "aa") -> list[bytes]:
    return [claim.ids_and_scores[2 * i] + f":{boot}:{claim.fence:010d}".encode() for i in range(len(claim.bodies))]


async def places(connection: Connection, keys: QueueKeys) -> dict[str, set[bytes]]:
    """The ids in each place."""
    names = {"ready": keys.ready, "scheduled": keys.scheduled, "leased": keys.leases, "dead": keys.dead}
    replies = await connection.execute([("ZRANGE", name, 0, -1) for name in names.values()] + [("HKEYS", keys.jobs)], 5)
    found = {name: {item[:43] for item in reply} for name, reply in zip(names, replies, strict=False)}
    return found | {"jobs": set(replies[-1])}


async def claimed(ask: Any, keys: QueueKeys, jobs: list[NewJob], now: int = T0, number: int = 1) -> list[bytes]:
    await ask(broker.enqueue(keys, "client", number, jobs).at(now))
    return members(await ask(broker.claim(keys, "aa", number, 100, LEASE).at(now)))


async def test_enqueue_puts_jobs_into_ready_in_order_of_priority_then_time(ask: Any, keys: QueueKeys) -> None:
    low, high = job(id_suffix("task", 900)), job(id_suffix("task", 100))
    first, second = job(), job()
    await ask(broker.enqueue(keys, "client", 1, [low, second]).at(T0 + 5))
    await ask(broker.enqueue(keys, "client", 2, [high]).at(T0 + 9))
    await ask(broker.enqueue(keys, "other", 1, [first]).at(T0))
    claim = await ask(broker.claim(keys, "aa", 1, 10, LEASE).at(T0 + 9))
    assert [item.decode() for item in claim.ids_and_scores[::2]] == [high.job_id, first.job_id, second.job_id, low.job_id]


async def test_a_resent_batch_makes_one_job_even_when_it_has_run_and_gone(ask: Any, keys: QueueKeys, connection: Connection) -> None:
    new = job()
    (member,) = await claimed(ask, keys, [new])
    await ask(broker.complete(keys, "aa", 1, [Ending(member)], full=False, dropped=b""))
    assert await ask(broker.enqueue(keys, "client", 1, [new])) is None
    assert (await places(connection, keys))["jobs"] == set()
    await ask(broker.enqueue(keys, "client", 2, [job()]))
    with pytest.raises(ScriptFailed, match="STALE"):
        await ask(broker.enqueue(keys, "client", 1, [new]))


async def test_a_unique_key_stands_for_the_job_that_holds_it_until_it_ends(ask: Any, keys: QueueKeys) -> None:
    first, second = job(unique="k"), job(unique="k")
    assert await ask(broker.enqueue(keys, "client", 1, [first, second])) == [first.job_id, first.job_id]
    (member,) = members(await ask(broker.claim(keys, "aa", 1, 10, LEASE)))
    assert await ask(broker.enqueue(keys, "client", 2, [second])) == [first.job_id]
    await ask(broker.complete(keys, "aa", 1, [Ending(member)], full=False, dropped=b""))
    assert await ask(broker.enqueue(keys, "client", 3, [second])) is None


async def test_a_delayed_job_is_promoted_when_it_is_due_and_not_before(ask: Any, keys: QueueKeys, connection: Connection) -> None:
    await ask(broker.enqueue(keys, "client", 1, [job(delay_ms=500)]).at(T0))
    assert await ask(broker.promote(keys).at(T0 + 499)) == (0, 1)
    assert await ask(broker.promote(keys).at(T0 + 500)) == (1, -1)
    assert len((await places(connection, keys))["ready"]) == 1


async def test_a_claim_stays_within_its_bytes_but_takes_at_least_one_job(ask: Any, keys: QueueKeys) -> None:
    await ask(broker.enqueue(keys, "client", 1, [job(body=b"x" * 1_000_000) for _ in range(4)]))
    await ask(broker.enqueue(keys, "client", 2, [job(body=b"x" * 5_000_000)]))
    assert len((await ask(broker.claim(keys, "aa", 1, 10, LEASE))).bodies) == 4
    assert len((await ask(broker.claim(keys, "aa", 2, 10, LEASE))).bodies) == 1


async def test_a_filtered_claim_leaves_other_jobs_queued(ask: Any, keys: QueueKeys) -> None:
    mine, others = job(id_suffix("mine", 500)), job(id_suffix("other", 100))
    await ask(broker.enqueue(keys, "client", 1, [others, mine]))
    claim = await ask(broker.claim(keys, "aa", 1, 10, LEASE, wanted=Filter((), (task_tag("mine"),))))
    assert (claim.ids_and_scores[0].decode(), claim.left) == (mine.job_id, 1)
    claim = await ask(broker.claim(keys, "aa", 2, 10, LEASE, wanted=Filter((900,))))
    assert (claim.bodies, claim.left) == ([], 1)
    claim = await ask(broker.claim(keys, "aa", 3, 10, LEASE, wanted=Filter((100,))))
    assert claim.ids_and_scores[0].decode() == others.job_id


async def test_complete_checks_the_token_before_it_touches_the_job(ask: Any, keys: QueueKeys, connection: Connection) -> None:
    (member,) = await claimed(ask, keys, [job()])
    stale = member[:-1] + b"9"
    assert await ask(broker.complete(keys, "bb", 1, [Ending(stale)], full=False, dropped=b"")) == [False]
    assert len((await places(connection, keys))["jobs"]) == 1
    ending = [Ending(member, KeptResult(60_000, b"value"))]
    assert await ask(broker.complete(keys, "aa", 1, ending, full=False, dropped=b"")) == [True]
    assert await ask(broker.complete(keys, "aa", 1, ending, full=False, dropped=b"")) == [True], "a resent success is a success"
    found = await places(connection, keys)
    assert all(not ids for ids in found.values())
    assert await connection.execute([("GET", keys.result(member[:43].decode()))], 5) == [b"value"]


async def test_a_result_larger_than_its_body_is_dropped_to_a_mark_when_the_server_is_full(
    ask: Any, keys: QueueKeys, connection: Connection
) -> None:
    (member,) = await claimed(ask, keys, [job(body=b"small")])
    await ask(broker.complete(keys, "aa", 1, [Ending(member, KeptResult(60_000, b"v" * 100))], full=True, dropped=b"mark"))
    assert await connection.execute([("GET", keys.result(member[:43].decode()))], 5) == [b"mark"]


async def test_retry_bury_and_replay_move_a_job_and_keep_its_tries(ask: Any, keys: QueueKeys, connection: Connection) -> None:
    (member,) = await claimed(ask, keys, [job(unique="k")])
    assert await ask(broker.retry(keys, "aa", 1, [Comeback(member, 100, b"1 0 0 0 - ")]).at(T0)) == [True]
    await ask(broker.promote(keys).at(T0 + 100))
    claim = await ask(broker.claim(keys, "aa", 2, 10, LEASE).at(T0 + 100))
    assert unpack_tries(claim.tries[0]).attempts == 1
    (member,) = members(claim)
    assert await ask(broker.bury(keys, "aa", 2, [Burial(member, b"2 0 0 0 - ")], full=False, dropped=b"")) == [True]
    job_id = member[:43].decode()
    assert await ask(broker.enqueue(keys, "client", 2, [job(unique="k")])) is None, "entering dead frees the key"
    assert await ask(broker.replay(keys, [job_id])) == "u", "the key is held by another job now"
    await ask(broker.enqueue(keys, "client", 3, [job(unique="k")]))
    assert (await places(connection, keys))["dead"] == {member[:43]}
    assert await ask(broker.discard(keys, [job_id])) == 1


async def test_release_puts_a_job_back_where_it_stood(ask: Any, keys: QueueKeys, connection: Connection) -> None:
    await ask(broker.enqueue(keys, "client", 1, [job()]).at(T0))
    claim = await ask(broker.claim(keys, "aa", 1, 1, LEASE).at(T0 + 50))
    await ask(broker.release(keys, "aa", 1, [(members(claim)[0], claim.ids_and_scores[1])]))
    (score,) = await connection.execute([("ZSCORE", keys.ready, claim.ids_and_scores[0])], 5)
    assert float(score) == float(claim.ids_and_scores[1])


async def test_extend_renews_what_is_held_and_names_what_is_lost_or_cancelled(ask: Any, keys: QueueKeys) -> None:
    held, wanted = await claimed(ask, keys, [job(), job()])
    code = await ask(broker.cancel(keys, [wanted[:43].decode()], KeptResult(1_000, b""), running=True))
    assert code == "m"
    lost = held[:-1] + b"7"
    extension = await ask(broker.extend(keys, LEASE, [held, lost, wanted]).at(T0 + 1))
    assert (extension.held, extension.cancelled) == ([True, False, True], [False, False, True])


async def test_an_expired_lease_is_taken_back_after_its_grace_with_a_crash_counted(ask: Any, keys: QueueKeys) -> None:
    (member,) = await claimed(ask, keys, [job()])
    for now in range(T0 + 2_000, T0 + LEASE + 4_000, 2_000):
        assert await ask(broker.reclaim(keys, LEASE).at(now)) == 0
    assert await ask(broker.reclaim(keys, LEASE).at(T0 + LEASE + 4_000)) == 1
    claim = await ask(broker.claim(keys, "bb", 1, 1, LEASE).at(T0 + LEASE + 4_001))
    assert unpack_tries(claim.tries[0]).crashes == 1
    assert await ask(broker.complete(keys, "aa", 1, [Ending(member)], full=False, dropped=b"")) == [False], "the late settle is refused"


async def test_what_is_no_lease_is_not_in_the_way_of_taking_leases_back(ask: Any, keys: QueueKeys, connection: Connection) -> None:
    lost = await claimed(ask, keys, [job()])
    garbage = ["0" * 43 + ":abc:1", "garbage"]
    await connection.execute([("ZADD", keys.leases, 1, name) for name in garbage], 5)
    assert await ask(broker.reclaim(keys, LEASE, lost).at(T0)) == 1
    assert await ask(broker.reclaim(keys, LEASE).at(T0 + LEASE)) == 0, "there was a gap"
    assert await ask(broker.reclaim(keys, LEASE).at(T0 + LEASE + LEASE // 2)) == len(garbage)
    found = await places(connection, keys)
    assert (len(found["ready"]), found["leased"]) == (1, set())


async def test_after_a_gap_live_workers_extend_before_anybody_reclaims(ask: Any, keys: QueueKeys) -> None:
    (member,) = await claimed(ask, keys, [job()])
    late = T0 + 60_000
    assert await ask(broker.reclaim(keys, LEASE).at(late)) == 0, "the server was away: wait two heartbeats"
    assert (await ask(broker.extend(keys, LEASE, [member]).at(late + 1))).held == [True]
    assert await ask(broker.reclaim(keys, LEASE).at(late + 4_001)) == 0


async def test_only_a_crash_while_alone_counts_to_poison(ask: Any, keys: QueueKeys) -> None:
    (member,) = await claimed(ask, keys, [job()])
    assert await ask(broker.reclaim(keys, LEASE, [member]).at(T0)) == 1
    claim = await ask(broker.claim(keys, "aa", 2, 1, LEASE).at(T0))
    assert (unpack_tries(claim.tries[0]).crashes, unpack_tries(claim.tries[0]).alone) == (1, 0)
    (member,) = members(claim)
    assert await ask(broker.isolate(keys, member)) is True
    assert await ask(broker.isolate(keys, member[:-1] + b"9")) is False
    await ask(broker.reclaim(keys, LEASE, [member]).at(T0))
    claim = await ask(broker.claim(keys, "aa", 3, 1, LEASE).at(T0))
    assert (unpack_tries(claim.tries[0]).crashes, unpack_tries(claim.tries[0]).alone) == (2, 1)


async def test_recover_undoes_a_lost_claim_and_makes_it_void_should_it_arrive_late(ask: Any, keys: QueueKeys) -> None:
    await ask(broker.enqueue(keys, "client", 1, [job()]))
    await ask(broker.claim(keys, "aa", 5, 10, LEASE))
    assert await ask(broker.recover(keys, "aa", 5, 0)) == 1
    late = await ask(broker.claim(keys, "aa", 5, 10, LEASE))
    assert (late.bodies, late.left) == ([], 1)
    again = await ask(broker.claim(keys, "aa", 6, 10, LEASE))
    assert (len(again.bodies), again.tries) == (1, [])
    assert await ask(broker.recover(keys, "aa", 5, 0)) == 0, "what undoes it, arriving late, leaves the later claim alone"


async def test_cancel_ends_what_waits_and_tells_who_listens(ask: Any, keys: QueueKeys, connection: Connection) -> None:
    waiting, delayed = job(unique="k"), job(delay_ms=1_000)
    await ask(broker.enqueue(keys, "client", 1, [waiting, delayed]))
    ids = [waiting.job_id, delayed.job_id, new_id(NORMAL)]
    assert await ask(broker.cancel(keys, ids, KeptResult(60_000, b"cancelled"), running=True)) == "ee0"
    assert (await places(connection, keys))["jobs"] == set()
    assert await connection.execute([("GET", keys.result(waiting.job_id)), ("EXISTS", keys.base + "unique")], 5) == [b"cancelled", 0]


async def test_priority_and_time_change_while_a_job_waits(ask: Any, keys: QueueKeys) -> None:
    slow, other = job(id_suffix("task", 900)), job()
    await ask(broker.enqueue(keys, "client", 1, [slow, other]).at(T0))
    assert await ask(broker.reprioritize(keys, 100, [slow.job_id])) == "r"
    assert await ask(broker.reschedule(keys, 1_000, [other.job_id]).at(T0)) == "e"
    claim = await ask(broker.claim(keys, "aa", 1, 10, LEASE).at(T0))
    assert [item.decode() for item in claim.ids_and_scores[::2]] == [slow.job_id]
    assert await ask(broker.reschedule(keys, 0, [slow.job_id, other.job_id]).at(T0)) == "le"


async def test_a_paused_queue_takes_jobs_but_gives_none(ask: Any, keys: QueueKeys, connection: Connection) -> None:
    assert await ask(broker.pause(keys, True)) is True
    assert await ask(broker.pause(keys, True)) is False
    await ask(broker.enqueue(keys, "client", 1, [job()]))
    claim = await ask(broker.claim(keys, "aa", 1, 10, LEASE))
    assert (claim.bodies, claim.paused) == ([], 1)
    assert await connection.execute([("EXISTS", keys.wake)], 5) == [0]
    assert await ask(broker.pause(keys, False)) is True
    assert await connection.execute([("EXISTS", keys.wake)], 5) == [1]
    assert await ask(broker.rearm(keys)) is True


async def test_a_cron_tick_fires_once_however_many_try(ask: Any, keys: QueueKeys, connection: Connection) -> None:
    assert await ask(broker.cron_register(keys, [("sweep", b"every 1", T0)]).at(T0 - 5)) == [T0 - 5, T0, 0]
    assert await ask(broker.cron_register(keys, [("sweep", b"every 1", T0 + 99)]).at(T0 - 4)) == [T0 - 4, T0, 0]
    fire = broker.cron_fire(keys, "sweep", b"every 1", T0, T0 + 1_000, [job(unique="cron:sweep")])
    assert [await ask(fire), await ask(fire)] == [(True, 1), (False, 0)]
    again = broker.cron_fire(keys, "sweep", b"every 1", T0 + 1_000, T0 + 2_000, [job(unique="cron:sweep")])
    assert await ask(again) == (True, 0), "the job of the earlier tick is alive"


async def test_of_two_versions_of_a_schedule_the_newer_holds_until_nobody_announces_it(ask: Any, keys: QueueKeys) -> None:
    async def register(schedule: bytes, first: int, now: int) -> int:
        (_, tick, _) = await ask(broker.cron_register(keys, [("sweep", schedule, first)]).at(now))
        return int(tick)

    def fire(schedule: bytes, tick: int) -> broker.Request[tuple[bool, int]]:
        return broker.cron_fire(keys, "sweep", schedule, tick, tick + 600_000, [job()])

    assert await register(b"old", T0 + 5_000, T0) == T0 + 5_000
    assert await register(b"new", T0 + 7_000, T0 + 1_000) == T0 + 7_000
    assert await register(b"old", T0 + 5_000, T0 + 2_000) == T0 + 32_000, "passed over"
    assert await ask(fire(b"old", T0 + 5_000)) == (False, 0)
    assert await register(b"new", T0 + 9_000, T0 + 7_000) == T0 + 7_000, "its tick is not lost"
    assert await ask(fire(b"new", T0 + 7_000)) == (True, 1)
    assert await register(b"old", T0 + 50_000, T0 + 36_999) == T0 + 66_999, "still announced within half a minute"
    assert await register(b"old", T0 + 50_000, T0 + 37_000) == T0 + 50_000, "taken back: nobody announces the newer one"
    assert await register(b"new", T0 + 60_000, T0 + 38_000) == T0 + 68_000, "which is the replaced one now"


async def test_info_names_the_place_of_a_job(ask: Any, keys: QueueKeys) -> None:
    first, second = job(), job()
    await ask(broker.enqueue(keys, "client", 1, [first, second]).at(T0))
    reply = await ask(broker.info(keys, second.job_id).at(T0 + 3))
    assert (reply[1], reply[2], reply[3]) == (b"ready", str(T0).encode(), 1)
    assert (await ask(broker.info(keys, new_id(NORMAL))))[1] == b"none"


async def test_an_order_waits_until_the_worker_has_obeyed_it(ask: Any) -> None:
    stop, drain = Order("1" * 16, "stop"), Order("2" * 16, "drain")
    assert await ask(order("n", "aa", stop).at(T0)) == "n", "no such worker"
    await ask(announce("n", "aa", 1_000, b"record", ["jobs"]).at(T0))
    assert [await ask(order("n", "aa", each).at(T0)) for each in (stop, drain)] == ["g", "g"]
    now_ms, waiting = await ask(announce("n", "aa", 1_000, b"record", ["jobs"]).at(T0 + 1))
    assert (now_ms, [read_order(packed) for packed in waiting]) == (T0 + 1, [stop, drain])
    assert await ask(announce("n", "bb", 1_000, b"record", ["jobs"]).at(T0)) == (T0, []), "another worker's"
    assert await ask(announce("n", "aa", 1_000, b"record", ["jobs"], waiting[:1]).at(T0)) == (T0, waiting[1:])
    assert await ask(announce("n", "aa", 1_000, b"record", ["jobs"], waiting).at(T0)) == (T0, [])
    assert await ask(order("n", "aa", stop).at(T0 + 1_001)) == "n", "its sign of life is too old"


async def test_so_many_orders_wait_at_most(ask: Any) -> None:
    await ask(announce("n", "aa", 60_000, b"record", []).at(T0))
    given = [await ask(order("n", "aa", Order(f"{i:016x}", "stack", "q.1")).at(T0)) for i in range(101)]
    assert given == ["g"] * 100 + ["f"]


async def test_an_answer_is_kept_for_a_while(ask: Any, connection: Connection) -> None:
    assert await ask(answer("n", "1" * 16, Answer(True, "text"))) == 1
    (packed, ttl) = await connection.execute([("GET", "{n}:answer:" + "1" * 16), ("PTTL", "{n}:answer:" + "1" * 16)], 5)
    assert (read_answer(packed), 0 < ttl <= 60_000) == (Answer(True, "text"), True)


def test_what_is_no_order_is_none() -> None:
    assert [read_order(data) for data in (b"", b"\xc1", b"\x91" * 5_000, b"\x80")] == [None] * 4


async def test_announce_and_withdraw(ask: Any, connection: Connection) -> None:
    await ask(announce("n", "aa", 1_000, b"record", ["jobs"]).at(T0))
    (record, names) = await connection.execute([("HGET", "{n}:workers", "aa"), ("SMEMBERS", "{n}:queues")], 5)
    assert (int.from_bytes(record[:8], "big"), record[8:], list(names)) == (T0 + 1_000, b"record", [b"jobs"])
