"""Table 9: the limit, so that every other table can be read as a share of it.

The same transitions as bare commands on the same keys, each with as many jobs as a batch has, packed before the clock starts and written to
the socket with several batches under way: what this server does for a client that has nothing else to do. No lease is checked, no script
runs, nothing is remembered for resends, so that no queue on these keys can be faster.

    submit  HSET jobs, ZADD ready
    run     ZRANGE ready, HMGET jobs, ZADD leases, ZREMRANGEBYRANK ready; then ZMSCORE leases, HDEL jobs, ZREM leases
"""

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import hiredis
from msgspec import Struct

from bananas.address import parse_url
from bananas.bench.load import payload
from bananas.bench.percentiles import US, percentile_figures
from bananas.bench.serving import TIMEOUT_S, Serving
from bananas.bench.session import Bench
from bananas.bench.sizes import Sizes
from bananas.bench.table import Figure, Row, Table, figure
from bananas.codec import pack_envelope
from bananas.errors import BrokerUnavailable
from bananas.job import Envelope
from bananas.keys import QueueKeys, id_suffix, new_id

KEY = "limit"
SIZES = {"100 B": 100, "1 KB": 1_000, "10 KB": 10_000, "100 KB": 100_000}
BATCH_SIZES = ("100 B", "1 KB")
COLUMNS = (*SIZES, "p50, 1 KB", *(f"server CPU, {size}" for size in BATCH_SIZES), *(f"client CPU, {size}" for size in BATCH_SIZES))
SUBMITS, RUNS = (100, 1_000), (10, 100, 1_000)
UNDER_WAY = 4  # batches written before the replies to the first are read
ONE_BY_ONE_LARGE = 10  # fewer operations of the sizes above 1 KB, by this factor
KEYS = QueueKeys("bench", "limit")
OWNER = ":bench00000000000:0000000001"  # as long as a lease's: the length decides how the server stores them
EXPIRY = 2**42


class Pushed(Struct, frozen=True):
    """One repetition: jobs per second, CPU in us per job, samples in ns where batches went one by one."""

    rate: float
    server_us: float
    client_us: float
    samples: list[int]


class _Batch(Struct, frozen=True):
    data: bytes
    replies: int


def _packed(commands: Iterable[Sequence[Any]]) -> _Batch:
    packed = [hiredis.pack_command(tuple(command)) for command in commands]
    return _Batch(b"".join(packed), len(packed))


def _submits(ids: Sequence[str], batch: int, body: bytes) -> Iterator[_Batch]:
    for begin in range(0, len(ids), batch):
        some = ids[begin : begin + batch]
        bodies = [part for job_id in some for part in (job_id, body)]
        scores = [part for number, job_id in enumerate(some, begin) for part in (number, job_id)]
        yield _packed([("HSET", KEYS.jobs, *bodies), ("ZADD", KEYS.ready, *scores)])


def _runs(ids: Sequence[str], batch: int) -> Iterator[_Batch]:
    """As a worker sends them: the outcomes of a batch together with the claim of the next."""
    ended: list[tuple[Any, ...]] = []
    for begin in range(0, len(ids), batch):
        some = ids[begin : begin + batch]
        members = [job_id + OWNER for job_id in some]
        leases = [part for member in members for part in (EXPIRY, member)]
        last = len(some) - 1
        claim = [
            ("ZRANGE", KEYS.ready, 0, last, "WITHSCORES"),
            ("HMGET", KEYS.jobs, *some),
            ("ZADD", KEYS.leases, *leases),
            ("ZREMRANGEBYRANK", KEYS.ready, 0, last),
        ]
        yield _packed([*ended, *claim])
        ended = [("ZMSCORE", KEYS.leases, *members), ("HDEL", KEYS.jobs, *some), ("ZREM", KEYS.leases, *members)]
    yield _packed(ended)


