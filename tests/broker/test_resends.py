"""A reply is lost and the call is sent again: it is done once, and its caller learns what the first time came to."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.relay import Relay

from bananas import Bananas, ScriptFailed, broker
from bananas.broker import Burial, Ending, KeptResult, NewJob, Once, Request
from bananas.codec import pack_envelope
from bananas.connection import Connection
from bananas.job import Envelope
from bananas.keys import QueueKeys, id_suffix, new_id
from bananas.server import PrivateServer

LEASE = 8_000
T0 = 1_800_000_000_000
BODY = pack_envelope(Envelope("task", ()), 1_000)


def job() -> NewJob:
    return NewJob(new_id(id_suffix("task", 500)), BODY)


class Line:
    """An app whose calls pass a relay, and a connection that does not."""

    def __init__(self, app: Bananas, relay: Relay, ask: Any) -> None:
        self.app, self.relay, self.ask = app, relay, ask
        self.keys = QueueKeys(app.settings.namespace, "default")
        self._turn = 0

    async def claim(self, count: int) -> list[bytes]:
        """Lease jobs, as a worker does; their leases."""
        self._turn += 1
        claim = await self.ask(broker.claim(self.keys, "aa", self._turn, count, LEASE))
        return [claim.ids_and_scores[2 * i] + f":aa:{claim.fence:010d}".encode() for i in range(len(claim.bodies))]

    async def run_everything(self) -> None:
        """A worker runs what is ready, to its end."""
        members = await self.claim(1_000)
        await self.ask(broker.complete(self.keys, "aa", self._turn, [Ending(member) for member in members], full=False, dropped=b""))

    async def dead(self, count: int) -> list[str]:
        """The public ids of new dead jobs."""
        for _ in range(count):
            await self.app.submit("task", 1)
        members = await self.claim(count)
        burials = [Burial(member, b"1 0 0 0 - ") for member in members]
        assert await self.ask(broker.bury(self.keys, "aa", self._turn, burials, full=False, dropped=b"")) == [True] * count
        return [self.keys.public(member[:43].decode()) for member in members]


@pytest.fixture
async def line(server: PrivateServer, ask: Any, keys: QueueKeys) -> AsyncIterator[Line]:
    async with Relay(server.url) as relay:
        app = Bananas(relay.url, namespace=keys.namespace, call_timeout=5)
        yield Line(app, relay, ask)
        assert relay.lost == 1, "this test is about one lost reply"
        await app.close()


async def test_a_cancel_whose_reply_is_lost_has_ended_the_job(line: Line) -> None:
    assert await (await line.app.submit("task", 1)).cancel()
    job = await line.app.submit("task", 2)
    line.relay.lose_reply()
    assert await job.cancel() is True
    assert (await job.info()).state == "cancelled"
    assert await job.cancel() is False, "a new call gets a new answer"


async def test_a_job_that_ran_between_a_change_of_priority_and_its_resend_is_not_reported_missing(line: Line) -> None:
    await (await line.app.submit("task", 1)).set_priority("high")
    job = await line.app.submit("task", 2)
    line.relay.lose_reply(meanwhile=line.run_everything)
    await job.set_priority("high")


async def test_a_job_that_ran_between_a_reschedule_and_its_resend_is_not_reported_missing(line: Line) -> None:
    await (await line.app.submit("task", 1)).reschedule(delay=0)
    job = await line.app.submit("task", 2)
    line.relay.lose_reply(meanwhile=line.run_everything)
    await job.reschedule(delay=0)


async def test_a_replay_whose_reply_is_lost_is_done_once(line: Line) -> None:
    first, second = await line.dead(2)
    queue = line.app.queue("default")
    await queue.dead.replay(first)
    line.relay.lose_reply(meanwhile=line.run_everything)
    await queue.dead.replay(second)
    counts = await queue.counts()
    assert (counts.ready, counts.dead) == (0, 0), "it ran, and was not made ready again"


async def test_a_purge_counts_what_the_first_try_ended(line: Line) -> None:
    queue = line.app.queue("default")
    jobs = [await line.app.submit("task", number) for number in range(4)]
    await jobs[0].cancel()
    line.relay.lose_reply()
    assert await queue.purge() == 3
    assert await queue.purge() == 0


async def test_replay_all_counts_what_the_first_try_replayed(line: Line) -> None:
    dead = line.app.queue("default").dead
    first, *_ = await line.dead(4)
    await dead.replay(first)
    line.relay.lose_reply()
    assert await dead.replay_all() == 3


async def test_purging_the_dead_counts_what_the_first_try_deleted(line: Line) -> None:
    dead = line.app.queue("default").dead
    first, *_ = await line.dead(4)
    await dead.delete(first)
    line.relay.lose_reply()
    assert await dead.purge() == 3
    assert await dead.count() == 0


async def test_a_deletion_whose_reply_is_lost_has_deleted(line: Line) -> None:
    dead = line.app.queue("default").dead
    first, second = await line.dead(2)
    assert await dead.delete(first)
    line.relay.lose_reply()
    assert await dead.delete(second) is True
    assert await dead.delete(second) is False


async def test_a_pause_whose_reply_is_lost_has_paused(line: Line) -> None:
    queue = line.app.queue("default")
    assert await queue.pause()
    assert await queue.resume()
    line.relay.lose_reply()
    assert await queue.pause() is True
    assert await queue.pause() is False
    assert await queue.resume() is True


# --- the scripts themselves -----------------------------------------------------------------------------------------------------------

Make = Callable[[QueueKeys, str, Once], Request[Any]]
ACTS: dict[str, tuple[Make, Any]] = {  # each with its reply for one waiting job, or one dead one
    "cancel": (lambda keys, name, once: broker.cancel(keys, [name], KeptResult(1_000, b"x"), running=True, once=once), "e"),
    "reprioritize": (lambda keys, name, once: broker.reprioritize(keys, 100, [name], once=once), "r"),
    "reschedule": (lambda keys, name, once: broker.reschedule(keys, 60_000, [name], once=once), "e"),
    "replay": (lambda keys, name, once: broker.replay(keys, [name], once=once), "e"),
    "discard": (lambda keys, name, once: broker.discard(keys, [name], once=once), 1),
    "pause": (lambda keys, _, once: broker.pause(keys, True, once=once), True),
}


@pytest.mark.parametrize("name", ACTS)
async def test_an_act_of_a_number_is_done_once_and_one_that_arrives_late_is_refused(
    name: str, keys: QueueKeys, connection: Connection, ask: Any
) -> None:
    make, first_reply = ACTS[name]
    subject = job()
    await ask(broker.enqueue(keys, "client", 1, [subject]))
    if name in ("replay", "discard"):
        claim = await ask(broker.claim(keys, "aa", 1, 1, LEASE))
        member = f"{subject.job_id}:aa:{claim.fence:010d}".encode()
        await ask(broker.bury(keys, "aa", 1, [Burial(member, b"1 0 0 0 - ")], full=False, dropped=b""))
    assert await ask(make(keys, subject.job_id, Once("bb", 2))) == first_reply
    names = [key for key in keys.fixed if "wake" not in key]
    before = await connection.execute([("DUMP", key) for key in names], 5)
    assert await ask(make(keys, subject.job_id, Once("bb", 2))) == first_reply
    with pytest.raises(ScriptFailed, match="STALE"):
        await ask(make(keys, subject.job_id, Once("bb", 1)))
    assert await connection.execute([("DUMP", key) for key in names], 5) == before
    assert await connection.execute([("TTL", keys.seen("bb", "act"))], 5) != [-1]


@pytest.mark.parametrize("name", ["cancel", "discard"])
async def test_an_act_without_a_number_is_not_remembered(name: str, keys: QueueKeys, connection: Connection, ask: Any) -> None:
    make, _ = ACTS[name]
    missing = new_id(id_suffix("task", 500))
    await ask(make(keys, missing, broker.UNNUMBERED))
    assert await connection.execute([("EXISTS", keys.seen("", "act"))], 5) == [0]


# --- a claim that is undone -----------------------------------------------------------------------------------------------------------


async def test_jobs_of_an_undone_claim_return_to_their_places_by_the_servers_clock(
    keys: QueueKeys, connection: Connection, ask: Any
) -> None:
    def born(uuid_ms: int) -> NewJob:
        return NewJob(f"{uuid_ms:012x}" + "7" + "0" * 19 + id_suffix("task", 500), BODY)

    fast, slow = born(T0 + 3_600_000), born(T0 - 3_600_000)  # the clocks of two clients, an hour off each
    await ask(broker.enqueue(keys, "client1", 1, [fast]).at(T0))
    await ask(broker.enqueue(keys, "client2", 1, [slow]).at(T0 + 1))
    (before,) = await connection.execute([("ZRANGE", keys.ready, 0, -1, "WITHSCORES")], 5)
    await ask(broker.claim(keys, "aa", 1, 10, LEASE).at(T0 + 2))
    assert await ask(broker.recover(keys, "aa", 1, 0).at(T0 + 3)) == 2
    assert await connection.execute([("ZRANGE", keys.ready, 0, -1, "WITHSCORES")], 5) == [before]


async def test_a_lease_of_a_job_that_is_gone_is_dropped_when_its_claim_is_undone(keys: QueueKeys, connection: Connection, ask: Any) -> None:
    subject = job()
    await ask(broker.enqueue(keys, "client", 1, [subject]))
    await ask(broker.claim(keys, "aa", 1, 10, LEASE))
    await connection.execute([("HDEL", keys.jobs, subject.job_id)], 5)
    assert await ask(broker.recover(keys, "aa", 1, 0)) == 1
    assert await connection.execute([("ZCARD", keys.ready), ("ZCARD", keys.leases)], 5) == [0, 0]


async def test_a_claim_of_a_broken_job_is_undone_too(keys: QueueKeys, connection: Connection, ask: Any) -> None:
    broken, sound = job(), job()
    await ask(broker.enqueue(keys, "client", 1, [broken, sound]))
    await ask(broker.claim(keys, "aa", 1, 10, LEASE))
    await connection.execute([("HSET", keys.jobs, broken.job_id, "short")], 5)
    assert await ask(broker.recover(keys, "aa", 1, 0)) == 2
    assert await connection.execute([("ZCARD", keys.ready), ("ZCARD", keys.leases)], 5) == [2, 0]
