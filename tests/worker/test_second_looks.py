"""Jobs at the edges of a worker's life: an unsuitable server, a suspect beside a long job, late cancels, expiry, odd middleware."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import eventually

from bananas import Bananas, ConfigError, Retry, Snooze, SubmitManyError, TaskError, broker
from bananas.codec import pack_envelope, pack_tries
from bananas.config import load_settings
from bananas.job import Envelope, Tries
from bananas.keys import id_suffix, new_id
from bananas.task import Call
from bananas.testing import worker_for
from bananas.worker import fetcher
from bananas.worker.maintenance import Upkeep
from bananas.worker.served import Served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bananas import Job
    from bananas.connection import Connection
    from bananas.middleware import Draft


BODY = bytes(8) + pack_envelope(Envelope("task", ()), 1_000)


async def make_suspect(app: Bananas, job: Job[Any]) -> None:
    keys, job_id = job.place
    await app.client.ask(keys, broker.plain(int, "HSET", keys.tries, job_id, pack_tries(Tries(crashes=1))), "making a suspect")


async def test_a_worker_outlives_a_server_that_is_unsuitable_for_a_while(app: Bananas, connection: Connection) -> None:
    @app.task
    async def double(number: int) -> int:
        return 2 * number

    async with worker_for(app):
        assert await (await double.submit(1)).result(5) == 2
        kill = ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await connection.execute([("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"), kill], 5)
        (refused,) = await asyncio.gather(double.submit(2), return_exceptions=True)
        assert "maxmemory-policy" in str(refused)
        await connection.execute([("CONFIG", "SET", "maxmemory-policy", "noeviction")], 5)
        assert await (await double.submit(3)).result(10) == 6


async def test_a_suspect_beside_a_long_job_is_put_back_for_longer_each_time_and_leaves_the_other_slots(
    app: Bananas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "SUSPECT_WAIT_S", 0.05)
    finish, delays = asyncio.Event(), list[float]()

    @app.task(timeout=60)
    async def long() -> None:
        await finish.wait()

    @app.task
    async def short(number: int) -> int:
        return number

    async with worker_for(app, worker_concurrency=3) as worker:
        postpone = worker._engine.runner.outcomes.postpone

        def note(claimed: Any, delay_s: float) -> None:
            delays.append(delay_s)
            postpone(claimed, delay_s)

        monkeypatch.setattr(worker._engine.runner.outcomes, "postpone", note)
        running = await long.submit()
        await eventually(lambda: worker._engine.runner.running)
        await app.queue("default").pause()
        suspect = await short.submit(1)
        await make_suspect(app, suspect)
        await app.queue("default").resume()
        await eventually(lambda: len(delays) >= 3, "three times put back")
        assert delays[:3] == [0.05, 0.1, 0.2]
        assert await (await short.submit(2)).result(5) == 2, "the other slots go on meanwhile"
        finish.set()
        await running.result(5)
        assert await suspect.result(15) == 1
        assert (await suspect.info()).attempts <= 1


async def test_a_job_that_is_cancelled_while_it_fails_or_snoozes_ends_at_once(app: Bananas) -> None:
    begun: list[str] = []

    @app.task(retry=Retry(base=600, factor=1, cap=600, jitter=False))
    async def fails(how: str) -> None:
        begun.append(how)
        assert await job_of[how].cancel()
        if how == "snooze":
            raise Snooze(600)
        raise ValueError(how)

    job_of: dict[str, Job[None]] = {}
    await app.queue("default").pause()
    for how in ("fail", "snooze"):
        job_of[how] = await fails.submit(how)
    await app.queue("default").resume()
    async with worker_for(app):
        for job in job_of.values():
            with pytest.raises(TaskError, match="cancelled"):
                await job.result(10)
    assert sorted(begun) == ["fail", "snooze"]


async def test_only_a_job_that_was_never_started_expires(app: Bananas) -> None:
    @app.task(expires_in=0.3, retry=Retry(base=0.4, factor=1, cap=0.4, jitter=False))
    async def fails_once() -> str:
        from bananas import current_job

        if current_job().attempt == 1:
            raise ValueError
        return "second run"

    async with worker_for(app):
        assert await (await fails_once.submit()).result(10) == "second run"


async def test_a_job_that_would_expire_before_it_is_ready_is_refused(app: Bananas) -> None:
    @app.task(expires_in=5)
    async def soon() -> None: ...

    for options in ({"delay": 5}, {"delay": 60}, {"at": datetime.now(UTC) + timedelta(seconds=20)}):
        with pytest.raises(ConfigError, match="expires_in"):
            await soon.options(**options).submit()  # type: ignore[typeddict-item]  # pyright: ignore[reportArgumentType]
    assert (await soon.options(delay=4).submit()).created


async def test_a_time_is_kept_until_the_submit(app: Bananas) -> None:
    @app.task
    async def work() -> None: ...

    at = datetime.now(UTC) + timedelta(seconds=30)
    call = work.options(at=at).bind()
    await asyncio.to_thread(lambda: None)
    first = await app.submit_many([call])
    assert call.options.at_ms == round(at.timestamp() * 1000)
    due_ms = (await first[0].info()).due_ms
    assert due_ms is not None
    assert abs(due_ms - at.timestamp() * 1000) < 500


# --- what middleware makes of a job -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("priority", 5_000, "priority"),
        ("priority", None, "priority"),
        ("queue", "no such:name", "queue name"),
        ("headers", {"tenant": None}, "headers"),
    ],
)
async def test_what_middleware_makes_of_a_job_is_checked(app: Bananas, field: str, value: object, message: str) -> None:
    @app.middleware
    class Wrong:
        def submit(self, draft: Draft) -> Iterator[None]:
            setattr(draft, field, value)
            yield

    with pytest.raises(ConfigError, match=message):
        await app.submit("task", 1)
    with pytest.raises(SubmitManyError, match=message):
        await app.submit_many([Call("task", (1,), {})])
    assert (await app.queue("default").counts()).ready == 0


async def test_middleware_may_name_a_priority(app: Bananas) -> None:
    @app.middleware
    class Urgent:
        def submit(self, draft: Draft) -> Iterator[None]:
            draft.priority = "high"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
            yield

    assert (await (await app.submit("task", 1)).info()).priority == 100


def closing(app: Bananas) -> list[int]:
    """Middleware that fails at odd numbers; the numbers whose submit it saw the end of."""
    closed: list[int] = []

    @app.middleware
    class Odd:
        def submit(self, draft: Draft) -> Iterator[None]:
            if draft.args[0] % 2:
                raise ValueError(f"{draft.args[0]} is odd")
            try:
                yield
            finally:
                closed.append(draft.args[0])

    return closed


async def test_an_item_that_middleware_fails_at_fails_alone(app: Bananas) -> None:
    closed = closing(app)
    with pytest.raises(SubmitManyError, match="2 of 4") as caught:
        await app.submit_many(Call[Any]("task", (number,), {}) for number in range(4))
    assert [type(outcome).__name__ for outcome in caught.value.outcomes] == ["Job", "ValueError", "Job", "ValueError"]
    assert sorted(closed) == [0, 2]
    assert (await app.queue("default").counts()).ready == 2


@pytest.mark.parametrize("sync", [False, True])
async def test_calls_that_end_in_an_error_close_the_middleware(app: Bananas, sync: bool) -> None:
    closed = closing(app)

    def calls() -> Iterator[Call[Any]]:
        yield Call("task", (2,), {})
        raise LookupError("no more")

    submitting = asyncio.to_thread(app.submit_many_sync, calls()) if sync else app.submit_many(calls())
    with pytest.raises(LookupError):
        await submitting
    assert closed == [2]


# --- what is kept ---------------------------------------------------------------------------------------------------


async def test_every_dead_job_beyond_the_count_is_trimmed(app: Bananas) -> None:
    keys, connection = app.producer.keys("default"), app.client.here()
    dead = [new_id(id_suffix("task", 500)) for _ in range(2_300)]
    requests = [broker.plain(int, "ZADD", keys.dead, *(part for job_id in dead for part in (time.time() * 1000, job_id)))]
    requests.append(broker.plain(int, "HSET", keys.jobs, *(part for job_id in dead for part in (job_id, BODY))))
    await connection.lanes.of(keys).ask(keys, requests, 5, "making dead jobs")
    settings = load_settings({"dead_max_count": 100})
    await Upkeep(connection, [Served(0, keys, "boot", 0)], settings, promotes=False).tick()
    assert await app.queue("default").dead.count() == 100
    (left,) = await connection.lanes.of(keys).ask(keys, [broker.plain(int, "HLEN", keys.jobs)], 5, "counting")
    assert left == 100


async def test_no_result_of_an_unknown_task_is_kept_where_results_are_off(app: Bananas) -> None:
    job = await app.submit("nobody_knows", 1)
    async with worker_for(app, result_backend_enabled=False, unknown_task_ttl=0.0) as worker:
        await eventually(lambda: died(job), "its death", 10)
        await worker.run_until_idle(5)
    keys, job_id = job.place
    assert await app.client.ask(keys, broker.plain(int, "EXISTS", keys.result(job_id)), "looking") == 0


async def died(job: Job[Any]) -> bool:
    return (await job.info()).state == "dead"


async def test_a_call_timeout_of_an_item_is_refused(app: Bananas) -> None:
    @app.task
    async def work(number: int) -> None: ...

    with pytest.raises(SubmitManyError, match="call_timeout"):
        await app.submit_many([work.options(call_timeout=3).bind(1)])
