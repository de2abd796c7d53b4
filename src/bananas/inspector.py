"""Looking at the whole from outside: the structural audit of queues, and the workers that are alive.

The audit proves on a server's keys what the transitions promise: each id is in exactly one place, with a body; nothing is kept of an id
that is gone; unique keys name living jobs. It reads with plain commands in chunks and changes nothing.

Chunks are no snapshot: a job that moves between two of them looks lost, or as if it were in two places. So whatever looks wrong is looked
at again, the whole queue anew, and only what is wrong in the same way each time is a finding.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from bananas import broker
from bananas.app import Bananas
from bananas.broker import Request
from bananas.keys import ID_LENGTH, QueueKeys, birth_priority, queues_key, workers_key
from bananas.session import answer

CHUNK = 1_000
LOOKS = 3
STALE_LEASES = 10
STALE_MS = 30_000
_STEP = 2**42
_HEX = frozenset(b"0123456789abcdef")


class Finding(Struct, frozen=True, order=True):
    """Something that no transition leaves behind.

    Attributes:
        kind: "places", "body", "member", "leftover", "unique", "score" or "expired".
        id: the job's id in its queue, or the field or member that is no id.
        what: one sentence for people.
    """

    queue: str
    kind: str
    id: str
    what: str


class Audit(Struct, frozen=True):
    """What an audit saw: how many jobs in which queues, and what is wrong."""

    queues: tuple[str, ...]
    jobs: int
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


class WorkerInfo(Struct, frozen=True, kw_only=True):
    """One worker process that is alive.

    Attributes:
        running, overdue: public ids (at most 1,000) of what it runs, and of what runs beyond its timeout.
        expires_ms: server time at which it counts as gone unless it announces itself again.
    """

    boot: str
    expires_ms: int
    host: str
    pid: int
    supervisor: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    slots: int
    running: tuple[str, ...]
    overdue: tuple[str, ...]
    started_ms: int


async def audit(app: Bananas, queues: Sequence[str] | None = None) -> Audit:
    """Look for jobs that are lost, doubled or left over.

    Args:
        queues: names (with `.shard` where sharded); by default every queue of the app's namespace.

    Raises:
        BrokerError: the server did not answer; nothing was changed.
    """
    if queues is None:
        (known,) = await _ask(app, [broker.plain(list, "SMEMBERS", queues_key(app.settings.namespace))])
        queues = sorted(name.decode() for name in known)
    findings: list[Finding] = []
    jobs = 0
    for name in queues:
        count, found = await _audit_queue(app, app.producer.keys(name))
        jobs += count
        findings += found
    return Audit(tuple(queues), jobs, tuple(findings))


async def workers(app: Bananas) -> list[WorkerInfo]:
    """The worker processes of the app's namespace that are alive, the oldest first. One round trip."""
    fields, now_ms = await _ask(
        app, [broker.plain(list, "HGETALL", workers_key(app.settings.namespace)), broker.plain(_milliseconds, "TIME")]
    )
    found = []
    for boot, value in zip(fields[::2], fields[1::2], strict=True):
        expires_ms = int.from_bytes(value[:8], "big")
        if expires_ms > now_ms:
            record = msgspec.msgpack.decode(value[8:])
            found.append(msgspec.convert(record | {"boot": boot.decode(), "expires_ms": expires_ms}, WorkerInfo))
    return sorted(found, key=lambda worker: (worker.started_ms, worker.boot))


# --- reading ----------------------------------------------------------------------------------------------------------


async def _ask(app: Bananas, requests: Sequence[Request[Any]]) -> list[Any]:
    replies = await app.client.here().lane.ask(None, requests, app.settings.call_timeout, "inspecting the queues")
    return [answer(reply) for reply in replies]


def _milliseconds(reply: list[bytes]) -> int:
    return int(reply[0]) * 1000 + int(reply[1]) // 1000


