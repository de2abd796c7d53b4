"""Table 7: what a job costs in CPU, commands and memory, and what a worker costs while it does nothing."""

import contextlib
import itertools
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import linear_regression

from bananas.address import parse_url
from bananas.bench.draining import Drain, drain, drain_with, pause
from bananas.bench.load import Load
from bananas.bench.serving import TIMEOUT_S, Serving, is_installed
from bananas.bench.session import Bench, own_environment
from bananas.bench.sizes import Sizes
from bananas.bench.table import Aim, Figure, Row, Table, figure, judged
from bananas.connection import SyncConnection

KEY = "cost"
COLUMNS = ("measured", "how")
MB = 1e6
IMPORT = "import asyncio, msgspec, time; t = time.perf_counter(); import bananas; print(1e3 * (time.perf_counter() - t))"
GROWTH, SLOPE = "memory growth of a worker", "memory slope of a worker"
QUEUED_BYTES = {"redis": 1_510, "valkey": 1_250}  # by kind of server: what a queued job of 1 KB may take
SERVERS = {"redis": "Redis 7.0", "valkey": "the Valkey of the wheel"}
Costs = dict[str, tuple[float, str]]  # by row: the value and its unit

HOW = {
    "client CPU, submit one by one": "async, 1 KB, per job",
    "server CPU, submit one by one": "per job",
    "commands, submit one by one": "run by the server per job, those inside of its script too",
    "round trips, submit one by one": "reads of the server from any client per 100 jobs",
    "client CPU, submit in bulk": "submit_many, 100 B, per job",
    "server CPU, submit in bulk": "per job",
    "worker CPU, run": "drain at 100 slots, 100 B, all processes of the worker, per job",
    "server CPU, run": "the same",
    "commands, run": "the same; run by the server per job, those inside of scripts too",
    "script calls, run": "the same; EVALSHA from clients per 100 jobs",
    "round trips, run": "the same; reads of the server from any client per 100 jobs",
    "worker CPU, run and keep the result": "drain at 10 slots, 100 B, results stored, per job: what `bananas plan --costs` takes",
    "server CPU, run and keep the result": "the same",
    "commands of an idle worker": "from clients, scripts counted as one, one queue, 10 slots",
    "memory of an idle worker process": "resident",
    "memory of its supervisor": "resident; shares most pages with the worker process",
    "import bananas": "above import asyncio, msgspec; fresh processes",
    "start of a worker": "from its command to its first handler, one job queued",
}


def _submit(bench: Bench, serving: Serving, sizes: Sizes) -> Costs:
    serving.empty()
    before = serving.usage()
    loaded = bench.load(serving.url, Load(kind="one_by_one", count=sizes.submits, size_bytes=1_000, cap_s=sizes.cap_s))
    used = serving.usage().since(before)
    return {
        "client CPU, submit one by one": (loaded.cpu_us, "us"),
        "server CPU, submit one by one": (1e6 * used.cpu_s / loaded.count, "us"),
        "commands, submit one by one": (sum(used.calls.values()) / loaded.count, ""),
        "round trips, submit one by one": (100 * used.reads / loaded.count, ""),
    }


def _bulk(bench: Bench, serving: Serving, jobs: int) -> Costs:
    serving.empty()
    before = serving.usage()
    loaded = bench.load(serving.url, Load(kind="bulk", count=jobs))
    used = serving.usage().since(before)
    return {
        "client CPU, submit in bulk": (loaded.cpu_us, "us"),
        "server CPU, submit in bulk": (1e6 * used.cpu_s / jobs, "us"),
    }


def _run(bench: Bench, serving: Serving, jobs: int) -> Costs:
    found = drain(bench, serving, Drain(jobs))
    return {
        "worker CPU, run": (1e6 * found.worker_cpu_s / jobs, "us"),
        "server CPU, run": (1e6 * found.used.cpu_s / jobs, "us"),
        "commands, run": (sum(found.used.calls.values()) / jobs, ""),
        "script calls, run": (100 * found.used.calls.get("evalsha", 0) / jobs, ""),
        "round trips, run": (100 * found.used.reads / jobs, ""),
    }


