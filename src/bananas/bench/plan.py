"""`bananas plan`: capacity planning as a calculator. From a workload to slots, processes, server, memory and network, each with its sum.

The core is pure: `plan(workload, costs)` is arithmetic, and more of any demand never needs less of anything. It plans for the steady state
and for the worst of what may be stored: a full backlog, every result until the end of its TTL, a full dead letter queue. A figure is
rounded up where it is bought by the piece.

Head room: slots are busy for 80 % of the time, so that a burst finds a free one; a worker's core is busy for 70 %; a server, which has one
thread for commands, for 60 %; and the server's memory is 1.25 times what is stored, for buffers, fragmentation and a rewrite's copies.

The costs per job are measured ones where a bench's file is given. The defaults are those of jobs that travel one by one, at 10 slots with
results, on a slow core: under load, batches make them several times less. The sizes are of Redis 7.0 (Valkey needs less): measured with
jobs of 100 B to 100 KB, what is stored takes at most 1.2 times its size (the allocator's classes) and 350 B.
"""

import math
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Struct

from bananas.bench.table import Figure, Table, with_unit
from bananas.config import Kind, parse_duration, parse_size
from bananas.errors import ConfigError

SLOT_SHARE, CORE_SHARE, SERVER_SHARE, MEMORY_FACTOR = 0.8, 0.7, 0.6, 1.25
STORED_FACTOR, STORED_BYTES = 1.2, 350
LEASE_BYTES, ERRORS_BYTES, COMMAND_BYTES = 250, 4_000, 600
MICROSECOND = 1e-6


class Workload(Struct, frozen=True, kw_only=True):
    """What is asked for.

    Attributes:
        rate: jobs submitted per second; retries: runs beyond the first, per job on average (0.05: one job in twenty runs twice).
        duration_s: how long one run takes; cpu_s: how much of it is computing (0: it waits for others).
        slots: jobs at once per worker process; processes_per_host: None where hosts are not asked for.
        result_ttl_s: 0 keeps no results. backlog_s: how long the workers may be away while submits go on.
    """

    rate: float
    duration_s: float
    payload_bytes: int
    cpu_s: float = 0.0
    retries: float = 0.0
    slots: int = 10
    processes_per_host: int | None = None
    result_bytes: int = 100
    result_ttl_s: float = 3600.0
    backlog_s: float = 600.0
    dead_count: int = 10_000


class Costs(Struct, frozen=True):
    """Microseconds of CPU per job: to submit it, to run it (without its handler), and in the server for both."""

    client_us: float = 120.0
    worker_us: float = 80.0
    server_us: float = 80.0


class Step(Struct, frozen=True):
    """One figure in words, and the sum that it comes from."""

    name: str
    figure: str
    because: str


class Plan(Struct, frozen=True, kw_only=True):
    """What a workload needs. Bytes are totals over all primaries; network is per second, of the server."""

    busy_slots: float
    slots: int
    processes: int
    hosts: int | None
    worker_cores: int
    producer_cores: int
    server_share: float
    primaries: int
    backlog_bytes: int
    running_bytes: int
    results_bytes: int
    dead_bytes: int
    server_bytes: int
    network_in_bytes_s: int
    network_out_bytes_s: int
    steps: tuple[Step, ...] = ()


def plan(workload: Workload, costs: Costs) -> Plan:
    """What the workload needs, and why. `workload` is taken as it is: see `read_workload` for its checks."""
    w = workload
    runs = w.rate * (1 + w.retries)
    busy = runs * w.duration_s
    slots = max(1, _up(busy / SLOT_SHARE))
    computing = runs * (costs.worker_us * MICROSECOND + w.cpu_s)
    cores = max(1, _up(computing / CORE_SHARE))
    processes = max(_up(slots / w.slots), cores)
    server_share = runs * costs.server_us * MICROSECOND
    job_bytes, result_bytes = _stored(w.payload_bytes), _stored(w.result_bytes)
    backlog, running = _up(w.rate * w.backlog_s * job_bytes), _up(slots * (job_bytes + LEASE_BYTES))
    results, dead = _up(w.rate * w.result_ttl_s * result_bytes), _up(w.dead_count * (job_bytes + ERRORS_BYTES))
    answered = w.result_bytes if w.result_ttl_s else 0
    made = Plan(
        busy_slots=busy,
        slots=slots,
        processes=processes,
        hosts=w.processes_per_host and _up(processes / w.processes_per_host),
        worker_cores=cores,
        producer_cores=max(1, _up(w.rate * costs.client_us * MICROSECOND / CORE_SHARE)),
        server_share=server_share,
        primaries=max(1, _up(server_share / SERVER_SHARE)),
        backlog_bytes=backlog,
        running_bytes=running,
        results_bytes=results,
        dead_bytes=dead,
        server_bytes=_up((backlog + running + results + dead) * MEMORY_FACTOR),
        network_in_bytes_s=_up(w.rate * (w.payload_bytes + COMMAND_BYTES) + runs * (2 * COMMAND_BYTES + answered)),
        network_out_bytes_s=_up(runs * (w.payload_bytes + COMMAND_BYTES) + w.rate * answered),
    )
    return msgspec.structs.replace(made, steps=(*_worker_steps(w, costs, made), *_server_steps(w, costs, made)))


