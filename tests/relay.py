"""A network between a client and a server that loses what a test wants it to lose."""

import asyncio
from collections.abc import Awaitable, Callable

from bananas.address import parse_url


class Relay:
    """A TCP port in front of a server on a unix socket.

    Attributes:
        open: while it is not set, clients are accepted and hear nothing.
        lost: how many replies were lost.
    """

    def __init__(self, url: str) -> None:
        self._path = parse_url(url).path
        self._meanwhile: Callable[[], Awaitable[object]] | None = None
        self._of = b""
        self.open = asyncio.Event()
        self.open.set()
        self.lost = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"redis://127.0.0.1:{self.port}/0"

    def lose_reply(self, of: bytes = b"EVALSHA", meanwhile: Callable[[], Awaitable[object]] | None = None) -> None:
        """Once: the server does what it is asked by a command with this word, but the client is cut off before it hears of it.

        Args:
            meanwhile: what happens before the client is cut off.
        """

        async def nothing() -> None: ...

        self._of, self._meanwhile = of, meanwhile or nothing

    async def __aenter__(self) -> "Relay":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.open.set()
        for writer in self._writers:
            writer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._tasks.append(asyncio.current_task())  # type: ignore[arg-type]
        await self.open.wait()
        up_reader, up_writer = await asyncio.open_unix_connection(self._path)
        self._writers.append(up_writer)
        back = asyncio.create_task(self._back(up_reader, writer))
        self._tasks.append(back)
        while data := await reader.read(1 << 20):
            if self._meanwhile is not None and self._of in data:
                back.cancel()
                meanwhile, self._meanwhile = self._meanwhile, None
                self._tasks.append(asyncio.create_task(self._lose(up_reader, writer, meanwhile)))
            up_writer.write(data)

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    async def _lose(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, meanwhile: Callable[[], Awaitable[object]]) -> None:
        await asyncio.sleep(0)  # the other reader has let go
        await reader.read(65536)
        self.lost += 1
        await meanwhile()
        writer.close()
