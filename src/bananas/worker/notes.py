"""Progress and log lines of running jobs, on their way to the server.

`current_job().progress(...)` and `.log(...)` put them on the run's pad, from whatever thread, and do no I/O. A pad is sent with a turn that
the fetch loop makes, at most once in EVERY_S, and for the last time in the turn that settles its job, in front of the settlement, since
the lease ends with that. A job that tells nothing has no pad, and a queue without pads costs one look per turn.

A note whose reply is lost is sent again under its number. On a full server nothing is added: lines wait, the oldest go, and what is left
of them when the job ends goes too.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from bananas import broker
from bananas.broker import Burial, Ending, Request
from bananas.errors import BrokerError, BrokerUnavailable
from bananas.keys import ID_LENGTH, QueueKeys
from bananas.notes import KEPT_MS, MOST_LINES, pack_line, pack_progress
from bananas.scripts import script
from bananas.seals import UNSEALED, Seals
from bananas.worker.settler import Sent, Settlement

if TYPE_CHECKING:
    from bananas.worker.run import Run
    from bananas.worker.turn import Turn

FIRST_S, EVERY_S = 0.2, 1.0
NOTE_BATCH = 100
Fraction = tuple[float, str]
log = structlog.get_logger("bananas.worker")


class Entry(NamedTuple):
    """A note as it is sent; `ttl_ms` 0: what is stored of the job's notes is deleted."""

    member: bytes
    number: int
    ttl_ms: int
    progress: bytes
    new_lines: int
    lines: bytes


def jot(keys: QueueKeys, entries: Sequence[Entry]) -> Request[list[bool]]:
    """Write down what running jobs tell. Returns per entry whether its lease was still held (False: nothing was changed for it)."""
    names = [keys.notes(entry.member[:ID_LENGTH].decode()) for entry in entries]
    args: list[Any] = [MOST_LINES]
    for entry in entries:
        args += entry
    return Request(_flags, script("jot"), (*keys.fixed, *names), args)


def _flags(reply: bytes) -> list[bool]:
    return [flag == 49 for flag in reply]


class Pad:
    """What one run tells, until it is sent. Its two ways in may be called from any thread."""

    __slots__ = ("_attempt", "_clock", "_fence", "_lines", "_notes", "_number", "_progress", "_seals", "armed", "member", "sent_at")

    def __init__(self, notes: "Notes", run: "Run", seals: Seals | None) -> None:
        claimed = run.claimed
        self._notes, self._seals, self.member = notes, seals, claimed.member
        self._fence, self._attempt = claimed.grant.fence, claimed.tries.attempts + 1
        self._clock = claimed.grant.now_ms - claimed.grant.noted_at * 1000  # server ms at zero of this machine's monotonic clock
        self._lines: deque[tuple[float, str]] = deque(maxlen=MOST_LINES)
        self._progress: deque[Fraction] = deque(maxlen=1)
        self._number = 0
        self.armed, self.sent_at = False, time.monotonic() - EVERY_S

    def add(self, progress: Fraction | None, lines: Sequence[tuple[float, str]]) -> None:
        """Take a progress, and lines with their times (monotonic seconds)."""
        if progress is not None:
            self._progress.append(progress)
        self._lines.extend(lines)
        if not self.armed:
            self.armed = True
            self._notes.wake(self)

    def clear(self) -> None:
        """What is on it is not sent."""
        self._lines.clear()
        self._progress.clear()

    def entry(self, ttl_ms: int, *, last: bool) -> Entry | None:
        """What is to be sent; None where that is nothing. What is told from now on is another note."""
        self.armed, self.sent_at = False, time.monotonic()
        place, progress, lines = self._notes.place(self.member), b"", list[bytes]()
        while self._progress:
            progress = pack_progress(self._fence, *self._progress.pop(), self._seals, place)
        while self._lines:
            at, text = self._lines.popleft()
            lines.append(pack_line(round(self._clock + at * 1000), self._attempt, text, self._seals, place))
        if not (progress or lines or (last and (self._number or not ttl_ms))):
            return None
        self._number += 1
        return Entry(self.member, self._number, ttl_ms, progress, len(lines), b"".join(lines))


