"""How an app reaches its server: per event loop one coalescing lane, for threads a pool of lanes, bulk over several.

A LANE is one connection, one boot id (random, new after a fork) and one submit batch in flight per queue. The batch carries the lane's
number for that queue, so a resend after a lost reply gets the first reply, even when the jobs have run and gone (lua/enqueue.lua).

COALESCING has no timer: a submit on an idle lane goes out with whatever else the loop is about to submit in this iteration; while it is
under way the next batch gathers. 100 coroutines become a few round trips by themselves, a lone submit waits for nobody.

FAILURE: a call has a budget of seconds. Within it the lane reconnects and resends; after it the caller gets BrokerUnavailable, which says
whether the call may have taken effect. Nothing is ever dropped silently.
"""

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from secrets import token_hex
from typing import Any, ClassVar, TypeVar

from bananas import broker
from bananas.broker import NewJob, Request
from bananas.connection import Address, Connection, ConnectionLost, Reply, ReplyError, SyncConnection
from bananas.errors import BrokerUnavailable
from bananas.keys import QueueKeys
from bananas.session import Passing, answer, backoff, check_layout, first_use, open_checked, open_checked_sync, pause_before, run, run_sync

T = TypeVar("T")
_Entry = tuple[NewJob, asyncio.Future[str], float]  # a job, the future of the id that stands for it, its budget in seconds


def new_boot() -> str:
    """The random id of a lane or a worker process: 16 hex digits."""
    return token_hex(8)


def _given_up(what: str, address: Address, budget: float, reason: object, sent: bool) -> BrokerUnavailable:
    state = "It may have taken effect: its reply was lost." if sent else "Nothing was sent."
    return BrokerUnavailable(
        f"{what}: the server at {address} did not answer within {budget:g} s ({reason}). {state} "
        "Check that the server runs and that REDIS_URL names it; call_timeout sets how long a call tries."
    )


