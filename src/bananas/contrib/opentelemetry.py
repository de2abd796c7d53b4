"""OpenTelemetry: one trace per job, from its submit through every run (extra `opentelemetry`).

    app.middleware(Tracing())

A submit is a span of kind PRODUCER, `submit <queue>`; its context travels in the job's headers, by the propagator that is configured (W3C
traceparent unless somebody chose another). Each run is a span of kind CONSUMER, `run <queue>`: the submit is its parent, and is linked too,
so a job and its retries are one trace, also across cron ticks, other queues and days. What the handler does, and submits, is below its run.
The names of attributes are those of the semantic conventions for messaging; ours begin with `messaging.bananas.`.

Only opentelemetry-api is needed. Without an SDK that is configured nothing is recorded, and jobs carry no header.
Source: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
"""

import asyncio
from collections.abc import Generator, Mapping
from contextlib import suppress
from typing import Any, Literal

from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.util.types import AttributeValue

from bananas.context import CurrentJob
from bananas.errors import ConfigError, Discard, Snooze, describe
from bananas.middleware import Draft, Proceed

_ASKED: dict[type[BaseException], str] = {Snooze: "snoozed", Discard: "discarded"}


class Tracing:
    """Middleware that records a span per submit and per run. Add it first, so that what other middleware does is inside.

    Args:
        tracer_provider: by default the global one, also where that is set later.
        names: what names a span besides "submit" and "run": the job's queue, as the conventions have it, or its task.
        submits: False: no span per submit; the context of the caller's own span travels instead. For submits of very many jobs.
        linked: True: each run is a trace of its own that links to the submit, instead of a child of it.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        *,
        names: Literal["queue", "task"] = "queue",
        submits: bool = True,
        linked: bool = False,
    ) -> None:
        if names not in ("queue", "task"):
            raise ConfigError(f"names={describe(names)}: must be 'queue' or 'task'")
        self._tracer = trace.get_tracer("bananas", tracer_provider=tracer_provider)
        self._by_task, self._submits, self._linked = names == "task", submits, linked

    def submit(self, draft: Draft) -> Generator[None, None, None]:
        """A span around the submit; a context that the headers have already stays, and is linked."""
        given = _created(propagate.extract(draft.headers, Context()))
        if not self._submits:
            if given is None:
                propagate.inject(draft.headers)
            yield
            return
        attributes = _attributes("submit", "send", draft.queue, draft.task, draft.priority)
        links = [] if given is None else [Link(given)]
        name = f"submit {draft.task if self._by_task else draft.queue}"
        # not made the current one: those of submit_many are open at the same time, side by side
        span = self._tracer.start_span(name, kind=SpanKind.PRODUCER, attributes=attributes, links=links)
        if given is None:
            propagate.inject(draft.headers, trace.set_span_in_context(span))
        try:
            yield
        except GeneratorExit:  # nothing was submitted, another process was first: a span that does not end is not exported
            raise
        except BaseException as error:
            if not draft.id:  # else others of its submit_many have failed
                _failed(span, error, type(error).__qualname__)
            _submitted(span, draft)
            raise
        _submitted(span, draft)

    async def run(self, job: CurrentJob, proceed: Proceed) -> Any:
        """A span around the run."""
        context = propagate.extract(job.headers, Context())
        created = _created(context)
        if self._linked:
            context = trace.set_span_in_context(trace.INVALID_SPAN, context)  # what else was propagated stays
        attributes = _attributes("run", "process", job.queue, job.task, job.priority)
        attributes |= {"messaging.message.id": job.id, "messaging.bananas.attempt": job.attempt}
        if job.tags:
            attributes["messaging.bananas.tags"] = job.tags
        links = [] if created is None else [Link(created)]
        name = f"run {job.task if self._by_task else job.queue}"
        span = self._tracer.start_span(name, context, SpanKind.CONSUMER, attributes, links)
        token = attach(trace.set_span_in_context(span, context))
        try:
            return await proceed()
        except BaseException as error:
            if (asked := _ASKED.get(type(error))) is not None:
                span.set_attribute("messaging.bananas.outcome", asked)
            else:
                _failed(span, error, _kind(job, error))
            raise
        finally:
            detach(token)
            span.end()


def _created(context: Context) -> SpanContext | None:
    """The context in which a job was created, where its headers tell."""
    found = trace.get_current_span(context).get_span_context()
    return found if found.is_valid else None


def _attributes(operation: str, kind: str, queue: str, task: str, priority: int) -> dict[str, AttributeValue]:
    return {
        "messaging.system": "bananas",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": queue,
        "messaging.bananas.task": task,
        "messaging.bananas.priority": priority,
    }


def _submitted(span: Span, draft: Draft) -> None:
    told: Mapping[str, AttributeValue] = {"messaging.message.id": draft.id, "messaging.bananas.created": draft.created} if draft.id else {}
    span.set_attributes(told)
    span.end()


def _kind(job: CurrentJob, error: BaseException) -> str:
    """The class of an error; a run that is stopped from outside is told from one that took too long."""
    if isinstance(error, asyncio.CancelledError):
        return "timeout" if job.time_left is not None and job.time_left <= 0 else "cancelled"
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _failed(span: Span, error: BaseException, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))
    with suppress(Exception, SystemExit):  # of an exception whose text cannot be made
        span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"[:500]))
        span.record_exception(error)
