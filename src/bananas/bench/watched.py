"""What it costs to be watched: a drain without metrics, with them, and with an open dashboard beside it."""

import contextlib
import re
import sys
import threading
import time
import urllib.request
from collections.abc import Generator, Mapping
from functools import partial

from bananas.bench.draining import Drain, Drained, drain_with, pause
from bananas.bench.processes import Process
from bananas.bench.serving import Serving
from bananas.bench.session import START_TIMEOUT_S, Bench, own_environment
from bananas.bench.sizes import Sizes
from bananas.bench.table import Figure, Goal, Row, Table, figure
from bananas.bench.tasks import NAMESPACE

KEY = "watched"
COLUMNS = ("jobs/s", "worker CPU", "server CPU", "commands per job")
OFF, ON, DASHBOARD = "metrics off", "metrics on, as they are by default", "and an open dashboard, with a scraper"
WATCHED = {ON: "metrics", DASHBOARD: "metrics and an open dashboard"}
SETTINGS: dict[str, Mapping[str, str]] = {OFF: {"BANANAS_STATS_TTL": "0"}, ON: {}, DASHBOARD: {}}
SLOTS, SIZE_BYTES, LEAST_SHARE = 100, 100, 0.95
LOOK_EVERY_S = 1.0
LOOKS = ("/api/v1/stats", "/api/v1/queues", "/api/v1/workers", "/api/v1/history?minutes=60", "/metrics")


@contextlib.contextmanager
def _dashboard(bench: Bench, url: str) -> Generator[None]:
    """`bananas api` with an event stream that is read, and everything that an overview and a scraper read, once a second."""
    folder = bench.new_folder()
    command = [sys.executable, "-m", "bananas", "api", "--namespace", NAMESPACE, "--port", "0", "--log-format", "json"]
    with Process(command, own_environment(url), folder / "api.log", folder) as process:
        log = process.log_path
        process.wait_for(lambda: "startup complete" in log.read_text(errors="replace"), START_TIMEOUT_S, "its start")
        found = re.search(r'"url": ?"(http://[^"]+)"', log.read_text(errors="replace"))
        if found is None:
            raise process.failed("did not tell its address")
        ending = threading.Event()
        watchers = [threading.Thread(target=work, args=(found[1], ending)) for work in (_read_events, _look)]
        for watcher in watchers:
            watcher.start()
        try:
            yield
        finally:
            ending.set()
            for watcher in watchers:
                watcher.join()


def _read_events(url: str, ending: threading.Event) -> None:
    with urllib.request.urlopen(f"{url}/api/v1/events", timeout=30) as stream:
        while not ending.is_set() and stream.readline():
            pass


def _look(url: str, ending: threading.Event) -> None:
    while not ending.is_set():
        began = time.monotonic()
        for path in LOOKS:
            urllib.request.urlopen(url + path, timeout=30).read()
        ending.wait(max(0.0, began + LOOK_EVERY_S - time.monotonic()))


def _drain(bench: Bench, serving: Serving, name: str, jobs: int) -> Drained:
    serving.empty()
    pause(serving.url, True)
    what = Drain(jobs, SIZE_BYTES, SLOTS)
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(bench.workers(serving.url, slots=SLOTS, settings=SETTINGS[name]))
        if name == DASHBOARD:
            stack.enter_context(_dashboard(bench, serving.url))
        return drain_with(bench, serving, workers, what)


def _row(name: str, runs: list[Drained]) -> Row:
    cells = (
        figure((run.rate for run in runs), "/s"),
        figure((1e6 * run.worker_cpu_s / run.jobs for run in runs), "us"),
        figure((1e6 * run.used.cpu_s / run.jobs for run in runs), "us"),
        figure((sum(run.used.calls.values()) / run.jobs for run in runs), ""),
    )
    return Row(name, dict(zip(COLUMNS, cells, strict=True)))


def goal_text(name: str) -> str:
    """The words of a goal."""
    return f"Drain with {WATCHED[name]}: at least 95% of the rate without"


def _shares(rows: tuple[Row, ...]) -> list[Goal]:
    """How much of the rate without metrics is left."""
    cells = {row.label: row.cells["jobs/s"] for row in rows}
    bare, found = cells.get(OFF), []
    for name in WATCHED:
        cell = cells.get(name)
        if isinstance(bare, Figure) and isinstance(cell, Figure):
            share = cell.headline / bare.headline
            found.append(Goal(goal_text(name), share >= LEAST_SHARE, f"{100 * share:.1f}%"))
    return found


def measure(bench: Bench, sizes: Sizes) -> Table:
    """Drain the same jobs three times: nothing is counted, everything is, and somebody looks on."""
    with bench.server() as serving:
        variants = {name: partial(_drain, bench, serving, name, sizes.drain_jobs) for name in SETTINGS}
        outcomes = bench.interleaved(KEY, variants)
    rows = tuple(_row(name, runs) for name, runs in outcomes.items())
    return Table(
        KEY,
        "Being watched",
        "What do metrics and an open dashboard cost?",
        COLUMNS,
        rows,
        (
            (
                f"{sizes.drain_jobs:,} jobs of {SIZE_BYTES} B, one worker process of {SLOTS} slots. The dashboard is `bananas api` with an "
                "event stream that is read; an overview's figures and /metrics are asked for once a second. It shares this machine's cores "
                "with the worker and the server."
            ),
        ),
        tuple(_shares(rows)),
        plot="jobs/s",
    )
