"""Waiting for outcomes: woken at once, one subscription for all, and right when messages, connections or the server go."""

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from tests.relay import Relay
from tests.support import eventually

from bananas import AuthenticationFailed, Bananas, Job, JobNotFound, ResultsDisabled, ResultTimeout, TaskError, broker, result
from bananas.broker import Burial, Ending, KeptResult
from bananas.codec import pack, pack_result
from bananas.connection import Connection
from bananas.job import Result
from bananas.server import PrivateServer, find_server_binary
from bananas.session import run
from bananas.worker.settler import DROPPED_VALUE, Settler, burial

LONG = 60.0  # so that only a message can be in time


class Finisher:
    """Ends jobs as a worker does, over a connection of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._turn = connection, 0

    async def ask(self, request: Any) -> Any:
        (reply,) = await run(self._connection, [request], 5)
        return reply

    async def members(self, job: Job[Any]) -> dict[str, bytes]:
        """The leases of all jobs of this one's queue, by id."""
        keys, _ = job.place
        self._turn += 1
        await self.ask(broker.claim(keys, "aa", self._turn, 1_000, 60_000))
        (leases,) = await self._connection.execute([("ZRANGE", keys.leases, 0, -1)], 5)
        return {member[:43].decode(): member for member in leases}

    async def succeed(self, *jobs: Job[Any], ttl_ms: int = 60_000) -> None:
        """End these jobs, each with its id as value."""
        keys, _ = jobs[0].place
        members = await self.members(jobs[0])
        endings = []
        for job in jobs:
            kept = KeptResult(ttl_ms, pack_result(Result("success", Raw(pack(job.id)), attempts=1)))
            endings.append(Ending(members[job.place[1]], kept if ttl_ms else None))
        self._turn += 1
        assert all(await self.ask(broker.complete(keys, "aa", self._turn, endings, full=False, dropped=DROPPED_VALUE)))

    async def fail(self, job: Job[Any], kept: KeptResult | None) -> None:
        """Bury this job."""
        keys, job_id = job.place
        entry = Burial((await self.members(job))[job_id], b"1 0 0 0 - ", kept)
        assert await self.ask(broker.bury(keys, "aa", self._turn, [entry], full=False, dropped=DROPPED_VALUE)) == [True]


@pytest.fixture
def finisher(connection: Connection) -> Finisher:
    return Finisher(connection)


async def waiting(connection: Connection, count: int) -> None:
    """Return when `count` channels have a subscriber."""

    async def subscribed() -> bool:
        (channels,) = await connection.execute([("PUBSUB", "SHARDCHANNELS")], 5)
        return len(channels) == count

    await eventually(subscribed)


async def collect(app: Bananas, jobs: list[Job[Any]], timeout: float, values: list[str]) -> None:
    async for job in app.as_completed(jobs, timeout=timeout):
        values.append(await job.result())  # noqa: PERF401 - it is read while it grows


async def test_a_waiter_is_woken_by_the_end_of_its_job(
    app: Bananas, finisher: Finisher, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result, "REREAD_S", LONG)
    job = await app.submit("task", 1)
    value = asyncio.ensure_future(job.result(timeout=10))
    await waiting(connection, 1)
    await finisher.succeed(job)
    assert await value == job.id
    assert await app.job(job.id).result(timeout=5) == job.id, "who comes later reads it"
    await waiting(connection, 0)


async def test_all_waiters_of_a_loop_share_one_connection(
    app: Bananas, finisher: Finisher, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result, "REREAD_S", LONG)
    jobs = await asyncio.gather(*(app.submit("task", number) for number in range(100)))
    values = [asyncio.ensure_future(app.job(job.id).result(timeout=20)) for job in jobs for _ in range(2)]
    await waiting(connection, 100)
    (listed,) = await connection.execute([("CLIENT", "LIST", "TYPE", "pubsub")], 5)
    assert len(listed.splitlines()) == 1
    await finisher.succeed(*jobs)
    assert await asyncio.gather(*values) == [job.id for job in jobs for _ in range(2)]


async def test_a_result_whose_message_was_lost_is_found(app: Bananas, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "REREAD_S", 0.02)
    job = await app.submit("task", 1)
    value = asyncio.ensure_future(job.result(timeout=20))
    await waiting(connection, 1)
    keys, job_id = job.place
    await connection.execute([("SET", keys.result(job_id), pack_result(Result("success", Raw(pack("found")))), "PX", 60_000)], 5)
    assert await value == "found"


async def test_a_subscription_that_was_killed_is_made_again(
    app: Bananas, finisher: Finisher, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result, "REREAD_S", 0.02)
    job = await app.submit("task", 1)
    value = asyncio.ensure_future(job.result(timeout=20))
    await waiting(connection, 1)
    await connection.execute([("CLIENT", "KILL", "TYPE", "pubsub")], 5)
    await finisher.succeed(job)
    assert await value == job.id


