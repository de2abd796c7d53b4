"""The leases that one worker process holds, in memory that its supervisor reads without its help.

A child that is blocked in Python, or in C with the GIL held, cannot speak; its supervisor reads this table and renews what stands there.

LAYOUT. A header of 64 bytes: ns of the last beat (monotonic clock, which processes share), ns of the child's last progress, a flag for a
full server. Then slots of 128 bytes: state (0 free, 1 held, 2 held and overdue), index of the queue, length of the member, the member,
the score at claim. A slot is written before its state turns 1, so a reader that comes in between sees it free, or at worst a member that
nobody knows: that is refused by the server and ignored by the child.
"""

import mmap
import os
import struct
import tempfile
import time
from typing import NamedTuple

_HEADER = 64
_SLOT = 128
_FULL_AT = 16
FREE, HELD, OVERDUE = 0, 1, 2
_entry = struct.Struct("<BBBB")


class HeldLease(NamedTuple):
    """One slot that is in use."""

    queue: int
    member: bytes
    score: bytes
    overdue: bool


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

    def hold(self, queue: int, member: bytes, score: bytes) -> int:
        """Note a lease; returns its slot."""
        slot = self._free.pop()
        at = _HEADER + slot * _SLOT
        self._memory[at : at + 4 + len(member) + len(score)] = _entry.pack(FREE, queue, len(member), len(score)) + member + score
        self._memory[at] = HELD
        return slot

    def mark_overdue(self, slot: int) -> None:
        """Note that this job runs for longer than its timeout."""
        self._memory[_HEADER + slot * _SLOT] = OVERDUE

    def drop(self, slot: int) -> None:
        """Forget a lease: it is settled, or lost."""
        self._memory[_HEADER + slot * _SLOT] = FREE
        self._free.append(slot)

    def note_progress(self) -> None:
        """Note that the fetch loop has made progress."""
        self._memory[8:16] = struct.pack("<q", time.monotonic_ns())

    @property
    def beaten(self) -> float:
        """When (monotonic seconds) the supervisor last began a beat that the server answered."""
        return float(struct.unpack_from("<q", self._memory, 0)[0]) / 1e9

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
            state = snapshot[at]
            if state:
                _, queue, length, score = _entry.unpack_from(snapshot, at)
                end = at + 4 + length
                found.append(HeldLease(queue, snapshot[at + 4 : end], snapshot[end : end + score], state == OVERDUE))
        return found

    def note_beat(self, began: float, *, full: bool) -> None:
        """Note a beat that the server answered, begun at `began` (monotonic seconds)."""
        self._memory[0:8] = struct.pack("<q", int(began * 1e9))
        self._memory[_FULL_AT] = int(full)

    @property
    def progress(self) -> float:
        """When (monotonic seconds) the child's fetch loop last made progress."""
        return float(struct.unpack_from("<q", self._memory, 8)[0]) / 1e9

    def close(self) -> None:
        """Unmap it."""
        self._memory.close()


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
