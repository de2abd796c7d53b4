"""Processes that a benchmark starts, and what they cost: CPU time, memory. Read from /proc; elsewhere from psutil where it is installed."""

import contextlib
import importlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from bananas.errors import BananasError

_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_HAS_PROC = os.path.exists("/proc/self/stat")


class ProcessFailed(BananasError):
    """A process of the benchmark ended, or did not get ready in time; the message has the end of its log."""


class Process:
    """One process in a session of its own, whose output goes to a log; it and its children end with `end`, by their ids."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log_path: Path, folder: Path | None = None) -> None:
        """Start it. Its stdin is a pipe that closes when this process is gone, for those that want to notice (`bench/tasks.py`)."""
        self.command, self.log_path = tuple(command), log_path
        self.began_ns = time.monotonic_ns()
        with open(log_path, "ab") as log:
            self._process = subprocess.Popen(
                command, env=dict(environment), cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        self.pid = self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def tree(self) -> list[int]:
        """Its id and those of its descendants."""
        return process_tree(self.pid)

    def close_input(self) -> None:
        """Close its stdin, which tells those that read it to end."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self, timeout_s: float) -> None:
        """Return when it has ended well. Raises ProcessFailed when it failed, or goes on for `timeout_s`."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self.failed(f"went on for {timeout_s:g} s") from None
        if code != 0:
            raise self.failed(f"ended with exit code {code}")

    def wait_for(self, condition: Callable[[], object], timeout_s: float, what: str, pause_s: float = 0.005) -> None:
        """Return when `condition()` is true. Raises ProcessFailed when it is not within `timeout_s`, or the process ended."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.exit_code is not None:
                raise self.failed(f"ended with exit code {self.exit_code} before {what}")
            if time.monotonic() > deadline:
                raise self.failed(f"was not through with {what} within {timeout_s:g} s")
            time.sleep(pause_s)

    def failed(self, how: str) -> ProcessFailed:
        """The error for it, with the end of its log."""
        with contextlib.suppress(OSError):
            how += f". The end of its log:\n{self.log_path.read_text(errors='replace')[-2000:]}"
        return ProcessFailed(f"{' '.join(self.command[:8])} {how}")

    def end(self, timeout_s: float = 10.0) -> None:
        """SIGTERM, after `timeout_s` SIGKILL for all that is left of it. Harmless when it has ended."""
        below = self.tree()
        if self.exit_code is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        if self.exit_code is None:
            for pid in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()


# --- what processes cost ----------------------------------------------------------------------------------------------


def _psutil() -> Any:
    try:
        return importlib.import_module("psutil")
    except ImportError:
        raise BananasError("measuring processes needs /proc, or psutil on this system: pip install psutil") from None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat behind the name: [0] state, [1] parent, [11] user and [12] system ticks. Empty when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def process_tree(root: int) -> list[int]:
    """A process and all its descendants, itself first; empty when it is gone."""
    if not _HAS_PROC:
        psutil = _psutil()
        with contextlib.suppress(psutil.NoSuchProcess):
            return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
        return []
    children: dict[int, list[int]] = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        if fields := _stat(pid):
            children.setdefault(int(fields[1]), []).append(pid)
    found = [root] if _stat(root) else []
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time that these processes have used so far, in seconds (grain: 10 ms each). Those that are gone count nothing."""
    if not _HAS_PROC:
        psutil, total = _psutil(), 0.0
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = psutil.Process(pid).cpu_times()
                total += times.user + times.system
        return total
    return sum((int(fields[11]) + int(fields[12])) / _TICKS_PER_S for pid in pids if (fields := _stat(pid)))


def resident_bytes(pids: Iterable[int]) -> int:
    """Resident memory of these processes; pages that several share count for each."""
    if not _HAS_PROC:
        psutil, total = _psutil(), 0
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += psutil.Process(pid).memory_info().rss
        return total
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    return sum(int(fields[21]) * page_bytes for pid in pids if (fields := _stat(pid)))


# --- what others do meanwhile -----------------------------------------------------------------------------------------


class MachineTimes(NamedTuple):
    """Seconds: of all cores together since the machine started, busy ones among them, and CPU time of this process and its children."""

    all_s: float
    busy_s: float
    own_s: float


def machine_times() -> MachineTimes | None:
    """The times of now; children count when they have ended. None where /proc has none."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(field) for field in file.readline().split()[1:9]]
    except OSError:
        return None
    own = os.times()
    idle = ticks[3] + ticks[4]
    total_s, idle_s = sum(ticks) / _TICKS_PER_S, idle / _TICKS_PER_S
    return MachineTimes(total_s, total_s - idle_s, own.user + own.system + own.children_user + own.children_system)


def foreign_share(before: MachineTimes | None, after: MachineTimes | None) -> float | None:
    """How much of the machine's time others took between two times, 0 to 1."""
    if before is None or after is None or after.all_s <= before.all_s:
        return None
    foreign_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return min(1.0, max(0.0, foreign_s / (after.all_s - before.all_s)))
