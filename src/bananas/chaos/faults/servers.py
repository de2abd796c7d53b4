"""A server that is killed, stopped, slow, or loses its power: F7, F8, F9, F12, F20, F21."""

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import NamedTuple

from bananas.bench.processes import Process
from bananas.chaos.ledger import log_bytes
from bananas.chaos.processes import Worker, eventually
from bananas.chaos.producer import Load
from bananas.chaos.site import Site
from bananas.chaos.trials import Fault, Trial
from bananas.errors import BananasError
from bananas.inspector import workers
from bananas.server import PrivateServer
from bananas.task import SubmitOptions

HELD = 4


# --- what several do --------------------------------------------------------------------------------------------------


class _Loaded:
    """A site at work: two workers, a producer, and jobs that run all the time, which must not be started twice.

    Attributes:
        held: names of the jobs that run all the time.
    """

    def __init__(self, trial: Trial, site: Site, workers: Sequence[Worker], producer: Process, held: Sequence[str]) -> None:
        self.trial, self.site, self.workers, self.producer, self.held = trial, site, workers, producer, held

    async def consumed_again(self, since_ns: int) -> None:
        """Wait until each worker has begun a job since then, and note how long that took."""
        limit_s = self.trial.profile.consumes_s
        for worker in self.workers:
            await eventually(partial(self._at_work, worker, since_ns), "each worker at work again", limit_s + 30)
            self.trial.recovered((time.monotonic_ns() - since_ns) / 1e9, limit_s, "a worker consumed again: this")

    async def say_that_they_are(self, *, ready: bool, within_s: float) -> None:
        """Wait until the health check of each worker says that it is ready, or not; all the time it must be live."""

        def agree() -> bool:
            files = [json.loads((self.site.folder / f"health{number}").read_text(encoding="utf-8")) for number in range(len(self.workers))]
            self.trial.check(all(health["live"] for health in files), "the health check says that a worker is not live")
            return all(health["ready"] is ready for health in files)

        await eventually(agree, f"health checks that say ready: {str(ready).lower()}", within_s)

    def _at_work(self, worker: Worker, since_ns: int) -> bool:
        pids = set(worker.children())
        return any(line.pid in pids and line.at_ns > since_ns for line in self.site.book.noted("start"))


@asynccontextmanager
async def _loaded(trial: Trial, site: Site, *, pause_s: float = 0.05) -> AsyncGenerator[_Loaded]:
    """At the end the producer stops, the held jobs end, and the judge speaks; no live job may have been dispatched twice."""
    workers = [site.start(worker_concurrency=10, worker_heartbeat_file=site.folder / f"health{number}") for number in range(2)]
    for worker in workers:
        await worker.ready()
    held = [name for name, _ in await site.submit_many(HELD, "hold", str(site.gate()))]
    for name in held:
        await site.started(name)
    producer = site.produce(Load(arguments=(0.02,), batch=10, pause_s=pause_s))
    await eventually(lambda: len(site.book.noted("end")) > 30, "load")
    yield _Loaded(trial, site, workers, producer, held)
    await site.stop_producing(producer)
    site.gate().touch()
    await trial.judge(site, trial.pick(60.0, 300.0))
    runs = {name: len(site.book.noted("start", name)) for name in held}
    trial.check(set(runs.values()) == {1}, f"live jobs were dispatched twice: {runs}")


# --- F7, F8 -----------------------------------------------------------------------------------------------------------


@contextmanager
def watching_the_disk(site: Site) -> Generator[list[float]]:
    """Notes when an fsync was under way: then writes may wait in memory for up to 2 s, and a kill may lose them."""
    seen, over = list[float](), threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            try:
                if int(site.host.info("persistence").get("aof_pending_bio_fsync", 0)):
                    seen.append(time.monotonic())
            except BananasError:
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


async def server_killed(trial: Trial) -> None:
    """F7: what an fsync held back in memory is lost with the process, and only counted."""
    site = await trial.site(durable=True)
    async with _loaded(trial, site) as loaded:
        for _ in range(trial.pick(2, 8)):
            await asyncio.sleep(trial.dice.uniform(0.2, trial.pick(0.6, 2.0)))
            with watching_the_disk(site) as pending:
                await asyncio.sleep(0.3)
                delayed = int(site.host.info("persistence").get("aof_delayed_fsync", 0))
            await site.host.kill()
            if delayed or (pending and time.monotonic() - pending[-1] < 2):
                trial.count("kills with an fsync pending")
                trial.allowed.add("lost")
            trial.count("kills")
            await site.host.start()
            await loaded.consumed_again(time.monotonic_ns())


