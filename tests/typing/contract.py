"""The contract as users write it; mypy strict and pyright find nothing here. Not run: the acceptance tests run the same calls."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from bananas import Bananas, Counts, Job, JobInfo, Retry, current_job

app = Bananas("redis://127.0.0.1:6379/0", namespace="shop")
app.include("shop.tasks")


@app.lifespan
async def resources() -> AsyncIterator[dict[str, int]]:
    yield {"db": 1}


@app.task(queue="email", priority="high", max_retries=5, timeout=30, retry=Retry(base=1, factor=2, cap=600), result_ttl=3600)
async def send_email(to: str, subject: str = "hi") -> str:
    job = current_job()
    return f"{job.id} {job.attempt} {job.queue} {job.priority} {job.fence} {job.deadline} {job.state['db']} {to} {subject}"


@app.task
def resize(path: str, width: int) -> int:
    return width


@app.cron("*/5 * * * *", timezone="Europe/Berlin")
async def sweep() -> None: ...


@app.cron(every=30)
def tick() -> None: ...


async def contract(people: list[str]) -> None:
    assert_type(await send_email("a@b.c"), str)
    assert_type(resize("a", 3), int)
    job = await send_email.submit("a@b.c", subject="x")
    assert_type(job, Job[str])
    assert_type(send_email.submit_sync("a@b.c"), Job[str])
    assert_type(await resize.submit("a", width=3), Job[int])
    job = await send_email.options(delay=60, priority="low", queue="bulk", timeout=5, max_retries=0).submit("a@b.c")
    job = await send_email.options(at=datetime.now(UTC) + timedelta(hours=1)).submit("a@b.c")
    jobs = await app.submit_many(send_email.bind(person) for person in people)
    assert_type(jobs, list[Job[str]])
    by_name = await app.submit("send_email", "a@b.c", options={"queue": "email"})
    assert_type(by_name, Job[Any])
    unique = await send_email.options(unique="welcome:7").submit("a@b.c")
    assert_type(unique.created, bool)
    assert_type(await job.result(timeout=10), str)
    assert_type(await send_email.submit_and_wait("a@b.c"), str)
    async for done in app.as_completed(jobs, timeout=60):
        assert_type(await done.result(), str)
    found = app.job("email.0199")
    assert_type(await found.info(), JobInfo)
    assert_type(await job.cancel(), bool)
    await job.set_priority("high")
    await job.reschedule(delay=5)
    queue = app.queue("email")
    assert_type(await queue.counts(), Counts)
    await queue.pause()
    await queue.resume()
    await queue.purge()
    await queue.dead.list(limit=50)
    await queue.dead.replay(job.id)
    await queue.dead.replay_all()
    await queue.dead.purge()
    await sweep()
    tick()
