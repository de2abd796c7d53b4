"""Counting jobs without touching the server, and without slowing them: a mapped file per worker process.

The handlers of a benchmark call `done()` and its like; the one who measures reads the files with a `Reader`. Standard library only, and
no import of this package: a competitor's environment loads this file alone.

One file `<pid>` in the folder named by BENCH_COUNTER, of int64s:

    [0] handlers ended   [1] first start   [2] last end   [3] samples of kind 0   [4] of kind 1   [5] nothing kept: samples beyond the room
    [16 : 16 + ROOM]             kind 0: ns from the submit to the start of the handler
    [16 + ROOM : 16 + 2 * ROOM]  kind 1: ns from the submit to the end of the job

Times are `time.monotonic_ns()`, one clock for all processes of a machine. On the event loop nothing interrupts a handler between two
statements, so `done()` takes no lock (about 0.25 us); handlers on threads call `done_in_thread()`. A fork gets a file of its own, unless
BENCH_COUNTER_SHARED=1 says that children live for one job each and count in their parent's.
"""

import mmap
import os
import threading
from array import array
from time import monotonic_ns

FOLDER = "BENCH_COUNTER"
SHARED = "BENCH_COUNTER_SHARED"
HEADER = 16
ROOM = 1 << 20  # samples of a kind per process; the file is sparse, so that unused room costs nothing
SIZE_BYTES = 8 * (HEADER + 2 * ROOM)

COUNT, FIRST, LAST, STARTS, ENDS, LOST = range(6)

_view: "memoryview | None" = None
_lock = threading.Lock()


def _map(path: str) -> memoryview:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, SIZE_BYTES)
        return memoryview(mmap.mmap(descriptor, SIZE_BYTES)).cast("q")
    finally:
        os.close(descriptor)


def _open() -> memoryview:
    global _view
    _view = _map(os.path.join(os.environ[FOLDER], str(os.getpid())))
    return _view


def _after_fork() -> None:
    global _view, _lock
    _lock = threading.Lock()
    if os.environ.get(SHARED) != "1":
        _view = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def start() -> None:
    """At the start of a handler that takes time, so that the first start is noted; `done()` alone will do for one that takes none."""
    view = _view or _open()
    if not view[FIRST]:
        view[FIRST] = monotonic_ns()


def start_in_thread() -> None:
    """`start` for a handler on a thread."""
    with _lock:
        start()


def done() -> None:
    """At the end of a handler on an event loop."""
    view = _view or _open()
    now = monotonic_ns()
    if not view[FIRST]:
        view[FIRST] = now
    view[LAST] = now
    view[COUNT] += 1


def done_in_thread() -> None:
    """At the end of a handler on a thread."""
    with _lock:
        done()


def _keep(kind: int, sample_ns: int) -> None:
    view = _view or _open()
    index = view[STARTS + kind]
    if index < ROOM:
        view[HEADER + kind * ROOM + index] = sample_ns
        view[STARTS + kind] = index + 1
    else:
        view[LOST] += 1


def started(sent_ns: int) -> None:
    """At the start of a handler whose job was sent at `sent_ns` (this clock): keeps how long ago that was."""
    view = _view or _open()
    now = monotonic_ns()
    if not view[FIRST]:
        view[FIRST] = now
    _keep(0, now - sent_ns)


def ended(sent_ns: int) -> None:
    """At the end of a job that was sent at `sent_ns`: keeps how long ago that was. Counts nothing: see `done`."""
    _keep(1, monotonic_ns() - sent_ns)


class Reader:
    """Sums what the worker processes of a folder have counted."""

    def __init__(self, folder: "str | os.PathLike[str]") -> None:
        self._folder = os.fspath(folder)
        self._views: dict[str, memoryview] = {}

    def _all(self) -> "list[memoryview]":
        for name in os.listdir(self._folder):
            if name not in self._views and name.isdigit():
                path = os.path.join(self._folder, name)
                if os.path.getsize(path) == SIZE_BYTES:  # else its process is just making it
                    self._views[name] = _map(path)
        return list(self._views.values())

    def count(self) -> int:
        """How many handlers have ended."""
        return sum(view[COUNT] for view in self._all())

    def counts(self) -> "list[int]":
        """The same, per process."""
        return [view[COUNT] for view in self._all()]

    def first_start_ns(self) -> int:
        """When the first handler started, 0 when none has."""
        return min((view[FIRST] for view in self._all() if view[FIRST]), default=0)

    def last_end_ns(self) -> int:
        """When the last handler ended, 0 when none has."""
        return max((view[LAST] for view in self._all()), default=0)

    def lost(self) -> int:
        """Samples that found no room."""
        return sum(view[LOST] for view in self._all())

    def samples(self, kind: int) -> "array[int]":
        """All latencies in ns: kind 0 from submit to start, 1 from submit to end. Process after process, in order within one."""
        found: array[int] = array("q")
        for view in self._all():
            begin = HEADER + kind * ROOM
            found.frombytes(view[begin : begin + view[STARTS + kind]].tobytes())
        return found

    def reset(self) -> None:
        """Count from zero again; only while no handler runs."""
        for view in self._all():
            for index in range(HEADER):
                view[index] = 0