def _run_kept(bench: Bench, serving: Serving, jobs: int) -> Costs:
    found = drain(bench, serving, Drain(jobs, slots=10, task="noop_kept"))
    return {
        "worker CPU, run and keep the result": (1e6 * found.worker_cpu_s / jobs, "us"),
        "server CPU, run and keep the result": (1e6 * found.used.cpu_s / jobs, "us"),
    }


def _queued(bench: Bench, serving: Serving, name: str, jobs: int) -> Costs:
    serving.empty()
    before = serving.usage()
    bench.load(serving.url, Load(kind="bulk", count=jobs, size_bytes=1_000))
    used = serving.usage().since(before)
    serving.empty()
    return {name: (used.memory_bytes / jobs, "B")}


def queued_label(kind: str) -> str:
    """The name of the row for a kind of server."""
    return f"server memory per queued job, {kind.capitalize()}"


def _queued_row(kind: str, values: list[float], serving: Serving | None) -> Row:
    if serving is None:
        return Row(queued_label(kind), {"measured": "-", "how": "not measured: this server is not installed"})
    how = f"1 KB payload, {serving.name}, used_memory without connections"
    return Row(queued_label(kind), {"measured": figure(values, "B"), "how": how})


def client_commands(serving: Serving, seconds: float) -> int:
    """How many commands clients send in a while: by MONITOR, which tells them from those of scripts."""
    monitor = SyncConnection(parse_url(serving.urls["unix"]), "bench", TIMEOUT_S)
    monitor.execute([("MONITOR",)], TIMEOUT_S)
    deadline, count = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        try:
            line = monitor.read(deadline)
        except TimeoutError:
            break
        count += isinstance(line, bytes) and not re.match(rb"\S+ \[\d+ lua\]", line)
    monitor.close()
    return count


def _idle(bench: Bench, serving: Serving, seconds: float) -> Costs:
    serving.empty()
    with bench.workers(serving.url) as workers:
        bench.load(serving.url, Load(kind="one_by_one", count=1))
        workers.wait_for_count(1)
        time.sleep(min(1.0, seconds))  # what it does at its start is over
        supervisor, children = workers.resident_bytes()
        count = client_commands(serving, seconds)
    return {
        "commands of an idle worker": (count / seconds, "/s"),
        "memory of an idle worker process": (children / MB, "MB"),
        "memory of its supervisor": (supervisor / MB, "MB"),
    }


