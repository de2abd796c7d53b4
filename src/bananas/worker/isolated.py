"""`isolation="process"`: handlers in warm processes of their own, which are killed on timeout or cancellation.

The pool starts a process when a job needs one and none is idle, and keeps it for the next job. Parent and process speak over a socket pair:
four bytes of length, then msgpack. The process loads the app and opens its resources once; it decides by the task's own policy what becomes
of a failure, since exceptions do not travel. A process that dies with its job is a failed attempt, not a crash of the worker.
"""

import asyncio
import os
import random
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import msgspec
from msgspec import Raw, Struct

from bananas import codec
from bananas.context import CurrentJob, running
from bananas.errors import BananasError
from bananas.job import Envelope, ErrorRecord
from bananas.retry import Decision, Retry, decide


class Order(Struct, array_like=True):
    """A job for an isolated process."""

    envelope: Envelope[Raw]
    public: tuple[str, str]
    queue: str
    priority: int
    attempt: int
    fence: int
    max_retries: int


class Answer(Struct, array_like=True):
    """What became of it."""

    value: Raw = Raw(b"\xc0")
    decision: Decision | None = None
    record: ErrorRecord | None = None


class IsolatedFailure(BananasError):
    """A handler failed in its isolated process: what the task's policy decided there, and the record of the error."""

    def __init__(self, decision: Decision, record: ErrorRecord) -> None:
        self.decision, self.record = decision, record
        super().__init__(f"{record.type}: {record.message}")


class IsolatedProcessDied(BananasError):
    """The isolated process ended while its job ran."""


_orders = msgspec.msgpack.Decoder(Order)
_answers = msgspec.msgpack.Decoder(Answer)


def _frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    """The next frame, or b"" at the end."""
    try:
        return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
    except asyncio.IncompleteReadError:
        return b""


class _Process:
    """One warm process."""

    def __init__(self, process: "subprocess.Popen[bytes]", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.process, self.reader, self.writer = process, reader, writer

    @classmethod
    async def start(cls, target: str, modules: tuple[str, ...], settings: dict[str, Any]) -> "_Process":
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "bananas.worker.isolated", str(theirs.fileno()), target, *modules]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)  # noqa: ASYNC220  # 1 ms, once per warm process
        theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours, limit=2**30)
        self = cls(process, reader, writer)
        writer.write(_frame(msgspec.msgpack.encode(settings)))
        try:
            await reader.readexactly(4)
        except asyncio.IncompleteReadError as error:
            raise IsolatedProcessDied(f"an isolated process could not start (exit code {await self.end()}); its output says why") from error
        except BaseException:
            await asyncio.shield(self.end())
            raise
        return self

    async def run(self, order: Order) -> Answer:
        self.writer.write(_frame(msgspec.msgpack.encode(order)))
        try:
            size = int.from_bytes(await self.reader.readexactly(4), "big")
            return _answers.decode(await self.reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            code = await self.end()
            raise IsolatedProcessDied(f"the process that ran the job died with exit code {code}; the job counts as failed") from error

    async def end(self) -> int:
        """Kill it and wait until it is gone."""
        self.writer.close()
        self.process.kill()
        return await asyncio.get_running_loop().run_in_executor(None, self.process.wait)


class IsolatedPool:
    """The warm processes of one worker."""

    def __init__(self, target: str, modules: tuple[str, ...], settings: dict[str, Any], max_retries: dict[str, int]) -> None:
        self._target, self._modules, self._settings, self._max_retries = target, modules, settings, max_retries
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()

    async def acquire(self) -> _Process:
        """A warm process, started if none is idle."""
        process = self._idle.pop() if self._idle else await _Process.start(self._target, self._modules, self._settings)
        self._all.add(process)
        return process

    async def call(self, process: _Process, job: CurrentJob, envelope: Envelope[Raw]) -> Raw:
        """Run a job in a process of its own and return its packed value.

        Raises:
            IsolatedFailure: the handler failed.
            IsolatedProcessDied: its process did.
        """
        most = self._max_retries[job.task] if envelope.max_retries is None else envelope.max_retries
        queue, _, job_id = job.id.rpartition(".")
        order = Order(envelope, (queue, job_id), job.queue, job.priority, job.attempt, job.fence, most)
        try:
            answer = await process.run(order)
        except BaseException:
            self._all.discard(process)
            await asyncio.shield(process.end())
            raise
        self._idle.append(process)
        if answer.decision is not None and answer.record is not None:
            raise IsolatedFailure(answer.decision, answer.record)
        return answer.value

    async def close(self) -> None:
        """Kill every process."""
        for process in list(self._all):
            await process.end()
        self._all.clear()
        self._idle.clear()


# --- in the process ---------------------------------------------------------------------------------------------------


async def _serve(fd: int, target: str, modules: list[str]) -> None:
    from bananas.logs import configure
    from bananas.worker.loading import load_app, override

    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd), limit=2**30)
    app = load_app(target, modules)
    override(app, msgspec.msgpack.decode(await _read_frame(reader)))
    configure(app.settings)
    resources = app.registry.lifespan
    async with asynccontextmanager(resources)() if resources is not None else nullcontext() as state:
        writer.write(_frame(b""))
        while data := await _read_frame(reader):
            answer = await _answer(app.registry.tasks, _orders.decode(data), state)
            writer.write(_frame(msgspec.msgpack.encode(answer)))
            await writer.drain()


async def _answer(tasks: dict[str, Any], order: Order, state: Any) -> Answer:
    envelope = order.envelope
    task = tasks[envelope.task]
    job = CurrentJob(
        order.public, envelope.task, (order.queue, order.priority), (order.attempt, order.fence), envelope.headers or {}, state
    )
    running.set(job)
    try:
        args, kwargs = task.signature.build(envelope.args, envelope.kwargs)
        value = await task.handler(*args, **kwargs) if task.is_async else task.handler(*args, **kwargs)
        return Answer(Raw(codec.pack(value)))
    except BaseException as error:
        policy = task.defaults.retry or Retry()
        if envelope.retry is not None:
            policy = Retry.from_wire(envelope.retry, policy)
        decision = decide(policy, order.max_retries, order.attempt, error, random.random())
        return Answer(decision=decision, record=codec.error_record(error, 0, order.attempt, f"isolated:{os.getpid()}"))


def main() -> None:
    """The entry point of an isolated process."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))


if __name__ == "__main__":
    main()
