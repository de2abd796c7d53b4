"""Tasks with `isolation="process"`: what surrounds their handlers, what they know of their job, and what hooks get of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import children_of, eventually, is_gone, kill, wait_until

from bananas import TaskError, broker

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site

TARGET = "tests.apps.isolated:app"
WORKER = {"target": TARGET, "worker_concurrency": 2}  # for the tests that do it no harm


async def run(site: Site, task: str, *args: Any, **options: Any) -> Any:
    job = await site.app.submit(task, *args, options=options)  # type: ignore[arg-type]
    return await job.result(timeout=15)


async def hooks(site: Site, job_id: str, count: int) -> list[str]:
    await eventually(lambda: len(site.ledger.hooks(job_id)) >= count, f"{count} hooks")
    return site.ledger.hooks(job_id)


async def lines(site: Site, word: str, job_id: str) -> list[Any]:
    return await eventually(lambda: site.ledger.lines(word, job_id), f"{word} of {job_id}")  # type: ignore[no-any-return]


# --- around the handler ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["who", "who_async"])
async def test_middleware_runs_around_the_handler_in_its_process(here: Site, task: str) -> None:
    around, (within, tenant, state) = await run(here, task, headers={"tenant": "acme"})
    assert around == within
    assert (tenant, state) == ("acme", "open")


async def test_what_middleware_sets_in_context_variables_ends_with_the_job(here: Site) -> None:
    _, (first, _, _) = await run(here, "who", headers={"tenant": "acme"})
    again, tenant, _ = await run(here, "who")
    assert (again, tenant) == (first, "nobody")


async def test_a_value_that_cannot_travel_is_dead_at_once(here: Site) -> None:
    with pytest.raises(TaskError, match="msgpack") as caught:
        await run(here, "unfit")
    assert caught.value.attempts == 1


async def test_progress_and_log_are_shown_while_it_runs_and_kept_at_its_end(here: Site) -> None:
    gate = here.gate("told")
    job = await here.app.submit("tells", str(gate))

    async def look() -> Any:
        info = await job.info()
        return info if info.log else None

    info = await eventually(look, "its log")
    assert (info.state, info.progress, info.progress_text) == ("running", 0.5, "half")
    assert [line.text.partition(" ")[2] for line in info.log] == ["waits"]
    gate.touch()
    assert await job.result(timeout=15) == "told"
    info = await job.info()
    assert (info.progress, info.progress_text) == (1.0, "whole")
    assert [line.text for line in info.log] == [f"line {number}" for number in range(900, 1_000)]
    assert {line.attempt for line in info.log} == {2}
    assert (await run(here, "who"))[1] == "nobody", "the process and its socket are in order"


# --- deadline and lease ---------------------------------------------------------------------------------------------


async def test_the_deadline_is_that_of_the_run(here: Site) -> None:
    before = time.monotonic()
    now, deadline, left = await run(here, "times", timeout=5)
    assert before < now < time.monotonic()
    assert before + 5 < deadline < now + 5
    assert left == pytest.approx(deadline - now, abs=0.5)
    assert (await run(here, "times", timeout=0))[1:] == [None, None]


async def test_the_lease_is_valid_for_longer_than_its_length_while_it_is_renewed(here: Site) -> None:
    gate = here.gate("renewed")
    job = await here.app.submit("watch_lease", str(gate))
    (start,) = await lines(here, "start", job.id)
    wait_until(lambda: time.monotonic_ns() > start.at_ns + 2_500_000_000, "two and a half leases")
    gate.touch()
    assert await job.result(timeout=10) is True


@pytest.mark.parametrize("lease", [1.0])
async def test_the_lease_stays_valid_while_the_worker_is_blocked(site: Site) -> None:
    site.worker(TARGET)
    gate, block = site.gate(), site.gate("block")
    job = await site.app.submit("watch_lease", str(gate))
    await lines(site, "start", job.id)
    blocker = await site.app.submit("block_until", str(block))
    (start,) = await lines(site, "start", blocker.id)
    wait_until(lambda: time.monotonic_ns() > start.at_ns + 2_000_000_000, "two leases")
    gate.touch()
    block.touch()
    assert await job.result(timeout=10) is True


@pytest.mark.parametrize("lease", [1.0])
async def test_the_lease_is_invalid_when_its_worker_was_stopped_for_as_long(site: Site) -> None:
    worker = site.worker(TARGET)
    job = await site.app.submit("watch_lease", str(site.gate()))
    await lines(site, "start", job.id)
    (child,) = worker.children()
    stopped_ns = time.monotonic_ns()
    kill(child, signal.SIGSTOP)
    (untrusted,) = await lines(site, "untrusted", job.id)
    assert untrusted.at_ns < stopped_ns + 1_500_000_000
    kill(child, signal.SIGCONT)


@pytest.mark.parametrize("lease", [1.0])
async def test_the_lease_is_invalid_when_it_is_lost_while_the_worker_is_blocked(site: Site) -> None:
    site.worker(TARGET)
    job = await site.app.submit("watch_lease", str(site.gate()))
    await lines(site, "start", job.id)
    blocker = await site.app.submit("block_until", str(site.gate("block")))
    await lines(site, "start", blocker.id)
    keys, job_id = job.place
    ask = site.app.client.ask
    members = await ask(keys, broker.plain(list, "ZRANGE", keys.leases, 0, -1), "reading leases")
    (member,) = [member for member in members if member.startswith(job_id.encode())]
    began_ns = time.monotonic_ns()
    assert await ask(keys, broker.reclaim(keys, 1_000, [member]), "taking a lease away") == 1
    (untrusted,) = await lines(site, "untrusted", job.id)
    assert untrusted.at_ns < began_ns + 900_000_000  # at the next beat, not when the time is over
    site.gate("block").touch()


async def test_the_process_ends_with_its_worker(site: Site) -> None:
    worker = site.worker(TARGET)
    job = await site.app.submit("watch_lease", str(site.gate()))
    (start,) = await lines(site, "start", job.id)
    (child,) = worker.children()
    assert start.pid in children_of(child)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: is_gone(start.pid), "the end of the isolated process", 5)


async def test_the_process_closes_its_resources_when_its_worker_stops(site: Site) -> None:
    worker = site.worker(TARGET)
    (pid, _, _) = await run(site, "who")
    assert worker.stop() == 0
    assert (site.folder / f"closed-{pid}").exists()
    assert is_gone(pid)


@pytest.mark.parametrize("waits", [True, False])
async def test_a_handler_that_cancels_itself_fails_and_its_process_goes_on(here: Site, waits: bool) -> None:
    before, _, _ = await run(here, "who")
    with pytest.raises(TaskError, match="CancelledError"):
        await run(here, "cancels_itself", waits)
    after, _, _ = await run(here, "who")
    assert before == after


async def test_a_process_that_died_idle_costs_no_job_an_attempt(site: Site) -> None:
    site.worker(TARGET)
    (pid, _, _) = await run(site, "who")
    os.kill(pid, signal.SIGKILL)
    threads = Path(f"/proc/{pid}/task")
    await eventually(lambda: is_gone(pid) and len(list(threads.glob("*"))) <= 1, "the end of the isolated process and its threads")
    (another, _, _) = await run(site, "who", max_retries=0)
    assert another != pid


# --- hooks ----------------------------------------------------------------------------------------------------------


async def test_on_success_gets_the_value_as_the_annotation_says(here: Site) -> None:
    job = await here.app.submit("add", 2, 3)
    assert await hooks(here, job.id, 1) == ["success Sum(total=5)"]
    silent = await here.app.submit("add", 2, 4, options={"result_ttl": 0})
    assert await hooks(here, silent.id, 1) == ["success Sum(total=6)"]


async def test_a_value_that_is_not_as_annotated_reaches_on_success_as_plain_data(here: Site) -> None:
    job = await here.app.submit("add", 2, 3, options={"headers": {"tenant": "acme"}})
    (called,) = await hooks(here, job.id, 1)
    assert "{'total': 5}" in called


async def test_on_retry_and_on_dead_get_the_error_with_its_type_text_and_traceback(here: Site) -> None:
    job = await here.app.submit("refuses", "no such card")
    failure = "IsolatedFailure tests.apps.isolated.Refused 'no such card' True"
    assert await hooks(here, job.id, 2) == [f"dead {failure}", f"retry {failure}"]


async def test_on_retry_and_on_dead_get_the_exit_code_of_a_process_that_died(here: Site) -> None:
    job = await here.app.submit("exits")
    assert await hooks(here, job.id, 2) == ["dead IsolatedProcessDied 7", "retry IsolatedProcessDied 7"]


# --- records --------------------------------------------------------------------------------------------------------


async def test_a_failure_is_recorded_with_its_time_and_worker(here: Site) -> None:
    job = await here.app.submit("refuses", "no")
    with pytest.raises(TaskError):
        await job.result(timeout=15)
    info = await job.info()
    assert info.born_ms is not None
    assert [info.born_ms <= error.at_ms <= info.born_ms + 15_000 for error in info.errors] == [True, True]
    ((child,),) = [worker.children() for worker in here._workers]
    assert {error.worker.rpartition(":")[2] for error in info.errors} == {str(child)}


@pytest.mark.parametrize(("how", "text"), [("later", "failed 1 times"), ("dead", "the handler raised Dead")])
async def test_a_signal_that_ends_the_job_says_why(here: Site, how: str, text: str) -> None:
    with pytest.raises(TaskError) as caught:
        await run(here, "steers", how)
    assert text in caught.value.error_message
