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
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import CoroutineType, coroutine
from typing import Any

import structlog
from msgspec import Raw

from bananas.codec import Undecodable, birth_ms, unpack_body
from bananas.config import Settings
from bananas.context import running
from bananas.job import FRESH, Result, Tagged
from bananas.middleware import Chain
from bananas.sealing import job_head, open_job
from bananas.seals import UNSEALED, Seals, Unopened
from bananas.worker.isolated import Answer, IsolatedPool
from bananas.worker.outcomes import Outcomes
from bananas.worker.run import Claimed, Run, Runnable, Stop
from bananas.worker.table import LeaseTable

POISON_CRASHES = 3
BREATH = 32  # so many jobs at least run in a row before the loop looks at anything else
log = structlog.get_logger("bananas.worker")


class Runner:
    """Runs the jobs of one worker process.

    Args:
        changed: called when a slot became free or a settlement waits.
    """

    def __init__(
        self,
        tasks: dict[str, Runnable],
        settings: Settings,
        chain: Chain,
        table: LeaseTable,
        changed: Callable[[], None],
        seals: Seals = UNSEALED,
    ) -> None:
        self.tasks, self._settings, self._chain, self._table, self._changed = tasks, settings, chain, table, changed
        self.outcomes = Outcomes(settings, f"{socket.gethostname()}:{os.getpid()}", changed, seals)
        self._seals = seals
        self.state: Any = None
        self.only: frozenset[str] | None = None
        self.slots = settings.slots
        self.running: dict[bytes, Run] = {}
        self._waiting: deque[Claimed] = deque()
        self._going = False
        self._batch: asyncio.Task[None] | None = None
        self.suspects: list[Claimed] = []
        self.finished = 0
        self.alone = self.ending = False
        self._loop = asyncio.get_running_loop()
        self._threads: ThreadPoolExecutor | None = None
        self.pool: IsolatedPool | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")

    @property
    def free(self) -> int:
        """Slots without a job."""
        return self.slots - len(self.running) - len(self._waiting) - len(self.suspects)

    @property
    def idle(self) -> bool:
        """Whether no job is in this worker's hands but suspects."""
        return not self.running and not self._waiting

    def trusted(self, claimed: Claimed) -> bool:
        """Whether a lease surely holds: counted from before it was asked for, or from the last beat, which may have found it gone."""
        beaten, grant = self._table.beaten(claimed.served.index), claimed.grant
        since = beaten if beaten > grant.noted_at else grant.claimed_at
        return time.monotonic() < since + self._settings.lease and not self._table.lost(claimed.slot, claimed.member)

    # --- decode and resolve ---

    def take(self, jobs: Iterable[Claimed]) -> None:
        """Jobs were claimed: each is run, held as a suspect, or settled unrun, as soon as the loop comes to it."""
        self._waiting.extend(jobs)
        self._go_on()

    def _resolve(self, claimed: Claimed) -> Runnable | None:
        """The task that runs this job now, or None where it does not run now: then it is held or settled."""
        try:
            envelope = claimed.envelope = unpack_body(claimed.body) or self._opened(claimed)
        except Unopened as error:
            self._unopened(claimed, str(error))
            return None
        except Undecodable as error:
            self.outcomes.bury_unrun(claimed, "Undecodable", str(error))
            return None
        runnable = self.tasks.get(envelope.task)
        if claimed.tries is FRESH and runnable is not None and not (claimed.cancelled or envelope.expires_ms or self.only):
            return runnable
        return self._resolve_unusual(claimed, envelope, runnable)

    def _opened(self, claimed: Claimed) -> Tagged[Raw]:
        return open_job(claimed.body, self._seals, (claimed.served.keys, claimed.job_id))

    def _unopened(self, claimed: Claimed, why: str) -> None:
        """A job whose key or library is not here: it ends if it was to, else it is handed back for others."""
        envelope = claimed.envelope = job_head(claimed.body)
        self._resolve_unusual(claimed, envelope, self.tasks.get(envelope.task), why)

    def _resolve_unusual(self, claimed: Claimed, envelope: Tagged[Raw], runnable: Runnable | None, unopened: str = "") -> Runnable | None:
        since_ms, tries = claimed.tries.since_ms or birth_ms(claimed.body), claimed.tries
        if claimed.cancelled:
            self.outcomes.end_unrun(claimed, runnable, "cancelled", "it was cancelled")
        elif envelope.expires_ms and not (tries.attempts or tries.crashes) and claimed.grant.now_ms > since_ms + envelope.expires_ms:
            self.outcomes.end_unrun(claimed, runnable, "expired", f"it was not started within {envelope.expires_ms / 1000:g} s")
        elif tries.alone >= POISON_CRASHES:
            why = f"{tries.alone} worker processes died while they ran this job alone"
            self.outcomes.bury_unrun(claimed, "Poison", why, runnable)
        elif self.only is not None and envelope.task not in self.only:
            self.outcomes.release(claimed)
        elif unopened or runnable is None:
            self.outcomes.unknown(claimed, unopened)
        elif tries.crashes:
            self.suspects.append(claimed)
        else:
            return runnable
        return None

    # --- run ---

    def _go_on(self) -> None:
        if self._waiting and not self._going:
            self._going = True
            # never at once, whatever the loop's task factory does: an eager one would start each batch inside of the one before
            self._batch = asyncio.Task(self._run_waiting(), loop=self._loop)

    async def _run_waiting(self) -> None:
        """Run waiting jobs one after another for as long as their handlers do not wait; the first that waits keeps this task for itself.

        So a job whose handler never waits costs no task, and each that does has one of its own. Every job has a context of its own.
        """
        begun = None
        try:
            begun = self._begin_waiting()
        finally:
            self._leave_batch()
        if begun is not None:
            await self._run_on(*begun)

    def _begin_waiting(self) -> tuple[Run, Awaitable[Any]] | None:
        """Run jobs up to the first that waits, and return what is left of it; None after the last, or when others shall have the loop.

        A handler may have cancelled the task: the next job gets another one.
        """
        task, waiting, count, most = asyncio.current_task(), self._waiting, 0, max(BREATH, self.slots // 2)
        assert task is not None
        empty = contextvars.copy_context()
        while waiting and count < most and not task.cancelling():
            claimed = waiting.popleft()
            runnable = self._resolve(claimed)
            run = None if runnable is None else self._begin(claimed, runnable)
            if run is None:
                continue
            run.task = task
            rest = self._first_step(run, empty.copy())
            if rest is not None:
                return run, rest
            count += 1
        return None

    def _first_step(self, run: Run, context: contextvars.Context) -> Awaitable[Any] | None:
        """Call the handler. Returns the rest of it where it waits; None where it has ended, and is finished."""
        try:
            steps = context.run(self._coroutine, run)
        except BaseException as error:  # a StopIteration too: no handler has returned
            self._finish(run, None, error)
            return None
        try:
            awaited = context.run(steps.send, None)
        except StopIteration as end:
            self._finish(run, end.value, None)
        except BaseException as error:
            self._finish(run, None, error)
        else:
            return _remaining(steps, context, awaited)
        return None

    def _leave_batch(self) -> None:
        """The task of the batch ends, or belongs to one job from now on: tell the fetcher, and let another go on with what waits."""
        self._changed()
        self._going = False
        self._go_on()

    def start_alone(self, claimed: Claimed) -> None:
        """Run a suspect now, while nothing else runs."""
        assert claimed.envelope is not None
        run = self._begin(claimed, self.tasks[claimed.envelope.task])
        if run is not None:
            run.alone = self.alone = True
            run.task = self._loop.create_task(self._run_alone(run))

    async def _run_alone(self, run: Run) -> None:
        rest = self._first_step(run, contextvars.copy_context())
        if rest is not None:
            await self._run_on(run, rest)
        self._changed()

    async def _run_on(self, run: Run, rest: Awaitable[Any]) -> None:
        try:
            value = await rest
        except BaseException as error:
            self._finish(run, None, error)
        else:
            self._finish(run, value, None)
        self._changed()

    def _begin(self, claimed: Claimed, runnable: Runnable) -> Run | None:
        """A run of a claimed job, or None where its lease may be over, or nothing is started any more: then it is released."""
        envelope, now = claimed.envelope, time.monotonic()
        assert envelope is not None
        if self.ending or (now >= claimed.grant.claimed_at + self._settings.lease and not self.trusted(claimed)):
            self.outcomes.release(claimed)
            return None
        timeout_s = runnable.timeout_s if envelope.timeout_ms is None else envelope.timeout_ms / 1000
        run = self.running[claimed.member] = Run(self, claimed, runnable, timeout_s, now)
        if runnable.hooks.on_event:
            self.outcomes.started(run)
        if runnable.isolated:
            run.deadline = 0.0  # it begins when a process is ready
        elif run.deadline and run.deadline < self._alarm_at:
            self._set_alarm(run.deadline)
        return run

    # --- call ---

    def _coroutine(self, run: Run) -> Coroutine[Any, Any, Any]:
        """What runs the job, in whose context this is called. Raises InvalidArguments: the stored arguments do not fit the handler."""
        runnable, envelope = run.runnable, run.claimed.envelope
        assert envelope is not None
        running.set(run.current)
        if runnable.isolated:
            return self._call_isolated(run)
        args, kwargs = runnable.signature.build(envelope.args, envelope.kwargs)
        if self._chain.wraps_run:
            called: Any = self._chain.around_run(run.job, lambda: self._call(run, args, kwargs))
        elif runnable.is_async:
            called = runnable.handler(*args, **kwargs)
        else:
            called = self._call_in_thread(run, args, kwargs)
        return called if type(called) is CoroutineType else _awaiting(called)

    async def _call(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if run.runnable.is_async:
            return await run.runnable.handler(*args, **kwargs)
        return await self._call_in_thread(run, args, kwargs)

    async def _call_in_thread(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A thread cannot be killed: wait for it whatever comes."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.slots, "bananas")
        handler = partial(call_safely, run, *args, **kwargs)
        call = self._loop.run_in_executor(self._threads, contextvars.copy_context().run, handler)
        while not call.done():
            try:
                await asyncio.wait([call])
            except asyncio.CancelledError:
                if run.stop == "":
                    raise
        return call.result()

    async def _call_isolated(self, run: Run) -> Answer:
        """The timeout counts from when its process is ready."""
        if self.pool is None:
            raise RuntimeError("this worker has no process pool")
        process = await self.pool.acquire()
        run.begin()
        if run.deadline and run.deadline < self._alarm_at:
            self._set_alarm(run.deadline)
        return await self.pool.call(process, run)

    # --- stop early ---

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

    def stop_all(self) -> None:
        """The worker ends: stop what runs, and start nothing any more; what waits, or is still handed over, goes back."""
        self.ending = True
        for run in list(self.running.values()):
            self.stop(run, "shutdown")

    # --- decide and settle ---

    def _finish(self, run: Run, value: Any, error: BaseException | None) -> None:
        """The run has ended: settle its job."""
        claimed = run.claimed
        if self.running.pop(claimed.member, None) is None:
            return
        self.finished += 1
        self.alone = False
        try:
            self._settle(run, value, error)
        except BaseException as unforeseen:  # the worker goes on, and the job is not held for ever
            log.error("the outcome of a job could not be recorded", job=run.job.id, error=type(unforeseen).__name__)
            self.outcomes.decide(run, None, RuntimeError(f"its outcome could not be recorded ({type(unforeseen).__name__})"))

    def _settle(self, run: Run, value: Any, error: BaseException | None) -> None:
        claimed = run.claimed
        if run.stop == "":
            self.outcomes.decide(run, value, error)
        elif run.stop == "lost":
            self._table.drop(claimed.slot)
            claimed.served.notes.drop(claimed.member)
            log.warning("lease lost: the outcome is not this worker's to write", job=run.job.id)
        elif run.stop == "shutdown" and error is not None:
            self.outcomes.release(claimed)
        elif run.stop == "cancel":
            self.outcomes.end(claimed, run.runnable, Result("cancelled", error_message="it was cancelled while it ran"), run)
        else:
            if run.stop == "timeout":
                error = TimeoutError(f"the run took longer than its timeout of {run.deadline - run.started:g} s")
            self.outcomes.decide(run, value, error)

    def abandon(self, member: bytes) -> None:
        """Hand back the job of a handler that does not stop; what it still returns counts for nothing."""
        run = self.running.pop(member)
        run.stop = "lost"
        self.outcomes.release(run.claimed)

    def close(self) -> None:
        """Let its threads go: those that are idle end now, one whose handler does not stop when that returns."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


@coroutine
def _remaining(steps: Coroutine[Any, Any, Any], context: contextvars.Context, awaited: Any) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that waits for `awaited`, each step in its context."""
    while True:
        try:
            step, value = steps.send, (yield awaited)
        except BaseException as error:
            step, value = steps.throw, error
        try:
            awaited = context.run(step, value)
        except StopIteration as end:
            return end.value


def call_safely(run: Run, /, *args: Any, **kwargs: Any) -> Any:
    """Call a handler on a thread; a StopIteration that leaves it would never reach the event loop."""
    try:
        return run.runnable.handler(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration") from error


async def _awaiting(awaitable: Any) -> Any:
    return await awaitable
