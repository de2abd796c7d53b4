"""Replies that are errors, or that never come: F11, F33."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from bananas.address import parse_url
from bananas.chaos.processes import eventually
from bananas.chaos.producer import Load
from bananas.chaos.site import Site
from bananas.chaos.trials import Fault, Trial
from bananas.connection import ConnectionLost, SyncConnection
from bananas.scripts import script

WORKER, DRIVER = "bananas:worker", "bananas:chaos"
CLAIM_BYTES = 150  # a claim's reply with jobs has more, one without has less

# What servers answer while they cannot, in their own words.
ERRORS = (
    "LOADING Redis is loading the dataset in memory",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "READONLY You can't write against a read only replica.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "MOVED 866 127.0.0.1:1",
    "ASK 866 127.0.0.1:1",
    "CLUSTERDOWN The cluster is down",
    "NOREPLICAS Not enough good replicas to write.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
)


# --- F11 --------------------------------------------------------------------------------------------------------------


async def refused(trial: Trial) -> None:
    """F11: most commands are refused by the proxy with each error in turn, then the server itself refuses, in four ways."""
    site = await trial.site(proxied=True, lease=max(2.0, trial.profile.lease))
    await site.worker(2, worker_concurrency=5)
    producer = site.produce(Load(arguments=(0.01,), batch=10, pause_s=0.05))
    await eventually(lambda: len(site.book.noted("end")) > 20, "load")
    for error in trial.dice.sample(ERRORS, len(ERRORS)):
        trial.proxy.refuse(error, share=0.8)
        await asyncio.sleep(trial.profile.lease * 0.4)
        trial.proxy.refuse("")
        await _goes_on(trial, site)
    trial.count("refused by the proxy", trial.proxy.refused)
    for refuse in (_no_replicas, _replica, _stale_replica, _busy):
        await refuse(site, trial.profile.lease * 0.4)
        await _goes_on(trial, site)
        trial.count("refusals by the server")
    await site.stop_producing(producer)
    verdict = await trial.judge(site)
    trial.check({line.attempt for line in site.book.noted("start")} == {1}, "a refusal used up an attempt")
    trial.check(verdict.duplicate_runs == 0, f"{verdict.duplicate_runs} duplicate runs")
    failed = sum(line.word == "fail" for line in site.book.submitted())
    trial.check(not failed, f"{failed} submits failed")


async def _goes_on(trial: Trial, site: Site) -> None:
    since_ns = time.monotonic_ns()

    def all_at_work() -> bool:
        begun = {line.pid for line in site.book.noted("start") if line.at_ns > since_ns}
        return all(begun & set(worker.children()) for worker in site.workers)

    await eventually(all_at_work, "each worker at work again")
    trial.recovered((time.monotonic_ns() - since_ns) / 1e9, trial.profile.consumes_s, "a worker consumed again: this")


async def _no_replicas(site: Site, seconds: float) -> None:
    site.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    await asyncio.sleep(seconds)
    site.ask("CONFIG", "SET", "min-replicas-to-write", 0)


async def _replica(site: Site, seconds: float) -> None:
    site.ask("REPLICAOF", "127.0.0.1", 1)
    await asyncio.sleep(seconds)
    site.ask("REPLICAOF", "NO", "ONE")


async def _stale_replica(site: Site, seconds: float) -> None:
    site.ask("CONFIG", "SET", "replica-serve-stale-data", "no")
    await _replica(site, seconds)
    site.ask("CONFIG", "SET", "replica-serve-stale-data", "yes")


async def _busy(site: Site, seconds: float) -> None:
    """A script of somebody else's runs on and on."""
    site.ask("CONFIG", "SET", "busy-reply-threshold", 10)

    def occupy() -> None:
        connection = SyncConnection(parse_url(site.host.server.url), "somebody", 30)
        try:
            connection.execute([("EVAL", "while true do end", 0)], 30)
        except ConnectionLost:
            pass
        connection.close()

    occupied = asyncio.create_task(asyncio.to_thread(occupy))
    await asyncio.sleep(seconds)
    site.ask("SCRIPT", "KILL")
    await occupied


