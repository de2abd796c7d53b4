"""Handlers that harm: F34 (poison), F35 (deaf to cancellation), and a backlog that is unfair: F39."""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from bananas.bench.percentiles import percentile
from bananas.chaos.processes import eventually
from bananas.chaos.site import Site
from bananas.chaos.trials import Fault, Trial
from bananas.errors import TaskError
from bananas.handle import Job
from bananas.inspector import workers

LOW, HIGH = "low", "high"


# --- F34 --------------------------------------------------------------------------------------------------------------


async def poison(trial: Trial) -> None:
    """F34: beside neighbours that fill the other slots, all claimed together."""
    ways = ["exit", "segfault", "memory"]
    for how in ways if trial.profile.name == "long" else [trial.dice.choice(ways)]:
        site = await trial.site()
        await site.app.queue("default").pause()
        neighbours = await site.submit_many(trial.pick(30, 99), "work", 0.1)
        name, culprit = await site.submit("die", how)
        await site.app.queue("default").resume()
        await site.worker(worker_concurrency=len(neighbours) + 1)
        try:
            await culprit.result(timeout=trial.pick(60, 180))
            trial.check(False, f"a poison ({how}) has a result")
        except TaskError as error:
            trial.check((error.state, error.error_type) == ("dead", "Poison"), f"a poison ({how}) ended as {error}")
        verdict = await trial.judge(site)
        starts = site.book.noted("start")
        attempts = {line.attempt for line in starts}
        deaths = sum(line.name == name for line in starts)
        dead = [commit.id for commit in site.book.commits() if commit.kind == "dead"]
        trial.check(attempts == {1}, f"a neighbour of a poison ({how}) lost an attempt: {attempts}")
        trial.check(set(dead) <= {culprit.id}, f"neighbours of a poison ({how}) are dead: {dead}")
        trial.check(deaths <= 4, f"a poison ({how}) was started {deaths} times")
        trial.check(verdict.acked == len(neighbours) + 1, "a job is missing from the ledger")
        trial.count("processes killed by poison", deaths)


# --- F35 --------------------------------------------------------------------------------------------------------------


async def deaf(trial: Trial) -> None:
    """F35: three handlers that overrun their timeout and cannot be stopped, and one that is cancelled; a slot is left for others."""
    site = await trial.site()
    await site.worker(worker_concurrency=4)
    gate = str(site.gate())
    isolated_name, isolated = await site.submit("stubborn_isolated")
    for_cancel_name, for_cancel = await site.submit("stubborn", gate, options={"timeout": 0})
    stuck = [await site.submit(task, gate) for task in ("stubborn", "stubborn_sync")]
    for name in (isolated_name, for_cancel_name, *(name for name, _ in stuck)):
        await site.started(name)
    trial.check(await for_cancel.cancel(), "a running job could not be cancelled")
    await _times_out(trial, isolated, "an isolated handler")
    began = time.monotonic()
    _, other = await site.submit("work", 0.0)
    await other.result(timeout=30)
    trial.recovered(time.monotonic() - began, trial.profile.consumes_s, "the slot of a killed handler took a job: this")
    await eventually(partial(_overdue, site, {job.id for _, job in stuck}), "the registry to tell of the handlers that overrun")
    for _, job in stuck:
        info = await job.info()
        trial.check(info.state == "running" and info.overdue, f"a handler that overruns is told as {info.state}, overdue {info.overdue}")
    await eventually(lambda: site.book.noted("cancelled", for_cancel_name), "the cancellation to reach the handler")
    site.gate().touch()
    for _, job in stuck:
        await _times_out(trial, job, "a handler that returned too late")
    try:
        await for_cancel.result(timeout=30)
        trial.check(False, "a cancelled job has a result")
    except TaskError as error:
        trial.check(error.state == "cancelled", f"a cancelled job ended as {error.state}")
        site.book.ended_by_driver([(for_cancel_name, for_cancel.id)])
    for _, job in [await site.submit("work", 0.0) for _ in range(8)]:
        await job.result(timeout=30)
    verdict = await trial.judge(site)
    trial.check(verdict.duplicate_runs == 0, f"{verdict.duplicate_runs} duplicate runs")


async def _times_out(trial: Trial, job: Job[Any], what: str) -> None:
    try:
        await job.result(timeout=60)
        trial.check(False, f"{what} has a result")
    except TaskError as error:
        trial.check("Timeout" in error.error_type, f"{what} ended as {error.error_type}: {error.error_message}")


async def _overdue(site: Site, expected: set[str]) -> bool:
    return expected <= {job_id for info in await workers(site.app) for job_id in info.overdue}


# --- F39 --------------------------------------------------------------------------------------------------------------


async def unfair_backlog(trial: Trial) -> None:
    """F39: a trickle of high jobs on top of a backlog of low ones."""
    site = await trial.site()
    backlog = trial.pick(3_000, 100_000)
    for _ in range(backlog // 1_000):
        await site.submit_many(1_000, "work", 0.0, options={"priority": LOW, "result_ttl": 0})
    await site.worker(worker_concurrency=10)
    await eventually(lambda: len(site.book.noted("end")) > 50, "the backlog to be worked on", 60)
    waited_ms: list[int] = []
    while site.counts()["ready"] > backlog // 10 and len(waited_ms) < trial.pick(60, 600):
        sent_ns = time.monotonic_ns()
        name, _ = await site.submit("work", 0.0, options={"priority": HIGH})
        start = await site.started(name)
        waited_ms.append((start.at_ns - sent_ns) // 1_000_000)
        await asyncio.sleep(0.02)
    waited_ms.sort()
    trial.check(len(waited_ms) > 5, f"the backlog was through after {len(waited_ms)} high jobs")
    trial.count("high jobs", len(waited_ms))
    if waited_ms:
        worst = percentile(waited_ms, 99)
        trial.recovered(worst / 1000, 1.0 + trial.profile.slack_s, "a high job was picked up (p99): this")
    low_between = sum(line.word == "end" for line in site.book.noted("end"))
    trial.check(low_between > len(waited_ms), "no low job ran while high ones came")
    await trial.judge(site, trial.pick(60.0, 600.0))


FAULTS: Sequence[Fault] = (
    Fault(
        "F34",
        "poison",
        "a handler that calls os._exit, reads address 0, or eats memory until it is killed, beside others that fill the slots",
        "dead after three crashes while alone; its neighbours lose no attempt, and none dies with it",
        poison,
    ),
    Fault(
        "F35",
        "handler deaf to cancellation and timeout",
        "sync, async and isolated",
        "an isolated one is killed and its slot comes back; the others are told as overdue, and settled as timed out when they return",
        deaf,
    ),
    Fault(
        "F39",
        "unfair backlog",
        "100,000 low jobs, a trickle of high ones",
        "a high job is picked up within a second; low ones drain in between",
        unfair_backlog,
    ),
)
