"""Where a trial takes place: a server of its own, the workers and producers on it, the ledger, and the audit at the end."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from bananas.address import parse_url
from bananas.app import Bananas
from bananas.bench.processes import Process
from bananas.bench.session import own_environment
from bananas.bench.tasks import LIFELINE
from bananas.chaos.judge import Evidence, evidence
from bananas.chaos.ledger import FOLDER, LOG, Book, Noted
from bananas.chaos.processes import NotInTime, Worker, eventually, start_producer
from bananas.chaos.producer import Load
from bananas.chaos.tasks import NAMESPACE
from bananas.connection import ConnectionLost, ReplyError, SyncConnection
from bananas.errors import BrokerUnavailable
from bananas.handle import Job
from bananas.inspector import Audit, audit
from bananas.keys import ID_LENGTH, QueueKeys
from bananas.server import PrivateServer
from bananas.task import Call, SubmitOptions, read_options

ASK_TIMEOUT_S = 30.0
TASKS = "bananas.chaos.tasks:app"


class Group(Protocol):
    """Servers that belong together: those of bananas.groups, and a trial's own."""

    servers: list[PrivateServer]

    @property
    def url(self) -> str:
        """What clients connect to."""
        ...

    def start(self) -> None:
        """Start all."""
        ...

    def stop(self) -> None:
        """End all."""
        ...


class Host:
    """The server under fault, or the one of a group that it is about now: asked past whatever is in between, killed, started again.

    Args:
        servers: one server, or a group of them. find: which of the group it is about.
    """

    def __init__(self, servers: PrivateServer | Group, find: Callable[[], PrivateServer] | None = None) -> None:
        self._servers, self._find = servers, find
        self._connection: SyncConnection | None = None
        self._asked: PrivateServer | None = None

    @property
    def server(self) -> PrivateServer:
        """The one server, or that of the group which it is about now."""
        if isinstance(self._servers, PrivateServer):
            return self._servers
        assert self._find is not None
        return self._find()

    @property
    def url(self) -> str:
        """What clients connect to."""
        return self._servers.url

    @property
    def log_folder(self) -> Path:
        """Where the append-only file is."""
        return self.server.directory / "appendonlydir"

    def ask(self, *command: Any) -> Any:
        """One command. Raises what it comes to."""
        server = self.server
        if self._connection is None or self._connection.closed or server is not self._asked:
            self._hang_up()
            self._connection, self._asked = SyncConnection(parse_url(server.url), "chaos", ASK_TIMEOUT_S), server
        try:
            (reply,) = self._connection.execute([command], ASK_TIMEOUT_S)
        except ConnectionLost as error:
            raise BrokerUnavailable(f"the server did not answer {command[0]}: {error}") from error
        if isinstance(reply, ReplyError):
            raise BrokerUnavailable(f"the server refused {command[0]}: {reply}")
        return reply

    def info(self, section: str) -> dict[str, str]:
        """A section of INFO."""
        lines = self.ask("INFO", section).decode(errors="replace").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def send(self, number: int) -> None:
        """A signal to the server's process, if it runs."""
        if self.server.pid is not None:
            os.kill(self.server.pid, number)

    async def kill(self) -> None:
        """SIGKILL; its directory stays."""
        self._hang_up()
        await asyncio.to_thread(self.server.kill)

    async def start(self) -> None:
        """Start it, or all of the group, on the same directory and port, and wait until it answers."""
        if isinstance(self._servers, PrivateServer):
            await asyncio.to_thread(self._servers.start, 60.0)
        else:
            await asyncio.to_thread(self._servers.start)

    async def end(self) -> None:
        """End it, or the whole group, for good."""
        for server in [self._servers] if isinstance(self._servers, PrivateServer) else self._servers.servers:
            if server.pid is not None:
                os.kill(server.pid, signal.SIGCONT)
        self._hang_up()
        await asyncio.to_thread(self._servers.stop)

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()


