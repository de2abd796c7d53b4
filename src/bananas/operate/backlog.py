"""How long a queue's backlog takes: the figure by which workers are added, as `bananas_queue_backlog_seconds` for autoscalers too."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from msgspec import Struct

from bananas.app import Bananas
from bananas.operate.history import History, history
from bananas.operate.overview import queues

RECENT_MINUTES = 5


class QueueBacklog(Struct, frozen=True):
    """A queue's backlog.

    Attributes:
        ready: jobs that wait for a worker.
        rate_s: runs that ended per second over the last minutes, whatever came of them.
        oldest_ms: how long the job has waited that is ready for longest, None where none is.
        seconds: how long the ready jobs take at that rate; where nothing ended, how long the oldest has waited; 0 where none is ready.
    """

    queue: str
    ready: int
    rate_s: float
    oldest_ms: int | None
    seconds: float


def backlog_seconds(ready: int, rate_s: float, oldest_ms: int | None) -> float:
    """How long so many ready jobs take at that rate; where nothing ends, how long the oldest has waited. Pure."""
    if not ready:
        return 0.0
    return ready / rate_s if rate_s > 0 else (oldest_ms or 0) / 1000


def rates(recent: History) -> dict[str, float]:
    """Runs that ended per second, by queue, since the first minute of a history in which any did: idle ones tell nothing. Pure."""
    ended: dict[str, int] = defaultdict(int)
    for task in recent.tasks:
        ended[task.queue] += task.success + task.retried + task.dead + task.other
    began = [point.at_ms for point in recent.points if point.success + point.retried + point.dead + point.other]
    since_ms = min(began, default=recent.points[0].at_ms if recent.points else recent.now_ms)
    covered_s = max(1.0, (recent.now_ms - since_ms) / 1000)
    return {queue: count / covered_s for queue, count in ended.items()}


async def backlog(app: Bananas, names: Sequence[str] | None = None, minutes: int = RECENT_MINUTES) -> list[QueueBacklog]:
    """The backlog of every queue of the namespace, or of these, by what ended in the last so many minutes. Raises BrokerError."""
    found, recent = await asyncio.gather(queues(app, names), history(app, minutes))
    by_queue = rates(recent)
    return [
        QueueBacklog(
            each.name,
            each.ready,
            by_queue.get(each.name, 0.0),
            each.oldest_ms,
            backlog_seconds(each.ready, by_queue.get(each.name, 0.0), each.oldest_ms),
        )
        for each in found
    ]
