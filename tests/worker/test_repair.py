"""Repair: every kind of damage is made on a real server, mended, and gone; what is in order stays as it is; queues at work go on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import eventually
from tests.worker.damage import BOOT, DAMAGE, STEP, Filled, spelt

from bananas import Bananas, Snooze, broker, mending
from bananas.codec import pack_envelope, unpack_tries
from bananas.inspector import audit, repair
from bananas.job import Envelope
from bananas.repair import Seen, decide
from bananas.task import Call, read_options
from bananas.testing import worker_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LONG_AGO = 5


@pytest.fixture
async def filled(server: Any) -> AsyncIterator[Filled]:
    app = Bananas(server.url, namespace="mended", call_timeout=2, lease=0.5)

    @app.task(max_retries=0)
    async def task() -> str:
        return "ran"

    yield await Filled(app).fill()
    await app.close()


async def damage(filled: Filled, *words: Any) -> None:
    await filled.command(*[words[0], *(spelt(filled, word) for word in words[1:])])


async def snapshot(filled: Filled) -> dict[str, Any]:
    """Everything that is stored of the queue, but the clocks of `meta`."""
    names = "jobs prio tries unique".split()
    found = {name: await filled.ask(broker.plain(_pairs, "HGETALL", filled.key(name))) for name in names}
    for name in ("ready", "scheduled", "leases", "dead"):
        found[name] = await filled.ask(broker.plain(_pairs, "ZRANGE", filled.key(name), 0, -1, "WITHSCORES"))
    found["cancelled"] = await filled.ask(broker.plain(set, "SMEMBERS", filled.key("cancelled")))
    return found


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


# --- every damage -----------------------------------------------------------------------------------------------------

# What is left behind of the jobs of `Filled` where a damage took a body: nothing can be run of these.
GONE = {
    "a waiting id without a body": {"scheduled"},
    "a body that is too short": {"scheduled"},
    "a leased id without a body": {"leased"},
}


@pytest.mark.parametrize("name", DAMAGE)
async def test_each_damage_is_mended_and_no_job_is_lost(filled: Filled, name: str) -> None:
    await damage(filled, *DAMAGE[name][0])
    before = await snapshot(filled)
    told = await repair(filled.app)
    assert await snapshot(filled) == before, "a dry run changed something"
    assert not told.acted
    assert [remedy.finding for remedy in told.remedies] == list((await audit(filled.app)).findings) == list(told.after.findings)
    if name == "a leased id without a body":  # its worker may run it: it is left until the lease is over
        assert [(remedy.mended, remedy.remedy[:5]) for remedy in (await repair(filled.app, act=True)).remedies] == [(False, "left:")]
        await damage(filled, "ZADD", "leases!", LONG_AGO, "member")

    done = await repair(filled.app, act=True)
    assert done.acted
    assert done.after.clean, done
    assert all(remedy.mended for remedy in done.remedies)
    assert {remedy.finding for remedy in told.remedies if remedy.mended} <= {remedy.finding for remedy in done.remedies}

    after = await snapshot(filled)
    again = await repair(filled.app, act=True)
    assert (again.remedies, again.after.clean) == ((), True)
    assert await snapshot(filled) == after, "a second repair changed something"
    await everything_runs(filled, GONE.get(name, set()))


async def everything_runs(filled: Filled, gone: set[str]) -> None:
    """Every job that `filled` put in, but those gone, runs to its end: the leased one when its lease is over, the dead one replayed."""
    jobs = {name: getattr(filled, name) for name in ("ready", "scheduled", "leased", "dead") if name not in gone}
    await filled.command("DEL", filled.key("cancelled"))
    leases = await filled.ask(broker.plain(list, "ZRANGE", filled.keys.leases, 0, -1))
    if leases:
        await filled.ask(broker.reclaim(filled.keys, 500, leases))
    queue = filled.app.queue("default")
    for info in await queue.dead.list():
        await queue.dead.replay(info.id)
    waiting = [job_id for job_id in jobs.values() if await filled.ask(broker.plain(_bytes, "ZSCORE", filled.keys.scheduled, job_id))]
    if waiting:
        await filled.ask(broker.reschedule(filled.keys, 0, waiting))
    async with worker_for(filled.app) as worker:
        for name, job_id in jobs.items():
            assert await filled.app.job(filled.keys.public(job_id)).result(timeout=10) == "ran", name
        await worker.run_until_idle(10)
    assert (await audit(filled.app)).clean


def _bytes(reply: bytes | None) -> bytes | None:
    return reply


# --- what a remedy is -------------------------------------------------------------------------------------------------


async def state_of(filled: Filled, who: str) -> str:
    return (await filled.app.job(filled.keys.public(getattr(filled, who))).info()).state


async def test_a_lost_job_is_ready_at_the_place_of_its_birth(filled: Filled) -> None:
    await damage(filled, "ZREM", "scheduled!", "scheduled")
    later = await filled.app.submit("task")
    (remedy,) = (await repair(filled.app, act=True)).remedies
    assert "made ready" in remedy.remedy
    assert (await filled.app.job(filled.keys.public(filled.scheduled)).info()).place == 1  # behind `ready`, which is of a higher priority
    assert (await later.info()).place == 2


async def test_a_lease_that_runs_wins_over_every_other_place(filled: Filled) -> None:
    for place, score in (("ready", 500 * STEP + 9), ("scheduled", 5), ("dead", 9)):
        await damage(filled, "ZADD", f"{place}!", score, "leased")
    done = await repair(filled.app, act=True)
    assert done.after.clean
    assert await state_of(filled, "leased") == "running"
    assert await filled.ask(broker.plain(_bytes, "ZSCORE", filled.keys.leases, filled.member))


async def test_a_lease_that_is_over_yields_to_ready(filled: Filled) -> None:
    await damage(filled, "ZADD", "leases!", LONG_AGO, "member")
    await damage(filled, "ZADD", "ready!", 500 * STEP + 9, "leased")
    assert (await repair(filled.app, act=True)).after.clean
    assert await state_of(filled, "leased") == "ready"


async def test_a_lease_that_nobody_took_back_counts_as_a_crash(filled: Filled) -> None:
    await damage(filled, "ZADD", "leases!", LONG_AGO, "member")
    assert (await repair(filled.app, act=True)).after.clean
    info = await filled.app.job(filled.keys.public(filled.leased)).info()
    assert (info.state, info.attempts, info.crashes) == ("ready", 1, 1)


async def test_a_lease_without_end_ends_where_nobody_renews_it(filled: Filled) -> None:
    await damage(filled, "ZADD", "leases!", "inf", "member")
    assert (await repair(filled.app, act=True)).after.clean
    await eventually(lambda: filled.ask(broker.reclaim(filled.keys, 500)), "the lease to be taken back")
    assert await state_of(filled, "leased") == "ready"


async def test_of_two_living_jobs_with_one_key_the_one_without_it_goes_on_without(filled: Filled) -> None:
    await damage(filled, "HSET", "unique!", "=mine", "leased")
    await damage(filled, "HSET", "unique!", "leased", "mine")
    await damage(filled, "HDEL", "unique!", "=key1")
    done = await repair(filled.app, act=True)
    assert done.after.clean
    assert [remedy.remedy for remedy in done.remedies if "goes on without" in remedy.remedy]
    assert (await filled.app.submit("task", options={"unique": "mine"})).place[1] == filled.leased
    assert await state_of(filled, "ready") == "ready"


@pytest.mark.parametrize("readable", [True, False])
async def test_a_body_under_a_name_that_is_no_id_is_dead_with_the_reason(filled: Filled, readable: bool) -> None:
    body = pack_envelope(Envelope("task", []), 1000) if readable else b"\xff garbage"
    await filled.command("HSET", filled.keys.jobs, b"x\xff", b"\x00" * 6 + b"\x01\x02" + body)
    await filled.command("ZADD", filled.keys.ready, 500 * STEP + 9, b"x\xff")
    done = await repair(filled.app, act=True)
    assert done.after.clean
    infos = {info.id: info for info in await filled.app.queue("default").dead.list()}
    (moved,) = [info for info in infos.values() if info.errors and info.errors[-1].type == "Misplaced"]
    assert "which is no job id" in moved.errors[-1].message
    await filled.app.queue("default").dead.replay(moved.id)
    async with worker_for(filled.app):
        job = filled.app.job(moved.id)
        if readable:
            assert await job.result(timeout=10) == "ran"
        else:
            await eventually(lambda: is_dead(job), "it to be dead again, with what is wrong with it")
            assert (await job.info()).errors[-1].type == "Undecodable"


async def is_dead(job: Any) -> bool:
    return bool((await job.info()).state == "dead")


async def test_many_damages_at_once_are_mended_in_one_go(filled: Filled) -> None:
    app = filled.app
    jobs = await app.submit_many(Call("task", (), {}, read_options({})) for _ in range(1_200))
    lost = [job.place[1] for job in jobs[:500]]
    await filled.command("ZREM", filled.keys.ready, *lost)
    await filled.command("HDEL", filled.keys.jobs, *[job.place[1] for job in jobs[500:600]])
    done = await repair(app, act=True)
    assert done.after.clean
    assert len(done.remedies) == 600
    assert (await app.queue("default").counts()).ready == 1_100 + 1


# --- fenced against what goes on meanwhile ----------------------------------------------------------------------------


async def test_a_change_is_refused_when_the_job_has_moved_on(filled: Filled) -> None:
    keys, lost = filled.keys, filled.scheduled.encode()
    await damage(filled, "ZREM", "scheduled!", "scheduled")
    seen = Seen(*await filled.ask(mending.amend(keys, 1000, lost)))
    change = decide(lost, seen, 500)
    assert change is not None
    assert change.place == "ready"
    await damage(filled, "ZADD", "dead!", 9, "scheduled")
    before = await snapshot(filled)
    again = Seen(*await filled.ask(mending.amend(keys, 1000, lost, seen.digest, [change.place, change.score, b"", ""])))
    assert (again.done, again.died) == (0, b"9")
    assert await snapshot(filled) == before
    assert decide(lost, again, 500) is None


async def test_what_is_in_order_is_left_by_every_script(filled: Filled) -> None:
    before = await snapshot(filled)
    for who in ("ready", "scheduled", "leased", "dead"):
        job_id = getattr(filled, who).encode()
        assert decide(job_id, Seen(*await filled.ask(mending.amend(filled.keys, 1000, job_id))), 500) is None, who
        for field in (job_id, b"=mine", b"=key0", b"=key1"):
            assert await filled.ask(mending.rekey(filled.keys, job_id, field, act=True)) == ""
        assert await filled.ask(mending.sweep(filled.keys, job_id, "new", b"", act=True)) == ""
    assert await filled.ask(mending.sweep(filled.keys, b"nowhere", "new", b"", act=True)) == ""
    assert await snapshot(filled) == before


async def test_a_job_with_too_many_leases_beside_it_is_left(filled: Filled) -> None:
    await damage(filled, "ZREM", "scheduled!", "scheduled")
    seen = Seen(*await filled.ask(mending.amend(filled.keys, 0, filled.scheduled.encode())))
    change = decide(filled.scheduled.encode(), seen, 500)
    assert change is not None
    assert (change.place, change.why[:5]) == (None, "left:")


async def test_a_queue_at_work_is_repaired_while_its_jobs_run_once_each(server: Any) -> None:
    app = Bananas(server.url, namespace="busy-repair", call_timeout=5)
    runs: dict[str, int] = {}

    @app.task(max_retries=1_000_000)
    async def snoozes() -> None:
        raise Snooze(0.001)

    @app.task(result_ttl=0)
    async def works(name: str) -> None:
        runs[name] = runs.get(name, 0) + 1

    names = [f"job {number}" for number in range(300)]
    async with worker_for(app, worker_concurrency=20):
        for _ in range(10):
            await app.submit(snoozes.name)
        lost = await app.submit_many(works.options(delay=600).bind(name) for name in names)
        keys = app.producer.keys("default")
        for start in range(0, 300, 100):
            ids = [job.place[1] for job in lost[start : start + 100]]
            await app.client.ask(keys, broker.plain(int, "ZREM", keys.scheduled, *ids), "damaging")
            busy = asyncio.gather(*[app.submit(works.name, f"other {start} {number}") for number in range(200)])
            done = await repair(app, act=True)
            assert done.after.clean
            assert {remedy.finding.id for remedy in done.remedies} == set(ids)
            await busy
        await eventually(lambda: len(runs) == 900, "every job to run")
        assert set(runs.values()) == {1}
    await app.close()


async def test_the_dead_letter_of_a_sweep_says_what_happened(filled: Filled) -> None:
    await filled.command("HSET", filled.keys.jobs, "garbage", "12345678 body")
    await repair(filled.app, act=True)
    records = (await snapshot(filled))["tries"].values()
    assert [error.type for record in records for error in unpack_tries(record).history.errors] == ["Misplaced"]
    assert BOOT not in str(records)
