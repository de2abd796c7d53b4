"""Closing an app: what is under way ends, whoever waits is told, and nothing stays open behind it."""

import asyncio
import gc
import warnings

import pytest
from tests.support import GO_ON, STALL, eventually

from bananas import Bananas, BrokerUnavailable, Job
from bananas.connection import Connection


async def connections(connection: Connection) -> int:
    """How many connections the server has but the one that asks."""
    (listed,) = await connection.execute([("CLIENT", "LIST")], 5)
    return len(bytes(listed).splitlines()) - 1


async def under_way(app: Bananas, number: int) -> "asyncio.Task[Job[object]]":
    """A submit that has been sent."""
    sent = asyncio.ensure_future(app.submit("task", number))
    for _ in range(3):
        await asyncio.sleep(0)
    return sent


async def nothing_is_left(connection: Connection) -> bool:
    """Whether no connection is open, here or at the server, and no task is under way."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        gc.collect()
    return not told and asyncio.all_tasks() == {asyncio.current_task()} and await connections(connection) == 0


async def test_submits_under_way_end_before_the_connections_close(app: Bananas, connection: Connection) -> None:
    await app.submit("task", 1)
    await connection.execute([STALL], 5)
    sent, waiting = await under_way(app, 2), await under_way(app, 3)
    closing = asyncio.ensure_future(app.close())
    await asyncio.sleep(0)
    await connection.execute([GO_ON], 5)
    await closing
    assert [job.done() and job.result().created for job in (sent, waiting)] == [True, True]
    await eventually(lambda: nothing_is_left(connection))


async def test_a_submit_that_was_given_up_opens_nothing_after_the_close(app: Bananas, connection: Connection) -> None:
    await app.submit("task", 1)
    await connection.execute([STALL], 5)
    with pytest.raises(BrokerUnavailable, match="may have taken effect"):
        await app.submit("task", 2, options={"call_timeout": 0.06})
    await app.close()
    await connection.execute([GO_ON], 5)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await eventually(lambda: nothing_is_left(connection))


async def test_a_submit_whose_caller_has_gone_does_not_hold_up_the_close(app: Bananas, connection: Connection) -> None:
    await app.submit("task", 1)
    await connection.execute([STALL], 5)
    sent = await under_way(app, 2)
    sent.cancel()
    await app.close()
    await connection.execute([GO_ON], 5)
    await eventually(lambda: nothing_is_left(connection))


async def test_other_calls_under_way_are_cut_off_and_told_so(app: Bananas, connection: Connection) -> None:
    @app.task
    async def task(number: int) -> None: ...

    job = await task.options(delay=60).submit(1)
    await app.submit_many([task.bind(1)])
    await connection.execute([STALL], 5)
    cancelling, many = asyncio.ensure_future(job.cancel()), asyncio.ensure_future(app.submit_many([task.bind(2)]))
    for _ in range(3):
        await asyncio.sleep(0)
    await app.close()
    outcomes = await asyncio.gather(cancelling, many, return_exceptions=True)
    assert all("closed meanwhile" in str(outcome) and "may have taken effect" in str(outcome) for outcome in outcomes), outcomes
    await connection.execute([GO_ON], 5)
    await eventually(lambda: nothing_is_left(connection))


async def test_an_app_that_was_closed_is_open_again_at_its_next_call(app: Bananas, connection: Connection) -> None:
    await app.submit("task", 1)
    await app.close()
    await eventually(lambda: nothing_is_left(connection))
    await app.submit("task", 2)
    assert await connections(connection) == 1
