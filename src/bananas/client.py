"""How an app reaches its server: per event loop one coalescing lane, for threads a pool of lanes, bulk over a lane of its own.

A LANE is one connection and boot id (random, new after a fork), with one submit batch under way per queue: see lane.py.

COALESCING: submits of one loop to one queue that come at the same time are sent together: see coalescer.py.

FAILURE: a call has a budget of seconds, which counts from the call. Within it the lane reconnects and resends; after it the caller gets
BrokerUnavailable, which says whether the call may have taken effect. Nothing is ever dropped silently: a call that is given up before its
batch was sent is taken out of the batch.
"""

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar

from bananas.address import Address
from bananas.background import Background
from bananas.broker import NewJob, Once, Request
from bananas.coalescer import Coalescer
from bananas.connection import spinning
from bananas.durability import Level
from bananas.keys import QueueKeys
from bananas.lane import Lane, Lanes, Patience, new_boot
from bananas.seals import UNSEALED, Seals
from bananas.session import answer
from bananas.sync_client import SyncPool

__all__ = ["Client", "LoopClient", "new_boot"]

T = TypeVar("T")


class LoopClient:
    """Everything of a client that belongs to one event loop.

    Attributes:
        lanes: the lanes of all calls but `submit_many`.
        bulk: the lanes of `submit_many`, so that a large batch holds up nobody else.
    """

    def __init__(self, address: Address, name: str) -> None:
        self.address, self.name = address, name
        self.lanes, self.bulk = Lanes(address, name), Lanes(address, name)
        self._durable: dict[tuple[Level, bool], Lanes] = {}
        self._coalescers: dict[tuple[str, Level | None], Coalescer] = {}
        self.closers: list[Callable[[], Awaitable[None]]] = []
        self.parts: dict[str, Any] = {}

    def lane(self, keys: QueueKeys, level: Level | None, *, bulk: bool) -> Lane:
        """The lane of a submit: those above the default level have their own, which waiting for replicas or a disk stalls."""
        if level is None:
            return (self.bulk if bulk else self.lanes).of(keys)
        lanes = self._durable.get((level, bulk))
        if lanes is None:
            lanes = self._durable[level, bulk] = Lanes(self.address, self.name, level)
        return lanes.of(keys)

    def submit(self, keys: QueueKeys, job: NewJob, budget: float, level: Level | None = None) -> "asyncio.Future[str]":
        """Submit one job, in one batch with whatever this loop submits meanwhile. Gives the id that stands for it."""
        coalescer = self._coalescers.get((keys.base, level))
        if coalescer is None:
            coalescer = self._coalescers[keys.base, level] = Coalescer(self.lane(keys, level, bulk=False), keys, level)
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
        for lanes in (self.lanes, self.bulk, *self._durable.values()):
            lanes.close()


class Client:
    """What an app talks to its server through. Safe to use from many loops, threads, and after a fork.

    Args:
        locate: finds the server (called at the first use, and at the first one after everything was closed).
        pool_size: most connections of the sync client.
        budget: seconds that a call may take, reconnects included.
        leave: called when everything is closed.
        seals: what payloads are sealed and opened with.
    """

    _all: ClassVar["weakref.WeakSet[Client]"] = weakref.WeakSet()
    _of_parents: ClassVar[list[Background]] = []  # kept: their loops are not ours to end

    def __init__(
        self,
        locate: Callable[[], Address],
        name: str,
        pool_size: int,
        budget: float,
        leave: Callable[[], None] = lambda: None,
        seals: Seals = UNSEALED,
    ) -> None:
        self.seals = seals
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
