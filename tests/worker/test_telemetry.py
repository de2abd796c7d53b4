"""OpenTelemetry spans of jobs, as an SDK records them, through a worker in this process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode

from bananas import ConfigError, Discard, NotSerializable, Retry, Snooze, SubmitManyError, current_job
from bananas.contrib.opentelemetry import Tracing
from bananas.middleware import Draft
from bananas.testing import worker_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from bananas import Bananas

QUICK = Retry(base=0.001, factor=1, cap=0.001)


class Traces:
    """A provider, and what it recorded."""

    def __init__(self) -> None:
        self._exporter, self.provider = InMemorySpanExporter(), TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """Those that have ended, in the order in which they began."""
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture
def traces() -> Traces:
    return Traces()


def told(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(name)


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


async def test_a_submit_and_its_runs_are_one_trace(app: Bananas, traces: Traces) -> None:
    app.middleware(Tracing(traces.provider))

    @app.task(queue="email", retry=QUICK, max_retries=1)
    async def flaky() -> str:
        if current_job().attempt == 1:
            raise ValueError("once")
        return "done"

    async with worker_for(app) as worker:
        job = await flaky.options(priority="high", tags=["vip"]).submit()
        await worker.run_until_idle(include_scheduled=True)
    submit, first, second = traces.spans
    assert [(span.name, span.kind) for span in traces.spans] == [
        ("submit email", SpanKind.PRODUCER),
        ("run email", SpanKind.CONSUMER),
        ("run email", SpanKind.CONSUMER),
    ]
    assert len({span.context.trace_id for span in traces.spans}) == 1
    assert (parent_of(submit), parent_of(first), parent_of(second)) == (None, submit.context.span_id, submit.context.span_id)
    assert [link.context.span_id for link in first.links] == [submit.context.span_id]
    assert dict(submit.attributes or {}) == {
        "messaging.system": "bananas",
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
        "messaging.destination.name": "email",
        "messaging.message.id": job.id,
        "messaging.bananas.task": "flaky",
        "messaging.bananas.priority": 100,
        "messaging.bananas.created": True,
    }
    assert dict(second.attributes or {}) == {
        "messaging.system": "bananas",
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "messaging.destination.name": "email",
        "messaging.message.id": job.id,
        "messaging.bananas.task": "flaky",
        "messaging.bananas.priority": 100,
        "messaging.bananas.attempt": 2,
        "messaging.bananas.tags": ("vip",),
    }
    assert (first.status.status_code, told(first, "error.type")) == (StatusCode.ERROR, "ValueError")
    ((event,), (name, message)) = first.events, (first.status.description or "").split(": ")
    assert (event.name, (event.attributes or {})["exception.message"], name, message) == ("exception", "once", "ValueError", "once")
    assert (second.status.status_code, told(second, "error.type"), second.events) == (StatusCode.UNSET, None, ())
    assert set((await job.info()).headers or {}) <= {"traceparent"}


async def test_the_context_travels_as_the_headers_that_w3c_names(app: Bananas, traces: Traces) -> None:
    app.middleware(Tracing(traces.provider))
    job = await app.submit("later")
    context = traces.one("submit default").context
    flags = int(context.trace_flags)
    assert (await job.info()).headers == {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"}


async def test_what_surrounds_a_submit_and_what_a_handler_does_are_in_the_trace(app: Bananas, traces: Traces) -> None:
    app.middleware(Tracing(traces.provider))

    @app.task(queue="inner")
    async def inner() -> None: ...

    @app.task(queue="outer")
    async def outer() -> None:
        with traces.tracer.start_as_current_span("query"):
            await inner.submit()

    @app.task(queue="threads")
    def threaded() -> None:
        with traces.tracer.start_as_current_span("in a thread"):
            pass

    async with worker_for(app) as worker:
        with traces.tracer.start_as_current_span("request"):
            await outer.submit()
            await threaded.submit()
        await worker.run_until_idle()
    assert len({span.context.trace_id for span in traces.spans}) == 1
    for child, parent in {
        "submit outer": "request",
        "run outer": "submit outer",
        "query": "run outer",
        "submit inner": "query",
        "run inner": "submit inner",
        "submit threads": "request",
        "in a thread": "run threads",
    }.items():
        assert parent_of(traces.one(child)) == traces.one(parent).context.span_id, child


async def test_of_many_each_has_a_span_beside_the_others(app: Bananas, traces: Traces) -> None:
    app.middleware(Tracing(traces.provider))

    @app.task
    async def work(number: int) -> None: ...

    async with worker_for(app) as worker:
        with traces.tracer.start_as_current_span("request"), pytest.raises(SubmitManyError):
            await app.submit_many([work.bind(1), work.bind("x"), work.bind(3)])  # type: ignore[arg-type]
        await worker.run_until_idle()
    submits, runs = traces.named("submit default"), traces.named("run default")
    assert {parent_of(span) for span in submits} == {traces.one("request").context.span_id}
    failed = [span for span in submits if span.status.status_code is StatusCode.ERROR]
    assert [told(span, "messaging.message.id") for span in failed] == [None]
    assert {parent_of(run) for run in runs} == {span.context.span_id for span in submits if span not in failed}
    assert len(runs) == 2


async def test_a_context_that_is_given_stays_and_is_linked(app: Bananas, traces: Traces) -> None:
    app.middleware(Tracing(traces.provider))
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    job = await app.submit("later", options={"headers": {"traceparent": given}})
    span = traces.one("submit default")
    assert (await job.info()).headers == {"traceparent": given}
    assert [f"{link.context.span_id:x}" for link in span.links] == ["b7ad6b7169203331"]
    assert f"{span.context.trace_id:x}" != "af7651916cd43dd8448eb211c80319c"


async def test_a_submit_that_fails_is_an_error(app: Bananas, traces: Traces) -> None:
    app.middleware(Tracing(traces.provider))
    with pytest.raises(NotSerializable):
        await app.submit("work", object())
    span = traces.one("submit default")
    assert (span.status.status_code, told(span, "error.type"), told(span, "messaging.message.id")) == (
        StatusCode.ERROR,
        "NotSerializable",
        None,
    )


async def test_signals_are_no_errors_and_a_timeout_is_named(app: Bananas, traces: Traces) -> None:
    app.middleware(Tracing(traces.provider, names="task"))

    @app.task
    async def discards() -> None:
        raise Discard("not needed")

    @app.task
    async def snoozes() -> None:
        if current_job().fence < 4:
            raise Snooze(0.001)

    @app.task(timeout=0.05, max_retries=0)
    async def hangs() -> None:
        await asyncio.Event().wait()

    async with worker_for(app) as worker:
        for task in (discards, snoozes, hangs):
            await task.submit()
        await worker.run_until_idle(include_scheduled=True)
    discarded, timed_out, snoozed = traces.one("run discards"), traces.one("run hangs"), traces.named("run snoozes")[0]
    assert (told(discarded, "messaging.bananas.outcome"), discarded.status.status_code) == ("discarded", StatusCode.UNSET)
    assert (told(snoozed, "messaging.bananas.outcome"), snoozed.status.status_code) == ("snoozed", StatusCode.UNSET)
    assert (told(timed_out, "error.type"), timed_out.status.status_code) == ("timeout", StatusCode.ERROR)
    assert traces.one("submit hangs").kind is SpanKind.PRODUCER


async def test_runs_may_be_traces_of_their_own_that_link_to_the_submit(app: Bananas, traces: Traces) -> None:
    app.middleware(Tracing(traces.provider, linked=True))

    @app.task
    async def work() -> None: ...

    async with worker_for(app) as worker:
        await work.submit()
        await worker.run_until_idle()
    submit, run = traces.one("submit default"), traces.one("run default")
    assert (run.parent, run.context.trace_id != submit.context.trace_id) == (None, True)
    assert [(link.context.trace_id, link.context.span_id) for link in run.links] == [(submit.context.trace_id, submit.context.span_id)]


async def test_without_spans_of_submits_the_callers_context_travels(app: Bananas, traces: Traces) -> None:
    app.middleware(Tracing(traces.provider, submits=False))

    @app.task
    async def work() -> None: ...

    async with worker_for(app) as worker:
        with traces.tracer.start_as_current_span("request"):
            await app.submit_many(work.bind() for _ in range(3))
        await worker.run_until_idle()
    assert {parent_of(run) for run in traces.named("run default")} == {traces.one("request").context.span_id}
    assert not traces.named("submit default")


async def test_where_nothing_is_recorded_jobs_carry_nothing(app: Bananas) -> None:
    app.middleware(Tracing(NoOpTracerProvider()))

    @app.task
    async def work() -> int:
        assert not trace.get_current_span().is_recording()
        return 1

    async with worker_for(app) as worker:
        job = await work.submit()
        later = await work.options(delay=600).submit()
        await worker.run_until_idle()
        assert await job.result() == 1
    assert not (await later.info()).headers


def test_a_tick_that_another_process_fired_leaves_no_span(traces: Traces) -> None:
    submit = Tracing(traces.provider).submit(Draft("sweep", (), {}, "default", 500, {}))
    next(submit)
    submit.close()
    assert traces.spans == []


def test_names_that_there_are_not_are_refused() -> None:
    with pytest.raises(ConfigError, match="'queue' or 'task'"):
        Tracing(names="job")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
