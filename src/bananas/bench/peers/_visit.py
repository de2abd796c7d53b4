"""One repetition for one peer: the same eight pieces of work for each, one after the other, on a server that is emptied in between.

A piece that fails is told with its reason, and the others go on; it is not tried again in later repetitions.
"""

import contextlib
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bananas.bench.cost import client_commands
from bananas.bench.counter import Reader
from bananas.bench.peers._installed import PeerUnavailable
from bananas.bench.peers._running import Client, Peer, Profile
from bananas.bench.processes import Process, ProcessFailed, resident_bytes
from bananas.bench.serving import Serving
from bananas.bench.session import Bench
from bananas.bench.sizes import Sizes

JOB_BYTES, QUEUED_BYTES, SLEEP_S = 100, 1_000, 0.05
FIRST_JOB_TIMEOUT_S = 30.0
CLIENTS = 100
MOST_PICK_UPS, MOST_CALLS, MOST_QUEUED = 200, 100, 5_000
PICK_UP_GAP_S, CALL_GAP_S = (0.005, 0.05), (0.002, 0.006)
IDLE_SETTLE_S = 1.0
LONGER = 3
WARM_UP, WARM_UP_SHARE = 100, 0.1  # submits, and jobs of a worker, before either is measured; of a small run so much of it
WARM_UP_GAP_S = (0.001, 0.002)


class Visit:
    """What one repetition gave.

    Attributes:
        figures: single numbers by column. latencies: in ns, every sample, by column.
        failures: reasons by the name of the piece of work.
    """

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}
        self.latencies: dict[str, list[int]] = {}
        self.failures: dict[str, str] = {}


