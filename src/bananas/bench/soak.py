"""`bananas bench --soak 1h`: steady load on a private server, for hours; at the end flat, or what grew.

Every few seconds it reads the memory of server, workers and client, the keys by kind, those without an end, and what is in the
collections. After a warm-up each of these is a series that must not rise. Rising is told by a robust test, which one spike or one step of
an allocator cannot trip: Theil and Sen's slope (the median of the slopes of all pairs) over the whole span is more than a tolerance, and
most pairs agree on the direction (Kendall's tau). Jobs are counted too: each one submitted has ended exactly when the workers say so.

The load is in soak_load.py. Source: Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 63, 1968.
"""

import contextlib
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from statistics import median
from typing import Any

from msgspec import Struct

from bananas.bench import counter
from bananas.bench.counter import Reader
from bananas.bench.peers._running import Client
from bananas.bench.processes import Process, resident_bytes
from bananas.bench.serving import Serving
from bananas.bench.session import START_TIMEOUT_S, Bench, own_environment
from bananas.bench.soak_load import DEAD_GAP_S, KEPT_DEAD, NAMESPACE
from bananas.bench.table import number
from bananas.bench.tasks import LIFELINE, READY
from bananas.errors import ConfigError

LEAST_S = 2.0
SAMPLES, SHORTEST_GAP_S, LONGEST_GAP_S = 200, 0.1, 5.0
WARM_UP_SHARE, WARM_UP_S = 0.2, 30.0
QUIET_TIMEOUT_S = 60.0
MOST_POINTS = 400  # of a series that is judged: more is thinned, for all pairs are looked at
TOLERANCE, LEAST_TAU = 0.05, 0.5
SKIPPED_SHARE = 0.01
MB = 1e6
# series -> how much it may rise whatever its level
FLOORS = {
    "server MB": 1.0,
    "worker MB": 3.0,
    "client MB": 3.0,
    "keys": 20.0,
    "keys without TTL": 2.0,
    "members": 30.0,
    "dead too many": 1.0,
}
MOST_DEAD = KEPT_DEAD + round(90 / DEAD_GAP_S)  # they are trimmed once a minute
_SIZE_OF = {"hash": "HLEN", "zset": "ZCARD", "set": "SCARD", "list": "LLEN", "stream": "XLEN"}


class Sample(Struct, frozen=True):
    """What was seen at one moment.

    Attributes:
        at_s: since the start. series: by name, the numbers that must not rise.
        kinds: keys by kind. collections: members by kind of key. client: what the client told, with its latencies.
    """

    at_s: float
    done: int
    series: dict[str, float]
    kinds: dict[str, int]
    collections: dict[str, int]
    client: dict[str, float]


class Growth(Struct, frozen=True):
    """How a series went: its level, how much it rose over the span by its slope, and how much it may."""

    name: str
    level: float
    rise: float
    tolerance: float
    tau: float

    @property
    def grew(self) -> bool:
        """Whether it rises, and by more than it may."""
        return self.rise > self.tolerance and self.tau >= LEAST_TAU

    def __str__(self) -> str:
        verdict = "GREW" if self.grew else "flat"
        change = f"{'+' if self.rise >= 0 else '-'}{number(abs(self.rise))}"
        return f"{self.name}: {verdict}, median {number(self.level)}, {change} over the span (may: +{number(self.tolerance)})"


