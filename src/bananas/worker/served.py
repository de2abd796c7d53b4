"""The queues that a worker serves: what it knows of each, and whose turn it is."""

import asyncio
from collections.abc import Callable, Sequence

from bananas.broker import Claim
from bananas.keys import QueueKeys
from bananas.worker.counting import Counting
from bananas.worker.notes import Notes
from bananas.worker.settler import Settler

FAIR_EVERY = 10
REST_S = 0.25


class Served:
    """One queue of a worker.

    Attributes:
        index: its number in the lease table.
        hungry: it may have jobs for this worker: claim.
        due: scheduled jobs are due: promote.
        turn, fence: the number of the last claim sent, and the last fence received.
        lost_turn: a claim whose reply was lost and that is not undone yet, or 0.
        away: its server did not answer when the worker started: it is not open yet.
        busy: its server is being asked, or away; only looked at where there are several.
        picked: the number of its last turn.
        paused: it was, when last asked.
        resting_until: the loop's time before which its marker is left to others.
        leave_in: leave it to others for a moment, in so many seconds; leaving: that is to come.
    """

    def __init__(self, index: int, keys: QueueKeys, boot: str, weight: int = 0) -> None:
        self.index, self.keys, self.weight = index, keys, weight
        self.settler = Settler(keys, boot)
        self.counting = Counting(keys, boot, {}, 0)
        self.notes = Notes(keys)
        self.hungry = True
        self.due = self.popped = self.rearm = self.paused = self.busy = self.away = self.leaving = False
        self.leave_in: Callable[[float], None] = lambda _: None
        self.turn = self.fence = self.lost_turn = self.cursor = self.picked = 0
        self.resting_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")

    def hear(self, claim: Claim, *, promotes: bool) -> None:
        """Note what a claim says of this queue."""
        got, popped = len(claim.bodies), self.popped
        self.popped, self.paused = False, claim.paused
        if self.turn % FAIR_EVERY != 0:
            self.cursor = claim.cursor
        self.hungry = claim.left > 0 and not claim.paused and (got > 0 or self.cursor > 0)
        if claim.next_due_ms == 0 and promotes and not claim.paused:
            self.due = self.hungry = True
        if popped and not got and claim.left > 0 and not claim.paused:
            self.rearm = True
            self.resting_until = asyncio.get_running_loop().time() + REST_S

    def rearmed(self, _: bool) -> None:
        """Its marker was given back."""
        self.rearm = False

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
    """In which order queues are asked: as listed, every 10th turn beginning one further, or by weight. The shards of one take turns."""

    def __init__(self, queues: Sequence[Served]) -> None:
        self._queues = list(queues)
        self._weighted = any(served.weight for served in queues)
        self._sharded = any(served.keys.shard is not None for served in queues)
        self._turn = 0
        self._credit = {served.keys.queue: 0 for served in queues}
        self._kept: Served | None = None
        self.sharers = 1

    @property
    def hungry(self) -> bool:
        """Whether any queue may have jobs, or is being asked."""
        return any(served.hungry or served.busy for served in self._queues)

    def pick(self, now: float, mine: Sequence[Served] | None = None) -> Served | None:
        """The queue to claim from next, or None when none is hungry.

        Args:
            mine: where several ask: the queues of who asks. A turn of another's is kept for them.
        """
        hungry = [served for served in self._queues if served.hungry and served.resting_until <= now and not served.busy]
        if not hungry:
            return None
        self.sharers = len(hungry)
        choice = self._kept if self._kept in hungry else self._choose(hungry)
        self._kept = choice if mine is not None and choice not in mine else None
        return choice

    def _choose(self, hungry: list[Served]) -> Served:
        self._turn += 1
        if self._weighted:
            choice = self._by_weight(hungry)
        elif self._turn % FAIR_EVERY == 0:
            choice = hungry[self._turn // FAIR_EVERY % len(hungry)]
        else:
            choice = hungry[0]
        if self._sharded and choice.keys.shard is not None:
            choice = min((served for served in hungry if served.keys.queue == choice.keys.queue), key=lambda served: served.picked)
        choice.picked = self._turn
        return choice

    def _by_weight(self, hungry: list[Served]) -> Served:
        """Smooth weighted round robin, as nginx does it: no queue waits longer than the sum of the weights."""
        total, queues = 0, {served.keys.queue: served for served in reversed(hungry)}
        for name, served in queues.items():
            weight = served.weight or 1
            total += weight
            self._credit[name] += weight
        best = max(reversed(queues), key=lambda name: self._credit[name])
        self._credit[best] -= total
        return queues[best]
