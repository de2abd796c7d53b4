"""A peer at work: its driver, which submits as it is told, and its worker processes."""

import contextlib
import itertools
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Literal

from bananas.bench import counter
from bananas.bench.peers._declared import HERE, Declared
from bananas.bench.peers._installed import Installed
from bananas.bench.processes import Process, ProcessFailed, process_tree
from bananas.bench.session import own_environment

Profile = Literal["drain", "io", "idle"]
START_TIMEOUT_S, REPLY_TIMEOUT_S, END_TIMEOUT_S, LOOK_AGAIN_S = 30.0, 120.0, 3.0, 0.2
_unique = itertools.count()
GUARD = """
import os, signal, sys
alive = set()
for line in sys.stdin:
    (alive.add if line[0] == "+" else alive.discard)(int(line[1:]))
for session in alive:
    try:
        os.killpg(session, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


class Guard:
    """Ends the workers of peers with this process, even if it is killed: a process that waits for the end of its input."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", GUARD], stdin=subprocess.PIPE, start_new_session=True)

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def tell(self, sign: str, session: int) -> None:
        """A session of processes has begun ("+"), or is gone ("-")."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{sign}{session}\n".encode())
        self._process.stdin.flush()


class Peer:
    """A peer that can be run.

    Args:
        folder: an empty one, which gets a copy of the peer's files.
    """

    def __init__(self, declared: Declared, installed: Installed, folder: Path, guard: Guard) -> None:
        self.declared, self.installed, self.folder, self._guard = declared, installed, folder, guard
        shutil.copy(HERE / f"{declared.name}.py", folder / "peer.py")
        shutil.copy(HERE / "_driver.py", folder / "driver.py")
        shutil.copy(Path(counter.__file__), folder / "counter.py")
        if installed.modules is not None:
            shutil.copy(HERE / f"{declared.name}.mjs", folder / "peer.mjs")
            (folder / "node_modules").symlink_to(installed.modules)

    @contextlib.contextmanager
    def client(self, url: str, counters: Path, *, results: bool = False) -> Generator["Client"]:
        """Its driver, connected; it is gone afterwards."""
        script = (
            [self.installed.interpreter, "driver.py"]
            if self.installed.modules is None
            else [self.installed.interpreter, "peer.mjs", "drive"]
        )
        client = Client(script, self._environment(url, counters, "idle", results), self.folder)
        try:
            client.answer(START_TIMEOUT_S)
            yield client
        finally:
            client.end()

    @contextlib.contextmanager
    def worker(self, profile: Profile, url: str, counters: Path, *, results: bool = False) -> Generator[Process]:
        """One worker process; nothing of it is left afterwards."""
        places: dict[str, Any] = {"python": self.installed.interpreter, "bin": self.installed.bin, "folder": self.folder, "url": url}
        places |= {"unique": f"w{next(_unique)}", **self.declared.profiles[profile]}
        command = [word.format_map(places) for word in self.declared.worker]
        process = Process(command, self._environment(url, counters, profile, results), self._log("worker"), self.folder)
        self._guard.tell("+", process.pid)
        try:
            yield process
        finally:
            below = process.tree()
            process.end(END_TIMEOUT_S)
            _kill(below)
            self._guard.tell("-", process.pid)

    def _environment(self, url: str, counters: Path, profile: Profile, results: bool) -> Mapping[str, str]:
        own = own_environment(url)
        paths = [str(self.folder)]
        if self.declared.runtime == "here":
            paths.append(own["PYTHONPATH"])
        return own | {
            "BENCH_URL": url,
            "BENCH_RESULTS": str(int(results)),
            "BENCH_SLOTS": str(self.declared.slots(profile)),
            counter.FOLDER: str(counters),
            "PYTHONPATH": os.pathsep.join(paths),
            "PATH": os.pathsep.join([self.installed.bin, os.environ.get("PATH", os.defpath)]),
        }

    def _log(self, what: str) -> Path:
        return self.folder / f"{what}-{next(_unique)}.log"


class Client:
    """A driver process: an order in, an answer out, a line each."""

    def __init__(self, command: list[str], environment: Mapping[str, str], folder: Path) -> None:
        self._log_path = folder / f"driver-{next(_unique)}.log"
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._unread = b""

    def ask(self, do: str, *, needs: Process | None = None, **order: Any) -> dict[str, Any]:
        """Give one order and return the answer. Raises ProcessFailed when it fails, none comes in time, or `needs` ends meanwhile."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **order}).encode() + b"\n")
            self._process.stdin.flush()
        return self.answer(REPLY_TIMEOUT_S + order.get("cap_s", 0.0), needs)

    def answer(self, timeout_s: float, needs: Process | None = None) -> dict[str, Any]:
        """The next answer."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            self._unread += self._read()
            if time.monotonic() > deadline:
                raise ProcessFailed("its client did not answer in time")
            if needs is not None and needs.exit_code is not None:
                raise needs.failed(f"ended with exit code {needs.exit_code} while it was needed")
        line, self._unread = self._unread.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ProcessFailed(answer["error"][:300])
        return answer

    def _read(self) -> bytes:
        """What there is within a moment."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(LOOK_AGAIN_S):
                return b""
        if not (data := os.read(self._process.stdout.fileno(), 1 << 16)):
            raise ProcessFailed(f"its client ended: {' '.join(self._log_path.read_text(errors='replace').split()[-40:])}")
        return data

    def end(self) -> None:
        """End it, and whatever it started."""
        below = process_tree(self.pid)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_TIMEOUT_S)
        self._process.stdout.close()
        _kill(below)
        self._process.wait()


def _kill(pids: list[int]) -> None:
    """SIGKILL to what is left of processes that were alive a moment ago."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
