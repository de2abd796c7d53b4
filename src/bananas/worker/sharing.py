"""How the fetchers of a Cluster's slots share the slots of one runner, so that a server that is away holds few of them, for a short time.

Whose turn it is, one rotation says. A turn of another's is left to its fetcher, which hears of it; slots that a claim under way may fill
are taken; and whoever has asked lets the others know, since there may be slots left.
"""

from collections.abc import Sequence
from typing import Protocol

from bananas.worker.runner import Runner
from bananas.worker.served import Rotation, Served


class Sharer(Protocol):
    """A fetcher, as the others see it."""

    asking: int
    queues: list[Served]

    def changed(self) -> None:
        """Look again."""
        ...

    @property
    def settling(self) -> bool:
        """Whether outcomes wait to be sent."""
        ...


class Sharing:
    """The fetchers of one worker process."""

    def __init__(self, rotation: Rotation, runner: Runner) -> None:
        self._rotation, self._runner = rotation, runner
        self.all: Sequence[Sharer] = ()

    def next_for(self, fetcher: Sharer, now: float) -> Served | None:
        """A queue of this fetcher's whose turn it is; where it is another's turn, that one hears of it."""
        if self._left() <= 0:
            return None
        choice = self._rotation.pick(now, fetcher.queues)
        if choice is None or choice in fetcher.queues:
            return choice
        for other in self.all:
            if choice in other.queues:
                other.changed()
        return None

    def room(self) -> int:
        """How many jobs to ask for: a share of the slots that nobody asks to fill already, one at least."""
        left = self._left()
        return max(min(1, left), left // self._rotation.sharers)

    def _left(self) -> int:
        return self._runner.free - sum(each.asking for each in self.all)

    def wake(self) -> None:
        """Slots, or turns, may be left."""
        for each in self.all:
            each.changed()

    @property
    def asks(self) -> bool:
        """Whether a claim is under way."""
        return any(each.asking for each in self.all)

    @property
    def settling(self) -> bool:
        """Whether outcomes wait to be sent."""
        return any(each.settling for each in self.all)
