"""`isolation="process"`: handlers in warm processes of their own, which are killed on timeout or cancellation.

The pool starts a process when a job needs one and none is idle, and keeps it for the next job. Parent and process speak over a socket pair:
four bytes of length, then msgpack. The process loads the app and opens its resources once, and runs the app's middleware around the
handler; it decides by the task's own policy what becomes of a failure, since exceptions do not travel. A process that dies with its job is
a failed attempt, not a crash of the worker. At the end an empty frame asks each to close its resources.

It trusts its lease by the same rule as the worker does (`Runner.trusted`) and without asking it: it maps the head of the worker's lease
table, where the supervisor notes its beats, and reads the monotonic clock, which processes of a machine share. So `lease_valid` is right
while the worker is blocked or stopped. When the worker dies, its isolated processes end: its supervisor hands out the jobs anew.
"""

import asyncio
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw, Struct

from bananas import codec
from bananas.context import CurrentJob, running
from bananas.errors import Dead, IsolatedProcessDied, NotSerializable, Steer
from bananas.job import ErrorRecord, Tagged
from bananas.retry import Decision, Retry, decide
from bananas.worker import frames
from bananas.worker.outbox import Outbox, Told, frame
from bananas.worker.run import Run
from bananas.worker.table import TableView

if TYPE_CHECKING:
    from bananas.app import Bananas


START_S, CLOSE_S, TELL_S = 60.0, 5.0, 3.0


class Order(Struct, array_like=True):
    """A job for an isolated process; times are of the monotonic clock."""

    envelope: Tagged[Raw]
    public: tuple[str, str]
    queue: str
    priority: int
    attempt: int
    fence: int
    max_retries: int
    deadline: float | None
    claimed_at: float
    noted_at: float
    at_queue: int
    slot: int
    member: bytes


class Answer(Struct, array_like=True, tag="answer"):
    """What became of it: its packed value, or what the task's policy decided of its failure; `steered`: the handler asked for that."""

    value: Raw = Raw(b"\xc0")
    decision: Decision | None = None
    record: ErrorRecord | None = None
    steered: bool = False


_orders = msgspec.msgpack.Decoder(Order)
_frames: msgspec.msgpack.Decoder[Answer | Told] = msgspec.msgpack.Decoder(Answer | Told)


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    """The next frame, or b"" at the end."""
    try:
        return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
    except asyncio.IncompleteReadError:
        return b""


class Recipe(Struct, frozen=True):
    """What an isolated process is started with: module:app, further modules, settings by name, and the lease table's file."""

    target: str
    modules: tuple[str, ...]
    settings: dict[str, Any]
    table_fd: int


