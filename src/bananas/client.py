"""How an app reaches its server: per event loop one coalescing lane, for threads a pool of lanes, bulk over a lane of its own.

A LANE is one connection and boot id (random, new after a fork), with one submit batch under way per queue: see lane.py.

COALESCING has no timer: a submit on an idle lane goes out with whatever else the loop is about to submit in this iteration; while it is
under way the next batch gathers. 100 coroutines become a few round trips by themselves, a lone submit waits for nobody.

FAILURE: a call has a budget of seconds, which counts from the call. Within it the lane reconnects and resends; after it the caller gets
BrokerUnavailable, which says whether the call may have taken effect. Nothing is ever dropped silently: a call that is given up before its
batch was sent is taken out of the batch.
"""

import asyncio
import math
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from typing import Any, ClassVar, TypeVar

from bananas import broker
from bananas.address import Address
from bananas.background import Background
from bananas.broker import NewJob, Once, Request
from bananas.connection import ConnectionLost, Reply, ReplyError, spinning
from bananas.keys import QueueKeys
from bananas.lane import Lane, Lanes, Patience, new_boot, refused
from bananas.session import answer
from bananas.sync_client import SyncPool

__all__ = ["Client", "LoopClient", "new_boot"]

T = TypeVar("T")


class _Entry:
    """A job on its way, the future of the id that stands for it, and until when its caller waits."""

    __slots__ = ("budget", "deadline", "future", "job")

    def __init__(self, job: NewJob, future: "asyncio.Future[str]", budget: float) -> None:
        self.job, self.future, self.budget = job, future, budget
        self.deadline = time.monotonic() + budget


class _Batch:
    """Entries that are sent together, with the patience of the most patient: the others fail by their own budgets meanwhile."""

    __slots__ = ("entries", "number", "patience")

    def __init__(self, entries: list[_Entry], number: int, what: str) -> None:
        self.entries, self.number = entries, number
        last = max(entries, key=lambda entry: entry.deadline)
        self.patience = Patience(last.budget, what)
        self.patience.deadline = last.deadline

    def request(self, keys: QueueKeys, boot: str) -> Request[list[str] | None]:
        """What is sent: always the same where it may have been done already; before that without entries whose callers have gone."""
        if not self.patience.sent:
            self.entries = [entry for entry in self.entries if not entry.future.done()]
        return broker.enqueue(keys, boot, self.number, [entry.job for entry in self.entries])


