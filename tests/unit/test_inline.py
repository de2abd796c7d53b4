"""`bananas.testing.inline`: submit runs the job at once, without a server."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from bananas import (
    Bananas,
    ConfigError,
    CurrentJob,
    Dead,
    Discard,
    EndlessSnooze,
    InvalidArguments,
    JobNotFound,
    NotSerializable,
    ResultsDisabled,
    Retry,
    Snooze,
    SubmitManyError,
    TaskError,
    UnknownTask,
    current_job,
)
from bananas.testing import inline

NOWHERE = "redis://127.0.0.1:1/0"
HOUR = Retry(base=3_600, factor=1, cap=3_600)


@dataclass
class Order:
    number: int
    key: UUID


@pytest.fixture
def app() -> Iterator[Bananas]:
    """An app whose server does not exist."""
    made = Bananas(NOWHERE)
    with inline(made, state={"db": "fake"}):
        yield made


async def test_the_job_has_run_when_submit_returns(app: Bananas) -> None:
    ran: list[str] = []

    @app.task
    async def send(to: str) -> str:
        ran.append(to)
        return f"sent to {to}"

    job = await send.submit("a@b.c")
    assert ran == ["a@b.c"]
    assert await job.result() == "sent to a@b.c"
    assert job.created


async def test_arguments_and_values_pass_through_the_codec(app: Bananas) -> None:
    @app.task
    async def ship(order: Order, tags: tuple[str, ...] = ()) -> Order:
        assert isinstance(order, Order)
        assert isinstance(tags, tuple)
        return order

    order = Order(7, uuid4())
    back = await ship.submit_and_wait(order, tags=("a", "b"))
    assert back == order
    assert back is not order


async def test_what_cannot_travel_is_refused_as_by_a_real_submit(app: Bananas) -> None:
    @app.task
    async def take(thing: Any) -> Any:
        return object()

    @app.task
    async def count(number: int) -> None: ...

    with pytest.raises(NotSerializable):
        await take.submit(object())
    with pytest.raises(InvalidArguments):
        await app.submit("count", "x")
    with pytest.raises(TaskError, match="msgpack"):
        await take.submit_and_wait(1)
    with pytest.raises(UnknownTask, match="nobody"):
        await app.submit("nobody")


async def test_failures_are_retried_at_once_and_then_raised_with_the_traceback(app: Bananas) -> None:
    attempts: list[int] = []

    @app.task(max_retries=2, retry=HOUR)
    async def flaky(good_at: int) -> int:
        attempts.append(current_job().attempt)
        if current_job().attempt < good_at:
            raise ValueError("not yet")
        return current_job().attempt

    assert await flaky.submit_and_wait(3) == 3
    assert attempts == [1, 2, 3]
    with pytest.raises(TaskError, match="not yet") as caught:
        await flaky.submit_and_wait(9)
    assert (caught.value.state, caught.value.attempts, caught.value.error_type) == ("dead", 3, "ValueError")
    assert "in flaky" in caught.value.traceback
    with pytest.raises(TaskError) as caught:
        await flaky.options(max_retries=0).submit_and_wait(2)
    assert caught.value.attempts == 1


async def test_a_handler_steers_its_job(app: Bananas) -> None:
    snoozes: list[int] = []

    @app.task
    async def steer(how: str) -> int:
        if how == "discard":
            raise Discard("not needed")
        if how == "dead":
            raise Dead("beyond help")
        snoozes.append(current_job().attempt)
        if how == "always" or len(snoozes) < 4:
            raise Snooze(3_600)
        return current_job().attempt

    assert await steer.submit_and_wait("snooze") == 1
    for how, state in (("discard", "discarded"), ("dead", "dead")):
        with pytest.raises(TaskError) as caught:
            await steer.submit_and_wait(how)
        assert caught.value.state == state
    with pytest.raises(EndlessSnooze, match="snoozed 100 times"):
        await steer.submit("always")


async def test_current_job_shows_what_a_worker_would_show(app: Bananas) -> None:
    seen: list[CurrentJob] = []

    @app.task(queue="email", priority="high", timeout=30)
    def look() -> None:
        seen.append(current_job())

    job = await look.options(headers={"tenant": "t1"}).submit()
    await look.submit()
    first, second = seen
    assert (first.id, first.task, first.queue, first.priority, first.attempt) == (job.id, "look", "email", 100, 1)
    assert first.headers == {"tenant": "t1"}
    assert first.state == {"db": "fake"}
    assert first.lease_valid
    assert first.deadline is not None
    assert second.fence > first.fence


async def test_a_timeout_ends_a_run(app: Bananas) -> None:
    @app.task(timeout=0.02, max_retries=0)
    async def stuck() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TaskError, match=r"timeout of 0\.02 s") as caught:
        await stuck.submit_and_wait()
    assert caught.value.error_type == "TimeoutError"


async def test_a_handler_sees_its_tags_also_those_that_middleware_adds(app: Bananas) -> None:
    @app.task
    async def seen() -> list[str]:
        return list(current_job().tags)

    assert await seen.submit_and_wait() == []
    assert await seen.options(tags=["a", "b", "a"]).submit_and_wait() == ["a", "b"]

    @app.middleware
    class Tag:
        def submit(self, draft: Any) -> Any:
            draft.tags.append("c")
            yield

    assert await seen.submit_and_wait() == ["c"]
    assert await seen.options(tags=["a"]).submit_and_wait() == ["a", "c"]


async def test_hooks_and_middleware_are_called_before_submit_returns(app: Bananas) -> None:
    events: list[str] = []

    @app.middleware
    class Wrap:
        def submit(self, draft: Any) -> Any:
            draft.headers["from"] = "middleware"
            yield

        async def run(self, job: CurrentJob, proceed: Any) -> Any:
            events.append(f"run {job.headers['from']}")
            return await proceed()

    @app.on_success
    async def succeeded(job: CurrentJob, value: Any) -> None:
        await asyncio.sleep(0)
        events.append(f"success {value}")

    @app.on_retry
    def retried(job: CurrentJob, error: BaseException, delay: float) -> None:
        events.append("retry")

    @app.on_dead
    def died(job: CurrentJob, error: BaseException) -> None:
        events.append(f"dead {error}")

    @app.task(max_retries=1)
    async def work(fail: bool) -> int:
        if fail:
            raise ValueError("no")
        return 5

    await work.submit(False)
    assert events == ["run middleware", "success 5"]
    events.clear()
    await work.submit(True)
    assert events == ["run middleware", "retry", "run middleware", "dead no"]


async def test_many_jobs_run_in_order_and_a_bad_one_fails_alone(app: Bananas) -> None:
    @app.task
    async def square(number: int) -> int:
        return number * number

    jobs = await app.submit_many(square.bind(number) for number in range(4))
    assert [await job.result() for job in jobs] == [0, 1, 4, 9]
    assert [await job.result() async for job in app.as_completed(jobs, timeout=1)] == [0, 1, 4, 9]
    with pytest.raises(SubmitManyError) as caught:
        await app.submit_many([square.bind(2), square.bind("x")])  # type: ignore[arg-type]
    assert await caught.value.outcomes[0].result() == 4
    assert isinstance(caught.value.outcomes[1], InvalidArguments)
    assert [await job.result() for job in await asyncio.gather(*[square.submit(number) for number in range(200)])][-1] == 199**2


async def test_a_handler_may_submit_further_jobs(app: Bananas) -> None:
    @app.task
    async def inner(number: int) -> int:
        return number + 1

    @app.task
    async def outer(number: int) -> int:
        return 10 * await inner.submit_and_wait(number)

    @app.task
    def blocking(number: int) -> int:
        return 100 * inner.submit_sync(number).result_sync()

    assert await outer.submit_and_wait(1) == 20
    assert await blocking.submit_and_wait(1) == 200


def test_the_sync_client_works_too(app: Bananas) -> None:
    @app.task
    async def double(number: int) -> int:
        return 2 * number

    @app.task
    def triple(number: int) -> int:
        return 3 * number

    assert double.submit_sync(2).result_sync() == 4
    assert triple.submit_sync(2).result_sync() == 6
    jobs = app.submit_many_sync([double.bind(1), triple.bind(1)])
    assert [job.result_sync() for job in jobs] == [2, 3]


async def test_isolated_tasks_run_in_this_process(app: Bananas) -> None:
    import os

    @app.task(isolation="process")
    def pid() -> int:
        return os.getpid()

    assert await pid.submit_and_wait() == os.getpid()


async def test_results_that_are_off_stay_off(app: Bananas) -> None:
    @app.task(result_ttl=0)
    async def quiet() -> int:
        return 1

    with pytest.raises((ResultsDisabled, JobNotFound)):
        await quiet.submit_and_wait()


async def test_what_needs_a_server_says_so(app: Bananas) -> None:
    @app.task
    async def work() -> None: ...

    job = await work.submit()
    with pytest.raises(ConfigError, match="worker_for"):
        await job.info()
    with pytest.raises(ConfigError, match="worker_for"):
        await app.queue("default").counts()


async def test_a_cancelled_submit_stops_its_run() -> None:
    app, stopped = Bananas(NOWHERE), asyncio.Event()
    started = asyncio.Event()

    @app.task
    async def stuck() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    with inline(app):
        submit = asyncio.ensure_future(stuck.submit())
        await started.wait()
        submit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submit
        await asyncio.wait_for(stopped.wait(), 5)


def test_everything_is_as_before_after_the_block() -> None:
    app = Bananas(NOWHERE)
    client, settings = app.client, app.settings
    with pytest.raises(RuntimeError), inline(app):
        raise RuntimeError
    assert app.client is client
    assert app.producer.client is client
    assert app.settings is settings
    assert app.producer.run_here is None
