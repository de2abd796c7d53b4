"""One turn at a server: what one write asks, and who reads which answer."""

from collections.abc import Callable, Sequence
from typing import Any

from bananas.broker import Request
from bananas.errors import BrokerError


class Turn:
    """Requests in the order in which they are sent, each with who reads its reply."""

    def __init__(self) -> None:
        self.requests: list[Request[Any]] = []
        self._readers: list[tuple[Callable[[Any], None], bool]] = []

    def add(self, request: Request[Any], read: Callable[[Any], None], *, vital: bool = True) -> None:
        """Ask this too.

        Args:
            vital: what is refused makes the turn fail. Else its reader gets the error, and whatever else was asked goes on.
        """
        self.requests.append(request)
        self._readers.append((read, vital))

    def read(self, replies: Sequence[Any]) -> None:
        """Hand out the replies.

        Raises:
            BrokerError: one was refused, the first of them. The others have been read.
        """
        failure: BrokerError | None = None
        for reply, (read, vital) in zip(replies, self._readers, strict=True):
            if vital and isinstance(reply, BrokerError):
                failure = failure or reply
            else:
                read(reply)
        if failure is not None:
            raise failure
