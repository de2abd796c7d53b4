"""A lane: one connection and boot id on one event loop, which reconnects and resends by itself; and the patience of a call.

A lane leads to one server. Where there are several, a Cluster, each slot of keys has a lane of its own (`Lanes`): it follows its slot
wherever that moves, since each new connection asks who serves it.

PATIENCE is a call's budget of seconds. It begins when the call is made, so that waiting for a connection, or behind others, uses it up
as well. It knows whether the call may have taken effect, which is what the error of a call given up has to tell.

ONCE. Submits and acts (cancel, replay, ...) carry the boot id of their lane and a number that grows by one. The server remembers the last
number and its reply (`remembered` in lua/_prelude.lua), so a resend after a lost reply gets the first reply, even when the jobs have run
and gone meanwhile; a lower number that arrives late is refused. So of each kind one may be under way per lane and queue: a `_Series`.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

from bananas import broker
from bananas.address import Address
from bananas.broker import NewJob, Once, Request
from bananas.connection import Connection, ConnectionLost, ReplyError
from bananas.durability import Level
from bananas.errors import BrokerUnavailable, QueueFull
from bananas.keys import QueueKeys, home_slot
from bananas.session import Passing, answer, backoff, check_layout, named, note_layout, note_queue, open_checked, run, server_info

T = TypeVar("T")
Write = Callable[[], Sequence[Request[Any]]]  # what is sent: asked for anew at each try, just before it goes out
LEAST_TRY_S = 0.05


def new_boot() -> str:
    """The random id of a lane or a worker process: 16 hex digits."""
    return os.urandom(8).hex()


class Patience:
    """How long one call tries, from the moment when it was made.

    Attributes:
        deadline: on `time.monotonic`'s clock.
        sent: whether the call may have taken effect: it is under way, or its reply was lost.
        reason: why it has not succeeded yet.
    """

    __slots__ = ("budget", "deadline", "reason", "sent", "what")

    def __init__(self, budget: float, what: str) -> None:
        self.budget, self.what = budget, what
        self.deadline = time.monotonic() + budget
        self.sent = False
        self.reason: object = ""

    @property
    def left(self) -> float:
        """Seconds for the next try: what is left, or as little as makes sense."""
        return max(LEAST_TRY_S, self.deadline - time.monotonic())

    def share(self, address: Address) -> float:
        """Seconds for one try. Where there are several servers one that is silent may have been replaced: half of what is left."""
        return self.left if address.kind == "server" else max(LEAST_TRY_S, self.left / 2)

    @property
    def over(self) -> bool:
        """Whether the budget is used up."""
        return time.monotonic() >= self.deadline

    def pause(self, tries: int) -> float:
        """Seconds to wait before try number `tries`."""
        return max(0.0, min(backoff(tries), self.deadline - time.monotonic()))

    @property
    def state(self) -> str:
        """What a call given up has left: a sentence."""
        if self.sent:
            return "It may have taken effect: no reply came."
        return "Nothing was done." if isinstance(self.reason, Passing) else "Nothing was sent."

    def given_up(self, address: Address) -> BrokerUnavailable:
        """The error for a call whose budget is used up."""
        reason = str(self.reason) or ("no reply" if self.sent else "no connection")
        return BrokerUnavailable(
            f"{self.what}: the server at {address} did not answer within {self.budget:g} s ({reason}). {self.state} "
            "Check that the server runs and that REDIS_URL names it; call_timeout sets how long a call tries."
        )


def unsettled(patience: Patience, replies: Sequence[Any], sent_before: bool) -> Exception | None:
    """The reason to try again: a server that refuses for now, or one that is full and may have done it at an earlier try."""
    passing = [reply for reply in replies if isinstance(reply, Passing)]
    if len(passing) == len(replies):
        patience.sent = sent_before
    full = (reply for reply in replies if isinstance(reply, QueueFull))
    return passing[0] if passing else next(full, None) if sent_before else None


def refused(request: Request[Any], reply: object) -> bool:
    """Whether a reply says that nothing was done."""
    if not isinstance(reply, ReplyError):
        return False
    return str(reply).startswith("NOSCRIPT") or isinstance(named(request, reply), (Passing, QueueFull))


class Delivery(NamedTuple):
    """A batch that was stored: the ids as `broker.enqueue` gives them, and why it is less durable than was asked for, or ""."""

    ids: list[str] | None
    shortfall: str = ""


def confirmed(request: Request[list[str] | None], level: Level | None, keys: QueueKeys, boot: str, seconds: float) -> list[Request[Any]]:
    """A submit, and what confirms its level within the seconds of its try."""
    return [request] if level is None else [request, *level.confirmation(keys, boot, seconds)]


class _Series:
    """Numbered batches of one kind on a lane, to one queue: one at a time."""

    def __init__(self) -> None:
        self._number = 0
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, patience: Patience, address: Address) -> AsyncGenerator[int, None]:
        """The number of a batch whose turn it is. Raises BrokerUnavailable when that does not come in time: nothing was sent."""
        waits = self._lock.locked()
        patience.reason = "calls before it are not answered"
        try:
            async with asyncio.timeout(patience.left):
                await self._lock.acquire()
        except TimeoutError:
            raise patience.given_up(address) from None
        try:
            if waits and patience.over:
                raise patience.given_up(address)
            patience.reason = ""
            self._number += 1
            yield self._number
        finally:
            self._lock.release()


class Lane:
    """One connection and boot id on one event loop. Reconnects by itself.

    Args:
        slot: which server of a Cluster it leads to.
        home: on a Cluster, the lane to the keys of a namespace; by default they are here.
        level: how durable its submits are to be, which the server must be able to do.
    """

    def __init__(
        self, address: Address, name: str, slot: int = 0, home: "Callable[[str], Lane] | None" = None, level: Level | None = None
    ) -> None:
        self.address, self.boot = address, new_boot()
        self._name, self._slot, self._home, self._level = name, slot, home, level
        self._connection: Connection | None = None
        self._closed = False
        self._opening = asyncio.Lock()
        self._known: set[QueueKeys | None] = {None}
        self._submits: dict[QueueKeys, _Series] = {}
        self._acts: dict[QueueKeys, _Series] = {}

    def ready(self, keys: QueueKeys | None) -> Connection | None:
        """The connection, if it is open and the queue is known; else None."""
        connection = self._connection
        return connection if connection is not None and not connection.closed and keys in self._known else None

    async def _reach(self, keys: QueueKeys | None, seconds: float) -> Connection:
        """Open the connection if need be, and get to know the queue: note its name on the server, check its layout."""
        async with asyncio.timeout(seconds):
            async with self._opening:
                connection = self._connection
                if connection is None or connection.closed:
                    connection = await open_checked(self.address, self._name, seconds, slot=self._slot, spins=True)
                    self._connection = connection
                    await self._check_level(connection, seconds)
            if self._closed:
                connection.close()
            if keys is not None and keys not in self._known:
                await self._get_to_know(connection, keys, seconds)
        return connection

    async def _check_level(self, connection: Connection, seconds: float) -> None:
        if self._level is None:
            return
        try:
            (info,) = await run(connection, [server_info()], seconds)
            self._level.check(answer(info))
        except BaseException:
            connection.close()
            raise

    async def _get_to_know(self, connection: Connection, keys: QueueKeys, seconds: float) -> None:
        if self._home is None:
            requests = [note_queue(keys), *note_layout(keys)]
        else:
            requests = note_layout(keys)
            await self._home(keys.namespace).ask(None, [note_queue(keys)], seconds, f"noting queue {keys.name!r}")
        *_, layout = await run(connection, requests, seconds)
        if check_layout(keys, answer(layout)):
            self._known.add(keys)

    async def insist(self, keys: QueueKeys | None, write: Write, patience: Patience) -> list[Any]:
        """Run requests, reconnecting and resending while there is patience.

        Returns:
            per request its reply or the BrokerError that it came to.

        Raises:
            BrokerUnavailable: the budget is used up; the message says whether they may have taken effect.
            AuthenticationFailed, ServerUnsuitable: the server refuses us, or is not fit for jobs.
        """
        tries = 0
        while True:
            try:
                connection = self.ready(keys) or await self._reach(keys, patience.share(self.address))
                requests, sent_before = write(), patience.sent
                patience.sent = True
                replies = await run(connection, requests, patience.share(self.address))
                reason = unsettled(patience, replies, sent_before)
                if reason is None:
                    return replies
            except (ConnectionLost, BrokerUnavailable, TimeoutError) as error:
                reason = error
            if self._closed:
                raise BrokerUnavailable(f"{patience.what}: the app was closed meanwhile. {patience.state}") from reason
            patience.reason = reason
            if patience.over:
                raise patience.given_up(self.address) from reason
            await asyncio.sleep(patience.pause(tries))
            tries += 1

    async def ask(self, keys: QueueKeys | None, requests: Sequence[Request[Any]], budget: float, what: str) -> list[Any]:
        """`insist` for `budget` seconds from now on: for requests that change nothing when they are done twice."""
        return await self.insist(keys, lambda: requests, Patience(budget, what))

    async def act(self, keys: QueueKeys, request: Callable[[Once], Request[T]], patience: Patience) -> T:
        """A request that is done once, however often it is sent. Raises the BrokerError that it comes to."""
        async with self._acts.setdefault(keys, _Series()).turn(patience, self.address) as number:
            requests = [request(Once(self.boot, number))]
            (reply,) = await self.insist(keys, lambda: requests, patience)
        return answer(reply)  # type: ignore[no-any-return]

    async def deliver(self, keys: QueueKeys, jobs: Sequence[NewJob], patience: Patience, level: Level | None = None) -> Delivery:
        """Submit one batch; see `broker.enqueue`. Raises QueueFull, BrokerUnavailable."""
        async with self._submits.setdefault(keys, _Series()).turn(patience, self.address) as number:
            request = broker.enqueue(keys, self.boot, number, jobs)
            replies = await self.insist(keys, lambda: confirmed(request, level, keys, self.boot, patience.share(self.address)), patience)
        return Delivery(answer(replies[0]), level.shortfall(replies[1:]) if level is not None else "")

    def close(self) -> None:
        """Close for good: calls under way end with BrokerUnavailable, and nothing is opened any more."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()


class Lanes:
    """The lanes of one event loop for one kind of call: one for everything, on a Cluster one per slot."""

    def __init__(self, address: Address, name: str, level: Level | None = None) -> None:
        self.address, self._name, self._level = address, name, level
        self._lanes: dict[int, Lane] = {}

    def of(self, keys: QueueKeys) -> Lane:
        """The lane to a queue."""
        return self._at(keys.slot) if self.address.clustered else self._at(0)

    def home(self, namespace: str) -> Lane:
        """The lane to what a namespace has besides its queues."""
        return self._at(home_slot(namespace)) if self.address.clustered else self._at(0)

    def _at(self, slot: int) -> Lane:
        lane = self._lanes.get(slot)
        if lane is None:
            home = self.home if self.address.clustered else None
            lane = self._lanes[slot] = Lane(self.address, self._name, slot, home, self._level)
        return lane

    def close(self) -> None:
        """Close all."""
        for lane in self._lanes.values():
            lane.close()