class Visitor:
    """Repeats the work for one peer."""

    def __init__(self, bench: Bench, peer: Peer, sizes: Sizes, server: Callable[[], contextlib.AbstractContextManager[Serving]]) -> None:
        self._bench, self._peer, self._sizes, self._server = bench, peer, sizes, server
        self._failed: set[str] = set()
        self._warm_up = min(WARM_UP, max(1, round(WARM_UP_SHARE * sizes.peer_jobs)))

    def visit(self) -> Visit:
        """One repetition."""
        work = (self._submit, self._drain, self._drain_two, self._queued, self._io, self._idle, self._call)
        made = Visit()
        with self._server() as serving:
            for piece in work:
                name = piece.__name__.strip("_")
                if name in self._failed:
                    continue
                serving.empty()
                try:
                    piece(serving, made)
                except (PeerUnavailable, ProcessFailed) as error:
                    self._failed.add(name)
                    made.failures[name] = " ".join(str(error).split())[-300:]
        return made

    # --- the work ---

    def _submit(self, serving: Serving, made: Visit) -> None:
        order: dict[str, Any] = {"task": "noop", "size": QUEUED_BYTES, "n": self._sizes.submits, "cap_s": self._sizes.cap_s}
        with self._client(serving) as client:
            client.ask("warm_up", n=self._warm_up)
            before = serving.usage()
            answer = client.ask("one_by_one", **order)
            calls = serving.usage().since(before).calls
            made.figures["submit"] = answer["n"] / answer["wall_s"]
            made.figures["commands to submit"] = sum(calls.values()) / (answer["n"] + 1)  # the first is not timed
            made.latencies["submit p50"] = answer["ns"]
            order |= {"clients": CLIENTS, "n": self._sizes.submits + CLIENTS}
            many = client.ask("clients", **order)
            made.figures["100 clients"] = many["n"] / many["wall_s"]

    def _drain(self, serving: Serving, made: Visit) -> None:
        answer = self._fill(serving, "noop", self._sizes.peer_jobs, warm_up=self._warm_up)
        made.figures["bulk"] = answer["n"] / answer["wall_s"]
        before = serving.usage()
        rate, done = self._emptied(serving, "drain", self._warm_up + answer["n"], 1)
        made.figures["drain, 1 process"] = rate
        made.figures["commands to run"] = sum(serving.usage().since(before).calls.values()) / done

    def _drain_two(self, serving: Serving, made: Visit) -> None:
        jobs = LONGER * self._sizes.peer_jobs  # so that the start of the second is a small part
        answer = self._fill(serving, "noop", jobs, warm_up=self._warm_up)
        made.figures["drain, 2 processes"] = self._emptied(serving, "drain", self._warm_up + answer["n"], 2)[0]

    def _queued(self, serving: Serving, made: Visit) -> None:
        """Memory with no client connected, before and after: connections take some, and more at first."""
        self._fill(serving, "noop", self._peer.declared.chunk, QUEUED_BYTES)
        before = _memory_bytes(serving)
        answer = self._fill(serving, "noop", min(MOST_QUEUED, self._sizes.peer_jobs), QUEUED_BYTES)
        made.figures["server per queued KB"] = (_memory_bytes(serving) - before) / answer["n"]

    def _io(self, serving: Serving, made: Visit) -> None:
        slots = self._peer.declared.slots("io")
        warm_up = min(self._warm_up, slots)  # of jobs that do not sleep: of few, they would be most
        answer = self._fill(serving, "sleep", self._sizes.io_waves * slots, warm_up=warm_up)
        rate, _ = self._emptied(serving, "io", warm_up + answer["n"], 1, warm_up)
        made.figures["I/O of ideal"] = 100 * rate * SLEEP_S / slots

    def _idle(self, serving: Serving, made: Visit) -> None:
        count = min(self._sizes.pick_ups, MOST_PICK_UPS)
        with self._at_work(serving, results=False) as (client, worker, reader):
            before_ns = len(reader.samples(0))
            made.figures["idle worker"] = proportional_bytes(worker.tree()) / 1e6
            made.figures["idle commands"] = client_commands(serving, self._sizes.idle_s) / self._sizes.idle_s
            client.ask("pick_up", needs=worker, n=count, gap_s=PICK_UP_GAP_S)
            samples = _settled_samples(reader, before_ns + count)[before_ns:]
        made.latencies["pick-up p50"] = made.latencies["pick-up p99"] = list(samples)

    def _call(self, serving: Serving, made: Visit) -> None:
        with self._at_work(serving, results=True) as (client, worker, _):
            count = min(self._sizes.pick_ups, MOST_CALLS)
            answer = client.ask("call", needs=worker, n=count, warm=self._warm_up, gap_s=CALL_GAP_S)
        made.latencies["submit and wait p50"] = answer["ns"]

    # --- what it takes ---

    def _client(self, serving: Serving) -> contextlib.AbstractContextManager[Client]:
        return self._peer.client(serving.url, self._bench.new_counters())

    def _fill(self, serving: Serving, task: str, count: int, size_bytes: int = JOB_BYTES, *, warm_up: int = 0) -> dict[str, Any]:
        """Queue jobs in bulk, behind those of a warm-up, which the answer does not count."""
        with self._client(serving) as client:
            client.ask("warm_up", n=warm_up)
            chunk = min(self._peer.declared.chunk, count)
            return client.ask("bulk", task=task, size=size_bytes, n=count, chunk=chunk, cap_s=self._sizes.cap_s)

    @contextlib.contextmanager
    def _at_work(self, serving: Serving, *, results: bool) -> Any:
        """A client and an idle worker, warm."""
        counters = self._bench.new_counters()
        with (
            self._peer.client(serving.url, counters, results=results) as client,
            self._peer.worker("idle", serving.url, counters, results=results) as worker,
        ):
            reader = Reader(counters)
            client.ask("pick_up", needs=worker, n=self._warm_up, gap_s=WARM_UP_GAP_S)
            time.sleep(min(IDLE_SETTLE_S, self._sizes.idle_s))
            yield client, worker, reader

    def _emptied(self, serving: Serving, profile: Profile, count: int, processes: int, warm_up: int | None = None) -> tuple[float, int]:
        """Let workers run what is queued, at most for some time. Returns jobs per second, and how many were run.

        The clock starts when the jobs of the warm-up are done and, with several processes, each of them has run one: their start is in no
        figure. One process that has done more than half of so few jobs before that was seen is timed from its first one.
        """
        counters = self._bench.new_counters()
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(self._peer.worker(profile, serving.url, counters)) for _ in range(processes)]
            reader = Reader(counters)
            workers[0].wait_for(lambda: reader.count() > 0, FIRST_JOB_TIMEOUT_S, "its first job", 0.001)
            from_ns, from_count = reader.first_start_ns(), 0
            deadline = time.monotonic() + max(self._sizes.cap_s, 2 * SLEEP_S * self._sizes.io_waves)
            while (done := reader.count()) < count and time.monotonic() < deadline:
                if not from_count and done >= (self._warm_up if warm_up is None else warm_up) and _have_begun(reader, processes):
                    from_ns, from_count = time.monotonic_ns(), reader.count()
                time.sleep(0.001)
            _raise_if_ended(workers)
            done, last_ns = reader.count(), reader.last_end_ns()
        if processes == 1 and 2 * from_count > done:
            from_ns, from_count = reader.first_start_ns(), 0
        if (processes > 1 and not from_count) or done <= from_count or last_ns <= from_ns:
            raise PeerUnavailable(f"{done} of {count} jobs were run, all before the last process had begun: too few for a figure")
        return (done - from_count) / ((last_ns - from_ns) / 1e9), done


def _memory_bytes(serving: Serving) -> int:
    """What the server has allocated, once nobody but the benchmark is connected."""
    deadline = time.monotonic() + 5.0
    while int(serving.info("clients")["connected_clients"]) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    return int(serving.info("memory")["used_memory"])


def proportional_bytes(pids: Sequence[int]) -> int:
    """Memory of these processes, a page that several share counted once in all (PSS); where the system does not tell, resident memory."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
        except OSError:
            return resident_bytes(pids)
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total


def _have_begun(reader: Reader, processes: int) -> bool:
    return sum(count > 0 for count in reader.counts()) >= processes


def _raise_if_ended(workers: list[Process]) -> None:
    for worker in workers:
        if worker.exit_code is not None:
            raise worker.failed(f"ended with exit code {worker.exit_code} while it had work")


def _settled_samples(reader: Reader, count: int) -> "array[int]":
    """All samples when there are so many; a runtime that cannot map files writes them a little later."""
    deadline = time.monotonic() + 1.0
    while len(samples := reader.samples(0)) < count and time.monotonic() < deadline:
        time.sleep(0.005)
    return samples
