"""Capacity planning: sums that are checked by hand, and that more demand never needs less."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bananas.bench.plan import Costs, Plan, Workload, plan, plan_command, read_costs
from bananas.bench.table import Row, Table, figure
from bananas.errors import ConfigError

COSTS = Costs(client_us=100, worker_us=70, server_us=30)
WORKLOAD = Workload(
    rate=10_000, duration_s=0.05, payload_bytes=10_000, result_bytes=100, result_ttl_s=3600, backlog_s=600, dead_count=10_000
)


def test_slots_follow_from_littles_law_with_head_room() -> None:
    made = plan(WORKLOAD, COSTS)
    assert made.busy_slots == 500  # 10,000/s x 50 ms
    assert made.slots == 625  # 500 / 0.8


def test_processes_have_room_for_the_slots() -> None:
    assert plan(WORKLOAD, COSTS).processes == 63  # 625 / 10
    assert plan(msgspec.structs.replace(WORKLOAD, slots=100), COSTS).processes == 7


def test_processes_are_never_fewer_than_the_cores_that_they_compute_on() -> None:
    made = plan(msgspec.structs.replace(WORKLOAD, slots=1000, cpu_s=0.002), COSTS)
    assert made.worker_cores == 30  # 10,000 x (70 us + 2 ms) = 20.7 cores, / 0.7 = 29.6
    assert made.processes == 30  # not 625 / 1000 = 1


def test_hosts_hold_the_processes() -> None:
    assert plan(WORKLOAD, COSTS).hosts is None
    assert plan(msgspec.structs.replace(WORKLOAD, processes_per_host=8), COSTS).hosts == 8  # 63 / 8 = 7.9


def test_retries_are_runs_too() -> None:
    made = plan(msgspec.structs.replace(WORKLOAD, retries=0.2), COSTS)
    assert made.busy_slots == 600
    assert made.server_share == pytest.approx(0.36)  # 12,000 x 30 us


def test_cores_of_producers_and_server() -> None:
    made = plan(WORKLOAD, COSTS)
    assert made.worker_cores == 1  # 10,000 x 70 us / 0.7 = exactly one
    assert made.producer_cores == 2  # 10,000 x 100 us / 0.7 = 1.43
    assert (made.server_share, made.primaries) == (pytest.approx(0.3), 1)
    assert plan(msgspec.structs.replace(WORKLOAD, rate=50_000), COSTS).primaries == 3  # 150 % / 60 %


def test_server_memory_is_all_that_may_be_stored() -> None:
    made = plan(WORKLOAD, COSTS)
    job = 12_350  # 1.2 x 10,000 + 350
    assert made.backlog_bytes == 6_000_000 * job == 74_100_000_000
    assert made.running_bytes == 625 * (job + 250) == 7_875_000
    assert made.results_bytes == 36_000_000 * 470 == 16_920_000_000  # 1.2 x 100 + 350
    assert made.dead_bytes == 10_000 * (job + 4_000) == 163_500_000
    assert made.server_bytes == 113_989_218_750  # 1.25 x the sum of the four


def test_results_that_are_not_kept_take_no_memory_and_no_network() -> None:
    made = plan(msgspec.structs.replace(WORKLOAD, result_ttl_s=0), COSTS)
    assert made.results_bytes == 0
    assert made.network_in_bytes_s == 10_000 * (10_600 + 1_200)
    assert made.network_out_bytes_s == 10_000 * 10_600


def test_network_carries_payloads_results_and_commands() -> None:
    made = plan(WORKLOAD, COSTS)
    assert made.network_in_bytes_s == 10_000 * (10_000 + 600) + 10_000 * (1_200 + 100) == 119_000_000
    assert made.network_out_bytes_s == 10_000 * (10_000 + 600) + 10_000 * 100 == 107_000_000


def test_nothing_to_do_still_needs_one_of_each() -> None:
    made = plan(msgspec.structs.replace(WORKLOAD, rate=0), COSTS)
    assert (made.slots, made.processes, made.worker_cores, made.producer_cores, made.primaries) == (1, 1, 1, 1, 1)
    assert (made.backlog_bytes, made.results_bytes, made.network_in_bytes_s) == (0, 0, 0)


demands = st.builds(
    Workload,
    rate=st.floats(0, 1e6),
    duration_s=st.floats(0, 3600),
    payload_bytes=st.integers(1, 2**28),
    cpu_s=st.floats(0, 10),
    retries=st.floats(0, 100),
    slots=st.integers(1, 10_000),
    processes_per_host=st.integers(1, 256),
    result_bytes=st.integers(0, 2**28),
    result_ttl_s=st.floats(0, 1e6),
    backlog_s=st.floats(0, 1e6),
    dead_count=st.integers(0, 10**6),
)
costs = st.builds(Costs, *[st.floats(0, 10_000)] * 3)
GROWING = ("rate", "duration_s", "payload_bytes", "cpu_s", "retries", "result_bytes", "result_ttl_s", "backlog_s", "dead_count")


def needs(made: Plan) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(made).items() if name != "steps"}


@given(demands, costs, st.sampled_from(GROWING), st.floats(1, 10))
def test_more_demand_never_needs_less(workload: Workload, costs: Costs, field: str, factor: float) -> None:
    value = getattr(workload, field)
    more = msgspec.structs.replace(workload, **{field: type(value)(value * factor + (value == 0))})
    before, after = needs(plan(workload, costs)), needs(plan(more, costs))
    assert {name for name in before if after[name] < before[name]} == set()


@given(demands, costs)
def test_the_slots_are_enough_and_fit_into_the_processes(workload: Workload, costs: Costs) -> None:
    made = plan(workload, costs)
    assert made.slots >= made.busy_slots
    assert made.processes * workload.slots >= made.slots
    assert made.processes >= made.worker_cores
    assert made.hosts is not None
    assert workload.processes_per_host is not None
    assert made.hosts * workload.processes_per_host >= made.processes


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    done = CliRunner().invoke(plan_command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_explains_each_figure_in_a_line() -> None:
    lines = run("--rate", "10000", "--duration", "50ms", "--payload", "10KB", "--processes-per-host", "8").splitlines()
    said = {line.split("  ")[0]: line for line in lines}
    assert "500  = 10,000 runs/s x 50 ms (Little's law)" in said["busy slots"]
    assert "625  = 500 / 0.8" in said["slots"]
    assert "63 processes / 8 per host" in said["worker hosts"]
    assert "74.1 GB  = 10,000 jobs/s x 600 s x 12,350 B" in said["memory: backlog"]
    assert all("=" in line for line in lines[:-1])
    assert lines[-1] == (
        "CPU per job: client 120, worker 80, server 80 us (the defaults, for jobs one by one; --costs FILE takes measured ones)"
    )


def test_sizes_and_durations_take_the_forms_of_the_settings() -> None:
    made = json.loads(run("--rate", "100", "--duration", "1m30s", "--payload", "64KiB", "--result-ttl", "0", "--backlog", "1h", "--json"))
    assert made["busy_slots"] == 9000
    assert made["backlog_bytes"] == 28_437_552_000  # 360,000 x (1.2 x 65,536 + 350), 78,993.2 B each
    assert made["results_bytes"] == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("--rate", "many"), ("--rate", "nan"), ("--duration", "50 parsecs"), ("--payload", "10XB"), ("--slots", "0"), ("--slots", "1.5")],
)
def test_a_value_that_cannot_be_read_is_named(option: str, value: str) -> None:
    with pytest.raises(ConfigError, match=option):
        run(option, value)


def test_measured_costs_replace_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text('{"client_us": 10, "worker_us": 20, "server_us": 6}')
    assert read_costs(path) == Costs(10, 20, 6)
    assert "CPU per job: client 10, worker 20, server 6 us (measured)" in run("--costs", str(path))


def test_the_costs_are_found_in_a_report_of_the_bench(tmp_path: Path) -> None:
    measured = {
        "client CPU, submit one by one": figure([50, 60, 70], "us"),
        "server CPU, submit one by one": figure([20], "us"),
        "worker CPU, run and keep the result": figure([15, 16, 17], "us"),
        "server CPU, run and keep the result": figure([5], "us"),
        "import bananas": figure([30], "ms"),
    }
    rows = tuple(Row(name, {"measured": cell, "how": "-"}) for name, cell in measured.items())
    report = {"tables": [Table("depth", "", "", (), ()), Table("cost", "", "", ("measured", "how"), rows)]}
    path = tmp_path / "bench.json"
    path.write_bytes(msgspec.json.encode(report))
    assert read_costs(path) == Costs(client_us=60, worker_us=16, server_us=25)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{}", '{"worker_us": "much"}'])
def test_a_file_without_costs_is_refused_with_the_way_out(tmp_path: Path, text: str) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="bananas bench --only cost --json FILE"):
        read_costs(path)
