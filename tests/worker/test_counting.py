"""What a worker counts: outcomes, waits and runs by task, on the server within a second, and read back as history."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import eventually

from bananas import Bananas, Dead, Discard, Retry, broker, operate
from bananas.broker import Tallied
from bananas.codec import unpack
from bananas.errors import BrokerError
from bananas.keys import task_tag
from bananas.operate.history import Depth
from bananas.tally import DEAD, OTHER, RETRIED, SUCCESS
from bananas.testing import worker_for
from bananas.worker.counting import Counting
from bananas.worker.turn import Turn

if TYPE_CHECKING:
    from bananas.operate import History

Outcomes = dict[str, tuple[int, int, int, int]]


def declare(app: Bananas) -> dict[str, Any]:
    @app.task
    async def fine(seconds: float = 0.0) -> None:
        await asyncio.sleep(seconds)

    @app.task(max_retries=1, retry=Retry(base=0.01))
    async def failing() -> None:
        raise ValueError("no")

    @app.task
    async def hopeless() -> None:
        raise Dead("never")

    @app.task
    async def unwanted() -> None:
        raise Discard("not today")

    return {"fine": fine, "failing": failing, "hopeless": hopeless, "unwanted": unwanted}


def outcomes(history: History) -> Outcomes:
    return {each.task: (each.success, each.retried, each.dead, each.other) for each in history.tasks}


async def keys_of_stats(app: Bananas) -> list[str]:
    keys = app.producer.keys("default")
    found: list[str] = []
    cursor: Any = 0
    while True:
        request = broker.plain(tuple, "SCAN", cursor, "MATCH", keys.base.replace("{", "\\{") + "stats:*", "COUNT", 1000)
        cursor, names = await app.client.ask(keys, request, "looking")
        found += [name.decode() for name in names]
        if int(cursor) == 0:
            return found


async def test_what_ran_is_in_the_history_soon_by_task_and_outcome(app: Bananas) -> None:
    tasks = declare(app)
    async with worker_for(app):
        for _ in range(7):
            await tasks["fine"].submit()
        await tasks["hopeless"].submit()
        await tasks["unwanted"].submit()
        expected = {"fine": (7, 0, 0, 0), "hopeless": (0, 0, 1, 0), "unwanted": (0, 0, 0, 1)}

        async def told() -> bool:
            return outcomes(await operate.history(app, 5)) == expected

        await eventually(told, "the counts on the server")
        history = await operate.history(app, 5)
    (fine,) = [each for each in history.tasks if each.task == "fine"]
    assert fine.queue == "default"
    assert fine.wait is not None
    assert fine.wait.count == 7
    assert 0 <= fine.wait.p50_ms <= fine.wait.p99_ms
    assert fine.run is not None
    assert fine.run.count == 7
    assert 0 < fine.run.p50_ms <= fine.run.p99_ms
    assert sum(point.success for point in history.points) == 7
    depths = [point.depth for point in history.points if point.depth is not None]
    assert depths[-1] == Depth(0, 0, 0, 0, 1)
    assert (await operate.totals(app))["default"]["fine"].outcomes[SUCCESS] == 7


async def test_a_failure_that_is_tried_again_and_the_last_one_are_two_things(app: Bananas) -> None:
    tasks = declare(app)
    async with worker_for(app) as worker:
        await tasks["failing"].submit()
        await worker.run_until_idle(include_scheduled=True)
    counts = (await operate.totals(app))["default"]["failing"]
    assert (counts.outcomes[RETRIED], counts.outcomes[DEAD], counts.run.count) == (1, 1, 2)


async def test_a_worker_that_ends_sends_what_it_has_counted(app: Bananas) -> None:
    tasks = declare(app)
    async with worker_for(app) as worker:
        await tasks["fine"].submit()
        await worker.run_until_idle()
    assert (await operate.totals(app))["default"]["fine"].outcomes[SUCCESS] == 1


async def test_a_job_that_ends_without_a_run_is_counted_too(app: Bananas) -> None:
    tasks = declare(app)
    await tasks["fine"].options(expires_in=0.001).submit()
    await eventually_later(app)
    async with worker_for(app) as worker:
        await worker.run_until_idle()
    counts = (await operate.totals(app))["default"]["fine"]
    assert (counts.outcomes[OTHER], counts.run.count, counts.wait.count) == (1, 0, 1)


async def eventually_later(app: Bananas) -> None:
    """A server's millisecond or two have passed."""

    async def now_ms() -> int:
        seconds, microseconds = await app.client.ask_home(app.settings.namespace, broker.plain(tuple, "TIME"), "looking")
        return int(seconds) * 1000 + int(microseconds) // 1000

    began = await now_ms()

    async def passed() -> bool:
        return await now_ms() > began + 5

    await eventually(passed, "five milliseconds")


async def test_where_nothing_is_to_be_counted_no_key_is_written(app: Bananas) -> None:
    tasks = declare(app)
    async with worker_for(app, stats_ttl=0) as worker:
        await tasks["fine"].submit()
        await worker.run_until_idle()
    assert await keys_of_stats(app) == []