class Notes:
    """The pads of one queue.

    Attributes:
        hides: whether what a run tells is to be encrypted.
    """

    def __init__(self, keys: QueueKeys) -> None:
        self._keys = keys
        self._pads: dict[bytes, Pad] = {}
        self._due: dict[bytes, Pad] = {}
        self._under_way: list[Entry] = []
        self._loaded: object = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: Callable[[], None] = lambda: None
        self.hides: Callable[[Run], bool] = lambda _: False
        self._seals = UNSEALED

    def begin(self, changed: Callable[[], None], hides: "Callable[[Run], bool]", seals: Seals) -> None:
        """From now on what is told is sent, over the turns that `changed` asks for. Without, pads only gather (no server: see inline)."""
        self._loop, self._changed = asyncio.get_running_loop(), changed
        self.hides, self._seals = hides, seals

    # --- told ---

    def pad(self, run: "Run") -> Pad:
        """The pad of a run. From any thread."""
        member = run.claimed.member
        return self._pads.get(member) or self._pads.setdefault(member, Pad(self, run, self._seals if self.hides(run) else None))

    def place(self, member: bytes) -> tuple[QueueKeys, str]:
        """The job of a lease."""
        return self._keys, member[:ID_LENGTH].decode()

    def drop(self, member: bytes) -> None:
        """The lease is lost: what its run tells is not to be written."""
        self._pads.pop(member, None)
        self._due.pop(member, None)

    def wake(self, pad: Pad) -> None:
        """Something is on a pad that was empty. From any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the worker has ended
                self._loop.call_soon_threadsafe(self._wait, pad)

    def _wait(self, pad: Pad) -> None:
        assert self._loop is not None
        self._loop.call_later(max(FIRST_S, pad.sent_at + EVERY_S - time.monotonic()), self._fall_due, pad)

    def _fall_due(self, pad: Pad) -> None:
        if self._pads.get(pad.member) is pad:
            self._due[pad.member] = pad
            self._changed()

    # --- sent ---

    @property
    def used(self) -> bool:
        """Whether a turn has to look here."""
        return bool(self._pads or self._under_way)

    def __bool__(self) -> bool:
        """Whether a turn is to be made."""
        return bool(self._due or self._under_way)

    def add_to(self, turn: "Turn", settling: Sequence[Sent], *, full: bool, connection: object) -> None:
        """Add what the turn sends in front of its settlements, and who reads the replies.

        Args:
            full: the server is.
            connection: over which; a new one leads to a server that may not have the script, and a note that is sent again for that reason
                would come behind the settlement.
        """
        self._under_way += self._entries(settling, full)
        entries = list(self._under_way)
        if entries and self._loaded is not connection:
            self._loaded = connection
            turn.add(broker.plain(bytes, "SCRIPT", "LOAD", script("jot").source), lambda _: None, vital=False)
        for start in range(0, len(entries), NOTE_BATCH):
            batch = entries[start : start + NOTE_BATCH]
            turn.add(jot(self._keys, batch), partial(self._written, batch), vital=False)

    def _entries(self, settling: Sequence[Sent], full: bool) -> list[Entry]:
        ended = [(pad, settlement) for sent in settling for settlement in sent.settlements if (pad := self._ended(settlement)) is not None]
        due = [self._due.pop(member) for member in list(self._due)[:NOTE_BATCH]]
        if full:
            for pad in due:
                pad.sent_at = time.monotonic()
                self._wait(pad)
            for pad, _ in ended:
                pad.clear()
            due = []
        made = [pad.entry(KEPT_MS, last=False) for pad in due]
        made += [pad.entry(kept_ms(settlement), last=True) for pad, settlement in ended]
        return [entry for entry in made if entry is not None]

    def _ended(self, settlement: Settlement) -> Pad | None:
        member = settlement.entry[0]
        self._due.pop(member, None)
        return self._pads.pop(member, None)

    def _written(self, batch: Sequence[Entry], held: Sequence[bool] | BrokerError) -> None:
        if isinstance(held, BrokerUnavailable):
            return  # nothing was done: again with the next turn, which settles again too
        sent = set(map(id, batch))
        self._under_way = [entry for entry in self._under_way if id(entry) not in sent]
        if isinstance(held, BrokerError):
            log.warning("what jobs tell could not be written down", queue=self._keys.name, notes=len(batch), reason=str(held))
            return
        for entry, accepted in zip(batch, held, strict=True):
            if not accepted:
                self.drop(entry.member)


def kept_ms(settlement: Settlement) -> int:
    """How long notes are kept after a settlement: of a job that ends as long as its result, 0 where it has none; of others for days."""
    entry = settlement.entry
    if isinstance(entry, Ending):
        return 0 if entry.result is None else entry.result.ttl_ms
    if isinstance(entry, Burial) and entry.result is not None:
        return max(KEPT_MS, entry.result.ttl_ms)
    return KEPT_MS
