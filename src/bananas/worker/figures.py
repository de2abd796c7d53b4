"""What the processes of one worker have counted since it started, and how they are, for Prometheus."""

import threading
from collections.abc import Mapping, Sequence

from bananas.exposition import Gauge, exposition
from bananas.tally import Counts, merged, read_fields
from bananas.worker.health import Health
from bananas.worker.process import ChildProcess


class Figures:
    """The counts of one worker, of processes that are gone too. Filled by one thread and read by another."""

    def __init__(self) -> None:
        self._counted: dict[str, dict[str, Counts]] = {}
        self._lock = threading.Lock()

    def add(self, counted: Mapping[str, Mapping[str, str]]) -> None:
        """Take in what a process has counted since the last time, by queue."""
        with self._lock:
            for queue, fields in counted.items():
                name = queue.partition(".")[0]
                self._counted[name] = merged([self._counted.get(name, {}), read_fields(fields)[0]])

    def text(self, health: Health, children: Sequence[ChildProcess]) -> bytes:
        """What a scraper reads. Raises ImportError: prometheus-client is not installed."""
        with self._lock:
            counted = merged_tables(self._counted)
        return exposition(counted, [*_of_worker(health), *_of_processes(children)])


def merged_tables(tables: Mapping[str, Mapping[str, Counts]]) -> dict[str, dict[str, Counts]]:
    """A copy that nobody else fills."""
    return {queue: merged([tasks]) for queue, tasks in tables.items()}


def _of_worker(health: Health) -> list[Gauge]:
    return [
        Gauge("bananas_worker_live", "1: its loops turn.", (), [((), float(health.live))]),
        Gauge("bananas_worker_ready", "1: it takes jobs.", (), [((), float(health.ready))]),
    ]


def _of_processes(children: Sequence[ChildProcess]) -> list[Gauge]:
    slots: list[tuple[Sequence[str], float]] = []
    busy: list[tuple[Sequence[str], float]] = []
    for child in children:
        if child.hello is not None and not child.ended:
            pid = (str(child.pid),)
            slots.append((pid, float(child.hello.slots if child.hello.claims else 0)))
            busy.append((pid, float(sum(len(leases) for leases in child.held().values()))))
    return [
        Gauge("bananas_worker_slots", "Jobs that a process runs at once.", ("pid",), slots),
        Gauge("bananas_worker_busy", "Jobs that it holds.", ("pid",), busy),
    ]
