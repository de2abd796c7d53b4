"""Table 3: the transitions by themselves, one job at a time and 100, as a worker and a client send them.

There is no public call for a claim: this table speaks to the server through `bananas.broker`, as workers do, over one blocking connection.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bananas import broker
from bananas.address import parse_url
from bananas.bench.load import payload
from bananas.bench.percentiles import US, mean, percentile_figures
from bananas.bench.serving import TIMEOUT_S, Serving
from bananas.bench.session import Bench
from bananas.bench.sizes import Sizes
from bananas.bench.table import Row, Table, figure
from bananas.bench.tasks import NAMESPACE
from bananas.broker import Burial, Comeback, Ending, NewJob, Request
from bananas.codec import pack_envelope
from bananas.connection import SyncConnection
from bananas.job import Envelope
from bananas.keys import QueueKeys, id_suffix, new_id
from bananas.session import answer, run_sync

KEY = "operations"
COLUMNS = ("jobs/s", "calls/s", "mean", "p50", "p95", "p99", "server CPU")
BATCHES = (1, 100)
OPERATIONS = ("enqueue", "claim", "complete", "fail, to retry", "fail, dead")
LEASE_MS = 600_000
RETRY_MS = 86_400_000
TRIES = b"\x95\x01\x00\x00\x00\xc0"  # one attempt, no crash: as small as packed tries get
BOOT = "bench00000000000"


class Measured:
    """One repetition of one operation: samples in ns, CPU of the server in us per job."""

    def __init__(self, samples: list[int], jobs: int, server_cpu_s: float) -> None:
        self.samples, self.jobs, self.server_cpu_s = samples, jobs, server_cpu_s
        self.rate = jobs / (sum(samples) / 1e9)
        self.calls = len(samples) / (sum(samples) / 1e9)
        self.server_us = 1e6 * server_cpu_s / jobs


class Driver:
    """One connection that does transitions on one queue, and times them."""

    def __init__(self, serving: Serving, queue: str, transport: str) -> None:
        self.serving, self.keys = serving, QueueKeys(NAMESPACE, queue)
        self._connection = SyncConnection(parse_url(serving.urls[transport]), "bench", TIMEOUT_S)
        self._suffix = id_suffix("noop", 500)
        self._body = pack_envelope(Envelope("noop", (payload(100),)), 1_000_000)
        self._number = 0

    def number(self) -> int:
        """The next number of a batch."""
        self._number += 1
        return self._number

    def call(self, request: Request[Any]) -> Any:
        """Run one request. Raises the BrokerError that it comes to."""
        return answer(run_sync(self._connection, [request], TIMEOUT_S)[0])

    def jobs(self, count: int) -> list[NewJob]:
        """New jobs of 100 B."""
        return [NewJob(new_id(self._suffix), self._body) for _ in range(count)]

    def claim(self, count: int) -> Request[broker.Claim]:
        """A claim under the next number."""
        return broker.claim(self.keys, BOOT, self.number(), count, LEASE_MS)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def members(claim: broker.Claim) -> list[bytes]:
    """The leases that a claim gave."""
    owner = f":{BOOT}:{claim.fence:010d}".encode()
    return [raw_id + owner for raw_id in claim.ids_and_scores[: 2 * len(claim.bodies) : 2]]


def _timed(driver: Driver, batch: int, requests: Sequence[Request[Any]]) -> tuple[Measured, list[Any]]:
    """Run the requests one after the other."""
    samples, replies, clock = [], [], time.monotonic_ns
    before = driver.serving.usage()
    for request in requests:
        began = clock()
        reply = driver.call(request)
        samples.append(clock() - began)
        replies.append(reply)
    used = driver.serving.usage().since(before)
    return Measured(samples, batch * len(samples), used.cpu_s), replies


def run_operations(serving: Serving, batch: int, count: int, transport: str) -> dict[str, Measured]:
    """Do each operation `count` times on `batch` jobs at once."""
    serving.empty()
    driver = Driver(serving, "operations", transport)
    found: dict[str, Measured] = {}

    def measured(name: str, requests: Sequence[Request[Any]]) -> list[Any]:
        run, replies = _timed(driver, batch, requests)
        earlier = found.get(name)
        if earlier is not None:
            run = Measured(earlier.samples + run.samples, earlier.jobs + run.jobs, earlier.server_cpu_s + run.server_cpu_s)
        found[name] = run
        return replies

    def claimed() -> list[list[bytes]]:
        measured("enqueue", [broker.enqueue(driver.keys, BOOT, driver.number(), driver.jobs(batch)) for _ in range(count)])
        return [members(claim) for claim in measured("claim", [driver.claim(batch) for _ in range(count)])]

    endings: dict[str, Callable[[list[bytes]], Request[Any]]] = {
        "complete": lambda held: broker.complete(
            driver.keys, BOOT, driver.number(), [Ending(member) for member in held], full=False, dropped=b""
        ),
        "fail, to retry": lambda held: broker.retry(
            driver.keys, BOOT, driver.number(), [Comeback(member, RETRY_MS, TRIES) for member in held]
        ),
        "fail, dead": lambda held: broker.bury(
            driver.keys, BOOT, driver.number(), [Burial(member, TRIES) for member in held], full=False, dropped=b""
        ),
    }
    for name, ending in endings.items():
        replies = measured(name, [ending(held) for held in claimed()])
        assert all(all(reply) for reply in replies), "a lease was lost"
    driver.close()
    return {name: found[name] for name in OPERATIONS}


def _row(label: str, runs: list[Measured]) -> Row:
    cells = (
        figure((run.rate for run in runs), "/s"),
        figure((run.calls for run in runs), "/s"),
        figure((mean(run.samples) / US for run in runs), "us"),
        *percentile_figures([run.samples for run in runs], (50, 95, 99), "us", US),
        figure((run.server_us for run in runs), "us"),
    )
    return Row(label, dict(zip(COLUMNS, cells, strict=True)))


def measure(bench: Bench, sizes: Sizes) -> Table:
    """Enqueue, claim, complete and fail, one job and 100 at once."""
    transport = bench.transports[0]
    counts = {batch: max(2, sizes.operations // (1 if batch == 1 else 10)) for batch in BATCHES}
    with bench.server() as serving:
        variants = {str(batch): partial(run_operations, serving, batch, count, transport) for batch, count in counts.items()}
        outcomes = bench.interleaved(KEY, variants)
    rows = tuple(_row(f"{name}, {batch} at once", [run[name] for run in outcomes[str(batch)]]) for batch in BATCHES for name in OPERATIONS)
    return Table(
        KEY,
        "Single operations",
        "What does one transition of one job take, and of 100 jobs at once?",
        COLUMNS,
        rows,
        (
            (
                f"One connection ({transport}), jobs of 100 B, each operation {counts[1]:,} times at one job and {counts[100]:,} times at "
                "100, each awaited before the next. Server CPU per job."
            ),
            "These are the scripts as clients and workers send them, without the work around them (packing, running a handler).",
        ),
        plot="jobs/s",
    )
