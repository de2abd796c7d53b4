"""Every line of what a user writes, in a script of its own, with a real worker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support import SRC, clean_environment
from tests.workers import WorkerProcess

from bananas.server import PrivateServer

FOLDER = Path(__file__).parent / "contract"


@pytest.mark.timeout(120)
def test_the_contract_holds_as_written(place: PrivateServer, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.touch()
    environ = {"REDIS_URL": place.url, "NOTES": str(notes), "PYTHONPATH": os.pathsep.join([str(SRC), str(FOLDER)])}
    with WorkerProcess(tmp_path, environ, "shop.app:app") as worker:
        worker.ready()
        command, clean = [sys.executable, "-W", "error", "script.py"], clean_environment(**environ)
        script = subprocess.run(command, cwd=FOLDER, env=clean, capture_output=True, text=True, timeout=100, check=False)
        assert script.returncode == 0, f"{script.stdout}\n{script.stderr}\n{worker.log}"
        assert worker.stop() == 0
    lines = notes.read_text().splitlines()
    assert [line for line in lines if line in ("opened", "closed")] == ["opened", "closed"]
    assert (lines[0], lines[-1]) == ("opened", "closed")
