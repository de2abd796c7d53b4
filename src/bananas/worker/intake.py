"""All that brings jobs into a worker process: one fetch loop, or on a Cluster one per slot, each beside its waiter."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from itertools import groupby
from typing import Any, TypeVar

from bananas.address import Address
from bananas.broker import EVERYTHING, Filter
from bananas.keys import QueueKeys
from bananas.worker.fetcher import Fetcher
from bananas.worker.runner import Runner
from bananas.worker.served import Rotation, Served
from bananas.worker.sharing import Sharing
from bananas.worker.table import LeaseTable
from bananas.worker.vitals import Pulse

T = TypeVar("T")


class Intake:
    """The fetchers of one worker process.

    Attributes:
        drained: set when the worker was stopped, or had nothing more to do, and everything is settled.
    """

    def __init__(
        self,
        address: Address,
        boot: str,
        queues: Sequence[Served],
        runner: Runner,
        table: LeaseTable,
        *,
        lease_ms: int,
        wanted: Filter = EVERYTHING,
    ) -> None:
        rotation = Rotation(queues)
        self._fetchers = [
            Fetcher(address, boot, group, rotation, runner, table, lease_ms=lease_ms, wanted=wanted)
            for group in by_server(address, queues, lambda served: served.keys)
        ]
        if address.clustered:
            sharing = Sharing(rotation, runner)
            sharing.all = self._fetchers
            for fetcher in self._fetchers:
                fetcher.sharing = sharing
        self._left = len(self._fetchers)
        self.drained = asyncio.Event()

    @property
    def pulses(self) -> list[Pulse]:
        """How each fetch loop gets on."""
        return [fetcher.pulse for fetcher in self._fetchers]

    @property
    def accepting(self) -> bool:
        """Whether jobs are claimed."""
        return any(fetcher.accepting for fetcher in self._fetchers)

    def changed(self) -> None:
        """A slot became free, a settlement waits, or the worker is to stop."""
        for fetcher in self._fetchers:
            fetcher.changed()

    def begin(self, *, promotes: bool, burst: bool = False, accepting: bool = True) -> None:
        """How the fetchers work: see Fetcher. Before `loops`."""
        for fetcher in self._fetchers:
            fetcher.begin(promotes=promotes, burst=burst, accepting=accepting)

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run as tasks: for each fetcher its loop, and its waiter where it claims."""
        waiters = [fetcher.wait_for_markers() for fetcher in self._fetchers if fetcher.accepting]
        return [*waiters, *(self._run(fetcher) for fetcher in self._fetchers)]

    async def _run(self, fetcher: Fetcher) -> None:
        await fetcher.run()
        self._left -= 1
        if not self._left:
            self.drained.set()

    def stop_accepting(self) -> None:
        """Claim no more; markers go back, so that others wake."""
        for fetcher in self._fetchers:
            fetcher.stop_accepting()

    def stop(self) -> None:
        """Claim no more, and end when everything is settled."""
        for fetcher in self._fetchers:
            fetcher.stop()

    def close(self) -> None:
        """Close all connections."""
        for fetcher in self._fetchers:
            fetcher.close()


def by_server(address: Address, items: Sequence[T], keys_of: Callable[[T], QueueKeys]) -> list[list[T]]:
    """What belongs to a queue, grouped by the server that it is on: on a Cluster by its slot."""
    if not address.clustered:
        return [list(items)]
    ordered = sorted(items, key=lambda item: keys_of(item).slot)
    return [list(group) for _, group in groupby(ordered, key=lambda item: keys_of(item).slot)]
