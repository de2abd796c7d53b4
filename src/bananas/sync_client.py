"""The client of threads: a pool of lanes, each used by one thread at a time. What a lane is, see lane.py; here it blocks."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from bananas import broker
from bananas.address import Address
from bananas.broker import NewJob
from bananas.connection import ConnectionLost, ReplyError, SyncConnection
from bananas.durability import Level
from bananas.errors import BrokerUnavailable
from bananas.keys import QueueKeys, home_slot
from bananas.lane import Delivery, Patience, Write, confirmed, new_boot, refused, unsettled
from bananas.session import answer, check_layout, note_layout, note_queue, open_checked_sync, run_sync, server_info


class SyncLane:
    """One boot id for one thread at a time, and one connection; on a Cluster one per slot that it submits to."""

    def __init__(self, address: Address, name: str) -> None:
        self.address, self.boot = address, new_boot()
        self._name = name
        self._connections: dict[int, SyncConnection] = {}
        self._numbers: dict[str, int] = {}
        self._known: set[str] = set()
        self._able: set[tuple[str, Level]] = set()

    def _open(self, slot: int, patience: Patience) -> SyncConnection:
        connection = self._connections.get(slot)
        if connection is None or connection.closed:
            connection = self._connections[slot] = open_checked_sync(self.address, self._name, patience.share(self.address), slot=slot)
        return connection

    def _slot(self, keys: QueueKeys) -> int:
        return keys.slot if self.address.clustered else 0

    def _reach(self, keys: QueueKeys, patience: Patience) -> SyncConnection:
        connection = self._open(self._slot(keys), patience)
        if keys.base not in self._known:
            home = self._open(home_slot(keys.namespace), patience) if self.address.clustered else connection
            run_sync(home, [note_queue(keys)], patience.share(self.address))
            *_, layout = run_sync(connection, note_layout(keys), patience.share(self.address))
            if check_layout(keys, answer(layout)):
                self._known.add(keys.base)
        return connection

    def insist(self, keys: QueueKeys, write: Write, patience: Patience) -> list[Any]:
        """`Lane.insist` on a thread."""
        tries = 0
        while True:
            try:
                connection = self._reach(keys, patience)
                requests, sent_before = write(), patience.sent
                patience.sent = True
                replies = run_sync(connection, requests, patience.share(self.address))
                reason = unsettled(patience, replies, sent_before)
                if reason is None:
                    return replies
            except (ConnectionLost, BrokerUnavailable) as error:
                reason = error
            patience.reason = reason
            if patience.over:
                raise patience.given_up(self.address) from reason
            time.sleep(patience.pause(tries))
            tries += 1

    def deliver(self, keys: QueueKeys, jobs: Sequence[NewJob], patience: Patience, level: Level | None = None) -> Delivery:
        """`Lane.deliver` on a thread. It is this thread's connection alone, so that waiting for a level stalls nobody else."""
        number = self._numbers[keys.base] = self._numbers.get(keys.base, 0) + 1
        request, connection = broker.enqueue(keys, self.boot, number, jobs), self._connections.get(self._slot(keys))
        if level is not None:
            self._check_level(keys, level, patience)
            replies = self.insist(keys, lambda: confirmed(request, level, keys, self.boot, patience.share(self.address)), patience)
            return Delivery(answer(replies[0]), level.shortfall(replies[1:]))
        if connection is not None and keys.base in self._known and not connection.closed:
            patience.sent = True
            try:
                (reply,) = connection.execute((request.command(),), patience.share(self.address))
                if not isinstance(reply, ReplyError):
                    return Delivery(request.read(reply))
                patience.sent = not refused(request, reply)
            except ConnectionLost as error:
                patience.reason = error
        (reply,) = self.insist(keys, lambda: [request], patience)
        return Delivery(answer(reply))

    def _check_level(self, keys: QueueKeys, level: Level, patience: Patience) -> None:
        """Once per queue and level: whether the server can do it."""
        if (keys.base, level) not in self._able:
            (info,) = self.insist(keys, lambda: [server_info()], patience)
            patience.sent = False
            level.check(answer(info))
            self._able.add((keys.base, level))

    def close(self) -> None:
        """Close its connections."""
        for connection in self._connections.values():
            connection.close()


class SyncPool:
    """At most `size` sync lanes, the last used first; a thread waits for one when all are taken.

    Taking an idle lane and giving it back are one atomic operation each on a deque: the lock is for threads that have to wait.
    """

    def __init__(self, address: Address, name: str, size: int) -> None:
        self.address = address
        self._name, self._size = name, size
        self._idle: deque[SyncLane] = deque()
        self._made = self._waiting = 0
        self._returned = threading.Condition()
        self._closed = False

    def use(self, work: Callable[[SyncLane], Any], budget: float) -> Any:
        """Run `work` with a lane of its own. Raises BrokerUnavailable when none is free within `budget` seconds."""
        try:
            lane = self._idle.pop()  # not "if any, pop": another thread may take the last one in between
        except IndexError:
            lane = self._make_or_wait(budget)
        try:
            return work(lane)
        finally:
            self._idle.append(lane)
            if self._waiting:
                with self._returned:
                    self._returned.notify()
            if self._closed:
                self.close()

    def _make_or_wait(self, budget: float) -> SyncLane:
        with self._returned:
            self._waiting += 1  # from here on every return notifies
            try:
                lane = self._returned.wait_for(self._idle_or_new, budget)
            finally:
                self._waiting -= 1
        if lane is None:
            raise BrokerUnavailable(f"all connections of this process were busy for {budget:g} s. Nothing was sent. Raise REDIS_POOL_SIZE.")
        return lane

    def _idle_or_new(self) -> SyncLane | None:
        try:
            return self._idle.pop()
        except IndexError:
            if self._made == self._size:
                return None
            self._made += 1
            return SyncLane(self.address, self._name)

    def close(self) -> None:
        """Close every lane, one that is in use when its call has ended."""
        self._closed = True
        with self._returned:
            with suppress(IndexError):
                while True:
                    self._idle.pop().close()
                    self._made -= 1
            self._returned.notify_all()
