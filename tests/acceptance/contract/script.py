"""The calls of the contract, line by line, each with what it must do. A worker of `shop.app:app` runs beside it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from shop.app import app, fail, notes, send_email, sweep
from shop.tasks import resize, wait_for_ever

from bananas import Job, JobNotFound, TaskError


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    deadline = time.monotonic() + 15
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def sync_code() -> None:
    job = send_email.submit_sync("a@b.c")
    assert job.result_sync(timeout=10) == "sent 'hi' to a@b.c"
    jobs = app.submit_many_sync(resize.bind("a", width) for width in range(3))
    assert [job.result_sync(timeout=10) for job in jobs] == [0, 1, 2]


async def submits() -> None:
    assert resize("a", 3) == 3
    assert await send_email("a@b.c") == "sent 'hi' to a@b.c"
    assert "no worker email 100 1 False False local.send_email" in notes()
    assert await sweep() is None
    job = await send_email.submit("a@b.c", subject="x")
    assert await job.result(timeout=10) == "sent 'x' to a@b.c"
    assert f"a pool email 100 1 True True {job.id}" in notes()
    assert await send_email.submit_and_wait("d@e.f") == "sent 'hi' to d@e.f"
    job = await app.submit("send_email", "a@b.c", options={"queue": "bulk", "headers": {"tenant": "t"}})
    assert await job.result(timeout=10) == "sent 'hi' to a@b.c"
    people = [f"{number}@b.c" for number in range(1_500)]
    jobs = await app.submit_many(send_email.bind(x) for x in people)
    texts = {job.id: await job.result() async for job in app.as_completed(jobs, timeout=60)}
    assert [texts[job.id] for job in jobs] == [f"sent 'hi' to {person}" for person in people]


async def options() -> None:
    job = await send_email.options(delay=60, priority="low", queue="bulk", timeout=5, max_retries=0).submit("a@b.c")
    info = await job.info()
    assert (info.state, info.queue, info.priority, info.timeout, info.max_retries) == ("scheduled", "bulk", 900, 5, 0)
    await job.reschedule(delay=0)
    assert await job.result(timeout=10) == "sent 'hi' to a@b.c"
    job = await send_email.options(at=datetime.now(UTC) + timedelta(seconds=0.3)).submit("a@b.c")
    assert (await job.info()).state == "scheduled"
    assert await job.result(timeout=10) == "sent 'hi' to a@b.c"
    first = await send_email.options(unique="welcome:7", delay=60).submit("a@b.c")
    second = await send_email.options(unique="welcome:7").submit("a@b.c")
    assert (first.created, second.created, first == second) == (True, False, True)
    assert await first.cancel()


async def jobs() -> None:
    job = await send_email.options(delay=60, priority="low").submit("a@b.c")
    found = app.job(job.id)
    assert found == job
    await found.set_priority("high")
    assert (await job.info()).priority == 100
    await job.reschedule(delay=5)
    due = (await job.info()).due_ms
    assert due is not None
    assert due < (time.time() + 10) * 1000
    assert await job.cancel() is True
    await ends(job.result(timeout=10), "cancelled")
    running = await wait_for_ever.submit()
    await until(lambda: state_is(running, "running"))
    assert (await running.info()).worker is not None
    assert await running.cancel() is True
    await ends(running.result(timeout=15), "cancelled")


async def state_is(job: Job[Any], state: str) -> bool:
    return (await job.info()).state == state


async def ends(result: Awaitable[object], state: str) -> TaskError:
    try:
        await result
    except TaskError as error:
        caught = error
    else:
        raise AssertionError(f"it did not end as {state}")
    assert caught.state == state, caught
    return caught


async def queues() -> None:
    q = app.queue("email")
    assert await q.pause() is True
    waiting = [await send_email.submit("a@b.c") for _ in range(3)]
    places = [(await job.info()).place for job in waiting]
    assert places == [0, 1, 2]
    counts = await q.counts()
    assert (counts.ready, counts.paused, counts.ready_by_priority["high"]) == (3, True, 3)
    assert await q.purge() == 3
    await ends(waiting[0].result(timeout=10), "purged")
    assert await q.resume() is True
    failed = [await fail.submit(f"number {number}") for number in range(3)]
    errors = [await ends(job.result(timeout=10), "dead") for job in failed]
    assert "number 0" in str(errors[0])
    assert "Remote traceback" in str(errors[0])
    assert {info.id for info in await q.dead.list(limit=50)} == {job.id for job in failed}
    await q.dead.replay(failed[0].id)
    await until(lambda: dead_count(3))
    assert await q.dead.replay_all() == 3
    await until(lambda: dead_count(3))
    assert await q.dead.purge() == 3
    try:
        await q.dead.replay(failed[0].id)
    except JobNotFound:
        pass
    else:
        raise AssertionError("a purged job was replayed")


async def dead_count(wanted: int) -> bool:
    q = app.queue("email")
    counts = await q.counts()
    return counts.dead == wanted and not counts.ready and not counts.running


async def main() -> None:
    for part in (submits, options, jobs, queues):
        await part()
    await until(ticked)
    await app.close()


async def ticked() -> bool:
    return "tick" in notes()


if __name__ == "__main__":
    sync_code()
    asyncio.run(main())
