"""Progress and log lines of a job with a process of its own, on their way to the worker: the other end is `_Process.run`.

A handler may keep its process's loop from running, so a thread sends them, at most once in EVERY_S. What is left at the end of the run goes
in front of its answer.
"""

import os
import select
import threading
from collections import deque
from collections.abc import Sequence

from msgspec import Struct
from msgspec.msgpack import Encoder

from bananas.notes import MOST_LINES
from bananas.worker.notes import EVERY_S, FIRST_S, Fraction

_encoder = Encoder()


class Told(Struct, array_like=True, tag="told"):
    """A progress, and lines with their times (the monotonic clock, which processes of a machine share)."""

    progress: Fraction | None
    lines: list[tuple[float, str]]


def frame(data: bytes) -> bytes:
    """Data with its length in front."""
    return len(data).to_bytes(4, "big") + data


class Outbox:
    """What one job tells, until it is sent.

    Args:
        fd: the socket to the worker; nobody else writes to it before `close`.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: deque[tuple[float, str]] = deque(maxlen=MOST_LINES)
        self._progress: deque[Fraction] = deque(maxlen=1)
        self._sending = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, progress: Fraction | None, lines: Sequence[tuple[float, str]]) -> None:
        """Take a progress, and lines with their times. From any thread."""
        if progress is not None:
            self._progress.append(progress)
        self._lines.extend(lines)
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_on, name="bananas-notes", daemon=True)
            self._thread.start()

    def _send_on(self) -> None:
        pause_s = FIRST_S
        while not self._ended.wait(pause_s):
            with self._sending:
                if not self._ended.is_set():
                    write_all(self._fd, self._taken())
            pause_s = EVERY_S

    def _taken(self) -> bytes:
        """What is there, as a frame; b"" for nothing."""
        progress, lines = None, list[tuple[float, str]]()
        while self._progress:
            progress = self._progress.pop()
        while self._lines:
            lines.append(self._lines.popleft())
        return frame(_encoder.encode(Told(progress, lines))) if progress or lines else b""

    def close(self) -> bytes:
        """The run has ended: what is left to send, as a frame. From now on the socket is the caller's."""
        with self._sending:
            self._ended.set()
            return self._taken()


def write_all(fd: int, data: bytes) -> None:
    """Write to a socket that does not block, waiting for room."""
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            poller.poll()
