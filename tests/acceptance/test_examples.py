"""Every example runs as its first lines say."""

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support import ROOT, SRC, clean_environment, wait_until
from tests.workers import WorkerProcess

from bananas.server import PrivateServer

FOLDER = ROOT / "examples"
TESTED = {"quickstart", "bulk", "web", "cron", "mounted"}


@pytest.fixture
def environ(place: PrivateServer) -> dict[str, str]:
    return {"REDIS_URL": place.url, "PYTHONPATH": os.pathsep.join([str(SRC), str(FOLDER)])}


@pytest.fixture
def script(environ: dict[str, str]) -> Any:
    """Run an example to its end; returns what it printed."""

    def run(name: str) -> str:
        command, clean = [sys.executable, f"{name}.py"], clean_environment(**environ)
        done = subprocess.run(command, cwd=FOLDER, env=clean, capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@contextmanager
def worker(folder: Path, environ: dict[str, str], target: str, **settings: Any) -> Iterator[None]:
    with WorkerProcess(folder, environ, target, **settings) as process:
        process.ready()
        yield
        assert process.stop() == 0


def test_each_example_has_a_test() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == TESTED


def test_quickstart(script: Any, environ: dict[str, str], tmp_path: Path) -> None:
    with worker(tmp_path, environ, "quickstart:app"):
        lines = script("quickstart").splitlines()
    assert re.fullmatch(r"email\.[0-9a-f]{43}", lines[0])
    assert lines[1:3] == ["sent 'welcome' to ada@example.org, attempt 1", "dead after 3 attempts: 'nobody' is no address"]
    assert "dead=1" in lines[3]
    assert lines[4] == "1 dead job deleted"


def test_bulk(script: Any, environ: dict[str, str], tmp_path: Path) -> None:
    with worker(tmp_path, environ, "bulk:app", worker_concurrency=100):
        assert "their sum is 333,283,335,000" in script("bulk")


def test_cron(script: Any) -> None:
    ticks = re.findall(r"tick of (\d\d:\d\d:\d\d)", script("cron"))
    assert len(ticks) == len(set(ticks)) == 3


def request(url: str, method: str = "GET", user: str = "") -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method, headers={"X-User": user}), timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_web(environ: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "web.py", "0"]
    with (
        worker(tmp_path, environ, "web:app"),
        subprocess.Popen(command, cwd=FOLDER, env=clean_environment(**environ), stdout=subprocess.PIPE, text=True) as web,
    ):
        try:
            assert web.stdout is not None
            url = web.stdout.readline().strip()
            status, ordered = request(f"{url}/reports/2026", "POST")
            assert status == 202
            done = {"state": "success", "result": "all went well in 2026"}
            wait_until(lambda: request(f"{url}/jobs/{ordered['job']}") == (200, done), "the report")
            assert request(f"{url}/reports/soon", "POST")[0] == 400
            assert request(f"{url}/jobs/x")[0] == 400
            assert request(f"{url}/jobs/{ordered['job'][:-4]}0000")[0] == 404
            assert request(f"{url}/")[0] == 404
        finally:
            web.terminate()


def test_mounted(environ: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command, url = [sys.executable, "mounted.py", str(port)], f"http://127.0.0.1:{port}"
    with worker(tmp_path, environ, "mounted:app"), subprocess.Popen(command, cwd=FOLDER, env=clean_environment(**environ)) as web:
        try:
            wait_until(lambda: is_open(port) or web.poll() is not None, "the web server", 30)
            job_id = request(f"{url}/hello/ada")[1]["job"]
            result = f"{url}/bananas/api/v1/jobs/{job_id}/result?wait=10"
            assert request(result)[0] == 401
            status, ending = request(result, user="bob")
            assert (status, ending["value"]) == (200, "Hello, ada!")
            assert request(f"{url}/bananas/api/v1/queues/greetings/pause", "POST", user="bob")[0] == 403
            assert request(f"{url}/bananas/api/v1/queues/greetings/pause", "POST", user="ada") == (200, {"changed": True})
        finally:
            web.terminate()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
