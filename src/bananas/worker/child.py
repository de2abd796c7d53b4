"""One worker process: it loads the app, opens its resources, and runs the loops until it is told to stop.

1. read the order from the supervisor; import the app
2. check the server; open the app's lifespan
3. greet the supervisor: from now on it beats for the leases in the table
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
            loops = self._start_loops()
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
        slots = hello.slots if hello.claims else 0
        log.info("worker process started", queues=hello.queues, slots=slots, mode=settings.worker_mode, server=str(hello.address))
        if slots and not hello.tasks:
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

    def _start_loops(self) -> list["asyncio.Task[Any]"]:
        settings, here = self.settings, self.app.client.here()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop, "stopped")
        loops = [loop.create_task(self._listen())]
        only_upkeep = settings.worker_mode == "scheduler-only"
        if settings.enable_scheduler:
            served_by = by_server(here.address, self._engine.queues, lambda served: served.keys)
            keepers = [Upkeep(here, queues, settings, promotes=only_upkeep) for queues in served_by]
            loops += [loop.create_task(repeat(upkeep.tick, "upkeep")) for upkeep in keepers]
        if settings.cron_scheduler_enabled and self.app.registry.crons:
            producer, crons = self.app.producer, list(self.app.registry.crons.values())
            clocks = [
                Clock(here, entries, producer, settings) for entries in by_server(here.address, crons, partial(keys_of_cron, producer))
            ]
            loops += [loop.create_task(repeat(clock.tick, "cron")) for clock in clocks]
        if settings.max_jobs or settings.max_memory_mb:
            loops.append(loop.create_task(self._recycle()))
        self._intake.begin(promotes=settings.enable_scheduler, burst=self._spec.burst, accepting=not only_upkeep)
        loops += [loop.create_task(work) for work in self._engine.loops()]
        if self._quiet:
            self._be_quiet()
        for task in loops:
            task.add_done_callback(self._loop_ended)
        return loops

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
