"""From a call to a job in its queue: options resolved, arguments checked and packed, sent alone, coalesced or in bulk."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar, cast

from bananas.broker import NewJob, batches
from bananas.client import Client, Lane, SyncLane
from bananas.codec import pack_envelope
from bananas.config import PRIORITIES, Settings, check_task_name
from bananas.errors import BananasError, ConfigError, SubmitError, SubmitManyError, describe
from bananas.handle import Job
from bananas.job import Envelope
from bananas.keys import QueueKeys, id_suffix, new_id
from bananas.middleware import Chain, Draft
from bananas.result import Outcome, refuse_on_loop
from bananas.task import NO_OPTIONS, Call, Options, Task

R = TypeVar("R")
RunHere = Callable[[QueueKeys, NewJob], Coroutine[Any, Any, Outcome]]
BULK_LANES = 3


class _Plan(NamedTuple):
    """What a submit of a task with some options comes to, but for the arguments."""

    task: str
    keys: QueueKeys
    suffix: str
    priority: int
    expires_ms: int
    kind: Any
    kept: bool


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
        run_here: runs a packed job instead of sending it, and tells how it ended; None but in tests (`bananas.testing.inline`).
    """

    def __init__(self, settings: Settings, client: Client, chain: Chain, tasks: dict[str, Task[Any, Any]]) -> None:
        self.chain, self._tasks = chain, tasks
        self.run_here: RunHere | None = None
        self.use(settings, client)

    def use(self, settings: Settings, client: Client) -> None:
        """From now on, submit by these settings to this client's server."""
        self.settings, self.client = settings, client
        self._pace = Pace(settings.submit_rate)
        self._keys: dict[str, QueueKeys] = {}
        self._plans: dict[str, _Plan] = {}

    def keys(self, queue: str) -> QueueKeys:
        """The keys of a queue whose name was checked."""
        found = self._keys.get(queue)
        if found is None:
            found = self._keys[queue] = QueueKeys(self.settings.namespace, queue)
        return found

    async def submit(self, call: Call[R]) -> Job[R]:
        """Submit one call; see `Task.submit`."""
        if self.chain.wraps_submit:
            draft = self.draft(call)
            with self.chain.around_submit([draft]):
                return await self._send(_from_draft(call, draft))
        return await self._send(call)

    async def _send(self, call: Call[R]) -> Job[R]:
        plan, job = self.pack(call)
        if self.run_here is not None:
            return self.handle(plan, job, job.job_id).ended(await self.run_here(plan.keys, job))
        if pause := self._pace.wait_for(1):
            await asyncio.sleep(pause)
        job_id = await self.client.here().submit(plan.keys, job, call.options.call_timeout or self.client.budget)
        return self.handle(plan, job, job_id)

    def submit_sync(self, call: Call[R]) -> Job[R]:
        """Submit one call from code without an event loop; see `Task.submit_sync`."""
        refuse_on_loop("submit_sync()", "submit()")
        if self.chain.wraps_submit:
            draft = self.draft(call)
            with self.chain.around_submit([draft]):
                return self._send_sync(_from_draft(call, draft))
        return self._send_sync(call)

    def _send_sync(self, call: Call[R]) -> Job[R]:
        plan, job = self.pack(call)
        if self.run_here is not None:
            return self.handle(plan, job, job.job_id).ended(asyncio.run(self.run_here(plan.keys, job)))
        if pause := self._pace.wait_for(1):
            time.sleep(pause)
        budget = call.options.call_timeout or self.client.budget
        ids = self.client.pool.use(partial(_deliver, plan.keys, [job], budget), budget)
        return self.handle(plan, job, job.job_id if ids is None else ids[0])

    async def submit_many(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """Submit any number of calls in few round trips, pipelined over several lanes. Raises SubmitManyError."""
        many = _Many[R](self, calls)
        if self.run_here is not None:
            for keys, job in many.packed():
                many.ran(job, await self.run_here(keys, job))
            return many.jobs()
        here = self.client.here()
        free: asyncio.Queue[Lane] = asyncio.Queue()
        for index in range(BULK_LANES):
            free.put_nowait(here.bulk_lane(index))

        async def send(lane: Lane, keys: QueueKeys, jobs: list[NewJob]) -> None:
            try:
                many.sent(jobs, await lane.deliver(keys, jobs, self.client.budget))
            except BananasError as error:
                many.failed(jobs, error)
            finally:
                free.put_nowait(lane)

        async with asyncio.TaskGroup() as group:
            for keys, jobs in batches(many.packed()):
                if pause := self._pace.wait_for(len(jobs)):
                    await asyncio.sleep(pause)
                group.create_task(send(await free.get(), keys, jobs))
                await asyncio.sleep(0)
        return many.jobs()

    def submit_many_sync(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """`submit_many` from code without an event loop."""
        refuse_on_loop("submit_many_sync()", "app.submit_many()")
        many = _Many[R](self, calls)
        if self.run_here is not None:
            for keys, job in many.packed():
                many.ran(job, asyncio.run(self.run_here(keys, job)))
            return many.jobs()
        budget = self.client.budget
        for keys, jobs in batches(many.packed()):
            if pause := self._pace.wait_for(len(jobs)):
                time.sleep(pause)
            try:
                many.sent(jobs, self.client.pool.use(partial(_deliver, keys, jobs, budget), budget))
            except BananasError as error:
                many.failed(jobs, error)
        return many.jobs()

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
        plan = _Plan(name, self.keys(queue), id_suffix(name, priority), priority, given.expires_ms or defaults.expires_ms, kind, kept)
        if given is NO_OPTIONS and known is not None:
            self._plans[name] = plan
        return plan

    def pack(self, call: Call[Any]) -> tuple[_Plan, NewJob]:
        """Check and pack a call. Raises SubmitError, ConfigError: nothing was sent."""
        task, given = call.task, call.options
        plan = self._plan(task, given)
        known = self._tasks.get(task) if isinstance(task, str) else task
        if known is not None:
            known.signature.check(plan.task, call.args, call.kwargs)
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
        body = pack_envelope(envelope, self.settings.max_payload_bytes)
        return plan, NewJob(new_id(plan.suffix), body, given.delay_ms, given.unique)

    def handle(self, plan: _Plan, job: NewJob, job_id: str) -> Job[Any]:
        """The handle of a job that was submitted, or of the one that stands for it."""
        return Job(self.client, plan.keys, job_id, kind=plan.kind, kept=plan.kept, created=job_id == job.job_id)

    def draft(self, call: Call[Any]) -> Draft:
        """What middleware sees of a call."""
        plan = self._plan(call.task, call.options)
        return Draft(plan.task, call.args, dict(call.kwargs), plan.keys.queue, plan.priority, dict(call.options.headers or {}))


def _deliver(keys: QueueKeys, jobs: Sequence[NewJob], budget: float, lane: SyncLane) -> list[str] | None:
    return lane.deliver(keys, jobs, budget)


def _first(*choices: int | None) -> int:
    return next(choice for choice in choices if choice is not None)


def _from_draft(call: Call[R], draft: Draft) -> Call[R]:
    options = call.options._replace(queue=draft.queue, priority=draft.priority, headers=draft.headers)
    return Call(call.task, draft.args, draft.kwargs, options)


class _Many(Generic[R]):
    """The items of a submit_many and what each came to: a bad one fails alone."""

    def __init__(self, producer: Producer, calls: Iterable[Call[R]]) -> None:
        self._producer, self._calls = producer, calls
        self._outcomes: list[Job[R] | BananasError | None] = []
        self._under_way: dict[str, tuple[int, _Plan]] = {}
        self._middleware = ExitStack()

    def packed(self) -> Iterator[tuple[QueueKeys, NewJob]]:
        """The items as they are packed; those that cannot be are failed."""
        producer = self._producer
        for call in self._calls:
            if not isinstance(call, Call):
                raise ConfigError(
                    f"submit_many takes calls, as task.bind(...) makes them, not {describe(call)}; items before it may be submitted"
                )
            try:
                if producer.chain.wraps_submit:
                    draft = producer.draft(call)
                    self._middleware.enter_context(producer.chain.around_submit([draft]))
                    call = _from_draft(call, draft)
                plan, job = producer.pack(call)
            except (SubmitError, ConfigError) as error:
                self._outcomes.append(error)
            else:
                self._under_way[job.job_id] = (len(self._outcomes), plan)
                self._outcomes.append(None)
                yield plan.keys, job

    def sent(self, jobs: Sequence[NewJob], ids: list[str] | None) -> None:
        """A batch was stored."""
        for place, job in enumerate(jobs):
            index, plan = self._under_way.pop(job.job_id)
            self._outcomes[index] = self._producer.handle(plan, job, job.job_id if ids is None else ids[place])

    def ran(self, job: NewJob, outcome: Outcome) -> None:
        """A job was run instead of being stored."""
        index, plan = self._under_way.pop(job.job_id)
        self._outcomes[index] = self._producer.handle(plan, job, job.job_id).ended(outcome)

    def failed(self, jobs: Sequence[NewJob], error: BananasError) -> None:
        """A batch was not stored."""
        for job in jobs:
            self._outcomes[self._under_way.pop(job.job_id)[0]] = error

    def jobs(self) -> list[Job[R]]:
        """Every item's job, in order. Raises SubmitManyError when some have none."""
        failed = [outcome for outcome in self._outcomes if isinstance(outcome, BananasError)]
        with self._middleware:
            if failed:
                raise SubmitManyError(self._outcomes)
        return cast(list[Job[R]], self._outcomes)
