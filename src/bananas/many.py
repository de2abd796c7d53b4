"""Submits of many calls: the items, the batches that they are sent in, and what each came to."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from bananas.broker import SUBMIT_BATCH, SUBMIT_BYTES, NewJob
from bananas.config import check_queue_name, parse_priority
from bananas.durability import Level
from bananas.errors import BananasError, BrokerUnavailable, ConfigError, SubmitManyError, Unconfirmed, describe
from bananas.handle import Job
from bananas.keys import QueueKeys
from bananas.lane import Delivery
from bananas.middleware import Draft
from bananas.result import Outcome
from bananas.task import Call, check_headers, check_tags

if TYPE_CHECKING:
    from bananas.producer import Plan, Producer

R = TypeVar("R")


def from_draft(call: Call[R], draft: Draft) -> Call[R]:
    """The call as middleware left it. Raises ConfigError where that cannot be submitted."""
    options = call.options._replace(
        queue=check_queue_name(draft.queue),
        priority=parse_priority(draft.priority),
        headers=check_headers(draft.headers),
        tags=check_tags(draft.tags),
    )
    return Call(call.task, draft.args, draft.kwargs, options)


class Batch:
    """Jobs for one queue that are sent together, and the place of each among the items."""

    __slots__ = ("bytes", "jobs", "keys", "level", "places")

    def __init__(self, keys: QueueKeys, level: Level | None) -> None:
        self.keys, self.level, self.bytes = keys, level, 0
        self.jobs: list[NewJob] = []
        self.places: list[int] = []

    def has_room(self, job: NewJob) -> bool:
        """Whether one more job fits."""
        return len(self.jobs) < SUBMIT_BATCH and (not self.jobs or self.bytes + len(job.body) <= SUBMIT_BYTES)


class Many(Generic[R]):
    """The items of a submit_many and what each came to: a bad one fails alone."""

    def __init__(self, producer: "Producer", calls: Iterable[Call[R]]) -> None:
        if not isinstance(calls, Iterable):
            raise ConfigError(f"submit_many takes calls, e.g. [task.bind(1), task.bind(2)], not {describe(calls)}; nothing was sent")
        self._producer, self._calls = producer, calls
        self._outcomes: list[Job[R] | Exception | Plan] = []
        self._middleware = ExitStack()
        self._drafts: list[tuple[int, Draft]] = []
        self._away: BrokerUnavailable | None = None

    def items(self) -> "Iterator[tuple[int, Plan, NewJob]]":
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
                    self._drafts.append((len(outcomes), draft))
                    self._middleware.enter_context(producer.chain.around_submit([draft]))
                    call = from_draft(call, draft)
                plan, job = producer.pack(call)
            except Exception as error:  # of middleware too: an item fails alone
                outcomes.append(error)
            else:
                outcomes.append(plan)
                yield len(outcomes) - 1, plan, job

    def batches(self) -> Iterator[Batch]:
        """The items in batches, as large as a batch may be, in their order within a queue."""
        filling: dict[tuple[str, Level | None], Batch] = {}
        for place, plan, job in self.items():
            batch = filling.get((plan.keys.base, plan.level))
            if batch is None or not batch.has_room(job):
                if batch is not None:
                    yield batch
                batch = filling[plan.keys.base, plan.level] = Batch(plan.keys, plan.level)
            batch.jobs.append(job)
            batch.places.append(place)
            batch.bytes += len(job.body)
        yield from filling.values()

    def sent(self, batch: Batch, delivery: Delivery) -> None:
        """A batch was stored."""
        outcomes, client, keys, ids = self._outcomes, self._producer.client, batch.keys, delivery.ids
        for index, place in enumerate(batch.places):
            plan, own = cast("Plan", outcomes[place]), batch.jobs[index].job_id
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
        plan = cast("Plan", self._outcomes[place])
        self._outcomes[place] = self._producer.handle(plan, job, job.job_id).ended(outcome)

    def failed(self, batch: Batch, error: BananasError) -> None:
        """A batch was not stored, as far as is known."""
        if isinstance(error, BrokerUnavailable):
            self._away = self._away or error
        for place in batch.places:
            self._outcomes[place] = error

    def abandon(self) -> None:
        """The calls could not be read to their end: middleware that waits at its yield is closed."""
        self._note_ids()
        self._middleware.close()

    def _note_ids(self) -> None:
        for place, draft in self._drafts:
            if place < len(self._outcomes) and isinstance(outcome := self._outcomes[place], Job):
                draft.stored(outcome)

    def jobs(self) -> list[Job[R]]:
        """Every item's job, in order. Raises SubmitManyError when some have none."""
        failed = [outcome for outcome in self._outcomes if isinstance(outcome, Exception)]
        self._note_ids()
        with self._middleware:
            if failed:
                raise SubmitManyError(cast(list[Any], self._outcomes))
        return cast(list[Job[R]], self._outcomes)
