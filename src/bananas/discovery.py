"""Which server it is at the moment: asked anew for each connection, of the sentinels or of the Cluster's nodes.

Nothing is kept but the order in which to ask: a map of slots that is never stored is never stale. Connections are opened rarely, and
session.py closes one whose server answers that it is not, or no longer, the right one, so that the next one is looked for again.

The search is a generator of questions, so that the event loop and a thread run the same code (`find`, `find_sync`).
Source: the documents "Guidelines for Redis clients with support for Redis Sentinel" and "Redis cluster specification".
"""

import time
from collections.abc import Callable, Generator
from typing import Any

from bananas.address import Address, Command
from bananas.connection import Connection, ConnectionLost, Reply, ReplyError, SyncConnection
from bananas.errors import AuthenticationFailed, BananasError, BrokerUnavailable, ServerUnsuitable, describe

Node = tuple[str, int]
LEAST_TRY_S = 0.2
_MOST_KNOWN = 32
_known: dict[Address, list[Node]] = {}  # per address the nodes that it led to, the one that answered last first


def _candidates(address: Address) -> list[Node]:
    """Whom to ask, in this order."""
    return list(dict.fromkeys([*_known.get(address, ()), *address.nodes]))


def _remember(address: Address, answered: Node, others: list[Node]) -> None:
    _known[address] = list(dict.fromkeys([answered, *others]))[:_MOST_KNOWN]


def search(address: Address, slot: int) -> Generator[tuple[Address, Command], Reply, Address]:
    """Yield questions, each a server and a command, until an answer names the server that serves this slot.

    Raises:
        BrokerUnavailable: nobody knows.
        ServerUnsuitable: whoever answered does not know such a primary.
    """
    if address.kind == "server":
        return address
    heard: list[str] = []
    unknown = 0
    for node in _candidates(address):
        asked = address.sentinel(*node) if address.kind == "sentinel" else address.server(*node)
        command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.primary) if address.kind == "sentinel" else ("CLUSTER", "SLOTS")
        try:
            reply = yield asked, command
        except (BrokerUnavailable, ConnectionLost, AuthenticationFailed) as error:
            heard.append(str(error))
            continue
        if isinstance(reply, ReplyError):
            heard.append(f"{asked} says {reply}")
            continue
        try:
            found = _named(address, reply, slot, node)
        except (TypeError, ValueError, LookupError, AttributeError):
            heard.append(f"{asked} answers {describe(reply)}")
            continue
        if found is not None:
            return address.server(*found)
        if address.kind == "cluster":
            heard.append(f"{asked} says that nobody serves slot {slot}")
        else:
            unknown += 1
    if unknown and not heard:
        raise ServerUnsuitable(
            f"no sentinel knows a primary called {address.primary!r}. Nothing was sent. SENTINEL MASTERS lists their names."
        )
    raise BrokerUnavailable(f"{address} cannot be found: {'; '.join(heard) or 'no node is known'}. Nothing was sent.")


def _named(address: Address, reply: Any, slot: int, asked: Node) -> Node | None:
    """The server that an answer names, which is remembered; None where it says that there is none."""
    if address.kind == "cluster":
        found, others = _of_slot(reply, slot, asked), _primaries(reply, asked)
    else:
        found, others = None if reply is None else (reply[0].decode(), int(reply[1])), []
    if found is not None:
        _remember(address, asked, others)
    return found


def _of_slot(ranges: list[Any], slot: int, asked: Node) -> Node | None:
    """The primary of a slot in a reply of CLUSTER SLOTS."""
    return next((_node(entry[2], asked) for entry in ranges if entry[0] <= slot <= entry[1]), None)


def _primaries(ranges: list[Any], asked: Node) -> list[Node]:
    return list(dict.fromkeys(_node(entry[2], asked) for entry in ranges))


def _node(entry: list[Any], asked: Node) -> Node:
    """A node; one that does not know its own name yet is where it was asked."""
    return (entry[0].decode() if entry[0] else asked[0]), int(entry[1])


def _share(left: float) -> float:
    """Seconds for one of those that are asked: one that is silent leaves time for the next."""
    return max(LEAST_TRY_S, left / 2)


async def find(address: Address, slot: int, name: str, timeout: float) -> Address:
    """The server that serves this slot now, asked of others where need be. Raises as `search`."""
    deadline = time.monotonic() + timeout
    steps = search(address, slot)
    try:
        question = next(steps)
        while True:
            try:
                reply = await _asked(*question, name, _share(deadline - time.monotonic()))
            except (BananasError, ConnectionLost) as error:
                question = steps.throw(error)
            else:
                question = steps.send(reply)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def _asked(server: Address, command: Command, name: str, timeout: float) -> Reply:
    connection = await Connection.open(server, name, timeout)
    try:
        (reply,) = await connection.execute([command], timeout)
        return reply
    finally:
        connection.close()


async def open_found(
    address: Address, slot: int, name: str, timeout: float, on_message: Callable[[list[Any]], None] | None = None
) -> Connection:
    """A connection to the server of this slot. Raises as `search` and `Connection.open`."""
    deadline = time.monotonic() + timeout
    at = await find(address, slot, name, timeout)
    return await Connection.open(at, name, max(0.05, deadline - time.monotonic()), on_message)


def find_sync(address: Address, slot: int, name: str, timeout: float) -> Address:
    """`find` on a thread."""
    deadline = time.monotonic() + timeout
    steps = search(address, slot)
    try:
        question = next(steps)
        while True:
            try:
                reply = _asked_sync(*question, name, _share(deadline - time.monotonic()))
            except (BananasError, ConnectionLost) as error:
                question = steps.throw(error)
            else:
                question = steps.send(reply)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def _asked_sync(server: Address, command: Command, name: str, timeout: float) -> Reply:
    connection = SyncConnection(server, name, timeout)
    try:
        (reply,) = connection.execute([command], timeout)
        return reply
    finally:
        connection.close()
