"""A call's budget counts from the call, wherever it waits, and its error says truthfully whether anything was sent."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.relay import Relay
from tests.support import GO_ON, STALL, wait_until

from bananas import Bananas, BananasError, BrokerUnavailable, ConfigError, Job, SubmitManyError
from bananas.address import parse_url
from bananas.broker import SUBMIT_BATCH
from bananas.connection import Connection, SyncConnection
from bananas.keys import QueueKeys
from bananas.producer import BULK_BATCHES
from bananas.server import PrivateServer


async def ready(app: Bananas) -> int:
    return (await app.queue("default").counts()).ready


async def under_way(app: Bananas, number: int) -> "asyncio.Task[Job[object]]":
    """A submit that has been sent."""
    sent = asyncio.ensure_future(app.submit("task", number))
    for _ in range(3):
        await asyncio.sleep(0)
    return sent


# --- single submits -------------------------------------------------------------------------------------------------------------------


async def test_a_submit_that_waits_behind_another_fails_by_its_own_budget_and_was_not_sent(app: Bananas, connection: Connection) -> None:
    await app.submit("task", 1)
    await connection.execute([STALL], 5)
    first = await under_way(app, 2)
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"within 0\.2 s.*Nothing was sent"):
        await app.submit("task", 3, options={"call_timeout": 0.2})
    assert 0.2 <= time.monotonic() - began < 1.5
    await connection.execute([GO_ON], 5)
    await first
    assert await ready(app) == 2, "the one that was given up was not sent later"


async def test_the_wait_behind_another_is_part_of_the_budget(app: Bananas, connection: Connection) -> None:
    await app.submit("task", 1)
    await connection.execute([STALL], 5)
    first = asyncio.ensure_future(app.submit("task", 2, options={"call_timeout": 1.0}))
    for _ in range(3):
        await asyncio.sleep(0)
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"within 1\.2 s.*may have taken effect"):
        await app.submit("task", 3, options={"call_timeout": 1.2})  # sent when the first is given up, 0.2 s before its own end
    assert 1.2 <= time.monotonic() - began < 2
    with pytest.raises(BrokerUnavailable, match="may have taken effect"):
        await first


async def test_a_submit_given_up_while_the_connection_opens_is_not_sent_with_the_others(server: PrivateServer) -> None:
    async with Relay(server.url) as relay:
        app = Bananas(relay.url, namespace="opening", call_timeout=10)
        relay.open.clear()
        patient = asyncio.ensure_future(app.submit("task", 1))
        with pytest.raises(BrokerUnavailable, match="Nothing was sent"):
            await app.submit("task", 2, options={"call_timeout": 0.1})
        relay.open.set()
        assert (await patient).created
        assert await ready(app) == 1
        await app.close()


async def test_a_submit_under_way_is_given_up_by_its_own_budget_and_its_neighbours_go_on(app: Bananas, connection: Connection) -> None:
    await app.submit("task", 1)
    await connection.execute([STALL], 5)
    patient = asyncio.ensure_future(app.submit("task", 2))
    with pytest.raises(BrokerUnavailable, match=r"within 0\.1 s.*may have taken effect"):
        await app.submit("task", 3, options={"call_timeout": 0.1})
    await connection.execute([GO_ON], 5)
    assert (await patient).created
    assert await ready(app) == 3


async def test_a_resend_to_a_server_that_has_become_full_does_not_tell_that_nothing_was_stored(
    server: PrivateServer, connection: Connection
) -> None:
    async def fill() -> None:
        await connection.execute([("CONFIG", "SET", "maxmemory", 1)], 5)

    async with Relay(server.url) as relay:
        app = Bananas(relay.url, namespace="full", call_timeout=1)
        await app.submit("task", 1)
        relay.lose_reply(meanwhile=fill)
        with pytest.raises(BrokerUnavailable, match="may have taken effect"):
            await app.submit("task", 2)
        assert await ready(app) == 2
        await app.close()


def test_a_thread_that_waits_for_a_connection_has_its_budget_once(server: PrivateServer) -> None:
    app = Bananas(server.url, namespace="threads", redis_pool_size=1)
    app.submit_sync("task", 1)
    direct = SyncConnection(parse_url(server.url))
    leave = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(app.client.pool.use, lambda _: leave.wait(5), 5)
        wait_until(held.running)
        direct.execute([STALL], 5)
        threading.Timer(0.8, leave.set).start()
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"within 1\.2 s.*may have taken effect"):
            app.submit_sync("task", 2, options={"call_timeout": 1.2})
        assert 1.2 <= time.monotonic() - began < 1.9
    direct.execute([GO_ON], 5)
    direct.close()
    app.client.close_sync()


# --- acts -----------------------------------------------------------------------------------------------------------------------------


async def test_an_act_waits_for_the_one_before_it_within_its_own_budget(server: PrivateServer, connection: Connection) -> None:
    app = Bananas(server.url, namespace="acts", call_timeout=1)
    first, second = await app.submit("task", 1), await app.submit("task", 2)
    await connection.execute([STALL], 5)
    sent = asyncio.ensure_future(first.cancel())
    await asyncio.sleep(0)
    app.client.budget = 0.2
    with pytest.raises(BrokerUnavailable, match=r"within 0\.2 s.*Nothing was sent"):
        await second.cancel()
    with pytest.raises(BrokerUnavailable, match=r"within 1 s.*may have taken effect"):
        await sent
    await connection.execute([GO_ON], 5)
    assert (await second.info()).state == "ready"
    await app.close()


async def test_acts_of_many_coroutines_are_all_done(app: Bananas) -> None:
    jobs = await asyncio.gather(*(app.submit("task", number) for number in range(200)))
    assert await asyncio.gather(*(job.cancel() for job in jobs)) == [True] * 200


# --- bulk -----------------------------------------------------------------------------------------------------------------------------


async def test_jobs_of_one_submit_many_keep_the_order_of_the_calls_in_each_queue(app: Bananas, connection: Connection) -> None:
    @app.task
    async def work(number: int) -> None: ...

    jobs = await app.submit_many(work.options(queue="odd" if number % 3 else "even").bind(number) for number in range(12_000))
    for queue in ("odd", "even"):
        keys = QueueKeys(app.settings.namespace, queue)
        (stored,) = await connection.execute([("ZRANGE", keys.ready, 0, -1)], 5)
        assert [keys.public(name.decode()) for name in stored] == [job.id for job in jobs if job.id.startswith(queue)]


async def test_a_bulk_submit_gives_up_once_and_says_which_batch_may_have_been_stored(server: PrivateServer, connection: Connection) -> None:
    app = Bananas(server.url, namespace="bulk", call_timeout=0.3)

    @app.task
    async def work(number: int) -> None: ...

    await app.submit_many([work.bind(0)])
    await connection.execute([STALL], 5)
    began = time.monotonic()
    with pytest.raises(SubmitManyError) as caught:
        await app.submit_many(work.bind(number) for number in range(5 * SUBMIT_BATCH))
    assert time.monotonic() - began < 3, "not once for each batch"
    outcomes = [str(outcome) for outcome in caught.value.outcomes]
    may_be_stored = ["may have taken effect" in text for text in outcomes]
    assert all(may_be_stored[:SUBMIT_BATCH])
    assert not any(may_be_stored[BULK_BATCHES * SUBMIT_BATCH :])
    assert all("othing" in text for text, may_be in zip(outcomes, may_be_stored, strict=True) if not may_be)
    await connection.execute([GO_ON], 5)
    await app.submit_many([work.bind(0)])  # behind whatever the server had received
    assert await ready(app) <= 2 + sum(may_be_stored)
    await app.close()


def test_a_bulk_submit_of_a_thread_gives_up_once_too(server: PrivateServer) -> None:
    app = Bananas("redis://127.0.0.1:1/0", call_timeout=0.2)

    @app.task
    def work(number: int) -> None: ...

    began = time.monotonic()
    with pytest.raises(SubmitManyError) as caught:
        app.submit_many_sync(work.bind(number) for number in range(5 * SUBMIT_BATCH))
    assert time.monotonic() - began < 3
    assert all(isinstance(outcome, BananasError) for outcome in caught.value.outcomes)
    assert "others are submitted" not in str(caught.value)


async def test_what_is_no_call_ends_a_bulk_submit_with_its_plain_error(app: Bananas) -> None:
    @app.task
    async def work(number: int) -> None: ...

    with pytest.raises(ConfigError, match="takes calls"):
        await app.submit_many([*(work.bind(number) for number in range(SUBMIT_BATCH + 1)), work])  # type: ignore[list-item]
    await app.submit_many([work.bind(0)])
