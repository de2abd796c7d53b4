"""The queues of a namespace at a glance, with their figures: a few round trips, whatever there is."""

from collections import defaultdict
from collections.abc import Sequence

from msgspec import Struct

from bananas.app import Bananas
from bananas.inspector import WorkerInfo
from bananas.keys import QueueKeys
from bananas.operate.namespace import Namespace
from bananas.operate.requests import Measures, measure
from bananas.operate.why import serving


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