class Lane:
    """One connection and boot id on one event loop. Reconnects by itself."""

    def __init__(self, address: Address, name: str) -> None:
        self.address, self.boot = address, new_boot()
        self._name = name
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._numbers: dict[QueueKeys, int] = {}
        self._known: set[QueueKeys] = set()
        self._queue_locks: dict[QueueKeys, asyncio.Lock] = {}

    def ready(self, keys: QueueKeys) -> Connection | None:
        """The connection, if it is open and the queue is known; else None."""
        connection = self._connection
        return connection if connection is not None and not connection.closed and keys in self._known else None

    def next_number(self, keys: QueueKeys) -> int:
        """The number of a new batch for this queue."""
        number = self._numbers[keys] = self._numbers.get(keys, 0) + 1
        return number

    async def connection(self, budget: float) -> Connection:
        """The connection, opened if need be. Raises BrokerUnavailable, AuthenticationFailed, ServerUnsuitable."""
        async with self._opening:
            if self._connection is None or self._connection.closed:
                self._connection = await open_checked(self.address, self._name, budget)
            return self._connection

    async def ask(
        self, keys: QueueKeys | None, requests: Sequence[Request[Any]], budget: float, what: str, sent_at: float | None = None
    ) -> list[Any]:
        """Run requests, reconnecting and resending within `budget` seconds (from `sent_at` on where they were sent once already).

        Returns:
            per request its reply or the BrokerError that it came to.

        Raises:
            BrokerUnavailable: the budget is used up; the message says whether anything was sent.
        """
        loop = asyncio.get_running_loop()
        deadline = (loop.time() if sent_at is None else sent_at) + budget
        tries, sent = 0, sent_at is not None
        while True:
            try:
                connection = await self.connection(max(0.05, deadline - loop.time()))
                await self._meet(keys, connection, max(0.05, deadline - loop.time()))
                sent = True
                replies = await run(connection, requests, max(0.05, deadline - loop.time()))
                passing = next((reply for reply in replies if isinstance(reply, Passing)), None)
                if passing is None:
                    return replies
                reason: Exception = passing
            except (ConnectionLost, BrokerUnavailable) as error:
                reason = error
            if loop.time() >= deadline:
                raise _given_up(what, self.address, budget, reason, sent) from reason
            await pause_before(tries, deadline)
            tries += 1

    async def _meet(self, keys: QueueKeys | None, connection: Connection, budget: float) -> None:
        """Once per queue: note its name on the server, check its layout."""
        if keys is not None and keys not in self._known:
            *_, layout = await run(connection, first_use(keys), budget)
            if check_layout(keys, answer(layout)):
                self._known.add(keys)

    async def deliver(
        self, keys: QueueKeys, jobs: Sequence[NewJob], budget: float, number: int | None = None, sent_at: float | None = None
    ) -> list[str] | None:
        """Submit one batch; see `broker.enqueue`. One at a time per queue. Raises QueueFull, BrokerUnavailable."""
        lock = self._queue_locks.setdefault(keys, asyncio.Lock())
        async with lock:
            request = broker.enqueue(keys, self.boot, number or self.next_number(keys), jobs)
            (reply,) = await self.ask(keys, [request], budget, f"submitting {len(jobs)} job(s) to queue {keys.name!r}", sent_at)
        return answer(reply)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connection; the lane opens a new one when it is used again."""
        if self._connection is not None:
            self._connection.close()


class _Coalescer:
    """Submits to one queue from one loop: whatever gathers while a batch is under way is the next batch."""

    def __init__(self, lane: Lane, keys: QueueKeys) -> None:
        self._lane, self._keys = lane, keys
        self._waiting: list[_Entry] = []
        self._busy = False
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, job: NewJob, budget: float) -> asyncio.Future[str]:
        """The future of the id that stands for this job."""
        future: asyncio.Future[str] = self._loop.create_future()
        self._waiting.append((job, future, budget))
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._start)
        return future

    def _next_batch(self) -> list[_Entry]:
        """As many as fit and have the budget of the first, so that no call fails by its neighbour's; none whose caller has gone."""
        batch: list[_Entry] = []
        while self._waiting and not batch:
            size, count = 0, 0
            for job, _, budget in self._waiting[: broker.SUBMIT_BATCH]:
                size += len(job.body)
                if count and (size > broker.SUBMIT_BYTES or budget != self._waiting[0][2]):
                    break
                count += 1
            batch = [entry for entry in self._waiting[:count] if not entry[1].done()]
            self._waiting = self._waiting[count:]
        return batch

    def _start(self) -> None:
        batch = self._next_batch()
        if not batch:
            self._busy = False
            return
        number, began = self._lane.next_number(self._keys), self._loop.time()
        connection = self._lane.ready(self._keys)
        if connection is None:
            self._insist(batch, number)
            return
        request = broker.enqueue(self._keys, self._lane.boot, number, [entry[0] for entry in batch])

        def done(outcome: list[Reply] | ConnectionLost) -> None:
            if isinstance(outcome, ConnectionLost) or isinstance(outcome[0], ReplyError):
                self._insist(batch, number, began)
            else:
                self._finish(batch, request.parse(outcome[0]))

        connection.send([request.command()], batch[0][2], done)

    def _insist(self, batch: list[_Entry], number: int, sent_at: float | None = None) -> None:
        """The slow path: connect, load the script, resend under the same number, or fail."""

        async def deliver() -> None:
            try:
                ids = await self._lane.deliver(self._keys, [entry[0] for entry in batch], batch[0][2], number, sent_at)
            except BaseException as error:
                for _, future, _ in batch:
                    if not future.done():
                        future.set_exception(error)
                self._start()
            else:
                self._finish(batch, ids)

        task = self._loop.create_task(deliver())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _finish(self, batch: list[_Entry], ids: list[str] | None) -> None:
        for index, (job, future, _) in enumerate(batch):
            if not future.done():
                future.set_result(job.job_id if ids is None else ids[index])
        self._start()


class LoopClient:
    """Everything of a client that belongs to one event loop."""

    def __init__(self, address: Address, name: str) -> None:
        self.address, self.name = address, name
        self.lane = Lane(address, name)
        self._bulk: list[Lane] = []
        self._coalescers: dict[QueueKeys, _Coalescer] = {}
        self.closers: list[Callable[[], Awaitable[None]]] = []
        self.parts: dict[str, Any] = {}

    async def submit(self, keys: QueueKeys, job: NewJob, budget: float) -> str:
        """Submit one job, in one batch with whatever this loop submits meanwhile. Returns the id that stands for it."""
        coalescer = self._coalescers.get(keys)
        if coalescer is None:
            coalescer = self._coalescers[keys] = _Coalescer(self.lane, keys)
        return await coalescer.add(job, budget)

    def bulk_lane(self, index: int) -> Lane:
        """One of the lanes over which bulk submits are pipelined."""
        while len(self._bulk) <= index:
            self._bulk.append(Lane(self.address, self.name))
        return self._bulk[index]

    async def ask(self, keys: QueueKeys, request: Request[Any], budget: float, what: str) -> Any:
        """One request, with the lane's patience. Raises the BrokerError that it comes to."""
        (reply,) = await self.lane.ask(keys, [request], budget, what)
        return answer(reply)

    async def close(self) -> None:
        """Close every connection."""
        for closer in self.closers:
            await closer()
        for lane in (self.lane, *self._bulk):
            lane.close()


