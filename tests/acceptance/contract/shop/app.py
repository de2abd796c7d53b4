"""The declarations of the contract, as a user writes them; the worker runs `shop.app:app`."""

import os
from collections.abc import AsyncIterator

from bananas import Bananas, Retry, current_job

app = Bananas()
app.include("shop.tasks")


def note(text: str) -> None:
    """Write a line where the script finds it."""
    with open(os.environ["NOTES"], "a", encoding="utf-8") as file:
        file.write(f"{text}\n")


@app.lifespan
async def resources() -> AsyncIterator[dict[str, str]]:
    note("opened")
    yield {"db": "a pool"}
    note("closed")


@app.task(queue="email", priority="high", max_retries=5, timeout=30, retry=Retry(base=1, factor=2, cap=600), result_ttl=3600)
async def send_email(to: str, subject: str = "hi") -> str:
    job = current_job()
    db = job.state["db"] if job.state else "no worker"
    note(f"{db} {job.queue} {job.priority} {job.attempt} {job.fence > 0} {job.deadline is not None} {job.id}")
    return f"sent {subject!r} to {to}"


@app.task(queue="email", max_retries=0)
async def fail(why: str) -> None:
    raise ValueError(why)


@app.cron("*/5 * * * *", timezone="Europe/Berlin")
async def sweep() -> None: ...


@app.cron(every=1)
async def tick() -> None:
    note("tick")


def notes() -> list[str]:
    """What the worker wrote."""
    with open(os.environ["NOTES"], encoding="utf-8") as file:
        return file.read().splitlines()
