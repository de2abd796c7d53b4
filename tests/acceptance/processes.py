"""What acceptance tests of processes share: waiting, and looking at processes and servers from outside."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from bananas import watcher

if TYPE_CHECKING:
    from collections.abc import Callable

SRC = Path(watcher.__file__).parent.parent

# A program that joins, says what it got, and executes one command per line of its input: a Redis command, "fork", or "exit".
JOIN = """
import json, os, sys, time
from pathlib import Path
from urllib.parse import unquote, urlsplit
from bananas import embedded, watcher
from bananas.errors import BananasError

def say(value):
    print(json.dumps(value), flush=True)

try:
    server = embedded.join(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
except BananasError as error:
    say({"error": f"{type(error).__name__}: {error}"})
    sys.exit(1)
say({"url": server.url, "directory": str(server.directory), "pid": server.pid, "watcher_pid": server.watcher_pid})
for line in sys.stdin:
    words = line.split()
    if words == ["exit"]:
        break
    if words == ["fork"]:  # the child does nothing with the server, and outlives its parent
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        say(child)
    else:
        say(watcher.request(unquote(urlsplit(server.url).path), *words).decode())
"""


def wait_until(condition: Callable[[], Any], timeout: float = 10.0, pause: float = 0.01) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(pause)


def is_gone(pid: int) -> bool:
    """Whether the process has ended; a zombie, which its parent has not collected yet, has."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def ask(url: str, *words: str) -> str:
    return watcher.request(unquote(urlsplit(url).path), *words, timeout=5).decode()


class Joined:
    """A process running JOIN."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOIN, *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(SRC)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hear(self, timeout: float = 20.0) -> Any:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], timeout)[0], "the program said nothing"
        return json.loads(self.process.stdout.readline())

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ask(self, line: str) -> Any:
        self.tell(line)
        return self.hear()

    def exit(self) -> None:
        self.tell("exit")
        assert self.process.wait(10) == 0

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
