"""The beat: leases of all worker processes renewed, and their registry entries, from outside of them.

One link per server. There is one server, or on a Cluster one per slot: then each beats on a thread of its own, and one that is away holds
up nobody else's.
"""

import contextlib
import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec

from bananas import broker
from bananas.address import Address
from bananas.broker import Extension, Request
from bananas.connection import ConnectionLost, SyncConnection
from bananas.errors import BananasError, BrokerError
from bananas.keys import home_slot, workers_key
from bananas.orders import Answer, Order, announce, answer, read_order
from bananas.session import open_checked_sync, run_sync
from bananas.worker.control import Hello, Message, Told
from bananas.worker.process import ChildProcess
from bananas.worker.record import record_of
from bananas.worker.table import HeldLease

_MOST_THREADS = 64


class _Link:
    """The supervisor's connection to one server, for one thread at a time.

    Attributes:
        full: the server was at maxmemory at the last beat.
        answered, trouble, error: when a beat was last answered, since when beats are not (or 0), and why.
    """

    def __init__(self, address: Address, slot: int) -> None:
        self._address, self._slot = address, slot
        self._connection: SyncConnection | None = None
        self._lock = threading.Lock()
        self.full = False
        self.answered = self.trouble = 0.0
        self.error = ""

    def ask(self, requests: Sequence[Request[Any]], timeout: float) -> list[Any]:
        """`run_sync`, over a new connection where need be. Raises ConnectionLost, BananasError."""
        with self._lock:
            if self._connection is None or self._connection.closed:
                name = f"bananas:supervisor:{os.getpid()}"
                self._connection = open_checked_sync(self._address, name, timeout, slot=self._slot, fit=False)
            return run_sync(self._connection, requests, timeout)

    def note(self, error: Exception | None) -> None:
        """How the last beat went."""
        if error is None:
            self.answered, self.trouble = time.monotonic(), 0.0
        else:
            self.trouble, self.error = self.trouble or time.monotonic(), str(error)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()


class _Share(NamedTuple):
    """What one server is told of one process: which of its queues are there, and the leases that it holds in them."""

    child: ChildProcess
    hello: Hello
    queues: list[int]
    held: dict[int, list[HeldLease]]
    announcement: Request[Any] | None


