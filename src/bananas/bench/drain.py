"""Table 2, second part: a full queue, emptied by one worker process and by two."""

import itertools
from functools import partial

from bananas.bench.draining import Drain, Drained, drain
from bananas.bench.session import Bench
from bananas.bench.sizes import Sizes
from bananas.bench.table import Aim, Figure, Goal, Row, Table, figure, judged

KEY = "drain"
COLUMNS = ("jobs/s", "until settled", "worker CPU", "server CPU", "round trips per 100 jobs", "commands per job")
SIZES = {"100 B": 100, "1 KB": 1_000}
SLOTS = (10, 100)
PROCESSES = (1, 2)


def label(size: str, processes: int, slots: int) -> str:
    """The name of a row."""
    return f"{size}, {processes} process{'es' if processes > 1 else ''}, {slots} slots"


def _row(name: str, runs: list[Drained], limit: tuple[str, str]) -> Row:
    cells = (
        figure((run.rate for run in runs), "/s"),
        figure((run.settled_rate for run in runs), "/s"),
        figure((1e6 * run.worker_cpu_s / run.jobs for run in runs), "us"),
        figure((1e6 * run.used.cpu_s / run.jobs for run in runs), "us"),
        figure((100 * run.used.reads / run.jobs for run in runs), ""),
        figure((sum(run.used.calls.values()) / run.jobs for run in runs), ""),
    )
    return Row(name, dict(zip(COLUMNS, cells, strict=True)), limit)


def measure(bench: Bench, sizes: Sizes) -> Table:
    """Drain jobs of 100 B and 1 KB with one and two worker processes at 10 and 100 slots each."""
    drains: dict[str, Drain] = {}
    limits: dict[str, tuple[str, str]] = {}
    for (size, size_bytes), processes, slots in itertools.product(SIZES.items(), PROCESSES, SLOTS):
        name = label(size, processes, slots)
        drains[name] = Drain(sizes.drain_jobs, size_bytes, slots, processes)
        limits[name] = f"run, {slots} at once", size
    with bench.server() as serving:
        variants = {name: partial(drain, bench, serving, what) for name, what in sizes.some(drains).items()}
        outcomes = bench.interleaved(KEY, variants)
    rows = tuple(_row(name, runs, limits[name]) for name, runs in outcomes.items())
    return Table(
        KEY,
        "Drain",
        f"How fast do one and two worker processes empty a queue of {sizes.drain_jobs:,} jobs that do nothing?",
        COLUMNS,
        rows,
        (
            (
                "At least once, with leases, heartbeats, timeouts, retries at their defaults; results off. Workers are ready when the "
                "paused queue is filled; it is filled anew for each repetition. The clock runs from the first start of a handler to the "
                "last end of one, or until the server had accepted every outcome."
            ),
            (
                "Round trips: reads of the server from any client, heartbeats and this benchmark's few questions among them. Commands: "
                "all that the server ran, those inside of scripts too."
            ),
        ),
        (*judged(rows, AIMS), *_two_beat_one(rows)),
        plot="jobs/s",
    )


def two_text(size: str) -> str:
    """The words of a goal."""
    return f"Drain {size}: two processes are faster than one"


def _two_beat_one(rows: tuple[Row, ...]) -> list[Goal]:
    """Two processes are faster than one, at each size and 100 slots."""
    cells = {row.label: row.cells["jobs/s"] for row in rows}
    found = []
    for size in SIZES:
        one, two = cells.get(label(size, 1, 100)), cells.get(label(size, 2, 100))
        if isinstance(one, Figure) and isinstance(two, Figure):
            met = two.headline > one.headline
            found.append(Goal(two_text(size), met, f"{two.headline / one.headline:.2f}x"))
    return found


AIMS = (
    Aim("Drain 100 B, one process, 100 slots: at least 60,000/s", label("100 B", 1, 100), "jobs/s", least=60_000),
    Aim("Drain 1 KB, one process, 100 slots: at least 45,000/s", label("1 KB", 1, 100), "jobs/s", least=45_000),
    Aim("Drain 100 B at the default 10 slots: at least 25,000/s", label("100 B", 1, 10), "jobs/s", least=25_000),
    Aim("At most 3 round trips per 100 jobs at 100 slots", label("100 B", 1, 100), "round trips per 100 jobs", most=3),
)
