"""Tells the stack of one job that runs here, when the supervisor asks for it: of a coroutine, a thread, or a process of the job's own.

A thread waits for questions on a socket of its own, so that a blocked event loop is no hindrance; it costs nothing until it is asked. Who
holds the GIL in C holds it up too: then it answers when that returns.
"""

import asyncio
import contextlib
import socket
import sys
import threading
import time
from types import FrameType

from bananas.orders import Answer
from bananas.worker.control import Garbled, Lines, Message, Told, line
from bananas.worker.frames import as_text, of_task, of_thread
from bananas.worker.run import Run
from bananas.worker.runner import Runner, call_safely

TRIES = 3


class Teller:
    """Answers questions about the runs of this process, over the socket whose other end is `fd`."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self._loop, self._loop_thread = runner, asyncio.get_running_loop(), threading.get_ident()
        self._socket, self._other = socket.socketpair()
        self.fd = self._other.fileno()
        threading.Thread(target=self._answer_on, name="bananas-stacks", daemon=True).start()

    def handed_over(self) -> None:
        """The supervisor has the other end."""
        self._other.close()

    def close(self) -> None:
        """Answer no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _answer_on(self) -> None:
        lines = Lines()
        with contextlib.suppress(OSError, Garbled), self._socket:
            while data := self._socket.recv(65536):
                for told in [message.told for message in lines.feed(data) if message.told is not None]:
                    found = self.tell(told.job)
                    self._socket.sendall(line(Message(told=Told(told.order, told.job, found.found, found.text))))

    def tell(self, public: str) -> Answer:
        """The stack of a job, or why there is none."""
        for _ in range(TRIES):
            run = next((run for run in list(self._runner.running.values()) if run.claimed.public == public), None)
            if run is None:
                break
            try:
                place, text = self._where(run)
            except Exception:  # it went on while it was looked at
                continue
            seconds = time.monotonic() - run.started
            return Answer(True, f"job {public}, task {run.runnable.name}, for {seconds:.1f} s: it {place}\n{text}")
        return Answer(False, "it does not run now: it has ended, or the worker has not started it yet")

    def _where(self, run: Run) -> tuple[str, str]:
        """Where the code of a run is, and its stack."""
        if run.runnable.isolated:
            process = None if self._runner.pool is None else self._runner.pool.process_of(run)
            if process is None:
                return "waits for a process of its own", ""
            return f"runs in process {process.process.pid}", process.ask_stack()
        frame, name = _thread_of(run)
        if frame is not None:
            return f"runs in thread {name}", as_text(of_thread(frame))
        assert run.task is not None
        place, frames = of_task(run.task, self._loop, self._loop_thread)
        return place, as_text(frames)


def _thread_of(run: Run) -> tuple[FrameType | None, str]:
    """The innermost frame of the thread that runs a handler, and the thread's name; None where no thread does."""
    if run.runnable.is_async:
        return None, ""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, innermost in sys._current_frames().items():
        frame: FrameType | None = innermost
        while frame is not None and frame.f_code is not call_safely.__code__:
            frame = frame.f_back
        if frame is not None and frame.f_locals.get("run") is run:
            return innermost, names.get(ident, str(ident))
    return None, ""