# --- F33 --------------------------------------------------------------------------------------------------------------


async def lost(trial: Trial) -> None:
    """F33: the reply of each step of a job's life, one after the other."""
    site = await trial.site(proxied=True)
    await site.worker(worker_concurrency=10)
    for _ in range(trial.pick(2, 10)):
        await _lost_submit(trial, site, 1)
        await _lost_submit(trial, site, trial.dice.randint(2, 30))
        await _lost_submit(trial, site, 1, after_its_run=True)
        for name in ("complete", "retry", "bury"):
            await _lost_settle(trial, site, name)
        await _lost_claim(trial, site)
    verdict = await trial.judge(site)
    trial.check(verdict.duplicate_runs == 0, f"{verdict.duplicate_runs} duplicate runs")
    failed = sum(line.word == "fail" for line in site.book.submitted())
    trial.check(not failed, f"{failed} submits failed")
    made = len({line.id for line in site.book.noted("start")})
    trial.check(made == verdict.acked, f"{verdict.acked} submits made {made} jobs")


async def _lost_submit(trial: Trial, site: Site, count: int, *, after_its_run: bool = False) -> None:
    drop = trial.proxy.lose_reply(script("enqueue"), DRIVER)
    before = len(site.book.commits())
    submit = asyncio.create_task(site.submit_many(count, "work", 0.0))
    await eventually(drop.reached.is_set, "the submit that loses its reply")
    if after_its_run:
        await eventually(lambda: len(site.book.commits()) > before, "the end of the job whose submit goes on")
    drop.let_go.set()
    await submit
    trial.count("lost replies: submit")


async def _lost_settle(trial: Trial, site: Site, name: str) -> None:
    drop = trial.proxy.lose_reply(script(name), WORKER)
    submits: dict[str, Callable[[], Awaitable[object]]] = {
        "complete": lambda: site.submit("work", 0.0),
        "retry": lambda: site.submit("fails", 1),
        "bury": lambda: site.submit("fails", 1_000, options={"max_retries": 0}),
    }
    await submits[name]()
    await eventually(drop.reached.is_set, "the settle that loses its reply")
    drop.let_go.set()
    await eventually(site.at_rest, "the end of the job whose settle lost its reply")
    trial.count("lost replies: settle")


async def _lost_claim(trial: Trial, site: Site) -> None:
    """The claimed jobs are back within seconds, and nothing counts against them."""
    drop = trial.proxy.lose_reply(script("claim"), least_bytes=CLAIM_BYTES)  # of a turn, or one that stood behind a blocking pop
    pairs = await site.submit_many(trial.dice.randint(1, 5), "hold", str(site.gate()))
    await eventually(drop.reached.is_set, "the claim that loses its reply")
    if trial.dice.random() < 0.3:  # what undoes it is not known then; the first time it never is
        site.ask("SCRIPT", "FLUSH")
    pairs += await site.submit_many(trial.dice.randint(1, 4), "hold", str(site.gate()))
    drop.let_go.set()
    began = time.monotonic()
    for name, job in pairs:
        start = await site.started(name)
        info = await job.info()
        trial.check((start.attempt, info.crashes) == (1, 0), f"a lost claim counts against {name}: {start}, {info}")
    trial.recovered(time.monotonic() - began, trial.profile.consumes_s, "jobs of a lost claim started: this")
    site.gate().touch()
    await eventually(site.at_rest, "the end of the claimed jobs")
    site.gate().unlink()
    trial.count("lost replies: claim")


FAULTS = (
    Fault(
        "F11",
        "error replies",
        "LOADING, BUSY, READONLY, TRYAGAIN, MOVED, ASK, CLUSTERDOWN, NOREPLICAS, MASTERDOWN to most commands; a server that is a replica, "
        "lacks replicas, or is busy",
        "waited out: no submit fails, no attempt is used, no duplicate run",
        refused,
    ),
    Fault(
        "F33",
        "reply lost",
        "the client is cut off when the server has done it: submits (one whose job has run meanwhile), settles, claims",
        "one job; one settle, reported as success; claimed jobs are back within seconds, no attempt or crash counted",
        lost,
    ),
)
