"""Every Redis key, every id, and what they hold.

A queue (or one shard of it) lives under one hash tag, so that each transition is one script on one node:

    {ns:queue}:jobs       HASH   id -> 8 bytes server birth ms (big endian) + packed envelope; written once
    {ns:queue}:ready      ZSET   id by priority * 2^42 + server ms of entry
    {ns:queue}:prio       HASH   id -> priority, where it was changed after birth
    {ns:queue}:scheduled  ZSET   id by due ms
    {ns:queue}:leases     ZSET   id:boot:fence by expiry ms
    {ns:queue}:tries      HASH   id -> attempts, crashes, crashes alone, counted-from ms, packed errors
    {ns:queue}:dead       ZSET   id by ms of death
    {ns:queue}:cancelled  SET    ids of running jobs that somebody wants stopped
    {ns:queue}:unique     HASH   "=key" -> id, and id -> key
    {ns:queue}:meta       HASH   fence, pulse, hold, paused, layout
    {ns:queue}:wake       ZSET   the marker: one element that exactly one idle worker pops
    {ns:queue}:cron       HASH   entry name -> next ms, announced ms, schedule
    {ns:queue}:seen:<boot>[.part]  STRING, 1 h   number and reply of the last batch, for resends
    {ns:queue}:result:<id>         STRING, TTL   the outcome; also the channel that announces it
    {ns:queue}:notes:<id>          STRING, TTL   progress and last log lines of a job that told any; see notes.py
    {ns:queue}:moved:<id>          STRING, TTL   the public id of a job that was moved to another queue
    {ns:queue}:came:<id>           STRING, TTL   a job that was moved here: it is taken in once
    {ns:queue}:stats:total         HASH   what its workers counted, by task (tally.py); bounded by the tasks that they declare
    {ns:queue}:recent     ZSET, TTL   some of the jobs that ended, packed, by ms of their ends; at most 200
    {ns:queue}:stats:<minute>      HASH, TTL   the same of one minute since 1970, and how deep the queue was
    {ns:queue}:stats:ten:<tens>    HASH, TTL   the same of ten minutes
    {ns}:workers          HASH   boot -> expiry ms + packed registry record
    {ns}:queues           SET    queue names (with `.shard` where sharded)
    {ns}:trail            LIST   what operators did, the newest first; bounded
    {ns}:orders:<boot>    LIST, TTL     what operators want of a worker, until it has obeyed; bounded
    {ns}:answer:<order>   STRING, TTL   what a worker answers to an order

An id is 43 characters: a UUIDv7 in hex (32), the task tag (8, CRC-32 of the task's name), the birth priority (3 hex digits). It sorts by
time, and a script can filter by task and promote by priority without reading the body. The public id `queue[.shard].id` finds its keys
from the text alone.
"""

import re
import zlib
from binascii import crc_hqx
from typing import NamedTuple

from uuid_utils import uuid7

from bananas.errors import InvalidName, describe

ID_LENGTH = 43
LAYOUT = 1

_PUBLIC_ID = re.compile(r"([A-Za-z0-9_-]{1,64})(?:\.(\d{1,4}))?\.([0-9a-f]{43})", re.ASCII)


def task_tag(task: str) -> str:
    """Eight hex digits that stand for a task's name in ids: a filter's hint, verified by name after decoding."""
    return f"{zlib.crc32(task.encode()):08x}"


def id_suffix(task: str, priority: int) -> str:
    """The part of an id that follows the UUID: constant for a task and priority, so callers keep it."""
    return f"{task_tag(task)}{priority:03x}"


def new_id(suffix: str) -> str:
    """A new id, growing strictly within this process."""
    return uuid7().hex + suffix


def birth_priority(job_id: str) -> int:
    """The priority that a job was submitted with."""
    return int(job_id[40:43], 16)


