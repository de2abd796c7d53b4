"""Table 8: jobs that wait, jobs that compute, and large payloads, each against what is ideal."""

import time
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from bananas.bench.draining import Drain, drain
from bananas.bench.load import Content, Load
from bananas.bench.serving import Serving
from bananas.bench.session import Bench
from bananas.bench.sizes import Sizes
from bananas.bench.table import Aim, Figure, Row, Table, figure, judged
from bananas.seals import compresses

KEY = "workloads"
COLUMNS = ("jobs/s", "ideal", "of the ideal", "payload MB/s", "stored", "worker CPU", "server CPU")
SLEEP_S = 0.05
IO_SLOTS = (100, 1_000)
PROCESSES, CPU_SLOTS = 2, 2
LARGE = {"100 KB": 100_000, "900 KB": 900_000}
CONTENTS: dict[Content, str] = {"json": "JSON", "random": "noise"}
STORED = {"take": "plain", "take_zstd": "zstd"}  # by task
START_NS = 1_500_000_000  # two processes need so long until both are ready


class Worked(Struct, frozen=True):
    """One repetition; `ideal` 0 where there is none, CPU in us per job."""

    rate: float
    ideal: float
    worker_us: float
    server_us: float
    submitted: float = 0.0
    body_bytes: int = 0


def _drained(bench: Bench, serving: Serving, what: Drain, ideal: float = 0.0) -> Worked:
    found = drain(bench, serving, what)
    worker_us, server_us = 1e6 * found.worker_cpu_s / what.jobs, 1e6 * found.used.cpu_s / what.jobs
    return Worked(found.rate, ideal, worker_us, server_us, found.filled.rate, found.body_bytes)


def _io(bench: Bench, serving: Serving, slots: int, waves: int) -> Worked:
    what = Drain(slots * waves, slots=slots, task="pause", arguments=(SLEEP_S,))
    return _drained(bench, serving, what, slots / SLEEP_S)


def _cpu(bench: Bench, serving: Serving, jobs: int, rounds: int) -> Worked:
    """The ideal is measured right before: the same work in as many processes without a queue."""
    bare = Load(kind="compute", sync=True, count=jobs // PROCESSES, arguments=(rounds,), start_at_ns=time.monotonic_ns() + START_NS)
    with bench.loading(serving.url, bare) as first, bench.loading(serving.url, bare) as second:
        ideal = first.outcome().rate + second.outcome().rate
    what = Drain(jobs, slots=CPU_SLOTS, processes=PROCESSES, task="burn", arguments=(rounds,))
    return _drained(bench, serving, what, ideal)


def _row(name: str, runs: list[Worked], size_bytes: int = 0) -> Row:
    ideals = [run.ideal for run in runs]
    cells: dict[str, Figure | str] = {
        "jobs/s": figure((run.rate for run in runs), "/s"),
        "ideal": figure(ideals, "/s") if all(ideals) else "-",
        "of the ideal": figure((100 * run.rate / run.ideal for run in runs), "%") if all(ideals) else "-",
        "payload MB/s": figure((run.rate * size_bytes / 1e6 for run in runs), "MB/s") if size_bytes else "-",
        "stored": figure((run.body_bytes for run in runs), "B") if size_bytes else "-",
        "worker CPU": figure((run.worker_us for run in runs), "us"),
        "server CPU": figure((run.server_us for run in runs), "us"),
    }
    return Row(name, cells)


def _submit_row(name: str, runs: list[Worked], size_bytes: int) -> Row:
    cells: dict[str, Figure | str] = dict.fromkeys(COLUMNS, "-")
    cells["jobs/s"] = figure((run.submitted for run in runs), "/s")
    cells["stored"] = figure((run.body_bytes for run in runs), "B")
    cells["payload MB/s"] = figure((run.submitted * size_bytes / 1e6 for run in runs), "MB/s")
    return Row(name, cells)


def _io_label(slots: int) -> str:
    return f"I/O: {SLEEP_S * 1000:g} ms asleep, {slots:,} slots"


def _large(sizes: Sizes) -> dict[str, Drain]:
    """The same jobs plain and, where zstd is here, compressed."""
    ways = [(task, way) for task, way in STORED.items() if way == "plain" or compresses()]
    return {
        f"{size} of {name}, {way}": Drain(sizes.large_jobs, LARGE[size], slots=10, task=task, content=content)
        for size in LARGE
        for content, name in CONTENTS.items()
        for task, way in ways
    }


CPU_LABEL = f"CPU: {PROCESSES} processes"


def measure(bench: Bench, sizes: Sizes) -> Table:
    """50 ms of sleep at 100 and 1,000 slots; pure Python on two processes; payloads of 100 and 900 KB, plain and compressed."""
    large = _large(sizes)
    with bench.server() as serving:
        variants: dict[str, Callable[[], Worked]] = {
            _io_label(slots): partial(_io, bench, serving, slots, sizes.io_waves) for slots in IO_SLOTS
        }
        variants[CPU_LABEL] = partial(_cpu, bench, serving, sizes.cpu_jobs, sizes.cpu_rounds)
        variants |= {name: partial(_drained, bench, serving, what) for name, what in large.items()}
        outcomes = bench.interleaved(KEY, variants)
    rows = [_row(name, outcomes[name]) for name in (*map(_io_label, IO_SLOTS), CPU_LABEL)]
    for name, what in large.items():
        rows.append(_submit_row(f"{name}: submit in bulk", outcomes[name], what.size_bytes))
        rows.append(_row(f"{name}: run, {what.slots} slots", outcomes[name], what.size_bytes))
    return Table(
        KEY,
        "Workloads",
        "How near to the ideal are jobs that wait or compute, and how fast do large payloads go?",
        COLUMNS,
        tuple(rows),
        (
            (
                f"I/O: one process, async handlers, {sizes.io_waves} waves of jobs; the ideal is slots / {SLEEP_S:g} s. CPU: "
                f"{sizes.cpu_jobs} jobs of pure Python that hold the GIL, sync handlers, {CPU_SLOTS} slots each; the ideal is what "
                f"{PROCESSES} bare processes do with the same function, measured right before. On a machine of two cores the server and "
                "the supervisor need a part of them."
            ),
            (
                "Payloads are bytes: JSON of orders with names, addresses, numbers and times, or noise that nothing makes smaller. zstd: "
                'the task says `compression="zstd"`. MB/s are of the payload as the handler gets it; stored is what is held of a job.'
                + ("" if compresses() else " zstd is not installed here, so there are no rows for it.")
            ),
        ),
        judged(rows, AIMS),
        plot="of the ideal",
    )


AIMS = (
    Aim("I/O jobs at 100 slots: at least 95% of the ideal", _io_label(100), "of the ideal", least=95),
    Aim("CPU jobs on two processes: at least 95% of two cores", CPU_LABEL, "of the ideal", least=95),
)
