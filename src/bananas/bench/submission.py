"""Table 1: submitting, one by one and in bulk.

One by one means that a call is awaited before the next: the latency that a web handler adds. In bulk means `submit_many`, which pipelines
batches over several connections.
"""

from functools import partial
from pathlib import Path

from bananas.bench.load import Load, Loaded
from bananas.bench.percentiles import US, mean, percentile_figures
from bananas.bench.serving import Serving
from bananas.bench.session import Bench
from bananas.bench.sizes import Sizes
from bananas.bench.table import Aim, Row, Table, figure, judged

KEY = "submission"
COLUMNS = ("jobs/s", "mean", "p50", "p95", "p99", "client CPU", "server CPU", "client memory", "server memory")
SIZES = {"100 B": 100, "1 KB": 1_000, "10 KB": 10_000, "100 KB": 100_000}
ONE_BY_ONE = ("1 KB", "10 KB", "100 KB")
BULK = ("100 B", "1 KB")
MEMORY_SUBMITS = 100
EMBEDDED = "embedded server"
NAMES = {False: "async", True: "sync"}


class _Submitted:
    """One repetition of a variant: what the client did, and the server meanwhile."""

    def __init__(self, loaded: Loaded, server_cpu_s: float, server_bytes: int, client_bytes: float) -> None:
        self.loaded, self.client_bytes = loaded, client_bytes
        self.server_cpu_us = 1e6 * server_cpu_s / loaded.count
        self.server_bytes = server_bytes / loaded.count


def _submit(bench: Bench, serving: Serving, url: str | Path, load: Load) -> _Submitted:
    memory = Load(kind="memory", count=min(load.count, MEMORY_SUBMITS), sync=load.sync, size_bytes=load.size_bytes)
    client_bytes = 0.0 if load.kind == "bulk" else bench.load(url, memory).memory_bytes
    serving.empty()
    before = serving.usage()
    loaded = bench.load(url, load)
    used = serving.usage().since(before)
    serving.empty()
    return _Submitted(loaded, used.cpu_s, used.memory_bytes, client_bytes)


def _row(label: str, runs: list[_Submitted], limit: tuple[str, str] | None) -> Row:
    samples = [run.loaded.latencies() for run in runs]
    latencies = percentile_figures(samples, (50, 95, 99), "us", US) if all(samples) else ["-", "-", "-"]
    cells = (
        figure((run.loaded.rate for run in runs), "/s"),
        figure((mean(one) / US for one in samples), "us") if all(samples) else "-",
        *latencies,
        figure((run.loaded.cpu_us for run in runs), "us"),
        figure((run.server_cpu_us for run in runs), "us"),
        figure((run.client_bytes for run in runs), "B") if all(samples) else "-",
        figure((run.server_bytes for run in runs), "B"),
    )
    return Row(label, dict(zip(COLUMNS, cells, strict=True)), limit)


def _one_by_one(sizes: Sizes, sync: bool, size: str) -> Load:
    return Load(kind="one_by_one", count=sizes.submits, sync=sync, size_bytes=SIZES[size], cap_s=sizes.cap_s)


def measure(bench: Bench, sizes: Sizes) -> Table:
    """Submit 1, 10 and 100 KB one by one, and 100 B and 1 KB in bulk: async and sync, by TCP and by unix socket, and embedded."""
    loads: dict[str, tuple[str, Load]] = {}
    limits: dict[str, tuple[str, str]] = {}
    for sync in (True, False):
        for transport in bench.transports:
            for size in ONE_BY_ONE:
                label = f"{NAMES[sync]}, {transport}, {size}"
                loads[label] = transport, _one_by_one(sizes, sync, size)
                limits[label] = f"submit one by one, {transport}", size
        for size in BULK:
            label = f"{NAMES[sync]}, {bench.transports[0]}, bulk of {size}"
            loads[label] = bench.transports[0], Load(kind="bulk", count=sizes.bulk_jobs, sync=sync, size_bytes=SIZES[size])
            limits[label] = "submit, 1,000 at once", size
    embedded = {f"async, {EMBEDDED}, {size}": _one_by_one(sizes, False, size) for size in ONE_BY_ONE}
    with bench.server() as serving, bench.server(kind="embedded") as own:
        assert own.directory is not None
        variants = {
            label: partial(_submit, bench, serving, serving.urls[transport], load) for label, (transport, load) in sizes.some(loads).items()
        } | {label: partial(_submit, bench, own, own.directory, load) for label, load in sizes.some(embedded).items()}
        outcomes = bench.interleaved(KEY, variants)
    rows = tuple(_row(label, runs, limits.get(label)) for label, runs in outcomes.items())
    return Table(
        KEY,
        "Submission",
        "How fast does one client submit, and what does each job cost it and the server?",
        COLUMNS,
        rows,
        (
            (
                f"One client process. One by one: {sizes.submits:,} submits or {sizes.cap_s:g} s, each awaited before the next. Bulk: "
                f"{sizes.bulk_jobs:,} jobs through submit_many."
            ),
            (
                "Client memory: what one submit allocates at its peak, of which nothing stays (tracemalloc, in a run of its own). Server "
                "memory: what a queued job takes."
            ),
            (
                f"Embedded: the client is a program with BANANAS_EMBEDDED=1 and nothing else, in a folder of its own; it has joined the "
                f"server there ({own.name.partition(': ')[2]}) by its unix socket, with the append-only file that such a server writes."
            ),
            "No worker runs.",
        ),
        judged(rows, AIMS),
        plot="jobs/s",
    )


GO_P50_US = 91  # the original, in Go, on the machine that the goals were set on
GO_100_KB = 2_217
AIMS = (
    Aim(f"Submit 1 KB, sync on TCP: p50 at most the original's {GO_P50_US} us", "sync, TCP, 1 KB", "p50", most=GO_P50_US),
    Aim(f"Submit 1 KB, async on the embedded server: p50 at most {GO_P50_US} us", f"async, {EMBEDDED}, 1 KB", "p50", most=GO_P50_US),
    Aim("Submit 1 KB, async on TCP: p50 at most 1.3 times that", "async, TCP, 1 KB", "p50", most=1.3 * GO_P50_US),
    Aim("Submit 100 KB, sync on TCP: at least the original's 2,217/s", "sync, TCP, 100 KB", "jobs/s", least=GO_100_KB),
    Aim("Submit 100 KB, async on TCP: at least 2,217/s", "async, TCP, 100 KB", "jobs/s", least=GO_100_KB),
    Aim("Bulk: at least 100,000/s of 100 B", "async, TCP, bulk of 100 B", "jobs/s", least=100_000),
)
