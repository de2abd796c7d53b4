"""`@app.on_event`: what each step in a job's life tells, where, and that others pay nothing for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.support import eventually

from bananas import ConfigError, Discard, Retry, Snooze, SubmitManyError, TaskError, current_job
from bananas.lifecycle import KINDS, Event
from bananas.testing import inline, worker_for
from bananas.worker.maintenance import Clock

if TYPE_CHECKING:
    from bananas import Bananas

QUICK = Retry(base=0.001, factor=1, cap=0.001)


class Seen:
    """The events that were told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, job_id: str) -> list[str]:
        return [event.kind for event in self.events if event.id == job_id]

    def one(self, kind: str) -> Event:
        (event,) = [event for event in self.events if event.kind == kind]
        return event


async def test_every_step_is_told_once_with_what_there_is_to_say(app: Bananas) -> None:
    seen = Seen()
    app.on_event(seen)

    @app.task(queue="email", retry=QUICK, max_retries=1)
    async def flaky(number: int) -> int:
        if current_job().attempt == 1:
            raise ValueError("once")
        return number

    async with worker_for(app) as worker:
        job = await flaky.options(tags=["vip"], headers={"tenant": "acme"}, priority="high").submit(5)
        await worker.run_until_idle(include_scheduled=True)
    assert seen.of(job.id) == ["submitted", "started", "retried", "started", "succeeded"]
    submitted, first, retried, second, succeeded = seen.events
    for event in seen.events:
        assert (event.task, event.queue, event.priority, event.tags, event.headers) == ("flaky", "email", 100, ("vip",), {"tenant": "acme"})
    assert [event.attempt for event in seen.events] == [0, 1, 1, 2, 2]
    assert (submitted.worker, first.worker == second.worker != "") == ("", True)
    assert (retried.error_type, retried.error_message, retried.delay_ms is not None) == ("ValueError", "once", True)
    assert (first.run_ms, (succeeded.run_ms or -1) >= 0, succeeded.error_type) == (None, True, "")
    assert first.at_ms <= retried.at_ms <= second.at_ms <= succeeded.at_ms
    assert msgspec.json.decode(msgspec.json.encode(retried))["kind"] == "retried"


async def test_each_end_without_a_value_is_told(app: Bananas) -> None:
    seen, gate = Seen(), asyncio.Event()
    app.on_event(*[kind for kind in KINDS if kind not in ("submitted", "started")])(seen)

    @app.task(max_retries=0)
    async def ends(how: str) -> None:
        if how == "discard":
            raise Discard("not needed")
        if how == "die":
            raise ValueError("broken")
        if how == "snooze" and current_job().fence < 5:
            raise Snooze(0.001, "not yet")
        if how == "wait":
            await gate.wait()

    expired = await ends.options(expires_in=0.001).submit("late")
    await asyncio.sleep(0.05)  # its 1 ms, by the server's clock
    async with worker_for(app, lease=1) as worker:
        jobs = {how: await ends.submit(how) for how in ("discard", "die", "wait")}
        await eventually(lambda: seen.of(jobs["die"].id), "a death")

        async def running() -> bool:
            return (await jobs["wait"].info()).state == "running"

        await eventually(running, "it runs")
        await jobs["wait"].cancel()
        await worker.run_until_idle()
        snoozed = await ends.submit("snooze")
        await eventually(lambda: "snoozed" in seen.of(snoozed.id), "a snooze")
        await worker.run_until_idle(include_scheduled=True)
    assert seen.of(expired.id) == ["expired"]
    assert seen.of(jobs["discard"].id) == ["discarded"]
    assert seen.of(jobs["die"].id) == ["died"]
    assert seen.of(jobs["wait"].id) == ["cancelled"]
    assert set(seen.of(snoozed.id)[:-1]) == {"snoozed"}
    assert seen.of(snoozed.id)[-1] == "succeeded"
    assert (seen.one("discarded").error_message, seen.one("died").error_type) == ("not needed", "ValueError")
    assert "was not started within" in seen.one("expired").error_message
    assert seen.one("expired").run_ms is None
    assert next(event for event in seen.events if event.kind == "snoozed").delay_ms == 1