class _Process:
    """One warm process."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", reader: asyncio.StreamReader, writer: asyncio.StreamWriter, questions: socket.socket
    ) -> None:
        self.process, self.reader, self.writer, self._questions = process, reader, writer, questions
        self.run_now: Run | None = None

    @classmethod
    async def start(cls, recipe: Recipe) -> "_Process":
        (ours, theirs), (asking, asked) = socket.socketpair(), socket.socketpair()
        passed = [theirs.fileno(), recipe.table_fd, asked.fileno()]
        command = [sys.executable, "-m", "bananas.worker.isolated", *map(str, passed), recipe.target, *recipe.modules]
        process = subprocess.Popen(command, pass_fds=passed, stdin=subprocess.DEVNULL)  # noqa: ASYNC220  # 1 ms, once per warm process
        theirs.close()
        asked.close()
        asking.settimeout(TELL_S)
        reader, writer = await asyncio.open_connection(sock=ours, limit=2**30)
        self = cls(process, reader, writer, asking)
        writer.write(frame(msgspec.msgpack.encode(recipe.settings)))
        try:
            async with asyncio.timeout(START_S):
                await reader.readexactly(4)
        except TimeoutError as error:
            code = await self.end()
            raise IsolatedProcessDied(
                f"an isolated process was not ready within {START_S:g} s: the app's import or lifespan takes too long there", code
            ) from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            code = await self.end()
            raise IsolatedProcessDied(f"an isolated process could not start (exit code {code}); its output says why", code) from error
        except BaseException:
            await asyncio.shield(self.end())
            raise
        return self

    async def run(self, order: Order, tell: Callable[[Told], None]) -> Answer:
        self.writer.write(frame(msgspec.msgpack.encode(order)))
        try:
            while True:
                size = int.from_bytes(await self.reader.readexactly(4), "big")
                told = _frames.decode(await self.reader.readexactly(size))
                if isinstance(told, Answer):
                    return told
                tell(told)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            code = await self.end()
            raise IsolatedProcessDied(f"the process that ran the job died with exit code {code}; the job counts as failed", code) from error

    def ask_stack(self) -> str:
        """Where its job's code is: for a thread, blocks. Raises OSError where it does not say."""
        self._questions.sendall(b"?")
        with self._questions.makefile("rb") as answer:
            return answer.read(int.from_bytes(answer.read(4), "big")).decode()

    async def leave(self) -> None:
        """Let it close its resources and end; kill it where that takes longer than CLOSE_S."""
        self.writer.write(frame(b""))
        with suppress(subprocess.TimeoutExpired):
            await asyncio.get_running_loop().run_in_executor(None, self.process.wait, CLOSE_S)
        await self.end()

    async def end(self) -> int:
        """Kill it and wait until it is gone."""
        self.writer.close()
        self._questions.close()
        self.process.kill()
        return await asyncio.get_running_loop().run_in_executor(None, self.process.wait)


class IsolatedPool:
    """The warm processes of one worker. It owns the recipe's file of the lease table."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()

    async def acquire(self) -> _Process:
        """A warm process, started if none is idle."""
        while self._idle:
            process = self._idle.pop()
            if process.process.poll() is None:
                return process
            self._all.discard(process)  # it died while it was idle
            await process.end()
        process = await _Process.start(self._recipe)
        self._all.add(process)
        return process

    async def call(self, process: _Process, run: Run) -> Answer:
        """Run a job in a process of its own.

        Raises:
            IsolatedProcessDied: it died.
        """
        process.run_now = run
        try:
            answer = await process.run(_order(run), lambda told: run.note(told.progress, told.lines))
        except BaseException:
            self._all.discard(process)
            await asyncio.shield(process.end())
            raise
        process.run_now = None
        self._idle.append(process)
        return answer

    def process_of(self, run: Run) -> _Process | None:
        """The process that runs a job now."""
        return next((process for process in list(self._all) if process.run_now is run), None)

    async def close(self) -> None:
        """End every process: the idle ones may close their resources, one that still runs something is killed."""
        await asyncio.gather(*[process.leave() if process in self._idle else process.end() for process in self._all])
        self._all.clear()
        self._idle.clear()
        os.close(self._recipe.table_fd)


def _order(run: Run) -> Order:
    job, claimed, envelope = run.job, run.claimed, run.claimed.envelope
    assert envelope is not None
    most = run.runnable.max_retries if envelope.max_retries is None else envelope.max_retries
    public = (claimed.served.keys.name, claimed.job_id)
    return Order(
        envelope,
        public,
        job.queue,
        job.priority,
        job.attempt,
        job.fence,
        most,
        job.deadline,
        claimed.grant.claimed_at,
        claimed.grant.noted_at,
        claimed.served.index,
        claimed.slot,
        claimed.member,
    )


# --- in the process ---------------------------------------------------------------------------------------------------


class _Trust:
    """How a job sees its lease from here."""

    def __init__(self, order: Order, table: TableView, lease_s: float, outbox: Outbox) -> None:
        self._order, self._table, self._lease_s = order, table, lease_s
        self.note = outbox.add

    @property
    def lost(self) -> bool:
        """Whether it is known to be lost."""
        return self._table.lost(self._order.slot, self._order.member)

    def valid(self) -> bool:
        """Whether it surely holds: as `Runner.trusted` says."""
        beaten = self._table.beaten(self._order.at_queue)
        since = beaten if beaten > self._order.noted_at else self._order.claimed_at
        return time.monotonic() < since + self._lease_s and not self.lost


async def _serve(fd: int, table_fd: int, asked_fd: int, target: str, modules: list[str]) -> None:
    from bananas.logs import configure
    from bananas.worker.loading import load_app, override

    now = _Now()
    _attend_parent(fd, asked_fd, now)
    table = TableView(table_fd)
    os.close(table_fd)
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd), limit=2**30)
    app = load_app(target, modules)
    override(app, msgspec.msgpack.decode(await _read_frame(reader)))
    configure(app.settings)
    resources = app.registry.lifespan
    async with asynccontextmanager(resources)() if resources is not None else nullcontext() as state:
        writer.write(frame(b""))
        while data := await _read_frame(reader):
            order = _orders.decode(data)
            outbox = Outbox(fd)
            trust = _Trust(order, table, app.settings.lease, outbox)
            # a task of its own: what middleware and handler set in context variables ends with the job
            task = now.task = asyncio.create_task(_answer(app, order, trust, state))
            await asyncio.wait([task])
            answer = _failed(app, order, asyncio.CancelledError("the handler cancelled itself")) if task.cancelled() else task.result()
            writer.write(outbox.close() + frame(msgspec.msgpack.encode(answer)))
            await writer.drain()


class _Now:
    """What runs here, for the thread that is asked about it."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()

    def tell(self) -> str:
        """Where its code is."""
        if self.task is None:
            return ""
        try:
            _, found = frames.of_task(self.task, self._loop, self._thread)
            return frames.as_text(found)
        except Exception as error:  # it went on while it was looked at
            return f"  (not seen: {type(error).__name__})\n"