async def _scan(app: Bananas, command: str, key: str) -> list[bytes]:
    """Every member (SSCAN), or field and value in turns (HSCAN, ZSCAN); some may come twice."""
    found: list[bytes] = []
    cursor = b"0"
    while True:
        ((cursor, part),) = await _ask(app, [broker.plain(tuple, command, key, cursor, "COUNT", CHUNK)])
        found += part
        if cursor == b"0":
            return found


async def _pairs(app: Bananas, command: str, key: str) -> dict[bytes, bytes]:
    flat = await _scan(app, command, key)
    return dict(zip(flat[::2], flat[1::2], strict=True))


class _Contents(Struct):
    """What one look at a queue saw. Leases by member, everything else by id."""

    now_ms: int
    ready: dict[bytes, bytes]
    scheduled: dict[bytes, bytes]
    leases: dict[bytes, bytes]
    dead: dict[bytes, bytes]
    unique: dict[bytes, bytes]
    prio: dict[bytes, bytes]
    tries: set[bytes]
    cancelled: set[bytes]
    bodies: set[bytes]


async def _look(app: Bananas, keys: QueueKeys) -> _Contents:
    (now_ms,) = await _ask(app, [broker.plain(_milliseconds, "TIME")])
    ready, scheduled, leases, dead = [await _pairs(app, "ZSCAN", key) for key in (keys.ready, keys.scheduled, keys.leases, keys.dead)]
    unique, prio = [await _pairs(app, "HSCAN", keys.base + name) for name in ("unique", "prio")]
    tries = set(await _pairs(app, "HSCAN", keys.tries))
    cancelled = set(await _scan(app, "SSCAN", keys.base + "cancelled"))
    ids = {*ready, *scheduled, *dead, *(member[:ID_LENGTH] for member in leases)}
    bodies = await _bodies(app, keys, ids | tries | cancelled | set(prio) | {name for name in unique if name[:1] != b"="})
    return _Contents(now_ms, ready, scheduled, leases, dead, unique, prio, tries, cancelled, bodies)


async def _bodies(app: Bananas, keys: QueueKeys, ids: set[bytes]) -> set[bytes]:
    """The ids that have a body. Bodies are read only if some belong to none of these `ids`: there is no command for the fields alone."""
    listed = list(ids)
    present: set[bytes] = set()
    for start in range(0, len(listed), CHUNK):
        part = listed[start : start + CHUNK]
        replies = await _ask(app, [broker.plain(int, "HEXISTS", keys.jobs, job_id) for job_id in part])
        present.update(job_id for job_id, there in zip(part, replies, strict=True) if there)
    (count,) = await _ask(app, [broker.plain(int, "HLEN", keys.jobs)])
    return present if count == len(present) else present | set(await _pairs(app, "HSCAN", keys.jobs))


# --- judging ----------------------------------------------------------------------------------------------------------


async def _audit_queue(app: Bananas, keys: QueueKeys) -> tuple[int, list[Finding]]:
    """How many jobs the queue holds, and what is wrong in the same way at each look."""
    stale_ms = max(STALE_MS, round(STALE_LEASES * app.settings.lease * 1000))
    contents = await _look(app, keys)
    found = judge(keys.name, contents, stale_ms)
    for _ in range(LOOKS - 1):
        if found:
            before = {(finding.kind, finding.id) for finding in found}
            contents = await _look(app, keys)
            found = [finding for finding in judge(keys.name, contents, stale_ms) if (finding.kind, finding.id) in before]
    return len(contents.bodies), sorted(found)


def judge(queue: str, contents: _Contents, stale_ms: int) -> list[Finding]:
    """What is wrong with the contents of a queue: pure."""
    places = _places(contents)
    wrong = [
        *_misplaced(contents, places),
        *_leftovers(contents),
        *_inconsistent_unique(contents),
        *_bad_scores(contents),
        *_stale_leases(contents, stale_ms),
    ]
    return [Finding(queue, kind, job_id.decode(errors="backslashreplace"), what) for kind, job_id, what in wrong]