async def server_away(trial: Trial) -> None:
    """F8: for longer than a worker blocks, and than a lease."""
    away_s = trial.pick(3.0, 15.0)
    site = await trial.site(durable=True, budget_s=away_s + 30)
    async with _loaded(trial, site) as loaded:
        for _ in range(trial.pick(1, 3)):
            await site.host.kill()
            away = time.monotonic()
            await loaded.say_that_they_are(ready=False, within_s=away_s + 15)
            await asyncio.sleep(max(0.0, away_s - (time.monotonic() - away)))
            quiet = [worker.process.exit_code is None for worker in loaded.workers]
            trial.check(all(quiet), "a worker ended because its server was away")
            await site.host.start()
            await loaded.consumed_again(time.monotonic_ns())
            await loaded.say_that_they_are(ready=True, within_s=trial.profile.consumes_s + 5)
        expected = {worker.pid for worker in loaded.workers}

        async def all_are_registered() -> bool:
            return {info.supervisor for info in await workers(site.app)} == expected

        await eventually(all_are_registered, "both workers in the registry")
        trial.count("away s", away_s)


# --- F21, F20, F12 ----------------------------------------------------------------------------------------------------


async def server_stopped(trial: Trial) -> None:
    """F21: for longer than lease and grace."""
    stopped_s = trial.pick(3.0, 20.0)
    site = await trial.site()
    async with _loaded(trial, site) as loaded:
        for _ in range(trial.pick(1, 3)):
            site.host.send(signal.SIGSTOP)
            await asyncio.sleep(stopped_s)
            site.host.send(signal.SIGCONT)
            await loaded.consumed_again(time.monotonic_ns())
        trial.count("stopped s", stopped_s)


async def slow_server(trial: Trial) -> None:
    """F20: each read held up for 5 to 200 ms, then all clients paused for up to a lease."""
    site = await trial.site(proxied=True)
    async with _loaded(trial, site):
        trial.proxy.delay_s = (0.005, trial.pick(0.05, 0.2))  # 200 ms are little of a lease of 8 s, and too much of one of 1 s
        await asyncio.sleep(trial.pick(4.0, 30.0))
        trial.proxy.delay_s = (0.0, 0.0)
        for _ in range(trial.pick(2, 5)):
            pause_ms = round(1000 * site.lease * trial.dice.uniform(0.3, 0.9))
            site.ask("CLIENT", "PAUSE", pause_ms, "ALL")
            await asyncio.sleep(pause_ms / 1000 + site.lease / 2)
            trial.count("pauses")
    trial.check(trial.verdicts[-1].duplicate_runs == 0, f"{trial.verdicts[-1].duplicate_runs} duplicate runs")


async def scripts_flushed(trial: Trial) -> None:
    """F12: as often as it goes."""
    site = await trial.site()
    async with _loaded(trial, site, pause_s=0.01):
        until = time.monotonic() + trial.pick(3.0, 20.0)
        while time.monotonic() < until:
            site.ask("SCRIPT", "FLUSH")
            trial.count("flushes")
            await asyncio.sleep(trial.dice.uniform(0.001, 0.03))
    trial.check(trial.verdicts[-1].duplicate_runs == 0, f"{trial.verdicts[-1].duplicate_runs} duplicate runs")


# --- F9 ---------------------------------------------------------------------------------------------------------------


class _Life(NamedTuple):
    """One job by the size of the log: before its submit, after its acknowledgement, at the start of its last run, after its settle."""

    name: str
    id: str
    before: int
    acked: int
    started: int
    settled: int


