"""What running jobs tell of themselves: progress and log lines, through a worker in this process and a real server."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import eventually

from bananas import Bananas, ConfigError, Retry, TaskError, broker, current_job
from bananas.address import parse_url
from bananas.audit import audit
from bananas.connection import SyncConnection
from bananas.notes import KEPT_MS, MOST_LINES
from bananas.operate import Move, act, select
from bananas.testing import inline, worker_for
from bananas.worker.maintenance import Upkeep

if TYPE_CHECKING:
    from bananas import Job
    from bananas.job import JobInfo
    from bananas.server import PrivateServer
    from bananas.worker.notes import Pad

QUICK = Retry(base=0.001, factor=1, cap=0.001)
K1 = f"k1:{base64.b64encode(b'1' * 32).decode()}"


async def ttl_ms(app: Bananas, job: Job[Any]) -> int:
    keys, job_id = job.place
    return await app.client.ask(keys, broker.plain(int, "PTTL", keys.notes(job_id)), "looking")  # type: ignore[no-any-return]


async def stored(app: Bananas, job: Job[Any]) -> bytes:
    keys, job_id = job.place
    return await app.client.ask(keys, broker.plain(lambda reply: reply or b"", "GET", keys.notes(job_id)), "looking")  # type: ignore[no-any-return]


async def shown(job: Job[Any], *texts: str) -> JobInfo:
    """Its info, once its log is this."""

    async def look() -> JobInfo | None:
        info = await job.info()
        return info if [line.text for line in info.log] == list(texts) else None

    return await eventually(look, f"the log {texts}")  # type: ignore[no-any-return]


async def test_a_running_job_shows_its_progress_and_log_and_keeps_them_with_its_result(app: Bananas) -> None:
    gates = [asyncio.Event() for _ in range(2)]

    @app.task(result_ttl=600)
    async def pages() -> str:
        job = current_job()
        job.progress(0.25, "page 1 of 4")
        job.log("opened")
        await gates[0].wait()
        job.progress(0.5)
        job.log("half")
        await gates[1].wait()
        job.log("closed")
        job.progress(7)
        return "read"

    async with worker_for(app) as worker:
        job = await pages.submit()
        info = await shown(job, "opened")
        assert (info.state, info.progress, info.progress_text) == ("running", 0.25, "page 1 of 4")
        assert info.born_ms is not None
        assert [(0 <= line.at_ms - info.born_ms < 60_000, line.attempt) for line in info.log] == [(True, 1)]
        assert KEPT_MS - 60_000 < await ttl_ms(app, job) <= KEPT_MS
        gates[0].set()
        info = await shown(job, "opened", "half")
        assert (info.progress, info.progress_text) == (0.5, "")
        gates[1].set()
        assert await job.result(timeout=10) == "read"
        await worker.run_until_idle()
    info = await job.info()
    assert (info.state, info.progress, [line.text for line in info.log]) == ("success", 1.0, ["opened", "half", "closed"])
    assert 0 < await ttl_ms(app, job) <= 600_000


async def test_a_short_job_sends_what_it_told_with_its_settlement(app: Bananas) -> None:
    @app.task
    async def short(number: int) -> None:
        current_job().log(f"number {number}")

    async with worker_for(app, worker_concurrency=500) as worker:
        jobs = await app.submit_many(short.bind(number) for number in range(250))
        await worker.run_until_idle()
    assert [[line.text for line in (await job.info()).log] for job in jobs] == [[f"number {number}"] for number in range(250)]


async def test_without_a_result_nothing_is_left_of_a_job_that_ended(app: Bananas) -> None:
    gate = asyncio.Event()

    @app.task(result_ttl=0)
    async def works() -> None:
        current_job().log("on it")
        await gate.wait()

    async with worker_for(app) as worker:
        job = await works.submit()
        await shown(job, "on it")
        gate.set()
        await worker.run_until_idle()
    assert await stored(app, job) == b""


async def test_a_retry_keeps_the_log_and_starts_its_progress_anew(app: Bananas) -> None:
    gate = asyncio.Event()

    @app.task(retry=Retry(base=600, factor=1, cap=600, jitter=False), max_retries=1)
    async def flaky() -> None:
        job = current_job()
        job.log(f"try {job.attempt}")
        if job.attempt == 1:
            job.progress(0.9, "nearly")
            raise ValueError("no")
        await gate.wait()
        job.progress(0.1)
        raise ValueError("again")

    async with worker_for(app) as worker:
        job = await flaky.submit()
        await worker.run_until_idle()
        info = await job.info()
        assert (info.state, info.progress, [line.text for line in info.log]) == ("scheduled", None, ["try 1"])
        await job.reschedule(delay=0)
        info = await shown(job, "try 1", "try 2")
        assert (info.state, info.progress, [line.attempt for line in info.log]) == ("running", None, [1, 2])
        gate.set()
        await worker.run_until_idle()
    info = await job.info()
    assert (info.state, info.progress, [line.text for line in info.log]) == ("dead", 0.1, ["try 1", "try 2"])
    assert (await audit(app)).clean
    assert await ttl_ms(app, job) > KEPT_MS - 60_000, "the log of a dead job can be read for days"
    await app.queue("default").dead.delete(job.id)
    assert await stored(app, job) == b"", "what is deleted for good takes its log along"


async def test_the_log_is_bounded_in_lines_and_characters(app: Bananas) -> None:
    @app.task
    async def chatty() -> None:
        job = current_job()
        for number in range(1_000):
            job.log(f"line {number} " + "x" * 1_000)
        job.progress(0.5, "ü" * 1_000)
        job.log("bad\udcff")

    async with worker_for(app) as worker:
        job = await chatty.submit()
        await worker.run_until_idle()
    info = await job.info()
    assert (len(info.log), len(info.progress_text)) == (MOST_LINES, 200)
    assert info.log[0].text.startswith("line 901 ")
    assert {len(line.text) for line in info.log[:-1]} == {500}
    assert info.log[-1].text == "bad\\udcff"


async def test_the_log_stays_bounded_over_many_notes(app: Bananas) -> None:
    @app.task(retry=QUICK, max_retries=5)
    async def chatty() -> None:
        for number in range(30):
            current_job().log(f"{current_job().attempt}.{number}")
        if current_job().attempt < 5:
            raise ValueError

    async with worker_for(app) as worker:
        job = await chatty.submit()
        await worker.run_until_idle(include_scheduled=True)
    lines = [line.text for line in (await job.info()).log]
    assert lines == [f"{attempt}.{number}" for attempt in range(1, 6) for number in range(30)][-MOST_LINES:]


async def test_threads_may_tell_too(app: Bananas) -> None:
    @app.task
    def threaded() -> None:
        job = current_job()

        def tell(name: str) -> None:
            for number in range(10):
                job.log(f"{name}{number}")

        threads = [threading.Thread(target=tell, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        job.progress(1)

    async with worker_for(app) as worker:
        job = await threaded.submit()
        await worker.run_until_idle()
    info = await job.info()
    assert sorted(line.text for line in info.log) == [f"{name}{number}" for name in "abc" for number in range(10)]
    assert info.progress == 1.0


async def test_who_lost_the_lease_writes_nothing_more(app: Bananas) -> None:
    gate = threading.Event()

    @app.task
    def slow() -> None:
        job = current_job()
        if job.attempt == 1 and job.fence == 1:
            job.log("mine")
            gate.wait(20)
            job.log("no longer mine")
            job.progress(0.99)
        else:
            job.log("the other's")

    async with worker_for(app, worker_concurrency=1):
        job = await slow.submit()
        await shown(job, "mine")
        keys, _ = job.place
        (member,) = await app.client.ask(keys, broker.plain(list, "ZRANGE", keys.leases, 0, -1), "looking")
        await app.client.ask(keys, broker.reclaim(keys, 8_000, [member]), "as the supervisor of a process that died")
        async with worker_for(app, worker_concurrency=1):
            info = await shown(job, "mine", "the other's")
            gate.set()
            await eventually(lambda: gate.is_set())
        assert [line.text for line in (await job.info()).log] == ["mine", "the other's"]
        assert info.progress is None


async def test_what_is_sent_again_after_a_lost_connection_is_written_once_and_in_order(server: PrivateServer, app: Bananas) -> None:
    gate = asyncio.Event()

    @app.task
    async def works() -> int:
        number = 0
        while not gate.is_set():
            current_job().log(f"{number}")
            number += 1
            await asyncio.sleep(0.02)  # so that some are told at every moment
        return number

    async with worker_for(app) as worker:
        job = await works.submit()
        for seen in (1, 10, 60):

            async def told(at_least: int = seen) -> bool:
                return len((await job.info()).log) >= at_least

            await eventually(told, f"{seen} lines")
            connection = SyncConnection(parse_url(server.url))
            connection.execute([("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")], 5)
            connection.close()
        gate.set()
        count = await job.result(timeout=10)
        await worker.run_until_idle()
    assert [line.text for line in (await job.info()).log] == [f"{number}" for number in range(count)][-MOST_LINES:]


async def test_what_an_encrypted_job_tells_is_encrypted(server: PrivateServer, app: Bananas) -> None:
    secret = Bananas(server.url, namespace=app.settings.namespace, call_timeout=2, encryption_keys=K1)
    gate = asyncio.Event()

    @secret.task
    async def works() -> None:
        current_job().log("needle in a log")
        current_job().progress(0.5, "needle in a text")
        await gate.wait()

    async with worker_for(secret) as worker:
        job = await works.submit()
        info = await shown(job, "needle in a log")
        assert (info.progress, info.progress_text) == (0.5, "needle in a text")
        assert b"needle" not in await stored(secret, job)
        blind = await app.job(job.id).info()
        assert (blind.progress, blind.log[0].text.startswith("<not shown: "), blind.progress_text.startswith("<not shown: ")) == (
            0.5,
            True,
            True,
        )
        gate.set()
        await worker.run_until_idle()
    await secret.close()


async def test_jobs_that_tell_nothing_leave_nothing_and_send_no_note(app: Bananas) -> None:
    @app.task(retry=QUICK, max_retries=1)
    async def silent(fails: bool) -> None:
        if fails:
            raise ValueError

    async with worker_for(app) as worker:
        jobs = await app.submit_many(silent.bind(bool(number % 2)) for number in range(20))
        await worker.run_until_idle(include_scheduled=True)
        assert not any(served.notes.used for served in worker._engine.queues)
    assert [await stored(app, job) for job in jobs] == [b""] * 20


async def test_what_is_no_number_is_refused_and_inline_and_plain_calls_tell_nobody(app: Bananas) -> None:
    @app.task
    async def works(fraction: Any) -> str:
        current_job().log("seen by nobody")
        current_job().progress(fraction)
        return "done"

    with inline(app):
        assert await works.submit_and_wait(0.5) == "done"
        with pytest.raises(TaskError, match="give a number from 0 to 1"):
            await works.options(max_retries=0).submit_and_wait(float("nan"))
    assert await works(1) == "done"
    with pytest.raises(ConfigError, match="give a number from 0 to 1"):
        await works("half")


async def test_on_a_full_server_nothing_is_added(app: Bananas) -> None:
    gates = [asyncio.Event() for _ in range(2)]

    @app.task(result_ttl=600)
    async def works() -> None:
        current_job().log("before")
        await gates[0].wait()
        current_job().log("on a full server")
        await gates[1].wait()
        current_job().log("still full")

    async with worker_for(app) as worker:
        job, table = await works.submit(), worker._engine.table
        await shown(job, "before")
        beaten = table.note_beat
        table.note_beat = lambda began, queues, *, full: beaten(began, queues, full=True)  # type: ignore[method-assign]  # as a supervisor tells it
        await eventually(lambda: table.server_full, "a beat")
        gates[0].set()
        (served,) = worker._engine.queues
        waits = served.notes._wait
        seen: list[Pad] = []
        served.notes._wait = lambda pad: (seen.append(pad), waits(pad))  # type: ignore[method-assign, assignment]  # pyright: ignore[reportAttributeAccessIssue]
        await eventually(lambda: len(seen) > 1, "the note to be put off")
        gates[1].set()
        await worker.run_until_idle()
    info = await job.info()
    assert (info.state, [line.text for line in info.log]) == ("success", ["before"])
    assert 0 < await ttl_ms(app, job) <= 600_000, "it goes with the result"


async def test_upkeep_takes_the_logs_of_dead_letters_that_it_trims(app: Bananas) -> None:
    @app.task(max_retries=0)
    async def fails() -> None:
        current_job().log("last words")
        raise ValueError

    async with worker_for(app, worker_concurrency=1, dead_max_count=1) as worker:
        jobs = [await fails.submit() for _ in range(3)]
        await worker.run_until_idle()
        assert [await stored(app, job) != b"" for job in jobs] == [True] * 3
        await Upkeep(app.client.here(), worker._engine.queues, app.settings, promotes=False).tick()
    assert [await stored(app, job) != b"" for job in jobs] == [False, False, True]


@pytest.mark.parametrize("settings", [{}, {"encryption_keys": K1}], ids=["plain", "encrypted"])
async def test_the_log_of_a_moved_job_goes_along(server: PrivateServer, app: Bananas, settings: dict[str, Any]) -> None:
    mine = Bananas(server.url, namespace=app.settings.namespace, call_timeout=2, **settings)

    @mine.task(queue="slow", retry=Retry(base=600, factor=1, cap=600, jitter=False), max_retries=2)
    async def flaky() -> str:
        current_job().log(f"needle {current_job().attempt}")
        current_job().progress(0.5, "half")
        if current_job().attempt == 1:
            raise ValueError
        return "done"

    async with worker_for(mine) as worker:
        job = await flaky.submit()
        await worker.run_until_idle()
    outcome = await act(mine, await select(mine, "queue:slow"), Move("quick"))
    assert (outcome.done, outcome.left) == (1, {})
    info = await job.info()
    assert (info.queue, info.state, info.progress, [line.text for line in info.log]) == ("quick", "scheduled", None, ["needle 1"])
    assert (b"needle" in await stored(mine, mine.job(info.id))) is (not settings)
    async with worker_for(mine, worker_routing_keys="quick") as worker:
        await worker.run_until_idle(include_scheduled=True)
        assert await job.result(timeout=10) == "done"
    assert [line.text for line in (await job.info()).log] == ["needle 1", "needle 2"]
    await mine.close()