def _import(bench: Bench, serving: Serving, count: int) -> Costs:
    values = []
    for _ in range(count):
        run = subprocess.run(
            [sys.executable, "-c", IMPORT], env=own_environment(serving.url), capture_output=True, text=True, timeout=60, check=True
        )
        values.append(float(run.stdout))
    return {"import bananas": (sorted(values)[len(values) // 2], "ms")}


def _start(bench: Bench, serving: Serving) -> Costs:
    serving.empty()
    bench.load(serving.url, Load(kind="one_by_one", count=1))
    with bench.starting_workers(serving.url) as workers:
        workers.wait_for_count(1)
        return {"start of a worker": ((workers.reader.first_start_ns() - workers.began_ns) / 1e6, "ms")}


def _memory_after(bench: Bench, serving: Serving, jobs: int, steps: int) -> list[tuple[int, float]]:
    """Resident memory of one worker process after each of so many parts of the jobs, in MB."""
    part, found = max(1, jobs // steps), []
    serving.empty()
    pause(serving.url, True)
    with bench.workers(serving.url, slots=100) as workers:
        for step in range(1, steps + 1):
            drain_with(bench, serving, workers, Drain(part))
            found.append((step * part, workers.resident_bytes()[1] / MB))
            pause(serving.url, True)
    return found


def memory_rows(memory: Sequence[tuple[int, float]]) -> list[Row]:
    """Rows for checkpoints of one run, at least two, each so many jobs and MB: the first, the last, the growth between them, the slope.

    The slope is the line of least squares through all of them; beside it the least and the greatest step from one to the next.
    """
    (first_jobs, first), (last_jobs, last) = memory[0], memory[-1]
    rows = [
        Row(f"memory after {count:,} jobs", {"measured": figure([value], "MB"), "how": "one worker process, resident"})
        for count, value in (memory[0], memory[-1])
    ]
    how = f"from {first_jobs:,} to {last_jobs:,} jobs, one run"
    rows.append(Row(GROWTH, {"measured": figure([100 * (last - first) / first], "%"), "how": how}))
    steps = tuple(1e3 * (after - before) for (_, before), (_, after) in itertools.pairwise(memory))
    part = (last_jobs - first_jobs) // len(steps)
    slope = linear_regression([jobs for jobs, _ in memory], [value for _, value in memory]).slope
    seen = ", ".join(f"{value:.2f}" for _, value in memory)
    how = f"per {part:,} jobs: least squares, least and greatest step; MB at the {len(memory)} checkpoints: {seen}"
    rows.append(Row(SLOPE, {"measured": Figure(steps, "KB", pooled=1e3 * slope * part), "how": how}))
    return rows


def measure(bench: Bench, sizes: Sizes) -> Table:
    """Everything above, and the memory of a worker after 1,000,000 jobs (once, for it takes long)."""
    with contextlib.ExitStack() as stack:
        serving = stack.enter_context(bench.server())
        servers = {kind: stack.enter_context(bench.server(kind=kind)) for kind in QUEUED_BYTES if is_installed(kind)}
        variants: dict[str, Callable[[], Costs]] = {
            "submit": partial(_submit, bench, serving, sizes),
            "bulk": partial(_bulk, bench, serving, sizes.bulk_jobs),
            "run": partial(_run, bench, serving, sizes.drain_jobs),
            "run and keep": partial(_run_kept, bench, serving, sizes.drain_jobs // 4),
            "idle": partial(_idle, bench, serving, sizes.idle_s),
            "import": partial(_import, bench, serving, sizes.imports),
            "start": partial(_start, bench, serving),
        }
        for kind, other in servers.items():
            variants[queued_label(kind)] = partial(_queued, bench, other, queued_label(kind), sizes.queued_jobs)
        outcomes = bench.interleaved(KEY, variants)
        after = {"memory": partial(_memory_after, bench, serving, sizes.memory_jobs, sizes.memory_steps)}
        memory = bench.interleaved(f"{KEY}, memory", after, 1)["memory"][0]
    values: dict[str, list[float]] = {name: [] for name in (*HOW, *map(queued_label, QUEUED_BYTES))}
    units: dict[str, str] = {}
    for runs in outcomes.values():
        for run in runs:
            for name, (value, unit) in run.items():
                values[name].append(value)
                units[name] = unit
    rows = [Row(name, {"measured": figure(values[name], units[name]), "how": how}) for name, how in HOW.items()]
    rows += [_queued_row(kind, values[queued_label(kind)], servers.get(kind)) for kind in QUEUED_BYTES]
    rows += memory_rows(memory)
    return Table(
        KEY,
        "Cost",
        "What does a job cost, and what does a worker cost while it does nothing?",
        COLUMNS,
        tuple(rows),
        ("CPU times include the kernel's. Commands inside of scripts count as the server counts them.",),
        judged(rows, AIMS),
    )


AIMS = (
    *(
        Aim(f"Memory per queued 1 KB job: at most {most:,} bytes on {SERVERS[kind]}", queued_label(kind), "measured", most=most)
        for kind, most in QUEUED_BYTES.items()
    ),
    Aim("Idle worker: at most 2 commands per second", "commands of an idle worker", "measured", most=2),
    Aim("Idle worker process (its supervisor apart): at most 35 MB", "memory of an idle worker process", "measured", most=35),
    Aim("import bananas: at most 40 ms", "import bananas", "measured", most=40),
    Aim("Round trips: at most 3 per 100 jobs at 100 slots", "round trips, run", "measured", most=3),
    Aim("Memory of a worker stays flat: at most 5% more at the end than after the first tenth", GROWTH, "measured", most=5),
)
