"""The leases that one worker process holds, in memory that its supervisor reads without its help.

A child that is blocked in Python, or in C with the GIL held, cannot speak; its supervisor reads this table and renews what stands there.

LAYOUT. A header of 64 bytes with a flag for a full server. Per queue the ns (monotonic clock, which processes share) of the
last beat that its server answered. Then slots of 128 bytes: index of the queue, length of the member, length of the score, the member, the
score at claim, when it was noted (monotonic seconds), the state (0 free, 1 held, 2 held and overdue), and last a digest. The state is
written after the rest, so a reader that comes in between sees the slot free, or at worst a member that nobody knows: that is refused by
the server and ignored by the child. The digest is the supervisor's: of the member there that the server last called gone. It may stay in
a slot that is used anew, and says nothing of the new member.
"""

import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

MOST_QUEUES = 255
_BEATS = 64
_HEADER = _BEATS + 8 * (MOST_QUEUES + 1)
_SLOT = 128
_FULL_AT = 16
_DIGEST = 8
FREE, HELD, OVERDUE = 0, 1, 2
_ns = struct.Struct("<q")
_entry = struct.Struct("<BBB88s20sdB")
_STATE = _entry.size - 1
_LOST_AT = _entry.size
assert _LOST_AT + _DIGEST == _SLOT


class HeldLease(NamedTuple):
    """One slot that is in use; `since` is when the job came (monotonic seconds)."""

    queue: int
    member: bytes
    score: bytes
    overdue: bool
    slot: int
    since: float = 0.0


class LeaseTable:
    """A table of `capacity` leases. The supervisor makes the file; both sides map it."""

    def __init__(self, fd: int, capacity: int) -> None:
        self.capacity = capacity
        self._memory = mmap.mmap(fd, size_of(capacity))
        self._free = list(range(capacity))

    # --- the child's side ---

    @property
    def room(self) -> int:
        """How many more leases fit."""
        return len(self._free)

    def hold(self, queue: int, members: Sequence[bytes], scores: Sequence[bytes]) -> list[int]:
        """Note leases; returns their slots. There must be room."""
        free, memory, pack = self._free, self._memory, _entry.pack_into
        slots, now = free[-len(members) :], time.monotonic()
        del free[-len(members) :]
        for slot, member, score in zip(slots, members, scores, strict=True):
            pack(memory, _HEADER + slot * _SLOT, queue, len(member), len(score), member, score, now, HELD)
        return slots

    def mark_overdue(self, slot: int) -> None:
        """Note that this job runs for longer than its timeout."""
        self._memory[_HEADER + slot * _SLOT + _STATE] = OVERDUE

    def drop(self, *slots: int) -> None:
        """Forget leases: they are settled, or lost."""
        memory = self._memory
        for slot in slots:
            memory[_HEADER + slot * _SLOT + _STATE] = FREE
        self._free += slots

    def beaten(self, queue: int) -> float:
        """When (monotonic seconds) the supervisor last began a beat that the server of this queue answered."""
        return _read_ns(self._memory, _BEATS + 8 * queue) / 1e9

    def lost(self, slot: int, member: bytes) -> bool:
        """Whether the server said that this lease is gone."""
        return _is_lost(self._memory, slot, member)

    @property
    def server_full(self) -> bool:
        """Whether the server was at maxmemory at the last beat."""
        return self._memory[_FULL_AT] == 1

    # --- the supervisor's side ---

    def held(self) -> list[HeldLease]:
        """The leases that stand in the table now."""
        snapshot = self._memory[:]
        found: list[HeldLease] = []
        for at in range(_HEADER, _HEADER + self.capacity * _SLOT, _SLOT):
            if snapshot[at + _STATE]:
                queue, length, digits, member, score, since, state = _entry.unpack_from(snapshot, at)
                found.append(HeldLease(queue, member[:length], score[:digits], state == OVERDUE, (at - _HEADER) // _SLOT, since))
        return found

    def note_beat(self, began: float, queues: Iterable[int], *, full: bool) -> None:
        """Note a beat that the servers of these queues answered, begun at `began` (monotonic seconds)."""
        stamp = struct.pack("<q", int(began * 1e9))
        for queue in queues:
            at = _BEATS + 8 * queue
            self._memory[at : at + 8] = stamp
        self._memory[_FULL_AT] = int(full)

    def mark_lost(self, lease: HeldLease) -> None:
        """Note that the server does not know this lease any more."""
        at = _HEADER + lease.slot * _SLOT + _LOST_AT
        self._memory[at : at + _DIGEST] = _digest(lease.member)

    def close(self) -> None:
        """Unmap it."""
        self._memory.close()


class TableView:
    """A table as a third process sees it, read-only: an isolated process, of its worker's leases."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, 0, prot=mmap.PROT_READ)

    def beaten(self, queue: int) -> float:
        """As `LeaseTable.beaten`."""
        return _read_ns(self._memory, _BEATS + 8 * queue) / 1e9

    def lost(self, slot: int, member: bytes) -> bool:
        """As `LeaseTable.lost`."""
        return _is_lost(self._memory, slot, member)


def _read_ns(memory: mmap.mmap, at: int) -> int:
    value: int = _ns.unpack_from(memory, at)[0]
    return value


def _is_lost(memory: mmap.mmap, slot: int, member: bytes) -> bool:
    at = _HEADER + slot * _SLOT + _LOST_AT
    return memory[at : at + _DIGEST] == _digest(member)


def _digest(member: bytes) -> bytes:
    return blake2b(member, digest_size=_DIGEST).digest()


def size_of(capacity: int) -> int:
    """Bytes of a table."""
    return _HEADER + capacity * _SLOT


def capacity_for(slots: int) -> int:
    """Leases that a worker of so many slots may hold: those that run, those that wait to be settled, and suspects."""
    return 3 * slots + 64


def private(capacity: int) -> LeaseTable:
    """A table that this process alone sees."""
    fd = make_file(capacity)
    try:
        return LeaseTable(fd, capacity)
    finally:
        os.close(fd)


def make_file(capacity: int) -> int:
    """An inheritable file descriptor of a new, empty table (a file without a name)."""
    with tempfile.TemporaryFile(prefix="bananas-") as file:
        file.truncate(size_of(capacity))
        fd = os.dup(file.fileno())
    os.set_inheritable(fd, True)
    return fd
