"""The processes of a trial: workers started by the command line that users type, and producers; watched, stopped and killed by id."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import isawaitable
from pathlib import Path
from typing import Any

import msgspec

from bananas.bench.processes import Process
from bananas.chaos.producer import Load
from bananas.errors import BananasError

STARTED = "worker process started"
START_TIMEOUT_S = 60.0


class NotInTime(BananasError):
    """What a trial waited for did not come: an invariant is broken."""


async def eventually(condition: Callable[[], Awaitable[Any] | Any], what: str, timeout_s: float = 30.0, pause_s: float = 0.02) -> Any:
    """Wait until a condition holds, and return what it gave. Raises NotInTime."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(pause_s)


def send(pid: int, number: int = signal.SIGKILL) -> None:
    """A signal, also to a process that is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def session_members(leader: int) -> list[int]:
    """The processes of a session, its leader first: orphans too, which no tree shows."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader and not is_gone(pid):
                found.append(pid)
    return sorted(found, key=lambda pid: (pid != leader, pid))


class Worker:
    """One `bananas worker` with its processes.

    Args:
        target: the app. prefix: what stands before its command.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path, target: str, prefix: Iterable[str] = ()) -> None:
        line = [*prefix, sys.executable, "-m", "bananas", "worker", target]
        self.process = Process(line, environment, folder / f"worker-{time.monotonic_ns()}.log", folder)
        self._expected = int(environment.get("BANANAS_WORKER_PROCESSES", "1"))

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has logged."""
        return self.process.log_path.read_text(encoding="utf-8", errors="replace")

    def children(self) -> list[int]:
        """The ids of its worker processes that are alive."""
        try:
            listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="utf-8").split()
        except OSError:
            return []
        return [int(pid) for pid in listed if not is_gone(int(pid))]

    def everything(self) -> list[int]:
        """Supervisor, worker processes and what runs below them, orphans too."""
        return session_members(self.pid)

    async def ready(self, starts: int = 0) -> "Worker":
        """Wait until all of its processes work, or so many have begun to."""
        expected = starts or self._expected
        await eventually(
            lambda: self.process.exit_code is not None or self.log.count(STARTED) >= expected, "a worker's start", START_TIMEOUT_S
        )
        if self.process.exit_code is not None:
            raise self.process.failed("ended before it was ready")
        return self

    async def ended(self, timeout_s: float = 30.0) -> int:
        """Wait for its end. Returns the exit code."""
        await eventually(lambda: self.process.exit_code is not None, "a worker's end", timeout_s)
        assert self.process.exit_code is not None
        return self.process.exit_code

    def kill(self) -> None:
        """SIGKILL to all of it, parents first, so that nothing is started meanwhile."""
        pids = self.everything()
        for pid in pids:
            send(pid, signal.SIGSTOP)
        for pid in {*pids, *self.everything()}:
            send(pid)
        self.process.end()

    def stop(self, number: int = signal.SIGSTOP) -> list[int]:
        """SIGSTOP (or another signal) to all of it. Returns the ids."""
        pids = self.everything()
        for pid in pids:
            send(pid, number)
        return pids


def start_producer(environment: Mapping[str, str], folder: Path, load: Load) -> Process:
    """A process that submits this load."""
    command = [sys.executable, "-m", "bananas.chaos.producer", msgspec.json.encode(load).decode()]
    return Process(command, environment, folder / f"producer-{time.monotonic_ns()}.log", folder)
