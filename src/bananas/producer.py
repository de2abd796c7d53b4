"""From a call to a job in its queue: options resolved, arguments checked and packed, sent alone, coalesced or in bulk."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import asdict

from bananas.broker import NewJob
from bananas.client import Client
from bananas.codec import pack_envelope
from bananas.config import PRIORITIES, Settings, check_task_name
from bananas.durability import Level, level_of
from bananas.errors import BananasError, ConfigError, Unconfirmed
from bananas.handle import Job
from bananas.job import Envelope, Tagged
from bananas.keys import QueueKeys, id_suffix, new_id
from bananas.lane import Delivery, Patience
from bananas.many import Batch, Many, from_draft
from bananas.middleware import Chain, Draft
from bananas.places import Places, Shards
from bananas.result import Outcome, refuse_on_loop
from bananas.sealing import pack_job
from bananas.seals import Choice
from bananas.task import NO_OPTIONS, Call, Options, Task

R = TypeVar("R")
RunHere = Callable[[QueueKeys, NewJob], Coroutine[Any, Any, Outcome]]
BULK_BATCHES = 3  # under way, or packed and waiting for their turn, at a time


class Plan(NamedTuple):
    """What a submit of a task with some options comes to, but for the arguments."""

    task: str
    keys: QueueKeys
    suffix: str
    priority: int
    expires_ms: int
    kind: Any
    kept: bool
    shards: Shards | None
    level: Level | None
    sealed: Choice | None


class Pace:
    """A client's own rate limit: at most `rate` jobs per second, 0 = no limit."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0

    def wait_for(self, count: int) -> float:
        """Seconds to wait before `count` jobs may be sent; they are counted as sent then."""
        if not self._rate:
            return 0.0
        now = time.monotonic()
        start = max(now, self._free_at)
        self._free_at = start + count / self._rate
        return start - now


