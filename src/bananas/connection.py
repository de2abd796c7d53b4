"""One socket to one server that executes batches of commands: the only module that knows how bytes travel.

A batch is written at once and its replies come back in order; any number of batches may be under way. A failed command is a
`ReplyError` in its place of the list: the caller judges each part. A batch that is not answered within its deadline closes the
connection, since what was sent may still take effect: whoever resends must be idempotent (see broker.py).

SPINNING. To sleep and be woken on another core can cost 50 us and more where an answer takes 30 (docs/design/006-latency.md). So a client
looks for its answer for SPIN_S before it sleeps, giving way to whoever wants the core, as long as its last answer came within that time.
Workers do not: they have jobs to run.

DESIGN. Two classes with one meaning: `Connection` for an event loop (asyncio.BufferedProtocol), `SyncConnection` for a thread (a blocking
socket). hiredis packs and parses; redis-py costs 95 to 125 us for an awaited command where this costs 35 to 45, and 110 ms and 20 MB to
import (docs/design/001-connection.md). Rejected: RESP3, automatic retries (they hide a batch of unknown fate), pools inside.
"""

import asyncio
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from bananas.address import Address, Command
from bananas.errors import AuthenticationFailed, BananasError, BrokerUnavailable, ServerUnsuitable

Reply = Any
ReplyError = hiredis.ReplyError

_BUFFER_BYTES = 256 * 1024
_SYNC_BUFFER_BYTES = 32 * 1024
SPIN_S = 0.0003
_pack = hiredis.pack_command
spinning = threading.Lock()  # held by the thread that spins


class ConnectionLost(Exception):
    """The socket closed, or a deadline passed: batches under way may or may not have taken effect."""


Done = Callable[[list[Reply] | ConnectionLost], None]


def _check_handshake(address: Address, replies: Sequence[Reply]) -> None:
    for reply in replies:
        if isinstance(reply, ReplyError):
            text = str(reply)
            if text.startswith(("WRONGPASS", "NOAUTH", "ERR AUTH", "NOPERM", "ERR invalid password")):
                raise AuthenticationFailed(
                    f"{address} refused the login: {text}. Nothing was sent. Check the user name and password in the Redis URL (REDIS_URL)."
                )
            raise BrokerUnavailable(f"{address} is not ready: {text}. Nothing was sent.")


def _unreachable(address: Address, error: Exception) -> BananasError:
    reason = str(error) or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        return ServerUnsuitable(
            f"the certificate of {address} is not trusted ({reason}). Nothing was sent. ssl_ca_certs in the URL names a file."
        )
    return BrokerUnavailable(f"no Redis or Valkey server answers at {address}: {reason}")


def _left(deadline: float) -> float:
    """Seconds until a deadline (monotonic). Raises TimeoutError when it has passed."""
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError("no answer in time")
    return left


class _Batch:
    """A batch under way: its replies gather until there are `count` of them."""

    __slots__ = ("count", "deadline", "done", "replies")

    def __init__(self, count: int, deadline: float, done: Done) -> None:
        self.count, self.deadline, self.done = count, deadline, done
        self.replies: list[Reply] = []


