"""Tasks with a process of their own, and what surrounds them: middleware and hooks."""

from __future__ import annotations

import asyncio
import os
import time
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.apps.basic import is_open
from tests.apps.ledger import note

from bananas import Bananas, CurrentJob, Dead, IsolatedFailure, IsolatedProcessDied, Retry, RetryLater, current_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

app = Bananas()
QUICK = Retry(base=0.01, factor=1, cap=0.01)
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@dataclass
class Sum:
    total: int


class Refused(Exception):
    """What `refuses` raises."""


@app.lifespan
async def resources() -> AsyncIterator[dict[str, str]]:
    yield {"db": "open"}
    Path(os.environ["LEDGER"]).with_name(f"closed-{os.getpid()}").touch()


@app.middleware
class Tenant:
    async def run(self, job: CurrentJob, proceed: Callable[[], Awaitable[Any]]) -> Any:
        if "tenant" not in job.headers:
            return await proceed()
        tenant.set(job.headers["tenant"])
        return [os.getpid(), await proceed()]


@app.on_success
async def succeeded(job: CurrentJob, value: Any) -> None:
    note("hook-success", repr(value), job=job)


@app.on_retry
def retried(job: CurrentJob, error: BaseException, delay: float) -> None:
    note("hook-retry", shown(error), job=job)


@app.on_dead
async def died(job: CurrentJob, error: BaseException) -> None:
    note("hook-dead", shown(error), job=job)


def shown(error: BaseException) -> str:
    if isinstance(error, IsolatedFailure):
        in_handler = "in refuses" in error.traceback and "Remote traceback:" in str(error)
        return f"IsolatedFailure {error.error_type} {error.error_message!r} {in_handler}"
    if isinstance(error, IsolatedProcessDied):
        return f"IsolatedProcessDied {error.exit_code}"
    return f"{type(error).__name__} {error}"


@app.task(isolation="process")
def who() -> list[Any]:
    return [os.getpid(), tenant.get(), current_job().state["db"]]


@app.task(isolation="process")
async def who_async() -> list[Any]:
    return [os.getpid(), tenant.get(), current_job().state["db"]]


@app.task(isolation="process", max_retries=0)
async def cancels_itself(waits: bool) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    if waits:
        await asyncio.sleep(0)


@app.task(isolation="process")
def times() -> list[float | None]:
    job = current_job()
    return [time.monotonic(), job.deadline, job.time_left]


@app.task(isolation="process", timeout=30)
def watch_lease(path: str) -> bool:
    """Note when the lease is surely held no more, until a file exists."""
    note("start")
    trusted = True
    while not is_open(path):
        if trusted and not current_job().lease_valid:
            trusted = False
            note("untrusted")
        time.sleep(0.005)
    return trusted


@app.task(isolation="process", retry=QUICK, max_retries=1)
def tells(path: str) -> str:
    """Tell how far it is, while it holds up the loop of its process until a file exists."""
    job = current_job()
    job.progress(0.5, "half")
    job.log(f"{os.getpid()} waits")
    while not is_open(path):
        time.sleep(0.005)
    for number in range(1_000):
        job.log(f"line {number}")
    if job.attempt == 1:
        raise Refused("once")
    job.progress(1.0, "whole")
    return "told"


@app.task(isolation="process")
def add(left: int, right: int) -> Sum:
    return Sum(left + right)


@app.task(isolation="process", retry=QUICK, max_retries=1)
def refuses(what: str) -> None:
    raise Refused(what)


@app.task(isolation="process", retry=QUICK, max_retries=1)
def exits() -> None:
    os._exit(7)


@app.task(isolation="process", max_retries=0)
def steers(how: str) -> None:
    if how == "later":
        raise RetryLater(0.01)
    raise Dead


@app.task(isolation="process", retry=QUICK)
def unfit() -> object:
    return object()


@app.task(timeout=30)
async def block_until(path: str) -> None:
    """Block the worker's loop until a file exists."""
    note("start")
    while not is_open(path):
        time.sleep(0.01)  # noqa: ASYNC251  # what this task is for
