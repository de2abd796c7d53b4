"""A claim that stands at the server behind the blocking pop: what it brings, and that nothing is lost when it is not wanted any more."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.relay import Relay
from tests.support import eventually

from bananas import Bananas, broker
from bananas.broker import Claim
from bananas.codec import pack_tries
from bananas.inspector import audit
from bananas.job import Tries
from bananas.task import Call
from bananas.testing import worker_for
from bananas.worker import waiter
from bananas.worker.claiming import Claiming

if TYPE_CHECKING:
    from bananas import Job
    from bananas.server import PrivateServer
    from bananas.task import Task
    from bananas.testing import Harness
    from bananas.worker.served import Served

LONG_S = 60.0  # what waits for this has failed its test


@pytest.fixture(autouse=True)
def long_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """No turn comes by itself."""
    monkeypatch.setattr(waiter, "BLOCK_S", LONG_S)


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many jobs each claim brought that stood at the server."""
    counts, answered = list[int](), Claiming.answered_late

    def note(self: Claiming, served: Served, sent_at: float, claim: Claim) -> None:
        counts.append(len(claim.bodies))
        answered(self, served, sent_at, claim)

    monkeypatch.setattr(Claiming, "answered_late", note)
    return counts


@pytest.fixture
def double(app: Bananas) -> Task[[int], int]:
    @app.task
    async def double(number: int) -> int:
        return 2 * number

    return double


def stands(worker: Harness) -> bool:
    (fetcher,) = worker._engine.intake._fetchers
    return fetcher._waiter.stands


async def standing(worker: Harness, task: Task[[int], int]) -> None:
    """Wait until a claim stands: one does when the first marker has come over a connection."""
    assert await (await task.submit(1)).result(10) == 2
    await eventually(lambda: stands(worker), "a claim at the server")


async def test_a_worker_that_is_woken_has_its_job_in_hand(app: Bananas, double: Task[[int], int], brought: list[int]) -> None:
    async with worker_for(app) as worker:
        await standing(worker, double)
        for number in range(20):
            await eventually(lambda: stands(worker), "a claim at the server")
            assert await (await double.submit(number)).result(10) == 2 * number
    assert brought == [1] * 20


async def test_it_takes_few_and_the_next_turn_claims_the_rest(app: Bananas, double: Task[[int], int], brought: list[int]) -> None:
    async with worker_for(app, worker_concurrency=20) as worker:
        await standing(worker, double)
        jobs = await app.submit_many(Call("double", (number,), {}) for number in range(100))
        assert [await job.result(10) for job in jobs] == [2 * number for number in range(100)]
        assert brought[0] == waiter.MOST_AHEAD


@pytest.mark.parametrize(("count", "ahead"), [(waiter.MOST_QUEUES, True), (waiter.MOST_QUEUES + 1, False)])
async def test_of_few_queues_each_is_claimed_ahead(
    app: Bananas, double: Task[[int], int], brought: list[int], count: int, ahead: bool
) -> None:
    queues = [f"queue{number}" for number in range(count)]
    async with worker_for(app, worker_routing_keys=queues) as worker:
        for queue in queues * 3:
            assert await (await double.options(queue=queue).submit(2)).result(10) == 4
            if ahead:
                await eventually(lambda: stands(worker), "a claim of each at the server")
    assert sum(brought) == (3 * count - 1 if ahead else 0)


async def test_a_worker_that_is_full_claims_nothing_ahead(app: Bananas, double: Task[[int], int], brought: list[int]) -> None:
    gate = asyncio.Event()

    @app.task
    async def waits() -> None:
        await gate.wait()

    async with worker_for(app, worker_concurrency=1) as worker:
        await standing(worker, double)
        first, second = await waits.submit(), await double.submit(4)
        await eventually(lambda: worker._engine.runner.running, "the job runs")
        assert not stands(worker)
        assert (await second.info()).state == "ready"
        gate.set()
        await first.result(10)
        assert await second.result(10) == 8


