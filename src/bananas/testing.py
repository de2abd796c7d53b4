"""For the tests of applications: a private server, jobs run to the end in this process, and a mode without any server.

In a conftest.py: `pytest_plugins = ["bananas.testing"]` gives the fixture `bananas_server`, the URL of an empty private server.

    async def test_welcome(bananas_server):
        app = make_app(bananas_server)
        job = await send_email.submit("a@b.c")
        await run_until_idle(app)                # the real thing: server, leases, retries
        assert await job.result() == "sent"

    async def test_quickly():
        with inline(app):                        # no server: submit runs the handler at once
            job = await send_email.submit("a@b.c")
            assert await job.result() == "sent"
"""

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from typing import Any

import pytest
from msgspec import Raw

from bananas import broker, codec
from bananas.app import Bananas
from bananas.client import new_boot
from bananas.connection import SyncConnection, parse_url
from bananas.context import CurrentJob, running
from bananas.errors import UnknownTask
from bananas.handle import Job
from bananas.job import FinalState, Result
from bananas.producer import Producer
from bananas.result import refuse_on_loop
from bananas.retry import Decision, Retry, decide
from bananas.server import PrivateServer
from bananas.task import Call, Task
from bananas.worker import table as tables
from bananas.worker.fetcher import Fetcher
from bananas.worker.run import Runnable
from bananas.worker.runner import Runner
from bananas.worker.served import Served
from bananas.worker.table import LeaseTable


@pytest.fixture(scope="session")
def bananas_private_server() -> Iterator[PrivateServer]:
    """One private server for the session."""
    with PrivateServer() as server:
        yield server


@pytest.fixture
def bananas_server(bananas_private_server: PrivateServer) -> str:
    """The URL of a private server without keys."""
    connection = SyncConnection(parse_url(bananas_private_server.url))
    connection.execute([("FLUSHALL",)], 5)
    connection.close()
    return bananas_private_server.url


# --- the real thing, in this process ----------------------------------------------------------------------------------


async def run_until_idle(app: Bananas, timeout: float = 10.0, *, include_scheduled: bool = False) -> int:
    """Run the app's jobs in this process until nothing is ready or running. Returns how many runs ended.

    Args:
        timeout: seconds.
        include_scheduled: also run what waits for later (delays, retries), as if its time had come.

    Raises:
        TimeoutError: jobs still run or keep coming.
    """
    ended = 0
    async with asyncio.timeout(timeout):
        while True:
            ended += await _burst(app)
            if not include_scheduled or not await _bring_forward(app):
                return ended


async def _burst(app: Bananas) -> int:
    settings, boot = app.settings, new_boot()
    app.registry.load()
    names = app.registry.queues() or ["default"]
    queues = [Served(index, app.producer.keys(name), boot) for index, name in enumerate(names)]
    capacity = tables.capacity_for(settings.slots)
    fd = tables.make_file(capacity)
    table = LeaseTable(fd, capacity)
    os.close(fd)
    tasks = {name: Runnable(task, settings, app.registry.hooks) for name, task in app.registry.tasks.items()}
    for task in tasks.values():
        task.isolated = False
    runner = Runner(tasks, settings, app.producer.chain, table, lambda: fetcher.changed())  # noqa: PLW0108  # made below
    fetcher = Fetcher(app.client.address, boot, queues, runner, table, lease_ms=round(settings.lease * 1000))
    fetcher.burst = True
    resources = app.registry.lifespan
    async with asynccontextmanager(resources)() if resources is not None else nullcontext() as runner.state, _beating(app, table, queues):
        await fetcher.run()
    fetcher.close()
    table.close()
    return runner.finished


