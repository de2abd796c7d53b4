"""What the acceptance tests share: a server, a namespace and a ledger per test, workers and programs that are gone afterwards."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import eventually, is_unlocked, wait_until
from tests.workers import Ledger, WorkerProcess

from bananas import Bananas
from bananas.errors import ConfigError
from bananas.inspector import audit
from bananas.server import PrivateServer, ServerBinary, find_server_binary
from bananas.task import Call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.workers import Line

    from bananas import Job

BASIC = "tests.apps.basic:app"


class Site:
    """A namespace on a server with its workers: who submits here, and what the jobs wrote down.

    Attributes:
        app: knows no task; jobs are submitted by name.
        lease: of its workers, in seconds. What must keep a lease has one that leaves it time; what waits for its end, the shortest.
    """

    def __init__(self, url: str, folder: Path, *, lease: float = 1.0, **settings: Any) -> None:
        self.folder, self.lease = folder, lease
        self.ledger = Ledger(folder / "ledger")
        self.namespace = f"t{uuid.uuid4().hex[:12]}"
        self.app = Bananas(url, namespace=self.namespace, **{"lease": lease, "result_ttl_success": 300.0} | settings)
        self.environment = {"REDIS_URL": url, "BANANAS_NAMESPACE": self.namespace, "LEDGER": str(self.ledger.path)}
        self._workers: list[WorkerProcess] = []

    def start(self, target: str = BASIC, **settings: Any) -> WorkerProcess:
        """Start a worker, and do not wait for it."""
        self._workers.append(WorkerProcess(self.folder, self.environment, target, **{"lease": self.lease} | settings))
        return self._workers[-1]

    def workers(self, count: int, target: str = BASIC, **settings: Any) -> list[WorkerProcess]:
        """Start workers and wait until all work."""
        return [worker.ready() for worker in [self.start(target, **settings) for _ in range(count)]]

    def worker(self, target: str = BASIC, **settings: Any) -> WorkerProcess:
        """Start a worker and wait until it works."""
        return self.workers(1, target, **settings)[0]

    def gate(self, name: str = "gate") -> Path:
        """A file that does not exist yet: the tasks called follow wait for it."""
        return self.folder / name

    async def submit_many(self, count: int, task: str, *args: Any) -> list[Job[Any]]:
        return await self.app.submit_many(Call(task, args, {}) for _ in range(count))

    async def started(self, job: Job[Any], runs: int = 1, timeout: float = 15.0) -> Line:
        """Wait for that run of a job to start."""
        await eventually(lambda: len(self.ledger.lines("start", job.id)) >= runs, f"run {runs} of the job", timeout)
        return self.ledger.lines("start", job.id)[runs - 1]

    async def running(self, *args: Any, task: str = "follow") -> tuple[Job[Any], Line]:
        """A job that runs now, and the line of its start."""
        job = await self.app.submit(task, *args)
        return job, await self.started(job)

    async def idle(self) -> bool:
        """Whether nothing is ready, scheduled or running."""
        counts = await self.app.queue("default").counts()
        return counts.ready + counts.scheduled + counts.running == 0

    async def assert_nothing_left(self, timeout: float = 10.0) -> None:
        """Everything ends, and the audit is clean."""
        await eventually(self.idle, "the end of all jobs", timeout)
        assert (await audit(self.app)).findings == ()

    async def assert_handed_back(self, *jobs: Job[Any]) -> None:
        """The jobs are ready, and nothing counts against them."""
        for job in jobs:
            info = await job.info()
            assert (info.state, info.attempts, info.crashes) == ("ready", 0, 0)
        assert (await audit(self.app)).findings == ()

    def kill(self) -> None:
        """End its workers."""
        for worker in self._workers:
            worker.kill_tree()


@pytest.fixture(scope="session")
def place(server_kind: str) -> Iterator[PrivateServer]:
    """A server for all acceptance tests, each in a namespace of its own."""
    with PrivateServer(binary=find_server_binary(server_kind)) as server:
        yield server


@pytest.fixture(params=["valkey", "redis"])
def binary(request: pytest.FixtureRequest) -> ServerBinary:
    """Each kind of server that is installed."""
    try:
        return find_server_binary(request.param)
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A directory whose embedded server has ended when the test has, whatever the test did."""
    path = tmp_path / "project"
    path.mkdir()
    yield path
    wait_until(lambda: is_unlocked(path / ".bananas" / "lock"))


@pytest.fixture
def lease() -> float:
    """The lease of a test's site: the shortest, for the many tests that wait for its end. @pytest.mark.parametrize gives another."""
    return 0.5


@pytest.fixture
async def site(place: PrivateServer, tmp_path: Path, lease: float) -> AsyncIterator[Site]:
    """A namespace of one test's own; its workers are killed at the end."""
    site = Site(place.url, tmp_path, lease=lease)
    yield site
    site.kill()
    await site.app.close()


@pytest.fixture(scope="module")
def shared(place: PrivateServer, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Site]:
    """One worker for the tests of a module, in a namespace that they share; the module's WORKER says what it has."""
    site = Site(place.url, tmp_path_factory.mktemp("shared"))
    site.worker(**request.module.WORKER)
    yield site
    site.kill()


@pytest.fixture
async def here(shared: Site) -> AsyncIterator[Site]:
    """The shared site, with the connections of this test's loop closed afterwards."""
    yield shared
    await shared.app.close()