_Wrong = tuple[str, bytes, str]


def _places(contents: _Contents) -> dict[bytes, list[str]]:
    """Every id with the places where it is; one that is leased twice is in two."""
    places: dict[bytes, list[str]] = {}
    for place in ("ready", "scheduled", "dead"):
        for job_id in getattr(contents, place):
            places.setdefault(job_id, []).append(place)
    for member in contents.leases:
        if _is_member(member):
            places.setdefault(member[:ID_LENGTH], []).append("leases")
    return places


def _is_id(text: bytes) -> bool:
    return len(text) == ID_LENGTH and _HEX.issuperset(text)


def _is_member(member: bytes) -> bool:
    """Whether it reads id:boot:fence."""
    job_id, _, owner = member.partition(b":")
    boot, _, fence = owner.partition(b":")
    return _is_id(job_id) and bool(boot) and _HEX.issuperset(boot) and fence.isdigit()


def _misplaced(contents: _Contents, places: dict[bytes, list[str]]) -> Iterable[_Wrong]:
    for job_id, found in places.items():
        if not _is_id(job_id):
            yield "member", job_id, f"{found[0]} holds what is no job id"
        if len(found) > 1:
            yield "places", job_id, f"is in {len(found)} places: {', '.join(found)}"
        if job_id not in contents.bodies:
            yield "body", job_id, f"is in {found[0]} and has no body"
    for job_id in contents.bodies - places.keys():
        yield "places", job_id, "has a body and is nowhere: this job is lost"
    for member in contents.leases:
        if not _is_member(member):
            yield "member", member, "leases holds what is no id:boot:fence: nobody owns it"


def _leftovers(contents: _Contents) -> Iterable[_Wrong]:
    for name, ids in (("prio", contents.prio), ("tries", contents.tries), ("cancelled", contents.cancelled)):
        for job_id in ids:
            if job_id not in contents.bodies:
                yield "leftover", job_id, f"{name} keeps an entry of a job that is gone"


def _inconsistent_unique(contents: _Contents) -> Iterable[_Wrong]:
    alive = {*contents.ready, *contents.scheduled, *(member[:ID_LENGTH] for member in contents.leases)}
    for field, value in contents.unique.items():
        if field[:1] == b"=":
            if value not in alive:
                yield "unique", field, f"this unique key is held by {value.decode(errors='backslashreplace')}, which is not alive"
            elif contents.unique.get(value) != field[1:]:
                yield "unique", field, f"{value.decode(errors='backslashreplace')} holds this unique key and does not know it"
        elif field not in contents.bodies:
            yield "unique", field, "unique keeps an entry of a job that is gone"
        elif field in alive and contents.unique.get(b"=" + value) != field:
            yield "unique", field, "is alive and does not hold its unique key"


def _bad_scores(contents: _Contents) -> Iterable[_Wrong]:
    for job_id, score in contents.ready.items():
        number = float(score)
        if not (0 < number < 1001 * _STEP and number == math.floor(number)):
            yield "score", job_id, f"its score in ready is {number!r}: no priority and time"
        elif _is_id(job_id):
            priority, expected = int(number) // _STEP, int(contents.prio.get(job_id, birth_priority(job_id.decode())))
            if priority != expected:
                yield "score", job_id, f"stands in ready with priority {priority}, its own is {expected}"
    for place in ("scheduled", "leases", "dead"):
        for member, score in getattr(contents, place).items():
            if not 0 < float(score) < _STEP:
                yield "score", member, f"its score in {place} is {float(score)!r}: no time in ms"


def _stale_leases(contents: _Contents, stale_ms: int) -> Iterable[_Wrong]:
    for member, expiry in contents.leases.items():
        late_ms = contents.now_ms - float(expiry)
        if late_ms > stale_ms:
            yield "expired", member, f"its lease ended {late_ms / 1000:.0f} s ago and nobody took it back: run a worker for this queue"
