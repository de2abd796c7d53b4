"""What several test files need: waiting on conditions, and looking at processes and servers from outside."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import inspect
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import bananas
from bananas import watcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
STALL = ("CLIENT", "PAUSE", 60_000, "WRITE")  # to a server: scripts wait, reads are answered
GO_ON = ("CLIENT", "UNPAUSE")
SRC = Path(bananas.__file__).parent.parent
ROOT = Path(__file__).parent.parent


def wait_until(condition: Callable[[], T], what: str = "the condition", timeout: float = 15.0, pause: float = 0.01) -> T:
    """Wait until the condition holds, and return what it gave; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        time.sleep(pause)
    return value


async def eventually(condition: Callable[[], Awaitable[Any] | Any], what: str = "the condition", timeout: float = 15.0) -> Any:
    """`wait_until` on an event loop; the condition may be a coroutine function."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        await asyncio.sleep(0.01)


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment of a program that imports bananas, and from the root of the tree, with none of our settings but those given.

    Its bytecode is kept, also where the environment says not to: a third of the start of a worker would be compiling.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BANANAS_", "PYTHONDONTWRITE"))}
    ours = {"PYTHONPATH": os.pathsep.join([str(SRC), str(ROOT)]), "PYTHONPYCACHEPREFIX": str(ROOT / ".pytest_cache" / "pyc")}
    return inherited | ours | variables


def is_gone(pid: int) -> bool:
    """Whether the process has ended; a zombie, which its parent has not collected yet, has."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except ProcessLookupError:
        return True
    except FileNotFoundError:
        return Path("/proc/self").exists()  # where there is no /proc, a signal has reached it


def is_unlocked(path: Path) -> bool:
    """Whether nobody holds this lock file, such as the watcher or the server of a `.bananas`; one that does not exist is held by nobody."""
    if not path.exists():
        return True
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def children_of(pid: int) -> list[int]:
    """The pids of the children of a process that are alive."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in listed if not is_gone(int(child))]


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal, also to a process that is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def ask_server(url: str, *words: str) -> str:
    """What the server at the socket of `url` answers, as it came but for lengths."""
    return watcher.request(unquote(urlsplit(url).path), *words, timeout=5).decode()
