"""The marker that wakes exactly one idle worker: when each transition arms it, and that none does while the queue is paused."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bananas import broker
from bananas.broker import Claim, Comeback, NewJob
from bananas.connection import Connection
from bananas.keys import QueueKeys, id_suffix, new_id

T0 = 1_800_000_000_000
LEASE = 8_000


def job(delay_ms: int = 0) -> NewJob:
    return NewJob(new_id(id_suffix("task", 500)), b"body", delay_ms)


class Line:
    """A queue whose marker a waiting worker pops."""

    def __init__(self, ask: Callable[[Any], Awaitable[Any]], keys: QueueKeys, connection: Connection) -> None:
        self.ask, self.keys, self._connection, self._number = ask, keys, connection, 0

    async def pop(self) -> bool:
        """Whether a waiting worker would have been woken by now; the next one is not."""
        (popped,) = await self._connection.execute([("ZPOPMIN", self.keys.wake)], 5)
        return bool(popped)

    async def submit(self, *jobs: NewJob, now: int = T0) -> list[str]:
        self._number += 1
        await self.ask(broker.enqueue(self.keys, "client", self._number, jobs).at(now))
        return [job.job_id for job in jobs]

    async def claim(self, most: int = 100) -> tuple[list[bytes], Claim]:
        self._number += 1
        claim = await self.ask(broker.claim(self.keys, "aa", self._number, most, LEASE).at(T0))
        return [claim.ids_and_scores[2 * i] + f":aa:{claim.fence:010d}".encode() for i in range(len(claim.bodies))], claim


@pytest.fixture
def line(ask: Callable[[Any], Awaitable[Any]], keys: QueueKeys, connection: Connection) -> Line:
    return Line(ask, keys, connection)


async def test_any_number_of_new_jobs_wakes_one_worker(line: Line) -> None:
    await line.submit(job(), job())
    await line.submit(job())
    assert [await line.pop(), await line.pop()] == [True, False]


async def test_a_claim_that_leaves_something_wakes_the_next_worker(line: Line) -> None:
    await line.submit(job(), job())
    await line.pop()
    await line.claim(1)
    assert await line.pop()
    await line.claim(1)
    assert not await line.pop()


async def test_a_delayed_job_wakes_a_worker_only_when_it_is_the_first_due(line: Line) -> None:
    await line.submit(job(5_000))
    assert await line.pop(), "somebody must set a timer"
    await line.submit(job(6_000))
    assert not await line.pop()
    await line.submit(job(4_000), job(9_000))
    assert await line.pop()


async def test_a_retry_wakes_a_worker_only_when_it_is_the_first_due(line: Line) -> None:
    await line.submit(job(), job(), job(5_000))
    (first, second), _ = await line.claim()
    await line.pop()
    await line.ask(broker.retry(line.keys, "aa", 1, [Comeback(first, 6_000, b"1 0 0 0 - ")]).at(T0))
    assert not await line.pop()
    await line.ask(broker.retry(line.keys, "aa", 2, [Comeback(second, 10, b"1 0 0 0 - ")]).at(T0))
    assert await line.pop()


async def test_what_becomes_ready_again_wakes_a_worker(line: Line) -> None:
    await line.submit(job(), job(), job(5_000))
    (released, crashed), claim = await line.claim()
    await line.pop()
    await line.ask(broker.release(line.keys, "aa", 1, [(released, claim.ids_and_scores[1])]))
    assert await line.pop()
    await line.ask(broker.reclaim(line.keys, LEASE, [crashed]).at(T0))
    assert await line.pop()
    await line.ask(broker.promote(line.keys).at(T0 + 4_999))
    assert not await line.pop()
    await line.ask(broker.promote(line.keys).at(T0 + 5_000))
    assert await line.pop()


async def test_a_reschedule_wakes_a_worker_when_something_is_due_sooner(line: Line) -> None:
    (later, _) = await line.submit(job(5_000), job(4_000))
    await line.pop()
    await line.ask(broker.reschedule(line.keys, 6_000, [later]).at(T0))
    assert not await line.pop()
    await line.ask(broker.reschedule(line.keys, 3_000, [later]).at(T0))
    assert await line.pop()
    await line.ask(broker.reschedule(line.keys, 0, [later]).at(T0))
    assert await line.pop()


async def test_a_marker_is_given_back_only_while_there_is_something_to_do(line: Line) -> None:
    assert await line.ask(broker.rearm(line.keys)) is False
    await line.submit(job())
    await line.pop()
    assert await line.ask(broker.rearm(line.keys)) is True
    assert await line.pop()


async def test_nothing_wakes_a_worker_while_the_queue_is_paused(line: Line) -> None:
    await line.submit(job(), job())
    (released, crashed), claim = await line.claim()
    await line.ask(broker.pause(line.keys, True))
    await line.submit(job(), job(10))
    await line.ask(broker.release(line.keys, "aa", 1, [(released, claim.ids_and_scores[1])]))
    await line.ask(broker.reclaim(line.keys, LEASE, [crashed]).at(T0))
    await line.ask(broker.promote(line.keys).at(T0 + 10))
    assert await line.ask(broker.rearm(line.keys)) is False
    assert not await line.pop()
    await line.ask(broker.pause(line.keys, False))
    assert await line.pop()
