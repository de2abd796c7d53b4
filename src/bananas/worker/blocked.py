"""Tells what blocks the event loop of this process: the job, the stack, and for how long.

A thread looks whether the loop still turns. Where it has not for longer than the threshold, it logs the stack of the loop's thread, once
per blockage, and a second line when that is over. It costs a job nothing: the loop notes that it turns by a timer (vitals.py), not by job.

This thread needs the GIL. Who holds that in C (a regular expression, a sort) holds up the thread too: it then reports when the call
returns, with the stack of that place. Where it does not return, the supervisor, which sees that this thread does not run, has the process
write its stack to stderr by a signal (`faulthandler`).

No blockage: time in which the process was stopped, or its machine slept. The thread came late then too, and no processor time was used.
Nor a debugger that waits for its user.
"""

import asyncio
import contextlib
import faulthandler
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import structlog

from bananas.context import running as running_now
from bananas.worker import runner
from bananas.worker.control import DUMP_SIGNAL
from bananas.worker.run import Run
from bananas.worker.vitals import Ticker, Vitals

LATE_S = 0.25
MOST_FRAMES = 20
_DEBUGGERS = ("bdb", "pdb", "pydevd", "_pydevd", "debugpy")
log = structlog.get_logger("bananas.worker")


class Watch:
    """Watches the loop that it is made on.

    Args:
        threshold_s: from when on a blockage is told.
        running: the runs of this process.
    """

    def __init__(self, ticker: Ticker, vitals: Vitals, threshold_s: float, running: Mapping[bytes, Run]) -> None:
        self._ticker, self._vitals, self._threshold_s, self._running = ticker, vitals, threshold_s, running
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._ending = threading.Event()
        self._about: dict[str, Any] | None = None  # the blockage that was told, and is not over
        self._quiet = False
        ticker.tick_s = min(ticker.tick_s, threshold_s / 4)
        let_dump()
        vitals.note_watched(time.monotonic())
        self._thread = threading.Thread(target=self._run, name="bananas-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watch no more."""
        self._ending.set()

    def _run(self) -> None:
        turned, blocked_s, pause_s = 0.0, 0.0, self._ticker.tick_s
        looked, worked = time.monotonic(), time.process_time()
        while not self._ending.wait(pause_s):
            now, work = time.monotonic(), time.process_time()
            self._vitals.note_watched(now)
            passed = now - looked
            if passed > pause_s + LATE_S and work - worked < passed / 4:
                passed = 0.0
            looked, worked = now, work
            if self._ticker.turned != turned:
                self._end(blocked_s)
                turned, blocked_s = self._ticker.turned, 0.0
                continue
            blocked_s += passed
            if turned and blocked_s > self._threshold_s + self._ticker.tick_s and self._about is None and not self._quiet:
                self._tell(blocked_s)

    def _tell(self, blocked_s: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        frames = list(_callers(frame))
        if any(called.f_globals.get("__name__", "").split(".")[0].startswith(_DEBUGGERS) for called in frames):
            self._quiet = True
            return
        self._about = self._job()
        stack = traceback.StackSummary.extract(((called, called.f_lineno) for called in reversed(frames)), lookup_lines=True)
        where = f"{stack[0].filename}:{stack[0].lineno} in {stack[0].name}" if stack else "unknown"
        log.warning(
            "the event loop is blocked",
            seconds=round(blocked_s, 2),
            **self._about,
            where=where,
            stack="".join(stack.format()).rstrip(),
        )

    def _end(self, blocked_s: float) -> None:
        if self._about is not None:
            log.warning("the event loop turns again", seconds=round(blocked_s, 2), **self._about)
        self._about, self._quiet = None, False

    def _job(self) -> dict[str, Any]:
        """The job whose code runs on the loop now, where that can be told."""
        task = asyncio.current_task(self._loop)
        for run in list(self._running.values()):
            if task is not None and run.task is task:
                return {"job": run.claimed.public, "task": run.runnable.name}
        if task is not None and sys.version_info >= (3, 12):  # a task that a handler has started
            current = task.get_context().get(running_now)
            if current is not None:
                return {"job": current().id, "task": current().task}
        return {}


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and its callers, the innermost first, up to what called the handler."""
    for _ in range(MOST_FRAMES):
        if frame is None or frame.f_globals.get("__name__") == runner.__name__:
            return
        yield frame
        frame = frame.f_back


def let_dump() -> None:
    """From now on DUMP_SIGNAL makes this process write the stack of its main thread to stderr, whoever holds the GIL."""
    if signal.getsignal(DUMP_SIGNAL) is signal.SIG_DFL:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # stderr is no file
            faulthandler.register(DUMP_SIGNAL, file=sys.stderr, all_threads=False)
