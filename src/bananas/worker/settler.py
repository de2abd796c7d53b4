"""Outcomes on their way to the server: they gather here until the next turn takes them.

One batch per kind and queue is under way at a time. When its reply is lost it is sent again under the same turn number before anything
newer, so that the server can answer from memory (`seen`): a job is settled once, and a resent success is a success.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bananas import broker
from bananas.broker import Burial, Comeback, Ending, Request
from bananas.codec import pack_result
from bananas.job import Result
from bananas.keys import QueueKeys

# What stands for a result that a full server has no room for. It says how the job ended: only the value, or the traceback, is gone.
DROPPED_VALUE = pack_result(Result("success", dropped=True))
DROPPED_ERROR = pack_result(Result("dead", error_message="the server was full: the error is kept with the dead job", dropped=True))

KINDS = ("complete", "bury", "retry", "release", "end")


class Settlement(NamedTuple):
    """One job's way out of this worker: what is sent, its slot in the lease table, and what to call once the server accepted it."""

    kind: int
    entry: Any
    slot: int
    accepted: Callable[[], None] | None = None


class Sent(NamedTuple):
    """A batch under way."""

    request: Request[list[bool]]
    settlements: Sequence[Settlement]


class Settler:
    """The settlements of one queue."""

    def __init__(self, keys: QueueKeys, boot: str) -> None:
        self._keys, self._boot = keys, boot
        self._waiting: list[list[Settlement]] = [[] for _ in KINDS]
        self._under_way: list[Sent] = []
        self._number = 0

    def add(self, settlement: Settlement) -> None:
        """Take a settlement for the next turn."""
        self._waiting[settlement.kind].append(settlement)

    def __bool__(self) -> bool:
        return bool(self._under_way) or any(self._waiting)

    def batches(self, full: bool) -> list[Sent]:
        """What the next turn sends: what is still unanswered, or else a new batch of each kind."""
        if not self._under_way:
            self._number += 1
            for kind, waiting in enumerate(self._waiting):
                if waiting:
                    batch = waiting[: broker.SETTLE_BATCH]
                    self._waiting[kind] = waiting[broker.SETTLE_BATCH :]
                    self._under_way.append(Sent(self._request(kind, batch, full), batch))
        return list(self._under_way)

    def answered(self, sent: Sent) -> None:
        """A batch was answered: it is not sent again."""
        self._under_way.remove(sent)

    def _request(self, kind: int, batch: Sequence[Settlement], full: bool) -> Request[list[bool]]:
        entries = [settlement.entry for settlement in batch]
        if kind == 0:
            return broker.complete(self._keys, self._boot, self._number, entries, full=full, dropped=DROPPED_VALUE)
        if kind == 1:
            return broker.bury(self._keys, self._boot, self._number, entries, full=full, dropped=DROPPED_ERROR)
        if kind == 2:
            return broker.retry(self._keys, self._boot, self._number, entries)
        if kind == 3:
            return broker.release(self._keys, self._boot, self._number, entries)
        return broker.complete(self._keys, self._boot, self._number, entries, full=False, dropped=b"", part="end")


def success(entry: Ending, slot: int, accepted: Callable[[], None] | None = None) -> Settlement:
    """The job ends with its value."""
    return Settlement(0, entry, slot, accepted)


def ending(entry: Ending, slot: int, accepted: Callable[[], None] | None = None) -> Settlement:
    """The job ends without a value (discarded, cancelled, expired): its result is a few words, and is kept on a full server too."""
    return Settlement(4, entry, slot, accepted)


def burial(entry: Burial, slot: int, accepted: Callable[[], None] | None = None) -> Settlement:
    """The job goes to the dead letter queue."""
    return Settlement(1, entry, slot, accepted)


def comeback(entry: Comeback, slot: int, accepted: Callable[[], None] | None = None) -> Settlement:
    """The job runs again later."""
    return Settlement(2, entry, slot, accepted)


def handback(member: bytes, score: bytes, slot: int) -> Settlement:
    """The job goes back unused."""
    return Settlement(3, (member, score), slot)