class _Coalescer:
    """Submits to one queue from one loop: whatever gathers while a batch is under way is the next batch."""

    def __init__(self, lane: Lane, keys: QueueKeys) -> None:
        self._lane, self._keys = lane, keys
        self._what = f"submitting to queue {keys.name!r}"
        self._waiting: list[_Entry] = []
        self._under_way: _Batch | None = None
        self._busy = False
        self._number = 0
        self._loop = asyncio.get_running_loop()
        self._watching: asyncio.TimerHandle | None = None
        self._watch_at = math.inf
        self._task: asyncio.Task[None] | None = None

    def add(self, job: NewJob, budget: float) -> "asyncio.Future[str]":
        """The future of the id that stands for this job; it fails when `budget` seconds have passed."""
        entry = _Entry(job, self._loop.create_future(), budget)
        self._waiting.append(entry)
        if entry.deadline < self._watch_at:
            self._watch_until(entry.deadline)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._start)
        return entry.future

    def _entries(self) -> Iterable[_Entry]:
        return chain(self._under_way.entries if self._under_way is not None else (), self._waiting)

    # --- each call fails by its own budget ---

    def _watch_until(self, deadline: float) -> None:
        """One timer for all calls: it comes back when the first of them is due."""
        if self._watching is not None:
            self._watching.cancel()
        self._watch_at = deadline
        self._watching = self._loop.call_later(deadline - time.monotonic(), self._expire)

    def _expire(self) -> None:
        batch = self._under_way
        if batch is not None:
            self._give_up(batch.entries, batch.patience.sent, batch.patience.reason)
        self._give_up(self._waiting, False, "submits before it are not answered")
        self._watching, self._watch_at = None, math.inf
        first = min((entry.deadline for entry in self._entries() if not entry.future.done()), default=math.inf)
        if first < math.inf:
            self._watch_until(first)

    def _give_up(self, entries: list[_Entry], sent: bool, reason: object) -> None:
        now = time.monotonic()
        for entry in entries:
            if entry.deadline <= now and not entry.future.done():
                patience = Patience(entry.budget, self._what)
                patience.sent, patience.reason = sent, reason
                entry.future.set_exception(patience.given_up(self._lane.address))

    # --- batches ---

    def _next_batch(self) -> _Batch | None:
        """As many as fit; none whose caller has gone."""
        while self._waiting:
            size, count = 0, 0
            for entry in self._waiting[: broker.SUBMIT_BATCH]:
                size += len(entry.job.body)
                if count and size > broker.SUBMIT_BYTES:
                    break
                count += 1
            entries = [entry for entry in self._waiting[:count] if not entry.future.done()]
            self._waiting = self._waiting[count:]
            if entries:
                self._number += 1
                return _Batch(entries, self._number, self._what)
        return None

    def _start(self) -> None:
        batch = self._under_way = self._next_batch()
        if batch is None:
            self._busy = False
            return
        connection = self._lane.ready(self._keys)
        if connection is None:
            self._insist(batch)
            return
        request = batch.request(self._keys, self._lane.boot)

        def done(outcome: list[Reply] | ConnectionLost) -> None:
            if isinstance(outcome, ConnectionLost):
                self._insist(batch)
            elif isinstance(outcome[0], ReplyError):
                batch.patience.sent = not refused(request, outcome[0])
                self._insist(batch)
            else:
                self._finish(batch, request.parse(outcome[0]))

        batch.patience.sent = True
        connection.send([request.command()], batch.patience.left, done)

    def _insist(self, batch: _Batch) -> None:
        """The slow path: connect, load the script, resend under the same number, or fail. Not for a batch that nobody waits for."""
        if all(entry.future.done() for entry in batch.entries):
            self._start()
            return

        async def deliver() -> None:
            try:
                replies = await self._lane.insist(self._keys, lambda: [batch.request(self._keys, self._lane.boot)], batch.patience)
                ids = answer(replies[0])
            except BaseException as error:
                for entry in batch.entries:
                    if not entry.future.done():
                        entry.future.set_exception(error)
                self._start()
            else:
                self._finish(batch, ids)

        self._task = self._loop.create_task(deliver())

    def _finish(self, batch: _Batch, ids: list[str] | None) -> None:
        for index, entry in enumerate(batch.entries):
            if not entry.future.done():
                entry.future.set_result(entry.job.job_id if ids is None else ids[index])
        self._start()

    async def finish(self) -> None:
        """Wait until every call has its answer, and leave nothing under way."""
        while calls := [entry.future for entry in self._entries() if not entry.future.done()]:
            await asyncio.wait(calls)
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])


class LoopClient:
    """Everything of a client that belongs to one event loop.

    Attributes:
        lanes: the lanes of all calls but `submit_many`.
        bulk: the lanes of `submit_many`, so that a large batch holds up nobody else.
    """

    def __init__(self, address: Address, name: str) -> None:
        self.address, self.name = address, name
        self.lanes, self.bulk = Lanes(address, name), Lanes(address, name)
        self._coalescers: dict[str, _Coalescer] = {}
        self.closers: list[Callable[[], Awaitable[None]]] = []
        self.parts: dict[str, Any] = {}

    def submit(self, keys: QueueKeys, job: NewJob, budget: float) -> "asyncio.Future[str]":
        """Submit one job, in one batch with whatever this loop submits meanwhile. Gives the id that stands for it."""
        coalescer = self._coalescers.get(keys.base)
        if coalescer is None:
            coalescer = self._coalescers[keys.base] = _Coalescer(self.lanes.of(keys), keys)
        return coalescer.add(job, budget)

    async def ask(self, keys: QueueKeys, request: Request[Any], budget: float, what: str) -> Any:
        """One request, with the lane's patience. Raises the BrokerError that it comes to."""
        (reply,) = await self.lanes.of(keys).ask(keys, [request], budget, what)
        return answer(reply)

    async def close(self) -> None:
        """Close every connection, once the submits under way have ended; other calls are cut off."""
        for coalescer in self._coalescers.values():
            await coalescer.finish()
        for closer in self.closers:
            await closer()
        for lanes in (self.lanes, self.bulk):
            lanes.close()