async def test_minutes_are_kept_as_long_as_the_setting_says(app: Bananas) -> None:
    tasks = declare(app)
    async with worker_for(app, stats_ttl=100) as worker:
        await tasks["fine"].submit()
        await worker.run_until_idle()
    keys = app.producer.keys("default")
    for name in await keys_of_stats(app):
        ttl = await app.client.ask(keys, broker.plain(int, "TTL", name), "looking")
        assert (ttl == -1) if name.endswith(":total") else (0 < ttl <= 100), name


async def test_waits_of_jobs_of_several_tasks_and_priorities_are_told_apart(app: Bananas) -> None:
    tasks = declare(app)
    for priority in ("low", "high", "normal"):
        await tasks["fine"].options(priority=priority).submit()
        await tasks["unwanted"].options(priority=priority).submit()
    async with worker_for(app) as worker:
        await worker.run_until_idle()
    counts = (await operate.totals(app))["default"]
    assert {name: each.wait.count for name, each in counts.items()} == {"fine": 3, "unwanted": 3}


def test_waits_are_counted_by_bucket_whatever_their_order(app: Bananas) -> None:
    counting = Counting(app.producer.keys("default"), "boot", {"0" * 8: "task"}, 1000)
    now_ms = 1_000_000
    waits_ms = [0, 0, 3, 3, 3, 900, 900, 70_000] * 20
    scores = [str(500 * 2**42 + now_ms - ms).encode() for ms in sorted(waits_ms, reverse=True)]
    scores += [str(900 * 2**42 + now_ms - 5).encode()] * 3
    ids = [b"f" * 32 + b"0" * 8 + b"1f4"] * len(scores)
    counting.claimed(now_ms, ids, scores)
    whole = Counting(app.producer.keys("default"), "boot", {"0" * 8: "task"}, 1000)
    for job_id, score in zip(ids, scores, strict=True):
        whole.claimed(now_ms, [job_id], [score])
    assert counting._counts["0" * 8].wait.buckets == whole._counts["0" * 8].wait.buckets


async def test_what_is_sent_again_is_counted_once(app: Bananas) -> None:
    keys, tag = app.producer.keys("default"), task_tag("fine")
    request = broker.tally(keys, "boot", 1, 60_000, Tallied(28_000_000, {tag: "fine"}, {f"{tag}:0": 4}))
    assert await app.client.ask(keys, request, "counting") is True
    assert await app.client.ask(keys, request, "counting") is True
    assert (await operate.totals(app))["default"]["fine"].outcomes[SUCCESS] == 4


async def test_the_number_of_minutes_is_within_what_is_kept(app: Bananas) -> None:
    for minutes in (0, 2_881):
        with pytest.raises(ValueError, match="2880"):
            await operate.history(app, minutes)
    longest = await operate.history(app, 2_880)
    assert longest.step_s == 20 * 60
    assert len(longest.points) in (144, 145)


async def test_a_long_range_tells_what_its_minutes_tell(app: Bananas) -> None:
    tasks = declare(app)
    for name, count in (("fine", 5), ("failing", 2), ("unwanted", 1)):
        for _ in range(count):
            await tasks[name].submit()
    await tasks["fine"].options(delay=3_600).submit()
    async with worker_for(app) as worker:
        await eventually(lambda: worker._engine.runner.finished == 10, "eight jobs and two retries")
    short, day, two_days = [await operate.history(app, minutes) for minutes in (60, 1_440, 2_880)]
    assert (short.step_s, day.step_s) == (60, 600)
    assert short.tasks == day.tasks == two_days.tasks
    assert outcomes(day) == {"fine": (5, 0, 0, 0), "failing": (0, 2, 2, 0), "unwanted": (0, 0, 0, 1)}
    last = day.points[-1] if day.points[-1].depth else day.points[-2]  # ten minutes may have ended meanwhile
    assert last.depth == Depth(high=0, normal=0, low=0, scheduled=1, dead=2)


async def test_what_was_counted_is_read_by_queue(app: Bananas) -> None:
    tasks = declare(app)
    await tasks["fine"].submit()
    await tasks["fine"].options(queue="email").submit()
    async with worker_for(app, worker_routing_keys=("default", "email")) as worker:
        await worker.run_until_idle()
    assert [(each.queue, each.success) for each in (await operate.history(app, 5)).tasks] == [("default", 1), ("email", 1)]
    assert [(each.queue, each.success) for each in (await operate.history(app, 5, "email")).tasks] == [("email", 1)]


def test_a_part_of_a_turn_that_is_not_vital_may_be_refused() -> None:
    heard: list[Any] = []
    turn, request = Turn(), broker.plain(unpack, "PING")
    turn.add(request, heard.append)
    turn.add(request, heard.append, vital=False)
    refused = BrokerError("NOPERM")
    turn.read(["one", refused])
    assert heard == ["one", refused]
    with pytest.raises(BrokerError):
        turn.read([refused, "two"])
    assert heard[-1] == "two"


def test_nothing_is_due_where_nothing_was_counted(app: Bananas) -> None:
    counting = Counting(app.producer.keys("default"), "boot", {}, 1000)
    assert counting.due_in_s(time.monotonic()) == float("inf")
    counting.left(b"f" * 32 + b"0" * 8 + b"1f4", OTHER)
    assert counting.due_in_s(time.monotonic()) == 0
