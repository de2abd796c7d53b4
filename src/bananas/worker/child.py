"""One worker process: it loads the app, opens its resources, and runs the loops until it is told to stop.

1. read the order from the supervisor; import the app
2. check the server; open the app's lifespan
3. greet the supervisor: from now on it beats for the leases in the table; wait until the registry has this process
4. fetch, run, settle; upkeep and cron beside it
5. on stop: claim no more, let jobs finish until the deadline, hand the rest back without an attempt, leave
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import structlog

from bananas.app import Bananas
from bananas.client import new_boot
from bananas.config import Settings
from bananas.errors import BananasError, BrokerError, ConfigError
from bananas.logs import configure
from bananas.worker import table as tables
from bananas.worker import vitals
from bananas.worker.blocked import Watch
from bananas.worker.control import RECYCLED, UNREACHED, Hello, Lines, Message, Probing, WorkerSpec, line, send_hello
from bananas.worker.engine import Engine
from bananas.worker.intake import by_server
from bananas.worker.isolated import IsolatedPool, Recipe
from bananas.worker.loading import load_app, override
from bananas.worker.maintenance import Clock, Upkeep, keys_of_cron, repeat
from bananas.worker.opening import open_queues
from bananas.worker.served import Served
from bananas.worker.stacks import Teller
from bananas.worker.table import LeaseTable
from bananas.worker.vitals import Sign, Ticker, Vitals

STUBBORN_S = 2.0
MOST_UNSENT_BYTES = 65_536
INTRODUCTION_S = 2.0  # how long to wait for the registry before work begins all the same
HOOKS_S = 2.0  # how long hooks may go on when all jobs have ended
log = structlog.get_logger("bananas.worker")


class Child:
    """A worker process."""

    def __init__(self, app: Bananas, spec: WorkerSpec, channel: socket.socket, *, quiet: bool = False) -> None:
        self.app, self._spec, self._channel, self._quiet = app, spec, channel, quiet
        self.settings: Settings = app.settings
        self.boot = new_boot()
        self._stopping = False
        self._why = "stopped"
        self._left_behind = False
        self._unsent = b""
        self._failure: BaseException | None = None
        self._known = asyncio.Event()

    async def run(self) -> int:
        """Work until told to stop. Returns the exit code."""
        async with AsyncExitStack() as stack:
            if self._spec.burst and self.settings.worker_mode == "scheduler-only":
                raise ConfigError(
                    "--burst ends when no job is ready or running, and a scheduler-only worker runs none: leave out one of the two"
                )
            queues = await open_queues(self.app, self.boot)
            self._build(queues)
            resources = self.app.registry.lifespan
            if resources is not None:
                self._runner.state = await stack.enter_async_context(asynccontextmanager(resources)())
                self._runner.outcomes.state = self._runner.state
            if self._runner.pool is not None:
                stack.push_async_callback(self._runner.pool.close)
            self._greet(queues)
            self._tell_counts(queues)
            loops = await self._start_loops()
            self._show_vitals(stack)
            await self._intake.drained.wait()
            if self._failure is not None:
                raise self._failure
            await self._runner.outcomes.hooks_ended(HOOKS_S)
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            self._intake.close()
            self._runner.close()
            self._teller.close()
        await self.app.close()
        with contextlib.suppress(OSError):  # the supervisor may be gone
            self._channel.sendall(self._unsent + line(Message(bye=self._why)))
        log.info("worker process stopped", why=self._why, jobs=self._runner.finished)
        if self._left_behind:
            sys.stderr.flush()
            os._exit(0)
        return 0

    # --- set up ---

    def _build(self, queues: list[Served]) -> None:
        capacity = tables.capacity_for(self.settings.slots)
        self._table_fd = tables.make_file(capacity)
        self._table = LeaseTable(self._table_fd, capacity)
        self._vitals_fd = vitals.make_file()
        self._vitals = Vitals(self._vitals_fd)
        self._engine = Engine(self.app, self.boot, queues, self._table)
        self._runner, self._intake = self._engine.runner, self._engine.intake
        self._teller = Teller(self._runner)
        if any(task.isolated for task in self._runner.tasks.values()):
            recipe = Recipe(self._spec.target, self._spec.modules, self._spec.settings, os.dup(self._table_fd))
            self._runner.pool = IsolatedPool(recipe)

    def _show_vitals(self, stack: AsyncExitStack) -> None:
        ticker = Ticker(self._vitals, self._sign)
        if self.settings.blocked_loop_warning:
            stack.callback(Watch(ticker, self._vitals, self.settings.blocked_loop_warning, self._runner.running).close)
        stack.callback(ticker.close)
        ticker.turn()

    def _sign(self) -> Sign:
        paused = frozenset(served.index for served in self._engine.queues if served.paused)
        return vitals.gather(self._intake.pulses, self._intake.accepting, paused)

    def _greet(self, queues: list[Served]) -> None:
        settings = self.settings
        hello = Hello(
            boot=self.boot,
            pid=os.getpid(),
            address=self.app.client.address,
            namespace=settings.namespace,
            queues=[served.keys.name for served in queues],
            tasks=list(self.app.registry.tasks),
            only_priorities=list(settings.worker_priorities) if settings.worker_mode == "specialized" else [],
            only_tasks=list(settings.worker_job_types) if settings.worker_mode == "job-specialized" else [],
            slots=settings.slots,
            capacity=self._table.capacity,
            lease=settings.lease,
            shutdown_timeout=settings.shutdown_timeout,
            processes=settings.worker_processes,
            claims=settings.worker_mode != "scheduler-only",
            probing=Probing.of(settings),
        )
        send_hello(self._channel, hello, self._table_fd, self._vitals_fd, self._teller.fd)
        self._teller.handed_over()
        for fd in (self._table_fd, self._vitals_fd):
            os.close(fd)

    async def _introduced(self, queues: list[Served]) -> None:
        """Wait until the registry has this process, so that whoever sees one of its jobs finds it there; not for long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._known.wait(), INTRODUCTION_S)
        names, mode = [served.keys.name for served in queues], self.settings.worker_mode
        slots = 0 if mode == "scheduler-only" else self.settings.slots
        log.info("worker process started", queues=names, slots=slots, mode=mode, server=str(self.app.client.address))
        if slots and not self.app.registry.tasks:
            log.warning("the app declares no task: every job will be handed back; name its modules with app.include or after MODULE:APP")

    def _tell_counts(self, queues: list[Served]) -> None:
        """What is counted goes to the supervisor too, where that tells Prometheus."""
        if self.settings.worker_health_port is not None:
            for served in queues:
                served.counting.told = partial(self._tell_count, served.keys.name)

    def _tell_count(self, queue: str, fields: dict[str, str]) -> None:
        if len(self._unsent) < MOST_UNSENT_BYTES:  # else the supervisor stands still, and there are more important things
            self._unsent += line(Message(counted={queue: fields}))
        with contextlib.suppress(OSError):
            self._unsent = self._unsent[self._channel.send(self._unsent) :]

    async def _start_loops(self) -> list["asyncio.Task[Any]"]:
        settings, only_upkeep = self.settings, self.settings.worker_mode == "scheduler-only"
        self._intake.begin(promotes=settings.enable_scheduler, burst=self._spec.burst, accepting=not only_upkeep)
        loop, loops = asyncio.get_running_loop(), list[asyncio.Task[Any]]()

        def start(work: Coroutine[Any, Any, Any]) -> None:
            loops.append(loop.create_task(work))
            loops[-1].add_done_callback(self._loop_ended)

        loop.add_signal_handler(signal.SIGTERM, self.stop, "stopped")
        start(self._listen())
        await self._introduced(self._engine.queues)
        if settings.enable_scheduler:
            for upkeep in self._keepers(promotes=only_upkeep):
                start(repeat(upkeep.tick, "upkeep"))
        if settings.cron_scheduler_enabled and self.app.registry.crons:
            for clock in self._clocks():
                start(repeat(clock.tick, "cron"))
        if settings.max_jobs or settings.max_memory_mb:
            start(self._recycle())
        for work in self._engine.loops():
            start(work)
        if self._quiet:
            self._be_quiet()
        return loops

    def _keepers(self, *, promotes: bool) -> list[Upkeep]:
        here = self.app.client.here()
        groups = by_server(here.address, self._engine.queues, lambda served: served.keys)
        return [Upkeep(here, queues, self.settings, promotes=promotes) for queues in groups]

    def _clocks(self) -> list[Clock]:
        here, producer = self.app.client.here(), self.app.producer
        groups = by_server(here.address, list(self.app.registry.crons.values()), partial(keys_of_cron, producer))
        return [Clock(here, entries, producer, self.settings) for entries in groups]

    def _loop_ended(self, task: "asyncio.Task[Any]") -> None:
        """A loop that fails takes the process with it: the supervisor hands out its jobs and starts another."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a loop of this process failed: it ends", error=repr(error))
            self._failure = error
            self._intake.drained.set()

    # --- told by the supervisor ---

    async def _listen(self) -> None:
        loop, lines = asyncio.get_running_loop(), Lines()
        self._channel.setblocking(False)
        while data := await loop.sock_recv(self._channel, 65536):
            for message in lines.feed(data):
                self._obey(message)
        if not self._stopping:
            log.warning("the supervisor is gone: nobody renews the leases, so this process stops")
            self.settings = msgspec.structs.replace(
                self.settings, shutdown_timeout=min(self.settings.shutdown_timeout, self.settings.lease / 2)
            )
            self.stop("orphaned")

    def _obey(self, message: Message) -> None:
        self._engine.stop_runs([name.encode() for name in message.lost], [name.encode() for name in message.cancelled])
        if message.known:
            self._known.set()
        if message.quiet:
            self._be_quiet()
        if message.stop:
            self.stop("stopped")
        if message.cancel:
            self._cancel_all()

    def _be_quiet(self) -> None:
        log.info("quiet: no more jobs are claimed")
        self._intake.stop_accepting()

    # --- stop ---

    def stop(self, why: str) -> None:
        """Claim no more, let jobs finish until the deadline, hand the rest back."""
        if self._stopping:
            return
        self._stopping, self._why = True, why
        self._known.set()
        log.info("stopping: running jobs may finish", jobs=len(self._runner.running), seconds=self.settings.shutdown_timeout)
        self._intake.stop()
        asyncio.get_running_loop().call_later(self.settings.shutdown_timeout, self._cancel_all)

    def _cancel_all(self) -> None:
        """The deadline, or a second signal: stop what runs; it goes back to its queue without an attempt, and so does what waits."""
        self._intake.stop()
        self._runner.stop_all()
        asyncio.get_running_loop().call_later(STUBBORN_S, self._abandon)

    def _abandon(self) -> None:
        """Handlers that do not stop: hand their jobs back and leave the process without waiting for them."""
        for member, run in list(self._runner.running.items()):
            log.warning("a handler does not stop: its job goes back", job=run.job.id)
            self._left_behind = True
            self._runner.abandon(member)

    async def _recycle(self) -> None:
        settings = self.settings
        while True:
            if settings.max_jobs and self._runner.finished >= settings.max_jobs:
                self.stop(f"{RECYCLED} after max_jobs")
            if settings.max_memory_mb and resident_bytes() > settings.max_memory_mb * 2**20:
                self.stop(f"{RECYCLED} above max_memory")
            await asyncio.sleep(0.1)


def resident_bytes() -> int:
    """The memory that this process holds now (where the system tells), or its peak."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _read_order(channel: socket.socket) -> tuple[WorkerSpec, bool]:
    """What to run, and whether to be quiet from the start."""
    lines = Lines()
    while data := channel.recv(65536):
        for message in lines.feed(data):
            if message.start is not None:
                return message.start, message.quiet
    raise ConfigError("this process is started by `bananas worker`")


def main() -> int:
    """The worker process: its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    began = time.monotonic()
    try:
        spec, quiet = _read_order(channel)
        app = load_app(spec.target, spec.modules)
        override(app, spec.settings)
        configure(app.settings)
        gc.freeze()  # what is loaded now stays: no collection looks at it again
        log.debug("app imported", seconds=round(time.monotonic() - began, 3))
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(Child(app, spec, channel, quiet=quiet).run())
    except BananasError as error:
        sys.stderr.write(f"bananas worker: {type(error).__name__}: {error}\n")
        if isinstance(error, BrokerError):
            with contextlib.suppress(OSError):
                channel.sendall(line(Message(bye=UNREACHED)))
        return 2 if isinstance(error, ConfigError) else 1


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
