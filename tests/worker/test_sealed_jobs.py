"""Sealed jobs through a whole life in one process: what is stored on the server, and what those see who have no key."""

import base64
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bananas import Bananas, Discard, JobUndecodable, KeyMissing, Retry, TaskError, current_job
from bananas.address import parse_url
from bananas.codec import BIRTH_BYTES, SEALED, VERSION
from bananas.connection import SyncConnection
from bananas.server import PrivateServer
from bananas.testing import inline, worker_for
from bananas.worker.maintenance import Clock

K1, K2 = (f"k{number}:{base64.b64encode(bytes([number]) * 32).decode()}" for number in (1, 2))
NEEDLE = "needle-4711"
LONG = f"{NEEDLE} " * 1_000
HOUR = Retry(base=3_600, factor=1, cap=3_600, jitter=False)
Make = Callable[..., Bananas]


@pytest.fixture
async def make(server: PrivateServer, app: Bananas) -> AsyncIterator[Make]:
    """Apps of one namespace with different settings."""
    made: list[Bananas] = []

    def build(**settings: Any) -> Bananas:
        made.append(Bananas(server.url, namespace=app.settings.namespace, call_timeout=2, **settings))
        return made[-1]

    yield build
    for each in made:
        await each.close()


def stored(server: PrivateServer) -> bytes:
    """Every value of the server, as one text."""
    connection = SyncConnection(parse_url(server.url))
    (names,) = connection.execute([("KEYS", "*")], 5)
    dumps = []
    for name in names:
        (kind,) = connection.execute([("TYPE", name)], 5)
        read = {b"string": ("GET", name), b"hash": ("HGETALL", name), b"set": ("SMEMBERS", name), b"zset": ("ZRANGE", name, 0, -1)}
        (reply,) = connection.execute([read[kind]], 5)
        dumps += [name, *(reply if isinstance(reply, list) else [reply])]
    connection.close()
    return b"\n".join(dumps)


async def body_of(app: Bananas, job: Any) -> bytes:
    keys, job_id = job.place
    connection = SyncConnection(app.client.address)
    (body,) = connection.execute([("HGET", keys.jobs, job_id)], 5)
    connection.close()
    assert isinstance(body, bytes)
    return body[BIRTH_BYTES:]


async def test_nothing_readable_is_stored_of_an_encrypted_job_in_its_whole_life(make: Make, server: PrivateServer) -> None:
    app, blind = make(encryption_keys=K1), make()
    seen: list[str] = []

    @app.task(retry=HOUR, max_retries=2)
    async def flaky(text: str, fails: int) -> list[str]:
        seen.append(current_job().headers["tenant"])
        if current_job().attempt <= fails:
            raise ValueError(f"of {text}")
        return [text]

    @app.task
    async def discards(text: str) -> None:
        raise Discard(f"because of {text}")

    async with worker_for(app) as worker:
        good = await flaky.options(headers={"tenant": NEEDLE}).submit(NEEDLE, 2)
        bad = await flaky.options(headers={"tenant": NEEDLE}).submit(NEEDLE, 9)
        gone = await discards.submit(NEEDLE)
        assert NEEDLE.encode() not in stored(server)
        await worker.run_until_idle()
        assert NEEDLE.encode() not in stored(server)
        assert [error.message for error in (await good.info()).errors] == [f"of {NEEDLE}"]
        await worker.run_until_idle(include_scheduled=True)
        assert NEEDLE.encode() not in stored(server)
        assert b"ValueError" in stored(server)
        assert await good.result(timeout=2) == [NEEDLE]
        for job in (bad, gone):
            with pytest.raises(TaskError, match=NEEDLE):
                await job.result(timeout=2)
            with pytest.raises(KeyMissing, match=r"'k1', which is not among encryption_keys here") as caught:
                await blind.job(job.id).result(timeout=2)
            assert caught.value.key_id == "k1"
        assert (await bad.info()).args == (NEEDLE, 9)
        (dead,) = await blind.queue("default").dead.list()
        assert (dead.task, dead.attempts, dead.args, dead.headers) == ("flaky", 3, None, None)
        assert dead.unreadable is not None
        assert "'k1'" in dead.unreadable
        assert [error.type for error in dead.errors] == ["ValueError"] * 3
        assert all("'k1'" in error.message for error in dead.errors)
        assert (await blind.job(good.id).info()).state == "success"
        await app.queue("default").dead.replay(bad.id)
        await worker.run_until_idle()
        assert [error.message for error in (await bad.info()).errors] == [f"of {NEEDLE}"]
    assert set(seen) == {NEEDLE}