class QueueKeys:
    """The keys of one queue, or of one shard of it. Equal by their hash tag.

    Args:
        namespace, queue: valid names (checked by the settings and by `Queue`).
        shard: None for a queue with one shard.
    """

    __slots__ = (
        "_slot",
        "base",
        "cron",
        "dead",
        "fixed",
        "jobs",
        "leases",
        "meta",
        "namespace",
        "queue",
        "ready",
        "scheduled",
        "shard",
        "tries",
        "wake",
    )

    def __init__(self, namespace: str, queue: str, shard: int | None = None) -> None:
        self.namespace, self.queue, self.shard = namespace, queue, shard
        self._slot = -1
        self.base = f"{{{namespace}:{self.name}}}:".replace(".", ":")
        self.jobs, self.ready, self.scheduled = self.base + "jobs", self.base + "ready", self.base + "scheduled"
        self.leases, self.tries, self.dead = self.base + "leases", self.base + "tries", self.base + "dead"
        self.meta, self.wake, self.cron = self.base + "meta", self.base + "wake", self.base + "cron"
        # The fixed KEYS of every script, in the order in which lua/_prelude.lua names them.
        names = ("jobs", "ready", "prio", "scheduled", "leases", "tries", "dead", "cancelled", "unique", "meta", "wake")
        self.fixed: tuple[str, ...] = tuple(self.base + name for name in names)

    @classmethod
    def named(cls, namespace: str, name: str) -> "QueueKeys":
        """The keys of a queue, or of a shard, by the name under which it is listed: `queue` or `queue.shard`."""
        queue, _, shard = name.partition(".")
        return cls(namespace, queue, int(shard) if shard else None)

    @property
    def name(self) -> str:
        """`queue` or `queue.shard`: how the queue is listed, and the head of its public ids."""
        return self.queue if self.shard is None else f"{self.queue}.{self.shard}"

    @property
    def slot(self) -> int:
        """Its slot in a Cluster."""
        if self._slot < 0:
            self._slot = slot_of(self.base[1:-2])
        return self._slot

    def seen(self, boot: str, part: str = "") -> str:
        """The key that remembers the last batch of a boot id (`part`: which kind of settle)."""
        return f"{self.base}seen:{boot}{part and '.' + part}"

    def result(self, job_id: str) -> str:
        """The key, and the channel, of a job's outcome."""
        return f"{self.base}result:{job_id}"

    def notes(self, job_id: str) -> str:
        """The key of what a job tells while it runs."""
        return f"{self.base}notes:{job_id}"

    def moved(self, job_id: str) -> str:
        """The key that leads from a job that was moved to where it is."""
        return f"{self.base}moved:{job_id}"

    def came(self, job_id: str) -> str:
        """The key that remembers a job that was moved here."""
        return f"{self.base}came:{job_id}"

    @property
    def recent(self) -> str:
        """The key of the sample of jobs that ended."""
        return f"{self.base}recent"

    def stats(self, minute: int | None = None) -> str:
        """The key of what was counted in a minute since 1970, or in all."""
        return f"{self.base}stats:{'total' if minute is None else minute}"

    def stats_of_ten(self, minute: int) -> str:
        """The key of what was counted in the ten minutes to which a minute since 1970 belongs."""
        return f"{self.base}stats:ten:{minute // 10}"

    def all_stats(self, minute: int) -> tuple[str, str, str]:
        """The keys to which what is counted in a minute is added: in all, of the minute, of ten."""
        return self.stats(), self.stats(minute), self.stats_of_ten(minute)

    def public(self, job_id: str) -> str:
        """The id that users see."""
        return f"{self.name}.{job_id}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QueueKeys) and other.base == self.base

    def __hash__(self) -> int:
        return hash(self.base)

    def __repr__(self) -> str:
        return f"QueueKeys({self.base!r})"


class PublicId(NamedTuple):
    """A public id, taken apart."""

    queue: str
    shard: int | None
    job_id: str


def parse_public_id(text: str) -> PublicId:
    """Take a public id apart.

    Raises:
        InvalidName: the text is no public id.
    """
    match = _PUBLIC_ID.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InvalidName(f"{describe(text, 100)} is not a job id: it reads queue.id or queue.shard.id, as job.id and the logs show it")
    queue, shard, job_id = match.groups()
    return PublicId(queue, None if shard is None else int(shard), job_id)


def slot_of(tag: str) -> int:
    """The Cluster's slot of a hash tag: CRC-16 (XMODEM) modulo 16,384, as its specification has it."""
    return crc_hqx(tag.encode(), 0) % 16_384


def shard_of(text: str, count: int) -> int:
    """Which of `count` shards a text belongs to, on every machine: CRC-32 modulo the count."""
    return zlib.crc32(text.encode()) % count


def home_slot(namespace: str) -> int:
    """The slot of the keys that a namespace has besides its queues."""
    return slot_of(namespace)


def workers_key(namespace: str) -> str:
    """HASH boot -> registry record."""
    return f"{{{namespace}}}:workers"


def queues_key(namespace: str) -> str:
    """SET of queue names."""
    return f"{{{namespace}}}:queues"


def trail_key(namespace: str) -> str:
    """LIST of what operators did."""
    return f"{{{namespace}}}:trail"


def orders_key(namespace: str, boot: str) -> str:
    """LIST of what operators want of a worker."""
    return f"{{{namespace}}}:orders:{boot}"


def answer_key(namespace: str, order: str) -> str:
    """STRING: what a worker answers to an order."""
    return f"{{{namespace}}}:answer:{order}"
