"""The tasks that the worker tests run. Each run leaves a line per start and end in its process's ledger file, which survives kill -9."""

import asyncio
import os
import time
from pathlib import Path

from bananas import Bananas, Dead, Discard, Retry, RetryLater, Snooze, current_job

app = Bananas(os.environ["REDIS_URL"], namespace=os.environ["TEST_NAMESPACE"])
FAST = Retry(base=0.02, factor=1, cap=0.05)


def note(what: str) -> None:
    job = current_job()
    path = os.path.join(os.environ["TEST_LEDGER"], f"{os.getpid()}.ledger")
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{what} {job.id} {job.attempt} {job.fence}\n".encode())
    os.close(fd)


@app.lifespan
async def resources():  # type: ignore[no-untyped-def]
    yield {"opened": True}


@app.middleware
class Tenant:
    def submit(self, draft):  # type: ignore[no-untyped-def]
        draft.headers["tenant"] = "acme"
        yield

    async def run(self, job, proceed):  # type: ignore[no-untyped-def]
        assert job.headers.get("tenant", "acme") == "acme"
        return await proceed()


@app.task(max_retries=0)
async def work(ms: int) -> int:
    note("start")
    await asyncio.sleep(ms / 1000)
    note("end")
    return ms


@app.task(max_retries=0)
async def block(seconds: float) -> str:
    note("start")
    time.sleep(seconds)  # noqa: ASYNC251  # blocks the loop on purpose
    note("end")
    return "done"


@app.task(max_retries=0)
async def poison() -> None:
    note("start")
    os._exit(9)


@app.task(retry=FAST, max_retries=3)
async def flaky(failures: int) -> int:
    if current_job().attempt <= failures:
        raise ValueError("not yet")
    return current_job().attempt


def _first_time() -> bool:
    mark = Path(os.environ["TEST_LEDGER"], "snoozed")
    first = not mark.exists()
    mark.touch()
    return first


@app.task(retry=FAST, max_retries=5)
async def steered(how: str) -> str:
    job = current_job()
    if how == "later" and job.attempt == 1:
        raise RetryLater(0.01)
    if how == "snooze" and _first_time():
        raise Snooze(0.01)
    if how == "discard":
        raise Discard("not needed")
    if how == "dead":
        raise Dead("hopeless")
    return f"{how} {job.attempt}"


@app.task
def double(number: int) -> int:
    assert current_job().state["opened"]
    return 2 * number


@app.task(timeout=0.1, max_retries=0)
async def slow() -> None:
    await asyncio.sleep(60)


@app.task(timeout=0.1, max_retries=0)
def slow_sync(seconds: float = 0.3) -> str:
    time.sleep(seconds)
    return "too late"


@app.task(isolation="process", timeout=0.5, max_retries=0)
def isolated(how: str) -> int:
    if how == "hang":
        time.sleep(60)
    if how == "exit":
        os._exit(3)
    if how == "fail":
        raise KeyError(how)
    return os.getpid()


@app.task(result_ttl=0)
async def silent() -> None: ...


@app.task(timeout=0, max_retries=0)
async def forever() -> None:
    note("start")
    await asyncio.sleep(600)


@app.cron(every=0.2)
async def tick() -> None:
    note("tick")
