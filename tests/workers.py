"""Real workers for tests: a supervisor process with its children, watched and killed by pid; and the ledger that its jobs write."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support import ROOT, children_of, clean_environment, is_gone, kill, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

START = "import json, sys; from bananas.worker.supervisor import WorkerSpec, run; sys.exit(run(WorkerSpec(**json.loads(sys.argv[1]))))"


def _is_worker(pid: int) -> bool:
    """Whether a pid that was a worker's child is one still, and no stranger's by now."""
    try:
        return b"bananas.worker" in Path(f"/proc/{pid}/cmdline").read_bytes() and not is_gone(pid)
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
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, json.dumps(spec)],
                cwd=ROOT,
                env=clean_environment(**environment),
                stderr=log,
                stdout=log,
                stdin=subprocess.DEVNULL,
            )
        self._processes = settings.get("worker_processes", 1)
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

    def ready(self, starts: int = 0) -> WorkerProcess:
        """Wait until all its processes work, or so many have begun to work."""
        expected = starts or self._processes
        wait_until(
            lambda: self.log.count("worker process started") >= expected or self.process.poll() is not None, f"a worker:\n{self.log}", 30
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

    def kill_tree(self, *spared: int) -> None:
        """SIGKILL to the supervisor and everything below it, but the pids that are spared."""
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
    """What the jobs of a test wrote down, or what hooks did for them (`word` begins with hook-)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def lines(self, word: str, job_id: str = "") -> list[Line]:
        """The lines of one word, of all jobs or one."""
        found = []
        for text in self.path.read_text().splitlines():
            parts = text.split(" ", 6)
            if parts[0] == word and (not job_id or parts[1] == job_id):
                found.append(Line(parts[0], parts[1], *map(int, parts[2:6]), more=" ".join(parts[6:])))
        return found

    def hooks(self, job_id: str) -> list[str]:
        """Which hooks were called for a job, with what."""
        words = ("hook-dead", "hook-retry", "hook-success")
        return [f"{word.removeprefix('hook-')} {line.more}" for word in words for line in self.lines(word, job_id)]

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
