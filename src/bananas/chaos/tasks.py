"""The tasks of the trials, run by `bananas worker bananas.chaos.tasks:app` as anybody's tasks are.

Each takes its name in the ledger first, notes its start and its end, and returns its fence. Every accepted settle is noted by a hook.
"""

import asyncio
import ctypes
import os
import random
import re
import stat
import time
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bananas.app import Bananas
from bananas.bench import tasks
from bananas.chaos.ledger import FOLDER, LOG, Book, commit, log_bytes
from bananas.context import CurrentJob, current_job
from bananas.retry import Retry

NAMESPACE = "chaos"
MARK_S = 0.02
EATEN_BYTES = 256 * 2**20

app = Bananas(namespace=NAMESPACE)


@app.lifespan
async def resources() -> AsyncIterator[None]:
    """End with the program that started this worker: only below it is stdin a pipe, not in a process of an isolated task."""
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        async for value in tasks.resources():
            yield value
    else:
        yield None


@app.on_success
def succeeded(job: CurrentJob, value: Any) -> None:
    """The server has accepted a success."""
    commit(Path(os.environ[FOLDER]), job.id, "success", job.fence)


@app.on_dead
def died(job: CurrentJob, error: BaseException) -> None:
    """The server has accepted a death."""
    commit(Path(os.environ[FOLDER]), job.id, "dead", job.fence)


def note(word: str, name: str, more: str = "") -> None:
    """Write a line for the job that runs. The time is taken before the lease is looked at: a stop in between tells no lie."""
    job, now_ns = current_job(), time.monotonic_ns()
    valid = int(job.lease_valid)
    line = f"{word} {name} {job.id} {job.attempt} {job.fence} {os.getpid()} {now_ns} {valid} {more}".rstrip()
    Book(Path(os.environ[FOLDER])).write([line], who="runs")


@contextmanager
def noted(name: str) -> Generator[None]:
    """Around the work of a handler."""
    note("start", name, str(log_bytes(Path(os.environ[LOG]))) if LOG in os.environ else "")
    try:
        yield
    except asyncio.CancelledError:
        note("cancelled", name)
        raise
    except Exception:
        note("failed", name)
        raise
    note("end", name)


def _is_open(gate: str) -> bool:
    return os.path.exists(gate)


# --- what is done as it should be -------------------------------------------------------------------------------------


@app.task(timeout=60)
async def work(name: str, seconds: float) -> int:
    """Wait on the loop, and say meanwhile whether the lease is trusted."""
    with noted(name):
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 5 * MARK_S))
            note("mark", name)
    return current_job().fence


@app.task(timeout=60)
def work_sync(name: str, seconds: float) -> int:
    """Wait in a thread."""
    with noted(name):
        time.sleep(seconds)
    return current_job().fence


@app.task(timeout=60, isolation="process")
def work_isolated(name: str, seconds: float) -> int:
    """Wait in a process of its own."""
    with noted(name):
        time.sleep(seconds)
    return current_job().fence


@app.task(timeout=0)
async def hold(name: str, gate: str) -> int:
    """Run until a file exists."""
    with noted(name):
        while not _is_open(gate):
            await asyncio.sleep(MARK_S)
            note("mark", name)
    return current_job().fence


@app.task(timeout=0)
def hold_sync(name: str, gate: str) -> int:
    """Run in a thread until a file exists."""
    with noted(name):
        while not os.path.exists(gate):
            time.sleep(MARK_S)
            note("mark", name)
    return current_job().fence


@app.task(timeout=60, retry=Retry(base=0.05, factor=1, cap=0.05), max_retries=10)
async def fails(name: str, times: int) -> int:
    """Fail so often, then end."""
    with noted(name):
        if current_job().attempt <= times:
            raise ConnectionError(f"attempt {current_job().attempt} fails, as was asked")
    return current_job().fence


@app.task(timeout=60)
async def answer(name: str, size: int) -> str:
    """Return so many characters."""
    with noted(name):
        pass
    return "x" * size


# --- what is not ------------------------------------------------------------------------------------------------------


@app.task(timeout=120)
async def block(name: str, how: str, seconds: float) -> int:
    """Block the event loop: by a busy loop, or in C with the GIL held all the time, by arithmetic, a sort or a regular expression."""
    with noted(name):
        until = time.monotonic() + seconds
        if how == "busy":
            while time.monotonic() < until:
                pass
        else:
            _hold_the_gil(how, seconds)
    return current_job().fence


def _hold_the_gil(how: str, seconds: float) -> None:
    """One call into C that lasts at least so long: tried with growing sizes."""
    size, took = {"sum": 1_000_000, "sort": 200_000, "regex": 18}[how], 0.0
    while took < seconds:
        if took:
            growth = min(50.0, 1.3 * seconds / took)
            size = size + max(1, round(growth).bit_length() - 1) if how == "regex" else int(size * growth)
        numbers = [random.random() for _ in range(size)] if how == "sort" else []
        began = time.monotonic()
        if how == "sum":
            sum(range(size))
        elif how == "sort":
            numbers.sort()
        else:
            re.fullmatch("(a+)+b", "a" * size)
        took = time.monotonic() - began


@app.task(timeout=120)
async def die(name: str, how: str) -> None:
    """End this process: by os._exit, by a fault in memory, or by eating memory until somebody kills it."""
    note("start", name)
    if how == "exit":
        os._exit(66)
    if how == "segfault":
        ctypes.string_at(0)
    eaten = bytearray(EATEN_BYTES)
    eaten[::4096] = b"x" * len(eaten[::4096])
    os.kill(os.getpid(), 9)  # what the kernel does to who eats its memory


@app.task(timeout=0.5, max_retries=0)
async def stubborn(name: str, gate: str) -> int:
    """Ignore every cancellation until a file exists."""
    note("start", name)
    while not _is_open(gate):
        try:
            await asyncio.sleep(MARK_S)
        except asyncio.CancelledError:
            note("cancelled", name)
    note("end", name)
    return current_job().fence


@app.task(timeout=0.5, max_retries=0)
def stubborn_sync(name: str, gate: str) -> int:
    """Run in a thread beyond its timeout until a file exists."""
    note("start", name)
    while not os.path.exists(gate):
        time.sleep(MARK_S)
    note("end", name)
    return current_job().fence


@app.task(timeout=0.5, max_retries=0, isolation="process")
def stubborn_isolated(name: str) -> None:
    """Never end, in a process of its own."""
    note("start", name)
    while True:
        time.sleep(1)
