"""Both type checkers accept the contract, and find each wrong call of wrong.py by themselves."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRACT, WRONG = ROOT / "tests/typing/contract.py", ROOT / "tests/typing/wrong.py"
Found = dict[str, set[tuple[int, str]]]  # a file's name -> (line, code) of its errors


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = dict(os.environ, MYPYPATH="src", PYRIGHT_PYTHON_IGNORE_WARNINGS="1")
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


def marked(tool: str) -> set[tuple[int, str]]:
    """The errors that wrong.py says its lines have: (line, code)."""
    pattern = re.compile(rf"# {tool}: ignore\[([\w-]+)\]")
    lines = WRONG.read_text(encoding="utf-8").splitlines()
    return {(number, code) for number, line in enumerate(lines, 1) for code in pattern.findall(line)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The contract, the wrong calls, and these without their marks."""
    bare = tmp_path_factory.mktemp("typing") / "bare.py"
    bare.write_text(re.sub(r"  # (type|pyright): ignore\[.*?\]", "", WRONG.read_text(encoding="utf-8")), encoding="utf-8")
    return [str(CONTRACT), str(WRONG), str(bare)]


@pytest.fixture(scope="module")
def by_mypy(files: list[str]) -> Found:
    done = run("mypy", "--output=json", *files)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    entries = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found: Found = {}
    for entry in entries:
        if entry["severity"] == "error":
            found.setdefault(Path(entry["file"]).name, set()).add((entry["line"], entry["code"]))
    return found


@pytest.fixture(scope="module")
def by_pyright(files: list[str]) -> Found:
    done = run("pyright", "--pythonpath", sys.executable, "--outputjson", *files)
    try:
        entries = json.loads(done.stdout)["generalDiagnostics"]
    except (ValueError, KeyError):
        pytest.skip(f"PYRIGHT DOES NOT RUN HERE, so the types are checked by mypy alone: {(done.stderr or done.stdout)[-500:]}")
    found: Found = {}
    for entry in entries:
        if entry["severity"] == "error":
            found.setdefault(Path(entry["file"]).name, set()).add((entry["range"]["start"]["line"] + 1, entry.get("rule", "")))
    return found


def test_every_wrong_call_is_marked_for_both_checkers() -> None:
    lines = {number for number, _ in marked("type")}
    assert lines == {number for number, _ in marked("pyright")}
    assert len(lines) >= 10


def test_mypy_accepts_the_contract_and_finds_every_wrong_call(by_mypy: Found) -> None:
    assert by_mypy == {"bare.py": marked("type")}


@pytest.mark.timeout(180)  # where there is no node, the first run downloads one
def test_pyright_accepts_the_contract_and_finds_every_wrong_call(by_pyright: Found) -> None:
    assert by_pyright == {"bare.py": marked("pyright")}
