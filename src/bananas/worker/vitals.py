"""What a worker process shows of itself to its supervisor, in memory that both map: whether its loops turn, and what they do.

A fetch loop notes its steps in its `Pulse`, in this process's own memory. Every TICK_S a timer of the event loop gathers them into one
`Sign` and puts that into the shared memory: a loop that does not turn shows by a sign that grows old. All times are monotonic seconds, a
clock that processes share.
"""

import asyncio
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

TICK_S = 0.25
LONGEST_STEP_S = 20.0  # of a fetch loop: it connects (twice 5 s) and asks (twice 5 s, where the server lacks a script)
_MOST_QUEUES = 256
_WATCHED = 8  # the first 8 bytes are the watching thread's
_sign = struct.Struct(f"<ddddBB{_MOST_QUEUES}s")
SIZE = _WATCHED + _sign.size


class Pulse:
    """What a fetch loop does.

    Attributes:
        at: when it began its present step.
        resting: nothing is to be fetched, and nothing wakes it but this process itself.
        answered: when the server last answered one of its turns; trouble: since when it does not, or 0.
    """

    __slots__ = ("answered", "at", "resting", "trouble")

    def __init__(self) -> None:
        self.at, self.resting = time.monotonic(), False
        self.answered = self.trouble = 0.0

    def step(self, *, resting: bool = False) -> None:
        """It goes on to its next step."""
        self.at, self.resting = time.monotonic(), resting

    def answer(self) -> None:
        """A turn was answered."""
        self.answered, self.trouble = time.monotonic(), 0.0

    def fail(self) -> None:
        """A turn was not."""
        self.trouble = self.trouble or time.monotonic()


class Sign(NamedTuple):
    """A process at one moment.

    Attributes:
        turned: when its event loop last turned; 0: it is leaving, and need not.
        progress: when the fetch loop that is behind the most began its step.
        answered, trouble: as of a pulse; of several, the worst.
        accepting: it claims jobs. paused: the numbers of its queues that were paused when last asked.
        watched: when its watching thread last ran; 0: it has none.
    """

    turned: float
    progress: float = 0.0
    answered: float = 0.0
    trouble: float = 0.0
    accepting: bool = False
    resting: bool = False
    paused: frozenset[int] = frozenset()
    watched: float = 0.0


def gather(pulses: list[Pulse], accepting: bool, paused: frozenset[int]) -> Sign:
    """The sign of a process whose event loop turns now."""
    troubles = [pulse.trouble for pulse in pulses if pulse.trouble]
    busy = [pulse.at for pulse in pulses if not pulse.resting]
    return Sign(
        turned=time.monotonic(),
        progress=min(busy, default=time.monotonic()),
        answered=min((pulse.answered for pulse in pulses), default=0.0),
        trouble=min(troubles, default=0.0),
        accepting=accepting,
        resting=not busy,
        paused=paused,
    )


class Vitals:
    """The shared memory of one process: it writes, its supervisor reads."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, SIZE)

    def show(self, sign: Sign) -> None:
        """Put a sign there in place of the last one."""
        queues = bytearray(_MOST_QUEUES)
        for index in sign.paused:
            queues[index] = 1
        self._memory[_WATCHED:] = _sign.pack(*sign[:4], sign.accepting, sign.resting, bytes(queues))

    def note_watched(self, at: float) -> None:
        """The watching thread ran, whether or not the event loop turns."""
        struct.pack_into("<d", self._memory, 0, at)

    def read(self) -> Sign:
        """The last sign."""
        memory = self._memory[:]
        turned, progress, answered, trouble, accepting, resting, queues = _sign.unpack_from(memory, _WATCHED)
        paused = frozenset(index for index, flag in enumerate(queues) if flag) if any(queues) else frozenset[int]()
        (watched,) = struct.unpack_from("<d", memory)
        return Sign(turned, progress, answered, trouble, bool(accepting), bool(resting), paused, watched)


def make_file() -> int:
    """A file descriptor of new shared memory (a file without a name)."""
    with tempfile.TemporaryFile(prefix="bananas-") as file:
        file.truncate(SIZE)
        return os.dup(file.fileno())


class Ticker:
    """Shows a sign whenever the event loop turns, every `tick_s` at most.

    Attributes:
        turned: when the loop last turned (monotonic seconds); 0 before the first time and after the last.
    """

    def __init__(self, vitals: Vitals, sign: Callable[[], Sign], tick_s: float = TICK_S) -> None:
        self._vitals, self._sign, self.tick_s = vitals, sign, tick_s
        self._timer: asyncio.TimerHandle | None = None
        self.turned = 0.0

    def turn(self) -> None:
        """Show a sign now, and again soon; the first call starts it."""
        sign = self._sign()
        self.turned = sign.turned
        self._vitals.show(sign)
        self._timer = asyncio.get_running_loop().call_later(self.tick_s, self.turn)

    def close(self) -> None:
        """The process leaves: that its loop does not turn any more says nothing."""
        if self._timer is not None:
            self._timer.cancel()
        self.turned = 0.0
        self._vitals.show(self._sign()._replace(turned=0.0, accepting=False))
