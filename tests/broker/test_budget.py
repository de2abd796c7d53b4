"""A server that is slow, full, or another version's: how long a call tries, what it tells, and what goes on meanwhile."""

import asyncio
import gc
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.support import GO_ON, STALL, eventually, wait_until

from bananas import AuthenticationFailed, Bananas, BrokerUnavailable, QueueFull, ServerUnsuitable, broker
from bananas.broker import Burial, Comeback, Ending, KeptResult, NewJob, Request
from bananas.codec import pack_envelope
from bananas.connection import Connection, spinning
from bananas.errors import BrokerError
from bananas.job import Envelope
from bananas.keys import QueueKeys, id_suffix, new_id, queues_key
from bananas.orders import announce
from bananas.server import PrivateServer
from bananas.session import run

LEASE = 8_000
BODY = pack_envelope(Envelope("task", ()), 1_000)


def job() -> NewJob:
    return NewJob(new_id(id_suffix("task", 500)), BODY)


async def ready(app: Bananas) -> int:
    return (await app.queue("default").counts()).ready


async def test_a_submit_without_an_answer_ends_with_its_budget_and_says_that_it_may_have_taken_effect(
    app: Bananas, connection: Connection
) -> None:
    await app.submit("task", 1)
    await connection.execute([STALL], 5)
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="may have taken effect"):
        await app.submit("task", 2, options={"call_timeout": 0.5})
    assert 0.5 <= time.monotonic() - began < 0.95, "the resend gets what is left of the budget, not another one"
    await connection.execute([GO_ON], 5)


async def test_a_submit_that_nobody_answered_in_time_made_at_most_one_job(app: Bananas, connection: Connection) -> None:
    await app.submit("task", 1)
    await connection.execute([STALL], 5)
    with pytest.raises(BrokerUnavailable):
        await app.submit("task", 2, options={"call_timeout": 0.1})
    await connection.execute([GO_ON], 5)
    await app.submit("task", 3)
    assert await ready(app) in (2, 3)


async def test_a_short_budget_does_not_fail_its_neighbours(app: Bananas, connection: Connection) -> None:
    await app.submit("task", 1)
    await connection.execute([STALL], 5)
    short = asyncio.ensure_future(app.submit("task", 2, options={"call_timeout": 0.05}))
    patient = asyncio.ensure_future(app.submit("task", 3, options={"call_timeout": 10}))
    with pytest.raises(BrokerUnavailable, match=r"within 0\.05 s"):
        await short
    await connection.execute([GO_ON], 5)
    assert (await patient).created


