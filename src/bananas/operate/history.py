"""What happened over time: the figures that workers have counted, by the minute and by task, and in all.

Read from the minutes that the server keeps (the setting `stats_ttl`), or for longer ranges from the tens of minutes: a few round trips per
queue, whatever ran.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from bananas import broker
from bananas.app import Bananas
from bananas.broker import Request
from bananas.keys import QueueKeys
from bananas.operate.namespace import Namespace
from bananas.tally import DEAD, MINUTE_MS, OTHER, RETRIED, SUCCESS, Counts, Spread, merged, read_fields

LONGEST_MINUTES = 2_880
MOST_POINTS = 180
_STEPS = (1, 10, 20)  # minutes; of ten and more, what was counted of ten is read
_AT_ONCE = 25  # how many are read, and unpacked, before others have their turn
_WHAT = "reading what was counted"


class Times(Struct, frozen=True):
    """How long something took, in ms: of how many, and how long 50, 95 and 99 % of them at most (off by a fifth at most)."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


class Depth(Struct, frozen=True):
    """How many jobs were ready, by priority (high: to 300, normal: to 699, low: from 700), scheduled and dead."""

    high: int
    normal: int
    low: int
    scheduled: int
    dead: int


class Point(Struct, frozen=True):
    """What happened from `at_ms` on for a step.

    Attributes:
        success, retried, dead: runs that ended so. other: jobs that were cancelled, discarded, or expired.
        wait: how long jobs were ready before a worker took them. run: how long their handlers ran. None: of none.
        depth: as a worker found it last; None where none had anything to count.
    """

    at_ms: int
    success: int
    retried: int
    dead: int
    other: int
    wait: Times | None
    run: Times | None
    depth: Depth | None


class TaskFigures(Struct, frozen=True):
    """The same of one task in one queue, over all steps."""

    task: str
    queue: str
    success: int
    retried: int
    dead: int
    other: int
    wait: Times | None
    run: Times | None


class History(Struct, frozen=True):
    """What happened, the oldest first; a point stands also for a step in which nothing did. `now_ms` is the server's time."""

    now_ms: int
    step_s: int
    points: list[Point]
    tasks: list[TaskFigures]


class _Minute(NamedTuple):
    """One minute, or ten, of one queue, or shard."""

    queue: str
    minute: int
    tasks: dict[str, Counts]
    depths: dict[str, int]


async def history(app: Bananas, minutes: int = 60, queue: str | None = None) -> History:
    """The last so many minutes (1 to 2,880), of every queue or of one with its shards.

    Raises:
        ValueError: minutes is out of range. BrokerError.
    """
    if not 1 <= minutes <= LONGEST_MINUTES:
        raise ValueError(f"minutes is {minutes}: give 1 to {LONGEST_MINUTES}")
    namespace = Namespace(app)
    places = await namespace.queues(None if queue is None else [queue])
    now_ms = await _server_ms(app)
    newest = now_ms // MINUTE_MS
    step = next(step for step in _STEPS if minutes <= step * MOST_POINTS)
    first = (newest - minutes + 1) // step * step
    parts = await asyncio.gather(*(_minutes_of(namespace, keys, range(first, newest + 1, min(step, 10))) for keys in places))
    read = [minute for part in parts for minute in part]
    points, tasks = await asyncio.to_thread(_added_up, read, range(first, newest + 1, step))  # meanwhile others have the loop
    return History(now_ms, step * 60, points, tasks)


def _added_up(read: Sequence[_Minute], steps: range) -> tuple[list[Point], list[TaskFigures]]:
    by_start: dict[int, list[_Minute]] = defaultdict(list)
    by_queue: dict[str, list[dict[str, Counts]]] = defaultdict(list)
    for each in read:
        by_start[each.minute - (each.minute - steps.start) % steps.step].append(each)
        by_queue[each.queue].append(each.tasks)
    points = [_point(start, by_start[start]) for start in steps]
    tasks = [
        TaskFigures(task, name, *figures(counts))
        for name, tables in sorted(by_queue.items())
        for task, counts in sorted(merged(tables).items())
    ]
    return points, tasks


async def totals(app: Bananas) -> dict[str, dict[str, Counts]]:
    """What was counted since ever, by queue and task; it only grows. Raises BrokerError."""
    namespace = Namespace(app)
    places = await namespace.queues()
    tables = await namespace.of_each(places, lambda keys: _read(keys.stats()), _WHAT)
    by_queue: dict[str, list[dict[str, Counts]]] = defaultdict(list)
    for keys, fields in zip(places, tables, strict=True):
        by_queue[keys.queue].append(read_fields(fields)[0])
    return {name: merged(parts) for name, parts in by_queue.items()}


async def _server_ms(app: Bananas) -> int:
    seconds, microseconds = await app.client.ask_home(app.settings.namespace, broker.plain(tuple, "TIME"), _WHAT)
    return int(seconds) * 1000 + int(microseconds) // 1000


async def _minutes_of(namespace: Namespace, keys: QueueKeys, minutes: range) -> list[_Minute]:
    key_of = keys.stats if minutes.step == 1 else keys.stats_of_ten
    found: list[_Minute] = []
    for start in range(0, len(minutes), _AT_ONCE):
        part = minutes[start : start + _AT_ONCE]
        replies = await namespace.ask(keys, [_read(key_of(minute)) for minute in part], _WHAT)
        found += [_Minute(keys.queue, minute, *read_fields(fields)) for minute, fields in zip(part, replies, strict=True) if fields]
    return found


def _read(key: str) -> Request[dict[str, str]]:
    return broker.plain(_fields, "HGETALL", key)


def _fields(reply: Mapping[bytes, bytes] | Sequence[bytes]) -> dict[str, str]:
    pairs: Iterable[tuple[bytes, bytes]] = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    return {field.decode("utf-8", "replace"): value.decode("utf-8", "replace") for field, value in pairs}


def _point(start: int, read: Sequence[_Minute]) -> Point:
    counts = Counts()
    for minute in read:
        for each in minute.tasks.values():
            counts.merge(each)
    return Point(start * MINUTE_MS, *figures(counts), _depth(read))


def _depth(read: Sequence[_Minute]) -> Depth | None:
    """Of each queue as it was last seen in the step, added up."""
    newest = {each.queue: each.minute for each in sorted(read, key=lambda each: each.minute) if each.depths}
    last = [each.depths for each in read if each.depths and newest[each.queue] == each.minute]
    if not last:
        return None
    return Depth(*(sum(depths.get(name, 0) for depths in last) for name in Depth.__struct_fields__))


def figures(counts: Counts) -> tuple[int, int, int, int, Times | None, Times | None]:
    """How many ended in which way, and how long they waited and ran."""
    ended = (counts.outcomes[outcome] for outcome in (SUCCESS, RETRIED, DEAD, OTHER))
    success, retried, dead, other = ended
    return success, retried, dead, other, _times(counts.wait), _times(counts.run)


def _times(spread: Spread) -> Times | None:
    count = spread.count
    return Times(count, *(round(spread.quantile(share), 3) for share in (0.5, 0.95, 0.99))) if count else None
