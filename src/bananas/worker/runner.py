"""One job as a pipeline of values: decode, resolve, call, decide, settle. Failure is a field, not a jump.

The runner knows nothing of the server: it takes claimed jobs and puts settlements into a settler. What stops a run early (its timeout, a
cancel, a lost lease, the end of the worker) is written into the run first, then its handler is cancelled; a handler that does not stop
keeps its slot and is settled when it returns, as what stopped it, whatever it returned.

One timer serves all timeouts: it fires when the earliest deadline known at its setting is due, and looks at all runs then. A new run only
compares one number.
"""

import asyncio
import contextvars
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import structlog
from msgspec import Raw

from bananas.codec import Undecodable, unpack_body, unpack_tries
from bananas.config import Settings
from bananas.context import CurrentJob, running
from bananas.job import Envelope, Result
from bananas.middleware import Chain
from bananas.worker.isolated import IsolatedPool
from bananas.worker.outcomes import Outcomes
from bananas.worker.run import Claimed, Run, Runnable, Stop
from bananas.worker.table import LeaseTable

POISON_CRASHES = 3
log = structlog.get_logger("bananas.worker")


class Runner:
    """Runs the jobs of one worker process.

    Args:
        changed: called when a slot became free or a settlement waits.
    """

    def __init__(
        self, tasks: dict[str, Runnable], settings: Settings, chain: Chain, table: LeaseTable, changed: Callable[[], None]
    ) -> None:
        self.tasks, self._settings, self._chain, self._table, self._changed = tasks, settings, chain, table, changed
        self.outcomes = Outcomes(settings, f"{socket.gethostname()}:{os.getpid()}", changed)
        self.state: Any = None
        self.only: frozenset[str] | None = None
        self.slots = settings.slots
        self.running: dict[bytes, Run] = {}
        self.suspects: list[Claimed] = []
        self.finished = 0
        self.alone = False
        self._loop = asyncio.get_running_loop()
        self._threads: ThreadPoolExecutor | None = None
        self.pool: IsolatedPool | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")

    @property
    def free(self) -> int:
        """Slots without a job."""
        return self.slots - len(self.running) - len(self.suspects)

    def trusted(self, claimed: Claimed) -> bool:
        """Whether a lease surely holds: counted from before it was asked for, or from the last beat that covered it."""
        beaten = self._table.beaten
        since = beaten if beaten > claimed.noted_at else claimed.claimed_at
        return time.monotonic() < since + self._settings.lease

    # --- decode and resolve ---

    def take(self, claimed: Claimed, body: bytes, tries: bytes | None) -> None:
        """A job was claimed: start it, hold it as a suspect, or settle it unrun."""
        if tries is not None:
            claimed.tries = unpack_tries(tries)
        try:
            born_ms, claimed.envelope = unpack_body(body)
        except Undecodable as error:
            self.outcomes.bury_unrun(claimed, "Undecodable", str(error))
            return
        claimed.since_ms = claimed.tries.since_ms or born_ms
        runnable = self.tasks.get(claimed.envelope.task)
        if claimed.cancelled:
            self.outcomes.end_unrun(claimed, runnable, "cancelled", "it was cancelled")
        elif claimed.envelope.expires_ms and claimed.now_ms > claimed.since_ms + claimed.envelope.expires_ms:
            self.outcomes.end_unrun(claimed, runnable, "expired", f"it was not started within {claimed.envelope.expires_ms / 1000:g} s")
        elif claimed.tries.alone >= POISON_CRASHES:
            self.outcomes.bury_unrun(claimed, "Poison", f"{claimed.tries.alone} worker processes died while they ran this job alone")
        elif self.only is not None and claimed.envelope.task not in self.only:
            self.outcomes.release(claimed)
        elif runnable is None:
            self.outcomes.unknown(claimed)
        elif claimed.tries.crashes:
            self.suspects.append(claimed)
        else:
            self.start(claimed, runnable)

    def start(self, claimed: Claimed, runnable: Runnable, *, alone: bool = False) -> None:
        """Run a claimed job now, unless its lease may be over."""
        envelope = claimed.envelope
        assert envelope is not None
        if not self.trusted(claimed):
            self.outcomes.release(claimed)
            return
        timeout_s = runnable.timeout_s if envelope.timeout_ms is None else envelope.timeout_ms / 1000
        run = Run(self.trusted, claimed, runnable, timeout_s)
        run.alone = alone
        if runnable.isolated:
            run.deadline = 0.0  # it begins when a process is ready
        keys = claimed.served.keys
        where = (keys.queue, int(claimed.score) >> 42)
        claim = (claimed.tries.attempts + 1, claimed.fence)
        job = CurrentJob((keys.name, claimed.job_id), envelope.task, where, claim, envelope.headers or {}, self.state)
        run.job = job.under(run, run.deadline or None)
        self.running[claimed.member] = run
        self.alone = alone
        self._expect(run)
        run.task = self._loop.create_task(self._run(run, envelope))

    # --- call ---

    async def _run(self, run: Run, envelope: Envelope[Raw]) -> None:
        assert run.job is not None
        running.set(run.job)
        runnable = run.runnable
        value, error = None, None
        try:
            if runnable.isolated:
                value = await self._call_isolated(run, envelope)
            else:
                args, kwargs = runnable.signature.build(envelope.args, envelope.kwargs)
                if self._chain.wraps_run:
                    value = await self._chain.around_run(run.job, lambda: self._call(run, args, kwargs))
                elif runnable.is_async:
                    value = await runnable.handler(*args, **kwargs)
                else:
                    value = await self._call_in_thread(run, args, kwargs)
        except BaseException as caught:
            error = caught
        self._finish(run, value, error)

    async def _call(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if run.runnable.is_async:
            return await run.runnable.handler(*args, **kwargs)
        return await self._call_in_thread(run, args, kwargs)

    async def _call_in_thread(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A thread cannot be killed: wait for it whatever comes."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.slots, "bananas")
        call = self._loop.run_in_executor(self._threads, partial(contextvars.copy_context().run, run.runnable.handler, *args, **kwargs))
        while not call.done():
            try:
                await asyncio.wait([call])
            except asyncio.CancelledError:
                if run.stop == "":
                    raise
        return call.result()

    async def _call_isolated(self, run: Run, envelope: Envelope[Raw]) -> Raw:
        """The timeout counts from when its process is ready."""
        if self.pool is None or run.job is None:
            raise RuntimeError("this worker has no process pool")
        process = await self.pool.acquire()
        run.begin()
        self._expect(run)
        return await self.pool.call(process, run.job, envelope)

    # --- stop early ---

    def _expect(self, run: Run) -> None:
        if run.deadline and run.deadline < self._alarm_at:
            self._set_alarm(run.deadline)

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._loop.call_later(max(0.001, at - time.monotonic()), self._stop_overdue)

    def _stop_overdue(self) -> None:
        now, earliest = time.monotonic(), float("inf")
        for run in list(self.running.values()):
            if run.deadline and not run.overdue:
                if run.deadline <= now:
                    run.overdue = True
                    self._table.mark_overdue(run.claimed.slot)
                    self.stop(run, "timeout")
                else:
                    earliest = min(earliest, run.deadline)
        self._alarm, self._alarm_at = None, float("inf")
        if earliest != float("inf"):
            self._set_alarm(earliest)

    def stop(self, run: Run, why: Stop) -> None:
        """End a run early. Its first reason stays, but a lost lease wins over all."""
        if run.stop == "" or why == "lost":
            run.stop = why
        if run.task is not None:
            run.task.cancel()

    # --- decide and settle ---

    def _finish(self, run: Run, value: Any, error: BaseException | None) -> None:
        claimed = run.claimed
        if self.running.pop(claimed.member, None) is None:
            return
        self.finished += 1
        self.alone = False
        if run.stop == "lost":
            self._table.drop(claimed.slot)
            log.warning("lease lost: the outcome is not this worker's to write", job=run.job and run.job.id)
        elif run.stop == "shutdown" and error is not None:
            self.outcomes.release(claimed)
        elif run.stop == "cancel":
            self.outcomes.end(claimed, run.runnable, Result("cancelled", error_message="it was cancelled while it ran"), run)
        else:
            if run.stop == "timeout":
                error = TimeoutError(f"the run took longer than its timeout of {run.deadline - run.started:g} s")
            self.outcomes.decide(run, value, error)
        self._changed()

    def abandon(self, member: bytes) -> None:
        """Hand back the job of a handler that does not stop; what it still returns counts for nothing."""
        run = self.running.pop(member)
        run.stop = "lost"
        self.outcomes.release(run.claimed)
