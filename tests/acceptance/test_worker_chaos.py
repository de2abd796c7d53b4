"""A server that is away for longer than the lease; what `bananas chaos` does to servers and workers besides is in tests/faults."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.conftest import Site
from tests.support import eventually, kill
from tests.workers import Ledger

from bananas.server import PrivateServer, find_server_binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


def test_the_ledger_finds_a_lost_and_a_doubled_job(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    lines = [f"{word} job{n} 1 {n} 99 1" for n in range(10) for word in ("start", "end")]
    ledger.path.write_text("\n".join([*lines[:-1], lines[0], lines[1], "start stranger 1 1 99 1"]) + "\n")
    verdict = ledger.judge(f"job{n}" for n in range(10))
    assert (verdict.lost, verdict.ghosts, verdict.ended_twice, verdict.runs) == ({"job9"}, {"stranger"}, {"job0"}, 12)


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