async def test_a_submit_that_is_cancelled_before_it_was_sent_is_not_sent(app: Bananas, connection: Connection) -> None:
    await app.submit("task", 1)
    await connection.execute([STALL], 5)
    sent = asyncio.ensure_future(app.submit("task", 2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    left, kept = asyncio.ensure_future(app.submit("task", 3)), asyncio.ensure_future(app.submit("task", 4))
    await asyncio.sleep(0)
    left.cancel()
    await connection.execute([GO_ON], 5)
    await asyncio.gather(sent, kept)
    assert (left.cancelled(), await ready(app)) == (True, 3)


async def test_a_budget_that_ends_before_a_connection_says_that_nothing_was_sent() -> None:
    app = Bananas("unix:///nowhere/at.all", call_timeout=0.05)
    with pytest.raises(BrokerUnavailable, match=r"did not answer within 0\.05 s.*Nothing was sent"):
        await app.submit("task", 1)


def test_a_thread_that_finds_every_connection_busy_is_told_which_setting_to_raise(server: PrivateServer) -> None:
    app = Bananas(server.url, namespace="busy", redis_pool_size=1, call_timeout=5)
    app.submit_sync("task", 1)
    taken, leave = ThreadPoolExecutor(1), []

    def hold(_: Any) -> None:
        leave.append(False)
        wait_until(lambda: leave[0])

    with taken:
        held = taken.submit(app.client.pool.use, hold, 5)
        wait_until(lambda: leave)
        with pytest.raises(BrokerUnavailable, match="REDIS_POOL_SIZE"):
            app.submit_sync("task", 2, options={"call_timeout": 0.01})
        leave[0] = True
        held.result()
    app.client.close_sync()


def test_a_forked_child_has_a_boot_id_of_its_own(server: PrivateServer) -> None:
    app = Bananas(server.url, namespace="forked")

    def boot() -> bytes:
        return bytes(app.client.pool.use(lambda lane: lane.boot.encode(), 5))

    mine = boot()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(tell, boot())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(told, 100)
    os.close(told)
    os.close(tell)
    assert len(theirs) == 16
    assert boot() == mine != theirs
    app.client.close_sync()


def test_a_child_of_a_process_that_spins_may_spin(server: PrivateServer) -> None:
    app = Bananas(server.url, namespace="spinning")
    with spinning:
        child = os.fork()
        if child == 0:
            os._exit(spinning.locked())
    assert os.waitpid(child, 0)[1] == 0
    app.client.close_sync()


def test_loops_that_have_ended_leave_no_connections(server: PrivateServer) -> None:
    app = Bananas(server.url, namespace="loops")

    async def submit() -> None:
        await app.submit("task", 1)

    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # asyncio's own, of a loop that ended without a close
        for _ in range(3):
            asyncio.run(submit())
        clients = len(app.client._loops)
        app.client._reset()
        gc.collect()
    assert clients == 1


async def test_who_may_not_load_scripts_is_told_so(server: PrivateServer, connection: Connection) -> None:
    rights = ("ACL", "SETUSER", "loadless", "on", ">pw", "~*", "&*", "+@all", "-script|load")
    await connection.execute([rights, ("SCRIPT", "FLUSH")], 5)
    app = Bananas(f"{server.url}&username=loadless&password=pw", namespace="loadless", call_timeout=5)
    try:
        with pytest.raises(AuthenticationFailed, match=r"script\|load"):
            await app.submit("task", 1)
    finally:
        await app.close()
        await connection.execute([("ACL", "DELUSER", "loadless")], 5)


# --- a full server ------------------------------------------------------------------------------------------------------------------


async def test_a_full_server_refuses_a_queue_that_it_never_saw_and_takes_it_later(app: Bananas, connection: Connection) -> None:
    await connection.execute([("CONFIG", "SET", "maxmemory", 1)], 5)
    with pytest.raises(QueueFull, match="nothing of this batch was stored"):
        await app.submit("task", 1)
    await connection.execute([("CONFIG", "SET", "maxmemory", 0)], 5)
    await app.submit("task", 2)
    assert await ready(app) == 1
    assert await connection.execute([("SISMEMBER", queues_key(app.settings.namespace), "default")], 5) == [1]


async def test_everything_but_new_jobs_goes_on_when_the_server_is_full(keys: QueueKeys, connection: Connection, ask: Any) -> None:
    jobs = [job() for _ in range(5)]
    waiting = NewJob(new_id(id_suffix("task", 900)), BODY, 60_000)
    await ask(broker.enqueue(keys, "client", 1, [*jobs, waiting]))
    await ask(broker.cron_register(keys, [("sweep", b"every 1", 5)]))
    await connection.execute([("CONFIG", "SET", "maxmemory", 1)], 5)
    claim = await ask(broker.claim(keys, "aa", 1, 5, LEASE))
    ended, dead, late, back, crashed = [claim.ids_and_scores[2 * i] + f":aa:{claim.fence:010d}".encode() for i in range(5)]
    requests: list[Request[Any]] = [
        announce(keys.namespace, "aa", 1_000, b"record", ["jobs"]),
        broker.cron_register(keys, [("sweep", b"every 2", 5)]),
        broker.extend(keys, LEASE, [ended, dead, late, back, crashed]),
        broker.isolate(keys, crashed),
        broker.complete(keys, "aa", 1, [Ending(ended, KeptResult(1_000, b"value"))], full=True, dropped=b""),
        broker.bury(keys, "aa", 1, [Burial(dead, b"1 0 0 0 - ", KeptResult(1_000, b"error"))], full=True, dropped=b""),
        broker.retry(keys, "aa", 1, [Comeback(late, 0, b"1 0 0 0 - ")]),
        broker.release(keys, "aa", 1, [(back, claim.ids_and_scores[7])]),
        broker.reclaim(keys, LEASE, [crashed]),
        broker.promote(keys),
        broker.reprioritize(keys, 100, [waiting.job_id]),
        broker.reschedule(keys, 0, [waiting.job_id]),
        broker.cancel(keys, [waiting.job_id], KeptResult(1_000, b"cancelled"), running=True),
        broker.recover(keys, "aa", 9, 0),
        broker.rearm(keys),
        broker.pause(keys, True),
        broker.discard(keys, [dead[:43].decode()]),
        broker.info(keys, back[:43].decode()),
    ]
    for request in requests:
        await ask(request)
    counts = await connection.execute([("ZCARD", keys.ready), ("ZCARD", keys.leases), ("HLEN", keys.jobs)], 5)
    assert counts == [3, 0, 3], "the one retried, the one released, the one whose worker crashed"


async def test_a_full_server_keeps_the_tick_of_cron_and_the_dead(keys: QueueKeys, connection: Connection, ask: Any) -> None:
    await ask(broker.enqueue(keys, "client", 1, [job()]))
    claim = await ask(broker.claim(keys, "aa", 1, 5, LEASE))
    dead = claim.ids_and_scores[0].decode()
    await ask(broker.bury(keys, "aa", 1, [Burial(f"{dead}:aa:{claim.fence:010d}".encode(), b"1 0 0 0 - ")], full=False, dropped=b""))
    await ask(broker.cron_register(keys, [("sweep", b"every 1", 5)]))
    await connection.execute([("CONFIG", "SET", "maxmemory", 1)], 5)
    for request in (broker.cron_fire(keys, "sweep", b"every 1", 5, 6, [job()]), broker.replay(keys, [dead])):
        with pytest.raises(QueueFull):
            await ask(request)
    await connection.execute([("CONFIG", "SET", "maxmemory", 0)], 5)
    assert await ask(broker.cron_fire(keys, "sweep", b"every 1", 5, 6, [job()])) == (True, 1)
    assert await ask(broker.replay(keys, [dead])) == "e"


# --- requests over a connection -----------------------------------------------------------------------------------------------------


async def test_requests_of_one_write_are_judged_alone_and_missing_scripts_loaded(keys: QueueKeys, connection: Connection) -> None:
    await connection.execute([("SCRIPT", "FLUSH"), ("SET", "{other}:jobs", "no hash")], 5)
    requests: list[Request[Any]] = [
        broker.enqueue(keys, "client", 1, [job()]),
        broker.plain(int, "HLEN", "{other}:jobs"),
        broker.plain(int, "HLEN", keys.jobs),
        broker.claim(keys, "aa", 1, 10, LEASE),
    ]
    stored, wrong, before, claim = await run(connection, requests, 5)
    assert (stored, before, len(claim.bodies)) == (None, 0, 1), "the plain command ran while the scripts were missing"
    assert isinstance(wrong, BrokerError)
    assert "HLEN" in str(wrong)
    await connection.execute([("DEL", "{other}:jobs")], 5)


async def test_a_queue_of_another_layout_is_refused(app: Bananas, connection: Connection) -> None:
    keys = QueueKeys(app.settings.namespace, "default")
    await connection.execute([("HSET", keys.meta, "layout", 99)], 5)
    with pytest.raises(ServerUnsuitable, match="layout 99"):
        await app.submit("task", 1)


async def test_a_refusal_that_passes_is_waited_for(app: Bananas, connection: Connection) -> None:
    """BUSY stands for all of them: somebody else's script runs."""
    await app.submit("task", 1)
    other = await Connection.open(app.client.address)
    await connection.execute([("CONFIG", "SET", "busy-reply-threshold", 1)], 5)
    spinning = asyncio.ensure_future(connection.execute([("EVAL", "while true do end", 0)], 30))

    async def busy() -> bool:
        (reply,) = await other.execute([("GET", "anything")], 5)
        return str(reply).startswith("BUSY")

    await eventually(busy)
    with pytest.raises(BrokerUnavailable, match="BUSY"):
        await app.submit("task", 2, options={"call_timeout": 0.1})
    submitted = asyncio.ensure_future(app.submit("task", 3, options={"call_timeout": 20}))
    await asyncio.sleep(0)
    await other.execute([("SCRIPT", "KILL")], 5)
    assert (await submitted).created
    await spinning
    await other.execute([("CONFIG", "SET", "busy-reply-threshold", 5_000)], 5)
    other.close()
