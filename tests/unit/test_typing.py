"""The contract is clean under mypy strict, and wrong calls are found (a needless ignore is an error there)."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def mypy(*arguments: str) -> tuple[int, str]:
    environ = dict(os.environ, MYPYPATH="src", MYPY_FORCE_COLOR="0")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--explicit-package-bases", *arguments]
    run = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    return run.returncode, run.stdout + run.stderr


def test_the_contract_is_clean_and_wrong_calls_are_found() -> None:
    code, output = mypy("tests/typing/contract.py", "tests/typing/wrong.py")
    assert code == 0, output


def test_a_wrong_argument_is_named(tmp_path: Path) -> None:
    source = (ROOT / "tests/typing/wrong.py").read_text().replace("# type: ignore[arg-type]", "")
    wrong = tmp_path / "bare.py"
    wrong.write_text(source)
    code, output = mypy(str(wrong))
    assert code == 1, output
    assert 'Argument 1 to "submit" of "Task" has incompatible type "int"; expected "str"' in output
