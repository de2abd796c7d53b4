"""Waiting for a queue's marker, over a connection of its own with a hard deadline."""

from collections.abc import Sequence

from bananas.address import Address, Command
from bananas.broker import Claim, Request
from bananas.connection import Connection, ConnectionLost, ReplyError
from bananas.session import open_checked
from bananas.worker.served import Served

OPEN_S = 5.0
GRACE_S = 2.0  # the server's own timeouts tick at 100 ms; what takes much longer is a connection that is gone


class Markers:
    """Blocks on the markers of queues of one server."""

    def __init__(self, address: Address, slot: int, boot: str) -> None:
        self._address, self._slot, self._name = address, slot, f"bananas:waiter:{boot}"
        self._connection: Connection | None = None
        self._rotation = 0
        self._answered = False

    @property
    def proven(self) -> bool:
        """Whether the connection is open and has answered, so that what is sent over it finds the server that it means."""
        return self._answered and self._connection is not None and not self._connection.closed

    async def wait(
        self, queues: Sequence[Served], seconds: float, behind: Sequence[Request[Claim]] = ()
    ) -> tuple[Served | None, list[Claim]]:
        """The queue whose marker was popped, or None when none came; and the answers to claims that were sent `behind` the pop.

        Raises:
            ConnectionLost, BananasError: what the server has for us is unknown; the next call opens a new connection.
        """
        connection = self._connection
        if connection is None or connection.closed:
            self._answered = False
            connection = self._connection = await open_checked(self._address, self._name, OPEN_S, slot=self._slot)
        self._rotation += 1
        at = self._rotation % len(queues)  # the server favours the first
        names = [served.keys.wake for served in (*queues[at:], *queues[:at])]
        commands: list[Command] = [("BZPOPMIN", *names, seconds), *(request.command() for request in behind)]
        popped, *answers = await connection.execute(commands, seconds + GRACE_S)
        refused = next((reply for reply in (popped, *answers) if isinstance(reply, ReplyError)), None)
        if refused is not None:  # a replica by now, or loading: a new connection finds who serves
            connection.close()
            raise ConnectionLost(str(refused))
        self._answered = True
        woken = next(served for served in queues if served.keys.wake == popped[0].decode()) if popped else None
        return woken, [request.read(answer) for request, answer in zip(behind, answers, strict=True)]

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