class SyncLane:
    """One connection and boot id for one thread at a time."""

    def __init__(self, address: Address, name: str) -> None:
        self.address, self.boot = address, new_boot()
        self._name = name
        self._connection: SyncConnection | None = None
        self._numbers: dict[QueueKeys, int] = {}
        self._known: set[QueueKeys] = set()

    def ask(self, keys: QueueKeys | None, requests: Sequence[Request[Any]], budget: float, what: str) -> list[Any]:
        """`Lane.ask` on a thread."""
        deadline = time.monotonic() + budget
        tries, sent = 0, False
        while True:
            left = max(0.05, deadline - time.monotonic())
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = open_checked_sync(self.address, self._name, left)
                self._meet(keys, self._connection, left)
                sent = True
                replies = run_sync(self._connection, requests, left)
                passing = next((reply for reply in replies if isinstance(reply, Passing)), None)
                if passing is None:
                    return replies
                reason: Exception = passing
            except (ConnectionLost, BrokerUnavailable) as error:
                reason = error
            if time.monotonic() >= deadline:
                raise _given_up(what, self.address, budget, reason, sent) from reason
            time.sleep(min(backoff(tries), max(0.0, deadline - time.monotonic())))
            tries += 1

    def _meet(self, keys: QueueKeys | None, connection: SyncConnection, budget: float) -> None:
        if keys is not None and keys not in self._known:
            *_, layout = run_sync(connection, first_use(keys), budget)
            if check_layout(keys, answer(layout)):
                self._known.add(keys)

    def deliver(self, keys: QueueKeys, jobs: Sequence[NewJob], budget: float) -> list[str] | None:
        """`Lane.deliver` on a thread."""
        number = self._numbers[keys] = self._numbers.get(keys, 0) + 1
        request = broker.enqueue(keys, self.boot, number, jobs)
        (reply,) = self.ask(keys, [request], budget, f"submitting {len(jobs)} job(s) to queue {keys.name!r}")
        return answer(reply)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()


class SyncPool:
    """At most `size` sync lanes, the last used first; a thread waits for one when all are taken."""

    def __init__(self, address: Address, name: str, size: int) -> None:
        self.address = address
        self._name = name
        self._idle: list[SyncLane] = []
        self._permits = threading.BoundedSemaphore(size)

    def use(self, work: Callable[[SyncLane], Any], budget: float) -> Any:
        """Run `work` with a lane of its own. Raises BrokerUnavailable when none is free within `budget` seconds."""
        if not self._permits.acquire(timeout=budget):
            raise BrokerUnavailable(f"all connections of this process were busy for {budget:g} s. Nothing was sent. Raise REDIS_POOL_SIZE.")
        try:
            try:
                lane = self._idle.pop()  # not "if any, pop": another thread may take the last one in between
            except IndexError:
                lane = SyncLane(self.address, self._name)
            try:
                return work(lane)
            finally:
                self._idle.append(lane)
        finally:
            self._permits.release()

    def close(self) -> None:
        """Close the idle lanes."""
        while self._idle:
            self._idle.pop().close()


class Client:
    """What an app talks to its server through. Safe to use from many loops, threads, and after a fork.

    Args:
        locate: finds the server (called once, at the first use).
        pool_size: most connections of the sync client.
        budget: seconds that a call may take, reconnects included.
    """

    _all: ClassVar["weakref.WeakSet[Client]"] = weakref.WeakSet()

    def __init__(self, locate: Callable[[], Address], name: str, pool_size: int, budget: float) -> None:
        self._locate, self.name, self._pool_size, self.budget = locate, name, pool_size, budget
        self._reset()
        Client._all.add(self)

    def _reset(self) -> None:
        self._address: Address | None = None
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopClient] = weakref.WeakKeyDictionary()
        self._pool: SyncPool | None = None
        self._lock = threading.Lock()

    @property
    def address(self) -> Address:
        """Where the server is."""
        if self._address is None:
            self._address = self._locate()
        return self._address

    def here(self) -> LoopClient:
        """The part that belongs to the running event loop."""
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            found = self._loops[loop] = LoopClient(self.address, self.name)
        return found

    async def ask(self, keys: QueueKeys, request: Request[T], what: str) -> T:
        """One request on the running loop. Raises the BrokerError that it comes to."""
        return await self.here().ask(keys, request, self.budget, what)  # type: ignore[no-any-return]

    @property
    def pool(self) -> SyncPool:
        """The sync lanes."""
        if self._pool is None:
            with self._lock:
                if self._pool is None:
                    self._pool = SyncPool(self.address, self.name, self._pool_size)
        return self._pool

    async def close(self) -> None:
        """Close the connections of the running loop, and the sync ones."""
        found = self._loops.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found.close()
        self.close_sync()

    def close_sync(self) -> None:
        """Close the sync connections."""
        if self._pool is not None:
            self._pool.close()

    @classmethod
    def forget_after_fork(cls) -> None:
        """In a forked child: let go of the parent's connections and boot ids without touching its sockets."""
        for client in list(cls._all):
            client._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Client.forget_after_fork)