async def test_a_task_alone_is_sealed_where_it_says_so(make: Make, server: PrivateServer) -> None:
    app = make(encryption_keys=K1, encrypt=False)

    @app.task
    async def plain(text: str) -> str:
        return text

    @app.task(encrypt=True)
    async def hidden(text: str) -> str:
        return text

    @app.task(compression="zstd")
    async def small(text: str) -> str:
        return text

    jobs = await app.submit_many([plain.bind("open words"), hidden.bind(NEEDLE), small.bind(LONG)])
    bodies = [await body_of(app, job) for job in jobs]
    assert [body[:1] for body in bodies] == [VERSION, SEALED, SEALED]
    assert len(bodies[2]) < len(LONG) / 10
    async with worker_for(app) as worker:
        await worker.run_until_idle()
        assert [await job.result(timeout=2) for job in jobs] == ["open words", NEEDLE, LONG]
    assert b"open words" in stored(server)


async def test_what_comes_of_an_encrypted_job_is_encrypted_whatever_its_worker_says(make: Make, server: PrivateServer) -> None:
    producer, app = make(encryption_keys=K1), make(encryption_keys=K1, encrypt=False)

    @app.task(max_retries=0)
    async def echo(text: str, fails: bool) -> str:
        if fails:
            raise ValueError(text)
        return text

    jobs = [await producer.submit("echo", NEEDLE, fails) for fails in (True, False)]
    async with worker_for(app) as worker:
        await worker.run_until_idle()
    assert NEEDLE.encode() not in stored(server)
    assert await jobs[1].result(timeout=2) == NEEDLE


async def test_a_body_that_was_put_in_the_place_of_another_is_dead(make: Make) -> None:
    app = make(encryption_keys=K1)
    ran: list[str] = []

    @app.task
    async def pay(to: str) -> None:
        ran.append(to)

    mine, theirs = await pay.submit("me"), await pay.submit("you")
    keys, job_id = mine.place
    connection = SyncConnection(app.client.address)
    (body,) = connection.execute([("HGET", keys.jobs, theirs.place[1])], 5)
    connection.execute([("HSET", keys.jobs, job_id, body)], 5)
    connection.close()
    async with worker_for(app) as worker:
        await worker.run_until_idle()
        with pytest.raises(TaskError, match="changed or moved"):
            await mine.result(timeout=2)
    assert ran == ["you"]


async def test_a_bomb_is_one_dead_job(make: Make, server: PrivateServer) -> None:
    producer, app = make(compression="zstd", max_payload="64MiB"), make(compression="zstd", max_payload="10KB")

    @app.task
    async def echo(text: str) -> int:
        return len(text)

    bomb, after = await producer.submit("echo", "x" * 10_000_000), await producer.submit("echo", LONG)
    async with worker_for(app) as worker:
        await worker.run_until_idle()
        with pytest.raises(TaskError, match="40,000 are taken here: 4 times max_payload") as caught:
            await bomb.result(timeout=2)
        assert caught.value.error_type == "Undecodable"
        assert await after.result(timeout=2) == len(LONG)


