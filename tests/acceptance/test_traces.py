"""The spans of one job are one trace, over the processes that submit and run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.support import eventually

from bananas.contrib.opentelemetry import Tracing

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site

TARGET = "tests.apps.traced:app"


class Span(dict[str, Any]):
    """A span as it was exported, and by which process."""

    def __init__(self, line: str) -> None:
        pid, _, text = line.partition(" ")
        super().__init__(json.loads(text))
        self.pid = int(pid)

    @property
    def trace(self) -> int:
        return int(self["context"]["trace_id"], 16)

    @property
    def id(self) -> str:
        return str(self["context"]["span_id"])


def spans(site: Site, name: str) -> list[Span]:
    path = Path(f"{site.ledger.path}.spans")
    found = [Span(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [span for span in found if span["name"] == name]


async def test_submit_retry_and_what_the_handler_submits_are_one_trace_over_processes(site: Site) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    site.app.middleware(Tracing(provider, names="task"))
    site.worker(TARGET, worker_concurrency=2)
    job = await site.app.submit("flaky")
    worker = await job.result(timeout=20)
    (submit,) = exporter.get_finished_spans()
    await eventually(lambda: len(spans(site, "run flaky")) == 2, "the spans of both runs")
    first, second = spans(site, "run flaky")
    (inner,), (inner_run,) = spans(site, "submit follows"), spans(site, "run follows")
    assert {span.trace for span in (first, second, inner, inner_run)} == {submit.context.trace_id}
    assert [int(span["parent_id"], 16) for span in (first, second)] == [submit.context.span_id] * 2
    assert (first["status"]["status_code"], second["status"]["status_code"]) == ("ERROR", "UNSET")
    assert (inner["parent_id"], inner_run["parent_id"]) == (second.id, inner.id)
    assert {span.pid for span in (first, second, inner, inner_run)} == {worker}


async def test_a_task_with_a_process_of_its_own_is_in_the_trace(site: Site) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    site.app.middleware(Tracing(provider, names="task"))
    site.worker(TARGET)
    own = await (await site.app.submit("isolated")).result(timeout=30)
    (submit,) = exporter.get_finished_spans()
    await eventually(lambda: spans(site, "run isolated"), "its span")
    (run,), (within,) = spans(site, "run isolated"), spans(site, "within")
    assert (run.pid, within.pid, run.trace, int(run["parent_id"], 16)) == (own, own, submit.context.trace_id, submit.context.span_id)
    assert within["parent_id"] == run.id


async def test_a_tick_and_its_run_are_one_trace(site: Site) -> None:
    for worker in [site.start(TARGET) for _ in range(2)]:
        worker.ready()
    await eventually(lambda: len(spans(site, "run sweep")) >= 3, "three ticks", 30)
    submits = {span.id: span for span in spans(site, "submit sweep")}
    for run in spans(site, "run sweep"):
        assert submits[run["parent_id"]].trace == run.trace
        assert submits[run["parent_id"]]["attributes"]["messaging.message.id"] == run["attributes"]["messaging.message.id"]
