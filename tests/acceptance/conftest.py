"""What the acceptance tests of workers share: a server per module, a namespace and a ledger per test, workers that are gone afterwards."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from tests.workers import Ledger, WorkerProcess

from bananas import Bananas
from bananas.server import PrivateServer, find_server_binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


class Site:
    """A namespace on a server with its workers: who submits here, and what the jobs wrote down.

    Attributes:
        app: knows no task; jobs are submitted by name.
    """

    def __init__(self, url: str, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.ledger = Ledger(folder / "ledger")
        self.namespace = f"t{uuid.uuid4().hex[:12]}"
        self.settings = {"lease": 1.0, "result_ttl_success": 300.0} | settings
        self.app = Bananas(url, namespace=self.namespace, **self.settings)
        self.environment = {"REDIS_URL": url, "BANANAS_NAMESPACE": self.namespace, "BANANAS_LEASE": "1s", "LEDGER": str(self.ledger.path)}
        self._workers: list[WorkerProcess] = []

    def start(self, target: str = "tests.apps.basic:app", **settings: Any) -> WorkerProcess:
        """Start a worker."""
        self._workers.append(WorkerProcess(self.folder, self.environment, target, **settings))
        return self._workers[-1]

    def worker(self, target: str = "tests.apps.basic:app", **settings: Any) -> WorkerProcess:
        """Start a worker and wait until it works."""
        return self.start(target, **settings).ready(settings.get("worker_processes", 1))

    def gate(self, name: str = "gate") -> Path:
        """A file that does not exist yet: the tasks called follow wait for it."""
        return self.folder / name

    def close(self) -> None:
        for worker in self._workers:
            worker.kill_tree()


@pytest.fixture(scope="module")
def place(server_kind: str) -> Iterator[PrivateServer]:
    """A server for the tests of one module."""
    with PrivateServer(binary=find_server_binary(server_kind)) as server:
        yield server


@pytest.fixture
async def site(place: PrivateServer, tmp_path: Path) -> AsyncIterator[Site]:
    """A namespace of one test's own; its workers are killed at the end."""
    site = Site(place.url, tmp_path)
    yield site
    site.close()
    await site.app.close()


@pytest.fixture(scope="module")
def shared(place: PrivateServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One worker of 20 slots for the tests of a module, in a namespace that they share."""
    site = Site(place.url, tmp_path_factory.mktemp("shared"))
    site.worker(worker_concurrency=20)
    yield site
    site.close()


@pytest.fixture
async def here(shared: Site) -> AsyncIterator[Site]:
    """The shared site, with the connections of this test's loop closed afterwards."""
    yield shared
    await shared.app.close()