async def test_large_results_are_compressed_and_waited_for_in_all_ways(make: Make) -> None:
    app = make(compression="zstd")

    @app.task
    async def report(rows: int) -> list[dict[str, int]]:
        return [{"row": row} for row in range(rows)]

    async with worker_for(app) as worker:
        jobs = await app.submit_many([report.bind(rows) for rows in (1, 2_000)])
        await worker.run_until_idle()
        keys, job_id = jobs[1].place
        connection = SyncConnection(app.client.address)
        (result,) = connection.execute([("GET", keys.result(job_id))], 5)
        connection.close()
        assert isinstance(result, bytes)
        assert len(result) < 10_000
        assert [len(await job.result()) async for job in app.as_completed(jobs, timeout=5)] == [1, 2_000]
        assert len(await app.job(jobs[1].id).result(timeout=2)) == 2_000


async def test_a_result_that_cannot_be_read_is_a_typed_error(make: Make) -> None:
    app = make()

    @app.task
    async def one() -> int:
        return 1

    async with worker_for(app) as worker:
        job = await one.submit()
        await worker.run_until_idle()
    keys, job_id = job.place
    connection = SyncConnection(app.client.address)
    connection.execute([("SET", keys.result(job_id), b"\x09garbage")], 5)
    connection.close()
    with pytest.raises(JobUndecodable, match="its result cannot be read"):
        await app.job(job.id).result(timeout=2)


async def test_the_jobs_of_cron_ticks_are_sealed(make: Make, server: PrivateServer) -> None:
    app = make(encryption_keys=K1)

    @app.cron(every=0.05)
    async def sweep(text: str = "") -> str:
        return current_job().headers["scheduled-for-ms"]

    clock = Clock(app.client.here(), list(app.registry.crons.values()), app.producer, app.settings)
    while not (await app.queue("default").counts()).ready:
        await clock.tick()
    assert b"scheduled-for-ms" not in stored(server)
    async with worker_for(app) as worker:
        assert await worker.run_until_idle() >= 1
    assert (await app.queue("default").counts()).dead == 0


async def test_cancelled_and_expired_jobs_end_also_where_their_key_is_missing(make: Make) -> None:
    producer, blind = make(encryption_keys=K2), make(encryption_keys=K1)

    @blind.task
    async def echo(text: str) -> str:
        return text

    expired = await producer.submit("echo", NEEDLE, options={"expires_in": 0.001})
    waiting = await producer.submit("echo", NEEDLE)
    async with worker_for(blind) as worker:
        await worker.run_until_idle()
        with pytest.raises(TaskError) as caught:
            await expired.result(timeout=2)
        assert caught.value.state == "expired"
        assert (await waiting.info()).state == "scheduled"
        assert await waiting.cancel()
        with pytest.raises(TaskError, match="cancelled"):
            await waiting.result(timeout=2)


async def test_inline_jobs_pass_through_the_seals_too() -> None:
    app = Bananas("redis://nowhere", encryption_keys=K1, compression="zstd")

    @app.task(max_retries=1, retry=HOUR)
    async def flaky(text: str) -> str:
        if current_job().attempt == 1:
            raise ValueError(text)
        return text

    with inline(app):
        assert await (await flaky.submit(LONG)).result() == LONG


async def test_sealed_jobs_of_a_queue_in_shards_open_in_each_of_them(make: Make, server: PrivateServer) -> None:
    app = make(encryption_keys=K1, compression="zstd", queue_shards="default:4")

    @app.task
    async def echo(text: str) -> str:
        return text

    async with worker_for(app) as worker:
        jobs = await app.submit_many([echo.bind(f"{LONG}{number}") for number in range(20)])
        assert await worker.run_until_idle() == 20
        assert [await app.job(job.id).result(timeout=2) for job in jobs] == [f"{LONG}{number}" for number in range(20)]
    assert len({job.place[0].name for job in jobs}) > 1
    assert NEEDLE.encode() not in stored(server)