class Site:
    """A server under fault with what runs on it. `async with` starts the server; at the end everything is gone.

    Args:
        folder: for data, logs and the ledger. lease: of the workers, in seconds.
        url: what workers, producers and the app connect to, where it is not the server itself.

    Attributes:
        host: the server. app: of the driver: it submits by name, and looks.
        watches_log: whether the size of the server's append-only file is noted with each start and commit.
        keeps: settings of every process here, by field name.
    """

    def __init__(self, folder: Path, server: PrivateServer | Host, *, lease: float, url: str = "", budget_s: float = 30.0) -> None:
        self.folder, self.lease = folder, lease
        self.host = server if isinstance(server, Host) else Host(server)
        self.ask = self.host.ask
        self._given_url, self._budget_s = url, budget_s
        (folder / "ledger").mkdir(exist_ok=True)
        self.book = Book(folder / "ledger")
        self.keys = QueueKeys(NAMESPACE, "default")
        self.workers: list[Worker] = []
        self.watches_log = False
        self.keeps: dict[str, object] = {}
        self._processes: list[Process] = []
        self._number = 0

    # --- who works on it ---

    def environment(self, **settings: object) -> dict[str, str]:
        """The variables of a process here; settings by field name."""
        own = {
            "BANANAS_NAMESPACE": NAMESPACE,
            FOLDER: str(self.book.folder),
            "BANANAS_LEASE": f"{self.lease}",
            "BANANAS_LOG_FORMAT": "logfmt",
            LIFELINE: "1",
        }
        if self.watches_log:
            own[LOG] = str(self.host.log_folder)
        return own_environment(self.url) | own | {f"BANANAS_{name.upper()}": str(value) for name, value in (self.keeps | settings).items()}

    def start(self, target: str = TASKS, **settings: object) -> Worker:
        """Start a worker, and do not wait for it."""
        return self.start_under((), self.environment(**settings), target)

    def start_under(self, prefix: Iterable[str], environment: Mapping[str, str], target: str = TASKS) -> Worker:
        """Start a worker with `prefix` before its command, and these variables."""
        self.workers.append(Worker(environment, self.folder, target, prefix))
        return self.workers[-1]

    async def worker(self, count: int = 1, target: str = TASKS, **settings: object) -> list[Worker]:
        """Start workers, and wait until all work."""
        started = [self.start(target, **settings) for _ in range(count)]
        return [await worker.ready() for worker in started]

    def produce(self, load: Load, environment: Mapping[str, str] | None = None) -> Process:
        """Start a producer; with other variables than those of `environment`."""
        self._processes.append(start_producer(environment or self.environment(), self.folder, load))
        return self._processes[-1]

    async def _finished(self, producer: Process, timeout_s: float = 120.0) -> None:
        """Wait until a producer has sent its count, and ended well."""
        await eventually(lambda: producer.exit_code is not None, "the end of a producer", timeout_s)
        if producer.exit_code:
            raise producer.failed(f"ended with exit code {producer.exit_code}")

    async def stop_producing(self, producer: Process) -> None:
        """Tell a producer to stop; what it has tried is acknowledged or failed when this returns."""
        producer.close_input()
        await self._finished(producer)

    def _name(self) -> str:
        self._number += 1
        return f"d-{self._number}"

    async def submit(self, task: str, *args: Any, options: SubmitOptions | None = None) -> tuple[str, Job[Any]]:
        """One job, written down. Returns its name and its handle; a submit that fails is written down, and raised."""
        name = self._name()
        self.book.trying([name])
        try:
            job = await self.app.submit(task, name, *args, options=options)
        except BaseException as error:
            self.book.failed([name], type(error).__name__)
            raise
        self.book.acked([(name, job.id)])
        return name, job

    async def submit_many(self, count: int, task: str, *args: Any, options: SubmitOptions | None = None) -> list[tuple[str, Job[Any]]]:
        """Some jobs, written down."""
        names = [self._name() for _ in range(count)]
        self.book.trying(names)
        try:
            jobs: list[Job[Any]] = await self.app.submit_many(Call(task, (name, *args), {}, read_options(options or {})) for name in names)
        except BaseException as error:
            self.book.failed(names, type(error).__name__)
            raise
        pairs = list(zip(names, jobs, strict=True))
        self.book.acked((name, job.id) for name, job in pairs)
        return pairs

    async def started(self, name: str, runs: int = 1, timeout_s: float = 30.0) -> Noted:
        """Wait for that run of a job to begin."""
        await eventually(lambda: len(self.book.noted("start", name)) >= runs, f"run {runs} of job {name}", timeout_s)
        return self.book.noted("start", name)[runs - 1]

    def gate(self, name: str = "gate") -> Path:
        """A file that does not exist yet: the tasks called hold wait for it."""
        return self.folder / name

    # --- what is left ---

    def counts(self) -> dict[str, int]:
        """Ids by place."""
        return {place: self.ask("ZCARD", getattr(self.keys, place)) for place in ("ready", "scheduled", "leases", "dead")}

    def at_rest(self) -> bool:
        """Whether nothing is ready, scheduled or leased."""
        counts = self.counts()
        return counts["ready"] + counts["scheduled"] + counts["leases"] == 0

    async def rest(self, timeout_s: float) -> bool:
        """Wait until everything has ended. Returns whether it has."""
        try:
            await eventually(self.at_rest, "the end of all jobs", timeout_s, 0.05)
        except NotInTime:
            return False
        await self._hooks_ended()
        return True

    async def _hooks_ended(self) -> None:
        """Settles are accepted before their hooks run: wait until no commit comes any more."""
        seen = -1
        while seen != (seen := len(self.book.commits())):
            await asyncio.sleep(0.2)

    def places(self) -> dict[str, str]:
        """Public id -> where it is on the server; "nowhere" for a body without a place."""
        found = {self.keys.public(field.decode()): "nowhere" for field in self.ask("HKEYS", self.keys.jobs)}
        for place in ("ready", "scheduled", "leases", "dead"):
            for member in self.ask("ZRANGE", getattr(self.keys, place), 0, -1):
                found[self.keys.public(member[:ID_LENGTH].decode())] = place
        return found

    def evidence(self) -> Evidence:
        """Ledger and server, as they are now."""
        return evidence(self.book, self.places())

    async def audit(self) -> Audit:
        """The structural audit, asked past whatever is in between."""
        app = Bananas(self.host.url, namespace=NAMESPACE, lease=self.lease)
        try:
            return await audit(app)
        finally:
            await app.close()

    async def __aenter__(self) -> "Site":
        await self.host.start()
        self.url = self._given_url or self.host.url
        self.app = Bananas(self.url, namespace=NAMESPACE, lease=self.lease, call_timeout=self._budget_s)
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
        for process in self._processes:
            process.end()
        await self.app.close()
        await self.host.end()
