"""Real workers for tests: a supervisor process with its children, watched and killed by pid; and the ledger that its jobs write."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import bananas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SRC = Path(bananas.__file__).parent.parent
ROOT = Path(__file__).parent.parent

START = "import json, sys; from bananas.worker.supervisor import WorkerSpec, run; sys.exit(run(WorkerSpec(**json.loads(sys.argv[1]))))"


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 15.0) -> Any:
    """Wait until the condition holds, and return what it gave."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(0.01)
    return value


def state_of(pid: int) -> str:
    """The state letter of a process, "" when it is gone (a zombie is)."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if letter == "Z" else letter


def children_of(pid: int) -> list[int]:
    """The pids of the children of a process that are alive."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in listed if state_of(int(child))]


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal, also to a process that is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_worker(pid: int) -> bool:
    """Whether a pid that was a worker's child is one still, and no stranger's by now."""
    try:
        return b"bananas.worker" in Path(f"/proc/{pid}/cmdline").read_bytes() and bool(state_of(pid))
    except (FileNotFoundError, ProcessLookupError):
        return False


class WorkerProcess:
    """One `bananas worker` as a process of its own.

    Args:
        folder: where its log goes.
        environment: settings by the names of their variables, and LEDGER.
        settings: as a command line would give them.
    """

    def __init__(self, folder: Path, environment: dict[str, str], target: str = "tests.apps.basic:app", **settings: Any) -> None:
        spec = {"target": target, "burst": settings.pop("burst", False), "settings": settings}
        self.log_path = folder / f"worker-{time.monotonic_ns()}.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BANANAS_")}
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, json.dumps(spec)],
                cwd=ROOT,
                env=inherited | {"PYTHONPATH": os.pathsep.join([str(SRC), str(ROOT)])} | environment,
                stderr=log,
                stdout=log,
                stdin=subprocess.DEVNULL,
            )
        self._seen: set[int] = set()

    @property
    def pid(self) -> int:
        """The supervisor's pid."""
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def children(self) -> list[int]:
        """The pids of its worker processes that are alive."""
        found = children_of(self.pid)
        self._seen.update(found)
        return found

    def ready(self, processes: int = 1) -> WorkerProcess:
        """Wait until it works."""
        wait_for(
            lambda: self.log.count("worker process started") >= processes or self.process.poll() is not None, f"a worker:\n{self.log}", 20
        )
        assert self.process.poll() is None, self.log
        self.children()
        return self

    def send(self, number: int) -> None:
        """Send a signal to the supervisor."""
        kill(self.pid, number)

    def wait(self, timeout: float = 15.0) -> int:
        """Wait for its end. Returns the exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not end within {timeout:g} s:\n{self.log}") from None

    def stop(self) -> int:
        """SIGTERM. Returns the exit code."""
        self.send(signal.SIGTERM)
        return self.wait()

    def kill_tree(self) -> None:
        """SIGKILL to the supervisor and everything below it, at once."""
        self.kill_tree_but()

    def kill_tree_but(self, *spared: int) -> None:
        """SIGKILL to the supervisor and everything below it but these pids."""
        pids = [self.pid, *(pid for pid in self._seen if _is_worker(pid))]
        for pid in pids:
            pids += [child for child in children_of(pid) if child not in (*pids, *spared)]
            kill(pid, signal.SIGSTOP)  # parents first: from here on it starts nothing
        for pid in pids:
            kill(pid)
        if self.process.poll() is None:
            self.process.wait(10)

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_tree()


class Line(NamedTuple):
    """One line of a ledger."""

    word: str
    id: str
    attempt: int
    fence: int
    pid: int
    at_ns: int
    more: str


class Ledger:
    """What the jobs of a test wrote down."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def lines(self, word: str = "", job_id: str = "") -> list[Line]:
        """The lines of runs, of one word or job."""
        found = []
        for text in self.path.read_text().splitlines():
            parts = text.split(" ", 6)
            if not parts[0].startswith("hook-") and (not word or parts[0] == word) and (not job_id or parts[1] == job_id):
                numbers = [int(part) for part in parts[2:6]]
                found.append(Line(parts[0], parts[1], numbers[0], numbers[1], numbers[2], numbers[3], " ".join(parts[6:])))
        return found

    def hooks(self, job_id: str) -> list[str]:
        """Which hooks were called for a job, with what."""
        lines = [text.split(" ", 2) for text in self.path.read_text().splitlines() if text.startswith("hook-")]
        return [f"{word.removeprefix('hook-')} {what}" for word, name, what in lines if name == job_id]

    def judge(self, acknowledged: Iterable[str]) -> Verdict:
        """Compare what ran with what was acknowledged."""
        expected = set(acknowledged)
        starts = Counter(line.id for line in self.lines("start"))
        ends = Counter(line.id for line in self.lines("end"))
        return Verdict(
            lost=expected - ends.keys(),
            ghosts=(starts.keys() | ends.keys()) - expected,
            ended_twice={name for name, count in ends.items() if count > 1},
            runs=sum(starts.values()),
        )


class Verdict(NamedTuple):
    """What a ledger shows: jobs that never ended, that nobody submitted, that ended twice; and how many runs began."""

    lost: set[str]
    ghosts: set[str]
    ended_twice: set[str]
    runs: int
