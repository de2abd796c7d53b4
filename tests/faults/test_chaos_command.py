"""The command `bananas chaos`, its files and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import clean_environment

from bananas.chaos import report
from bananas.chaos.faults import all_faults

if TYPE_CHECKING:
    from pathlib import Path


def chaos(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bananas", "chaos", *arguments]
    return subprocess.run(command, cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=100, check=False)


def outcomes(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["outcomes"]  # type: ignore[no-any-return]


@pytest.mark.timeout(150)
def test_trials_are_gathered_in_a_file_resumed_and_published(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "guarantees.md"
    page.parent.mkdir()
    page.write_text(f"before\n{report.BEGIN}\nthe last table\n{report.END}\nafter\n")
    first = chaos(tmp_path, "--quick", "--only", "F26", "--seed", "5", "--json", "all.json")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "the checker found each damage" in first.stdout
    assert "F26  seed 5: holds" in first.stdout
    arguments = ["--quick", "--only", "F26", "--seed", "4", "--seeds", "2", "--json", "all.json", "--resume", "--report", "docs"]
    second = chaos(tmp_path, *arguments)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "seed 5" not in second.stdout
    assert sorted(outcome["seed"] for outcome in outcomes(tmp_path / "all.json")) == [4, 5]
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "the last table" not in text
    assert "| F26 hostile names | 4, 5 |" in text
    assert f"bananas chaos {' '.join(arguments)}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "F99"], "there is no such fault"),
        (["--resume"], "name it with --json FILE"),
        (["--only", "F26", "--resume", "--json", "other.json"], "holds no results"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_broken(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "other.json").write_text("[]")
    run = chaos(tmp_path, *arguments)
    assert run.returncode == 2
    assert message in run.stderr


def test_every_fault_says_what_is_done_and_what_must_hold(tmp_path: Path) -> None:
    run = chaos(tmp_path, "--list")
    assert run.returncode == 0
    for key, fault in all_faults().items():
        assert fault.how
        assert fault.holds
        if key != "F38":
            assert f"{key} " in run.stdout
