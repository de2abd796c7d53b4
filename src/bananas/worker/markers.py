"""Waiting for a queue's marker, over a connection of its own with a hard deadline."""

from collections.abc import Sequence

from bananas.address import Address
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

    async def wait(self, queues: Sequence[Served], seconds: float) -> Served | None:
        """The queue whose marker was popped, or None when none came.

        Raises:
            ConnectionLost, BananasError: what the server has for us is unknown; the next call opens a new connection.
        """
        connection = self._connection
        if connection is None or connection.closed:
            connection = self._connection = await open_checked(self._address, self._name, OPEN_S, slot=self._slot)
        self._rotation += 1
        at = self._rotation % len(queues)  # the server favours the first
        names = [served.keys.wake for served in (*queues[at:], *queues[:at])]
        (reply,) = await connection.execute([("BZPOPMIN", *names, seconds)], seconds + GRACE_S)
        if isinstance(reply, ReplyError):  # a replica by now, or loading: a new connection finds who serves
            connection.close()
            raise ConnectionLost(str(reply))
        return next(served for served in queues if served.keys.wake == reply[0].decode()) if reply else None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
