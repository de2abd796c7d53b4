"""The queues that a worker serves: what it knows of each, and whose turn it is."""

import asyncio
from collections.abc import Callable, Sequence

from bananas.keys import QueueKeys
from bananas.worker.settler import Settler

FAIR_EVERY = 10


class Served:
    """One queue of a worker.

    Attributes:
        index: its number in the lease table.
        hungry: it may have jobs for this worker: claim.
        due: scheduled jobs are due: promote.
        turn, fence: the number of the last claim sent, and the last fence received.
        lost_turn: a claim whose reply was lost and that is not undone yet, or 0.
        paused: it was, when last asked.
        resting_until: the loop's time before which its marker is left to others.
    """

    def __init__(self, index: int, keys: QueueKeys, boot: str, weight: int = 0) -> None:
        self.index, self.keys, self.weight = index, keys, weight
        self.settler = Settler(keys, boot)
        self.hungry = True
        self.due = self.popped = self.rearm = self.paused = False
        self.turn = self.fence = self.lost_turn = self.cursor = 0
        self.resting_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")

    def expect_due(self, in_ms: int, fire: Callable[["Served"], None]) -> None:
        """Set the local timer for the next scheduled job; -1: there is none."""
        loop = asyncio.get_running_loop()
        at = loop.time() + in_ms / 1000 if in_ms >= 0 else float("inf")
        if abs(at - self._timer_at) < 0.0005:
            return
        self.forget_due()
        if in_ms >= 0:
            self._timer_at = at
            self._timer = loop.call_later(in_ms / 1000 + 0.0005, fire, self)

    def forget_due(self) -> None:
        """Drop the timer."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, float("inf")


class Rotation:
    """In which order queues are asked: as listed, every 10th turn beginning one further, or by weight."""

    def __init__(self, queues: Sequence[Served]) -> None:
        self._queues = list(queues)
        self._weighted = any(served.weight for served in queues)
        self._turn = 0
        self._credit = {served.index: 0 for served in queues}

    def pick(self, now: float) -> Served | None:
        """The queue to claim from next, or None when none is hungry."""
        hungry = [served for served in self._queues if served.hungry and served.resting_until <= now]
        if not hungry:
            return None
        if self._weighted:
            return self._by_weight(hungry)
        self._turn += 1
        if self._turn % FAIR_EVERY == 0:
            return hungry[self._turn // FAIR_EVERY % len(hungry)]
        return hungry[0]

    def _by_weight(self, hungry: list[Served]) -> Served:
        """Smooth weighted round robin, as nginx does it: no queue waits longer than the sum of the weights."""
        total = 0
        for served in hungry:
            weight = served.weight or 1
            total += weight
            self._credit[served.index] += weight
        best = max(hungry, key=lambda served: self._credit[served.index])
        self._credit[best.index] -= total
        return best
