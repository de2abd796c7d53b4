"""The coverage-guided fuzzer, for a bounded number of inputs."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import ROOT, clean_environment

pytest.importorskip("atheris", reason="atheris has wheels for Linux and some versions of Python only")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_input_that_coverage_leads_to_breaks_a_reader(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz_guided", "-runs=50000", f"-artifact_prefix={tmp_path}/"]
    run = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=500, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    assert "Done 50000 runs" in run.stderr
