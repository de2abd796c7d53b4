"""For the tests of applications: a private server, a worker in the test's process, and a mode without any server.

`pytest_plugins = ["bananas.testing"]` in a conftest.py gives the fixture `bananas_server`, the URL of an empty private server.

    async def test_welcome(bananas_server):
        async with worker_for(app, bananas_server) as worker:    # the real thing: server, leases, retries
            job = await send_email.submit("a@b.c")
            await worker.run_until_idle()
            assert await job.result() == "sent"

    async def test_quickly():
        with inline(app):                                        # no server: submit runs the handler at once
            job = await send_email.submit("a@b.c")
            assert await job.result() == "sent"

Both run jobs by the worker's own code. What differs: tasks with isolation="process" run in this process too, cron entries do not fire, and
in `worker_for` a task of the test's loop renews the leases, which a handler that blocks the loop holds up.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

from bananas import broker
from bananas.address import Address, parse_url
from bananas.app import Bananas
from bananas.broker import NewJob
from bananas.client import Client, new_boot
from bananas.config import Settings
from bananas.connection import SyncConnection
from bananas.errors import ConfigError
from bananas.keys import QueueKeys
from bananas.queue import Queue
from bananas.result import Outcome
from bananas.seals import Seals
from bananas.server import PrivateServer
from bananas.worker import table as tables
from bananas.worker.engine import Engine
from bananas.worker.inline import InlineRun
from bananas.worker.loading import overridden
from bananas.worker.maintenance import repeat
from bananas.worker.opening import open_queues

POLL_S = 0.005
BEAT_S = 0.25
STOP_S = 5.0

try:
    import pytest
except ImportError:  # `inline` and `worker_for` do without
    pass
else:

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


@contextmanager
def _lent(app: Bananas, settings: Settings, client: Client) -> Generator[None, None, None]:
    """The app with other settings and another client for the length of a block."""
    before = app.settings, app.client
    app.settings, app.client = settings, client
    app.producer.use(settings, client)
    try:
        yield
    finally:
        app.settings, app.client = before
        app.producer.use(*before)


# --- the real thing, in this process ----------------------------------------------------------------------------------


async def run_until_idle(app: Bananas, timeout: float = 10.0, *, include_scheduled: bool = False) -> int:
    """`Harness.run_until_idle` of a worker that lives for this call."""
    async with worker_for(app) as worker:
        return await worker.run_until_idle(timeout, include_scheduled=include_scheduled)


@asynccontextmanager
async def worker_for(app: Bananas, url: str | None = None, **settings: Any) -> "AsyncGenerator[Harness, None]":
    """A worker of this app in this process. It runs from now on; at the end of the block, what still runs goes back to its queue.

    Args:
        url: the app uses this server within the block, and a namespace of its own there; by default the app's own server and namespace.
        settings: any setting of docs/settings.md by name, for the length of the block, e.g. worker_concurrency=1, lease=1.

    Raises:
        ConfigError: a wrong setting.
        BrokerUnavailable: the server does not answer.
    """
    app.registry.load()
    changed, client = overridden(app.settings, settings), app.client
    if url is not None:
        address = parse_url(url)
        changed = overridden(changed, {"namespace": f"test-{new_boot()}"} | settings)
        client = Client(lambda: address, "bananas:test", changed.redis_pool_size, changed.call_timeout, seals=Seals(changed))
    with _lent(app, changed, client):
        try:
            async with _started(app) as worker:
                yield worker
        finally:
            await client.close()


@asynccontextmanager
async def _started(app: Bananas) -> "AsyncGenerator[Harness, None]":
    boot = new_boot()
    queues = await open_queues(app, boot)
    table = tables.private(tables.capacity_for(app.settings.slots))
    engine = Engine(app, boot, queues, table)
    for runnable in engine.runner.tasks.values():
        runnable.isolated = False
    async with AsyncExitStack() as stack:
        if app.registry.lifespan is not None:
            engine.runner.state = await stack.enter_async_context(asynccontextmanager(app.registry.lifespan)())
            engine.runner.outcomes.state = engine.runner.state
        worker = Harness(app, engine)
        stack.push_async_callback(worker.stop)
        yield worker


class Harness:
    """A worker in this process, as `worker_for` gives it."""

    def __init__(self, app: Bananas, engine: Engine) -> None:
        self._app, self._engine = app, engine
        engine.intake.begin(promotes=app.settings.enable_scheduler)
        self._loops = [asyncio.ensure_future(loop) for loop in (*engine.loops(), repeat(self._beat, "beat"))]

    async def run_until_idle(self, timeout: float = 10.0, *, include_scheduled: bool = False) -> int:
        """Wait until nothing is ready, running or due in the queues that this worker serves, and no hook runs.

        Args:
            timeout: seconds.
            include_scheduled: run what waits for later (delays, retries) as if its time had come, until nothing is scheduled either.

        Returns:
            how many runs have ended since the worker's start.

        Raises:
            TimeoutError: says what is left, and why it may not run; the worker goes on.
        """
        deadline = time.monotonic() + timeout
        while left := await self._left(include_scheduled):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not idle within {timeout:g} s: {'; '.join(left)}")
            await asyncio.sleep(POLL_S)
        await self._engine.runner.outcomes.hooks_ended(max(0.0, deadline - time.monotonic()))
        return self._engine.runner.finished

    async def _left(self, include_scheduled: bool) -> list[str]:
        """What keeps this worker from being idle, in words. Nothing is, if it had nothing to do before and after the server was asked."""
        for loop in self._loops:
            if loop.done():
                loop.result()
        runner, turns = self._engine.runner, self._turns()
        left = [f"{run.runnable.name} runs" for run in runner.running.values()]
        for served in self._engine.queues:
            if served.settler or served.hungry:
                left.append(f"queue {served.keys.name!r}: a turn is due")
            left += await self._waiting(served.keys, include_scheduled)
        return left or (["the worker was at work"] if runner.running or turns != self._turns() else [])

    def _turns(self) -> int:
        return sum(served.turn for served in self._engine.queues)

    async def _waiting(self, keys: QueueKeys, include_scheduled: bool) -> list[str]:
        (seconds, micros) = await self._ask(keys, broker.plain(tuple, "TIME"))
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        counts = await Queue(self._app.client, [keys], keys.queue).counts()
        if include_scheduled and counts.scheduled:
            ids = await self._ask(keys, broker.plain(list, "ZRANGE", keys.scheduled, 0, 999))
            await self._ask(keys, broker.reschedule(keys, 0, [member.decode() for member in ids]))
            due = counts.scheduled
        else:
            due = await self._ask(keys, broker.plain(int, "ZCOUNT", keys.scheduled, "-inf", now_ms))
        if counts.paused:
            return [f"queue {keys.name!r}: {counts.running} running"] if counts.running else []
        if not (counts.ready or counts.running or due):
            return []
        return [f"queue {keys.name!r}: {counts.ready} ready, {counts.running} running, {due} due"]

    async def _ask(self, keys: QueueKeys, request: broker.Request[Any]) -> Any:
        return await self._app.client.ask(keys, request, "looking at a queue")

    async def _beat(self) -> float:
        """Renew the leases, as a supervisor does. Returns seconds until the next time."""
        lease_ms, began = round(self._app.settings.lease * 1000), time.monotonic()
        for served in self._engine.queues:
            members = [lease.member for lease in self._engine.table.held() if lease.queue == served.index]
            for start in range(0, len(members), broker.SETTLE_BATCH):
                part = members[start : start + broker.SETTLE_BATCH]
                extension = await self._ask(served.keys, broker.extend(served.keys, lease_ms, part))
                lost = [member for member, held in zip(part, extension.held, strict=True) if not held]
                cancelled = [member for member, wanted in zip(part, extension.cancelled, strict=True) if wanted]
                self._engine.stop_runs(lost, cancelled)
        self._engine.table.note_beat(began, range(len(self._engine.queues)), full=False)
        return min(BEAT_S, self._app.settings.lease / 4)

    async def stop(self) -> None:
        """Claim no more and hand back what runs, without an attempt."""
        runner, intake = self._engine.runner, self._engine.intake
        intake.stop()
        runner.stop_all()
        with suppress(TimeoutError):
            await asyncio.wait_for(intake.drained.wait(), STOP_S)
        await runner.outcomes.hooks_ended(STOP_S)
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        intake.close()
        runner.close()


# --- without a server -------------------------------------------------------------------------------------------------


@contextmanager
def inline(app: Bananas, *, state: Any = None) -> Generator[None, None, None]:
    """Within the block, submit runs the job at once, in this process and without a server, and returns when it has ended.

    Arguments and values pass through the codec, so that what cannot travel shows. Retries run at once, up to max_retries; delays and
    priorities mean nothing; a unique key holds nothing, since each job has ended when submit returns. `job.result()` and
    `app.as_completed` need no server; what else asks one (`job.info()`, `app.queue(...)`) raises ConfigError. A sync handler runs in a
    thread, as in a worker.

    Args:
        state: what `current_job().state` is: the app's lifespan is not opened.
    """
    app.registry.load()
    client = Client(_no_server, "bananas:inline", 1, app.settings.call_timeout, seals=app.client.seals)
    fences = itertools.count(1)

    async def run_here(keys: QueueKeys, job: NewJob) -> Outcome:
        return await InlineRun(app, keys, state, fences).run(job)

    before = app.producer.run_here
    with _lent(app, app.settings, client):
        app.producer.run_here = run_here
        try:
            yield
        finally:
            app.producer.run_here = before


def _no_server() -> Address:
    raise ConfigError("this call asks a server, and bananas.testing.inline has none: test it with bananas.testing.worker_for")