def _up(value: float) -> int:
    """The next whole number; what floats add to an exact one is no reason to buy one more."""
    return math.ceil(round(value, 6))


def _stored(size_bytes: int) -> float:
    return size_bytes * STORED_FACTOR + STORED_BYTES


# --- in words ---------------------------------------------------------------------------------------------------------


def _worker_steps(w: Workload, costs: Costs, made: Plan) -> list[Step]:
    runs = w.rate * (1 + w.retries)
    each = f"({costs.worker_us:g} us + {_time(w.cpu_s)} of the handler)" if w.cpu_s else f"{costs.worker_us:g} us"
    by_slots = f"{made.slots:,} slots / {w.slots} per process = {_up(made.slots / w.slots):,}"
    steps = [
        Step("runs per second", f"{runs:,.6g}/s", f"{w.rate:,.6g} jobs/s x (1 + {w.retries:g} retries)"),
        Step("busy slots", f"{made.busy_slots:,.6g}", f"{runs:,.6g} runs/s x {_time(w.duration_s)} (Little's law)"),
        Step("slots", f"{made.slots:,}", f"{made.busy_slots:,.6g} / {SLOT_SHARE:g}, so that one in five is free for a burst"),
        Step("worker cores", f"{made.worker_cores:,}", f"{runs:,.6g} runs/s x {each} / {CORE_SHARE:g} of a core"),
        Step("worker processes", f"{made.processes:,}", f"the greater of {by_slots} and {made.worker_cores:,} for as many cores"),
    ]
    if made.hosts is not None:
        steps.append(Step("worker hosts", f"{made.hosts:,}", f"{made.processes:,} processes / {w.processes_per_host} per host"))
    submitting = f"{w.rate:,.6g} jobs/s x {costs.client_us:g} us / {CORE_SHARE:g} of a core"
    return [*steps, Step("producer cores", f"{made.producer_cores:,}", submitting)]


def _server_steps(w: Workload, costs: Costs, made: Plan) -> list[Step]:
    runs = w.rate * (1 + w.retries)
    job, result = _stored(w.payload_bytes), _stored(w.result_bytes)
    parts = " + ".join(_size(part) for part in (made.backlog_bytes, made.running_bytes, made.results_bytes, made.dead_bytes))
    answered = w.result_bytes if w.result_ttl_s else 0
    incoming = f"{w.rate:,.6g} x ({w.payload_bytes:,} + {COMMAND_BYTES} B) + {runs:,.6g} x (2 x {COMMAND_BYTES} + {answered:,} B)"
    outgoing = f"{runs:,.6g} x ({w.payload_bytes:,} + {COMMAND_BYTES} B) + {w.rate:,.6g} x {answered:,} B"
    return [
        Step("server CPU", f"{made.server_share:.1%} of a core", f"{runs:,.6g} runs/s x {costs.server_us:g} us"),
        Step("primaries", f"{made.primaries:,}", f"{made.server_share:.1%} / {SERVER_SHARE:.0%} of one core each"),
        Step("memory: backlog", _size(made.backlog_bytes), f"{w.rate:,.6g} jobs/s x {_time(w.backlog_s)} x {job:,.6g} B"),
        Step("memory: running", _size(made.running_bytes), f"{made.slots:,} slots x ({job:,.6g} + {LEASE_BYTES} B)"),
        Step("memory: results", _size(made.results_bytes), f"{w.rate:,.6g} jobs/s x {_time(w.result_ttl_s)} x {result:,.6g} B"),
        Step("memory: dead letters", _size(made.dead_bytes), f"{w.dead_count:,} x ({job:,.6g} + {ERRORS_BYTES:,} B)"),
        Step("server memory", _size(made.server_bytes), f"({parts}) x {MEMORY_FACTOR:g}"),
        Step("network in", f"{_size(made.network_in_bytes_s)}/s", incoming),
        Step("network out", f"{_size(made.network_out_bytes_s)}/s", outgoing),
    ]