@asynccontextmanager
async def _beating(app: Bananas, table: LeaseTable, queues: list[Served]) -> AsyncGenerator[None, None]:
    """Renew the leases as a supervisor would."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(app.settings.lease / 4)
            began = asyncio.get_running_loop().time()
            for lease in table.held():
                keys = queues[lease.queue].keys
                await app.client.ask(keys, broker.extend(keys, round(app.settings.lease * 1000), [lease.member]), "the beat")
            table.note_beat(began, full=False)

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _bring_forward(app: Bananas) -> int:
    moved = 0
    for name in app.registry.queues() or ["default"]:
        keys = app.producer.keys(name)
        ids = await app.client.ask(keys, broker.plain(list, "ZRANGE", keys.scheduled, 0, 999), "bringing jobs forward")
        if ids:
            await app.client.ask(keys, broker.reschedule(keys, 0, [item.decode() for item in ids]), "bringing jobs forward")
            moved += len(ids)
    return moved


# --- without a server -------------------------------------------------------------------------------------------------


@contextmanager
def inline(app: Bananas) -> Generator[None, None, None]:
    """Run jobs at once where they are submitted, without a server; arguments and values still pass through the codec.

    Delays are skipped, retries run at once, `job.result()` returns the value or raises TaskError. Priorities, uniqueness and expiry mean
    nothing here; a task that snoozes for ever never returns.
    """
    producer = app.producer
    ends = _InlineEnds(producer)
    names = ("submit", "submit_sync", "submit_many", "submit_many_sync")
    for name in names:
        setattr(producer, name, getattr(ends, name))
    try:
        yield
    finally:
        for name in names:
            delattr(producer, name)


class _InlineEnds:
    """What stands in for the sending half of a producer."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    async def submit(self, call: Call[Any]) -> Job[Any]:
        plan, job = self._producer.pack(call)
        result = await self._run(plan.task, plan.keys.queue, plan.priority, job.job_id, job.body)
        return self._producer.handle(plan, job, job.job_id).ended(codec.pack_result(result))

    def submit_sync(self, call: Call[Any]) -> Job[Any]:
        refuse_on_loop("submit_sync()", "submit()")
        return asyncio.run(self.submit(call))

    async def submit_many(self, calls: Iterable[Call[Any]]) -> list[Job[Any]]:
        return [await self.submit(call) for call in calls]

    def submit_many_sync(self, calls: Iterable[Call[Any]]) -> list[Job[Any]]:
        refuse_on_loop("submit_many_sync()", "app.submit_many()")
        return [self.submit_sync(call) for call in calls]

    async def _run(self, name: str, queue: str, priority: int, job_id: str, body: bytes) -> Result:
        task = self._producer.known(name)
        if task is None:
            raise UnknownTask(f"no task {name!r} is declared here, so it cannot run inline; import the module that declares it")
        _, envelope = codec.unpack_body(bytes(8) + body)
        most = task.defaults.max_retries if envelope.max_retries is None else envelope.max_retries
        most = self._producer.settings.max_retries if most is None else most
        attempt = 0
        while True:
            attempt += 1
            job = CurrentJob((queue, job_id), name, (queue, priority), (attempt, attempt), envelope.headers or {}, None)
            token = running.set(job)
            try:
                args, kwargs = task.signature.build(envelope.args, envelope.kwargs)
                value = await task.handler(*args, **kwargs) if task.is_async else task.handler(*args, **kwargs)
                return Result("success", Raw(codec.pack(value)), attempts=attempt)
            except Exception as error:
                decision = _decide(task, most, attempt, error)
                if decision.kind not in ("retry", "snooze"):
                    state: FinalState = "discarded" if decision.kind == "discard" else "dead"
                    record = codec.error_record(error, 0, attempt, "inline")
                    return Result(state, error_type=record.type, error_message=record.message, traceback=record.traceback, attempts=attempt)
                attempt -= decision.kind == "snooze"
            finally:
                running.reset(token)


def _decide(task: Task[Any, Any], most: int, attempt: int, error: Exception) -> Decision:
    return decide(task.defaults.retry or Retry(), most, attempt, error, random.random())
