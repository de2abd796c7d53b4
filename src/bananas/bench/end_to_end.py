"""Table 2, first part: a producer submits while workers run, until the last job is settled."""

import time
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from bananas.bench.draining import wait_until_quiet
from bananas.bench.load import WATCH_EVERY, Load
from bananas.bench.percentiles import MS, percentile_figures
from bananas.bench.processes import ProcessFailed
from bananas.bench.serving import Serving
from bananas.bench.session import Bench
from bananas.bench.sizes import Sizes
from bananas.bench.table import Aim, Row, Table, figure, judged

KEY = "end_to_end"
SHARES = (50, 95, 99)
STAGES = ("start", "completed")
COLUMNS = (
    "jobs/s",
    "submitted/s",
    *(f"{stage} p{share}" for stage in STAGES for share in SHARES),
    "client CPU",
    "worker CPU",
    "server CPU",
)
PRODUCERS = 100
DURABLE = "100 slots, AOF everysec, results stored"


class Live(Struct, frozen=True):
    """One variant."""

    slots: int
    processes: int = 1
    durable: bool = False


class Lived(Struct, frozen=True):
    """One repetition: rates per second, samples in ns, CPU in us per job."""

    rate: float
    submitted: float
    starts: list[int]
    ends: list[int]
    client_us: float
    worker_us: float
    server_us: float


def live(bench: Bench, serving: Serving, jobs: int, what: Live) -> Lived:
    """Submit `jobs` from a process of its own while workers run them."""
    serving.empty()
    with bench.workers(serving.url, slots=what.slots, processes=what.processes) as workers:
        before, cpu_s = serving.usage(), workers.cpu_s()
        task = "timed_kept" if what.durable else "timed"
        load = Load(kind="live", count=jobs, clients=PRODUCERS, task=task)
        with bench.loading(serving.url, load) as loading:
            workers.wait_for_count(jobs)
            settled_ns = wait_until_quiet(serving)
            loaded = loading.outcome()
        wait_for_hooks(lambda: len(workers.reader.samples(1)), jobs // WATCH_EVERY)
        used, worker_s = serving.usage().since(before), workers.cpu_s() - cpu_s
        return Lived(
            jobs / ((settled_ns - loaded.began_ns) / 1e9),
            loaded.rate,
            list(workers.reader.samples(0)),
            list(workers.reader.samples(1)),
            loaded.cpu_us,
            1e6 * worker_s / jobs,
            1e6 * used.cpu_s / jobs,
        )


def wait_for_hooks(count: Callable[[], int], wanted: int) -> None:
    """Wait until the hooks of so many watched jobs have run; they come after the settle. Raises ProcessFailed when some never do."""
    deadline = time.monotonic() + 10
    while count() < wanted:
        if time.monotonic() > deadline:
            raise ProcessFailed(f"{count()} of {wanted} jobs were seen to complete")
        time.sleep(0.002)


def _row(name: str, runs: list[Lived]) -> Row:
    starts = percentile_figures([run.starts for run in runs], SHARES, "ms", MS)
    ends = percentile_figures([run.ends for run in runs], SHARES, "ms", MS)
    cells = (
        figure((run.rate for run in runs), "/s"),
        figure((run.submitted for run in runs), "/s"),
        *starts,
        *ends,
        figure((run.client_us for run in runs), "us"),
        figure((run.worker_us for run in runs), "us"),
        figure((run.server_us for run in runs), "us"),
    )
    return Row(name, dict(zip(COLUMNS, cells, strict=True)))


def measure(bench: Bench, sizes: Sizes) -> Table:
    """1 to 20 slots in one process, 1 to 20 processes of one slot, 100 slots, and 100 slots on a durable server with results."""
    lives = {_label(slots, 1): Live(slots) for slots in sizes.live_slots}
    lives |= {_label(1, processes): Live(1, processes) for processes in sizes.live_processes}
    lives[_label(100, 1)] = Live(100)
    with bench.server() as serving, bench.server(durable=True) as durable:
        variants = {name: partial(live, bench, serving, sizes.live_jobs, what) for name, what in lives.items()}
        variants[DURABLE] = partial(live, bench, durable, sizes.live_jobs, Live(100, durable=True))
        outcomes = bench.interleaved(KEY, variants)
    rows = tuple(_row(name, runs) for name, runs in outcomes.items())
    return Table(
        KEY,
        "End to end",
        "How many jobs per second go from a live producer through the queue and a worker, and how long does each take?",
        COLUMNS,
        rows,
        (
            (
                f"One producer process submits {sizes.live_jobs:,} jobs of 100 B, {PRODUCERS} callers each awaiting their own submit; the "
                "rate is from the first submit until the last outcome was accepted by the server."
            ),
            (
                "Start: from the submit call to the start of the handler, every job. Completed: from the submit call until the server had "
                f"accepted the outcome, every {WATCH_EVERY}th job, by a hook that costs the worker a few us."
            ),
            (
                "The producer goes as fast as it can: where it is faster than the workers, these latencies are those of the backlog that "
                "it builds up, and say how long the run took. For latencies at a given load see the table of latencies."
            ),
        ),
        judged(rows, AIMS),
        plot="jobs/s",
    )


def _label(slots: int, processes: int) -> str:
    one = f"{slots} slot{'s' if slots > 1 else ''}"
    return one if processes == 1 else f"{processes} processes of {one}"


AIMS = (
    Aim("End to end with a live producer process: at least 20,000/s", _label(100, 1), "jobs/s", least=20_000),
    Aim("The same with AOF everysec and results stored: at least 10,000/s", DURABLE, "jobs/s", least=10_000),
)
