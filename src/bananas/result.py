"""Waiting for outcomes: one subscription per event loop and server for all waiters, and right even when a message is lost.

The order is subscribe, read, wait, read again: an outcome stored before the subscription is found by the first read, one stored after it is
announced on the channel `result:<id>` with its bytes, and one whose message got lost is found by a later read (every `REREAD_S`).
"""

import asyncio
from asyncio import _get_running_loop as _running_loop  # raises nothing where no loop runs
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from bananas import broker, codec, sealing
from bananas.broker import Request
from bananas.client import LoopClient
from bananas.connection import Connection
from bananas.errors import (
    BrokerUnavailable,
    JobNotFound,
    JobUndecodable,
    KeyMissing,
    ResultsDisabled,
    ResultTimeout,
    SyncOnRunningLoop,
    TaskError,
)
from bananas.job import Result
from bananas.keys import QueueKeys
from bananas.sealing import Place
from bananas.seals import Seals, Unopened
from bananas.session import answer
from bananas.subscription import Subscription

REREAD_S = 3.0
_READ_BATCH = 500


class Gone:
    """What is read of a job that is neither there nor has left a result."""


GONE = Gone()
DIED = codec.pack_result(
    Result("dead", error_message="its result is not kept; the error is with the dead job: queue.dead.list()", attempts=0)
)
Outcome = bytes | Gone
Wanted = Mapping[str, tuple[QueueKeys, str]]


def wanted(jobs: Sequence[tuple[QueueKeys, str]]) -> dict[str, tuple[QueueKeys, str]]:
    """Jobs by the channel that announces their outcome."""
    return {keys.result(job_id): (keys, job_id) for keys, job_id in jobs}


def _reads(pending: Wanted) -> list[tuple[str, list[Request[Any]]]]:
    """Per channel: does the job exist, is it dead, then its result: in this order a job that ends in between is not taken for gone."""
    return [(channel, _reads_of(keys, job_id, channel)) for channel, (keys, job_id) in pending.items()]


def _same(reply: Any) -> Any:
    return reply


def _reads_of(keys: QueueKeys, job_id: str, channel: str) -> list[Request[Any]]:
    exists, died = broker.plain(int, "HEXISTS", keys.jobs, job_id), broker.plain(_same, "ZSCORE", keys.dead, job_id)
    return [exists, died, broker.plain(_same, "GET", channel)]


def _found(channels: Sequence[str], replies: Sequence[Any]) -> list[tuple[str, Outcome]]:
    found: list[tuple[str, Outcome]] = []
    for index, channel in enumerate(channels):
        exists, died, data = (answer(reply) for reply in replies[3 * index : 3 * index + 3])
        if data is not None:
            found.append((channel, data))
        elif died is not None:
            found.append((channel, DIED))
        elif not exists:
            found.append((channel, GONE))
    return found


