"""What there is at one moment, and what happens between two moments."""

import asyncio
import time
from collections import deque

from msgspec import Struct

from bananas import operate
from bananas.app import Bananas
from bananas.inspector import WorkerInfo, workers
from bananas.operate import ErrorGroups, QueueFigures, backlog_seconds
from bananas.session import server_info
from bananas.tally import DEAD, OTHER, RETRIED, SUCCESS

WINDOW_S = 10.0
ERRORS_SCANNED = 2_000


class Ended(Struct, frozen=True):
    """What was counted of a queue since ever: runs that ended, jobs that left for good, and runs that failed."""

    runs: int = 0
    gone: int = 0
    failed: int = 0


class Frame(Struct, frozen=True):
    """A namespace at one moment; `taken_s` is of this machine's monotonic clock."""

    taken_s: float
    namespace: str
    queues: tuple[QueueFigures, ...]
    workers: tuple[WorkerInfo, ...]
    ended: dict[str, Ended]
    used_bytes: int
    max_bytes: int


class Rates(Struct, frozen=True):
    """Per second: jobs that came in and that left, runs that failed (None: not known); how long the backlog takes at the rate of runs."""

    in_s: float | None
    out_s: float
    failed_s: float | None
    backlog_s: float


async def take(app: Bananas) -> Frame:
    """Look once. Raises BrokerError."""
    namespace = app.settings.namespace
    found, alive, counted, info = await asyncio.gather(
        operate.queues(app),
        workers(app),
        operate.totals(app),
        app.client.ask_home(namespace, server_info(), "reading the server's figures"),
    )
    ended = {queue: _ended([counts.outcomes for counts in tasks.values()]) for queue, tasks in counted.items()}
    hands = sorted(alive, key=lambda worker: (worker.host, worker.pid))
    memory = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    return Frame(time.monotonic(), namespace, tuple(found), tuple(hands), ended, *memory)


def _ended(tasks: list[list[int]]) -> Ended:
    success, retried, dead, other = (sum(outcomes[each] for outcomes in tasks) for each in (SUCCESS, RETRIED, DEAD, OTHER))
    return Ended(success + retried + dead + other, success + dead + other, retried + dead)


async def failures(app: Bananas) -> ErrorGroups:
    """The groups among the newest failures. Raises BrokerError."""
    return await operate.errors(app, scan_limit=ERRORS_SCANNED)


class Track:
    """The frames of the last seconds: between the oldest and the newest of them rates are reckoned.

    Attributes:
        last: the newest, or None before the first.
    """

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()

    @property
    def last(self) -> Frame | None:
        return self._frames[-1] if self._frames else None

    def add(self, frame: Frame) -> None:
        """Take in a new one, and let go of what is too old."""
        self._frames.append(frame)
        while len(self._frames) > 2 and frame.taken_s - self._frames[1].taken_s >= WINDOW_S:
            self._frames.popleft()

    def rates(self) -> dict[str, Rates]:
        """By queue; none before there are two frames."""
        return between(self._frames[0], self._frames[-1]) if len(self._frames) > 1 else {}


def between(old: Frame, new: Frame) -> dict[str, Rates]:
    """The rates of each queue from one frame to another. Pure."""
    passed_s = max(new.taken_s - old.taken_s, 0.001)
    before = {queue.name: queue for queue in old.queues}
    found = {}
    for queue in new.queues:
        first, last = old.ended.get(queue.name, Ended()), new.ended.get(queue.name, Ended())
        gone = max(0, last.gone - first.gone)
        grown = _alive(queue) - (_alive(before[queue.name]) if queue.name in before else 0)
        runs_s = max(0, last.runs - first.runs) / passed_s
        found[queue.name] = Rates(
            max(0, gone + grown) / passed_s,
            gone / passed_s,
            max(0, last.failed - first.failed) / passed_s,
            backlog_seconds(queue.ready, runs_s, queue.oldest_ms),
        )
    return found


def _alive(queue: QueueFigures) -> int:
    return queue.ready + queue.scheduled + queue.running
