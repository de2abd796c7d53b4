"""The structural audit on queues that were put in order by the transitions, and damaged by hand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from bananas import broker
from bananas.broker import Burial
from bananas.codec import pack_tries
from bananas.inspector import audit, workers
from bananas.job import Tries
from bananas.keys import queues_key, workers_key
from bananas.task import Call

if TYPE_CHECKING:
    from bananas import Bananas, Job
    from bananas.keys import QueueKeys

BOOT = "0123456789abcdef"


class Filled:
    """A queue with a job in every place.

    Attributes:
        ready, scheduled, leased, dead: one id each; `ready` has a unique key and a changed priority. member: the lease.
    """

    def __init__(self, app: Bananas) -> None:
        self.app, self.keys = app, app.producer.keys("default")
        self.ready = self.scheduled = self.leased = self.dead = self.member = ""

    async def fill(self) -> Filled:
        ids = [(await self.app.submit("task", options={"unique": unique})).place[1] for unique in ("key0", "key1")]
        claim = await self.ask(broker.claim(self.keys, BOOT, 1, 2, 60_000))
        members = [f"{job_id}:{BOOT}:{claim.fence}" for job_id in ids]
        self.dead, self.leased, self.member = ids[0], ids[1], members[1]
        buried = Burial(members[0].encode(), pack_tries(Tries(attempts=1)))
        await self.ask(broker.bury(self.keys, BOOT, 1, [buried], full=False, dropped=b""))
        self.ready = (await self.app.submit("task", options={"unique": "mine"})).place[1]
        await self.ask(broker.reprioritize(self.keys, 7, [self.ready]))
        self.scheduled = (await self.app.submit("task", options={"delay": 60})).place[1]
        return self

    async def ask(self, request: Any) -> Any:
        return await self.app.client.ask(self.keys, request, "preparing a test")

    async def command(self, *words: Any) -> None:
        await self.ask(broker.plain(lambda reply: reply, *words))


@pytest.fixture
async def filled(app: Bananas) -> Filled:
    return await Filled(app).fill()


async def test_what_the_transitions_leave_is_clean(filled: Filled) -> None:
    seen = await audit(filled.app)
    assert (seen.jobs, seen.findings, seen.clean) == (4, (), True)


async def test_a_namespace_without_queues_is_clean(app: Bananas) -> None:
    assert (await audit(app)).clean
    assert (await audit(app, ["nowhere"])).jobs == 0


def key(keys: QueueKeys, name: str) -> str:
    return keys.base + name


DAMAGE: dict[str, tuple[Any, str]] = {
    "an id in two places": (lambda f: ("ZADD", f.keys.scheduled, 5, f.ready), "ready"),
    "an id leased twice": (lambda f: ("ZADD", f.keys.leases, time.time() * 1000, f.leased + ":abc:9"), "leased"),
    "an id without a body": (lambda f: ("HDEL", f.keys.jobs, f.scheduled), "scheduled"),
    "a body without an id": (lambda f: ("ZREM", f.keys.scheduled, f.scheduled), "scheduled"),
    "a lost lease": (lambda f: ("ZREM", f.keys.leases, f.member), "leased"),
    "a lease that is no member": (lambda f: ("ZADD", f.keys.leases, time.time() * 1000, "garbage"), "garbage"),
    "an id that is none": (lambda f: ("ZADD", f.keys.dead, 5, "x"), "x"),
    "tries of a job that is gone": (lambda f: ("HSET", f.keys.tries, "gone", "0 0 0 0 - "), "gone"),
    "a priority of a job that is gone": (lambda f: ("HSET", key(f.keys, "prio"), "gone", 5), "gone"),
    "a cancel of a job that is gone": (lambda f: ("SADD", key(f.keys, "cancelled"), "gone"), "gone"),
    "a unique key held by one that is gone": (lambda f: ("HSET", key(f.keys, "unique"), "=k", "gone"), "gone"),
}


@pytest.mark.parametrize("name", DAMAGE)
async def test_each_damage_is_found_and_named(filled: Filled, name: str) -> None:
    command, who = DAMAGE[name]
    await filled.command(*command(filled))
    (finding,) = (await audit(filled.app)).findings
    assert (finding.queue, finding.id) == ("default", getattr(filled, who, who))
    assert finding.what


async def test_one_lost_job_is_found_among_thousands(app: Bananas) -> None:
    jobs: list[Job[Any]] = await app.submit_many(Call("task", (), {}) for _ in range(2_500))
    keys = app.producer.keys("default")
    assert (await audit(app)).jobs == len(jobs)
    await app.client.ask(keys, broker.plain(int, "ZREM", keys.ready, jobs[1_234].place[1]), "damaging")
    (finding,) = (await audit(app)).findings
    assert finding.id == jobs[1_234].place[1]


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
        await app.client.ask(
            keys, broker.announce(workers_key(namespace), queues_key(namespace), boot, ttl_ms, packed, ["q"]), "announcing"
        )
    (worker,) = await workers(app)
    assert (worker.boot, worker.host, worker.pid, worker.queues, worker.slots) == ("aa", "h", 1, ("q",), 3)
