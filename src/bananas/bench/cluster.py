"""Table 11: one queue in shards, on one primary and on a Cluster of three: the rates here, and what the servers could do elsewhere.

On a machine whose cores are all at work, three primaries are no faster than one. What counts is the CPU time of each side per job: that of
the busiest primary says at which rate its core would be full, with clients and workers on machines of their own.
"""

import asyncio
import contextlib
import time
from collections.abc import Generator, Mapping
from functools import partial
from typing import NamedTuple

from bananas.app import Bananas
from bananas.bench.draining import SETTLE_TIMEOUT_S
from bananas.bench.load import Load
from bananas.bench.serving import Serving, binary_of, serving_of
from bananas.bench.session import Bench
from bananas.bench.sizes import Sizes
from bananas.bench.table import Figure, Row, Table, figure
from bananas.bench.tasks import NAMESPACE
from bananas.groups import Cluster

KEY = "cluster"
COLUMNS = (
    "drain/s",
    "submit/s",
    "client CPU, submit",
    "server CPU, submit",
    "worker CPU, run",
    "server CPU, run",
    "servers of all CPU",
    "busiest primary of servers",
    "one primary's core",
    "all primaries' cores",
)
QUEUE, SHARDS, PRIMARIES = "default", 9, 3
PROCESSES, SLOTS, SIZE_BYTES = 2, 100, 100
LOOK_AGAIN_S = 0.01


class Group(NamedTuple):
    """Servers that hold one queue, each of them to be asked by itself."""

    url: str
    servers: tuple[Serving, ...]
    shards: int

    @property
    def settings(self) -> dict[str, str]:
        """What clients and workers must know of it."""
        return {"BANANAS_QUEUE_SHARDS": f"{QUEUE}:{self.shards}"} if self.shards > 1 else {}

    def cpu_s(self) -> list[float]:
        """CPU time of each server so far."""
        return [server.usage().cpu_s for server in self.servers]

    def empty(self) -> None:
        """Delete every key of all servers."""
        for server in self.servers:
            server.empty()


class Spread(NamedTuple):
    """One repetition: rates per second; CPU times in s, of the servers one by one."""

    jobs: int
    drained: float
    submitted: float
    client_s: float
    worker_s: float
    submit_s: list[float]
    run_s: list[float]

    def per_job_us(self, seconds: float) -> float:
        """CPU time per job."""
        return 1e6 * seconds / self.jobs

    @property
    def servers_s(self) -> list[float]:
        """CPU time of each server for both, submit and run."""
        return [first + second for first, second in zip(self.submit_s, self.run_s, strict=True)]


@contextlib.contextmanager
def _app(group: Group) -> Generator[tuple[Bananas, asyncio.Runner]]:
    """An app that knows the shards, with a loop to call it on."""
    shards = (f"{QUEUE}:{group.shards}",) if group.shards > 1 else ()
    app = Bananas(group.url, namespace=NAMESPACE, queue_shards=shards)
    with asyncio.Runner() as runner:
        try:
            yield app, runner
        finally:
            runner.run(app.close())


