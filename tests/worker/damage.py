"""A queue with a job in every place, and every damage that can be done to it, with what an audit finds then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from bananas import broker
from bananas.broker import Burial, Comeback, KeptResult
from bananas.codec import pack_tries
from bananas.job import Tries

if TYPE_CHECKING:
    from bananas import Bananas

BOOT = "0123456789abcdef"
STEP = 2**42


class Filled:
    """A queue with a job in every place.

    Attributes:
        ready, scheduled, leased, dead: one id each; `ready` has a unique key and a changed priority, `leased` a unique key, tries, and a
            wish to be cancelled, `dead` had a unique key. member: the lease. gone: the id of no job.
    """

    gone = "0" * 40 + "1f4"

    def __init__(self, app: Bananas) -> None:
        self.app, self.keys = app, app.producer.keys("default")
        self.ready = self.scheduled = self.leased = self.dead = self.member = ""

    async def fill(self) -> Filled:
        ids = [(await self.app.submit("task", options={"unique": unique})).place[1] for unique in ("key0", "key1")]
        claim = await self.ask(broker.claim(self.keys, BOOT, 1, 2, 60_000))
        members = [f"{job_id}:{BOOT}:{claim.fence:010d}".encode() for job_id in ids]
        self.dead, self.leased = ids
        failed = pack_tries(Tries(attempts=1))
        await self.ask(broker.bury(self.keys, BOOT, 1, [Burial(members[0], failed)], full=False, dropped=b""))
        await self.ask(broker.retry(self.keys, BOOT, 1, [Comeback(members[1], 0, failed)]))
        await self.ask(broker.promote(self.keys))
        claim = await self.ask(broker.claim(self.keys, BOOT, 2, 1, 60_000))
        self.member = f"{self.leased}:{BOOT}:{claim.fence:010d}"
        await self.ask(broker.cancel(self.keys, [self.leased], KeptResult(0, b""), running=True))
        self.ready = (await self.app.submit("task", options={"unique": "mine"})).place[1]
        await self.ask(broker.reprioritize(self.keys, 7, [self.ready]))
        self.scheduled = (await self.app.submit("task", options={"delay": 60})).place[1]
        await self.command("HDEL", self.keys.meta, "hold")  # set by the first claim of a queue
        return self

    def key(self, place: str) -> str:
        return self.keys.base + place

    async def ask(self, request: Any) -> Any:
        return await self.app.client.ask(self.keys, request, "preparing a test")

    async def command(self, *words: Any) -> None:
        await self.ask(broker.plain(lambda reply: reply, *words))


# What is done to a filled queue, as a command with the names of ids in it -> what is found: kind, id, place, and the entry where it is
# not the id. A name of `Filled` stands for what it holds; "unique!" is the key of the place before the "!".
DAMAGE: dict[str, tuple[tuple[Any, ...], set[tuple[str, ...]]]] = {
    "an id in two places": (
        ("ZADD", "scheduled!", 5, "ready"),
        {("two places", "ready", "ready"), ("two places", "ready", "scheduled")},
    ),
    "a leased id that is ready too": (
        ("ZADD", "ready!", 500 * STEP + 9, "leased"),
        {("two places", "leased", "ready"), ("two places", "leased", "leases", "member")},
    ),
    "a leased id that is dead too": (
        ("ZADD", "dead!", 9, "leased"),
        {("two places", "leased", "dead"), ("two places", "leased", "leases", "member")},
    ),
    "an id leased twice": (
        ("ZADD", "leases!", "now", "leased+:abc:9"),
        {("two places", "leased", "leases", "member"), ("two places", "leased", "leases", "leased+:abc:9")},
    ),
    "a waiting id without a body": (("HDEL", "jobs!", "scheduled"), {("no body", "scheduled", "scheduled")}),
    "a leased id without a body": (("HDEL", "jobs!", "leased"), {("no body", "leased", "leases", "member")}),
    "a body that is too short": (("HSET", "jobs!", "scheduled", "12345678"), {("malformed", "scheduled", "jobs")}),
    "a body without a place": (("ZREM", "scheduled!", "scheduled"), {("no place", "scheduled", "jobs")}),
    "a lost lease": (("ZREM", "leases!", "member"), {("no place", "leased", "jobs")}),
    "a field that is no id": (("HSET", "jobs!", "garbage", "123456789"), {("malformed", "garbage", "jobs")}),
    "a lease that is no member": (("ZADD", "leases!", "now", "garbage"), {("malformed", "garbage", "leases")}),
    "a lease without a fence": (
        ("ZADD", "leases!", "now", "gone+:abc"),
        {("malformed", "gone", "leases", "gone+:abc")},
    ),
    "an id that is none": (("ZADD", "dead!", 5, "x"), {("malformed", "x", "dead")}),
    "a priority that is none": (("HSET", "prio!", "scheduled", "urgent"), {("malformed", "scheduled", "prio")}),
    "tries of a job that is gone": (("HSET", "tries!", "gone", "0 0 0 0 - "), {("orphan", "gone", "tries")}),
    "a priority of a job that is gone": (("HSET", "prio!", "gone", 5), {("orphan", "gone", "prio")}),
    "a cancel of a job that is gone": (("SADD", "cancelled!", "gone"), {("orphan", "gone", "cancelled")}),
    "a unique key held by a job that is gone": (("HSET", "unique!", "=k", "gone"), {("unique", "gone", "unique", "=k")}),
    "a unique key of a job that is gone": (("HSET", "unique!", "gone", "k"), {("unique", "gone", "unique")}),
    "a unique key held by a dead job": (("HSET", "unique!", "=key0", "dead"), {("unique", "dead", "unique", "=key0")}),
    "a ready job that lost its unique key": (("HDEL", "unique!", "=mine"), {("unique", "ready", "unique")}),
    "a running job that lost its unique key": (("HDEL", "unique!", "=key1"), {("unique", "leased", "unique")}),
    "a unique key that its job does not know": (("HDEL", "unique!", "ready"), {("unique", "ready", "unique", "=mine")}),
    "a second unique key": (("HSET", "unique!", "=other", "ready"), {("unique", "ready", "unique", "=other")}),
    "an infinite score in ready": (("ZADD", "ready!", "inf", "ready"), {("score", "ready", "ready")}),
    "a score in ready that is no whole number": (("ZADD", "ready!", 7 * STEP + 0.5, "ready"), {("score", "ready", "ready")}),
    "a priority above the last": (("ZADD", "ready!", 1001 * STEP + 5, "ready"), {("score", "ready", "ready")}),
    "another priority than the changed one": (("ZADD", "ready!", 500 * STEP + 1, "ready"), {("priority", "ready", "ready")}),
    "another priority than the one of birth": (("HDEL", "prio!", "ready"), {("priority", "ready", "ready")}),
    "a due time that is none": (("ZADD", "scheduled!", -1, "scheduled"), {("score", "scheduled", "scheduled")}),
    "a time of death that is none": (("ZADD", "dead!", "inf", "dead"), {("score", "dead", "dead")}),
    "a lease without end": (("ZADD", "leases!", "inf", "member"), {("score", "leased", "leases", "member")}),
    "a lease that nobody took back": (("ZADD", "leases!", 5, "member"), {("expired", "leased", "leases", "member")}),
}


def spelt(filled: Filled, word: Any) -> Any:
    if word == "now":
        return round(time.time() * 1000)
    if not isinstance(word, str):
        return word
    if word.endswith("!"):
        return filled.key(word[:-1])
    name, plus, rest = word.partition("+")
    return getattr(filled, name, name) + rest if plus or hasattr(filled, name) else word
