"""Table 5: many clients at once, in one process and in several."""

import contextlib
import time
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from bananas.bench.load import Load, Loaded
from bananas.bench.percentiles import MS, percentile_figures
from bananas.bench.serving import Serving
from bananas.bench.session import Bench
from bananas.bench.sizes import Sizes
from bananas.bench.table import Aim, Row, Table, figure, judged

KEY = "clients"
COLUMNS = ("jobs/s", "p50", "p95", "p99", "client CPU", "server CPU")
PROCESSES = 4
START_NS = 2_000_000_000  # processes need so long until all of them are ready


class Clients(Struct, frozen=True):
    """One variant."""

    clients: int
    sync: bool = False
    processes: int = 1


class Submitted(Struct, frozen=True):
    """One repetition."""

    rate: float
    samples: list[int]
    client_us: float
    server_us: float


def submit_at_once(bench: Bench, serving: Serving, what: Clients, sizes: Sizes) -> Submitted:
    """Let the clients submit as fast as they can, each awaiting its own."""
    serving.empty()
    each = Load(kind="concurrent", count=10**9, sync=what.sync, clients=what.clients // what.processes, cap_s=sizes.cap_s)
    if what.processes > 1:
        each = replace(each, start_at_ns=time.monotonic_ns() + START_NS)
    before = serving.usage()
    loaded: list[Loaded] = []
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(bench.loading(serving.url, each)) for _ in range(what.processes)]
        loaded += [loading.outcome() for loading in running]
    used = serving.usage().since(before)
    count = sum(one.count for one in loaded)
    wall_s = (max(one.ended_ns for one in loaded) - min(one.began_ns for one in loaded)) / 1e9
    samples = [sample for one in loaded for sample in one.latencies()]
    return Submitted(count / wall_s, samples, 1e6 * sum(one.cpu_s for one in loaded) / count, 1e6 * used.cpu_s / count)


def _row(name: str, runs: list[Submitted]) -> Row:
    cells = (
        figure((run.rate for run in runs), "/s"),
        *percentile_figures([run.samples for run in runs], (50, 95, 99), "ms", MS),
        figure((run.client_us for run in runs), "us"),
        figure((run.server_us for run in runs), "us"),
    )
    return Row(name, dict(zip(COLUMNS, cells, strict=True)), ("submit, 100 at once", "100 B"))


def measure(bench: Bench, sizes: Sizes) -> Table:
    """10 to 1,000 coroutines, up to 100 threads, and 100 coroutines in 4 processes."""
    variants = {f"{count:,} clients, async": Clients(count) for count in sizes.clients}
    variants |= {f"{count:,} threads, sync": Clients(count, sync=True) for count in sizes.clients if count <= 100}
    variants[f"100 clients, async, {PROCESSES} processes"] = Clients(100, processes=PROCESSES)
    with bench.server() as serving:
        runs = {name: partial(submit_at_once, bench, serving, what, sizes) for name, what in variants.items()}
        outcomes = bench.interleaved(KEY, runs)
    rows = tuple(_row(name, found) for name, found in outcomes.items())
    return Table(
        KEY,
        "Concurrent clients",
        "How fast do many clients submit at once?",
        COLUMNS,
        rows,
        (
            (
                f"Each client submits 100 B and awaits it before its next, for {sizes.cap_s:g} s; {bench.transports[0]}. Clients of one "
                "process share the app: coroutines one connection, over which the app batches what they submit at the same time; threads "
                "the app's pool of connections."
            ),
        ),
        judged(rows, AIMS),
        plot="jobs/s",
    )


AIMS = (Aim("100 clients in one process: at least 66,000/s, twice the original", "100 clients, async", "jobs/s", least=66_000),)
