"""Submits that wait for replicas or the disk: what is confirmed is there, and what is not is told with the job's id."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.relay import Relay
from tests.support import eventually, wait_until

from bananas import Bananas, Unconfirmed
from bananas.errors import ConfigError, ServerUnsuitable, SubmitManyError
from bananas.groups import Replicated, ask
from bananas.keys import parse_public_id
from bananas.server import PrivateServer, find_server_binary, unix_url
from bananas.task import Call, SubmitOptions
from bananas.testing import worker_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bananas import Job


@pytest.fixture
def pair(group_kind: str) -> Iterator[Replicated]:
    """A primary and a replica, which keeps up or is stopped."""
    with Replicated(1, 0, binary=find_server_binary(group_kind)) as made:
        yield made
        if made.data[1].pid is not None:
            os.kill(made.data[1].pid, signal.SIGCONT)


def pause(server: PrivateServer) -> None:
    """SIGSTOP, in effect: a process on another core may go on for a moment."""
    assert server.pid is not None
    stat = Path(f"/proc/{server.pid}/stat")
    os.kill(server.pid, signal.SIGSTOP)
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "the stop")


def go_on(server: PrivateServer) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGCONT)


def has(server: PrivateServer, app: Bananas, job: Job[object]) -> bool:
    return bool(ask(server, "HEXISTS", app.producer.keys("default").jobs, parse_public_id(job.id).job_id))


async def test_a_replicated_submit_returns_when_the_replica_has_the_job(pair: Replicated) -> None:
    app = Bananas(pair.url, durability="replicated", durability_timeout=20, call_timeout=30)
    replica = pair.data[1]
    for _ in range(20):
        assert has(replica, app, await app.submit("any"))
    assert has(replica, app, await asyncio.to_thread(app.submit_sync, "any"))
    many = await app.submit_many(Call("any", (), {}) for _ in range(2_500))
    assert all(has(replica, app, job) for job in many[::100])
    together = await asyncio.gather(*(app.submit("any") for _ in range(50)))
    assert all(has(replica, app, job) for job in together)
    await app.close()


async def test_what_no_replica_confirms_is_told_with_its_id_and_runs(pair: Replicated) -> None:
    app = Bananas(pair.url, durability_timeout=3, call_timeout=10)

    @app.task(durability="replicated")
    async def double(x: int) -> int:
        return 2 * x

    pause(pair.data[1])
    with pytest.raises(Unconfirmed, match="0 of 1 replica") as alone:
        await double.submit(1)
    with pytest.raises(Unconfirmed) as in_thread:
        await asyncio.to_thread(double.submit_sync, 2)
    with pytest.raises(SubmitManyError) as many:
        await app.submit_many(double.bind(x) for x in (3, 4))
    assert all(isinstance(outcome, Unconfirmed) for outcome in many.value.outcomes)
    ids = [alone.value.job_id, in_thread.value.job_id, *(outcome.job_id for outcome in many.value.outcomes)]
    usual = await double.options(durability="default").submit(5)
    async with worker_for(app):
        assert [await app.job(each).result(timeout=10) for each in [*ids, usual.id]] == [2, 4, 6, 8, 10]
    go_on(pair.data[1])
    assert has(pair.data[1], app, await double.submit(6))
    await app.close()


async def test_a_resend_is_confirmed_anew_and_makes_no_second_job(pair: Replicated) -> None:
    primary, replica = pair.data
    async with Relay(unix_url(str(primary.socket_path))) as relay:
        app = Bananas(relay.url, durability="replicated", durability_timeout=3, call_timeout=10)
        await app.submit("any")

        async def stops() -> None:
            pause(replica)

        # The reply is lost, and the replica has not heard of the job: over the new connection nothing is written but the touch.
        relay.lose_reply(meanwhile=stops)
        with pytest.raises(Unconfirmed) as caught:
            await app.submit("any")
        assert relay.lost == 1
        go_on(replica)
        job = await app.submit("any")
        assert has(replica, app, job)
        assert has(primary, app, app.job(caught.value.job_id))
        assert (await app.queue("default").counts()).ready == 3
        await app.close()


async def test_a_script_that_the_server_lacks_does_not_make_a_submit_confirmed(pair: Replicated) -> None:
    primary, replica = pair.data
    app = Bananas(pair.url, durability_timeout=3, call_timeout=10)
    options: SubmitOptions = {"durability": "replicated"}
    for submit in (lambda: app.submit("any", options=options), lambda: asyncio.to_thread(app.submit_sync, "any", options=options)):
        job = await app.submit("any", options={"durability": "replicated", "call_timeout": 20})
        await eventually(lambda job=job: has(replica, app, job), "that the replica keeps up")  # type: ignore[misc]
        ask(primary, "SCRIPT", "FLUSH")
        wait_until(lambda: _offset(replica) >= _offset(primary), "that nothing is under way")
        pause(replica)
        with pytest.raises(Unconfirmed):
            await submit()
        go_on(replica)
        await eventually(lambda: _offset(replica) >= _offset(primary), "that the replica keeps up")
    await app.close()


def _offset(server: PrivateServer) -> int:
    info = dict(line.split(":", 1) for line in ask(server, "INFO", "replication").decode().splitlines() if ":" in line)
    return int(info["master_repl_offset"] if info["role"] == "master" else info["slave_repl_offset"])


async def test_two_levels_on_one_loop_do_not_hold_up_each_other(pair: Replicated) -> None:
    app = Bananas(pair.url, durability_timeout=2)
    pause(pair.data[1])
    waiting = asyncio.create_task(app.submit("any", options={"durability": "replicated"}))
    for _ in range(20):
        await asyncio.wait_for(app.submit("any"), 1.5)
    assert not waiting.done()
    with pytest.raises(Unconfirmed):
        await waiting
    await app.close()


async def test_an_fsynced_submit_is_in_the_file_when_it_returns() -> None:
    with PrivateServer(binary=find_server_binary("valkey"), appendonly=True) as server:
        app = Bananas(server.url, durability="fsynced")
        job = await app.submit("any")
        many = await app.submit_many(Call("any", (), {}) for _ in range(10))
        in_thread = await asyncio.to_thread(app.submit_sync, "any")
        server.kill()
        written = b"".join(path.read_bytes() for path in (server.directory / "appendonlydir").iterdir())
        for each in (job, *many, in_thread):
            assert parse_public_id(each.id).job_id.encode() in written
        await app.close()


@pytest.mark.parametrize(("kind", "appendonly", "reason"), [("valkey", False, "AOF, which is off"), ("redis", True, "needs WAITAOF")])
async def test_a_server_that_cannot_fsync_on_demand_is_refused(kind: str, appendonly: bool, reason: str) -> None:
    try:
        binary = find_server_binary(kind)
    except ConfigError as error:
        pytest.skip(str(error))
    if kind == "redis" and binary.version >= (7, 2, 0):
        pytest.skip("this redis-server has WAITAOF")
    with PrivateServer(binary=binary, appendonly=appendonly) as server:
        app = Bananas(server.url)

        @app.task(durability="fsynced")
        async def safe() -> None: ...

        with pytest.raises(ServerUnsuitable, match=reason):
            await safe.submit()
        with pytest.raises(ServerUnsuitable, match=reason):
            await asyncio.to_thread(safe.submit_sync)
        with pytest.raises(ServerUnsuitable, match=reason):
            async with worker_for(app):
                pass
        assert (await app.queue("default").counts()).ready == 0
        await app.close()


def test_a_level_that_does_not_exist_is_refused() -> None:
    app = Bananas("redis://nowhere")
    with pytest.raises(ConfigError, match="durability"):

        @app.task(durability="paranoid")  # type: ignore[arg-type]
        async def task() -> None: ...

    with pytest.raises(ConfigError, match="durability"):
        Bananas("redis://nowhere", durability="paranoid")
