"""Hearing of outcomes: one connection to one server, subscribed to the channels that somebody listens to.

The channels are sharded ones (SSUBSCRIBE): in a Cluster a message stays on the server that serves the job's slot instead of going to all
nodes, and when the slot moves the server says so and the connection is opened anew.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bananas import broker
from bananas.address import Address
from bananas.connection import Connection, ReplyError
from bananas.discovery import open_found
from bananas.errors import BrokerUnavailable
from bananas.session import leads_elsewhere, named, pause_before

_BATCH = 500
TRY_S = 2.0
Listener = Callable[[bytes], None]


class Subscription:
    """The listeners to one server, and the connection that serves them."""

    def __init__(self, address: Address, slot: int, name: str) -> None:
        self._address, self._slot, self._name = address, slot, name
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._listeners: dict[str, list[Listener]] = {}
        self._confirmed: dict[str, asyncio.Event] = {}
        self._refusal: ReplyError | None = None

    def add(self, channel: str, listener: Listener) -> None:
        """Call `listener` with what is announced on a channel, from `hear` on."""
        self._listeners.setdefault(channel, []).append(listener)

    def remove(self, listeners: Iterable[tuple[str, Listener]]) -> None:
        """These listen no more."""
        unused: list[str] = []
        for channel, listener in listeners:
            left = self._listeners[channel]
            left.remove(listener)
            if not left:
                del self._listeners[channel]
                if self._confirmed.pop(channel, None) is not None:
                    unused.append(channel)
        if self._connection is not None and not self._connection.closed:
            for start in range(0, len(unused), _BATCH):
                self._connection.post(("SUNSUBSCRIBE", *unused[start : start + _BATCH]))

    async def hear(self, channels: Sequence[str], budget: float) -> Connection:
        """The connection, once the server has confirmed these channels. Raises BrokerUnavailable."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + budget
        tries = 0
        while True:
            try:
                until = self._try_until(loop.time(), deadline)
                connection = await self._open(until - loop.time())
                await self._confirmation(connection, channels, until)
                return connection
            except (TimeoutError, KeyError, BrokerUnavailable) as error:
                if self._connection is not None:
                    self._connection.close()
                if loop.time() >= deadline:
                    raise BrokerUnavailable(
                        f"no subscription to results within {budget:g} s ({str(error) or 'no answer'}); the jobs go on"
                    ) from error
            await pause_before(tries, deadline)
            tries += 1

    def _try_until(self, now: float, deadline: float) -> float:
        """When one try ends. Where there are several servers, one that is silent may have been replaced: it is looked for anew soon."""
        most = deadline - now if self._address.kind == "server" else min(TRY_S, (deadline - now) / 2)
        return now + max(0.05, most)

    async def _open(self, budget: float) -> Connection:
        async with self._opening:
            if self._connection is None or self._connection.closed:
                confirmed = self._confirmed = dict[str, asyncio.Event]()
                self._refusal = None
                self._connection = await open_found(self._address, self._slot, self._name, budget, self._on_message)
                self._connection.lost.add_done_callback(lambda _: _set_all(confirmed.values()))
            return self._connection

    async def _confirmation(self, connection: Connection, channels: Sequence[str], deadline: float) -> None:
        """Subscribe to the channels that are not yet, and wait until the server has confirmed all."""
        missing = [channel for channel in channels if channel not in self._confirmed]
        self._confirmed |= {channel: asyncio.Event() for channel in missing}
        for start in range(0, len(missing), _BATCH):
            connection.post(("SSUBSCRIBE", *missing[start : start + _BATCH]))
        async with asyncio.timeout_at(deadline):
            for channel in channels:
                await self._confirmed[channel].wait()
        if self._refusal is not None:
            raise named(broker.plain(_same, "SSUBSCRIBE"), self._refusal)
        if connection.closed:
            raise BrokerUnavailable("the connection was lost")

    def _on_message(self, message: list[Any] | ReplyError) -> None:
        if isinstance(message, ReplyError):  # to a SSUBSCRIBE, but it does not say to which
            self._refusal = None if leads_elsewhere(message) else message
            self._drop()
            return
        kind, channel = message[0], message[1].decode()
        if kind == b"smessage":
            for listener in self._listeners.get(channel, ()):
                listener(message[2])
        elif kind == b"ssubscribe" and (event := self._confirmed.get(channel)) is not None:
            event.set()
        elif kind == b"sunsubscribe" and channel in self._confirmed:  # not asked for: its slot has moved
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def close(self) -> None:
        """Close the connection."""
        self._drop()


def _same(reply: Any) -> Any:
    return reply


def _set_all(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        event.set()
