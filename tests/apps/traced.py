"""An app whose processes record spans, one line of JSON each."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from bananas import Bananas, Retry, current_job
from bananas.contrib.opentelemetry import Tracing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

app = Bananas()
QUICK = Retry(base=0.01, factor=1, cap=0.01)


class ToFile(SpanExporter):
    """Appends to the file that LEDGER names, with `.spans` behind."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with open(os.environ["LEDGER"] + ".spans", "a") as file:
            for span in spans:
                file.write(f"{os.getpid()} {span.to_json(indent=None)}\n")
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ToFile()))
trace.set_tracer_provider(provider)
app.middleware(Tracing(names="task"))


@app.task(retry=QUICK, max_retries=1)
async def flaky() -> int:
    if current_job().attempt == 1:
        raise ValueError("once")
    return await follows.submit_and_wait()


@app.task
def follows() -> int:
    return os.getpid()


@app.task(isolation="process")
def isolated() -> int:
    with trace.get_tracer("app").start_as_current_span("within"):
        return os.getpid()


@app.cron(every=0.2, missed="skip")
async def sweep() -> None: ...
