"""The waiter: while no queue of a fetcher is hungry and slots are free, it blocks on the markers.

A worker that is woken would ask for the job then: one way to the server and back more. So where a worker serves few queues of one server,
a claim of each stands behind the blocking pop in the same write, and the server runs them as soon as a marker is there, or the block has
ended. While they stand there

- their queues are `busy`: no other claim is sent, so that numbers and slots stay as they were;
- they ask for few jobs: should this machine be gone by then, those are away until their leases end. The rest is for the next turns;
- when they may not be run any more (the worker stops, or a suspect shall run alone), they are withdrawn: the connection is closed, and they
  are undone like any claim whose reply was lost.
"""

import asyncio
import time
from typing import NamedTuple, Protocol

from bananas.address import Address
from bananas.broker import Claim, Request
from bananas.connection import ConnectionLost
from bananas.errors import BananasError
from bananas.worker.claiming import Claiming
from bananas.worker.markers import Markers
from bananas.worker.served import REST_S, Served

BLOCK_S = 2.0
MOST_AHEAD = MOST_QUEUES = 4
PAUSE_S = 0.2


class _Ahead(NamedTuple):
    """Claims that stand behind the blocking pop: of which queues, and when (monotonic seconds) they were sent."""

    queues: list[Served]
    sent_at: float


class Feeder(Protocol):
    """The fetcher, as its waiter sees it."""

    queues: list[Served]

    def room_ahead(self) -> int:
        """How many jobs claims may ask for that stand at the server until there are some; 0: they may not stand there."""
        ...

    def woken(self, served: Served | None) -> None:
        """This queue may have jobs, or, after a while, any."""
        ...

    def fed(self) -> None:
        """The server answered; what it had was handed over."""
        ...

    def doubt(self) -> None:
        """The server may be silent."""
        ...


class Waiter:
    """Waits for one fetcher.

    Attributes:
        idle: set while it shall wait.
    """

    def __init__(self, address: Address, slot: int, boot: str, feeder: Feeder, claiming: Claiming) -> None:
        self.idle = asyncio.Event()
        self._feeder, self._claiming = feeder, claiming
        self._markers = Markers(address, slot, boot)
        self._ahead: _Ahead | None = None

    async def run(self) -> None:
        """Wait, again and again, whenever it shall."""
        feeder = self._feeder
        while True:
            await self.idle.wait()
            if not self.idle.is_set():
                continue  # the fetcher was faster, and claims by now
            now = asyncio.get_running_loop().time()
            queues = [served for served in feeder.queues if served.resting_until <= now]
            if not queues:
                await asyncio.sleep(REST_S)
                feeder.woken(None)
                continue
            try:
                await self._wait(queues, BLOCK_S if len(queues) == len(feeder.queues) else REST_S)
            except (ConnectionLost, BananasError):
                self.withdraw()
                feeder.doubt()
                feeder.woken(None)
                await asyncio.sleep(PAUSE_S)

    async def _wait(self, queues: list[Served], seconds: float) -> None:
        claims: list[Request[Claim]] = []
        ahead: _Ahead | None = None
        if self._markers.proven and self._claiming.compared and len(queues) <= MOST_QUEUES:
            most = min(MOST_AHEAD, self._feeder.room_ahead() // len(queues))
            if most:
                ahead = self._ahead = _Ahead(queues, time.monotonic())
                for served in queues:
                    served.busy = True
                    claims.append(self._claiming.request(served, most))
        woken, found = await self._markers.wait(queues, seconds, claims)
        if ahead is not None and self._ahead is ahead:
            self._answered(ahead, woken, found)
        else:
            self._feeder.woken(woken)  # or withdrawn when it was answered already: then it will be undone

    def _answered(self, ahead: _Ahead, woken: Served | None, found: list[Claim]) -> None:
        self._ahead = None
        self.idle.clear()
        for served, claim in zip(ahead.queues, found, strict=True):
            served.busy, served.popped = False, served is woken
            self._claiming.answered_late(served, ahead.sent_at, claim)
        self._feeder.fed()

    @property
    def stands(self) -> bool:
        """Whether claims stand at the server."""
        return self._ahead is not None

    def withdraw(self) -> None:
        """Whatever claims stand at the server are to be undone."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            for served in ahead.queues:
                served.busy, served.lost_turn = False, served.turn
            self._markers.close()

    def interrupt(self) -> None:
        """Wait no more for now: whatever it waits on, or has asked for, is as if the connection were lost."""
        self.withdraw()
        self._markers.close()

    def close(self) -> None:
        """Close its connection."""
        self._markers.close()
