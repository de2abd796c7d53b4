"""bananas.testing: jobs run to the end in this process, and without a server."""

import pytest

from bananas import Bananas, Discard, InvalidArguments, Retry, TaskError, current_job
from bananas.testing import inline, run_until_idle


def declare(app: Bananas) -> None:
    @app.task
    async def greet(name: str) -> str:
        return f"hello {name}"

    @app.task
    def double(number: int) -> int:
        return 2 * number

    @app.task(max_retries=3, retry=Retry(base=30, factor=1, cap=30))
    async def flaky(failures: int) -> int:
        attempt = current_job().attempt
        if attempt <= failures:
            raise ValueError("not yet")
        return attempt

    @app.task
    async def unwanted() -> None:
        raise Discard("no")


async def test_run_until_idle_runs_what_is_ready_and_on_request_what_waits(app: Bananas) -> None:
    declare(app)
    jobs = [await app.submit("greet", "a"), await app.submit("double", 3)]
    assert await run_until_idle(app) == 2
    assert [await job.result(timeout=1) for job in jobs] == ["hello a", 6]
    flaky, delayed = await app.submit("flaky", 2), await app.submit("double", 4, options={"delay": 3_600})
    assert await run_until_idle(app) == 1
    assert (await delayed.info()).state == "scheduled"
    await run_until_idle(app, include_scheduled=True)
    assert [await flaky.result(timeout=1), await delayed.result(timeout=1)] == [3, 8]


async def test_inline_runs_handlers_without_a_server() -> None:
    app = Bananas("redis://127.0.0.1:1/0")
    declare(app)
    with inline(app):
        assert await (await app.submit("greet", "a")).result() == "hello a"
        assert await (await app.submit("flaky", 3)).result() == 4
        with pytest.raises(TaskError, match="not yet"):
            await (await app.submit("flaky", 9)).result()
        with pytest.raises(TaskError, match="discarded"):
            await (await app.submit("unwanted")).result()
        with pytest.raises(InvalidArguments):
            await app.submit("double", "x")
        tasks = app.registry.tasks
        jobs = await app.submit_many([tasks["double"].bind(number) for number in range(3)])
        assert [await job.result() for job in jobs] == [0, 2, 4]


def test_inline_serves_the_sync_client_and_ends_with_its_block() -> None:
    app = Bananas("redis://127.0.0.1:1/0")
    declare(app)
    submit = app.producer.submit_sync
    with inline(app):
        assert app.submit_sync("double", 4).result_sync() == 8
    assert app.producer.submit_sync == submit
