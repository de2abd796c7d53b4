"""Workers that are killed, stopped, blocked or asked to leave: F1, F2, F3, F4, F6."""

import asyncio
import math
import signal
import time
from collections.abc import Iterable
from functools import partial

from bananas.chaos.ledger import Noted
from bananas.chaos.processes import Worker, eventually, send
from bananas.chaos.producer import Load
from bananas.chaos.site import Site
from bananas.chaos.trials import Fault, Trial

KILL_EVERY_S = 0.3


# --- F1 ---------------------------------------------------------------------------------------------------------------


class _Kills:
    """Kills worker processes and whole workers, and notes when what they held is ready again."""

    def __init__(self, trial: Trial, site: Site, slots: int) -> None:
        self._trial, self._site, self._slots = trial, site, slots
        self._killed_at: dict[int, float] = {}

    def strike(self) -> bool:
        """One kill of somebody who has begun to work, if there is one."""
        begun = {line.pid for line in self._site.book.noted("start")} - self._killed_at.keys()
        working = [(worker, pid) for worker in self._site.workers for pid in worker.children() if pid in begun]
        if not working:
            return False
        worker, pid = self._trial.dice.choice(working)
        if self._trial.dice.random() < 0.7:
            send(pid)
            self._killed_at[pid] = time.monotonic()
        else:
            pids = worker.children()
            worker.kill()
            self._killed_at |= dict.fromkeys(pids, time.monotonic())
            self._site.workers.remove(worker)
            self._site.start(worker_concurrency=self._slots, worker_processes=2)
        self._trial.count("kills")
        return True

    def look(self) -> bool:
        """Note what has been given back since. Returns whether nothing of a dead worker is leased any more."""
        leased = {bytes(member).split(b":")[2] for member in self._site.ask("ZRANGE", self._site.keys.leases, 0, -1)}
        fences = {f"{line.fence:010d}".encode(): line.pid for line in self._site.book.noted("start") if line.pid in self._killed_at}
        holding = {pid for fence, pid in fences.items() if fence in leased}
        for pid in [pid for pid in self._killed_at if pid not in holding]:
            seconds = time.monotonic() - self._killed_at.pop(pid)
            self._trial.recovered(seconds, self._trial.profile.back_s, "a killed worker's jobs were back: this")
        return not self._killed_at


async def killed(trial: Trial) -> None:
    """F1."""
    site = await trial.site()
    slots = trial.dice.choice([3, 5, 10])
    await site.worker(2, worker_concurrency=slots, worker_processes=2)
    producer = site.produce(Load(arguments=(0.02,), batch=20, pause_s=trial.pick(0.1, 0.05)))
    kills = _Kills(trial, site, slots)
    while trial.numbers.get("kills", 0) < trial.pick(6, 40):
        due = time.monotonic() + KILL_EVERY_S
        await eventually(kills.strike, "a worker that has begun to work", 60)
        while time.monotonic() < due:
            kills.look()
            await asyncio.sleep(0.05)
    await eventually(kills.look, "no lease of a dead worker", trial.profile.back_s + 30)
    await site.stop_producing(producer)
    await trial.judge(site, trial.pick(60.0, 300.0))
    trial.check({line.attempt for line in site.book.noted("start")} == {1}, "a crash used up an attempt")


# --- F2, F3 -----------------------------------------------------------------------------------------------------------


def _owner(workers: Iterable[Worker], line: Noted) -> Worker:
    return next(worker for worker in workers if line.pid in worker.children())


async def stopped_past_lease(trial: Trial) -> None:
    """F2: a process, a supervisor and a whole worker, each with one job."""
    site = await trial.site()
    victims = await site.worker(3, worker_concurrency=1)
    jobs = [await site.submit("hold", str(site.gate(str(number)))) for number in range(3)]
    firsts = [await site.started(name) for name, _ in jobs]
    owners = [_owner(victims, first) for first in firsts]
    heir = site.start(worker_concurrency=1, worker_processes=3)
    await heir.ready()
    stopped = [firsts[0].pid, owners[1].pid, *owners[2].everything()]
    began = time.monotonic()
    for pid in stopped:
        send(pid, signal.SIGSTOP)
    for name, _ in jobs:
        await site.started(name, 2, trial.profile.back_s + 30)
        trial.recovered(time.monotonic() - began, trial.profile.back_s, "a stopped worker's job ran elsewhere: this")
    ways = [("cancelled", "end"), ("cancelled",), ("cancelled", "end")]  # the gates of two are open: they may be faster than the news
    order = [0, 2] if trial.dice.random() < 0.5 else [2, 0]
    for number in order:  # the supervisor's child is not stopped: it learns of its loss first
        site.gate(str(number)).touch()
        await jobs[number][1].result(timeout=30)
    for pid in stopped:
        send(pid, signal.SIGCONT)
    for number, first in enumerate(firsts):
        await eventually(partial(_went, site, first, ways[number]), "the end of the handler that lost its lease", 30)
    site.gate("1").touch()
    for (name, job), first in zip(jobs, firsts, strict=True):
        second = site.book.noted("start", name)[1]
        fence = await job.result(timeout=30)
        trial.check(fence == second.fence > first.fence, f"the result of {name} is of fence {fence}, the second run had {second.fence}")
    await trial.judge(site)