def _size(size_bytes: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size_bytes >= factor:
            return with_unit(size_bytes / factor, unit)
    return with_unit(size_bytes, "B")


def _time(duration_s: float) -> str:
    unit, factor = ("us", 1e6) if duration_s < 0.001 else ("ms", 1e3) if duration_s < 1 else ("s", 1)
    return f"{duration_s * factor:,.6g} {unit}" if duration_s else "0 s"


# --- the command ------------------------------------------------------------------------------------------------------


def _number(low: float, high: float, example: str) -> Kind[float]:
    def parse(value: object) -> float:
        number = float(str(value))
        if not low <= number <= high:  # NaN is nowhere
            raise ValueError
        return number

    return Kind(f"a number from {low:,.15g} to {high:,.15g}", example, parse)


def _whole(value: str, what: str, low: int = 1) -> int:
    number = _number(low, 10**6, "10").read(value, what)
    if number != int(number):
        raise ConfigError(f"{what} is {value!r}: give a whole number, for example {math.ceil(number)}.")
    return int(number)


def read_workload(given: dict[str, str]) -> Workload:
    """A workload from options as they were typed, in the forms that settings take ("50ms", "1h", "10KB", "64KiB").

    Raises:
        ConfigError: a value that cannot be read, by the name of its option.
    """
    per_host = given.get("processes_per_host")
    result = given["result_size"]
    return Workload(
        rate=_number(0, 10**7, "10000").read(given["rate"], "--rate"),
        duration_s=parse_duration(given["duration"], "--duration"),
        payload_bytes=parse_size(given["payload"], "--payload"),
        cpu_s=parse_duration(given["cpu"], "--cpu"),
        retries=_number(0, 1000, "0.05").read(given["retries_share"], "--retries-share"),
        slots=_whole(given["slots"], "--slots"),
        processes_per_host=None if per_host is None else _whole(per_host, "--processes-per-host"),
        result_bytes=0 if result == "0" else parse_size(result, "--result-size"),
        result_ttl_s=parse_duration(given["result_ttl"], "--result-ttl"),
        backlog_s=parse_duration(given["backlog"], "--backlog"),
        dead_count=_whole(given["dead"], "--dead", 0),
    )


def read_costs(path: Path) -> Costs:
    """The costs per job that a bench measured: of the file of `bananas bench --json`, or of {"client_us": ..., "worker_us": ...}.

    Raises:
        ConfigError: it is no such file, or has no table of costs.
    """
    try:
        read = msgspec.json.decode(path.read_bytes())
        measured = read if isinstance(read, dict) and "worker_us" in read else _measured(read)
        return msgspec.convert(measured, Costs)
    except (OSError, LookupError, TypeError, ValueError, msgspec.MsgspecError) as error:
        way_out = 'give the file of `bananas bench --only cost --json FILE`, or {"client_us": 120, "worker_us": 80, "server_us": 80}'
        raise ConfigError(f"--costs {path} has no costs per job ({error}): {way_out}.") from None


def _measured(report: Any) -> dict[str, float]:
    tables = report["tables"] if isinstance(report, dict) else report
    (cost,) = (msgspec.convert(table, Table) for table in tables if table["key"] == "cost")
    us = {row.label: cell.headline for row in cost.rows if isinstance(cell := row.cells.get("measured"), Figure)}
    return {
        "client_us": us["client CPU, submit one by one"],
        "worker_us": us["worker CPU, run and keep the result"],
        "server_us": us["server CPU, submit one by one"] + us["server CPU, run and keep the result"],
    }


def as_text(made: Plan, costs: Costs) -> str:
    """A line per figure with its sum."""
    name, figure = max(len(step.name) for step in made.steps), max(len(step.figure) for step in made.steps)
    lines = [f"{step.name:<{name}}  {step.figure:>{figure}}  = {step.because}" for step in made.steps]
    source = "the defaults, for jobs one by one; --costs FILE takes measured ones" if costs == Costs() else "measured"
    return "\n".join(
        [*lines, f"CPU per job: client {costs.client_us:g}, worker {costs.worker_us:g}, server {costs.server_us:g} us ({source})"]
    )


@click.command("plan")
@click.option("--rate", default="10000", show_default=True, metavar="N", help="Jobs submitted per second.")
@click.option("--duration", default="50ms", show_default=True, metavar="TIME", help="How long one run takes.")
@click.option("--payload", default="1KB", show_default=True, metavar="SIZE", help="A job's arguments.")
@click.option("--cpu", default="0", show_default=True, metavar="TIME", help="How much of a run is computing, not waiting.")
@click.option("--retries-share", default="0", show_default=True, metavar="N", help="Runs beyond the first per job, on average.")
@click.option("--slots", default="10", show_default=True, metavar="N", help="Jobs at once per worker process.")
@click.option("--processes-per-host", metavar="N", help="Worker processes that a host has room for.")
@click.option("--result-size", default="100", show_default=True, metavar="SIZE", help="A stored result.")
@click.option("--result-ttl", default="1h", show_default=True, metavar="TIME", help="How long results are kept, 0 = not at all.")
@click.option("--backlog", default="10m", show_default=True, metavar="TIME", help="How long workers may be away while submits go on.")
@click.option("--dead", default="10000", show_default=True, metavar="N", help="Dead letters kept, over all queues.")
@click.option("--costs", "costs_path", type=click.Path(path_type=Path), help="Costs per job that `bananas bench --json` measured.")
@click.option("--json", "as_json", is_flag=True, help="The plan as JSON.")
def plan_command(costs_path: Path | None, as_json: bool, **given: str) -> None:
    """How many workers, and how large a server, a workload needs; each figure with its sum."""
    costs = read_costs(costs_path) if costs_path else Costs()
    made = plan(read_workload(given), costs)
    click.echo(msgspec.json.format(msgspec.json.encode(made)).decode() if as_json else as_text(made, costs))
