"""Table 6: latency at a given load, of an idle worker, and of waiting for a result.

An open loop: jobs are sent at random times at a given mean rate, whatever becomes of earlier ones. Each latency counts from the time at
which its job was to be sent, so that a stall of the queue, or of the sender, is in every latency that it delayed (no coordinated omission).
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from msgspec import Struct

from bananas.bench.draining import wait_until_quiet
from bananas.bench.end_to_end import Live, live, wait_for_hooks
from bananas.bench.load import WATCH_EVERY, Load
from bananas.bench.percentiles import MS, percentile_figures
from bananas.bench.serving import Serving
from bananas.bench.session import Bench
from bananas.bench.sizes import Sizes
from bananas.bench.table import Aim, Row, Table, figure, judged

KEY = "latency"
SHARES = (50, 95, 99, 99.9)
STAGES = ("start", "completed")
COLUMNS = ("offered/s", "done/s", *(f"{stage} p{share:g}" for stage in STAGES for share in SHARES), "sent late p99")
SLOTS = 100
LOADS = (10, 50, 80)
CAPACITY = "capacity"


class Timed(Struct, frozen=True):
    """One repetition: rates per second, samples in ns."""

    offered: float
    done: float
    starts: list[int]
    ends: list[int]
    late: list[int]


class Capacity:
    """What a worker does with a live producer, measured anew in each repetition; the loads that follow are shares of the last one."""

    def __init__(self, bench: Bench, serving: Serving, jobs: int) -> None:
        self._bench, self._serving, self._jobs = bench, serving, jobs
        self._rates: list[float] = []

    def measure(self) -> Timed:
        """Once more."""
        self._rates.append(live(self._bench, self._serving, self._jobs, Live(SLOTS)).rate)
        return Timed(0, self._rates[-1], [], [], [])

    def share(self, percent: float) -> float:
        """So much of the last one, in jobs per second."""
        return self._rates[-1] * percent / 100

    @property
    def median(self) -> float:
        """The median of all."""
        return median(self._rates)


def _open_loop(bench: Bench, serving: Serving, seconds: float, capacity: Capacity, percent: float) -> Timed:
    rate = capacity.share(percent)
    serving.empty()
    with bench.workers(serving.url, slots=SLOTS) as workers:
        load = Load(kind="open_loop", count=max(1, round(rate * seconds)), rate=rate, task="timed")
        loaded = bench.load(serving.url, load)
        workers.wait_for_count(load.count)
        settled_ns = wait_until_quiet(serving)
        reader = workers.reader
        wait_for_hooks(lambda: len(reader.samples(1)), load.count // WATCH_EVERY)
        done = load.count / ((settled_ns - loaded.began_ns) / 1e9)
        return Timed(rate, done, list(reader.samples(0)), list(reader.samples(1)), list(loaded.latencies()))


def _pick_up(bench: Bench, serving: Serving, url: str, count: int) -> Timed:
    serving.empty()
    with bench.workers(url, slots=SLOTS) as workers:
        loaded = bench.load(url, Load(kind="pick_up", count=count, task="timed"))
        workers.wait_for_count(count)
        wait_for_hooks(lambda: len(workers.reader.samples(1)), count // WATCH_EVERY)
        return Timed(loaded.rate, loaded.rate, list(workers.reader.samples(0)), list(workers.reader.samples(1)), [])


def _round_trip(bench: Bench, serving: Serving, url: str, load: Load) -> Timed:
    serving.empty()
    with bench.workers(url, slots=SLOTS):
        loaded = bench.load(url, load)
        return Timed(loaded.rate, loaded.rate, [], list(loaded.latencies()), [])


def _row(name: str, runs: list[Timed]) -> Row:
    def percentiles(samples: list[list[int]], shares: tuple[float, ...] = SHARES) -> list[Any]:
        return percentile_figures(samples, shares, "ms", MS) if all(samples) else ["-"] * len(shares)

    cells = (
        figure((run.offered for run in runs), "/s") if all(run.offered for run in runs) else "-",
        figure((run.done for run in runs), "/s"),
        *percentiles([run.starts for run in runs]),
        *percentiles([run.ends for run in runs]),
        *percentiles([run.late for run in runs], (99,)),
    )
    return Row(name, dict(zip(COLUMNS, cells, strict=True)))


def _variants(bench: Bench, sizes: Sizes, serving: Serving, capacity: Capacity) -> dict[str, Callable[[], Timed]]:
    found: dict[str, Callable[[], Timed]] = {CAPACITY: capacity.measure}
    for name, share in sizes.some({f"{share}% of capacity": share for share in LOADS}).items():
        found[name] = partial(_open_loop, bench, serving, sizes.open_loop_s, capacity, share)
    for transport in bench.transports:
        url = serving.urls[transport]
        found[f"idle pick-up, {transport}"] = partial(_pick_up, bench, serving, url, sizes.pick_ups)
        for sync in (False, True):
            load = Load(kind="round_trip", count=sizes.pick_ups, sync=sync)
            name = f"submit and wait, {'sync' if sync else 'async'}, {transport}"
            found[name] = partial(_round_trip, bench, serving, url, load)
    return found


def measure(bench: Bench, sizes: Sizes) -> Table:
    """10, 50 and 80 % of the capacity measured here; one job at a time for an idle worker; submit and wait for the result."""
    with bench.server() as serving:
        capacity = Capacity(bench, serving, sizes.live_jobs)
        outcomes = bench.interleaved(KEY, _variants(bench, sizes, serving, capacity))
    rows = tuple(_row(name, runs) for name, runs in outcomes.items())
    return Table(
        KEY,
        "Latency",
        "How long does a job take at a given load, and when nothing else is to be done?",
        COLUMNS,
        rows,
        (
            (
                f"One worker process of {SLOTS} slots. Its capacity with a live producer is measured in each repetition, right before the "
                f"loads, which are shares of it: {capacity.median:,.0f} jobs/s is the median, of which the median loads are shares."
            ),
            (
                f"Open loop for {sizes.open_loop_s:g} s at random times of that mean rate; latencies count from the time at which a job "
                "was to be sent. The event loop of the sender wakes in whole milliseconds: how late it sent is in the last column, and in "
                "every latency."
            ),
            f"Start: every job. Completed: when the server had accepted the outcome, every {WATCH_EVERY}th job.",
            (
                f"Idle pick-up: {sizes.pick_ups} jobs, 4 to 20 ms apart. Submit and wait: until the caller has the result in hand (in the "
                "columns 'completed'), one at a time, 4 ms apart, results stored."
            ),
        ),
        judged(rows, AIMS),
        plot="start p99",
    )


AIMS = (
    Aim("Pick-up by an idle worker: p50 at most 0.5 ms", "idle pick-up, TCP", "start p50", most=0.5),
    Aim("Pick-up by an idle worker: p99 at most 2 ms", "idle pick-up, TCP", "start p99", most=2),
    Aim("Pick-up by an idle worker on the unix socket: p50 at most 0.5 ms", "idle pick-up, unix", "start p50", most=0.5),
    Aim("Submit and wait, async: p50 at most 1 ms", "submit and wait, async, TCP", "completed p50", most=1),
    Aim("Submit and wait, sync: p50 at most 1 ms", "submit and wait, sync, TCP", "completed p50", most=1),
    Aim("At 50% load: p99 at most 10 ms until the start", "50% of capacity", "start p99", most=10),
    Aim("At 50% load: p99 at most 10 ms until completed", "50% of capacity", "completed p99", most=10),
)
