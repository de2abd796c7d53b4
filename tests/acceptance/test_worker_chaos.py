"""Many jobs while workers or the server are killed: nothing is lost, and the ledger that says so can see when something is."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.conftest import Site
from tests.support import eventually, kill
from tests.workers import Ledger

from bananas import Job
from bananas.server import PrivateServer, find_server_binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.workers import WorkerProcess

JOBS = 2_000


def at_work(site: Site, worker: WorkerProcess, since_ns: int) -> bool:
    """Whether a process of this worker has started a job since."""
    pids = set(worker.children())
    return any(line.pid in pids and line.at_ns > since_ns for line in site.ledger.lines("start"))


async def assert_all_ran(site: Site, jobs: list[Job[None]], timeout: float) -> None:
    """Every job runs to its end, nobody else's did, and nothing is left on the server."""
    await site.assert_nothing_left(timeout)
    verdict = site.ledger.judge(job.id for job in jobs)
    assert (len(verdict.lost), verdict.ghosts) == (0, set())
    assert (await site.app.queue("default").counts()).dead == 0


def test_the_ledger_finds_a_lost_and_a_doubled_job(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    lines = [f"{word} job{n} 1 {n} 99 1" for n in range(10) for word in ("start", "end")]
    ledger.path.write_text("\n".join([*lines[:-1], lines[0], lines[1], "start stranger 1 1 99 1"]) + "\n")
    verdict = ledger.judge(f"job{n}" for n in range(10))
    assert (verdict.lost, verdict.ghosts, verdict.ended_twice, verdict.runs) == ({"job9"}, {"stranger"}, {"job0"}, 12)


# --- workers ----------------------------------------------------------------------------------------------------------


class Killer:
    """Kills one process that has begun to work, or its supervisor, which is then started anew."""

    def __init__(self, site: Site, slots: int, most: int) -> None:
        self._site, self._slots, self._most = site, slots, most
        self._workers = site.workers(2, worker_concurrency=slots)
        seed = random.randrange(2**32)
        print(f"seed {seed}")  # noqa: T201  # shown when the test fails
        self._dice = random.Random(seed)
        self.kills = 0

    def strike(self) -> None:
        """One kill, if there is somebody to kill, and not too many were."""
        begun = {line.pid for line in self._site.ledger.lines("start")}
        working = [(number, pid) for number, worker in enumerate(self._workers) for pid in worker.children() if pid in begun]
        if not working or self.kills >= self._most:
            return
        number, pid = self._dice.choice(working)
        self.kills += 1
        if self._dice.random() < 0.7:
            kill(pid)
        else:
            kill(self._workers[number].pid)
            self._workers[number].wait()
            self._workers[number] = self._site.start(worker_concurrency=self._slots)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("slots", "most_kills"), [(10, 8), pytest.param(10, 10_000, marks=pytest.mark.slow), pytest.param(5, 10_000, marks=pytest.mark.slow)]
)
async def test_no_job_is_lost_while_a_worker_is_killed_every_300_ms(site: Site, slots: int, most_kills: int) -> None:
    killer, jobs = Killer(site, slots, most_kills), list[Job[None]]()
    next_s = time.monotonic() + 0.3

    async def ended() -> bool:
        nonlocal next_s
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + 0.3
            killer.strike()
        return await site.idle()

    while killer.kills < 3:  # a fast machine is through with the first ones before that
        jobs += await site.submit_many(JOBS, "five_ms")
        await eventually(ended, "the end of all jobs", 150)
    await assert_all_ran(site, jobs, 10)
    print(f"{killer.kills} kills, {site.ledger.judge(job.id for job in jobs).runs - len(jobs)} runs more than jobs")  # noqa: T201


# --- the server -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def mortal(tmp_path: Path, server_kind: str) -> AsyncIterator[tuple[PrivateServer, Site]]:
    """A server of the test's own, which keeps what it has acknowledged: with everysec, a write may wait for the disk when it is killed."""
    with PrivateServer(
        tmp_path / "data", binary=find_server_binary(server_kind), appendonly=True, settings={"appendfsync": "no"}
    ) as server:
        site = Site(server.url, tmp_path, lease=0.5, call_timeout=15.0)
        yield server, site
        site.kill()
        await site.app.close()


@pytest.mark.timeout(90)
async def test_nothing_is_lost_when_the_server_is_killed_and_every_worker_consumes_again_within_5_s(
    mortal: tuple[PrivateServer, Site],
) -> None:
    server, site = mortal
    workers = site.workers(2)
    gate = site.gate()
    (long_one,) = await site.submit_many(1, "follow", str(gate))
    await site.started(long_one)
    jobs = [long_one, *await site.submit_many(500, "work", 0.02)]
    for _ in range(2):
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        back_ns = time.monotonic_ns()
        jobs += await site.submit_many(400, "work", 0.02)
        for worker in workers:
            await eventually(partial(at_work, site, worker, back_ns), "each worker at work again", 5)
    gate.touch()
    await assert_all_ran(site, jobs, 40)
    assert len(site.ledger.lines("start", long_one.id)) == 1
    assert [worker.stop() for worker in workers] == [0, 0]


@pytest.mark.timeout(90)
@pytest.mark.parametrize("how", ["killed", "stopped"])
async def test_a_server_away_for_longer_than_the_lease_costs_no_second_run(mortal: tuple[PrivateServer, Site], how: str) -> None:
    server, site = mortal
    workers = site.workers(2)
    gate = site.gate()
    jobs = await site.submit_many(4, "follow", str(gate))
    await eventually(lambda: len(site.ledger.lines("start")) == 4, "the jobs")
    assert server.pid is not None
    if how == "killed":
        server.kill()
    else:
        kill(server.pid, signal.SIGSTOP)
    await eventually(lambda: len(site.ledger.lines("untrusted")) == 4, "handlers that know of their lease's end")
    assert site.ledger.lines("end") == []
    if how == "killed":
        await asyncio.to_thread(server.start)
    else:
        kill(server.pid, signal.SIGCONT)
    probe = await site.app.submit("double", 1)
    assert await probe.result(timeout=5) == 2
    gate.touch()
    for job in jobs:
        await job.result(timeout=10)
    assert len(site.ledger.lines("start")) == 4
    await site.assert_nothing_left()
    assert [worker.stop() for worker in workers] == [0, 0]
