"""A worker's sign of life, and the orders that operators give it: to claim no more, to stop, to tell the stack of a job.

An order waits in a list of its worker, for a minute at most. The supervisor gets it with the reply to its next sign of life, obeys, and
says so with the one after: then it leaves the list. One that comes twice, since a reply was lost, is known by its bytes and obeyed once.
What an order asks for comes back under a key of its own.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from bananas.broker import Request
from bananas.keys import answer_key, orders_key, queues_key, workers_key
from bananas.scripts import script

T = TypeVar("T")
HOLDS_MS, MOST_WAITING = 60_000, 100


class Order(Struct, frozen=True):
    """An order: its random id, what is to be done ("drain", "stop" or "stack"), and for "stack" the public id of the job."""

    id: str
    kind: str
    job: str = ""


class Answer(Struct, frozen=True):
    """The answer to an order: whether there is one, and its text, or why not."""

    found: bool
    text: str


def announce(
    namespace: str, boot: str, ttl_ms: int, record: bytes, names: Sequence[str], obeyed: Sequence[bytes] = ()
) -> Request[tuple[int, list[bytes]]]:
    """A worker's sign of life, and the orders that it has obeyed. Returns the server's ms, and those that wait, the oldest first."""
    keys = (workers_key(namespace), queues_key(namespace), orders_key(namespace, boot))
    args = (boot, ttl_ms, record, len(obeyed), *obeyed, *names)
    return Request(lambda reply: (int(reply[0]), list(reply[:0:-1])), script("announce"), keys, args)


def order(namespace: str, boot: str, given: Order) -> Request[str]:
    """Give a worker an order. Returns "g" (given), "n" (no such worker is alive) or "f" (too many wait)."""
    keys = (workers_key(namespace), orders_key(namespace, boot))
    return Request(bytes.decode, script("order"), keys, (boot, msgspec.msgpack.encode(given), HOLDS_MS, MOST_WAITING))


def answer(namespace: str, order_id: str, given: Answer) -> Request[int]:
    """What a worker answers to an order."""
    return Request(int, script("answer"), (answer_key(namespace, order_id),), (msgspec.msgpack.encode(given), HOLDS_MS))


def read_order(packed: bytes) -> Order | None:
    """An order as it was given; None for what is none."""
    return _read(packed, Order)


def read_answer(packed: bytes | None) -> Answer | None:
    """An answer; None where there is none (yet)."""
    return None if packed is None else _read(packed, Answer)


def _read(packed: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.msgpack.decode(packed, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
