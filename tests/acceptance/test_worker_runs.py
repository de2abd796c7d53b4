"""How one job runs and ends, on one worker that all of these tests share."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import eventually, is_gone

from bananas import Job, ResultsDisabled, Retry, TaskError, broker
from bananas.broker import NewJob
from bananas.inspector import audit, workers
from bananas.keys import id_suffix, new_id

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site

WORKER = {"worker_concurrency": 20}


async def run(site: Site, task: str, *args: Any, **options: Any) -> Any:
    job: Job[Any] = await site.app.submit(task, *args, options=options)  # type: ignore[arg-type]
    return await job.result(timeout=15)


async def failure(site: Site, task: str, *args: Any, **options: Any) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await run(site, task, *args, **options)
    return caught.value


# --- success --------------------------------------------------------------------------------------------------------


async def test_async_and_sync_handlers_return_their_values(here: Site) -> None:
    assert await run(here, "double", 21) == 42
    assert await run(here, "double_sync", 21) == 42


async def test_an_isolated_handler_runs_in_a_warm_process_of_its_own(here: Site) -> None:
    first, second = await run(here, "pid_isolated"), await run(here, "pid_isolated")
    assert first == second
    assert first != (await run(here, "whoami"))["pid"]


async def test_a_handler_sees_its_job_and_the_resources_of_its_process(here: Site) -> None:
    job = await here.app.submit("whoami", options={"priority": 7, "timeout": 5})
    seen = await job.result(timeout=10)
    assert (seen["id"], seen["attempt"], seen["queue"], seen["priority"], seen["state"]) == (job.id, 1, "default", 7, "open")
    assert seen["lease_valid"] is True
    assert 0 < seen["time_left"] <= 5
    assert (await run(here, "whoami"))["fence"] > seen["fence"]


async def test_middleware_wraps_the_run(here: Site) -> None:
    assert await run(here, "double", 4, headers={"tenant": "acme"}) == "acme:8"


async def test_without_a_result_ttl_the_job_runs_and_result_says_that_none_is_kept(here: Site) -> None:
    job = await here.app.submit("work", 0, options={"result_ttl": 0})
    await eventually(lambda: here.ledger.lines("end", job.id), "the run")
    await eventually(here.idle)
    with pytest.raises(ResultsDisabled):
        await job.result(timeout=10)


async def test_a_delayed_job_starts_within_100_ms_of_its_time_and_not_before(here: Site) -> None:
    began = time.monotonic_ns()
    job = await here.app.submit("work", 0, options={"delay": 0.4})
    submitted = time.monotonic_ns()
    await job.result(timeout=10)
    (start,) = here.ledger.lines("start", job.id)
    assert start.at_ns >= began + 400_000_000
    assert start.at_ns <= submitted + 500_000_000


# --- failure --------------------------------------------------------------------------------------------------------


async def test_a_failed_job_runs_again_until_it_succeeds(here: Site) -> None:
    assert await run(here, "fails", 2) == 3


async def test_a_job_without_retries_left_is_dead_with_its_errors_and_can_be_replayed(here: Site) -> None:
    job = await here.app.submit("fails", 4)
    with pytest.raises(TaskError, match="attempt 4") as caught:
        await job.result(timeout=10)
    assert (caught.value.state, caught.value.attempts) == ("dead", 4)
    assert 'raise ValueError(f"attempt' in caught.value.traceback
    info = await job.info()
    assert info.state == "dead"
    assert [error.message for error in info.errors] == [f"attempt {n}" for n in (1, 2, 3, 4)]
    await eventually(lambda: len(here.ledger.hooks(job.id)) == 4, "the hooks")
    assert sorted(here.ledger.hooks(job.id)) == ["dead ValueError"] + ["retry ValueError"] * 3
    await here.app.queue("default").dead.replay(job.id)
    with pytest.raises(TaskError) as again:
        await here.app.job(job.id).result(timeout=10)
    assert again.value.attempts == 4


async def test_the_success_hook_is_called_once(here: Site) -> None:
    job = await here.app.submit("double", 1, options={"headers": {"hook-after": "0"}})
    await job.result(timeout=10)
    await eventually(lambda: here.ledger.hooks(job.id), "the hook")
    assert here.ledger.hooks(job.id) == ["success 2"]


@pytest.mark.parametrize(
    ("task", "attempts", "words"),
    [
        ("hopeless", 1, "no use"),
        ("once_more", 2, "again"),
        ("dies_isolated", 2, "exit code 7"),
        ("fails_isolated", 1, "KeyError: 'isolated'"),
    ],
)
async def test_the_policy_says_which_failures_are_retried(here: Site, task: str, attempts: int, words: str) -> None:
    error = await failure(here, task)
    assert (error.state, error.attempts) == ("dead", attempts)
    assert words in str(error)


async def test_the_policy_of_the_submit_wins(here: Site) -> None:
    error = await failure(here, "fails", 9, max_retries=1, retry=Retry(base=0.02, cap=0.02))
    assert (error.state, error.attempts) == ("dead", 2)


async def test_a_handler_steers_its_job(here: Site) -> None:
    assert await run(here, "steers", "later") == "attempt 2"
    assert await run(here, "steers", "snooze") == "attempt 1"
    discarded, dead = await failure(here, "steers", "discard"), await failure(here, "steers", "dead")
    assert (discarded.state, discarded.error_message) == ("discarded", "not wanted")
    assert (dead.state, dead.error_message) == ("dead", "gone wrong")


async def test_an_undecodable_body_is_dead_with_the_reason_and_the_loop_goes_on(here: Site) -> None:
    keys = here.app.producer.keys("default")
    jobs = []
    for number, body in enumerate([b"", b"\xff\xff", b"\x01\xc1", b"\x02\x90", b"\x01" + b"\x91" * 5000, b"\x01\x93\x01\x02\x03"]):
        job_id = new_id(id_suffix("double", 500))
        await here.app.client.ask(keys, broker.enqueue(keys, f"{0xABC000 + number:016x}", 1, [NewJob(job_id, body)]), "submitting")
        jobs.append(here.app.job(keys.public(job_id)))
    for job in jobs:
        with pytest.raises(TaskError) as caught:
            await job.result(timeout=10)
        assert (caught.value.state, caught.value.error_type) == ("dead", "Undecodable")
        assert caught.value.error_message
        await here.app.queue("default").dead.delete(job.id)
    assert await run(here, "double", 1) == 2


async def test_arguments_that_do_not_fit_fail_that_job_alone(here: Site) -> None:
    jobs = [await here.app.submit("double", *args, options={"max_retries": 0}) for args in ([1], [1, 2], ["x"], [5])]
    assert await jobs[0].result(timeout=10) == 2
    assert await jobs[3].result(timeout=10) == 10
    for job in jobs[1:3]:
        with pytest.raises(TaskError) as caught:
            await job.result(timeout=10)
        assert caught.value.state == "dead"
        assert "do not fit" in caught.value.error_message


# --- stopped early --------------------------------------------------------------------------------------------------


async def test_an_async_handler_is_cancelled_at_its_timeout(here: Site) -> None:
    job = await here.app.submit("slow_async")
    with pytest.raises(TaskError, match=r"timeout of 0\.3 s") as caught:
        await job.result(timeout=10)
    assert caught.value.error_type.endswith("TimeoutError")
    (start,), (stopped,) = here.ledger.lines("start", job.id), here.ledger.lines("stopped", job.id)
    assert 0.29 < (stopped.at_ns - start.at_ns) / 1e9 < 0.6


async def test_an_isolated_handler_is_killed_at_its_timeout(here: Site) -> None:
    job = await here.app.submit("slow_isolated")
    with pytest.raises(TaskError, match=r"timeout of 0\.3 s"):
        await job.result(timeout=10)
    (start,) = here.ledger.lines("start", job.id)
    await eventually(lambda: is_gone(start.pid), "the end of the isolated process")


async def test_a_sync_handler_beyond_its_timeout_is_reported_and_settled_when_it_returns(here: Site) -> None:
    gate = here.gate("slow_sync")
    job, start = await here.running(str(gate), task="slow_sync")

    async def overdue() -> bool:
        return any(job.id in worker.overdue for worker in await workers(here.app))

    await eventually(overdue, "the report in the registry")
    info = await job.info()
    assert (info.state, info.overdue) == ("running", True)
    assert info.worker is not None
    assert info.worker.endswith(f":{start.pid}")
    gate.touch()
    with pytest.raises(TaskError, match="timeout"):
        await job.result(timeout=10)


@pytest.mark.parametrize("task", ["follow", "follow_isolated"])
async def test_a_running_job_is_cancelled_within_a_heartbeat(here: Site, task: str) -> None:
    job, _ = await here.running(str(here.gate("never")), task=task)
    assert await job.cancel() is True
    with pytest.raises(TaskError) as caught:
        await job.result(timeout=3)
    assert caught.value.state == "cancelled"
    assert not here.ledger.lines("end", job.id)
    assert await job.cancel() is False


async def test_a_waiting_job_is_cancelled_at_once_and_never_runs(here: Site) -> None:
    job = await here.app.submit("work", 0, options={"delay": 60})
    assert await job.cancel() is True
    with pytest.raises(TaskError) as caught:
        await job.result(timeout=3)
    assert caught.value.state == "cancelled"


async def test_a_job_that_was_not_started_in_time_expires(here: Site) -> None:
    job = await here.app.submit("work", 0, options={"delay": 0.5, "expires_in": timedelta(seconds=0.6)})
    await job.reschedule(delay=1)
    with pytest.raises(TaskError) as caught:
        await job.result(timeout=10)
    assert (caught.value.state, here.ledger.lines("start", job.id)) == ("expired", [])


# --- unique keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "args"), [("double", [2]), ("fails", [9]), ("steers", ["discard"])])
async def test_a_unique_key_is_free_when_its_job_has_ended_however(here: Site, task: str, args: list[Any]) -> None:
    options: Any = {"unique": f"key:{task}", "delay": 0.05}
    first = await here.app.submit(task, *args, options=options)
    twin = await here.app.submit(task, *args, options=options)
    assert (twin.id, first.created, twin.created) == (first.id, True, False)
    with suppress(TaskError):
        await first.result(timeout=10)
    fresh = await here.app.submit(task, *args, options=options)
    assert fresh.created
    assert fresh.id != first.id
    with suppress(TaskError):
        await fresh.result(timeout=10)


# --- what is left ---------------------------------------------------------------------------------------------------


async def test_the_registry_shows_the_worker(here: Site) -> None:
    (worker,) = await workers(here.app)
    assert (worker.slots, worker.queues) == (20, ("default",))
    assert "double" in worker.tasks
    assert worker.pid in [child for process in here._workers for child in process.children()]


async def test_nothing_is_left_over_when_all_have_ended_but_the_dead_until_they_are_purged(here: Site) -> None:
    await failure(here, "hopeless")
    await here.assert_nothing_left()
    queue = here.app.queue("default")
    dead = await queue.dead.list()
    assert (await audit(here.app)).jobs == (await queue.counts()).dead == len(dead) > 0
    assert dead[0].errors[-1].message == "no use"
    assert await queue.dead.purge() == len(dead)
    assert (await audit(here.app)).jobs == 0
