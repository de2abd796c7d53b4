"""Tasks that kill their worker, and hooks that note how a job died."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.apps.ledger import note

from bananas import Bananas, CurrentJob, current_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

app = Bananas()


@app.lifespan
async def resources() -> AsyncIterator[dict[str, str]]:
    yield {"db": "open"}


@app.on_dead
async def died(job: CurrentJob, error: BaseException) -> None:
    seen = f"{job.task} {job.queue} {job.priority} {job.attempt} {job.state['db']} {job.headers}"
    note("hook-dead", "app", type(error).__name__, seen, job=job)


def poison_died(job: CurrentJob, error: BaseException) -> None:
    note("hook-dead", f"task {type(error).__name__} {error}", job=job)


@app.task(on_dead=poison_died)
async def poison() -> None:
    note("start")
    os._exit(66)


@app.task(max_retries=0)
async def fails() -> None:
    raise ValueError(current_job().id)


@app.task
async def work() -> None: ...
