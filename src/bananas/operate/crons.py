"""Cron entries: what there is, when each ran and will run; pause, resume, and run one now.

An entry lives where its jobs do, as "next announced schedule"; beside it stands what operators did and what became of its ticks (see
lua/cron_register.lua). A run that is asked for is submitted by a worker that has the entry's code, with the task's options and through the
app's middleware, like a tick. Versions of the library that know no pause do not fire a paused entry either; they do not see a run that is
asked for.
"""

import asyncio
import time
from collections.abc import AsyncIterator

from msgspec import Struct

from bananas import broker
from bananas.app import Bananas
from bananas.audit import Reader
from bananas.errors import CronEntryNotFound, JobConflict, describe
from bananas.keys import QueueKeys
from bananas.operate.namespace import Namespace
from bananas.operate.requests import cron_pause, cron_run
from bananas.operate.trail import note
from bananas.schedule import Schedule, next_ms

ANNOUNCED_MS, LOOK_S = 60_000, 0.1
_STATE = "\0state"


class CronState(Struct, frozen=True):
    """A cron entry.

    Attributes:
        next_ms: when its next tick is (server time), None while it is paused, or where no worker has announced it yet.
        announced: a worker did within the last minute; an entry that nobody announces does not fire.
        schedule: "every 30 s", or the cron expression.
        paused: it has no ticks until it is resumed; `paused_ms` is since when.
        last_ms, last_id: when it last submitted a job, and that job's public id; None and "" where it has not.
        missed_ticks: ticks without a job: nobody was there, or the job of an earlier one was alive (`unique`).
        asked_ms: an operator asked then for a run that no worker has begun yet.
    """

    name: str
    queue: str
    schedule: str
    timezone: str
    missed: str
    next_ms: int | None
    announced_ms: int | None
    announced: bool
    paused: bool = False
    paused_ms: int | None = None
    last_ms: int | None = None
    last_id: str = ""
    missed_ticks: int = 0
    asked_ms: int | None = None


class _Entry(Struct, frozen=True):
    """An entry as it is stored."""

    keys: QueueKeys
    packed: str
    state: CronState


async def cron_entries(app: Bananas) -> list[CronState]:
    """Every cron entry that the server knows, and those of the app that no worker has announced. Raises BrokerError."""
    namespace, found = Namespace(app), dict[tuple[str, str], CronState]()
    for keys in await namespace.queues():
        async for entry in _stored(namespace, keys):
            found[entry.state.name, keys.queue] = entry.state
    for known in app.registry.crons.values():
        given, queue = known.schedule, known.task.defaults.queue or "default"
        text = _schedule_text(given.every_ms, given.expression)
        found.setdefault((known.name, queue), CronState(known.name, queue, text, given.timezone, given.missed, None, None, False))
    return [found[key] for key in sorted(found)]


async def pause_cron(app: Bananas, queue: str, name: str, *, who: str = "") -> bool:
    """Let a cron entry have no ticks until it is resumed. Returns False if it was paused already.

    Raises:
        CronEntryNotFound: the queue has no such entry.
        BrokerError: the server did not answer, or refused.
    """
    return await _switch(app, queue, name, True, who)


async def resume_cron(app: Bananas, queue: str, name: str, *, who: str = "") -> bool:
    """Let it have its ticks again, from the next one on; those that passed are not made up for. Returns False if it was not paused.

    Raises as `pause_cron`.
    """
    return await _switch(app, queue, name, False, who)


async def run_cron(app: Bananas, queue: str, name: str, *, wait: float = 10.0, who: str = "") -> str:
    """Run a cron entry now, besides its ticks, also while it is paused. Returns the job's public id, "" if no worker began within `wait`
    seconds: then it runs as soon as one does. Asked twice before it begins, it runs once.

    Raises:
        CronEntryNotFound: the queue has no such entry, or no live worker announces it: nothing was done.
        JobConflict: the job of an earlier tick is alive, and the entry is unique: nothing was submitted.
        BrokerError: the server did not answer, or refused.
    """
    namespace = Namespace(app)
    entry = await _one(namespace, queue, name)
    (asked_ms,) = await namespace.ask(entry.keys, [cron_run(entry.keys, name, ANNOUNCED_MS)], f"asking for a run of {name}")
    if asked_ms < 0:
        raise CronEntryNotFound(f"no live worker has announced cron entry {describe(name)} lately: nobody would run it; nothing was done")
    await note(app, "run cron", f"cron:{queue}/{name}", 1, 1, who)
    until = time.monotonic() + wait
    while True:
        state = (await _one(namespace, queue, name)).state
        if state.asked_ms != asked_ms:
            break
        if time.monotonic() >= until:
            return ""
        await asyncio.sleep(LOOK_S)
    if state.last_ms is None or state.last_ms < asked_ms:
        raise JobConflict(f"cron entry {describe(name)} was not run: the job of an earlier tick is alive, and the entry is unique")
    return state.last_id


