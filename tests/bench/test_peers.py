"""Peers: every file declares all that it must, Bananas is measured as a peer is, and one that fails stays in the table."""

import ast
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from bananas.bench import contest
from bananas.bench.peers import _declared, _installed
from bananas.bench.peers._declared import FUNCTIONS, HANDLERS, HERE, OWN, declared, names
from bananas.bench.peers._installed import PeerUnavailable, install, interpreter
from bananas.bench.peers._running import Guard
from bananas.bench.session import Bench
from bananas.bench.sizes import SMOKE
from bananas.bench.table import Figure, Row, figure
from bananas.errors import ConfigError

NUMBERS = tuple(contest.FIGURES)


def functions_of(name: str) -> dict[str, bool]:
    """The functions of a peer's file by name, and whether each is a coroutine function."""
    tree = ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))
    return {
        node.name: isinstance(node, ast.AsyncFunctionDef) for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("name", names())
def test_a_peer_declares_all_that_it_must(name: str) -> None:
    peer = declared(name)
    assert all([peer.title, peer.configuration, peer.source, peer.worker])
    assert peer.install or peer.runtime == "here"
    assert peer.runtime == "here" or any(mark in peer.install[0] for mark in ("<", "==", "@")), "pinned to a major version"
    assert peer.chunk > 0
    assert all(peer.slots(profile) > 0 for profile in ("drain", "io", "idle"))


@pytest.mark.parametrize("name", [name for name in names() if name != "bullmq"])
def test_a_peer_has_the_functions_and_handlers_all_of_one_kind(name: str) -> None:
    found = functions_of(name)
    assert {*FUNCTIONS, *HANDLERS} <= set(found)
    assert len({found[function] for function in FUNCTIONS}) == 1


def test_a_peer_on_node_has_its_functions_beside_it() -> None:
    assert (HERE / "bullmq.mjs").exists()


@pytest.mark.parametrize("name", ["_driver", *(name for name in names() if name != OWN)])
def test_a_peer_stands_alone(name: str) -> None:
    imported = {
        (alias.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
        for node in ast.walk(ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert "bananas" not in imported


def test_an_unknown_peer_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'sidekiq' is not a peer: there are ardiq, arq, .*taskiq_stream"):
        declared("sidekiq")


def test_a_peer_that_declares_too_little_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "poor.py").write_text('TITLE = "Poor"\nINSTALL = ("poor",)\n')
    monkeypatch.setattr(_declared, "HERE", tmp_path)
    with pytest.raises(ConfigError, match="poor does not declare RUNTIME, PYTHON"):
        declared("poor")


# --- environments -----------------------------------------------------------------------------------------------------


def test_the_running_python_serves_peers_that_can_use_it() -> None:
    assert interpreter((3, 11)) == sys.executable


def test_a_python_that_is_too_new_is_a_reason() -> None:
    with pytest.raises(PeerUnavailable, match=r"needs Python 3\.99 or newer"):
        interpreter((3, 99))


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _installed.cache_folder() == tmp_path / "bananas-bench"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_cannot_be_installed_tells_why_and_is_tried_again(tmp_path: Path) -> None:
    peer = replace(declared("rq"), install=(f"{tmp_path}/no-such-package",))
    for _ in range(2):
        with pytest.raises(PeerUnavailable, match="no-such-package"):
            install(peer, tmp_path / "cache")


def test_workers_of_peers_end_with_the_benchmark_even_if_it_is_killed() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command, start_new_session=True) as left, subprocess.Popen(command, start_new_session=True) as gone:
        try:
            with Guard() as guard:
                guard.tell("+", left.pid)
                guard.tell("+", gone.pid)
                guard.tell("-", gone.pid)
            # Its input ends here, as it does when this process dies.
            assert left.wait(10) == -signal.SIGKILL
            assert gone.poll() is None
        finally:
            left.kill()
            gone.kill()


# --- the contest ------------------------------------------------------------------------------------------------------


def test_bananas_is_measured_as_a_peer_is(server_kind: str) -> None:
    with Bench(server_kind, SMOKE) as bench:
        table = contest.measure(bench, SMOKE, ())
    (row,) = table.rows
    assert row.label == "Bananas"
    assert row.cells["guarantee"] == "at least once"
    missing = [column for column in NUMBERS if not isinstance(row.cells[column], Figure)]
    assert set(missing) <= {"drain, 2 processes"}, table.notes  # so few jobs may all be run by the first of two
    assert all(cell.headline >= 0 for cell in row.cells.values() if isinstance(cell, Figure))
    assert table.columns == ("guarantee", *NUMBERS)


def test_what_fails_or_cannot_be_installed_stays_in_the_table_with_the_reason(server_kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {
        OWN: replace(declared(OWN), worker=("{python}", "-c", "raise SystemExit('it is broken')")),
        "rq": replace(declared("rq"), python=(3, 99)),
    }
    monkeypatch.setattr(contest, "declared", changed.__getitem__)
    with Bench(server_kind, SMOKE) as bench:
        table = contest.measure(bench, SMOKE, ("rq",))
    own, absent = table.rows
    assert isinstance(own.cells["submit"], Figure)  # what needs no worker goes on
    assert own.cells["drain, 1 process"] == "failed"
    assert any("Bananas failed at drain:" in note and "it is broken" in note for note in table.notes)
    assert set(absent.cells.values()) == {"at most once", "-"}
    assert any(note.startswith("RQ: needs Python 3.99") for note in table.notes)


def test_the_goals_compare_with_the_peers_that_were_measured() -> None:
    rows = {
        OWN: Row("Bananas", {"drain, 1 process": figure([60_000], "/s"), "drain, 2 processes": "failed", "submit": figure([9_000], "/s")}),
        "rq": Row("RQ", {"drain, 1 process": figure([200], "/s"), "drain, 2 processes": "-", "submit": figure([2_000], "/s")}),
        "arq": Row("arq", {"drain, 1 process": figure([30_000], "/s"), "drain, 2 processes": "-", "submit": figure([3_000], "/s")}),
    }
    peers = {name: declared(name) for name in rows}
    goals = contest._goals(rows, peers)
    assert [(goal.met, goal.figure) for goal in goals] == [(False, "2x"), (True, "3x")]  # drain against arq, submit against arq


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_light_peer_is_installed_and_measured(server_kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Bench(server_kind, SMOKE) as bench:
        table = contest.measure(bench, replace(SMOKE, cap_s=2.0), ("huey",))
    row = next(row for row in table.rows if row.label == "Huey")
    assert row.cells["guarantee"] == "at most once"
    missing = [column for column in NUMBERS if not isinstance(row.cells[column], Figure)]
    assert set(missing) <= {"drain, 2 processes"}, table.notes
    assert any(note.startswith("Huey (Python 3.") and "huey 3." in note for note in table.notes)
