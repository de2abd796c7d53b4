"""Draining a full queue, the measurement that several tables share.

The workers are ready and the queue is paused while it is filled; the clock starts with the first handler after `resume`, so that neither
their start nor the fill is in it. Filled anew for each repetition.
"""

import asyncio
import time

from msgspec import Struct

from bananas.app import Bananas
from bananas.bench.load import Content, Load, Loaded
from bananas.bench.serving import Serving, Usage
from bananas.bench.session import Bench, Workers, queue_is_quiet
from bananas.bench.tasks import NAMESPACE
from bananas.keys import QueueKeys

SETTLE_TIMEOUT_S = 30.0


class Drain(Struct, frozen=True):
    """What is drained by what."""

    jobs: int
    size_bytes: int = 100
    slots: int = 100
    processes: int = 1
    task: str = "noop"
    arguments: tuple[int | float, ...] = ()
    content: Content = "text"

    def load(self) -> Load:
        """What fills the queue."""
        size_bytes, content = self.size_bytes, self.content
        return Load(kind="bulk", count=self.jobs, size_bytes=size_bytes, content=content, task=self.task, arguments=self.arguments)


class Drained(Struct, frozen=True):
    """What became of it.

    Attributes:
        handlers_s: from the first start of a handler to the last end of one.
        settled_s: from there until the server had accepted every outcome.
        used: what the server did from `resume` on.
        body_bytes: what is stored of one job.
    """

    jobs: int
    handlers_s: float
    settled_s: float
    worker_cpu_s: float
    used: Usage
    filled: Loaded
    body_bytes: int

    @property
    def rate(self) -> float:
        """Jobs per second, by the handlers."""
        return self.jobs / self.handlers_s

    @property
    def settled_rate(self) -> float:
        """Jobs per second until all were settled."""
        return self.jobs / self.settled_s


def drain(bench: Bench, serving: Serving, what: Drain) -> Drained:
    """Fill the queue, and let fresh workers empty it."""
    serving.empty()
    pause(serving.url, True)
    with bench.workers(serving.url, slots=what.slots, processes=what.processes) as workers:
        return drain_with(bench, serving, workers, what)


def drain_with(bench: Bench, serving: Serving, workers: Workers, what: Drain) -> Drained:
    """The same with workers that run already, whose queue is paused and empty."""
    filled = bench.load(serving.url, what.load())
    body_bytes = _body_bytes(serving)
    workers.reader.reset()
    before, cpu_s = serving.usage(), workers.cpu_s()
    pause(serving.url, False)
    workers.wait_for_count(what.jobs)
    settled_ns = wait_until_quiet(serving)
    used = serving.usage().since(before)
    reader = workers.reader
    first_ns = reader.first_start_ns()
    return Drained(
        what.jobs,
        max(1, reader.last_end_ns() - first_ns) / 1e9,
        (settled_ns - first_ns) / 1e9,
        workers.cpu_s() - cpu_s,
        used,
        filled,
        body_bytes,
    )


def _body_bytes(serving: Serving) -> int:
    jobs = QueueKeys(NAMESPACE, "default").jobs
    return int(serving.ask("HSTRLEN", jobs, serving.ask("HRANDFIELD", jobs)))


def wait_until_quiet(serving: Serving) -> int:
    """When nothing was left ready or leased, on the clock of counter.py: everything is settled."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while not queue_is_quiet(serving):
        if time.monotonic() > deadline:
            raise TimeoutError(f"jobs were still leased {SETTLE_TIMEOUT_S:g} s after the last handler ended")
        time.sleep(0.001)
    return time.monotonic_ns()


def pause(url: str, paused: bool) -> None:
    """Pause or resume the benchmark's queue."""
    app = Bananas(url, namespace=NAMESPACE)

    async def call() -> None:
        queue = app.queue("default")
        await (queue.pause() if paused else queue.resume())
        await app.close()

    asyncio.run(call())
