"""What the tests of the HTTP API share: a real `bananas api` process on a real server, and clients with each role."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.support import ROOT, clean_environment, kill, wait_until
from tests.workers import Ledger, WorkerProcess

from bananas.server import PrivateServer, find_server_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TOKENS = {role: f"{role}-{uuid.uuid4().hex}" for role in ("viewer", "operator", "admin")}
ALL_TOKENS = ",".join(f"{role}:{token}" for role, token in TOKENS.items())
V1 = "/api/v1"


class ApiProcess:
    """One `bananas api` as a process of its own.

    Attributes:
        url: where it answers.
    """

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: str) -> None:
        self.log_path = folder / f"api-{uuid.uuid4().hex}.log"
        command = [sys.executable, "-m", "bananas", "api", *arguments, "--port", "0", "--log-format", "json"]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=clean_environment(**environment), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self.url = ""

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def ready(self) -> ApiProcess:
        """Wait until it answers."""
        wait_until(lambda: "startup complete" in self.log or self.process.poll() is not None, f"the API:\n{self.log}", 30)
        assert self.process.poll() is None, self.log
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        self.url = next(line["url"] for line in lines if "url" in line)
        return self

    def client(self, role: str = "", **headers: str) -> httpx.Client:
        """A client with the token of a role."""
        token = {"Authorization": f"Bearer {TOKENS[role]}"} if role else {}
        return httpx.Client(base_url=self.url, headers=token | headers, timeout=30, trust_env=False)

    def stop(self) -> int:
        """SIGTERM. Returns the exit code."""
        kill(self.process.pid, 15)
        return self.process.wait(15)

    def end(self) -> None:
        """SIGKILL, if it runs."""
        if self.process.poll() is None:
            kill(self.process.pid)
            self.process.wait(10)


class Place:
    """A namespace on a server, with what is started in it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder, self.namespace = url, folder, f"h{uuid.uuid4().hex[:12]}"
        self.ledger = Ledger(folder / "ledger")
        self.environment = {"REDIS_URL": url, "BANANAS_NAMESPACE": self.namespace, "LEDGER": str(self.ledger.path)}
        self._ends: list[Callable[[], None]] = []

    def api(self, *arguments: str, **environment: str) -> ApiProcess:
        """Start an API with all three tokens, and wait until it answers."""
        given = self.environment | {"BANANAS_API_TOKENS": ALL_TOKENS} | environment
        process = ApiProcess(self.folder, {name: value for name, value in given.items() if value}, *arguments)
        self._ends.append(process.end)
        return process.ready()

    def worker(self, target: str = "tests.apps.basic:app", **settings: Any) -> WorkerProcess:
        """Start a worker, and wait until it works."""
        process = WorkerProcess(self.folder, self.environment, target, **settings)
        self._ends.append(process.kill_tree)
        return process.ready()

    def end(self) -> None:
        """End what was started."""
        for end in self._ends:
            end()


@pytest.fixture(scope="session")
def redis_server(server_kind: str) -> Iterator[PrivateServer]:
    with PrivateServer(binary=find_server_binary(server_kind)) as server:
        yield server


@pytest.fixture
def place(redis_server: PrivateServer, tmp_path: Path) -> Iterator[Place]:
    made = Place(redis_server.url, tmp_path)
    yield made
    made.end()


@pytest.fixture(scope="module")
def shared(redis_server: PrivateServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place for all tests of a module, with an API that knows the tasks of tests.apps.basic, and a worker that runs them."""
    made = Place(redis_server.url, tmp_path_factory.mktemp("shared"))
    made.worker(lease=1.0)
    yield made
    made.end()


@pytest.fixture(scope="module")
def api(shared: Place) -> ApiProcess:
    return shared.api("tests.apps.basic:app")


@pytest.fixture
def admin(api: ApiProcess) -> Iterator[httpx.Client]:
    with api.client("admin") as client:
        yield client


def ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """How a job ended, waiting for it."""
    answer = client.get(f"{V1}/jobs/{job_id}/result", params={"wait": 20})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def submitted(client: httpx.Client, task: str, *args: Any, **more: Any) -> str:
    """The id of a new job."""
    answer = client.post(f"{V1}/jobs", json={"task": task, "args": list(args), **more})
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["id"]
    return found
