"""One job as a pipeline of values: decode, resolve, call, decide, settle. Failure is a field, not a jump.

The runner knows nothing of the server: it takes claimed jobs and puts settlements into a settler. What stops a run early (its timeout, a cancel,
a lost lease, the end of the worker) is written into the run first, then its handler is cancelled; a handler that does not stop keeps its slot and
is settled when it returns, as what stopped it, whatever it returned.

One timer serves all timeouts: it fires when the earliest deadline known at its setting is due, and looks at all runs then. A new run only
compares one number.
"""

import asyncio
import contextvars
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import structlog
from msgspec import Raw

from bananas import codec
from bananas.broker import Burial, Comeback, Ending, KeptResult
from bananas.codec import Undecodable, pack, pack_result, pack_tries, unpack_body, unpack_tries
from bananas.config import Settings
from bananas.context import CurrentJob, running
from bananas.errors import Dead, NotSerializable, PayloadTooLarge, Steer
from bananas.job import FRESH, Envelope, ErrorRecord, FinalState, History, Result, Tries
from bananas.middleware import Chain, Hooks
from bananas.retry import Decision, Retry, decide
from bananas.task import Task
from bananas.worker.isolated import IsolatedFailure, IsolatedPool
from bananas.worker.served import Served
from bananas.worker.settler import burial, comeback, ending, handback
from bananas.worker.table import LeaseTable

POISON_CRASHES = 3
Stop = Literal["", "timeout", "cancel", "lost", "shutdown"]
log = structlog.get_logger("bananas.worker")


class Runnable:
    """A task as this worker runs it: the settings' defaults filled in."""

    __slots__ = ("handler", "hooks", "is_async", "isolated", "max_retries", "name", "retry", "signature", "timeout_s", "ttl_failure_ms", "ttl_success_ms")

    def __init__(self, task: Task[Any, Any], settings: Settings, hooks: Hooks) -> None:
        given = task.defaults
        self.name, self.handler, self.signature = task.name, task.handler, task.signature
        self.is_async, self.isolated = task.is_async, task.isolation == "process"
        self.hooks = hooks + task.hooks
        self.timeout_s = settings.job_timeout if given.timeout_ms is None else given.timeout_ms / 1000
        self.max_retries = settings.max_retries if given.max_retries is None else given.max_retries
        self.retry = given.retry or Retry()
        kept = settings.result_backend_enabled
        self.ttl_success_ms = int(kept and (round(settings.result_ttl_success * 1000) if given.ttl_ms is None else given.ttl_ms))
        self.ttl_failure_ms = int(kept and (round(settings.result_ttl_failure * 1000) if given.ttl_ms is None else given.ttl_ms))


class Claimed:
    """A job in this worker's hands: what was stored, and its lease."""

    __slots__ = ("cancelled", "claimed_at", "envelope", "fence", "job_id", "member", "noted_at", "now_ms", "score", "served", "since_ms", "slot", "tries")

    def __init__(self, served: Served, job_id: str, member: bytes, score: bytes, fence: int, slot: int, times: tuple[int, float, float]) -> None:
        self.served, self.job_id, self.member, self.score, self.fence, self.slot = served, job_id, member, score, fence, slot
        self.now_ms, self.claimed_at, self.noted_at = times
        self.tries: Tries = FRESH
        self.envelope: Envelope[Raw] | None = None
        self.since_ms = 0
        self.cancelled = False


class Run:
    """A job whose handler runs."""

    __slots__ = ("_runner", "alone", "claimed", "deadline", "job", "overdue", "runnable", "started", "stop", "task")

    def __init__(self, runner: "Runner", claimed: Claimed, runnable: Runnable, timeout_s: float) -> None:
        self._runner, self.claimed, self.runnable = runner, claimed, runnable
        self.started = time.monotonic()
        self.deadline = self.started + timeout_s if timeout_s else 0.0
        self.stop: Stop = ""
        self.overdue = self.alone = False
        self.task: asyncio.Task[None] | None = None
        self.job: CurrentJob | None = None

    def valid(self) -> bool:
        """Whether the lease surely holds still, by this machine's monotonic clock."""
        return self.stop != "lost" and self._runner.trusted(self.claimed)