async def power_lost(trial: Trial) -> None:
    """F9: record a history with the size of the file around each step, then start servers on copies cut anywhere."""
    settings = {"appendfsync": "always", "auto-aof-rewrite-percentage": "0"}
    site = await trial.site(durable=True, settings=settings)
    site.watches_log = True
    await site.worker(2, worker_concurrency=5)
    submits: list[tuple[str, str, int, int]] = []
    for turn in range(trial.pick(30, 100)):
        before = log_bytes(site.host.log_folder)
        delay: SubmitOptions | None = {"delay": 0.1} if turn % 5 == 4 else None
        task, argument = ("work", 0.005) if turn % 7 else ("fails", 1)
        pairs = await site.submit_many(trial.dice.randint(1, 20), task, argument, options=delay)
        after = log_bytes(site.host.log_folder)
        submits += [(name, job.id, before, after) for name, job in pairs]
        await asyncio.sleep(trial.dice.uniform(0.0, 0.03))
    await trial.judge(site)
    last = {line.name: int(line.more) for line in site.book.noted("start")}
    settled = {commit.id: commit.log_bytes for commit in site.book.commits()}
    lives = [_Life(*submit, last[submit[0]], settled[submit[1]]) for submit in submits]
    for worker in site.workers:
        worker.kill()
    await asyncio.to_thread(site.host.server.kill)
    size = log_bytes(site.host.log_folder)
    for _ in range(trial.pick(12, 200)):
        await _cut(trial, site, lives, trial.dice.randrange(size))
    trial.check(trial.numbers.get("jobs in a tail") and trial.numbers.get("jobs that must be there"), "no cut was where it shows anything")


async def _cut(trial: Trial, site: Site, lives: Sequence[_Life], cut: int) -> None:
    """Start a server on a copy that ends at `cut`, and compare it with the history."""
    folder = site.folder / "cut"
    await asyncio.to_thread(shutil.copytree, site.host.server.directory, folder, ignore=shutil.ignore_patterns("*.sock", "*.log", "*.pid"))
    (part,) = (folder / "appendonlydir").glob("*.incr.aof")
    os.truncate(part, cut)
    async with Site(site.folder, PrivateServer(folder, binary=trial.binary, appendonly=True), lease=site.lease) as restored:
        audit, places = await restored.audit(), restored.places()
    await asyncio.to_thread(shutil.rmtree, folder)
    trial.findings += len(audit.findings)
    trial.check(audit.clean, f"cut at {cut}: the audit finds {audit.findings[:3]}")
    expected = {
        "acknowledged before, gone": [life.name for life in lives if life.acked <= cut <= life.started and life.id not in places],
        "submitted behind it, there": [life.name for life in lives if life.before >= cut and life.id in places],
        "settled before, there again": [life.name for life in lives if life.settled <= cut and life.id in places],
    }
    for what, names in expected.items():
        trial.check(not names, f"cut at {cut}: {len(names)} jobs {what}: {names[:3]}")
    trial.count("cuts")
    trial.count("jobs in a tail", sum(life.acked > cut for life in lives))
    trial.count("jobs that must be there", sum(life.acked <= cut <= life.started for life in lives))


FAULTS = (
    Fault(
        "F7",
        "server killed and restarted",
        "SIGKILL, AOF everysec, the same directory, again and again under load",
        "every worker consumes again within 5 s; no live job is dispatched twice; lost only where an fsync held back writes",
        server_killed,
    ),
    Fault(
        "F8",
        "server away",
        "for 15 s, longer than a worker blocks and than its lease",
        "every worker consumes again within 5 s; no live job is dispatched twice; health checks say not ready meanwhile, ready afterwards",
        server_away,
    ),
    Fault(
        "F9",
        "power loss",
        "the append-only file cut at random offsets, a server started on each",
        "the audit is clean at every offset; gone are exactly the jobs whose acknowledgement lay in the tail",
        power_lost,
    ),
    Fault("F12", "SCRIPT FLUSH under load", "every few milliseconds", "reloaded, in pipelines too: no duplicate run", scripts_flushed),
    Fault(
        "F20",
        "slow server",
        "a proxy that adds 5 to 200 ms; CLIENT PAUSE of up to 0.9 leases",
        "no false reclaim: no duplicate run",
        slow_server,
    ),
    Fault(
        "F21",
        "server stopped",
        "SIGSTOP for longer than lease and grace, SIGCONT",
        "live jobs are not dispatched twice; every worker consumes again within 5 s",
        server_stopped,
    ),
)