class Waiter:
    """All the waiting of one event loop: a subscription, on a Cluster one per slot."""

    def __init__(self, client: LoopClient) -> None:
        self._client = client
        self._subscriptions: dict[int, Subscription] = {}

    @classmethod
    def of(cls, client: LoopClient) -> "Waiter":
        """The waiter of this loop, made at its first use."""
        waiter = client.parts.get("waiter")
        if waiter is None:
            waiter = client.parts["waiter"] = cls(client)
            client.closers.append(waiter.close)
        assert isinstance(waiter, cls)
        return waiter

    def _subscription(self, slot: int) -> Subscription:
        found = self._subscriptions.get(slot)
        if found is None:
            name = f"{self._client.name}:results"
            found = self._subscriptions[slot] = Subscription(self._client.address, slot, name)
        return found

    def _by_slot(self, jobs: Wanted) -> dict[int, dict[str, tuple[QueueKeys, str]]]:
        """The jobs by the server that knows them."""
        if not self._client.address.clustered:
            return {0: dict(jobs)}
        parts: dict[int, dict[str, tuple[QueueKeys, str]]] = {}
        for channel, (keys, job_id) in jobs.items():
            parts.setdefault(keys.slot, {})[channel] = keys, job_id
        return parts

    async def close(self) -> None:
        """Close the subscriptions."""
        for subscription in self._subscriptions.values():
            subscription.close()

    async def outcomes(self, jobs: Wanted, timeout: float | None, budget: float) -> AsyncGenerator[tuple[str, Outcome], None]:
        """Yield (channel, outcome) as the jobs end.

        Raises:
            ResultTimeout: `timeout` seconds passed first.
            BrokerUnavailable: the server stayed away for `budget` seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        news: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        pending = dict(jobs)
        listening = [
            (self._subscription(slot), [(channel, _announcer(channel, news)) for channel in part])
            for slot, part in self._by_slot(jobs).items()
        ]
        for subscription, listeners in listening:
            for channel, listener in listeners:
                subscription.add(channel, listener)
        try:
            while pending:
                connections, found = await self._look(pending, deadline, budget)
                for channel, outcome in found:
                    del pending[channel]
                    yield channel, outcome
                async for channel, data in self._announced(connections, pending, news, deadline):
                    del pending[channel]
                    yield channel, data
        finally:
            for subscription, listeners in listening:
                subscription.remove(listeners)

    async def _look(self, pending: Wanted, deadline: float | None, budget: float) -> tuple[list[Connection], list[tuple[str, Outcome]]]:
        """Subscribe, then read. Raises ResultTimeout when the deadline comes first, else BrokerUnavailable after the budget."""
        loop = asyncio.get_running_loop()
        patience = budget if deadline is None else max(0.05, min(budget, deadline - loop.time()))
        try:
            parts = self._by_slot(pending)
            connections = await asyncio.gather(*(self._subscription(slot).hear(list(part), patience) for slot, part in parts.items()))
            async with asyncio.timeout_at(None if deadline is None else max(deadline, loop.time() + 0.05)):
                # Over a lane that is not ours alone: a short timeout does not close it.
                found = await asyncio.gather(*(self._read(part, budget) for part in parts.values()))
                return connections, [outcome for outcomes in found for outcome in outcomes]
        except (BrokerUnavailable, TimeoutError) as error:
            if deadline is not None and loop.time() >= deadline:
                why = str(error) or "no answer"
                raise ResultTimeout(f"the server was away until the timeout ({why}); the jobs may be waited for again") from error
            raise

    async def _announced(
        self, connections: Sequence[Connection], pending: Wanted, news: "asyncio.Queue[tuple[str, bytes]]", deadline: float | None
    ) -> AsyncIterator[tuple[str, bytes]]:
        """Messages until nothing is pending, or until it is time to read again (a while passed, the connection went)."""
        loop = asyncio.get_running_loop()
        reread_at = loop.time() + REREAD_S
        while pending and not any(connection.closed for connection in connections):
            until = reread_at if deadline is None else min(reread_at, deadline)
            try:
                async with asyncio.timeout_at(until):
                    channel, data = await news.get()
            except TimeoutError:
                if deadline is not None and loop.time() >= deadline:
                    raise ResultTimeout(f"{len(pending)} job(s) had not ended in time; they go on, and may be waited for again") from None
                return
            if channel in pending:
                yield channel, data

    async def _read(self, pending: Wanted, budget: float) -> list[tuple[str, Outcome]]:
        """What is stored of jobs of one server."""
        reads = _reads(pending)
        lane = self._client.lanes.of(next(iter(pending.values()))[0])
        found: list[tuple[str, Outcome]] = []
        for start in range(0, len(reads), _READ_BATCH):
            part = reads[start : start + _READ_BATCH]
            requests = [request for _, pair in part for request in pair]
            replies = await lane.ask(None, requests, budget, "reading results")
            found += _found([channel for channel, _ in part], replies)
        return found


def _announcer(channel: str, news: "asyncio.Queue[tuple[str, bytes]]") -> Callable[[bytes], None]:
    return lambda data: news.put_nowait((channel, data))


async def first_outcome(client: LoopClient, job: tuple[QueueKeys, str], timeout: float | None, budget: float) -> Outcome:
    """Wait for one outcome. Raises as `Waiter.outcomes`."""
    outcomes = Waiter.of(client).outcomes(wanted([job]), timeout, budget)
    try:
        _, outcome = await anext(outcomes)
        return outcome
    finally:
        await outcomes.aclose()


def _read(outcome: bytes, place: Place, seals: Seals) -> Result:
    public_id = place[0].public(place[1])
    try:
        return sealing.read_result(outcome, seals, place)
    except Unopened as error:
        kept = f"job {public_id} ended; {error}. The result is kept until its time is over"
        raise (JobUndecodable(kept) if error.key_id is None else KeyMissing(kept, error.key_id)) from None
    except codec.Undecodable as error:
        raise JobUndecodable(f"job {public_id} ended, but its result cannot be read: {error}") from error


def value_of(outcome: Outcome, place: Place, seals: Seals, kind: Any, kept: bool) -> Any:
    """The handler's return value, as `kind`.

    Raises:
        TaskError: the job ended without one.
        ResultsDisabled, JobNotFound: there is nothing to tell.
        JobUndecodable, KeyMissing: there is, but it cannot be read here.
    """
    public_id = place[0].public(place[1])
    if isinstance(outcome, Gone):
        if not kept:
            raise ResultsDisabled(
                f"job {public_id} ended, but its result is not kept (result_ttl=0): submit it with a result_ttl to read it"
            )
        raise JobNotFound(
            f"there is no job {public_id} and no result of it: it ended without keeping one, or longer ago than its result_ttl"
        )
    result = _read(outcome, place, seals)
    if result.state != "success":
        raise TaskError(public_id, result.state, result.error_type, result.error_message, result.traceback, result.attempts)
    if result.dropped:
        raise ResultsDisabled(f"job {public_id} succeeded, but the server was full and its result was dropped: only the outcome is known")
    try:
        return codec.unpack(result.value, kind)
    except codec.Undecodable as error:
        raise JobUndecodable(f"job {public_id} succeeded, but its value is not what the task's annotation says: {error}") from error


def refuse_on_loop(call: str, instead: str) -> None:
    """Raises SyncOnRunningLoop when an event loop runs on this thread."""
    if _running_loop() is not None:
        raise SyncOnRunningLoop(f"{call} would block the event loop that runs on this thread; nothing was sent. Use: await {instead}")
