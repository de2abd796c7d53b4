"""Many jobs while workers or the server are killed: nothing is lost, and the ledger that says so can see when something is."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.conftest import Site
from tests.workers import Ledger, kill, wait_for

from bananas.inspector import audit
from bananas.server import PrivateServer, find_server_binary
from bananas.task import Call

if TYPE_CHECKING:
    from pathlib import Path

    from tests.workers import WorkerProcess

    from bananas import Job

JOBS = 2_000


async def submit_many(site: Site, count: int, task: str, *args: Any) -> list[Job[Any]]:
    return await site.app.submit_many(Call(task, args, {}) for _ in range(count))


async def at_rest(site: Site) -> bool:
    counts = await site.app.queue("default").counts()
    return counts.ready + counts.scheduled + counts.running == 0


def at_work(site: Site, worker: WorkerProcess, since_ns: int) -> bool:
    """Whether a process of this worker has started a job since."""
    pids = set(worker.children())
    return any(line.pid in pids and line.at_ns > since_ns for line in site.ledger.lines("start"))


async def assert_all_ran(site: Site, jobs: list[Job[Any]]) -> None:
    """Every job ran to its end, nobody else's did, and nothing is left on the server."""
    verdict = site.ledger.judge(job.id for job in jobs)
    assert (len(verdict.lost), verdict.ghosts) == (0, set())
    counts = await site.app.queue("default").counts()
    assert (counts.ready, counts.scheduled, counts.running, counts.dead) == (0, 0, 0, 0)
    assert (await audit(site.app)).findings == ()


def test_the_ledger_finds_a_lost_and_a_doubled_job(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    lines = [f"{word} job{n} 1 {n} 99 1" for n in range(10) for word in ("start", "end")]
    ledger.path.write_text("\n".join([*lines[:-1], lines[0], lines[1], "start stranger 1 1 99 1"]) + "\n")
    verdict = ledger.judge(f"job{n}" for n in range(10))
    assert (verdict.lost, verdict.ghosts, verdict.ended_twice, verdict.runs) == ({"job9"}, {"stranger"}, {"job0"}, 12)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("slots", [10, pytest.param(5, marks=pytest.mark.slow)])
async def test_no_job_is_lost_while_a_worker_is_killed_every_300_ms(site: Site, slots: int) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201  # shown when the test fails
    dice = random.Random(seed)
    workers = [site.worker(worker_concurrency=slots), site.worker(worker_concurrency=slots)]
    jobs = await submit_many(site, JOBS, "five_ms")
    deadline, kills = time.monotonic() + 150, 0
    next_kill = time.monotonic() + 0.3
    while not await at_rest(site):
        assert time.monotonic() < deadline, (kills, await site.app.queue("default").counts())
        if time.monotonic() >= next_kill:
            next_kill, kills = time.monotonic() + 0.3, kills + 1
            index = dice.randrange(2)
            children = workers[index].children()
            if children and dice.random() < 0.7:
                kill(dice.choice(children))
            else:
                kill(workers[index].pid)
                workers[index].process.wait()
                workers[index] = site.start(worker_concurrency=slots)
        await asyncio.sleep(0.02)
    assert kills >= 3
    await assert_all_ran(site, jobs)
    verdict = site.ledger.judge(job.id for job in jobs)
    print(f"{kills} kills, {verdict.runs - JOBS} runs more than jobs")  # noqa: T201


@pytest.mark.timeout(90)
async def test_nothing_is_lost_when_the_server_is_killed_and_every_worker_consumes_again_within_5_s(
    tmp_path: Path, server_kind: str
) -> None:
    with PrivateServer(tmp_path / "data", binary=find_server_binary(server_kind), appendonly=True) as server:
        site = Site(server.url, tmp_path, call_timeout=15.0)
        try:
            workers = [site.worker(), site.worker()]
            gate = site.gate()
            long_one = (await submit_many(site, 1, "follow", str(gate)))[0]
            await asyncio.to_thread(wait_for, lambda: site.ledger.lines("start", long_one.id), "the long job")
            jobs = [long_one, *await submit_many(site, 500, "work", 0.02)]
            for _ in range(2):
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                back_ns = time.monotonic_ns()
                jobs += await submit_many(site, 400, "work", 0.02)
                for worker in workers:
                    await asyncio.to_thread(wait_for, partial(at_work, site, worker, back_ns), "each worker at work again", 5.0)
            gate.touch()
            deadline = time.monotonic() + 40
            while not await at_rest(site):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            await assert_all_ran(site, jobs)
            assert len(site.ledger.lines("start", long_one.id)) == 1
            assert [worker.stop() for worker in workers] == [0, 0]
        finally:
            site.close()
            await site.app.close()


@pytest.mark.timeout(90)
@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_server_away_for_longer_than_the_lease_costs_no_second_run(tmp_path: Path, server_kind: str, how: str) -> None:
    with PrivateServer(tmp_path / "data", binary=find_server_binary(server_kind), appendonly=True) as server:
        site = Site(server.url, tmp_path, call_timeout=15.0)
        try:
            workers = [site.worker(), site.worker()]
            gate = site.gate()
            jobs = await submit_many(site, 4, "follow", str(gate))
            await asyncio.to_thread(wait_for, lambda: len(site.ledger.lines("start")) == 4, "the jobs")
            assert server.pid is not None
            if how == "killed":
                server.kill()
            else:
                os.kill(server.pid, signal.SIGSTOP)
            await asyncio.to_thread(wait_for, lambda: len(site.ledger.lines("untrusted")) == 4, "handlers that know of their lease's end")
            assert site.ledger.lines("end") == []
            if how == "killed":
                await asyncio.to_thread(server.start)
            else:
                os.kill(server.pid, signal.SIGCONT)
            probe = await site.app.submit("double", 1)
            assert await probe.result(timeout=5) == 2
            gate.touch()
            for job in jobs:
                await job.result(timeout=10)
            assert len(site.ledger.lines("start")) == 4
            assert (await audit(site.app)).findings == ()
            assert [worker.stop() for worker in workers] == [0, 0]
        finally:
            site.close()
            await site.app.close()