async def test_jobs_are_yielded_as_they_end(
    app: Bananas, finisher: Finisher, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result, "REREAD_S", LONG)
    jobs = [await app.submit("task", number) for number in range(3)]
    order: list[str] = []
    collecting = asyncio.ensure_future(collect(app, jobs, 20, order))
    await waiting(connection, 3)
    for number, job in enumerate((jobs[2], jobs[0], jobs[1]), 1):
        await finisher.succeed(job)
        await eventually(lambda number=number: asyncio.sleep(0, len(order) == number))
    await collecting
    assert order == [jobs[2].id, jobs[0].id, jobs[1].id]


async def test_many_jobs_that_have_ended_are_yielded_in_few_round_trips(app: Bananas, finisher: Finisher, connection: Connection) -> None:
    jobs = await asyncio.gather(*(app.submit("task", number) for number in range(900)))
    await finisher.succeed(*jobs)
    yielded = [job.id async for job in app.as_completed(jobs, timeout=20)]
    assert sorted(yielded) == sorted(job.id for job in jobs)


async def test_waiting_for_many_ends_in_time_and_keeps_what_was_yielded(app: Bananas, finisher: Finisher) -> None:
    jobs = [await app.submit("task", number) for number in range(2)]
    await finisher.succeed(jobs[1])
    yielded: list[str] = []
    with pytest.raises(ResultTimeout, match="1 job"):
        await collect(app, jobs, 0.1, yielded)
    assert yielded == [jobs[1].id]


async def test_a_failure_arrives_with_its_traceback(app: Bananas, finisher: Finisher) -> None:
    job = await app.submit("task", 1)
    failed = Result("dead", error_type="ValueError", error_message="no", traceback="Traceback: line 1", attempts=4)
    await finisher.fail(job, KeptResult(60_000, pack_result(failed)))
    with pytest.raises(TaskError, match="ValueError: no") as caught:
        await job.result(timeout=5)
    assert (caught.value.state, caught.value.attempts, caught.value.traceback) == ("dead", 4, "Traceback: line 1")


async def test_a_job_that_keeps_no_result_says_so_when_it_has_ended(app: Bananas, finisher: Finisher) -> None:
    @app.task(name="quiet", result_ttl=0)
    async def quiet() -> None: ...

    job = await quiet.submit()
    await finisher.succeed(job, ttl_ms=0)
    with pytest.raises(ResultsDisabled, match="result_ttl"):
        await job.result(timeout=5)
    other = await app.submit("task", 1)
    await finisher.succeed(other, ttl_ms=0)
    with pytest.raises(JobNotFound):
        await other.result(timeout=5)


async def test_a_thread_is_woken_too(app: Bananas, finisher: Finisher, connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "REREAD_S", LONG)
    job = await app.submit("task", 1)
    values: list[str] = []
    thread = threading.Thread(target=lambda: values.append(job.result_sync(timeout=20)))
    thread.start()
    await waiting(connection, 1)
    await finisher.succeed(job)
    await asyncio.to_thread(thread.join)
    assert values == [job.id]


async def test_all_waiting_threads_share_one_connection_and_none_is_left(app: Bananas, finisher: Finisher, connection: Connection) -> None:
    before = set(threading.enumerate())
    jobs = [await app.submit("task", number) for number in range(5)]
    waits = [asyncio.ensure_future(asyncio.to_thread(job.result_sync, 20)) for job in jobs]
    await waiting(connection, 5)
    (listed,) = await connection.execute([("CLIENT", "LIST", "TYPE", "pubsub")], 5)
    assert len(bytes(listed).splitlines()) == 1
    for job in jobs:
        await finisher.succeed(job)
    assert await asyncio.gather(*waits) == [job.id for job in jobs]
    await app.close()
    await eventually(lambda: alone(connection))
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "bananas-results"]


async def alone(connection: Connection) -> bool:
    (listed,) = await connection.execute([("CLIENT", "LIST")], 5)
    return len(bytes(listed).splitlines()) == 1


async def test_a_thread_that_waits_when_the_app_is_closed_waits_on(app: Bananas, finisher: Finisher, connection: Connection) -> None:
    job = await app.submit("task", 1)
    value = asyncio.ensure_future(asyncio.to_thread(job.result_sync, 20))
    await waiting(connection, 1)
    await app.close()
    await finisher.succeed(job)
    assert await value == job.id
    await eventually(lambda: alone(connection))


def test_a_child_waits_for_itself(server: PrivateServer) -> None:
    app = Bananas(server.url, namespace="forked", call_timeout=5)
    job = app.submit_sync("task", 1)
    with pytest.raises(ResultTimeout):
        job.result_sync(0.01)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            job.result_sync(0.01)
        except ResultTimeout:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    app.client.close_sync()


async def test_a_thread_finds_a_result_whose_message_was_lost_and_gives_up_in_time(
    app: Bananas, finisher: Finisher, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result, "REREAD_S", 0.02)
    job = await app.submit("task", 1)
    with pytest.raises(ResultTimeout):
        await asyncio.to_thread(job.result_sync, 0.05)
    value = asyncio.ensure_future(asyncio.to_thread(job.result_sync, 20))
    await waiting(connection, 1)
    await connection.execute([("CLIENT", "KILL", "TYPE", "pubsub")], 5)
    await finisher.succeed(job)
    assert await value == job.id