def _went(site: Site, first: Noted, ways: Iterable[str]) -> bool:
    """Whether that run has gone out in one of these ways."""
    return any(line.fence == first.fence for word in ways for line in site.book.noted(word, first.name))


async def stopped_within_lease(trial: Trial) -> None:
    """F3: again and again, for up to half a lease, under load."""
    site = await trial.site(lease=max(2.0, trial.profile.lease))
    workers = await site.worker(2, worker_processes=2)
    producer = site.produce(Load(arguments=(0.05,), batch=10, pause_s=0.1))
    await eventually(lambda: len(site.book.noted("end")) > 20, "load")
    for _ in range(trial.pick(4, 15)):
        worker = trial.dice.choice(workers)
        victims = trial.dice.choice([[pid] for pid in worker.children()] + [[worker.pid], worker.everything()])
        for pid in victims:
            send(pid, signal.SIGSTOP)
        await asyncio.sleep(site.lease * trial.dice.uniform(0.1, 0.5))
        for pid in victims:
            send(pid, signal.SIGCONT)
        trial.count("stops")
        await asyncio.sleep(site.lease / 2)  # a renewal, before the next one
    await site.stop_producing(producer)
    verdict = await trial.judge(site)
    trial.check(verdict.duplicate_runs == 0, f"{verdict.duplicate_runs} duplicate runs")


# --- F4 ---------------------------------------------------------------------------------------------------------------


async def blocked(trial: Trial) -> None:
    """F4: each process is blocked in its own way, while others would take its job."""
    site = await trial.site()
    await site.worker(2, worker_concurrency=1, worker_processes=3)
    seconds = trial.profile.lease * 1.5 + 0.5
    hows = ["busy", "sum", "sort", "regex"] if trial.profile.name == "long" else ["busy", trial.dice.choice(["sum", "sort", "regex"])]
    jobs = [(how, await site.submit("block", how, seconds)) for how in hows]
    for how, (name, job) in jobs:
        await job.result(timeout=seconds * 12 + 60)
        (start,), (end,) = site.book.noted("start", name), site.book.noted("end", name)
        took = (end.at_ns - start.at_ns) / 1e9
        trial.check(took > trial.profile.lease, f"the handler was blocked for {took:.1f} s only")
        trial.count(f"blocked s ({how})", math.floor(took * 10) / 10)
    verdict = await trial.judge(site)
    trial.check(verdict.duplicate_runs == 0, f"{verdict.duplicate_runs} duplicate runs")


# --- F6 ---------------------------------------------------------------------------------------------------------------


def _says(worker: Worker, text: str) -> bool:
    return text in worker.log


async def asked_to_leave(trial: Trial) -> None:
    """F6: one worker whose long job ends in time, then one whose does not."""
    site = await trial.site()
    gates = [site.gate("in-time"), site.gate("late")]
    producer = site.produce(Load(arguments=(0.02,), batch=20, pause_s=0.05))
    allowed_runs = 0
    for number, gate in enumerate(gates):
        (worker,) = await site.worker(worker_concurrency=10, shutdown_timeout=trial.pick(20.0, 60.0) if number == 0 else 0.5)
        long_one, job = await site.submit("hold", str(gate), options={"priority": "high"})
        await site.started(long_one)
        await eventually(lambda: len(site.book.noted("end")) > 50, "load")
        send(worker.pid, signal.SIGTERM)
        await eventually(partial(_says, worker, "stopping"), "the worker to stop")
        if number == 0:
            gate.touch()
        code = await worker.ended(90)
        trial.check(code == 0, f"the worker ended with exit code {code}")
        if number == 0:
            trial.check(isinstance(await job.result(timeout=10), int), "the long job that ended in time has no result")
            continue
        info = await job.info()
        trial.check((info.state, info.attempts, info.crashes) == ("ready", 0, 0), f"the late job was not released: {info}")
        allowed_runs = 10
        gate.touch()
    await site.stop_producing(producer)
    await site.worker(2)
    verdict = await trial.judge(site)
    trial.check(verdict.duplicate_runs <= allowed_runs, f"{verdict.duplicate_runs} duplicate runs, more than were released")
    trial.check({line.attempt for line in site.book.noted("start")} == {1}, "a release used up an attempt")


FAULTS = (
    Fault(
        "F1",
        "worker killed mid-job",
        "SIGKILL to a worker process or a whole worker every 0.3 s, respawned",
        "each job that was running is ready again within 15 s at default lease; crashes use no attempt",
        killed,
    ),
    Fault(
        "F2",
        "worker stopped past its lease",
        "SIGSTOP to a process, a supervisor, a whole worker, until others run their jobs; SIGCONT",
        "the late settle is refused, its handler is cancelled, the result is the second run's",
        stopped_past_lease,
    ),
    Fault("F3", "worker stopped for less than its lease", "SIGSTOP, SIGCONT, again and again", "no duplicate run", stopped_within_lease),
    Fault(
        "F4",
        "handler blocks its process",
        "a busy loop, and C code that holds the GIL, for one and a half leases",
        "the lease is kept: no duplicate run",
        blocked,
    ),
    Fault(
        "F6",
        "SIGTERM under load",
        "with a long job that ends in time, and one that does not",
        "drained or released without an attempt; duplicate runs only of the released; exit code 0",
        asked_to_leave,
    ),
)
