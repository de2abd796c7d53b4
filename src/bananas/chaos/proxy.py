"""A network between clients and a server that misbehaves when it is told to: slow, cut, silent, or with a reply that is lost or replaced.

It listens on a TCP port and runs in a thread with a loop of its own, so that what the trial stops or blocks does not stop it. It reads
commands and replies one by one: so it knows which reply belongs to which command, and who a client says that it is (CLIENT SETNAME).
"""

import asyncio
import contextlib
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import hiredis

from bananas.address import parse_url
from bananas.scripts import Script

_CHUNK = 1 << 18
_NAP_S = 0.005
REPLICA = "replica"  # the name of a server that follows through the proxy


def frame_end(data: bytes | bytearray, at: int = 0) -> int:
    """Where the reply that begins at `at` ends (RESP2), or -1 when it is not complete."""
    line_end = data.find(b"\r\n", at)
    if line_end < 0:
        return -1
    kind, end = data[at : at + 1], line_end + 2
    if kind in b"+-:":
        return end
    count = int(data[at + 1 : line_end])
    if kind == b"$":
        end += max(0, count + 2) if count >= 0 else 0
        return end if end <= len(data) else -1
    for _ in range(count):
        end = frame_end(data, end)
        if end < 0:
            return -1
    return end


class Drop:
    """A reply to lose, once: the server does what it is asked, and the client is cut off before it hears of it.

    Attributes:
        reached: the server has answered. let_go: now the client is cut off.
    """

    def __init__(self, script: Script | None, name: str, least_bytes: int) -> None:
        self._least_bytes = least_bytes
        self._sha = None if script is None else script.sha.encode()
        self._name = name
        self.reached, self.let_go = threading.Event(), threading.Event()
        self.taken = False

    def wants(self, command: Sequence[bytes], name: str, size: int) -> bool:
        """Whether the reply to this command, of that size, is the one."""
        if self.taken or self._name not in name or size < self._least_bytes:
            return False
        return command[0].upper() == b"EVALSHA" and self._sha in (None, command[1])