async def test_a_subscription_whose_confirmation_was_lost_is_made_again(server: PrivateServer, app: Bananas, finisher: Finisher) -> None:
    job = await app.submit("task", 1)
    async with Relay(server.url) as relay:
        away = Bananas(relay.url, namespace=app.settings.namespace, call_timeout=10)
        relay.lose_reply(b"\r\nSSUBSCRIBE")
        value = asyncio.ensure_future(away.job(job.id).result(timeout=5))
        await eventually(lambda: relay.lost)
        await finisher.succeed(job)
        assert await value == job.id
        await away.close()


async def test_who_may_not_subscribe_is_told_so(server: PrivateServer, app: Bananas, connection: Connection) -> None:
    job = await app.submit("task", 1)
    await connection.execute([("ACL", "SETUSER", "deaf", "on", ">pw", "~*", "resetchannels", "+@all")], 5)
    deaf = Bananas(f"{server.url}&username=deaf&password=pw", namespace=app.settings.namespace, call_timeout=5)
    try:
        with pytest.raises(AuthenticationFailed, match=r"channel.*ACL"):
            await deaf.job(job.id).result(timeout=5)
    finally:
        await deaf.close()
        await connection.execute([("ACL", "DELUSER", "deaf")], 5)


async def test_a_thread_whose_server_was_away_does_not_tell_that_the_job_has_not_ended(app: Bananas, tmp_path: Path) -> None:
    nobody = Bananas(f"unix://{tmp_path}/nobody", namespace=app.settings.namespace, call_timeout=5)
    job = nobody.job((await app.submit("task", 1)).id)
    with pytest.raises(ResultTimeout, match="the server was away until the timeout"):
        await asyncio.to_thread(job.result_sync, 0.1)
    await nobody.close()


@pytest.mark.parametrize("how", ["loop", "thread"])
async def test_waiting_tries_for_its_budget_when_the_server_is_away(tmp_path: Path, server_kind: str, how: str) -> None:
    at_once = {"appendfsync": "no"}  # with everysec, what is acknowledged may wait for the disk when the server is killed
    with PrivateServer(tmp_path, binary=find_server_binary(server_kind), appendonly=True, settings=at_once) as private:
        app = Bananas(private.url, namespace="restart", call_timeout=10)
        job = await app.submit("task", 1)
        connection = await Connection.open(app.client.address)
        await Finisher(connection).succeed(job)
        await app.close()
        private.kill()
        waits = job.result(timeout=20) if how == "loop" else asyncio.to_thread(job.result_sync, 20)
        value = asyncio.ensure_future(waits)
        await asyncio.wait([value], timeout=0.1)  # it meets nobody
        private.start()
        try:
            assert await value == job.id
        finally:
            connection.close()
            await app.close()


async def test_every_handle_of_a_job_is_yielded(app: Bananas, finisher: Finisher) -> None:
    job = await app.submit("task", 1)
    await finisher.succeed(job)
    handles = [app.job(job.id), app.job(job.id)]
    assert len([handle async for handle in app.as_completed(handles, timeout=5)]) == 2


async def test_a_dead_job_that_keeps_no_result_ends_its_waiters(app: Bananas, finisher: Finisher) -> None:
    @app.task(name="quiet", result_ttl=0)
    async def quiet() -> None: ...

    job = await quiet.submit()
    await finisher.fail(job, None)
    with pytest.raises((ResultsDisabled, TaskError)):
        await job.result(timeout=0.2)


async def test_a_full_server_does_not_turn_a_death_into_a_success(app: Bananas, finisher: Finisher) -> None:
    job = await app.submit("task", 1)
    keys, job_id = job.place
    settler = Settler(keys, "aa")
    failed = pack_result(Result("dead", error_type="ValueError", error_message="no", traceback="t" * 1_000, attempts=1))
    settler.add(burial(Burial((await finisher.members(job))[job_id], b"1 0 0 0 - ", KeptResult(60_000, failed)), 0))
    (sent,) = settler.batches(full=True)
    assert await finisher.ask(sent.request) == [True]
    with pytest.raises(TaskError, match="dead"):
        await job.result(timeout=5)


async def test_a_short_timeout_does_not_close_the_connection_of_others(app: Bananas, connection: Connection) -> None:
    job = await app.submit("task", 1)
    patient = asyncio.ensure_future(job.result(timeout=10))
    await waiting(connection, 1)
    shared = app.client.here().lanes.home(app.settings.namespace).ready(None)
    await connection.execute([("CLIENT", "PAUSE", 400, "ALL")], 5)
    with pytest.raises(ResultTimeout):
        await job.result(timeout=0.01)
    assert (await app.submit("task", 2)).created
    assert app.client.here().lanes.home(app.settings.namespace).ready(None) is shared is not None
    patient.cancel()