class Connection(asyncio.BufferedProtocol):
    """A connection that belongs to one event loop. Make it with `open`."""

    def __init__(self, on_message: Callable[[list[Any]], None] | None = None, *, spins: bool = False) -> None:
        self._reader = hiredis.Reader(notEnoughData=Connection)
        self._buffer = bytearray(_BUFFER_BYTES)
        self._batches: deque[_Batch] = deque()
        self._transport: asyncio.Transport | None = None
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._watching: asyncio.TimerHandle | None = None
        self._spins, self._quick, self._awake, self._sent_at = spins, False, False, 0.0
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def open(
        cls,
        address: Address,
        name: str = "bananas",
        timeout: float = 5.0,
        on_message: Callable[[list[Any]], None] | None = None,
        *,
        spins: bool = False,
    ) -> "Connection":
        """Connect and log in.

        Args:
            on_message: called with what comes without being asked for.
            spins: keep the loop awake for SPIN_S while an answer is near.

        Raises:
            BrokerUnavailable: nobody answers there within `timeout` seconds.
            AuthenticationFailed: the server refuses the login.
        """
        loop = asyncio.get_running_loop()
        self: Connection | None = None
        try:
            async with asyncio.timeout(timeout):
                if address.path:
                    _, self = await loop.create_unix_connection(lambda: cls(on_message, spins=spins), address.path)
                else:
                    context = address.tls_context()
                    _, self = await loop.create_connection(lambda: cls(on_message, spins=spins), address.host, address.port, ssl=context)
                _check_handshake(address, await self.execute(address.handshake(name), timeout))
        except BaseException as error:
            if self is not None:
                self.close()
            if not isinstance(error, (OSError, ConnectionLost)):  # a TimeoutError is an OSError
                raise
            raise _unreachable(address, error) from error
        return self

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport is None or self._transport.is_closing()

    def send(self, commands: Sequence[Command], timeout: float, done: Done) -> None:
        """Write a batch; `done` is called once, with the replies in order, or with ConnectionLost after `timeout` seconds at the latest."""
        if self._transport is None or self._transport.is_closing():
            done(ConnectionLost("the connection is closed"))
            return
        if not commands:
            done([])
            return
        data = b"".join([_pack(command) for command in commands])  # first: where this fails, nothing is under way
        now = self._loop.time()
        deadline = now + timeout
        if self._spins and not self._batches:
            self._sent_at = now
            if self._quick and not self._awake:
                self._awake = True
                self._loop.call_soon(self._stay_awake)
        self._batches.append(_Batch(len(commands), deadline, done))
        self._transport.write(data)
        if self._watching is None or deadline < self._watching.when():
            self._watch_until(deadline)

    def _stay_awake(self) -> None:
        """Keep the loop from sleeping while an answer is near."""
        self._awake = bool(self._batches) and self._loop.time() < self._sent_at + SPIN_S
        if self._awake:
            os.sched_yield()
            self._loop.call_soon(self._stay_awake)

    async def execute(self, commands: Sequence[Command], timeout: float) -> list[Reply]:
        """Write a batch and wait for its replies.

        Raises:
            ConnectionLost: the socket closed, or `timeout` seconds passed; the commands may have taken effect.
        """
        future: asyncio.Future[list[Reply]] = self._loop.create_future()

        def done(outcome: list[Reply] | ConnectionLost) -> None:
            if future.done():
                return
            if isinstance(outcome, ConnectionLost):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.send(commands, timeout, done)
        return await future

    def post(self, command: Command) -> None:
        """Write a command whose replies come as messages (SUBSCRIBE and the like)."""
        if self._transport is not None:
            self._transport.write(_pack(command))

    def close(self) -> None:
        """Close now; batches under way end with ConnectionLost."""
        self._fail("the connection was closed")

    def _watch(self) -> None:
        """One timer for all batches: it comes back when the first of them is due."""
        self._watching = None
        if not self._batches:
            return
        first = min(batch.deadline for batch in self._batches)
        if first <= self._loop.time():
            self._fail("the server did not answer in time")
        else:
            self._watch_until(first)

    def _watch_until(self, deadline: float) -> None:
        if self._watching is not None:
            self._watching.cancel()
        self._watching = self._loop.call_at(deadline, self._watch)

    def _fail(self, reason: str) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._transport = None
        if self._watching is not None:
            self._watching.cancel()
        batches, self._batches = self._batches, deque()
        if not self.lost.done():
            self.lost.set_result(None)
        for batch in batches:
            batch.done(ConnectionLost(reason))

    # --- asyncio.BufferedProtocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        reader, batches = self._reader, self._batches
        reader.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # any buffer works
        while (reply := reader.gets()) is not Connection:
            if not batches:
                if self._on_message is not None:
                    self._on_message(reply)
                continue
            batch = batches[0]
            batch.replies.append(reply)
            if len(batch.replies) == batch.count:
                batches.popleft()
                if self._spins:
                    self._quick = self._loop.time() < self._sent_at + SPIN_S
                batch.done(batch.replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(str(exc) if exc else "the server closed the connection")


class SyncConnection:
    """A connection that belongs to one thread at a time. Its socket blocks, but no call on it does: TLS apart, poll waits."""

    def __init__(self, address: Address, name: str = "bananas", timeout: float = 5.0) -> None:
        """Connect and log in. Raises as `Connection.open`."""
        self._reader = hiredis.Reader(notEnoughData=SyncConnection)
        self._buffer = bytearray(_SYNC_BUFFER_BYTES)
        self._quick, self._spin_until = False, 0.0
        self._socket: socket.socket | None = None
        deadline = time.monotonic() + timeout
        try:
            self._socket = self._connect(address, timeout)
            _check_handshake(address, self.execute(address.handshake(name), _left(deadline)))
        except (OSError, ConnectionLost) as error:
            self.close()
            raise _unreachable(address, error) from error
        except Exception:
            self.close()
            raise

    @staticmethod
    def _connect(address: Address, timeout: float) -> socket.socket:
        if address.path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            sock = socket.create_connection((address.host, address.port), timeout)
        try:
            if address.path:
                sock.settimeout(timeout)
                sock.connect(address.path)
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            context = address.tls_context()
            if context is not None:
                return context.wrap_socket(sock, server_hostname=address.host)
            sock.settimeout(None)
            return sock
        except BaseException:
            sock.close()
            raise

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._socket is None

    def execute(self, commands: Sequence[Command], timeout: float) -> list[Reply]:
        """Write a batch and wait for its replies. Raises as `Connection.execute`."""
        if self._socket is None:
            raise ConnectionLost("the connection is closed")
        deadline = time.monotonic() + timeout
        try:
            began = time.monotonic()
            self._send(_pack(commands[0]) if len(commands) == 1 else b"".join([_pack(command) for command in commands]), deadline)
            self._spin_until = began + SPIN_S if self._quick else 0.0
            replies = [self.read(deadline) for _ in commands]
            self._quick = time.monotonic() < began + SPIN_S
            return replies
        except BaseException as error:  # any, a signal handler's too: the next call shall not take this one's replies for its own
            self.close()
            if isinstance(error, (OSError, ConnectionLost)):
                raise ConnectionLost(str(error) or type(error).__name__) from error
            raise

    def _send(self, data: bytes | memoryview, deadline: float) -> None:
        """Write everything. Not by the kernel's SO_SNDTIMEO: on a unix socket it bounds each 32 KB alone."""
        assert self._socket is not None
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.settimeout(_left(deadline))
            self._socket.sendall(data)
            return
        while True:
            try:
                sent = self._socket.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                sent = 0
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
            self._wait_for(select.POLLOUT, deadline)

    def read(self, deadline: float) -> Reply:
        """The next reply or message.

        Raises:
            TimeoutError: `deadline` (monotonic) passed; the connection stays usable.
            ConnectionLost: the server closed the connection.
        """
        while (reply := self._reader.gets()) is SyncConnection:
            if self._socket is None:
                raise ConnectionLost("the connection is closed")
            try:
                count = self._receive(deadline)
            except TimeoutError:
                raise
            except OSError as error:
                raise ConnectionLost(str(error)) from error
            if not count:
                raise ConnectionLost("the server closed the connection")
            self._reader.feed(self._buffer, 0, count)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # any buffer works
        return reply

    def _receive(self, deadline: float) -> int:
        """Read what is there, or the first that comes: how many bytes, 0 at the end. Raises TimeoutError."""
        assert self._socket is not None
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.settimeout(_left(deadline))
            return self._socket.recv_into(self._buffer)
        count = self._spin() if self._spin_until else self._take()
        while count is None:
            self._wait_for(select.POLLIN, deadline)
            count = self._take()
        return count

    def _take(self) -> int | None:
        assert self._socket is not None
        try:
            return self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def _spin(self) -> int | None:
        """Look for the answer without sleeping; one thread of a process at a time."""
        if not spinning.acquire(blocking=False):
            return self._take()
        try:
            while (count := self._take()) is None and time.monotonic() < self._spin_until:
                os.sched_yield()
            return count
        finally:
            spinning.release()

    def _wait_for(self, event: int, deadline: float) -> None:
        """Sleep until the socket is ready, to the millisecond, however many signals come meanwhile. Raises TimeoutError."""
        assert self._socket is not None
        (poller := select.poll()).register(self._socket, event)
        poller.poll(1000 * _left(deadline))

    def close(self) -> None:
        """Close now."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