class _Link:
    """One client's connection, and ours to the server."""

    def __init__(self, proxy: "Proxy", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._up_writer: asyncio.StreamWriter | None = None
        self._waiting: deque[list[bytes] | bytes] = deque()  # per command: its first words, or a reply of ours
        self.name = ""
        self._raw = False

    async def run(self) -> None:
        """Until one of the two closes."""
        up_reader, self._up_writer = await self._proxy.connect()
        back = asyncio.create_task(self._back(up_reader))
        commands = hiredis.Reader()
        try:
            while data := await self._reader.read(_CHUNK):
                commands.feed(data)
                await self._proxy.hold(self.name)
                for command in _complete(commands):
                    self._pass_on(command)
        except OSError:
            pass
        finally:
            back.cancel()
            self.abort()

    def _pass_on(self, command: list[bytes]) -> None:
        if command[0].upper() == b"CLIENT" and len(command) > 2:
            self.name = command[2].decode()
        elif command[0].upper() in (b"PSYNC", b"SYNC"):
            self._raw, self.name = True, REPLICA
        error = self._proxy.answer(command, self.name)
        if error is None:
            self._waiting.append(command[:2])
            assert self._up_writer is not None
            self._up_writer.write(cast(Any, hiredis.pack_command)(tuple(command)))  # its stub names a tuple of one
        elif self._waiting:
            self._waiting.append(error)
        else:
            self._writer.write(error)

    async def _back(self, reader: asyncio.StreamReader) -> None:
        buffer = bytearray()
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                buffer += data
                await self._proxy.hold(self.name)
                if self._raw:  # no replies from here on, but the data
                    self._writer.write(bytes(buffer))
                    buffer.clear()
                while buffer and (end := frame_end(buffer)) > 0:
                    frame = bytes(buffer[:end])
                    del buffer[:end]
                    await self._deliver(frame)
        self.abort()

    async def _deliver(self, frame: bytes) -> None:
        asked = self._waiting.popleft() if self._waiting else b""
        drop = self._proxy.drop_for(asked, self.name, len(frame)) if isinstance(asked, list) else None
        if drop is not None:
            drop.reached.set()
            while not drop.let_go.is_set():
                await asyncio.sleep(_NAP_S)
            self.abort()
            return
        self._writer.write(frame)
        while self._waiting and isinstance(error := self._waiting[0], bytes):
            self._writer.write(error)
            self._waiting.popleft()

    def abort(self) -> None:
        """Cut both."""
        for writer in (self._writer, self._up_writer):
            if writer is not None:
                writer.transport.abort()


def _complete(reader: "hiredis.Reader") -> Iterator[list[bytes]]:
    while (command := reader.gets()) is not False:
        yield command


class Proxy:
    """A TCP port in front of a server. Told from any thread.

    Attributes:
        delay_s: least and most that each read is held up, both ways.
    """

    def __init__(self, server_url: str, seed: int = 0) -> None:
        self._address = parse_url(server_url)
        self._dice = random.Random(seed)
        self.delay_s = (0.0, 0.0)
        self._silent: Sequence[str] = ()
        self._error: tuple[bytes, str, Callable[[], bool]] | None = None
        self._drops: list[Drop] = []
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0
        self.refused = 0

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"redis://127.0.0.1:{self.port}/0"

    # --- what it is told ---

    def cut(self, name: str = "") -> None:
        """Close the connections of clients whose name has this in it."""
        self._loop.call_soon_threadsafe(self._cut, name)

    def silence(self, *names: str) -> None:
        """From now on clients whose name has one of these in it hear nothing, and are heard by nobody; nothing is closed."""
        self._silent = names

    def speak(self) -> None:
        """End of the silence: what was held up is delivered."""
        self._silent = ()

    def refuse(self, error: str, name: str = "", share: float = 1.0) -> None:
        """Answer this share of all commands with an error in the server's place, which hears nothing of them; "" ends it."""
        self._error = (f"-{error}\r\n".encode(), name, lambda: self._dice.random() < share) if error else None

    def lose_reply(self, script: Script | None = None, name: str = "", least_bytes: int = 0) -> Drop:
        """Lose the next reply to a script (any, or this one) of a client whose name has this in it, if it is as large as that."""
        drop = Drop(script, name, least_bytes)
        self._drops.append(drop)
        return drop

    # --- for its links ---

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the server."""
        if self._address.path:
            return await asyncio.open_unix_connection(self._address.path)
        return await asyncio.open_connection(self._address.host, self._address.port)

    async def hold(self, name: str) -> None:
        """Wait as long as this client's bytes are held up."""
        if self.delay_s[1]:
            await asyncio.sleep(self._dice.uniform(*self.delay_s))
        while any(silent in name for silent in self._silent):
            await asyncio.sleep(_NAP_S)

    def answer(self, command: list[bytes], name: str) -> bytes | None:
        """An error to answer with in the server's place, or None."""
        error = self._error
        if error is None or command[0].upper() in (b"CLIENT", b"SELECT") or error[1] not in name or not error[2]():
            return None
        self.refused += 1
        return error[0]

    def drop_for(self, command: Sequence[bytes], name: str, size: int) -> Drop | None:
        """The order to lose this command's reply of that size, if there is one. A command may have been sent before the order was given."""
        for drop in self._drops:
            if drop.wants(command, name, size):
                drop.taken = True
                return drop
        return None

    # --- its life ---

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        for drop in self._drops:
            drop.let_go.set()
        self._silent = ()
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.run()
        except (OSError, asyncio.CancelledError):  # the server is away, or the proxy ends
            link.abort()
        finally:
            self._links.discard(link)

    def _cut(self, name: str) -> None:
        for link in list(self._links):
            if name in link.name:
                link.abort()

    async def _close(self) -> None:
        self._server.close()
        for link in list(self._links):
            link.abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
