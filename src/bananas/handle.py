"""A submitted job's handle: `await job.result()`."""

import time
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from bananas import broker
from bananas.broker import KeptResult
from bananas.client import Client
from bananas.codec import pack_result
from bananas.config import parse_priority, seconds
from bananas.errors import ConfigError, JobConflict, JobNotFound, describe
from bananas.info import job_info, with_worker
from bananas.job import JobInfo, Result
from bananas.keys import QueueKeys, parse_public_id, workers_key
from bananas.result import Gone, Outcome, first_outcome, refuse_on_loop, value_of

R = TypeVar("R")
Duration = float | int | timedelta

CANCEL_RESULT_TTL_MS = 86_400_000


def _same(reply: Any) -> Any:
    return reply


def milliseconds(value: Duration, what: str) -> int:
    """A duration that a user wrote, in whole ms. Raises ConfigError."""
    return round(seconds(value, what) * 1000)


def until_ms(at: datetime) -> int:
    """How long from now on this machine's clock until `at`, 0 when it has passed: times travel as durations. Raises ConfigError."""
    return max(0, epoch_ms(at) - round(time.time() * 1000))


def epoch_ms(at: datetime) -> int:
    """A time as milliseconds since 1970. Raises ConfigError."""
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise ConfigError(f"at={describe(at)}: must be a datetime with a time zone, e.g. datetime.now(UTC) + timedelta(minutes=5)")
    return round(at.timestamp() * 1000)


