"""What the tables measure with: servers, processes, interleaving, and the command."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.support import wait_until

from bananas.bench import command, latency, plots
from bananas.bench.draining import Drain, drain
from bananas.bench.load import Load
from bananas.bench.processes import Process, ProcessFailed, cpu_s, foreign_share, machine_times, process_tree, resident_bytes
from bananas.bench.report import read_report
from bananas.bench.session import Bench, own_environment
from bananas.bench.sizes import FULL, SMOKE
from bananas.bench.table import Row, Table, figure
from bananas.errors import ConfigError

SLEEPER = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).wait()"


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- processes --------------------------------------------------------------------------------------------------------


def test_a_process_is_measured_with_its_descendants_and_ends(tmp_path: Path) -> None:
    with Process([sys.executable, "-c", SLEEPER], os.environ, tmp_path / "log") as process:
        wait_until(lambda: len(process.tree()) == 2)
        tree = process.tree()
        assert tree[0] == process.pid
        assert resident_bytes(tree) > resident_bytes(tree[:1]) > 1_000_000
        assert cpu_s(tree) >= 0
        os.kill(tree[1], 9)
    wait_until(lambda: not any(is_alive(pid) for pid in tree))
    assert process_tree(process.pid) == []


def test_a_process_that_ignores_the_signal_is_killed_with_what_it_started(tmp_path: Path) -> None:
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
    process = Process([sys.executable, "-c", stubborn], os.environ, tmp_path / "log")
    wait_until(lambda: len(process.tree()) == 2)
    tree = process.tree()
    process.end(timeout_s=0.05)
    wait_until(lambda: not any(is_alive(pid) for pid in tree))


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with Process([sys.executable, "-c", "raise SystemExit('no such thing')"], os.environ, tmp_path / "log") as process:
        with pytest.raises(ProcessFailed, match=r"(?s)exit code 1.*no such thing"):
            process.wait_for(lambda: False, 30, "something")
        with pytest.raises(ProcessFailed, match="exit code 1"):
            process.wait(30)


def test_what_others_do_is_what_is_busy_without_us() -> None:
    times = machine_times()
    if times is not None:
        assert foreign_share(
            times, times._replace(all_s=times.all_s + 10, busy_s=times.busy_s + 6, own_s=times.own_s + 2)
        ) == pytest.approx(0.4)
    assert foreign_share(None, times) is None


# --- the session ------------------------------------------------------------------------------------------------------


def test_repetitions_are_interleaved() -> None:
    order: list[str] = []
    with Bench("valkey", SMOKE, reps=3) as bench:
        outcomes = bench.interleaved("x", {"a": lambda: order.append("a"), "b": lambda: order.append("b")})
    assert order == ["a", "b"] * 3
    assert {name: len(runs) for name, runs in outcomes.items()} == {"a": 3, "b": 3}


def test_a_server_is_reached_by_tcp_and_by_unix_socket_and_counts_what_it_does(server_kind: str) -> None:
    with Bench(server_kind, FULL) as bench, bench.server() as serving:
        assert bench.transports == tuple(serving.urls) == ("TCP", "unix")
        before = serving.usage()
        for url in serving.urls.values():
            assert bench.load(url, Load(kind="one_by_one", count=5)).count == 5
        used = serving.usage().since(before)
        assert used.calls["evalsha"] >= 10
        assert used.reads >= 10
        assert used.memory_bytes > 0
        assert serving.settings(["appendonly", "no-such-setting"]) == {"appendonly": "no"}
        folder = bench.folder
    assert not folder.exists()


def test_a_durable_server_writes_its_file(server_kind: str) -> None:
    with Bench(server_kind, SMOKE) as bench, bench.server(durable=True) as serving:
        assert serving.settings(["appendonly", "appendfsync"]) == {"appendonly": "yes", "appendfsync": "everysec"}


def test_the_embedded_server_is_the_one_of_a_folder() -> None:
    with Bench("embedded", SMOKE) as bench:
        assert bench.transports == ("unix",)
        with bench.server() as serving:
            assert drain(bench, serving, Drain(20, slots=5)).jobs == 20
            assert serving.settings(["appendonly"]) == {"appendonly": "yes"}


def test_a_client_in_the_folder_of_an_embedded_server_uses_it_as_a_program_does() -> None:
    with Bench("valkey", SMOKE) as bench, bench.server(kind="embedded") as serving:
        assert serving.directory is not None
        environment = own_environment(serving.directory)
        assert environment["BANANAS_EMBEDDED"] == "1"
        assert "REDIS_URL" not in environment
        loaded = bench.load(serving.directory, Load(kind="bulk", count=7))
        assert loaded.count == serving.ask("ZCARD", "{bench:default}:ready") == 7


def test_a_load_is_a_share_of_the_capacity_of_its_repetition(server_kind: str) -> None:
    with Bench(server_kind, SMOKE, reps=2) as bench, bench.server() as serving:
        variants = latency._variants(bench, SMOKE, serving, latency.Capacity(bench, serving, SMOKE.live_jobs))
        first_two = {name: variants[name] for name in (latency.CAPACITY, "10% of capacity")}
        assert list(variants)[:2] == list(first_two), "the capacity comes first"
        found = bench.interleaved("latency", first_two)
    capacity, offered = ([run.done for run in found[latency.CAPACITY]], [run.offered for run in found["10% of capacity"]])
    assert len(set(capacity)) == 2
    assert offered == pytest.approx([rate / 10 for rate in capacity])


def test_the_users_settings_do_not_reach_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANANAS_WORKER_CONCURRENCY", "3")
    monkeypatch.setenv("WORKER_CONCURRENCY", "3")
    environment = own_environment("redis://127.0.0.1:1/0")
    assert [name for name in environment if "CONCURRENCY" in name] == []
    assert environment["REDIS_URL"] == "redis://127.0.0.1:1/0"


def test_a_drain_counts_every_job_once_and_waits_until_all_are_settled(server_kind: str) -> None:
    with Bench(server_kind, SMOKE) as bench, bench.server() as serving:
        found = drain(bench, serving, Drain(300, slots=10, processes=2))
        assert found.jobs == found.filled.count == 300
        assert found.settled_s >= found.handlers_s > 0
        assert found.used.calls["evalsha"] > 0
        assert serving.ask("HLEN", "{bench:default}:jobs") == 0


# --- the command ------------------------------------------------------------------------------------------------------


def test_tables_run_in_the_order_of_the_report() -> None:
    assert command._names("limit,end-to-end", None) == ["end_to_end", "limit"]
    assert command._names(None, None) == list(command.TABLES)
    assert command._names("limit", "arq,all") == ["limit", "peers"]
    with pytest.raises(ConfigError, match="is not a peer"):
        command._names(None, "arq,no-such-queue")


@pytest.mark.parametrize(("only", "message"), [("limits", "there is no such table; there are submission"), ("peers", "without --against")])
def test_a_table_that_there_is_not_is_refused(only: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command._names(only, None)


def test_the_command_shows_and_writes_what_it_measured(tmp_path: Path, server_kind: str) -> None:
    arguments = ["--smoke", "--only", "limit,operations", "--server", server_kind]
    arguments += ["--json", str(tmp_path / "bench.json"), "--report", str(tmp_path / "report")]
    run = CliRunner().invoke(command.bench_command, arguments)
    assert run.exit_code == 0, run.output
    assert "Single operations" in run.output
    report = read_report(tmp_path / "bench.json")
    assert [table.key for table in report.tables] == ["operations", "limit"]
    assert report.environment.persistence["appendonly"] == "no"
    assert report.environment.server.lower().startswith(server_kind)
    text = (tmp_path / "report" / "performance.md").read_text()
    assert "## The limit" in text
    assert "What the original's report got wrong" in text


def test_a_table_that_fails_does_not_take_the_others_with_it(monkeypatch: pytest.MonkeyPatch, server_kind: str) -> None:
    def broken(*_: object) -> Table:
        raise ProcessFailed("broken on purpose")

    monkeypatch.setattr("bananas.bench.depth.measure", broken)
    with Bench(server_kind, SMOKE) as bench:
        report, failures = command.run_tables(bench, ["depth", "limit"])
    assert [table.key for table in report.tables] == ["limit"]
    assert failures == ["table depth failed: ProcessFailed: broken on purpose"]


def test_the_command_line_knows_bench_without_importing_it() -> None:
    code = "import sys, bananas.cli as c; print('bench' in c.cli.list_commands(None), [n for n in sys.modules if 'bananas.bench' in n])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert run.stdout.split(maxsplit=1) == ["True", "[]\n"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
def test_nothing_goes_on_when_the_benchmark_is_killed(tmp_path: Path, server_kind: str) -> None:
    command = [sys.executable, "-m", "bananas", "bench", "--only", "latency", "--server", server_kind]
    environment = own_environment("redis://127.0.0.1:1/0") | {"TMPDIR": str(tmp_path)}
    with Process(command, environment, tmp_path / "log") as bench:
        # the benchmark, its server with a guard, a worker of two processes, and a client
        bench.wait_for(lambda: len(bench.tree()) >= 6, 30, "starting its processes")
        tree = bench.tree()
        os.kill(bench.pid, signal.SIGKILL)
        wait_until(lambda: not any(is_alive(pid) for pid in tree))


# --- plots ------------------------------------------------------------------------------------------------------------

PLOTTED = Table("t", "Title", "?", ("jobs/s",), (Row("a", {"jobs/s": figure((1, 2, 3), "/s")}), Row("b", {"jobs/s": "-"})), plot="jobs/s")


def test_without_matplotlib_the_report_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'bananas-queue\[bench\]'"):
        plots.require()


def test_a_plot_is_the_same_file_for_the_same_figures(tmp_path: Path) -> None:
    assert plots.draw(PLOTTED, tmp_path / "1.svg")
    assert plots.draw(PLOTTED, tmp_path / "2.svg")
    assert (tmp_path / "1.svg").read_bytes() == (tmp_path / "2.svg").read_bytes()
    assert "Title: jobs/s" in (tmp_path / "1.svg").read_text()


def test_a_table_without_figures_to_plot_has_no_plot(tmp_path: Path) -> None:
    assert not plots.draw(Table("t", "T", "?", ("x",), (Row("a", {"x": "-"}),), plot="x"), tmp_path / "t.svg")