class _Pipe:
    """A bare socket: bytes out, replies in."""

    def __init__(self, url: str) -> None:
        address = parse_url(url)
        if address.path:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(address.path)
        else:
            self._socket = socket.create_connection((address.host, address.port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(TIMEOUT_S)
        self._reader, self._buffer = hiredis.Reader(notEnoughData=_Pipe), bytearray(1 << 18)
        self.write, self.close = self._socket.sendall, self._socket.close

    def read(self, count: int) -> None:
        """Read so many replies and forget them. Raises BrokerUnavailable for one that is an error."""
        reader, buffer = self._reader, self._buffer
        for _ in range(count):
            while (reply := reader.gets()) is _Pipe:
                size = self._socket.recv_into(buffer)
                if not size:
                    raise BrokerUnavailable("the benchmark's server closed the connection")
                reader.feed(buffer, 0, size)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # any buffer works
            if isinstance(reply, Exception):
                raise BrokerUnavailable(f"the benchmark's server refused a command: {reply}")


def _push(serving: Serving, url: str, batches: Sequence[_Batch], jobs: int, under_way: int) -> Pushed:
    """Write the batches, so many ahead of the replies that are read."""
    pipe = _Pipe(url)
    samples: list[int] = []
    before, cpu_s, began_ns = serving.usage(), time.process_time(), time.monotonic_ns()
    written = 0
    for answered, batch in enumerate(batches):
        began = time.monotonic_ns()
        while written < len(batches) and written < answered + under_way:
            pipe.write(batches[written].data)
            written += 1
        pipe.read(batch.replies)
        samples.append(time.monotonic_ns() - began)
    wall_s, cpu_s = (time.monotonic_ns() - began_ns) / 1e9, time.process_time() - cpu_s
    used = serving.usage().since(before)
    pipe.close()
    return Pushed(jobs / wall_s, 1e6 * used.cpu_s / jobs, 1e6 * cpu_s / jobs, samples if under_way == 1 else [])


def _new_ids(count: int) -> list[str]:
    suffix = id_suffix("noop", 500)
    return [new_id(suffix) for _ in range(count)]


def _body(size_bytes: int) -> bytes:
    return pack_envelope(Envelope("noop", (payload(size_bytes),)), 1 << 20)


def _one_by_one(serving: Serving, url: str, count: int, size_bytes: int) -> Pushed:
    serving.empty()
    return _push(serving, url, list(_submits(_new_ids(count), 1, _body(size_bytes))), count, 1)


def _submit(serving: Serving, batch: int, count: int, size_bytes: int) -> Pushed:
    serving.empty()
    return _push(serving, serving.url, list(_submits(_new_ids(count), batch, _body(size_bytes))), count, UNDER_WAY)


def _run(serving: Serving, batch: int, count: int, size_bytes: int) -> Pushed:
    serving.empty()
    ids = _new_ids(count)
    _push(serving, serving.url, list(_submits(ids, 1_000, _body(size_bytes))), count, UNDER_WAY)
    pushed = _push(serving, serving.url, list(_runs(ids, batch)), count, UNDER_WAY)
    assert serving.ask("DBSIZE") == 0, "the bare transitions left something behind"
    return pushed


def _variants(bench: Bench, sizes: Sizes, serving: Serving) -> dict[tuple[str, str], Callable[[], Pushed]]:
    """By row and size."""
    found: dict[tuple[str, str], Callable[[], Pushed]] = {}
    for transport in bench.transports:
        for size, size_bytes in SIZES.items():
            count = sizes.submits if size in BATCH_SIZES else max(1, sizes.submits // ONE_BY_ONE_LARGE)
            run = partial(_one_by_one, serving, serving.urls[transport], count, size_bytes)
            found[f"submit one by one, {transport}", size] = run
    for size in BATCH_SIZES:
        for batch in SUBMITS:
            found[f"submit, {batch:,} at once", size] = partial(_submit, serving, batch, sizes.limit_jobs, SIZES[size])
        for batch in RUNS:
            found[f"run, {batch:,} at once", size] = partial(_run, serving, batch, sizes.limit_jobs, SIZES[size])
    return found


def _row(label: str, runs: dict[str, list[Pushed]]) -> Row:
    """`runs`: by size."""
    samples = [run.samples for run in runs["1 KB"]]
    cells: dict[str, Figure | str] = dict.fromkeys(COLUMNS, "-")
    if all(samples):
        [cells["p50, 1 KB"]] = percentile_figures(samples, (50,), "us", US)
    for size, found in runs.items():
        cells[size] = figure((run.rate for run in found), "/s")
    for size in BATCH_SIZES:
        cells[f"server CPU, {size}"] = figure((run.server_us for run in runs[size]), "us")
        cells[f"client CPU, {size}"] = figure((run.client_us for run in runs[size]), "us")
    return Row(label, cells)


def measure(bench: Bench, sizes: Sizes) -> Table:
    """Bare commands of a submit and of a run, one job and up to 1,000 at once."""
    with bench.server() as serving:
        variants = _variants(bench, sizes, serving)  # all of them in a smoke run too: they take a moment
        outcomes = bench.interleaved(KEY, {f"{row}, {size}": run for (row, size), run in variants.items()})
    by_row: dict[str, dict[str, list[Pushed]]] = {}
    for row, size in variants:
        by_row.setdefault(row, {})[size] = outcomes[f"{row}, {size}"]
    return Table(
        KEY,
        "The limit",
        "What does the same server do for the bare minimum of commands, with no work around them?",
        COLUMNS,
        tuple(_row(row, runs) for row, runs in by_row.items()),
        (
            (
                f"{sizes.limit_jobs:,} jobs (one by one: {sizes.submits:,}), packed before the clock starts; one connection, {UNDER_WAY} "
                f"batches under way ({bench.transports[0]}). Submit: HSET and ZADD. Run: ZRANGE, HMGET, ZADD, ZREMRANGEBYRANK to claim; "
                "ZMSCORE, HDEL, ZREM to complete. No scripts, no lease checked, nothing remembered for resends."
            ),
            "A queue that does this work with fewer bytes or commands could be faster; one with these keys and guarantees cannot.",
        ),
        plot="100 B",
    )
