"""Who works, and the structural audit: each id in one place, a body for each id and an id for each body, nothing held by what is gone.

A leased job's body and lease are written and removed in one script each, but the audit reads in several steps: on a queue at work it may
see a job on its way. Run it at rest, or look twice.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from bananas import broker
from bananas.app import Bananas
from bananas.broker import Request
from bananas.codec import unpack
from bananas.errors import BananasError
from bananas.keys import ID_LENGTH, QueueKeys, queues_key, workers_key


class Finding(Struct, frozen=True):
    """One thing that is not as it must be. `kind`: "two places", "no body", "no place", "orphan" or "unique"."""

    queue: str
    kind: str
    id: str
    what: str


class Audit(Struct, frozen=True):
    """What an audit found, over how many jobs."""

    jobs: int
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


async def audit(app: Bananas, queues: Sequence[str] | None = None) -> Audit:
    """Check the structure of some queues, or of all queues of the app's namespace. Reads every id, no bodies."""
    if queues is None:
        names: list[bytes] = await _ask(app, broker.plain(list, "SMEMBERS", queues_key(app.settings.namespace)))
        queues = sorted(name.decode() for name in names)
    findings: list[Finding] = []
    jobs = 0
    for name in queues:
        keys = app.producer.keys(name)
        found = await _read(app, keys)
        jobs += len(found["jobs"])
        findings += _places(keys, found)
        findings += _leftovers(keys, found)
    return Audit(jobs, tuple(findings))


class WorkerInfo(Struct, frozen=True):
    """A worker process as it announced itself: who, what it serves, and the public ids of what it runs (overdue: beyond its timeout)."""

    boot: str
    host: str
    pid: int
    supervisor: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    slots: int
    running: tuple[str, ...]
    overdue: tuple[str, ...]
    started_ms: int


async def workers(app: Bananas) -> list[WorkerInfo]:
    """The worker processes of the app's namespace that are alive, by the server's clock."""
    fields = await _ask(app, broker.plain(list, "HGETALL", workers_key(app.settings.namespace)))
    seconds, microseconds = await _ask(app, broker.plain(tuple, "TIME"))
    now_ms = int(seconds) * 1000 + int(microseconds) // 1000
    records = zip(fields[::2], fields[1::2], strict=True)
    alive = ((boot, unpack(record[8:])) for boot, record in records if int.from_bytes(record[:8], "big") > now_ms)
    return [msgspec.convert(record | {"boot": boot.decode()}, WorkerInfo) for boot, record in alive]


async def _ask(app: Bananas, request: Request[Any]) -> Any:
    (reply,) = await app.client.here().lane.ask(None, [request], app.settings.call_timeout, "the audit")
    if isinstance(reply, BananasError):
        raise reply
    return reply


async def _read(app: Bananas, keys: QueueKeys) -> dict[str, list[str]]:
    """The ids in every key of a queue (leases by id; `unique` as its fields and values)."""
    commands = {
        "ready": ("ZRANGE", keys.ready, 0, -1),
        "scheduled": ("ZRANGE", keys.scheduled, 0, -1),
        "leased": ("ZRANGE", keys.leases, 0, -1),
        "dead": ("ZRANGE", keys.dead, 0, -1),
        "jobs": ("HKEYS", keys.jobs),
        "prio": ("HKEYS", keys.base + "prio"),
        "tries": ("HKEYS", keys.tries),
        "cancelled": ("SMEMBERS", keys.base + "cancelled"),
        "unique": ("HGETALL", keys.base + "unique"),
    }
    found: dict[str, list[str]] = {}
    for name, command in commands.items():
        found[name] = [item.decode(errors="replace") for item in await _ask(app, broker.plain(list, *command))]
    found["leased"] = [member[:ID_LENGTH] for member in found["leased"]]
    return found


def _places(keys: QueueKeys, found: dict[str, list[str]]) -> Iterable[Finding]:
    bodies, placed = set(found["jobs"]), dict[str, str]()
    for place in ("ready", "scheduled", "leased", "dead"):
        for job_id in found[place]:
            if job_id in placed:
                yield Finding(keys.name, "two places", job_id, f"it is {placed[job_id]} and {place}")
            placed[job_id] = place
            if job_id not in bodies:
                yield Finding(keys.name, "no body", job_id, f"it is {place}, but has no body")
    for job_id in sorted(bodies - set(placed)):
        yield Finding(keys.name, "no place", job_id, "it has a body, but is neither ready, scheduled, leased nor dead")


def _leftovers(keys: QueueKeys, found: dict[str, list[str]]) -> Iterable[Finding]:
    bodies = set(found["jobs"])
    for part in ("prio", "tries", "cancelled"):
        for job_id in sorted(set(found[part]) - bodies):
            yield Finding(keys.name, "orphan", job_id, f"it stands in {part}, but there is no such job")
    unique = dict(zip(found["unique"][::2], found["unique"][1::2], strict=True))
    for field, value in unique.items():
        job_id = value if field.startswith("=") else field
        if job_id not in bodies:
            yield Finding(keys.name, "unique", job_id, f"the unique key entry {field!r} names a job that is gone")
