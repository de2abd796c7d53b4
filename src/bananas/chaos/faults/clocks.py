"""Clocks that jump, and two schedulers: F30, F31."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from bananas.chaos.processes import Worker, eventually, send
from bananas.chaos.producer import Load
from bananas.chaos.site import Site
from bananas.chaos.trials import Fault, Skipped, Trial

FAKETIME = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/local/lib/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1")
TICKING = "bananas.chaos.ticking:app"
DELAY_S = 2.0


# --- F30 --------------------------------------------------------------------------------------------------------------


def _faketime() -> Path:
    for pattern in FAKETIME:
        for path in Path("/").glob(pattern.removeprefix("/")):
            return path
    raise Skipped("libfaketime is not installed (Debian: apt-get install faketime)")


class _Clock:
    """A wall clock of some processes, that jumps; their monotonic clocks go on, as those of a machine do."""

    def __init__(self, trial: Trial, site: Site) -> None:
        self._library, self._file = _faketime(), site.folder / f"clock{len(site.workers)}-{time.monotonic_ns()}"
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """So far from the real time, from now on."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}s\n", encoding="utf-8")
        os.replace(fresh, self._file)

    def variables(self) -> dict[str, str]:
        """What a process needs to live by it."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


async def clock_jumps(trial: Trial) -> None:
    """F30: the clocks of one of two workers and of the client, an hour and more, back and forth, under load with delayed jobs."""
    site = await trial.site()
    clocks = [_Clock(trial, site), _Clock(trial, site)]
    jumping = site.start_under((), site.environment() | clocks[0].variables())
    steady = site.start()
    await jumping.ready()
    await steady.ready()
    held, _ = await site.submit("hold", str(site.gate()))
    await site.started(held)
    client = site.environment() | clocks[1].variables()
    now = site.produce(Load(arguments=(0.01,), batch=10, pause_s=0.05), client)
    delayed = site.produce(Load(prefix="late", arguments=(0.01,), batch=4, pause_s=0.2, options={"delay": DELAY_S}), client)
    for _ in range(trial.pick(4, 20)):
        clock, jump = trial.dice.choice(clocks), trial.dice.choice([-3_600, 3_600, -60, 86_400, 0])
        clock.jump(jump)
        trial.count("jumps")
        await asyncio.sleep(trial.pick(0.8, site.lease / 2))
    for producer in (now, delayed):
        await site.stop_producing(producer)
    site.gate().touch()
    verdict = await trial.judge(site)
    trial.check(verdict.duplicate_runs == 0, f"{verdict.duplicate_runs} duplicate runs: something was reclaimed wrongly")
    _check_delays(trial, site)


def _check_delays(trial: Trial, site: Site) -> None:
    """Each delayed job started in its time, between its submit and its acknowledgement plus the delay."""
    tried = {line.name: line.at_ns for line in site.book.submitted() if line.word == "try" and line.name.startswith("late")}
    acked = {line.name: line.at_ns for line in site.book.submitted() if line.word == "ack" and line.name in tried}
    late_ms: list[int] = []
    for line in site.book.noted("start"):
        if line.name in tried:
            trial.check(line.at_ns - tried[line.name] > (DELAY_S - 0.05) * 1e9, f"{line.name} started too early")
            late_ms.append(round((line.at_ns - acked.get(line.name, line.at_ns)) / 1e6 - DELAY_S * 1000))
    trial.check(late_ms, "no delayed job ran")
    limit_s = 2 + trial.profile.slack_s
    trial.recovered(max(0, *late_ms, 0) / 1000, limit_s, "the latest delayed job was late by: this")


# --- F31 --------------------------------------------------------------------------------------------------------------


async def two_schedulers(trial: Trial) -> None:
    """F31: a tick a second, with schedulers of which one at a time is stopped and continued."""
    site = await trial.site()
    schedulers = [site.start(TICKING, worker_mode="scheduler-only") for _ in range(2)]
    (worker,) = await site.worker(1, TICKING, cron_scheduler_enabled="false")
    for scheduler in schedulers:
        await scheduler.ready()
    began_s = time.time()
    for _ in range(trial.pick(2, 10)):
        await _stop_for_a_while(trial, trial.dice.choice(schedulers))
    ended_s = time.time()
    last = int(ended_s) - 1
    await eventually(lambda: site.book.noted("end", f"tick-{last}"), "the last tick", 30)
    for scheduler in schedulers:
        scheduler.kill()
    await site.rest(30)
    seconds = [int(line.name.removeprefix("tick-")) for line in site.book.noted("start")]
    expected = list(range(int(began_s) + 2, last + 1))
    missing = [second for second in expected if second not in seconds]
    doubled = sorted({second for second in seconds if seconds.count(second) > 1})
    trial.check(not missing, f"{len(missing)} ticks did not fire: {missing[:5]}")
    trial.check(not doubled, f"{len(doubled)} ticks fired twice: {doubled[:5]}")
    trial.count("ticks", len(expected))
    site.book.trying(f"tick-{second}" for second in sorted(set(seconds)))  # a scheduler submits them: all that ran are accounted for
    await trial.judge(site)
    trial.check(worker.process.exit_code is None, "the worker ended")


async def _stop_for_a_while(trial: Trial, scheduler: Worker) -> None:
    pids = trial.dice.choice([scheduler.everything(), scheduler.children()])
    for pid in pids:
        send(pid, signal.SIGSTOP)
    await asyncio.sleep(trial.dice.uniform(0.5, trial.pick(2.5, 12.0)))
    for pid in pids:
        send(pid, signal.SIGCONT)
    trial.count("stops")
    await asyncio.sleep(trial.dice.uniform(0.2, 1.0))


FAULTS: Sequence[Fault] = (
    Fault(
        "F30",
        "clock of a worker or client jumps",
        "libfaketime: an hour, a day, a minute, back and forth",
        "nothing starts early or late, nothing is reclaimed wrongly: no duplicate run",
        clock_jumps,
    ),
    Fault(
        "F31",
        "two schedulers",
        "a tick every second; one of them is stopped and continued",
        "each tick exactly once",
        two_schedulers,
    ),
)
