"""What becomes of a job, and how it is put to the server: the second half of the pipeline. Every way out of a worker is a method here."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, Literal

import structlog
from msgspec import Raw

from bananas import codec, sealing
from bananas.broker import Burial, Comeback, Ending, KeptResult
from bananas.codec import pack, pack_result, pack_tries
from bananas.config import Settings
from bananas.errors import (
    BananasError,
    Dead,
    IsolatedFailure,
    JobPoisoned,
    JobUndecodable,
    NotSerializable,
    PayloadTooLarge,
    Steer,
    UnknownTask,
)
from bananas.job import ErrorRecord, FinalState, History, Result, Tries
from bananas.lifecycle import Event, EventKind, event_of
from bananas.middleware import Hook, Hooks
from bananas.retry import Decision, Retry, decide
from bananas.seals import UNSEALED, Choice, Seals
from bananas.tally import DEAD, OTHER, RETRIED, SUCCESS
from bananas.worker.isolated import Answer
from bananas.worker.run import Claimed, Run, Runnable, job_of
from bananas.worker.settler import burial, comeback, ending, handback, success

Telling = tuple[tuple[Hook, ...], Event]
DEATHS: dict[str, type[BananasError]] = {"Poison": JobPoisoned, "UnknownTask": UnknownTask, "Undecodable": JobUndecodable}
log = structlog.get_logger("bananas.worker")


class Outcomes:
    """Decides what becomes of jobs and hands the settlements to their queues.

    Args:
        worker: who it says ran them, host:pid.
        changed: called when a settlement waits that no ended run announces.

    Attributes:
        hooks: the app's, for jobs that die without a run, of tasks that may be unknown here.
        state: what the app's lifespan yielded, for the same.
    """

    def __init__(self, settings: Settings, worker: str, changed: Callable[[], None], seals: Seals = UNSEALED) -> None:
        self._settings, self.worker, self._changed, self._seals = settings, worker, changed, seals
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self.hooks = Hooks()
        self.state: Any = None

    # --- after a run ---

    def decide(self, run: Run, value: Any, error: BaseException | None) -> None:
        """Settle a run by its value or its error."""
        claimed, runnable, envelope = run.claimed, run.runnable, run.claimed.envelope
        assert envelope is not None
        if error is None and runnable.isolated and isinstance(value, Answer):
            if value.decision is not None and value.record is not None:
                self._fail_isolated(run, value.decision, value.record, steered=value.steered)
                return
            value = value.value
        if error is None:
            if runnable.plain and envelope.ttl_success_ms is None:
                counting = claimed.served.counting
                if counting.on:
                    counting.ran(runnable.tag, run.started)
                if counting.room:
                    counting.sample(claimed.member, SUCCESS, run.started)
                claimed.served.settler.add(success(Ending(claimed.member), claimed.slot))
                return
            try:
                packed = self._pack_value(run, value)
            except (NotSerializable, PayloadTooLarge) as unfit:
                error, value = Dead(str(unfit)), unfit
            else:
                self._succeed(run, packed, value)
                return
        policy = Retry.from_wire(envelope.retry, runnable.retry) if envelope.retry is not None else runnable.retry
        most = runnable.max_retries if envelope.max_retries is None else envelope.max_retries
        attempt = claimed.tries.attempts + 1
        decision = decide(policy, most, attempt, error, random.random())
        self._carry_out(run, decision, error)

    def _count(self, run: Run, outcome: int) -> None:
        counting = run.claimed.served.counting
        if counting.on:
            counting.failed(run.runnable.tag, outcome, run.started)
            if outcome != RETRIED:
                counting.sample(run.claimed.member, outcome, run.started)

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
        if claimed.served.counting.on:
            claimed.served.counting.ran(run.runnable.tag, run.started)
            claimed.served.counting.sample(claimed.member, SUCCESS, run.started)
        if isinstance(value, Raw) and hooks.on_success:
            value = _unpacked(value, run.runnable)
        accepted = self._hook_call(hooks.on_success, (run.job, value), self._event("succeeded", run)) if hooks else None
        result = None
        if packed is not None:
            attempts, worker = claimed.tries.attempts + 1, self.worker
            kept = Result("success", Raw(packed), attempts=attempts, worker=worker, **self._times(run))
            result = KeptResult(self._ttl(claimed, run.runnable, "success"), self._packed(claimed, run.runnable, kept))
        claimed.served.settler.add(success(Ending(claimed.member, result), claimed.slot, accepted))

    def _times(self, run: Run) -> dict[str, Any]:
        run_s = time.monotonic() - run.started
        started_ms = run.claimed.grant.now_ms + round((run.started - run.claimed.grant.noted_at) * 1000)
        return {"started_ms": started_ms, "finished_ms": started_ms + round(run_s * 1000), "run_ms": round(run_s * 1000, 3)}

    def _fail_isolated(self, run: Run, decision: Decision, given: ErrorRecord, *, steered: bool) -> None:
        """Its process decided, by the exception that stayed there."""
        record = ErrorRecord(self._times(run)["finished_ms"], given.attempt, given.type, given.message, given.traceback, self.worker)
        self._carry_out(run, decision, IsolatedFailure(given.type, given.message, given.traceback), record, steered=steered)

    def _carry_out(
        self, run: Run, decision: Decision, error: BaseException, record: ErrorRecord | None = None, *, steered: bool = False
    ) -> None:
        claimed, hooks, job = run.claimed, run.runnable.hooks, run.job
        tries = claimed.tries
        now_ms = self._times(run)["finished_ms"]
        if decision.kind == "discard":
            self.end(claimed, run.runnable, Result("discarded", error_message=decision.reason), run)
            return
        if decision.kind == "snooze":
            tries = Tries(tries.attempts, 0, 0, tries.since_ms, tries.history) if run.alone else tries
            accepted = self._hook_call((), (), self._event("snoozed", run, delay_ms=decision.delay_ms, error_message=decision.reason))
            claimed.served.settler.add(comeback(Comeback(claimed.member, decision.delay_ms, pack_tries(tries)), claimed.slot, accepted))
            return
        attempt = tries.attempts + 1
        record = record or codec.error_record(error, now_ms, attempt, self.worker)
        crashes = 0 if run.alone else tries.crashes
        history = tries.history.with_error(self._stored(claimed, run.runnable, record))
        failed = Tries(attempt, crashes, 0 if run.alone else tries.alone, tries.since_ms, history)
        self._count(run, RETRIED if decision.kind == "retry" else DEAD)
        if decision.kind == "retry":
            delay_s = decision.delay_ms / 1000
            log.warning("attempt failed, will retry", job=job.id, task=run.runnable.name, attempt=attempt, error=record.type, delay=delay_s)
            event = self._event("retried", run, delay_ms=decision.delay_ms, error_type=record.type, error_message=record.message)
            accepted = self._hook_call(hooks.on_retry, (job, error, delay_s), event) if hooks else None
            claimed.served.settler.add(comeback(Comeback(claimed.member, decision.delay_ms, pack_tries(failed)), claimed.slot, accepted))
            return
        reason = decision.reason if steered or isinstance(error, Steer) else record.message
        log.error("job is dead", job=job.id, task=run.runnable.name, attempt=attempt, error=record.type, reason=decision.reason)
        event = self._event("died", run, error_type=record.type, error_message=reason)
        accepted = self._hook_call(hooks.on_dead, (job, error), event) if hooks else None
        result = Result(
            "dead",
            error_type=record.type,
            error_message=reason,
            traceback=record.traceback,
            attempts=attempt,
            worker=self.worker,
            **self._times(run),
        )
        self._bury(claimed, run.runnable, failed, self._packed(claimed, run.runnable, result), accepted)

    def _bury(
        self, claimed: Claimed, runnable: Runnable | None, tries: Tries, packed: bytes, accepted: Callable[[], None] | None = None
    ) -> None:
        ttl_ms = self._ttl(claimed, runnable, "failure")
        kept = KeptResult(ttl_ms, packed) if ttl_ms else None
        claimed.served.settler.add(burial(Burial(claimed.member, pack_tries(tries), kept), claimed.slot, accepted))

    def end(self, claimed: Claimed, runnable: Runnable | None, result: Result, run: Run | None = None) -> None:
        """The job ends for good without a value."""
        ttl_ms = self._ttl(claimed, runnable, "failure")
        kind: Any = result.state
        event = self._event(kind, run or claimed, runnable, error_message=result.error_message)
        if run is None:
            claimed.served.counting.left(claimed.member, OTHER)
            packed = pack_result(result)
        else:
            self._count(run, OTHER)
            times = self._times(run)
            result = Result(
                result.state, error_message=result.error_message, attempts=claimed.tries.attempts + 1, worker=self.worker, **times
            )
            packed = self._packed(claimed, runnable, result)
        kept = KeptResult(ttl_ms, packed) if ttl_ms else None
        claimed.served.settler.add(ending(Ending(claimed.member, kept), claimed.slot, self._hook_call((), (), event)))

    def _ttl(self, claimed: Claimed, runnable: Runnable | None, which: Literal["success", "failure"]) -> int:
        envelope = claimed.envelope
        own = None if envelope is None else envelope.ttl_success_ms if which == "success" else envelope.ttl_failure_ms
        if own is not None:
            return own if self._settings.result_backend_enabled else 0
        if runnable is None:
            return round(self._settings.result_ttl_failure * 1000) if self._settings.result_backend_enabled else 0
        return runnable.ttl_success_ms if which == "success" else runnable.ttl_failure_ms

    # --- what a run came to is sealed as its job is, and as its task says; why there was none is for everybody ---

    def _choice(self, claimed: Claimed, runnable: Runnable | None) -> Choice | None:
        choice = None if runnable is None else runnable.sealed
        if self._seals.keyed and (choice is None or not choice.encrypt) and sealing.is_encrypted(claimed.body):
            return Choice(choice is not None and choice.compress, encrypt=True)
        return choice

    def hides(self, run: Run) -> bool:
        """Whether what a run tells is to be encrypted."""
        choice = self._choice(run.claimed, run.runnable)
        return choice is not None and choice.encrypt

    def _packed(self, claimed: Claimed, runnable: Runnable | None, result: Result) -> bytes:
        choice = self._choice(claimed, runnable)
        if choice is None:
            return pack_result(result)
        return sealing.pack_result(result, self._seals, choice, (claimed.served.keys, claimed.job_id))

    def _stored(self, claimed: Claimed, runnable: Runnable, record: ErrorRecord) -> ErrorRecord:
        choice = self._choice(claimed, runnable)
        if choice is None or not choice.encrypt:
            return record
        return sealing.hide_error(record, self._seals, (claimed.served.keys, claimed.job_id))

    # --- settled without a run ---

    def end_unrun(self, claimed: Claimed, runnable: Runnable | None, state: FinalState, why: str) -> None:
        """The job ends for good and was not run."""
        self.end(claimed, runnable, Result(state, error_message=why, attempts=claimed.tries.attempts, finished_ms=claimed.grant.now_ms))
        self._changed()

    def bury_unrun(self, claimed: Claimed, kind: str, why: str, runnable: Runnable | None = None) -> None:
        """The job goes to the dead letter queue and was not run; `kind`, one of DEATHS, is recorded as the type of its error."""
        tries, job, now_ms = claimed.tries, job_of(claimed, self.state), claimed.grant.now_ms
        claimed.served.counting.left(claimed.member, DEAD)
        record = ErrorRecord(now_ms, tries.attempts, kind, why, "", self.worker)
        log.error("job is dead", job=job.id, task=job.task, error=kind, reason=why)
        result = Result("dead", error_type=kind, error_message=why, attempts=tries.attempts, finished_ms=now_ms, worker=self.worker)
        after = Tries(tries.attempts, tries.crashes, tries.alone, tries.since_ms, tries.history.with_error(record))
        hooks = self.hooks if runnable is None else runnable.hooks
        event = self._event("died", claimed, runnable, error_type=kind, error_message=why)
        self._bury(claimed, runnable, after, pack_result(result), self._hook_call(hooks.on_dead, (job, DEATHS[kind](why)), event))
        self._changed()

    def unknown(self, claimed: Claimed, unopened: str = "") -> None:
        """Hand a job back for workers that know its task, or can open it: 1 to 30 s, and dead when none did for `unknown_task_ttl`.

        Args:
            unopened: what this worker lacks to open it; "": it does not know the task.
        """
        envelope, history = claimed.envelope, claimed.tries.history
        assert envelope is not None
        since_ms = history.unknown_since_ms or claimed.grant.now_ms
        if claimed.grant.now_ms - since_ms > self._settings.unknown_task_ttl * 1000:
            ttl = f"for {self._settings.unknown_task_ttl:g} s"
            if unopened:
                self.bury_unrun(claimed, "Undecodable", f"no worker could open the job {ttl}: {unopened}. Deploy one, then replay it")
            else:
                self.bury_unrun(claimed, "UnknownTask", f"no worker knew the task {envelope.task!r} {ttl}: deploy one, then replay it")
            return
        tries, count = claimed.tries, history.unknown_count + 1
        after = Tries(tries.attempts, tries.crashes, tries.alone, tries.since_ms, History(history.errors, since_ms, count))
        delay_ms = min(30_000, 1_000 << min(count - 1, 5))
        what = {"task": envelope.task, "job": claimed.public, "delay": delay_ms / 1000}
        if unopened:
            log.warning("a job that cannot be opened here, handed back", **what, reason=unopened)
        else:
            log.warning("unknown task, handed back", **what)
        claimed.served.settler.add(comeback(Comeback(claimed.member, delay_ms, pack_tries(after)), claimed.slot))
        claimed.served.leave_in(delay_ms / 1000)
        self._changed()

    def postpone(self, claimed: Claimed, delay_s: float) -> None:
        """Hand a job back for a while; no attempt is used."""
        log.info("a suspect found no quiet moment, handed back", job=claimed.public, delay=delay_s)
        claimed.served.settler.add(comeback(Comeback(claimed.member, round(delay_s * 1000), pack_tries(claimed.tries)), claimed.slot))
        self._changed()

    def release(self, claimed: Claimed) -> None:
        """Hand a job back unused."""
        claimed.served.settler.add(handback(claimed.member, claimed.score, claimed.slot))
        self._changed()

    # --- hooks ---

    def started(self, run: Run) -> None:
        """The handler is about to be called: tell those who listen."""
        if (call := self._hook_call((), (), self._event("started", run))) is not None:
            call()

    def _event(self, kind: EventKind, of: Run | Claimed, runnable: Runnable | None = None, **told: Any) -> Telling | None:
        """An event and who listens to it; None where nobody does."""
        run, claimed = (of, of.claimed) if isinstance(of, Run) else (None, of)
        runnable = runnable if run is None else run.runnable
        hooks = self.hooks if runnable is None else runnable.hooks
        listeners = tuple(hook for kinds, hook in hooks.on_event if kind in kinds)
        if not listeners:
            return None
        if run is None:
            return listeners, event_of(kind, job_of(claimed, self.state), claimed.grant.now_ms, self.worker, **told)
        times = self._times(run)
        if kind == "started":
            return listeners, event_of(kind, run.job, times["started_ms"], self.worker)
        return listeners, event_of(kind, run.job, times["finished_ms"], self.worker, run_ms=times["run_ms"], **told)

    def _hook_call(
        self, hooks: tuple[Callable[..., Any], ...], args: tuple[Any, ...], event: Telling | None = None
    ) -> Callable[[], None] | None:
        calls = [(hook, args) for hook in hooks]
        if event is not None:
            listeners, value = event
            calls += [(listener, (value,)) for listener in listeners]
        if not calls:
            return None

        async def call() -> None:
            for hook, given in calls:
                try:
                    outcome = hook(*given)
                    if hasattr(outcome, "__await__"):
                        await outcome
                except (Exception, SystemExit):
                    log.exception("a hook failed", hook=getattr(hook, "__qualname__", repr(hook)))

        def start() -> None:
            task = self._loop.create_task(call())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return start

    async def hooks_ended(self, timeout: float | None = None) -> None:
        """Wait for the hooks under way, at most `timeout` seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)


def _unpacked(value: Raw, runnable: Runnable) -> Any:
    """An isolated handler's value as its annotation says, or as plain data where the annotation is wrong."""
    try:
        return codec.unpack(value, runnable.signature.returns)
    except codec.Undecodable:
        return codec.unpack(value)
