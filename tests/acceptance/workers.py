"""Real workers for the tests: started as processes, stopped and killed by pid, and the ledger of what their handlers did."""

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bananas.worker.supervisor import WorkerSpec

MAIN = """
import sys, msgspec
from bananas.worker.supervisor import WorkerSpec, run
sys.exit(run(msgspec.json.decode(sys.argv[1], type=WorkerSpec)))
"""


class WorkerProcess:
    """One `bananas worker` with its children."""

    def __init__(self, folder: Path, url: str, namespace: str, *, burst: bool = False, **settings: Any) -> None:
        self._folder = folder
        self._log = (folder / "worker.log").open("ab")
        options = {"lease": 1.0, "worker_concurrency": 20, "log_level": "warning", "shutdown_timeout": 5.0} | settings
        spec = WorkerSpec(target="worker_app:app", settings=options, burst=burst)
        environ = dict(os.environ, REDIS_URL=url, TEST_NAMESPACE=namespace, TEST_LEDGER=str(folder), PYTHONPATH=str(Path(__file__).parent))
        command = [sys.executable, "-c", MAIN, msgspec.json.encode(spec).decode()]
        self.process = subprocess.Popen(command, env=environ, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL)

    def children(self) -> list[int]:
        pid = self.process.pid
        with contextlib.suppress(OSError):
            return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def kill_child(self) -> bool:
        """SIGKILL one worker process that has begun to work; its supervisor lives. False: none has."""
        for child in self.children():
            if (self._folder / f"{child}.ledger").exists():
                os.kill(child, signal.SIGKILL)
                return True
        return False

    def kill_all(self) -> None:
        """SIGKILL the supervisor and its children: nobody cleans up."""
        children = self.children()
        self.process.kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.process.wait(10)

    def stop(self, timeout: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(timeout)

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill_all()
        self._log.close()


class Line(NamedTuple):
    """One line of a ledger."""

    what: str
    job: str
    attempt: int
    fence: int


def ledger(folder: Path) -> list[Line]:
    """What every handler noted so far."""
    lines = [text for file in folder.glob("*.ledger") for text in file.read_text().splitlines() if text.count(" ") == 3]
    return [Line(what, job, int(attempt), int(fence)) for what, job, attempt, fence in (line.split(" ") for line in lines)]


class Verdict(NamedTuple):
    """The ledger's count; see `check`."""

    lost: set[str]
    ghosts: set[str]
    duplicate_runs: int


def check(submitted: set[str], lines: list[Line]) -> Verdict:
    """Jobs that were submitted and did not end, jobs that ended and were not submitted, and runs of the same attempt beyond the first."""
    ended = {line.job for line in lines if line.what == "end"}
    starts = Counter((line.job, line.attempt) for line in lines if line.what == "start")
    return Verdict(submitted - ended, ended - submitted, sum(starts.values()) - len(starts))