class Job(Generic[R]):
    """A submitted job.

    Attributes:
        created: False when a job with the same unique key was alive and this handle stands for that one.
    """

    __slots__ = ("_client", "_job_id", "_kept", "_keys", "_kind", "_outcome", "created")

    def __init__(self, client: Client, keys: QueueKeys, job_id: str, *, kind: Any = Any, kept: bool = True, created: bool = True) -> None:
        self._client, self._keys, self._job_id = client, keys, job_id
        self._kind, self._kept, self.created = kind, kept, created
        self._outcome: Outcome | None = None

    @property
    def id(self) -> str:
        """The public id, from which `app.job(id)` finds it again."""
        return self._keys.public(self._job_id)

    @property
    def place(self) -> tuple[QueueKeys, str]:
        """Its queue's keys and its id there."""
        return self._keys, self._job_id

    @property
    def has_ended(self) -> bool:
        """Whether this handle knows how the job ended, so that `result` asks nobody."""
        return self._outcome is not None

    def ended(self, outcome: Outcome) -> "Job[R]":
        """This handle, knowing how the job ended, so that `result` asks nobody."""
        self._outcome = outcome
        return self

    async def result(self, timeout: Duration | None = None) -> R:
        """Wait for the job's end and return the handler's value.

        Args:
            timeout: seconds, None = for ever.

        Raises:
            TaskError: it ended without a value (dead, cancelled, discarded, expired); has the remote traceback.
            ResultTimeout: it has not ended yet; it goes on.
            ResultsDisabled: it was submitted with result_ttl=0.
            JobNotFound: there is no such job and no result.
            JobUndecodable: the result cannot be read here; KeyMissing names the key of `encryption_keys` that this needs.
        """
        outcome = self._outcome
        if outcome is None:
            limit = None if timeout is None else seconds(timeout, "timeout")
            return self._value(*await self._first_outcome(limit))
        return self._value(outcome, self.place)

    async def _moved(self) -> "Job[R] | None":
        """The job in another queue that it was moved to, if it was. One round trip."""
        request = broker.plain(_same, "GET", self._keys.moved(self._job_id))
        found = await self._client.ask(self._keys, request, f"looking where job {self.id} went")
        if found is None:
            return None
        queue, shard, job_id = parse_public_id(found.decode())
        return Job(self._client, QueueKeys(self._keys.namespace, queue, shard), job_id, kind=self._kind, kept=self._kept)

    def result_sync(self, timeout: Duration | None = None) -> R:
        """`result` for code without an event loop."""
        refuse_on_loop("job.result_sync()", "job.result()")
        limit = None if timeout is None else seconds(timeout, "timeout")
        if self._outcome is not None:
            return self._value(self._outcome, self.place)
        return self._value(*self._client.background.run(self._first_outcome(limit)))

    def _value(self, outcome: Outcome, place: tuple[QueueKeys, str]) -> R:
        return value_of(outcome, place, self._client.seals, self._kind, self._kept)  # type: ignore[no-any-return]

    async def _first_outcome(self, limit: float | None) -> tuple[Outcome, tuple[QueueKeys, str]]:
        """How it ended, and where: a job that was moved ends in its new queue."""
        until = None if limit is None else time.monotonic() + limit
        outcome = await first_outcome(self._client.here(), self.place, limit, self._client.budget)
        moved = await self._moved() if isinstance(outcome, Gone) else None
        if moved is None:
            return outcome, self.place
        return await moved._first_outcome(None if until is None else max(0.05, until - time.monotonic()))

    async def info(self) -> JobInfo:
        """All that is known of it now: state, place in its queue, attempts, errors, times, worker.

        A job that was moved is followed to its new queue.

        One round trip, two while it runs.
        """
        reply = await self._client.ask(self._keys, broker.info(self._keys, self._job_id), f"reading job {self.id}")
        info = job_info(self._keys, self._job_id, reply, self._client.seals)
        if info.state == "unknown" and (moved := await self._moved()) is not None:
            return await moved.info()
        if info.state != "running" or info.worker is None:
            return info
        request = broker.plain(_same, "HGET", workers_key(self._keys.namespace), info.worker)
        return with_worker(info, await self._client.ask_home(self._keys.namespace, request, f"reading the worker of job {self.id}"))

    async def cancel(self) -> bool:
        """End it: at once while it waits, within a heartbeat while it runs. Returns False when it has ended already or is dead."""
        result = KeptResult(
            CANCEL_RESULT_TTL_MS, pack_result(Result("cancelled", error_message="it was cancelled before it ran", attempts=0))
        )
        code = await self._client.act(
            self._keys,
            lambda once: broker.cancel(self._keys, [self._job_id], result, running=True, once=once),
            f"cancelling job {self.id}",
        )
        return code in ("e", "m")

    async def set_priority(self, priority: int | str) -> None:
        """Change its priority. While it runs, the new one holds for its retries. Raises JobNotFound."""
        value = parse_priority(priority)
        code = await self._client.act(
            self._keys,
            lambda once: broker.reprioritize(self._keys, value, [self._job_id], once=once),
            f"changing the priority of job {self.id}",
        )
        self._refuse(code, "")

    async def reschedule(self, *, delay: Duration | None = None, at: datetime | None = None) -> None:
        """Make it ready so long from now, or at that time (0: now). Raises JobNotFound, or JobConflict while it runs or is dead."""
        if (delay is None) == (at is None):
            raise ConfigError("reschedule takes delay= or at=, one of the two")
        delay_ms = until_ms(at) if at is not None else milliseconds(delay or 0, "delay")
        code = await self._client.act(
            self._keys, lambda once: broker.reschedule(self._keys, delay_ms, [self._job_id], once=once), f"rescheduling job {self.id}"
        )
        self._refuse(code, "ld")

    def _refuse(self, code: str, conflicts: str) -> None:
        if code == "0":
            raise JobNotFound(f"there is no job {self.id}: it has ended, was cancelled, or never was; nothing was changed")
        if code in conflicts:
            state = {"l": "running", "d": "dead (replay it instead)"}[code]
            raise JobConflict(f"job {self.id} is {state}: nothing was changed")

    def __repr__(self) -> str:
        return f"<Job {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.place == self.place

    def __hash__(self) -> int:
        return hash(self.place)