async def _settled(app: Bananas) -> None:
    """Return when nothing of the queue is ready or leased."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while (counts := await app.queue(QUEUE).counts()).ready or counts.running:
        if time.monotonic() > deadline:
            raise TimeoutError(f"jobs were still leased {SETTLE_TIMEOUT_S:g} s after the last handler ended")
        await asyncio.sleep(LOOK_AGAIN_S)


def spread(bench: Bench, group: Group, jobs: int) -> Spread:
    """Fill the paused queue in bulk, and let two worker processes empty it."""
    group.empty()
    with _app(group) as (app, runner):
        runner.run(app.queue(QUEUE).pause())
        with bench.workers(group.url, slots=SLOTS, processes=PROCESSES, settings=group.settings) as workers:
            before = group.cpu_s()
            loaded = bench.load(group.url, Load(kind="bulk", count=jobs, size_bytes=SIZE_BYTES), group.settings)
            filled, worker_s = group.cpu_s(), workers.cpu_s()
            runner.run(app.queue(QUEUE).resume())
            workers.wait_for_count(jobs)
            runner.run(_settled(app))
            drained, worker_s = group.cpu_s(), workers.cpu_s() - worker_s
            reader = workers.reader
            handlers_s = max(1, reader.last_end_ns() - reader.first_start_ns()) / 1e9
    return Spread(jobs, jobs / handlers_s, loaded.rate, loaded.cpu_s, worker_s, _difference(filled, before), _difference(drained, filled))


def _difference(after: list[float], before: list[float]) -> list[float]:
    return [late - early for late, early in zip(after, before, strict=True)]


def row(name: str, runs: list[Spread]) -> Row:
    """The figures of one group."""
    servers = [sum(run.servers_s) for run in runs]
    busiest = [max(run.servers_s) for run in runs]
    everything = [total + run.client_s + run.worker_s for total, run in zip(servers, runs, strict=True)]
    cells: tuple[Figure, ...] = (
        figure((run.drained for run in runs), "/s"),
        figure((run.submitted for run in runs), "/s"),
        figure((run.per_job_us(run.client_s) for run in runs), "us"),
        figure((run.per_job_us(sum(run.submit_s)) for run in runs), "us"),
        figure((run.per_job_us(run.worker_s) for run in runs), "us"),
        figure((run.per_job_us(sum(run.run_s)) for run in runs), "us"),
        figure((100 * part / whole for part, whole in zip(servers, everything, strict=True)), "%"),
        figure((100 * part / whole for part, whole in zip(busiest, servers, strict=True)), "%"),
        figure((run.jobs / total for total, run in zip(servers, runs, strict=True)), "/s"),
        figure((run.jobs / most for most, run in zip(busiest, runs, strict=True)), "/s"),
    )
    return Row(name, dict(zip(COLUMNS, cells, strict=True)))


@contextlib.contextmanager
def _groups(bench: Bench) -> Generator[Mapping[str, Group]]:
    """A server with a queue in one part, a Cluster of one primary and one of three with a queue in shards; all of them run meanwhile."""
    binary = binary_of(bench.kind)
    with contextlib.ExitStack() as stack:
        alone = stack.enter_context(bench.server(kind=binary.kind))
        found = {"1 server, no shards": Group(alone.url, (alone,), 1)}
        for primaries in (1, PRIMARIES):
            cluster = stack.enter_context(Cluster(primaries, binary=binary))
            servers = [serving_of(server, binary) for server in cluster.servers]
            for server in servers:
                stack.callback(server.close)
            name = f"Cluster of {primaries} {'primary' if primaries == 1 else 'primaries'}, {SHARDS} shards"
            found[name] = Group(cluster.url, tuple(servers), SHARDS)
        yield found


def measure(bench: Bench, sizes: Sizes) -> Table:
    """Submit in bulk and drain the same jobs on one server, on a Cluster of one primary, and on one of three."""
    with _groups(bench) as groups:
        variants = {name: partial(spread, bench, group, sizes.drain_jobs) for name, group in groups.items()}
        outcomes = bench.interleaved(KEY, variants)
    return Table(
        KEY,
        "Cluster",
        "What do three primaries do with one queue in shards, next to one?",
        COLUMNS,
        tuple(row(name, runs) for name, runs in outcomes.items()),
        (
            (
                f"{sizes.drain_jobs:,} jobs of {SIZE_BYTES} B: one client process submits them in bulk to the paused queue, then "
                f"{PROCESSES} worker processes of {SLOTS} slots empty it, serving all shards. The same code in all rows, by TCP, in "
                "memory, all servers on this machine. CPU times per job, those of all primaries together."
            ),
            (
                "All of it shares the cores of this machine: with few of them more primaries are not faster here. What they would do with "
                "a core each is reckoned from the CPU times of submit and run together: one primary's core if it did nothing else, and "
                "all primaries' cores when the busiest of them is full (shards go to primaries by a hash, not evenly). Clients and "
                "workers then need the rest of the CPU elsewhere."
            ),
        ),
        plot="all primaries' cores",
    )
