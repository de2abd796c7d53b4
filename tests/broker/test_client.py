"""The client against a real server: coalescing, resends, threads, forks, and a server that is away, full or unsuitable."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.relay import Relay

from bananas import (
    Bananas,
    BrokerUnavailable,
    ConfigError,
    InvalidArguments,
    InvalidName,
    JobNotFound,
    NotSerializable,
    PayloadTooLarge,
    QueueFull,
    ResultTimeout,
    ServerUnsuitable,
    SubmitManyError,
    SyncOnRunningLoop,
    TaskError,
    broker,
)
from bananas.address import parse_url
from bananas.connection import Connection, SyncConnection
from bananas.errors import AuthenticationFailed
from bananas.keys import QueueKeys
from bananas.server import PrivateServer, find_server_binary
from bananas.session import run


def command(server: PrivateServer, *words: object) -> object:
    connection = SyncConnection(parse_url(server.url))
    (reply,) = connection.execute([words], 5)
    connection.close()
    return reply


def evalsha_calls(server: PrivateServer) -> int:
    text = bytes(command(server, "INFO", "commandstats")).decode()  # type: ignore[call-overload]
    line = next((line for line in text.splitlines() if line.startswith("cmdstat_evalsha:")), "calls=0,")
    return int(line.partition("calls=")[2].partition(",")[0])


async def test_a_unique_submit_returns_the_job_that_is_alive(app: Bananas) -> None:
    first = await app.submit("task", 1, options={"unique": "k"})
    second, other = await asyncio.gather(
        app.submit("task", 2, options={"unique": "k"}), app.submit("task", 3, options={"unique": "another"})
    )
    assert (first.created, second.created, other.created) == (True, False, True)
    assert second.id == first.id != other.id
    assert await first.cancel() is True
    assert (await app.submit("task", 4, options={"unique": "k"})).created, "the key is free again"


async def test_a_hundred_concurrent_submits_take_few_round_trips(app: Bananas, server: PrivateServer) -> None:
    await app.submit("task", 0)
    before = evalsha_calls(server)
    jobs = await asyncio.gather(*(app.submit("task", number) for number in range(100)))
    assert evalsha_calls(server) - before <= 3
    assert len({job.id for job in jobs}) == 100
    assert (await app.queue("default").counts()).ready == 101


async def test_a_script_that_the_server_forgot_is_loaded_again(app: Bananas, server: PrivateServer) -> None:
    await app.submit("task", 1)
    command(server, "SCRIPT", "FLUSH")
    await app.submit("task", 2)
    assert (await app.queue("default").counts()).ready == 2


async def test_submit_many_says_per_item_what_happened_and_a_bad_item_fails_alone(app: Bananas) -> None:
    @app.task
    async def greet(name: str) -> str:
        return name

    with pytest.raises(SubmitManyError) as caught:
        await app.submit_many([greet.bind("a"), greet.bind(3), greet.bind("b")])  # type: ignore[arg-type]
    outcomes = caught.value.outcomes
    assert "The others are submitted" in str(caught.value)
    assert isinstance(outcomes[1], InvalidArguments)
    assert [outcomes[0].id.startswith("default."), outcomes[2].id.startswith("default.")] == [True, True]
    assert (await app.queue("default").counts()).ready == 2


async def test_bulk_submits_go_to_their_queues_whole(app: Bananas) -> None:
    @app.task
    async def work(number: int) -> None: ...

    calls = [work.options(queue=f"q{number % 3}").bind(number) for number in range(5_000)]
    jobs = await app.submit_many(calls)
    assert len({job.id for job in jobs}) == 5_000
    assert [(await app.queue(f"q{index}").counts()).ready for index in range(3)] == [1667, 1667, 1666]
    assert await app.queue("q0").purge() == 1667


def test_threads_share_the_sync_client_and_a_fork_gets_its_own(server: PrivateServer) -> None:
    app = Bananas(server.url, namespace="threads")
    with ThreadPoolExecutor(8) as threads:
        ids = set(threads.map(lambda number: app.submit_sync("task", number).id, range(200)))
    child = os.fork()
    if child == 0:
        try:
            app.submit_sync("task", -1)
        finally:
            os._exit(0)
    ids.add(app.submit_sync("task", -2).id)
    os.waitpid(child, 0)
    assert len(ids) == 201
    assert command(server, "ZCARD", "{threads:default}:ready") == 202
    app.client.close_sync()


async def test_a_sync_call_on_a_running_loop_is_refused_with_the_right_call_named(app: Bananas) -> None:
    with pytest.raises(SyncOnRunningLoop, match=r"await submit\(\)"):
        app.submit_sync("task")


async def test_a_server_that_is_away_is_an_error_after_the_budget_and_works_again_when_it_is_back(tmp_path: Path, server_kind: str) -> None:
    with PrivateServer(tmp_path, binary=find_server_binary(server_kind), appendonly=True) as private:
        app = Bananas(private.url, namespace="away", call_timeout=0.3)
        await app.submit("task", 1)
        private.kill()
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="REDIS_URL"):
            await app.submit("task", 2)
        assert time.monotonic() - began < 5
        private.restart()
        await app.submit("task", 3)
        await app.close()


async def test_a_full_server_refuses_new_jobs_and_stores_nothing(app: Bananas, server: PrivateServer) -> None:
    await app.submit("task", 1)
    command(server, "CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(QueueFull, match="maxmemory"):
        await app.submit("task", 2)
    command(server, "CONFIG", "SET", "maxmemory", 0)
    assert (await app.queue("default").counts()).ready == 1


async def test_a_server_that_evicts_is_refused(app: Bananas, server: PrivateServer) -> None:
    command(server, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(ServerUnsuitable, match="noeviction"):
        await app.submit("task", 1)


async def test_a_wrong_password_is_told_without_showing_it(server_kind: str) -> None:
    with PrivateServer(binary=find_server_binary(server_kind), port=0) as private:
        command(private, "CONFIG", "SET", "requirepass", "right")
        port = private.url.rpartition(":")[2]
        app = Bananas(f"redis://:wrong-secret@127.0.0.1:{port}", call_timeout=1)
        with pytest.raises(AuthenticationFailed) as caught:
            await app.submit("task", 1)
        assert "wrong-secret" not in str(caught.value)
        await app.close()


async def test_bad_input_is_refused_before_anything_is_sent(app: Bananas) -> None:
    with pytest.raises(NotSerializable):
        await app.submit("task", object())
    with pytest.raises(PayloadTooLarge):
        await app.submit("task", b"x" * 2**20)
    with pytest.raises(InvalidName):
        app.queue("a queue")
    with pytest.raises(ConfigError, match=r"unique.*Unicode"):
        await app.submit("task", options={"unique": "a file name that is no text: \udcff"})
    with pytest.raises(ConfigError, match="priority"):
        await app.submit("task", options={"prioritty": 1})  # type: ignore[typeddict-unknown-key]
    assert (await app.queue("default").counts()).ready == 0


async def test_waiting_ends_with_a_timeout_a_cancel_or_an_unknown_id(app: Bananas, server: PrivateServer) -> None:
    job = await app.submit("task", 1)
    with pytest.raises(ResultTimeout):
        await job.result(timeout=0.05)
    waiting = asyncio.ensure_future(job.result(timeout=10))
    await asyncio.sleep(0)
    command(server, "CLIENT", "KILL", "TYPE", "pubsub")
    assert await job.cancel() is True
    with pytest.raises(TaskError, match="cancelled"):
        await waiting
    with pytest.raises(JobNotFound):
        await app.job("default." + "0" * 43).result(timeout=5)


async def test_a_connection_whose_batch_is_not_answered_in_time_is_closed(server: PrivateServer) -> None:
    connection = await Connection.open(parse_url(server.url))
    with pytest.raises(Exception, match="did not answer"):
        await connection.execute([("BLPOP", "nothing", 0)], 0.05)
    assert connection.closed


async def test_a_submit_whose_reply_is_lost_is_one_job_even_when_it_has_run_meanwhile(server: PrivateServer) -> None:
    direct = await Connection.open(parse_url(server.url))
    keys = QueueKeys("relayed", "default")
    ran: list[int] = []

    async def run_everything() -> None:
        (claim,) = await run(direct, [broker.claim(keys, "aa", len(ran) + 1, 10, 8_000)], 5)
        ran.append(len(claim.bodies))
        endings = [broker.Ending(item + f":aa:{claim.fence:010d}".encode()) for item in claim.ids_and_scores[::2]]
        await run(direct, [broker.complete(keys, "aa", len(ran), endings, full=False, dropped=b"")], 5)

    async with Relay(server.url) as relay:
        app = Bananas(relay.url, namespace="relayed")
        await app.submit("task", 1)
        await run_everything()
        relay.lose_reply(meanwhile=run_everything)
        job = await app.submit("task", 2)
        assert job.created
        assert ran == [1, 1]
        assert await direct.execute([("HLEN", keys.jobs), ("ZCARD", keys.ready)], 5) == [0, 0], "the resend made no second job"
        await app.close()
    direct.close()