class Client:
    """What an app talks to its server through. Safe to use from many loops, threads, and after a fork.

    Args:
        locate: finds the server (called at the first use, and at the first one after everything was closed).
        pool_size: most connections of the sync client.
        budget: seconds that a call may take, reconnects included.
        leave: called when everything is closed.
    """

    _all: ClassVar["weakref.WeakSet[Client]"] = weakref.WeakSet()
    _of_parents: ClassVar[list[Background]] = []  # kept: their loops are not ours to end

    def __init__(
        self, locate: Callable[[], Address], name: str, pool_size: int, budget: float, leave: Callable[[], None] = lambda: None
    ) -> None:
        self._locate, self._leave, self.name, self._pool_size, self.budget = locate, leave, name, pool_size, budget
        self._reset()
        Client._all.add(self)

    def _reset(self) -> None:
        self._address: Address | None = None
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopClient] = weakref.WeakKeyDictionary()
        self._latest: tuple[asyncio.AbstractEventLoop, LoopClient] | None = None
        self._pool: SyncPool | None = None
        self._background: Background | None = None
        self._lock = threading.RLock()

    def limit(self, pool_size: int, budget: float) -> None:
        """From now on, another size of the sync client and other seconds per call; the server is found anew."""
        self._pool_size, self.budget = pool_size, budget
        self.close_sync()
        self._leave_if_unused()

    @property
    def address(self) -> Address:
        """Where the server is."""
        found = self._address
        if found is None:
            with self._lock:
                found = self._address = self._address or self._locate()
        return found

    def here(self) -> LoopClient:
        """The part that belongs to the running event loop."""
        loop, latest = asyncio.get_running_loop(), self._latest
        if latest is not None and latest[0] is loop:
            return latest[1]
        found = self._loops.get(loop)
        if found is None:
            found = LoopClient(self.address, self.name)
            with self._lock:
                for ended in [known for known in self._loops if known.is_closed()]:
                    del self._loops[ended]  # its client refers to it, so it would stay here with its connection
                self._loops[loop] = found
        self._latest = loop, found
        return found

    async def ask(self, keys: QueueKeys, request: Request[T], what: str) -> T:
        """One request on the running loop, which changes nothing when it is done twice. Raises the BrokerError that it comes to."""
        return await self.here().ask(keys, request, self.budget, what)  # type: ignore[no-any-return]

    async def ask_home(self, namespace: str, request: Request[T], what: str) -> T:
        """`ask` for what a namespace has besides its queues."""
        (reply,) = await self.here().lanes.home(namespace).ask(None, [request], self.budget, what)
        return answer(reply)  # type: ignore[no-any-return]

    async def act(self, keys: QueueKeys, request: Callable[[Once], Request[T]], what: str) -> T:
        """A request that is done once, however often it is sent: a resend gets the first reply. Raises as `ask`."""
        patience = Patience(self.budget, what)
        return await self.here().lanes.of(keys).act(keys, request, patience)

    @property
    def pool(self) -> SyncPool:
        """The sync lanes."""
        found = self._pool
        if found is None:
            with self._lock:
                found = self._pool = self._pool or SyncPool(self.address, self.name, self._pool_size)
        return found

    @property
    def background(self) -> Background:
        """The loop on which results are waited for, for threads."""
        found = self._background
        if found is None:
            with self._lock:
                found = self._background = self._background or Background(self._close_here)
        return found

    async def close(self) -> None:
        """Close the connections of the running loop, and the sync ones; leave the server if no other loop uses it."""
        await self._close_here()
        self.close_sync()
        self._leave_if_unused()

    async def _close_here(self) -> None:
        with self._lock:
            self._latest = None
            found = self._loops.pop(asyncio.get_running_loop(), None)
        if found is not None:
            await found.close()

    def _leave_if_unused(self) -> None:
        with self._lock:
            if all(loop.is_closed() for loop in list(self._loops)):
                self._address = None
                self._leave()

    def close_sync(self) -> None:
        """Close the sync connections."""
        with self._lock:
            pool, self._pool = self._pool, None
            background, self._background = self._background, None
        if pool is not None:
            pool.close()
        if background is not None:
            background.close()

    @classmethod
    def forget_after_fork(cls) -> None:
        """In a forked child: let go of the parent's connections and boot ids without touching its sockets."""
        for client in list(cls._all):
            if client._background is not None:
                cls._of_parents.append(client._background)
            client._reset()
        if spinning.locked():  # by a thread that the child does not have
            spinning.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Client.forget_after_fork)
