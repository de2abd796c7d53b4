"""The tasks that the tests of workers run."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from tests.apps.ledger import note

from bananas import Bananas, CurrentJob, Dead, Discard, Retry, RetryLater, Snooze, current_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

app = Bananas()
QUICK = Retry(base=0.01, factor=1, cap=0.01)


@app.lifespan
async def resources() -> AsyncIterator[dict[str, str]]:
    yield {"db": "open"}


@app.middleware
class Tenant:
    """Passes a header into the handler's value."""

    async def run(self, job: CurrentJob, proceed: Callable[[], Awaitable[Any]]) -> Any:
        value = await proceed()
        return f"{job.headers['tenant']}:{value}" if "tenant" in job.headers else value


@app.on_dead
async def noted_dead(job: CurrentJob, error: BaseException) -> None:
    note("hook-dead", type(error).__name__, job=job)


@app.on_retry
def noted_retry(job: CurrentJob, error: BaseException, delay: float) -> None:
    note("hook-retry", type(error).__name__, job=job)


@app.on_success
async def noted_success(job: CurrentJob, value: Any) -> None:
    """For jobs that want it: the header says after how many seconds."""
    if "hook-after" in job.headers:
        await asyncio.sleep(float(job.headers["hook-after"]))
        note("hook-success", value, job=job)


def is_open(gate: str) -> bool:
    return os.path.exists(gate)


def first_time(name: str) -> bool:
    """Whether nobody has asked this before for the name, in any process."""
    try:
        os.close(os.open(os.environ["LEDGER"] + name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


# --- short ones -----------------------------------------------------------------------------------------------------


@app.task
async def double(x: int) -> int:
    return 2 * x


@app.task
def double_sync(x: int) -> int:
    return 2 * x


@app.task(isolation="process")
def pid_isolated() -> int:
    return os.getpid()


@app.task
async def whoami() -> dict[str, Any]:
    job = current_job()
    return {
        "id": job.id,
        "attempt": job.attempt,
        "queue": job.queue,
        "priority": job.priority,
        "fence": job.fence,
        "state": job.state["db"],
        "lease_valid": job.lease_valid,
        "time_left": job.time_left,
        "pid": os.getpid(),
    }


@app.task(timeout=20)
async def work(seconds: float) -> str:
    """Sleep on the loop between a start and an end line."""
    note("start")
    await asyncio.sleep(seconds)
    note("end")
    return "done"


@app.task(timeout=20)
async def follow(path: str) -> int:
    """Wait until a file exists; return the pid. Note when the lease is surely held no more."""
    note("start")
    trusted = True
    while not is_open(path):
        await asyncio.sleep(0.01)
        if trusted and not current_job().lease_valid:
            trusted = False
            note("untrusted")
    note("end")
    return os.getpid()


def wait_in_thread(path: str) -> int:
    note("start")
    while not is_open(path):
        time.sleep(0.01)
    note("end")
    return os.getpid()


@app.task(timeout=20)
def follow_sync(path: str) -> int:
    return wait_in_thread(path)


@app.task(timeout=20, isolation="process")
def follow_isolated(path: str) -> int:
    return wait_in_thread(path)


# --- failures -------------------------------------------------------------------------------------------------------


@app.task(retry=QUICK, max_retries=3)
async def fails(times: int) -> int:
    """Fail so often, then return the attempt."""
    if current_job().attempt <= times:
        raise ValueError(f"attempt {current_job().attempt}")
    return current_job().attempt


class Hopeless(Exception):
    """Not retried."""


@app.task(retry=Retry(base=0.01, cap=0.01, dont_retry_on=Hopeless))
async def hopeless() -> None:
    raise Hopeless("no use")


@app.task(retry=Retry(base=0.01, cap=0.01, when=lambda error, attempt: attempt < 2))
async def once_more() -> None:
    raise ValueError("again")


@app.task
async def steers(how: str) -> str:
    job = current_job()
    note("start")
    if how == "discard":
        raise Discard("not wanted")
    if how == "dead":
        raise Dead("gone wrong")
    if how == "later" and job.attempt == 1:
        raise RetryLater(0.01)
    if how == "snooze" and first_time(job.id):
        raise Snooze(0.01)
    return f"attempt {job.attempt}"


@app.task(timeout=0.3, max_retries=0)
async def slow_async() -> None:
    note("start")
    try:
        await asyncio.sleep(60)
    finally:
        note("stopped")


@app.task(timeout=0.3, max_retries=0)
def slow_sync(path: str) -> None:
    wait_in_thread(path)


@app.task(timeout=0.3, max_retries=0, isolation="process")
def slow_isolated() -> None:
    note("start", os.getpid())
    time.sleep(60)


@app.task(isolation="process", retry=QUICK, max_retries=1)
def dies_isolated() -> None:
    os._exit(7)


@app.task(isolation="process", max_retries=0)
def fails_isolated() -> None:
    raise KeyError("isolated")


# --- rough ones -----------------------------------------------------------------------------------------------------


@app.task(timeout=20)
async def block_loop(seconds: float) -> int:
    note("start")
    time.sleep(seconds)  # noqa: ASYNC251  # what this task is for
    note("end")
    return current_job().fence


@app.task(timeout=60)
async def hold_gil(seconds: float) -> float:
    """Hold the GIL in C, in one call, for at least so long; return how long it was."""
    note("start")
    count, took = 1_000_000, 0.0
    while took < seconds:
        if took:
            count = int(count * min(100.0, 1.2 * seconds / took))
        began = time.monotonic()
        sum(range(count))
        took = time.monotonic() - began
    note("end")
    return took


@app.task(timeout=20)
async def poison() -> None:
    note("start")
    os._exit(66)


@app.task(timeout=20)
async def five_ms() -> None:
    note("start")
    await asyncio.sleep(0.005)
    note("end")


@app.task(timeout=0, name="stubborn")
async def stubborn(path: str) -> None:
    """Ignore every cancellation until a file exists."""
    note("start")
    while not is_open(path):
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            note("cancelled")