async def test_jobs_that_become_due_wake_it(app: Bananas, double: Task[[int], int], brought: list[int]) -> None:
    async with worker_for(app) as worker:
        await standing(worker, double)
        early = await double.options(delay=0.2).submit(3)  # the claim that its own marker wakes hears of it
        assert await (await double.submit(2)).result(10) == 4
        await eventually(lambda: stands(worker), "a claim at the server")
        assert await early.result(10) == 6
        assert sum(brought) == 2


async def test_a_claim_whose_reply_is_lost_is_undone_and_its_job_runs_once(app: Bananas, server: PrivateServer) -> None:
    started = list[int]()

    @app.task
    async def double(number: int) -> int:
        started.append(number)
        return 2 * number

    async with Relay(server.url) as relay, worker_for(app, relay.url, lease=LONG_S) as worker:
        assert await (await double.submit(1)).result(10) == 2
        await eventually(lambda: stands(worker), "a claim at the server")
        relay.lose_reply(of=b"BZPOPMIN")
        assert await (await double.submit(2)).result(10) == 4
        await eventually(lambda: stands(worker), "a claim whose reply will be lost")
        assert await (await double.submit(3)).result(10) == 6, "long before its lease ends"
        assert relay.lost == 1
        assert started == [1, 2, 3]
        assert (await audit(app)).findings == ()


@pytest.mark.parametrize("early", [True, False])
async def test_a_worker_that_ends_leaves_no_job_leased(app: Bananas, double: Task[[int], int], early: bool) -> None:
    jobs: list[Job[int]] = []
    for number in range(15):
        async with worker_for(app, lease=LONG_S) as worker:
            await standing(worker, double)
            submits = [asyncio.ensure_future(double.submit(number)) for _ in range(3)]
            if early:
                jobs += await asyncio.gather(*submits)
        jobs += [] if early else await asyncio.gather(*submits)
        assert (await app.queue("default").counts()).running == 0
    assert (await audit(app)).findings == ()
    async with worker_for(app):
        assert [await job.result(10) for job in jobs] == [2 * number for number in range(15) for _ in range(3)]


async def test_a_suspect_runs_alone_though_a_claim_stood_when_it_was_found(app: Bananas, double: Task[[int], int]) -> None:
    seen: list[tuple[str, int]] = []

    @app.task
    async def suspicious() -> None:
        other = await double.submit(7)
        seen.extend([((await other.info()).state, len(worker._engine.runner.running)) for _ in range(50)])

    async with worker_for(app, worker_concurrency=8) as worker:
        for _ in range(10):
            await standing(worker, double)
            await app.queue("default").pause()
            job = await suspicious.submit()
            keys, job_id = job.place
            await app.client.ask(keys, broker.plain(int, "HSET", keys.tries, job_id, pack_tries(Tries(crashes=1))), "making a suspect")
            await app.queue("default").resume()
            await job.result(10)
            await worker.run_until_idle()
    assert set(seen) == {("ready", 1)}


async def test_its_lease_counts_from_when_the_server_gave_it(app: Bananas, double: Task[[int], int]) -> None:
    async with worker_for(app) as worker:
        (served,), (fetcher,) = worker._engine.queues, worker._engine.intake._fetchers
        made, taken = fetcher._claiming, list[Any]()
        made._runner = type("Runner", (), {"take": staticmethod(taken.extend)})()
        await app.queue("default").pause()
        now, body = time.monotonic(), bytes(8)

        def came(sent_at: float, server_ms: int) -> float:
            claim = Claim(server_ms, 1, 0, -1, 0, 0, [b"0" * 43, b"1"], [body], [], [])
            made.answered_late(served, sent_at, claim)
            at: float = taken.pop().grant.claimed_at
            return at - now

        made._compared_at, made._server_ms = now - 10, 1_000_000
        assert came(now - 5, 1_009_500) == pytest.approx(-0.5), "by the clocks"
        assert came(now - 5, 2_000_000) == pytest.approx(0, abs=0.1), "never later than now, should the server's clock be set forward"
        assert came(now - 5, 500_000) == pytest.approx(-5), "nor earlier than it was sent, should it be set back"
