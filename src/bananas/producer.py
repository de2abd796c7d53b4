"""From a call to a job in its queue: options resolved, arguments checked and packed, sent alone, coalesced or in bulk."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Generic, NamedTuple, TypeVar, cast

from msgspec.structs import asdict

from bananas.broker import SUBMIT_BATCH, SUBMIT_BYTES, NewJob
from bananas.client import Client
from bananas.codec import pack_envelope
from bananas.config import PRIORITIES, Settings, check_queue_name, check_task_name, parse_priority
from bananas.durability import Level, level_of
from bananas.errors import BananasError, BrokerUnavailable, ConfigError, SubmitManyError, Unconfirmed, describe
from bananas.handle import Job
from bananas.job import Envelope, Tagged
from bananas.keys import QueueKeys, id_suffix, new_id
from bananas.lane import Delivery, Patience
from bananas.middleware import Chain, Draft
from bananas.places import Places, Shards
from bananas.result import Outcome, refuse_on_loop
from bananas.sealing import pack_job
from bananas.seals import Choice
from bananas.task import NO_OPTIONS, Call, Options, Task, check_headers, check_tags

R = TypeVar("R")
RunHere = Callable[[QueueKeys, NewJob], Coroutine[Any, Any, Outcome]]
BULK_BATCHES = 3  # under way, or packed and waiting for their turn, at a time


class _Plan(NamedTuple):
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
        self._plans: dict[str, _Plan] = {}

    def keys(self, queue: str) -> QueueKeys:
        """`Places.keys`."""
        return self.places.keys(queue)

    def submit(self, call: Call[R]) -> Coroutine[Any, Any, Job[R]]:
        """Submit one call; see `Task.submit`."""
        return self._send_wrapped(call) if self.chain.wraps_submit else self._send(call)

    async def _send_wrapped(self, call: Call[R]) -> Job[R]:
        draft = self.draft(call)
        with self.chain.around_submit([draft]):
            return await self._send(from_draft(call, draft))

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
                return self._send_sync(from_draft(call, draft))
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
        many = _Many[R](self, calls)
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

    async def _send_batch(self, many: "_Many[R]", batch: "_Batch", free: asyncio.Semaphore) -> None:
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
        many = _Many[R](self, calls)
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

    def _send_batch_sync(self, many: "_Many[R]", batch: "_Batch") -> None:
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

    def _plan(self, task: Task[Any, Any] | str, given: Options) -> _Plan:
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
        plan = _Plan(name, self.keys(queue), suffix, priority, expires_ms, kind, kept, self.places.shards(queue), level, sealed)
        if given is NO_OPTIONS and known is not None:
            self._plans[name] = plan
        return plan

    def pack(self, call: Call[Any], job_id: str = "", spread: str = "") -> tuple[_Plan, NewJob]:
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

    def _sealed(self, plan: _Plan, choice: Choice, envelope: Envelope[Any], job_id: str) -> tuple[str, bytes]:
        job_id = job_id or new_id(plan.suffix)
        return job_id, pack_job(envelope, self._limit_bytes, self.client.seals, choice, (plan.keys, job_id))

    def handle(self, plan: _Plan, job: NewJob, job_id: str) -> Job[Any]:
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


def from_draft(call: Call[R], draft: Draft) -> Call[R]:
    """The call as middleware left it. Raises ConfigError where that cannot be submitted."""
    options = call.options._replace(
        queue=check_queue_name(draft.queue),
        priority=parse_priority(draft.priority),
        headers=check_headers(draft.headers),
        tags=check_tags(draft.tags),
    )
    return Call(call.task, draft.args, draft.kwargs, options)


class _Batch:
    """Jobs for one queue that are sent together, and the place of each among the items."""

    __slots__ = ("bytes", "jobs", "keys", "level", "places")

    def __init__(self, keys: QueueKeys, level: Level | None) -> None:
        self.keys, self.level, self.bytes = keys, level, 0
        self.jobs: list[NewJob] = []
        self.places: list[int] = []

    def has_room(self, job: NewJob) -> bool:
        """Whether one more job fits."""
        return len(self.jobs) < SUBMIT_BATCH and (not self.jobs or self.bytes + len(job.body) <= SUBMIT_BYTES)


class _Many(Generic[R]):
    """The items of a submit_many and what each came to: a bad one fails alone."""

    def __init__(self, producer: Producer, calls: Iterable[Call[R]]) -> None:
        if not isinstance(calls, Iterable):
            raise ConfigError(f"submit_many takes calls, e.g. [task.bind(1), task.bind(2)], not {describe(calls)}; nothing was sent")
        self._producer, self._calls = producer, calls
        self._outcomes: list[Job[R] | Exception | _Plan] = []
        self._middleware = ExitStack()
        self._away: BrokerUnavailable | None = None

    def items(self) -> Iterator[tuple[int, _Plan, NewJob]]:
        """The items as they are packed, each with its place; those that cannot be are failed."""
        producer, outcomes, wraps = self._producer, self._outcomes, self._producer.chain.wraps_submit
        for call in self._calls:
            if not isinstance(call, Call):
                raise ConfigError(
                    f"submit_many takes calls, as task.bind(...) makes them, not {describe(call)}; items before it may be submitted"
                )
            try:
                if call.options.call_timeout is not None:
                    raise ConfigError("call_timeout is an option of a single submit; submit_many has the app's, per batch: leave it out")
                if wraps:
                    draft = producer.draft(call)
                    self._middleware.enter_context(producer.chain.around_submit([draft]))
                    call = from_draft(call, draft)
                plan, job = producer.pack(call)
            except Exception as error:  # of middleware too: an item fails alone
                outcomes.append(error)
            else:
                outcomes.append(plan)
                yield len(outcomes) - 1, plan, job

    def batches(self) -> Iterator[_Batch]:
        """The items in batches, as large as a batch may be, in their order within a queue."""
        filling: dict[tuple[str, Level | None], _Batch] = {}
        for place, plan, job in self.items():
            batch = filling.get((plan.keys.base, plan.level))
            if batch is None or not batch.has_room(job):
                if batch is not None:
                    yield batch
                batch = filling[plan.keys.base, plan.level] = _Batch(plan.keys, plan.level)
            batch.jobs.append(job)
            batch.places.append(place)
            batch.bytes += len(job.body)
        yield from filling.values()

    def sent(self, batch: _Batch, delivery: Delivery) -> None:
        """A batch was stored."""
        outcomes, client, keys, ids = self._outcomes, self._producer.client, batch.keys, delivery.ids
        for index, place in enumerate(batch.places):
            plan, own = cast(_Plan, outcomes[place]), batch.jobs[index].job_id
            job_id = own if ids is None else ids[index]
            if delivery.shortfall and batch.level is not None:
                outcomes[place] = Unconfirmed(keys.public(job_id), batch.level.name, delivery.shortfall)
            else:
                outcomes[place] = Job(client, keys, job_id, kind=plan.kind, kept=plan.kept, created=job_id == own)

    def check(self) -> None:
        """Raise BrokerUnavailable where an earlier batch has waited for the server in vain: the rest does not wait as long each."""
        if self._away is not None:
            raise BrokerUnavailable(
                "Nothing of this batch was sent, since the server stayed away for one before it. Submit the items that failed again later."
            ) from self._away

    def ran(self, place: int, job: NewJob, outcome: Outcome) -> None:
        """A job was run instead of being stored."""
        plan = cast(_Plan, self._outcomes[place])
        self._outcomes[place] = self._producer.handle(plan, job, job.job_id).ended(outcome)

    def failed(self, batch: _Batch, error: BananasError) -> None:
        """A batch was not stored, as far as is known."""
        if isinstance(error, BrokerUnavailable):
            self._away = self._away or error
        for place in batch.places:
            self._outcomes[place] = error

    def abandon(self) -> None:
        """The calls could not be read to their end: middleware that waits at its yield is closed."""
        self._middleware.close()

    def jobs(self) -> list[Job[R]]:
        """Every item's job, in order. Raises SubmitManyError when some have none."""
        failed = [outcome for outcome in self._outcomes if isinstance(outcome, Exception)]
        with self._middleware:
            if failed:
                raise SubmitManyError(cast(list[Any], self._outcomes))
        return cast(list[Job[R]], self._outcomes)
