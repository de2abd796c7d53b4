"""A namespace at a glance: its queues with their figures, and its cron entries. Each call is a few round trips, whatever there is."""

from collections import defaultdict
from collections.abc import Sequence

from msgspec import Struct

from bananas import broker
from bananas.app import Bananas
from bananas.audit import Reader
from bananas.inspector import WorkerInfo
from bananas.keys import QueueKeys
from bananas.operate.namespace import Namespace
from bananas.operate.requests import Measures, measure
from bananas.operate.why import serving

ANNOUNCED_MS = 60_000


class PriorityFigures(Struct, frozen=True):
    """The ready jobs of one priority: how many, and how long the oldest has waited."""

    priority: int
    ready: int
    oldest_ms: int


class QueueFigures(Struct, frozen=True):
    """A queue with its shards together.

    Attributes:
        shards: how many parts were counted.
        paused: every part is.
        oldest_ms: how long the job has waited that is ready for longest, or None.
        next_due_ms: when the next scheduled job is due, from now on (0: it is), or None.
        workers, slots, busy: who serves it, with how many slots for all their queues, and how many of these run something.
    """

    name: str
    shards: int
    ready: int
    scheduled: int
    running: int
    dead: int
    paused: bool
    oldest_ms: int | None
    next_due_ms: int | None
    priorities: tuple[PriorityFigures, ...]
    workers: int
    slots: int
    busy: int


class CronState(Struct, frozen=True):
    """A cron entry.

    Attributes:
        next_ms: when its next tick is (server time), None where no worker has announced it yet.
        announced: a worker did within the last minute; an entry that nobody announces does not fire.
        schedule: "every 30 s", or the cron expression.
    """

    name: str
    queue: str
    schedule: str
    timezone: str
    missed: str
    next_ms: int | None
    announced_ms: int | None
    announced: bool


async def queues(app: Bananas, names: Sequence[str] | None = None) -> list[QueueFigures]:
    """Every queue of the namespace (and those that the app's tasks name), or these. Raises BrokerError."""
    namespace = Namespace(app)
    places = await namespace.queues(names)
    measured = await namespace.of_each(places, measure, "counting the queues")
    workers = await namespace.workers()
    parts: dict[str, list[tuple[QueueKeys, Measures]]] = defaultdict(list)
    for keys, measures in zip(places, measured, strict=True):
        parts[keys.queue].append((keys, measures))
    return [_figures(name, parts[name], workers) for name in sorted(parts)]


def _figures(name: str, parts: Sequence[tuple[QueueKeys, Measures]], workers: Sequence[WorkerInfo]) -> QueueFigures:
    by_priority: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for _, measures in parts:
        for priority, count, entry_ms in measures.priorities:
            by_priority[priority].append((count, max(0, measures.now_ms - entry_ms)))
    priorities = tuple(
        PriorityFigures(priority, sum(count for count, _ in each), max(age for _, age in each))
        for priority, each in sorted(by_priority.items())
    )
    due = [max(0, measures.due_ms - measures.now_ms) for _, measures in parts if measures.due_ms is not None]
    hands = {worker.boot: worker for keys, _ in parts for worker in serving(workers, keys.name)}.values()
    return QueueFigures(
        name,
        len(parts),
        sum(measures.ready for _, measures in parts),
        sum(measures.scheduled for _, measures in parts),
        sum(measures.running for _, measures in parts),
        sum(measures.dead for _, measures in parts),
        all(measures.paused_ms is not None for _, measures in parts),
        max((each.oldest_ms for each in priorities), default=None),
        min(due, default=None),
        priorities,
        len(hands),
        sum(worker.slots for worker in hands),
        sum(min(worker.slots, len(worker.running)) for worker in hands),
    )


async def cron_entries(app: Bananas) -> list[CronState]:
    """Every cron entry that the server knows, and those of the app that no worker has announced. Raises BrokerError."""
    namespace, found = Namespace(app), dict[str, CronState]()
    for keys in await namespace.queues():
        (now,) = await namespace.ask(keys, [broker.plain(tuple, "TIME")], "reading cron entries")
        async for flat in Reader(app, "reading cron entries", keys).scan("HSCAN", keys.cron):
            entries = zip(flat[::2], flat[1::2], strict=True)  # \0: no entry, but the schedule that one had before
            states = [
                _cron_state(keys, name.decode(), record.decode(), int(now[0]) * 1000) for name, record in entries if b"\0" not in name
            ]
            found |= {state.name: state for state in states}
    for entry in app.registry.crons.values():
        given = entry.schedule
        text = _schedule_text(given.every_ms, given.expression)
        queue = entry.task.defaults.queue or "default"
        found.setdefault(entry.name, CronState(entry.name, queue, text, given.timezone, given.missed, None, None, False))
    return [found[name] for name in sorted(found)]


def _cron_state(keys: QueueKeys, name: str, record: str, now_ms: int) -> CronState:
    next_ms, announced_ms, schedule = record.split(" ", 2)
    every_ms, missed, timezone, expression = schedule.split(" ", 3)
    text = _schedule_text(int(every_ms), expression)
    announced = now_ms - int(announced_ms) < ANNOUNCED_MS
    return CronState(name, keys.queue, text, timezone, missed, int(next_ms), int(announced_ms), announced)


def _schedule_text(every_ms: int, expression: str) -> str:
    return expression or f"every {every_ms / 1000:g} s"
