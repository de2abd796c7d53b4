"""Workers that are killed, stopped or blocked while they run jobs: who runs the job then, and whose outcome counts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest
from tests.support import eventually, is_gone, kill

from bananas import TaskError, broker
from bananas.address import parse_url
from bananas.connection import SyncConnection
from bananas.errors import QueueFull, ResultsDisabled
from bananas.inspector import workers
from bananas.keys import workers_key

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site

    from bananas import Job, JobInfo
    from bananas.server import PrivateServer

with_time = pytest.mark.parametrize("lease", [1.0])  # for leases that must be kept


# --- killed -----------------------------------------------------------------------------------------------------------


@with_time
async def test_a_killed_process_is_replaced_and_its_job_runs_at_once_with_a_crash_counted_and_no_attempt(site: Site) -> None:
    worker, gate = site.worker(worker_processes=2), site.gate()
    before = set(worker.children())
    assert len(before) == 2
    job, first = await site.running(str(gate))
    kill(first.pid)
    killed = time.monotonic()
    second = await site.started(job, 2)
    assert second.at_ns / 1e9 - killed < site.lease, "before its lease ended"
    assert (second.attempt, second.pid != first.pid, second.fence > first.fence) == (1, True, True)
    info = await job.info()
    assert (info.attempts, info.crashes) == (0, 1)
    gate.touch()
    assert await job.result(timeout=10) == second.pid
    await asyncio.to_thread(worker.ready, 3)

    async def registered() -> bool:
        children = set(worker.children())
        return len(children) == 2 and {info.pid for info in await workers(site.app)} == children

    await eventually(registered, "a new process in the registry")
    assert first.pid not in worker.children()
    await site.assert_nothing_left()
    assert worker.stop() == 0


async def test_a_killed_tree_is_taken_over_after_lease_and_grace_and_its_isolated_process_ends(site: Site) -> None:
    doomed, gate = site.worker(), site.gate()
    isolated = await (await site.app.submit("pid_isolated")).result(timeout=15)
    jobs = [(await site.running(str(gate)))[0] for _ in range(3)]
    heir = site.worker()
    doomed.kill_tree(isolated)
    killed = time.monotonic()
    for job in jobs:

        async def taken_back(job: Job[int] = job) -> JobInfo | None:
            info = await job.info()
            return info if info.crashes else None

        info = await eventually(taken_back, "the job taken back")
        assert (info.attempts, info.crashes) == (0, 1)
    assert site.lease * 0.6 < time.monotonic() - killed < site.lease * 1.5 + 2
    gate.touch()
    for job in jobs:
        assert await job.result(timeout=10) in heir.children()
    await eventually(lambda: is_gone(isolated), "the end of the isolated process")


@with_time
async def test_an_orphaned_process_stops_by_itself_and_hands_its_job_back(site: Site) -> None:
    worker, gate = site.worker(), site.gate()
    job, first = await site.running(str(gate))
    kill(worker.pid)
    heir = site.start()
    await eventually(lambda: is_gone(first.pid), "the end of the process without a supervisor")
    gate.touch()
    assert await job.result(timeout=10) in heir.children()
    assert [line.pid for line in site.ledger.lines("end", job.id)] == heir.children()
    await site.assert_nothing_left()


async def test_a_poison_is_dead_after_three_crashes_alone_and_its_neighbours_are_unharmed(site: Site) -> None:
    await site.app.queue("default").pause()
    innocents = await site.submit_many(50, "work", 0.05)
    culprit = await site.app.submit("poison")
    await site.app.queue("default").resume()
    site.start(worker_concurrency=51)
    with pytest.raises(TaskError, match="3 worker processes died while they ran this job alone") as caught:
        await culprit.result(timeout=40)
    assert (caught.value.state, caught.value.error_type, caught.value.attempts) == ("dead", "Poison", 0)
    assert (await culprit.info()).crashes >= 3
    for job in innocents:
        assert await job.result(timeout=20) == "done"
        assert (await job.info()).attempts == 1
    verdict = site.ledger.judge(job.id for job in innocents)
    assert not verdict.lost
    assert not verdict.ended_twice
    assert len(site.ledger.lines("start", culprit.id)) <= 4
    await site.assert_nothing_left()


@with_time
async def test_processes_that_die_over_and_over_do_not_cost_their_neighbour_its_lease(site: Site) -> None:
    worker, gate = site.worker(worker_processes=3), site.gate()
    job, steady = await site.running(str(gate))
    killed: set[int] = set()

    def kill_the_others() -> bool:
        others = set(worker.children()) - killed - {steady.pid}
        if len(others) == 2:
            for pid in others:
                kill(pid)
            killed.update(others)
        return len(killed) >= 14  # more than ten in ten seconds: the next ones are started with a pause

    await eventually(kill_the_others, "fourteen deaths", 30)
    await eventually(lambda: len(set(worker.children()) - killed) == 3, "the last ones are replaced")
    gate.touch()
    assert await job.result(timeout=10) == steady.pid
    assert site.ledger.lines("untrusted") == []
    assert worker.stop() == 0


# --- stopped ----------------------------------------------------------------------------------------------------------


async def test_workers_stopped_past_their_leases_give_their_jobs_up_and_the_second_runs_count(site: Site) -> None:
    """One by its child, one by its supervisor, one as a whole; two jobs end elsewhere meanwhile, and one later."""
    victims = site.workers(3, worker_concurrency=1)
    gates = [site.gate(str(number)) for number in range(3)]
    jobs = [await site.running(str(gate)) for gate in gates]  # each has one slot, and so one job
    owners = [next(victim for victim in victims if first.pid in victim.children()) for _, first in jobs]
    heir = site.worker(worker_concurrency=1, worker_processes=3)  # what was taken back runs alone in its process
    stopped = [jobs[0][1].pid, owners[1].pid, owners[2].pid, jobs[2][1].pid]
    for pid in stopped:
        kill(pid, signal.SIGSTOP)
    second = [await site.started(job, 2) for job, _ in jobs]
    assert {line.pid for line in second} == set(heir.children())
    for number in (0, 2):
        gates[number].touch()
        assert await jobs[number][0].result(timeout=10) == second[number].pid
    for pid in stopped:
        kill(pid, signal.SIGCONT)
    for (_, first), owner in zip(jobs, owners, strict=True):
        await eventually(lambda owner=owner: "ease lost" in owner.log, "word of the lost lease")
        assert first.pid in owner.children()
    gates[1].touch()
    for (job, first), line in zip(jobs, second, strict=True):
        assert line.fence > first.fence
        assert await site.app.job(job.id).result(timeout=10) == line.pid, "the late outcome changes nothing"
    assert [line.pid for line in site.ledger.lines("end", jobs[1][0].id)] == [second[1].pid], "it was stopped before it ended"
    assert heir.stop() == 0
    gate = site.gate("again")
    again = {(await site.running(str(gate)))[1].pid for _ in range(3)}
    assert again == {first.pid for _, first in jobs}, "they work on"
    gate.touch()
    await site.assert_nothing_left()


# --- a full server ----------------------------------------------------------------------------------------------------


async def test_a_worker_that_is_idle_asks_on_until_the_server_is_full_no_more(site: Site, place: PrivateServer) -> None:
    connection, asked = SyncConnection(parse_url(place.url)), 0

    def looks() -> int:
        """How often others asked for INFO."""
        nonlocal asked
        asked += 1
        (stats,) = connection.execute([("INFO", "commandstats")], 5)
        found = re.search(rb"cmdstat_info:calls=(\d+)", stats)
        return int(found[1]) - asked if found else 0

    connection.execute([("CONFIG", "RESETSTAT")], 5)
    site.worker()
    gate = site.gate()
    await site.running(str(gate))
    try:
        connection.execute([("CONFIG", "SET", "maxmemory", 1)], 5)
        before = looks()
        await eventually(lambda: looks() >= before + 2, "the worker to see that the server is full")
        gate.touch()
        await eventually(site.idle, "the end of the job")
        before = looks()  # one may be under way
        await eventually(lambda: looks() > before + 1, "the idle worker to ask on", 5)
    finally:
        connection.execute([("CONFIG", "SET", "maxmemory", 0)], 5)
        connection.close()


async def test_a_worker_that_starts_on_a_full_server_drains_its_queue(site: Site, place: PrivateServer) -> None:
    jobs = await site.submit_many(20, "double", 1)
    connection = SyncConnection(parse_url(place.url), "test", 5)
    try:
        connection.execute([("CONFIG", "SET", "maxmemory", 1)], 5)
        with pytest.raises(QueueFull):
            await site.app.submit("double", 1)
        site.worker()
        for job in jobs:
            with contextlib.suppress(ResultsDisabled):  # a result that is larger than its job is dropped on a full server
                assert await job.result(timeout=15) == 2
    finally:
        connection.execute([("CONFIG", "SET", "maxmemory", 0)], 5)
        connection.close()
    await site.assert_nothing_left()


@pytest.mark.parametrize("lease", [2.0])
async def test_an_idle_worker_beats_half_as_often_and_stays_in_the_registry(site: Site) -> None:
    site.worker()
    key, seen = workers_key(site.namespace), list[int]()

    async def lived(count: int) -> bool:
        records = (
            await site.app.client.here()
            .lanes.home(site.app.settings.namespace)
            .ask(None, [broker.plain(list, "HVALS", key)], 5, "reading the registry")
        )
        (expiries,) = [[int.from_bytes(record[:8], "big") for record in found] for found in records]
        assert len(expiries) == 1
        if expiries[0] not in seen:
            seen.append(expiries[0])
        return len(seen) >= count

    await eventually(lambda: lived(4), "four signs of life")
    apart = [later - earlier for earlier, later in itertools.pairwise(seen[1:])]  # the first is that of its start
    assert min(apart) >= 0.4 * site.lease * 1000
    assert max(apart) < 1.5 * site.lease * 1000, "the entry would have expired meanwhile"
