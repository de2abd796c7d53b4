"""Bananas on a Cluster: every queue, or shard of one, has a server of its own, which may change at any moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.support import eventually

from bananas import Bananas, broker, current_job
from bananas.doctor import diagnose
from bananas.errors import ConfigError, JobNotFound, TaskError
from bananas.groups import ask
from bananas.inspector import audit, workers
from bananas.keys import QueueKeys, slot_of
from bananas.task import Call, SubmitOptions
from bananas.testing import worker_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.conftest import Site

    from bananas.groups import Cluster

pytestmark = pytest.mark.timeout(120)


def queues_on(cluster: Cluster, namespace: str) -> list[str]:
    """A queue name for each primary."""
    found: dict[object, str] = {}
    for number in range(1_000):
        server = cluster.serving(QueueKeys(namespace, f"q{number}").slot)
        found.setdefault(server.port, f"q{number}")
        if len(found) == 3:
            return list(found.values())
    raise AssertionError("no queue for some primary")


def test_slots_are_counted_as_the_servers_do(cluster: Cluster) -> None:
    for keys in (QueueKeys("shop", "email"), QueueKeys("shop", "email", 3), QueueKeys("a-b_c", "X")):
        assert {ask(cluster.servers[0], "CLUSTER", "KEYSLOT", name) for name in keys.fixed} == {keys.slot}
    assert ask(cluster.servers[0], "CLUSTER", "KEYSLOT", "{shop}:workers") == slot_of("shop")


async def test_jobs_of_queues_on_every_server_run_and_are_waited_for_together(cluster: Cluster, app: Bananas) -> None:
    queues = queues_on(cluster, app.settings.namespace)
    tasks = []
    for queue in queues:

        @app.task(name=f"echo-{queue}", queue=queue)
        async def echo(x: int) -> int:
            return x

        tasks.append(echo)
    async with worker_for(app):
        alone = [await task.submit(number) for number, task in enumerate(tasks)]
        many = await app.submit_many(task.bind(number) for number in range(30) for task in tasks)
        in_thread = await asyncio.to_thread(tasks[2].submit_sync, 7)
        ended = {job.id async for job in app.as_completed([*alone, *many, in_thread], timeout=20)}
        assert ended == {job.id for job in [*alone, *many, in_thread]}
        assert [await job.result(timeout=5) for job in alone] == [0, 1, 2]
        assert await asyncio.to_thread(in_thread.result_sync, 5) == 7
    assert await app.client.ask_home(app.settings.namespace, _members(app), "listing") == set(queues)
    assert (await audit(app)).findings == ()


def _members(app: Bananas):  # type: ignore[no-untyped-def]
    from bananas import broker
    from bananas.keys import queues_key

    return broker.plain(lambda reply: {name.decode() for name in reply}, "SMEMBERS", queues_key(app.settings.namespace))


async def test_jobs_tell_progress_and_log_on_every_server(cluster: Cluster, app: Bananas) -> None:
    tasks = []
    for queue in queues_on(cluster, app.settings.namespace):

        @app.task(name=f"tells-{queue}", queue=queue)
        async def tells(x: int) -> None:
            current_job().log(f"line {x}")
            current_job().progress(x / 10)

        tasks.append(tells)
    async with worker_for(app) as worker:
        jobs = [await task.submit(number) for number, task in enumerate(tasks)]
        await worker.run_until_idle(20)
    infos = [await job.info() for job in jobs]
    assert [(info.state, info.progress, [line.text for line in info.log]) for info in infos] == [
        ("success", number / 10, [f"line {number}"]) for number in range(3)
    ]


async def test_acts_on_jobs_and_queues_reach_their_server(cluster: Cluster, app: Bananas) -> None:
    for name in queues_on(cluster, app.settings.namespace):
        options: SubmitOptions = {"queue": name, "delay": 60}
        job, other = [await app.submit("unknown", options=options) for _ in range(2)]
        assert (await job.info()).state == "scheduled"
        await job.set_priority("high")
        await job.reschedule(delay=120)
        assert await job.cancel()
        with pytest.raises(TaskError, match="cancelled"):
            await job.result(timeout=5)
        queue = app.queue(name)
        assert await queue.pause()
        assert (await queue.counts()).scheduled == 1
        assert await queue.resume()
        assert await queue.purge() == 1
        assert (await other.info()).state == "purged"


async def test_a_worker_on_a_cluster_keeps_the_leases_of_long_jobs_and_is_listed(cluster: Cluster, site_at: Callable[..., Site]) -> None:
    site = site_at(cluster.url, lease=1.0)
    queues = queues_on(cluster, site.namespace)
    site.worker(worker_routing_keys=",".join(queues))
    jobs = [await site.app.submit("work", 3.5, options={"queue": queue}) for queue in queues]
    assert [await job.result(timeout=20) for job in jobs] == ["done"] * 3
    assert len(site.ledger.lines("start")) == 3
    (worker,) = await workers(site.app)
    assert set(worker.queues) == set(queues)


async def test_a_killed_process_hands_its_jobs_of_every_server_back(cluster: Cluster, site_at: Callable[..., Site]) -> None:
    site = site_at(cluster.url, lease=1.0)
    queues = queues_on(cluster, site.namespace)
    worker = site.worker(worker_routing_keys=",".join(queues))
    gate = site.gate()
    jobs = [await site.app.submit("follow", str(gate), options={"queue": queue}) for queue in queues]
    for job in jobs:
        await site.started(job)
    worker.kill_tree()
    site.worker(worker_routing_keys=",".join(queues))
    gate.touch()
    for job in jobs:
        await job.result(timeout=40)
        assert (await job.info()).crashes in (0, 1, None)
    assert (await audit(site.app)).findings == ()


async def test_a_slot_may_move_while_its_queue_is_at_work(cluster: Cluster, site_at: Callable[..., Site]) -> None:
    site = site_at(cluster.url, lease=2.0, call_timeout=20)
    site.worker()
    slot = QueueKeys(site.namespace, "default").slot
    submitted = []

    async def submit() -> None:
        for _ in range(40):
            submitted.extend(await site.app.submit_many(Call("work", (0.001,), {}) for _ in range(10)))

    submitting = asyncio.create_task(submit())
    for _ in range(3):
        for server in cluster.primaries:
            await asyncio.to_thread(cluster.move, slot, server)
    await submitting
    ended = {job.id async for job in site.app.as_completed(submitted, timeout=30)}
    assert len(ended) == 400
    verdict = site.ledger.judge(ended)
    assert (verdict.lost, verdict.ghosts, verdict.ended_twice) == (set(), set(), set())
    assert (await audit(site.app)).findings == ()


@pytest.mark.slow
async def test_a_lost_primary_is_replaced_and_other_queues_go_on_meanwhile(cluster: Cluster, site_at: Callable[..., Site]) -> None:
    site = site_at(cluster.url, lease=2.0, call_timeout=20)
    queues = queues_on(cluster, site.namespace)
    site.worker(worker_routing_keys=",".join(queues))
    for queue in queues:
        assert await (await site.app.submit("double", 1, options={"queue": queue})).result(timeout=10) == 2
    home = slot_of(site.namespace)
    victim_queue = next(queue for queue in queues if cluster.serving(QueueKeys(site.namespace, queue).slot) is not cluster.serving(home))
    victim = cluster.serving(QueueKeys(site.namespace, victim_queue).slot)
    others = [queue for queue in queues if queue != victim_queue]
    victim.kill()
    for _ in range(5):
        for queue in others:
            job = await site.app.submit("double", 2, options={"queue": queue})
            assert await job.result(timeout=2) == 4
    job = await site.app.submit("double", 3, options={"queue": victim_queue})
    assert await job.result(timeout=20) == 6
    victim.start()
    await eventually(lambda: b"connected" in ask(victim, "ROLE") or ask(victim, "ROLE")[0] == b"master", "its return", 30)


# --- shards -----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def sharded(cluster: Cluster, app: Bananas) -> Bananas:
    """The app, with a queue in six parts."""
    return Bananas(cluster.url, namespace=app.settings.namespace, queue_shards={"default": 6})


async def test_a_queue_in_shards_spreads_and_is_counted_paused_and_purged_as_one(sharded: Bananas) -> None:
    jobs = await sharded.submit_many(Call("unknown", (), {}) for _ in range(60))
    assert {job.id.split(".")[1] for job in jobs} == {str(number) for number in range(6)}
    queue = sharded.queue("default")
    counts = await queue.counts()
    assert (counts.ready, counts.ready_by_priority["normal"], counts.paused) == (60, 60, False)
    assert await queue.pause()
    assert (await queue.counts()).paused
    assert not await queue.pause()
    assert await queue.resume()
    assert await queue.purge() == 60
    assert (await sharded.job(jobs[7].id).info()).state == "purged"
    await sharded.close()


async def test_workers_serve_every_shard_and_a_unique_key_holds_in_all(sharded: Bananas) -> None:
    @sharded.task
    async def where() -> str:
        return current_job().queue

    first = await where.options(unique="one", delay=60).submit()
    for _ in range(5):
        again = await where.options(unique="one").submit()
        assert (again.id, again.created) == (first.id, False)
    await first.cancel()
    async with worker_for(sharded):
        jobs = await sharded.submit_many(where.bind() for _ in range(60))
        assert [await job.result(timeout=20) for job in jobs] == ["default"] * 60
    assert (await audit(sharded)).findings == ()
    await sharded.close()


async def test_dead_letters_of_all_shards_are_one_list(sharded: Bananas) -> None:
    @sharded.task(max_retries=0)
    async def fails(x: int) -> None:
        if x >= 0:
            raise ValueError(x)

    dead = sharded.queue("default").dead
    async with worker_for(sharded) as worker:
        jobs = await sharded.submit_many(fails.bind(x) for x in range(12))
        await worker.run_until_idle()
        listed = await dead.list(limit=5, offset=2)
        assert len(listed) == 5
        assert {info.id for info in await dead.list()} == {job.id for job in jobs}
        assert await dead.count() == 12
        assert await dead.delete(jobs[0].id)
        with pytest.raises(JobNotFound):
            await dead.replay(jobs[0].id)
        assert await dead.replay_all() == 11
        await worker.run_until_idle()
        assert await dead.purge() == 11
    await sharded.close()


async def test_shards_that_an_earlier_number_left_behind_are_drained(cluster: Cluster, sharded: Bananas) -> None:
    jobs = await sharded.submit_many(Call("double", (number,), {}) for number in range(12))
    await sharded.close()
    fewer = Bananas(cluster.url, namespace=sharded.settings.namespace, queue_shards="default:2")

    @fewer.task
    async def double(x: int) -> int:
        return 2 * x

    async with worker_for(fewer):
        assert [await fewer.job(job.id).result(timeout=20) for job in jobs] == [2 * number for number in range(12)]
    await fewer.close()


async def test_a_database_other_than_the_first_is_refused(cluster: Cluster) -> None:
    app = Bananas(cluster.url.replace("redis+cluster://", "redis+cluster://") + "?db=3")
    with pytest.raises(ConfigError, match="only number 0"):
        await app.submit("double", 1)


async def test_the_doctor_sees_and_mends_queues_on_every_server(cluster: Cluster, app: Bananas) -> None:
    queues = queues_on(cluster, app.settings.namespace)
    for queue in queues:
        job = await app.submit("task", options={"queue": queue})
        keys, job_id = job.place
        await app.client.ask(keys, broker.plain(int, "ZREM", keys.ready, job_id), "damaging")
    checks = {check.name: check for check in (await diagnose(app)).checks}
    assert "server.looked_at" not in checks
    assert checks["namespace.layout"].found.startswith("3 queues")
    diagnosis = await diagnose(app, repairs=True, act=True)
    assert diagnosis.repairs is not None
    assert len(diagnosis.repairs.remedies) == 3
    assert diagnosis.repairs.after.clean
