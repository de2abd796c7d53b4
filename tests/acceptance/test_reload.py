"""`bananas worker --reload` with real processes: new code after a change, no job lost by it, an error waited out, no process left."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import children_of, clean_environment, is_gone, kill, wait_until

from bananas import Bananas

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bananas.server import PrivateServer

pytest.importorskip("watchfiles")

APP = """
import asyncio
from pathlib import Path
from bananas import Bananas, current_job

app = Bananas()
with open("imports", "a") as file:
    file.write("VERSION ")

@app.task(timeout=0)
async def wait(gate: str) -> str:
    with open("runs", "a") as file:
        file.write(f"{current_job().attempt} VERSION\\n")
    while not Path(gate).exists():
        await asyncio.sleep(0.01)
    return "VERSION"

@app.task
async def version() -> str:
    return "VERSION"
"""


class Reloading:
    """A folder with an app, and `bananas worker --reload` in it."""

    def __init__(self, path: Path, url: str, shutdown_timeout: str) -> None:
        self.path = path
        self.namespace = f"t{uuid.uuid4().hex[:12]}"
        self.app = Bananas(url, namespace=self.namespace)
        self._seen: set[int] = set()
        self._number = 0
        self.write("one")
        variables = {
            "PYTHONDONTWRITEBYTECODE": "1",  # two versions within a second, of one size, have one pyc
            "REDIS_URL": url,
            "BANANAS_NAMESPACE": self.namespace,
            "BANANAS_LEASE": "1s",
            "BANANAS_SHUTDOWN_TIMEOUT": shutdown_timeout,
        }
        with open(path / "log", "wb") as log:
            command = [sys.executable, "-m", "bananas", "worker", "shop:app", "--reload"]
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self.process = subprocess.Popen(command, cwd=path, env=clean_environment(**variables), **streams)

    @property
    def log(self) -> str:
        return (self.path / "log").read_text(errors="replace")

    def write(self, version: str, code: str = APP) -> None:
        """Change the app."""
        self._number += 1
        (self.path / "shop.py").write_text(code.replace("VERSION", version) + f"# {self._number}\n")

    def change(self, version: str, code: str = APP) -> None:
        """Change the app, again and again until it is noticed: nothing says when the watch has begun."""
        noticed = self.log.count("shop.py changed")

        def written() -> bool:
            self.write(version, code)
            return self.log.count("shop.py changed") > noticed

        wait_until(written, f"a change is noticed:\n{self.log}", 20)

    def started(self, count: int) -> None:
        """Wait until a worker has begun to work for the n-th time."""
        wait_until(lambda: self.log.count("worker process started") >= count, f"{count} starts", 20)
        self.processes()

    def runs(self) -> list[str]:
        path = self.path / "runs"
        return path.read_text().splitlines() if path.exists() else []

    def processes(self) -> list[int]:
        """Every process that it has started and that lives, itself included."""
        known = [self.process.pid]
        for pid in known:
            known += children_of(pid)
        self._seen.update(known)
        return [pid for pid in self._seen if not is_gone(pid)]

    def close(self) -> None:
        for pid in self.processes():
            kill(pid)
        self.process.wait(10)


@pytest.fixture
async def make(place: PrivateServer, tmp_path: Path) -> AsyncIterator[Any]:
    made: list[Reloading] = []

    def start(shutdown_timeout: str = "10s") -> Reloading:
        made.append(Reloading(tmp_path, place.url, shutdown_timeout))
        return made[-1]

    yield start
    for reloading in made:
        reloading.close()
        await reloading.app.close()


async def test_a_change_brings_the_new_code_and_the_job_that_ran_ends_first(make: Any) -> None:
    worker = make()
    worker.started(1)
    assert await (await worker.app.submit("version")).result(15) == "one"
    gate = worker.path / "gate"
    job = await worker.app.submit("wait", str(gate))
    wait_until(worker.runs, "it runs")
    worker.change("two")
    wait_until(lambda: "stopping: running jobs may finish" in worker.log, f"the worker drains:\n{worker.log}")
    gate.touch()
    assert await job.result(15) == "one"
    assert await (await worker.app.submit("version")).result(15) == "two"
    assert worker.runs() == ["1 one"]


async def test_a_job_that_does_not_end_in_time_goes_back_unused_and_runs_by_the_new_code(make: Any) -> None:
    worker = make("0.2s")
    worker.started(1)
    gate = worker.path / "gate"
    job = await worker.app.submit("wait", str(gate))
    wait_until(worker.runs, "it runs")
    worker.change("two")
    wait_until(lambda: "1 two" in worker.runs(), f"it runs again, as its first attempt:\n{worker.log}", 20)
    gate.touch()
    assert await job.result(15) == "two"
    assert (await job.info()).attempts == 1


async def test_a_file_that_cannot_be_imported_is_shown_and_waited_out(make: Any) -> None:
    worker = make()
    worker.started(1)
    job = await worker.app.submit("version")
    assert await job.result(15) == "one"
    worker.change("two", "def broken(:\n")
    wait_until(lambda: "SyntaxError" in worker.log and "shop.py" in worker.log, f"the error is shown:\n{worker.log}", 20)
    waiting = await worker.app.submit("version")
    wait_until(lambda: len(worker.processes()) == 1, "only the one that watches is left", 20)
    assert worker.process.poll() is None
    worker.change("three")
    assert await waiting.result(20) == "three"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_everything(make: Any, number: signal.Signals) -> None:
    worker = make()
    worker.started(1)
    gate = worker.path / "gate"
    job = await worker.app.submit("wait", str(gate))
    wait_until(worker.runs, "it runs")
    assert len(worker.processes()) >= 3
    worker.process.send_signal(number)
    wait_until(lambda: "stopping: running jobs may finish" in worker.log, f"the worker drains:\n{worker.log}")
    gate.touch()
    assert worker.process.wait(20) == 0, worker.log
    assert worker.processes() == []
    assert await job.result(5) == "one"


async def test_a_signal_while_a_worker_drains_for_a_change_starts_no_other(make: Any) -> None:
    worker = make()
    worker.started(1)
    gate = worker.path / "gate"
    job = await worker.app.submit("wait", str(gate))
    wait_until(worker.runs, "it runs")
    worker.change("two")
    wait_until(lambda: "stopping: running jobs may finish" in worker.log, f"the worker drains:\n{worker.log}")
    worker.processes()
    worker.process.send_signal(signal.SIGTERM)
    gate.touch()
    assert worker.process.wait(20) == 0
    assert worker.processes() == []
    assert (worker.path / "imports").read_text() == "one "
    assert await job.result(5) == "one"


async def test_a_second_signal_hands_the_running_job_back_at_once(make: Any) -> None:
    worker = make("60s")
    worker.started(1)
    job = await worker.app.submit("wait", str(worker.path / "gate"))
    wait_until(worker.runs, "it runs")
    worker.processes()
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping: running jobs may finish" in worker.log, f"the worker drains:\n{worker.log}")
    worker.process.send_signal(signal.SIGTERM)
    worker.process.wait(20)
    assert worker.processes() == []
    info = await job.info()
    assert (info.state, info.attempts) == ("ready", 0)