async def test_only_the_kinds_that_were_asked_for_are_told_and_hooks_may_be_coroutines(app: Bananas) -> None:
    told: list[str] = []

    @app.on_event("succeeded", "submitted")
    async def listener(event: Event) -> None:
        await asyncio.sleep(0)
        told.append(event.kind)

    @app.on_success
    def hook(job: Any, value: Any) -> None:
        told.append(f"hook {value}")

    @app.task
    async def work() -> int:
        return 1

    async with worker_for(app) as worker:
        await work.submit()
        await worker.run_until_idle()
        await eventually(lambda: len(told) == 3, "three calls")
    assert sorted(told) == ["hook 1", "submitted", "succeeded"]


async def test_an_error_in_a_hook_changes_nothing(app: Bananas) -> None:
    @app.on_event
    def breaks(event: Event) -> None:
        raise ValueError(event.kind)

    @app.task
    async def work() -> int:
        return 1

    async with worker_for(app) as worker:
        job = await work.submit()
        await worker.run_until_idle()
        assert await job.result() == 1


async def test_what_stands_for_an_older_job_is_not_told_as_submitted(app: Bananas) -> None:
    seen = Seen()
    app.on_event("submitted")(seen)

    @app.task
    async def work() -> None: ...

    jobs = [await work.options(unique="one").submit() for _ in range(2)]
    assert seen.of(jobs[0].id) == ["submitted"]


async def test_of_many_those_that_are_stored_are_told(app: Bananas) -> None:
    seen = Seen()
    app.on_event("submitted")(seen)

    @app.task
    async def work(number: int) -> None: ...

    with pytest.raises(SubmitManyError) as caught:
        await app.submit_many([work.bind(1), work.bind("x"), work.bind(3)])  # type: ignore[arg-type]
    stored = [job.id for job in caught.value.outcomes if not isinstance(job, Exception)]
    assert {event.id for event in seen.events} == set(stored)
    assert len(stored) == 2


def test_the_sync_client_tells_too(app: Bananas) -> None:
    told: list[str] = []

    @app.on_event("submitted")
    async def listener(event: Event) -> None:
        told.append(event.id)

    @app.task
    async def work() -> None: ...

    assert told == [work.submit_sync().id]


async def test_the_jobs_of_a_tick_are_told_by_who_fires_it(app: Bananas) -> None:
    seen = Seen()
    app.on_event("submitted")(seen)

    @app.cron(every=0.01)
    async def sweep() -> None: ...

    clocks = [Clock(app.client.here(), list(app.registry.crons.values()), app.producer, app.settings) for _ in range(2)]
    async with asyncio.timeout(10):
        while len(seen.events) < 3:
            await asyncio.sleep(min(await asyncio.gather(*[clock.tick() for clock in clocks])))
    ready = (await app.queue("default").counts()).ready
    assert len(seen.events) == len({event.id for event in seen.events}) == ready
    assert (await app.job(seen.events[0].id).info()).task == "sweep"


async def test_inline_runs_tell_events_too(app: Bananas) -> None:
    seen = Seen()
    app.on_event(seen)

    @app.task(max_retries=0)
    async def work(fail: bool) -> None:
        if fail:
            raise ValueError("no")

    with inline(app):
        await work.submit(False)
        with pytest.raises(TaskError):
            await work.submit_and_wait(True)
    assert sorted(event.kind for event in seen.events) == ["died", "started", "started", "submitted", "submitted", "succeeded"]


def test_kinds_that_there_are_not_are_refused(app: Bananas) -> None:
    with pytest.raises(ConfigError, match="submitted, started, succeeded"):
        app.on_event("finished")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    with pytest.raises(ConfigError, match="give a function"):
        app.on_event()
    with pytest.raises(ConfigError, match="must be a function"):
        app.on_event("died")(3)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


async def test_without_listeners_no_job_is_made_for_a_plain_success(app: Bananas) -> None:
    @app.task(result_ttl=0)
    async def work() -> None: ...

    async with worker_for(app) as worker:
        assert worker._engine.runner.tasks["work"].plain
        assert not app.producer.chain.wraps_submit
        await work.submit()
        await worker.run_until_idle()