class Producer:
    """Submits calls for one app.

    Args:
        tasks: the app's tasks by name, for submits by name.

    Attributes:
        places: which keys the jobs of a queue go to.
        run_here: runs a packed job instead of sending it, and tells how it ended; None but in tests (`bananas.testing.inline`).
    """

    def __init__(self, settings: Settings, client: Client, chain: Chain, tasks: dict[str, Task[Any, Any]]) -> None:
        self.chain, self._tasks = chain, tasks
        self.run_here: RunHere | None = None
        self.use(settings, client)

    def use(self, settings: Settings, client: Client) -> None:
        """From now on, submit by these settings to this client's server."""
        self.settings, self.client = settings, client
        self._pace, self._limit_bytes = Pace(settings.submit_rate), settings.max_payload_bytes
        self.places = Places(settings)
        self._plans: dict[str, Plan] = {}

    def keys(self, queue: str) -> QueueKeys:
        """`Places.keys`."""
        return self.places.keys(queue)

    def submit(self, call: Call[R]) -> Coroutine[Any, Any, Job[R]]:
        """Submit one call; see `Task.submit`."""
        return self._send_wrapped(call) if self.chain.wraps_submit else self._send(call)

    async def _send_wrapped(self, call: Call[R]) -> Job[R]:
        draft = self.draft(call)
        with self.chain.around_submit([draft]):
            return draft.stored(await self._send(from_draft(call, draft)))

    async def _send(self, call: Call[R]) -> Job[R]:
        plan, job = self.pack(call)
        if self.run_here is not None:
            return self.handle(plan, job, job.job_id).ended(await self.run_here(plan.keys, job))
        if pause := self._pace.wait_for(1):
            await asyncio.sleep(pause)
        job_id = await self.client.here().submit(plan.keys, job, call.options.call_timeout or self.client.budget, plan.level)
        return self.handle(plan, job, job_id)

    def submit_sync(self, call: Call[R]) -> Job[R]:
        """Submit one call from code without an event loop; see `Task.submit_sync`."""
        refuse_on_loop("submit_sync()", "submit()")
        if self.chain.wraps_submit:
            draft = self.draft(call)
            with self.chain.around_submit([draft]):
                return draft.stored(self._send_sync(from_draft(call, draft)))
        return self._send_sync(call)

    def _send_sync(self, call: Call[R]) -> Job[R]:
        plan, job = self.pack(call)
        if self.run_here is not None:
            return self.handle(plan, job, job.job_id).ended(asyncio.run(self.run_here(plan.keys, job)))
        if pause := self._pace.wait_for(1):
            time.sleep(pause)
        delivery = self._deliver_sync(plan.keys, [job], call.options.call_timeout or self.client.budget, plan.level)
        job_id = job.job_id if delivery.ids is None else delivery.ids[0]
        if delivery.shortfall and plan.level is not None:
            raise Unconfirmed(plan.keys.public(job_id), plan.level.name, delivery.shortfall)
        return self.handle(plan, job, job_id)

    async def submit_many(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """Submit any number of calls in few round trips, in their order within each queue. Raises SubmitManyError.

        A queue has one batch under way; the next ones are packed meanwhile, which is most of the work, and wait for their turn in order.
        """
        many = Many[R](self, calls)
        if self.run_here is not None:
            for place, plan, job in many.items():
                many.ran(place, job, await self.run_here(plan.keys, job))
            return many.jobs()
        free, sending = asyncio.Semaphore(BULK_BATCHES), set[asyncio.Task[None]]()
        try:
            for batch in many.batches():
                if pause := self._pace.wait_for(len(batch.jobs)):
                    await asyncio.sleep(pause)
                await free.acquire()
                task = asyncio.create_task(self._send_batch(many, batch, free))
                sending.add(task)
                task.add_done_callback(sending.discard)
                await asyncio.sleep(0)
            await asyncio.gather(*sending)
        except BaseException:
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
            many.abandon()
            raise
        return many.jobs()

    async def _send_batch(self, many: Many[R], batch: Batch, free: asyncio.Semaphore) -> None:
        patience = Patience(self.client.budget, _submitting(batch.keys, batch.jobs))
        try:
            many.check()
            lane = self.client.here().lane(batch.keys, batch.level, bulk=True)
            many.sent(batch, await lane.deliver(batch.keys, batch.jobs, patience, batch.level))
        except BananasError as error:
            many.failed(batch, error)
        finally:
            free.release()

    def submit_many_sync(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """`submit_many` from code without an event loop."""
        refuse_on_loop("submit_many_sync()", "app.submit_many()")
        many = Many[R](self, calls)
        if self.run_here is not None:
            for place, plan, job in many.items():
                many.ran(place, job, asyncio.run(self.run_here(plan.keys, job)))
            return many.jobs()
        try:
            for batch in many.batches():
                if pause := self._pace.wait_for(len(batch.jobs)):
                    time.sleep(pause)
                self._send_batch_sync(many, batch)
        except BaseException:
            many.abandon()
            raise
        return many.jobs()

    def _send_batch_sync(self, many: Many[R], batch: Batch) -> None:
        try:
            many.check()
            many.sent(batch, self._deliver_sync(batch.keys, batch.jobs, self.client.budget, batch.level))
        except BananasError as error:
            many.failed(batch, error)

    def _deliver_sync(self, keys: QueueKeys, jobs: Sequence[NewJob], budget: float, level: Level | None) -> Delivery:
        patience = Patience(budget, _submitting(keys, jobs))
        delivery: Delivery = self.client.pool.use(lambda lane: lane.deliver(keys, jobs, patience, level), budget)
        return delivery

    # --- from a call to a packed job ---

    def _plan(self, task: Task[Any, Any] | str, given: Options) -> Plan:
        name = task if isinstance(task, str) else task.name
        if given is NO_OPTIONS and (plan := self._plans.get(name)) is not None:
            return plan
        known = self._tasks.get(check_task_name(name)) if isinstance(task, str) else task
        defaults = known.defaults if known is not None else NO_OPTIONS
        queue = given.queue or defaults.queue or "default"
        priority = _first(given.priority, defaults.priority, PRIORITIES["normal"])
        kept = self.settings.result_backend_enabled and _first(given.ttl_ms, defaults.ttl_ms, 1) != 0
        kind = Any if known is None else known.signature.returns
        level = level_of(self.settings, given.durability or defaults.durability)
        sealed = self.client.seals.choice(*(known.sealed if known is not None else (None, None)), f"task {name!r}")
        suffix, expires_ms = id_suffix(name, priority), given.expires_ms or defaults.expires_ms
        plan = Plan(name, self.keys(queue), suffix, priority, expires_ms, kind, kept, self.places.shards(queue), level, sealed)
        if given is NO_OPTIONS and known is not None:
            self._plans[name] = plan
        return plan

    def pack(self, call: Call[Any], job_id: str = "", spread: str = "") -> tuple[Plan, NewJob]:
        """Check and pack a call, as a new job or under an id that it was given before; calls of one `spread` go to one shard.

        Raises SubmitError, ConfigError: nothing was sent.
        """
        task, given = call.task, call.options
        plan = self._plan(task, given)
        if plan.shards is not None:
            plan = plan._replace(keys=plan.shards.choose(given.unique or spread))
        known = self._tasks.get(task) if isinstance(task, str) else task
        if known is not None:
            known.signature.check(plan.task, call.args, call.kwargs)
        if given is NO_OPTIONS:
            usual: Envelope[Any] = Envelope(plan.task, call.args, call.kwargs or None, expires_ms=plan.expires_ms)
            if plan.sealed is None:
                return plan, NewJob(job_id or new_id(plan.suffix), pack_envelope(usual, self._limit_bytes))
            return plan, NewJob(*self._sealed(plan, plan.sealed, usual, job_id))
        envelope: Envelope[Any] = Envelope(
            plan.task,
            call.args,
            call.kwargs or None,
            given.timeout_ms,
            given.max_retries,
            None if given.retry is None else given.retry.to_wire(),
            given.ttl_ms,
            given.ttl_ms,
            plan.expires_ms,
            dict(given.headers) if given.headers else None,
        )
        envelope = Tagged(**asdict(envelope), tags=given.tags) if given.tags else envelope
        if plan.sealed is None:
            job_id, body = job_id or new_id(plan.suffix), pack_envelope(envelope, self._limit_bytes)
        else:
            job_id, body = self._sealed(plan, plan.sealed, envelope, job_id)
        delay_ms = given.delay_ms if given.at_ms is None else max(0, given.at_ms - round(time.time() * 1000))
        if 0 < plan.expires_ms <= delay_ms:
            raise ConfigError(f"the job would expire {plan.expires_ms / 1000:g} s from now, before it is ready: give a longer expires_in")
        return plan, NewJob(job_id, body, delay_ms, given.unique)

    def _sealed(self, plan: Plan, choice: Choice, envelope: Envelope[Any], job_id: str) -> tuple[str, bytes]:
        job_id = job_id or new_id(plan.suffix)
        return job_id, pack_job(envelope, self._limit_bytes, self.client.seals, choice, (plan.keys, job_id))

    def handle(self, plan: Plan, job: NewJob, job_id: str) -> Job[Any]:
        """The handle of a job that was submitted, or of the one that stands for it."""
        return Job(self.client, plan.keys, job_id, kind=plan.kind, kept=plan.kept, created=job_id == job.job_id)

    def draft(self, call: Call[Any]) -> Draft:
        """What middleware sees of a call."""
        plan = self._plan(call.task, call.options)
        headers, tags = dict(call.options.headers or {}), list(call.options.tags)
        return Draft(plan.task, call.args, dict(call.kwargs), plan.keys.queue, plan.priority, headers, tags)


def _submitting(keys: QueueKeys, jobs: Sequence[NewJob]) -> str:
    return f"submitting {len(jobs)} job(s) to queue {keys.name!r}"


def _first(*choices: int | None) -> int:
    return next(choice for choice in choices if choice is not None)