async def _switch(app: Bananas, queue: str, name: str, paused: bool, who: str) -> bool:
    namespace = Namespace(app)
    entry = await _one(namespace, queue, name)
    (now,) = await namespace.ask(entry.keys, [broker.plain(tuple, "TIME")], "asking for the time")
    request = cron_pause(entry.keys, name, entry.packed.encode(), paused, next_ms(_schedule(entry.packed), int(now[0]) * 1000))
    (code,) = await namespace.ask(entry.keys, [request], f"changing cron entry {name}")
    if code < 0:
        raise CronEntryNotFound(f"cron entry {describe(name)} was changed or deleted meanwhile: nothing was done; look again")
    if code:
        await note(app, "pause cron" if paused else "resume cron", f"cron:{queue}/{name}", 1, 1, who)
    return bool(code)


async def _one(namespace: Namespace, queue: str, name: str) -> _Entry:
    """The entry of that name in a queue; where two shards have one, the one that is announced."""
    parts = [keys for keys in await namespace.queues() if keys.queue == queue]
    found = [entry for keys in parts async for entry in _stored(namespace, keys, name)]
    if not found:
        raise CronEntryNotFound(f"queue {describe(queue)} has no cron entry {describe(name)}: no worker has announced it; nothing was done")
    return max(found, key=lambda entry: entry.state.announced_ms or 0)


async def _stored(namespace: Namespace, keys: QueueKeys, name: str | None = None) -> AsyncIterator[_Entry]:
    """The entries of a queue, or the one of this name."""
    records: dict[str, str] = {}
    if name is None:
        (now,) = await namespace.ask(keys, [broker.plain(tuple, "TIME")], "reading cron entries")
        async for flat in Reader(namespace.app, "reading cron entries", keys).scan("HSCAN", keys.cron):
            records |= {key.decode(): value.decode() for key, value in zip(flat[::2], flat[1::2], strict=True)}
    else:
        fields = (name, name + _STATE)
        requests = [broker.plain(_text, "HGET", keys.cron, field) for field in fields]
        now, *values = await namespace.ask(keys, [broker.plain(tuple, "TIME"), *requests], "reading a cron entry")
        records = {field: value for field, value in zip(fields, values, strict=True) if value}
    for known, record in records.items():
        if "\0" in known:  # what an entry had before, or its state
            continue
        try:
            entry = read_entry(keys, known, record, records.get(known + _STATE, ""), int(now[0]) * 1000)
        except ValueError:  # damaged, or of another version: no entry
            continue
        yield entry


def read_entry(keys: QueueKeys, name: str, record: str, state: str, now_ms: int) -> _Entry:
    """An entry of what is stored. Raises ValueError for what is none."""
    due_ms, announced_ms, packed = record.split(" ", 2)
    schedule, announced = _schedule(packed), now_ms - int(announced_ms) < ANNOUNCED_MS
    paused_ms, asked_ms, last_ms, missed, last_id = (state or "0 0 0 0 0 0 ").split(" ", 6)[2:]
    return _Entry(
        keys,
        packed,
        CronState(
            name,
            keys.queue,
            _schedule_text(schedule.every_ms, schedule.expression),
            schedule.timezone,
            schedule.missed,
            None if int(paused_ms) else int(due_ms),
            int(announced_ms),
            announced,
            bool(int(paused_ms)),
            int(paused_ms) or None,
            int(last_ms) or None,
            last_id and keys.public(last_id),
            int(missed),
            int(asked_ms) or None,
        ),
    )


def _schedule(packed: str) -> Schedule:
    every_ms, missed, timezone, expression = packed.split(" ", 3)
    return Schedule(expression, timezone, int(every_ms), missed)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def _schedule_text(every_ms: int, expression: str) -> str:
    return expression or f"every {every_ms / 1000:g} s"


def _text(reply: bytes | None) -> str:
    return (reply or b"").decode()