def _attend_parent(fd: int, asked_fd: int, now: _Now) -> None:
    """Tell where the job's code is, when asked; and end this process when the other end of its socket is closed, whatever runs here: nobody
    waits for it, its job runs elsewhere.
    """
    asked = socket.socket(fileno=asked_fd)

    def attend() -> None:
        poller = select.poll()
        poller.register(fd, 0)
        poller.register(asked, select.POLLIN)
        while True:
            events = dict(poller.poll())
            if fd in events:
                os._exit(1)
            if not asked.recv(1):  # the parent is about to close the other one too
                poller.unregister(asked)
                continue
            asked.sendall(frame(now.tell().encode("utf-8", "replace")))

    threading.Thread(target=attend, name="bananas-parent", daemon=True).start()


async def _answer(app: "Bananas", order: Order, trust: _Trust, state: Any) -> Answer:
    envelope = order.envelope
    task = app.registry.tasks[envelope.task]
    where, claim = (order.queue, order.priority), (order.attempt, order.fence)
    job = CurrentJob(order.public, envelope.task, where, claim, envelope.headers or {}, state).under(trust, order.deadline)
    job.tags = envelope.tags
    running.set(lambda: job)
    try:
        args, kwargs = task.signature.build(envelope.args, envelope.kwargs)

        async def call() -> Any:
            return await task.handler(*args, **kwargs) if task.is_async else task.handler(*args, **kwargs)

        return Answer(_packed(await app.producer.chain.around_run(job, call)))
    except BaseException as error:
        return _failed(app, order, error)


def _failed(app: "Bananas", order: Order, error: BaseException) -> Answer:
    policy = app.registry.tasks[order.envelope.task].defaults.retry or Retry()
    if order.envelope.retry is not None:
        policy = Retry.from_wire(order.envelope.retry, policy)
    decision = decide(policy, order.max_retries, order.attempt, error, random.random())
    return Answer(decision=decision, record=codec.error_record(error, 0, order.attempt, ""), steered=isinstance(error, Steer))


def _packed(value: Any) -> Raw:
    """The value as it travels. Raises Dead where it cannot: another run would come to the same."""
    try:
        return Raw(codec.pack(value))
    except NotSerializable as unfit:
        raise Dead(str(unfit)) from unfit


def main() -> None:
    """The entry point of an isolated process."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:]))


if __name__ == "__main__":
    main()