class Beat:
    """Renews leases and registry entries, takes back what the dead have held, and brings orders.

    Attributes:
        phase: of this worker, for the registry.
        orders: what operators want of which process, in the order in which it came.
    """

    def __init__(self) -> None:
        self._started_ms = int(time.time() * 1000)
        self._ahead_ms = 0.0  # the server's clock, against ours
        self.phase = "working"
        self.orders: deque[tuple[ChildProcess, Order]] = deque()
        self._links: dict[int, _Link] = {}
        self._silent_until = 0.0
        self._threads: ThreadPoolExecutor | None = None
        self._under_way: dict[int, Future[None]] = {}

    def hasten(self) -> None:
        """Leave out no beat: a process is new."""
        self._silent_until = 0.0

    @property
    def answered(self) -> float:
        """When (monotonic seconds) a beat was last answered."""
        return max((link.answered for link in list(self._links.values())), default=0.0)

    @property
    def trouble(self) -> tuple[float, str]:
        """Since when (monotonic seconds, or 0) a server does not answer beats, and why: the one that is away for longest."""
        away = [(link.trouble, link.error) for link in list(self._links.values()) if link.trouble]
        return min(away, default=(0.0, ""))

    def tick(self, children: Sequence[ChildProcess]) -> None:
        """One beat; every second one is left out while nothing is held."""
        alive = [child for child in children if child.hello is not None and child.process.poll() is None and not child.stopped]
        every_held = [child.held() for child in alive]
        full = any(link.full for link in self._links.values())
        if not alive or (time.monotonic() < self._silent_until and not any(every_held) and not full):
            return
        began, shares = time.monotonic(), self._shares(alive, every_held)
        lease = alive[0].hello.lease if alive[0].hello is not None else 0.0
        self._silent_until = 0.0 if any(every_held) else began + 0.4 * lease
        for slot, parts in shares.items():
            self._do(parts[0].hello.address, slot, lambda link, parts=parts: self._beat(link, parts, began))  # type: ignore[misc]

    def _shares(self, alive: Sequence[ChildProcess], every_held: Sequence[dict[int, list[HeldLease]]]) -> dict[int, list[_Share]]:
        """Per server what it is told. A Cluster's server hears of a process when that holds leases there, or is announced there."""
        shares: dict[int, list[_Share]] = defaultdict(list)
        for child, held in zip(alive, every_held, strict=True):
            hello = child.hello
            assert hello is not None
            announcement = self._announcement(child, hello, held)
            if not hello.address.clustered:
                shares[0].append(_Share(child, hello, list(range(len(child.keys))), held, announcement))
                continue
            home = home_slot(hello.namespace)
            by_slot: dict[int, list[int]] = defaultdict(list, {home: []})
            for index, keys in enumerate(child.keys):
                by_slot[keys.slot].append(index)
            for slot, queues in by_slot.items():
                here = {queue: held[queue] for queue in queues if queue in held}
                if here or slot == home or (slot in self._links and self._links[slot].full):
                    shares[slot].append(_Share(child, hello, queues, here, announcement if slot == home else None))
        return shares

    def _do(self, address: Address, slot: int, work: Callable[[_Link], None], *, always: bool = False) -> None:
        """Work over a server's link: here, or on a Cluster on a thread; not while the last beat there is not answered."""
        link = self._links.setdefault(slot, _Link(address, slot))
        if not address.clustered:
            work(link)
            return
        under_way = self._under_way.get(slot)
        if under_way is not None and not under_way.done() and not always:
            return
        self._threads = self._threads or ThreadPoolExecutor(_MOST_THREADS, "bananas-beat")
        self._under_way[slot] = self._threads.submit(work, link)

    def _beat(self, link: _Link, shares: Sequence[_Share], began: float) -> None:
        requests: list[Request[Any]] = []
        extended: list[tuple[ChildProcess, list[HeldLease]]] = []
        announced: list[tuple[int, ChildProcess]] = []
        for child, hello, _, held, announcement in shares:
            for queue, leases in held.items():
                for part in _chunks(leases):
                    requests.append(broker.extend(child.keys[queue], round(hello.lease * 1000), [lease.member for lease in part]))
                    extended.append((child, part))
            if announcement is not None:
                announced.append((len(requests), child))
                requests.append(announcement)
        asks_memory = bool(extended) or link.full  # only who settles needs to know; what was full is asked until it is not
        if asks_memory:
            requests.append(broker.plain(_memory, "INFO", "memory"))
        try:
            replies = link.ask(requests, _timeout(shares[0].hello))
        except (BananasError, ConnectionLost) as error:
            link.note(error)
            self.hasten()
            return
        link.note(next((reply for reply in replies if isinstance(reply, BrokerError)), None))
        if asks_memory:
            link.full = replies[-1] is True
        for at, child in announced:
            self._hear(child, replies[at])
        extensions = [reply for reply in replies if isinstance(reply, Extension)]
        if len(extensions) != len(extended):
            return
        for (child, leases), extension in zip(extended, extensions, strict=True):
            _report(child, leases, extension)
        full = any(known.full for known in list(self._links.values()))
        for child, _, queues, _, _ in shares:
            if child.table is not None:
                child.table.note_beat(began, queues, full=full)

    def _hear(self, child: ChildProcess, reply: Any) -> None:
        """What the reply to a sign of life says: the server's clock, and orders. One that is there still was obeyed already."""
        if isinstance(reply, BananasError):
            return
        if not child.known:
            child.known = True
            child.send(Message(known=True))
        now_ms, waiting = reply
        self._ahead_ms = now_ms - time.time() * 1000
        known, child.obeyed = child.obeyed, waiting
        self.orders += [(child, given) for packed in waiting if packed not in known and (given := read_order(packed)) is not None]

    def answer(self, child: ChildProcess, told: Told) -> None:
        """Tell who gave an order what it asked for."""
        if (hello := child.hello) is not None:
            home = home_slot(hello.namespace) if hello.address.clustered else 0
            requests: list[Request[Any]] = [answer(hello.namespace, told.order, Answer(told.found, told.text))]
            self._do(hello.address, home, lambda link: _try(link, requests, hello), always=True)

    def _announcement(self, child: ChildProcess, hello: Hello, held: dict[int, list[HeldLease]]) -> Request[Any]:
        packed = msgspec.msgpack.encode(
            record_of(child, hello, held, started_ms=self._started_ms, ahead_ms=self._ahead_ms, phase=self.phase)
        )
        return announce(hello.namespace, hello.boot, round(hello.lease * 1500), packed, hello.queues, child.obeyed)

    def take_back(self, child: ChildProcess, *, crashed: bool) -> None:
        """What a process that is gone still held: crashed, with a crash counted; else unused."""
        hello = child.hello
        if hello is None:
            return
        by_slot: dict[int, list[Request[Any]]] = defaultdict(list)
        parts = ((queue, part) for queue, leases in child.held().items() for part in _chunks(leases))
        for number, (queue, leases) in enumerate(parts, 1):
            keys = child.keys[queue]
            if crashed:
                request: Request[Any] = broker.reclaim(keys, round(hello.lease * 1000), [lease.member for lease in leases])
            else:
                request = broker.release(keys, hello.boot + "s", number, [(lease.member, lease.score) for lease in leases])
            by_slot[keys.slot if hello.address.clustered else 0].append(request)
        home = home_slot(hello.namespace) if hello.address.clustered else 0
        by_slot[home].append(broker.plain(int, "HDEL", workers_key(hello.namespace), hello.boot))
        for slot, requests in by_slot.items():
            self._do(hello.address, slot, lambda link, requests=requests: _try(link, requests, hello), always=True)  # type: ignore[misc]

    def close(self) -> None:
        """Wait for what is under way, and close all connections."""
        if self._threads is not None:
            self._threads.shutdown()
        for link in self._links.values():
            link.close()


def _try(link: _Link, requests: Sequence[Request[Any]], hello: Hello) -> None:
    with contextlib.suppress(BananasError, ConnectionLost):
        link.ask(requests, _timeout(hello))


def _timeout(hello: Hello) -> float:
    return max(0.3, min(2.0, hello.lease / 3))


def _report(child: ChildProcess, leases: Sequence[HeldLease], extension: Extension) -> None:
    """Note which leases are lost, before this beat is noted; the child hears of them too."""
    gone = [lease for lease, held in zip(leases, extension.held, strict=True) if not held]
    for lease in gone:
        if child.table is not None:
            child.table.mark_lost(lease)
    lost = [lease.member.decode() for lease in gone]
    cancelled = [lease.member.decode() for lease, wanted in zip(leases, extension.cancelled, strict=True) if wanted]
    if lost or cancelled:
        child.send(Message(lost=lost, cancelled=cancelled))


def _chunks(leases: list[HeldLease]) -> Iterator[list[HeldLease]]:
    """As many leases at a time as one script takes."""
    return (leases[start : start + broker.SETTLE_BATCH] for start in range(0, len(leases), broker.SETTLE_BATCH))


def _memory(reply: bytes) -> bool:
    info = dict(text.split(":", 1) for text in reply.decode().splitlines() if ":" in text)
    limit = int(info.get("maxmemory", 0))
    return bool(limit) and int(info.get("used_memory", 0)) >= limit