class Runner:
    """Runs the jobs of one worker process.

    Args:
        changed: called when a slot became free or a settlement waits.
    """

    def __init__(self, tasks: dict[str, Runnable], settings: Settings, chain: Chain, table: LeaseTable, changed: Callable[[], None]) -> None:
        self.tasks, self._settings, self._chain, self._table, self._changed = tasks, settings, chain, table, changed
        self.state: Any = None
        self.worker = ""
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
        self._tasks: set[asyncio.Task[Any]] = set()

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
            self._bury_unrun(claimed, "Undecodable", str(error))
            return
        claimed.since_ms = claimed.tries.since_ms or born_ms
        runnable = self.tasks.get(claimed.envelope.task)
        if claimed.cancelled:
            self._end_unrun(claimed, runnable, "cancelled", "it was cancelled")
        elif claimed.envelope.expires_ms and claimed.now_ms > claimed.since_ms + claimed.envelope.expires_ms:
            self._end_unrun(claimed, runnable, "expired", f"it was not started within {claimed.envelope.expires_ms / 1000:g} s")
        elif claimed.tries.alone >= POISON_CRASHES:
            self._bury_unrun(claimed, "Poison", f"{claimed.tries.alone} worker processes died while they ran this job alone")
        elif self.only is not None and claimed.envelope.task not in self.only:
            self.release(claimed)
        elif runnable is None:
            self._unknown(claimed)
        elif claimed.tries.crashes:
            self.suspects.append(claimed)
        else:
            self.start(claimed, runnable)

    def start(self, claimed: Claimed, runnable: Runnable, *, alone: bool = False) -> None:
        """Run a claimed job now, unless its lease may be over."""
        envelope = claimed.envelope
        assert envelope is not None
        if not self.trusted(claimed):
            self.release(claimed)
            return
        timeout_s = runnable.timeout_s if envelope.timeout_ms is None else envelope.timeout_ms / 1000
        run = Run(self, claimed, runnable, timeout_s)
        run.alone = alone
        keys = claimed.served.keys
        run.job = CurrentJob(
            (keys.name, claimed.job_id),
            envelope.task,
            keys.queue,
            int(claimed.score) >> 42,
            attempt=claimed.tries.attempts + 1,
            fence=claimed.fence,
            deadline=run.deadline or None,
            headers=envelope.headers or {},
            state=self.state,
            lease=run,
        )
        self.running[claimed.member] = run
        self.alone = alone
        if run.deadline and run.deadline < self._alarm_at:
            self._set_alarm(run.deadline)
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
        if self.pool is None:
            raise RuntimeError("this worker has no process pool")
        assert run.job is not None
        return await self.pool.call(run.job, envelope)

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
            self.release(claimed)
        elif run.stop == "cancel":
            self._end(claimed, run.runnable, Result("cancelled", error_message="it was cancelled while it ran"), run)
        else:
            if run.stop == "timeout":
                error = TimeoutError(f"the run took longer than its timeout of {run.deadline - run.started:g} s")
            self._decide(run, value, error)
        self._changed()

    def _decide(self, run: Run, value: Any, error: BaseException | None) -> None:
        claimed, runnable, envelope = run.claimed, run.runnable, run.claimed.envelope
        assert envelope is not None
        if error is None:
            try:
                packed = self._pack_value(run, value)
            except (NotSerializable, PayloadTooLarge) as unfit:
                error, value = Dead(str(unfit)), unfit
            else:
                self._succeed(run, packed, value)
                return
        if isinstance(error, IsolatedFailure):
            self._carry_out(run, error.decision, error, error.record)
            return
        policy = Retry.from_wire(envelope.retry, runnable.retry) if envelope.retry is not None else runnable.retry
        most = runnable.max_retries if envelope.max_retries is None else envelope.max_retries
        attempt = claimed.tries.attempts + 1
        decision = decide(policy, most, attempt, error, random.random())
        self._carry_out(run, decision, error)

    def _pack_value(self, run: Run, value: Any) -> bytes | None:
        """The packed value, or None when no result is kept."""
        if not self._ttl(run.claimed, run.runnable, "success"):
            return None
        packed = value if isinstance(value, Raw) else pack(value)
        size = len(bytes(packed))
        if size > self._settings.max_payload_bytes:
            raise PayloadTooLarge(size, self._settings.max_payload_bytes, "result")
        return bytes(packed)

    def _succeed(self, run: Run, packed: bytes | None, value: Any) -> None:
        claimed, hooks = run.claimed, run.runnable.hooks
        accepted = self._hook_call(hooks.on_success, run.job, value) if hooks else None
        result = None
        if packed is not None:
            attempts, worker = claimed.tries.attempts + 1, self.worker
            kept = Result("success", Raw(packed), attempts=attempts, worker=worker, **self._times(run))
            result = KeptResult(self._ttl(claimed, run.runnable, "success"), pack_result(kept))
        claimed.served.settler.add(ending(Ending(claimed.member, result), claimed.slot, accepted))

    def _times(self, run: Run) -> dict[str, Any]:
        run_s = time.monotonic() - run.started
        started_ms = run.claimed.now_ms + round((run.started - run.claimed.noted_at) * 1000)
        return {"started_ms": started_ms, "finished_ms": started_ms + round(run_s * 1000), "run_ms": round(run_s * 1000, 3)}

    def _carry_out(self, run: Run, decision: Decision, error: BaseException, record: ErrorRecord | None = None) -> None:
        claimed, hooks, job = run.claimed, run.runnable.hooks, run.job
        tries = claimed.tries
        now_ms = self._times(run)["finished_ms"]
        if decision.kind == "discard":
            self._end(claimed, run.runnable, Result("discarded", error_message=decision.reason), run)
            return
        if decision.kind == "snooze":
            claimed.served.settler.add(comeback(Comeback(claimed.member, decision.delay_ms, pack_tries(tries)), claimed.slot))
            return
        attempt = tries.attempts + 1
        record = record or codec.error_record(error, now_ms, attempt, self.worker)
        crashes = 0 if run.alone else tries.crashes
        failed = Tries(attempt, crashes, 0 if run.alone else tries.alone, tries.since_ms, tries.history.with_error(record))
        if decision.kind == "retry":
            delay_s = decision.delay_ms / 1000
            log.warning("attempt failed, will retry", job=job and job.id, task=run.runnable.name, attempt=attempt, error=record.type, delay=delay_s)
            accepted = self._hook_call(hooks.on_retry, job, error, delay_s) if hooks else None
            claimed.served.settler.add(comeback(Comeback(claimed.member, decision.delay_ms, pack_tries(failed)), claimed.slot, accepted))
            return
        reason = decision.reason if isinstance(error, Steer) else record.message
        log.error("job is dead", job=job and job.id, task=run.runnable.name, attempt=attempt, error=record.type, reason=decision.reason)
        accepted = self._hook_call(hooks.on_dead, job, error) if hooks else None
        result = Result(
            "dead",
            error_type=record.type,
            error_message=reason,
            traceback=record.traceback,
            attempts=attempt,
            worker=self.worker,
            **self._times(run),
        )
        self._bury(claimed, run.runnable, failed, result, accepted)

    def _bury(self, claimed: Claimed, runnable: Runnable | None, tries: Tries, result: Result, accepted: Callable[[], None] | None = None) -> None:
        ttl_ms = self._ttl(claimed, runnable, "failure")
        kept = KeptResult(ttl_ms, pack_result(result)) if ttl_ms else None
        claimed.served.settler.add(burial(Burial(claimed.member, pack_tries(tries), kept), claimed.slot, accepted))

    def _end(self, claimed: Claimed, runnable: Runnable | None, result: Result, run: Run | None = None) -> None:
        ttl_ms = self._ttl(claimed, runnable, "failure")
        if run is not None:
            times = self._times(run)
            result = Result(result.state, error_message=result.error_message, attempts=claimed.tries.attempts + 1, worker=self.worker, **times)
        kept = KeptResult(ttl_ms, pack_result(result)) if ttl_ms else None
        claimed.served.settler.add(ending(Ending(claimed.member, kept), claimed.slot))

    def _ttl(self, claimed: Claimed, runnable: Runnable | None, which: Literal["success", "failure"]) -> int:
        envelope = claimed.envelope
        own = None if envelope is None else envelope.ttl_success_ms if which == "success" else envelope.ttl_failure_ms
        if own is not None:
            return own if self._settings.result_backend_enabled else 0
        if runnable is None:
            return round(self._settings.result_ttl_failure * 1000)
        return runnable.ttl_success_ms if which == "success" else runnable.ttl_failure_ms

    # --- settled without a run ---

    def _end_unrun(self, claimed: Claimed, runnable: Runnable | None, state: FinalState, why: str) -> None:
        self._end(claimed, runnable, Result(state, error_message=why, attempts=claimed.tries.attempts, finished_ms=claimed.now_ms))
        self._changed()

    def _bury_unrun(self, claimed: Claimed, kind: str, why: str) -> None:
        tries = claimed.tries
        record = ErrorRecord(claimed.now_ms, tries.attempts, kind, why, "", self.worker)
        log.error("job is dead", job=claimed.served.keys.public(claimed.job_id), error=kind, reason=why)
        result = Result("dead", error_type=kind, error_message=why, attempts=tries.attempts, finished_ms=claimed.now_ms, worker=self.worker)
        after = Tries(tries.attempts, tries.crashes, tries.alone, tries.since_ms, tries.history.with_error(record))
        self._bury(claimed, None, after, result)
        self._changed()

    def _unknown(self, claimed: Claimed) -> None:
        """Hand a job back for workers that know its task: 1 to 30 s, and dead when none did for `unknown_task_ttl`."""
        envelope, history = claimed.envelope, claimed.tries.history
        assert envelope is not None
        since_ms = history.unknown_since_ms or claimed.now_ms
        if claimed.now_ms - since_ms > self._settings.unknown_task_ttl * 1000:
            why = f"no worker knew the task {envelope.task!r} for {self._settings.unknown_task_ttl:g} s: deploy a worker that does, then replay it"
            self._bury_unrun(claimed, "UnknownTask", why)
            return
        tries, count = claimed.tries, history.unknown_count + 1
        after = Tries(tries.attempts, tries.crashes, tries.alone, tries.since_ms, History(history.errors, since_ms, count))
        delay_ms = min(30_000, 1_000 << min(count - 1, 5))
        log.warning("unknown task, handed back", task=envelope.task, job=claimed.served.keys.public(claimed.job_id), delay=delay_ms / 1000)
        claimed.served.settler.add(comeback(Comeback(claimed.member, delay_ms, pack_tries(after)), claimed.slot))
        self._changed()

    def release(self, claimed: Claimed) -> None:
        """Hand a job back unused."""
        claimed.served.settler.add(handback(claimed.member, claimed.score, claimed.slot))
        self._changed()

    def abandon(self, member: bytes) -> None:
        """Hand back the job of a handler that does not stop; what it still returns counts for nothing."""
        run = self.running.pop(member)
        run.stop = "lost"
        self.release(run.claimed)

    # --- hooks ---

    def _hook_call(self, hooks: tuple[Callable[..., Any], ...], *args: Any) -> Callable[[], None] | None:
        if not hooks:
            return None

        async def call() -> None:
            for hook in hooks:
                try:
                    outcome = hook(*args)
                    if hasattr(outcome, "__await__"):
                        await outcome
                except Exception:
                    log.exception("a hook failed", hook=getattr(hook, "__qualname__", repr(hook)))

        def start() -> None:
            task = self._loop.create_task(call())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return start

