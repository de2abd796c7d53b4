"""What advice is made from: a namespace and its servers at one moment, and its last minutes. Pure."""

import math
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from bananas.inspector import WorkerInfo
from bananas.operate.backlog import backlog_seconds, rates
from bananas.operate.history import History
from bananas.operate.overview import QueueFigures

Level = Literal["error", "warning", "hint"]
Kind = Literal[
    "no_workers", "unserved", "unknown_task", "paused", "add_workers", "add_processes", "starving", "low_priority", "timeout", "failing",
    "payload", "overdue", "dead_letters", "policy", "persistence", "memory", "memory_growth", "memory_limit", "add_shards",
]  # fmt: skip
Figure = int | float | str

SLOTS_FULL, SLOT_SHARE = 0.95, 0.8  # slots count as all busy from here on; planned for, one in five is free
CORE_FULL = 85.0  # percent of one core at which a process has no more to give
STANDING_S, LATE_S = 60.0, 300.0
GROWN, GROWN_JOBS, TREND_S = 1.1, 10, 600


class Advice(Struct, frozen=True):
    """One piece of advice.

    Attributes:
        kind: which rule it is from.
        level: "error": jobs do not run, or may be lost; "warning": it gets worse, or is bad already; "hint": it could be better.
        queue, task: what it is about, "" where that is the whole.
        title: in a few words. why: the figures that say so, in a sentence. action: what to do, with settings by their names.
        figures: the same figures for programs, durations in seconds.
    """

    kind: Kind
    level: Level
    queue: str
    task: str
    title: str
    why: str
    action: str
    figures: dict[str, Figure] = {}


class Server(Struct, frozen=True, kw_only=True):
    """A server of the namespace. `core_share`: how much of a core its command thread used, None where it does not tell."""

    used_bytes: int
    max_bytes: int
    policy: str = "noeviction"
    evicted: int = 0
    append_only: bool = True
    core_share: float | None = None


class Sample(Struct, frozen=True):
    """A job that waits: its size as it is stored, and its timeout, None where it has no limit."""

    queue: str
    task: str
    size_bytes: int
    timeout_s: float | None = None


class Snapshot(Struct, frozen=True, kw_only=True):
    """All that is looked at.

    Attributes:
        recent: what happened in the last half hour in every queue. by_queue: the same of single queues, of those with most jobs ready.
        lately: what happened in the last minutes, by which rates are reckoned.
        samples: some of the jobs that wait, of each queue.
        timeouts: seconds by task, where the code of the app is known.
        clustered: the server is a Cluster. compressed: payloads are compressed already.
        dead_max_count: how many dead letters are kept, by the settings that are known here.
    """

    queues: tuple[QueueFigures, ...] = ()
    workers: tuple[WorkerInfo, ...] = ()
    recent: History
    lately: History
    by_queue: dict[str, History] = {}
    servers: tuple[Server, ...] = ()
    samples: tuple[Sample, ...] = ()
    timeouts: dict[str, float] = {}
    clustered: bool = False
    compressed: bool = False
    dead_max_count: int = 10_000

    def hands(self, queue: str) -> list[WorkerInfo]:
        """The workers that take jobs of a queue, or of one of its shards."""
        return [worker for worker in self.takers if any(name.partition(".")[0] == queue for name in worker.queues)]

    @property
    def takers(self) -> list[WorkerInfo]:
        """The workers that take jobs: not those for upkeep alone, nor those that are quiet or stopping."""
        return [worker for worker in self.workers if worker.slots and worker.phase == "working"]

    def rate_s(self, queue: str) -> float:
        """Runs of a queue that ended per second."""
        return rates(self.lately).get(queue, 0.0)

    def growth_s(self, queue: QueueFigures) -> float:
        """Jobs per second by which what is ready grew in the last ten minutes; 0.0 where it did no more than sway, or nobody knows."""
        history = self.by_queue.get(queue.name)
        since_ms = history.now_ms - TREND_S * 1000 if history else 0
        first = next((point for point in history.points if point.depth and point.at_ms >= since_ms), None) if history else None
        if history is None or first is None or first.depth is None:
            return 0.0
        before = first.depth.high + first.depth.normal + first.depth.low
        grown, passed_s = (
            queue.ready - before,
            (history.now_ms - first.at_ms) / 1000 - history.step_s,
        )  # it was looked at by the end of its step
        return grown / passed_s if grown >= GROWN_JOBS and queue.ready >= GROWN * before and passed_s >= STANDING_S else 0.0

    def backlog_s(self, queue: QueueFigures) -> float:
        """How long what is ready takes."""
        return backlog_seconds(queue.ready, self.rate_s(queue.name), queue.oldest_ms)


def mean(numbers: Iterable[float]) -> float:
    """Their mean; 0.0 of none."""
    known = list(numbers)
    return math.fsum(known) / len(known) if known else 0.0


def listed(names: Iterable[object], most: int = 5) -> str:
    """Names in a sentence, not too many."""
    every = [str(name) for name in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