class Soaked(Struct, frozen=True):
    """What a soak gave.

    Attributes:
        missing: jobs that were submitted and never ended; below 0, runs beyond the first.
        skipped: jobs that were left out of the steady rate, since too many calls were under way.
    """

    duration_s: float
    samples: tuple[Sample, ...]
    growth: tuple[Growth, ...]
    missing: int
    wrong: int
    skipped: int = 0

    @property
    def is_flat(self) -> bool:
        """Whether nothing grew, nothing was lost, no result was wrong and the rate was kept."""
        return not self._reasons()

    @property
    def exit_code(self) -> int:
        """0 when it was flat, 1 otherwise."""
        return 0 if self.is_flat else 1

    def lines(self) -> list[str]:
        """The report, for people."""
        last = self.samples[-1]
        rate = last.done / last.at_s
        found = [f"{self.duration_s:g} s, {len(self.samples)} samples, {last.done:,} jobs, {number(rate)} jobs/s", *map(str, self.growth)]
        for name in ("submit_p50_ms", "submit_p99_ms", "wait_p50_ms", "wait_p99_ms"):
            values = [sample.client[name] for sample in self.samples if name in sample.client]
            if values:
                first, second = values[: len(values) // 2 + 1], values[len(values) // 2 :]
                what = name.removesuffix("_ms").replace("_", " ")
                found.append(f"{what}: {number(median(first))} ms in the first half, {number(median(second))} ms in the second")
        found.append(
            f"jobs missing: {max(0, self.missing):,}, run more than once: {max(0, -self.missing):,}, wrong results: {self.wrong:,}, "
            f"left out of the rate: {self.skipped:,}"
        )
        return [*found, "flat" if self.is_flat else f"NOT flat: {', '.join(self._reasons())}"]

    def _reasons(self) -> list[str]:
        grew = [f"{series.name} grew" for series in self.growth if series.grew]
        late = self.skipped > SKIPPED_SHARE * self.samples[-1].done
        counted = ((self.missing, "jobs are missing"), (self.wrong, "results are wrong"), (late, "the rate was not kept"))
        return grew + [text for count, text in counted if count > 0]


# --- whether it grew: pure --------------------------------------------------------------------------------------------


def growth(name: str, points: Sequence[tuple[float, float]], floor: float) -> Growth:
    """How a series rose.

    Args:
        points: (seconds, value), in order; at least two.
        floor: what it may rise whatever its level.
    """
    kept = points[:: max(1, -(-len(points) // MOST_POINTS))]
    pairs = [(later[0] - earlier[0], later[1] - earlier[1]) for index, earlier in enumerate(kept) for later in kept[index + 1 :]]
    slope = median(rise / seconds for seconds, rise in pairs)
    tau = sum((rise > 0) - (rise < 0) for _, rise in pairs) / len(pairs)
    level = median(value for _, value in points)
    return Growth(name, level, slope * (points[-1][0] - points[0][0]), max(floor, TOLERANCE * level), tau)


def judge(samples: Sequence[Sample], duration_s: float) -> tuple[Growth, ...]:
    """Every series behind the warm-up: a fifth of the time, but at least half a minute where there is as much."""
    warm_s = max(WARM_UP_SHARE * duration_s, min(WARM_UP_S, duration_s / 2))
    steady = [sample for sample in samples if sample.at_s >= warm_s] or list(samples)
    if len(steady) < 2:
        return ()
    return tuple(growth(name, [(sample.at_s, sample.series[name]) for sample in steady], floor) for name, floor in FLOORS.items())


# --- the run ----------------------------------------------------------------------------------------------------------


def run(bench: Bench, duration_s: float, *, rate: float = 200.0, processes: int = 2, slots: int = 10) -> Soaked:
    """Run the load for so long, and judge it.

    Args:
        duration_s: at least 2. rate: jobs per second. processes, slots: of the worker.

    Raises:
        ConfigError: too short. ProcessFailed: a process of the soak ended.
    """
    if duration_s < LEAST_S:
        raise ConfigError(f"--soak {duration_s:g}s is too short to see anything grow: give {LEAST_S:g}s or more, for example 1h.")
    with bench.server() as serving, _worker(bench, serving, processes, slots) as (worker, reader):
        environment = own_environment(serving.url)
        client = Client([sys.executable, "-m", "bananas.bench.soak_load", str(rate)], environment, bench.new_folder())
        try:
            client.answer(START_TIMEOUT_S)
            samples = _watch(bench, duration_s, lambda at_s: _sample(at_s, serving, worker, client, reader))
            totals = client.ask("stop")
            missing = _missing(serving, worker, reader, totals)
        finally:
            client.end()
    return Soaked(
        duration_s, tuple(samples), judge(samples, duration_s), missing, int(totals["wrong"] + totals["failed"]), int(totals["skipped"])
    )


@contextlib.contextmanager
def _worker(bench: Bench, serving: Serving, processes: int, slots: int) -> Generator[tuple[Process, Reader]]:
    counters, folder = bench.new_counters(), bench.new_folder()
    command = [sys.executable, "-m", "bananas", "worker", "bananas.bench.soak_load:app", "--log-level", "error"]
    command += ["--concurrency", str(slots), "--processes", str(processes)]
    environment = own_environment(serving.url) | {counter.FOLDER: str(counters), LIFELINE: "1"}
    with Process(command, environment, folder / "worker.log", folder) as worker:
        worker.wait_for(lambda: worker.log_path.read_text(errors="replace").count(READY) >= processes, START_TIMEOUT_S, "its start")
        yield worker, Reader(counters)


def _watch(bench: Bench, duration_s: float, look: Callable[[float], Sample]) -> list[Sample]:
    gap_s = min(LONGEST_GAP_S, max(SHORTEST_GAP_S, duration_s / SAMPLES))
    began, told_s = time.monotonic(), 0.0
    samples: list[Sample] = []
    while (at_s := time.monotonic() - began) < duration_s or len(samples) < 2:
        samples.append(look(at_s))
        if at_s - told_s >= max(LONGEST_GAP_S, duration_s / 20):
            told_s, last = at_s, samples[-1]
            bench.say(f"soak: {at_s:,.0f} of {duration_s:,.0f} s, " + ", ".join(f"{n} {number(v)}" for n, v in last.series.items()))
        time.sleep(max(0.0, began + len(samples) * gap_s - time.monotonic()))
    return samples


def _sample(at_s: float, serving: Serving, worker: Process, client: Client, reader: Reader) -> Sample:
    told = client.ask("tell")
    if worker.exit_code is not None:
        raise worker.failed(f"ended with exit code {worker.exit_code} in the soak")
    kinds, collections, endless = _keys(serving)
    series = {
        "server MB": int(serving.info("memory")["used_memory"]) / MB,
        "worker MB": resident_bytes(worker.tree()) / MB,
        "client MB": resident_bytes([client.pid]) / MB,
        "keys": float(sum(kinds.values())),
        "keys without TTL": float(endless),
        "members": float(sum(collections.values()) - 3 * collections["dead"]),  # each with its body and its errors
        "dead too many": float(max(0, collections["dead"] - MOST_DEAD)),
    }
    return Sample(at_s, reader.count(), series, dict(kinds), dict(collections), told)


def _keys(serving: Serving) -> tuple[Counter[str], Counter[str], int]:
    """Keys by kind, members of collections by kind, and how many keys have no TTL."""
    kinds, collections, endless, cursor = Counter[str](), Counter[str](), 0, b"0"
    while True:
        cursor, keys = serving.ask("SCAN", cursor, "COUNT", 1000)
        for key in set(keys):
            kind = _kind_of(key)
            kinds[kind] += 1
            if kind in ("result", "seen"):
                endless += serving.ask("PTTL", key) == -1
                continue
            endless += serving.ask("PTTL", key) == -1
            size_of = _SIZE_OF.get(_text(serving.ask("TYPE", key)))
            if size_of:
                collections[kind] += serving.ask(size_of, key)
        if cursor == b"0":
            return kinds, collections, endless


def _kind_of(key: bytes) -> str:
    """ "result" of "{soak:default}:result:0190...", "jobs" of "{soak:default}:jobs"."""
    found = re.fullmatch(rf"\{{{NAMESPACE}(?::[^}}]*)?\}}:([a-z]+).*", key.decode(errors="replace"))
    return found[1] if found else "other"


def _text(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _missing(serving: Serving, worker: Process, reader: Reader, totals: dict[str, float]) -> int:
    """How many jobs have not ended when nothing is left to run."""
    base = f"{{{NAMESPACE}:default}}:"
    expected = round(totals["submitted"] - totals["doomed"])
    waiting = ("ready", "scheduled", "leases")
    with contextlib.suppress(TimeoutError):
        deadline = time.monotonic() + QUIET_TIMEOUT_S
        while any(serving.ask("ZCARD", base + name) for name in waiting):
            if worker.exit_code is not None or time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.05)
    return expected - reader.count()
