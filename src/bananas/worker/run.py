"""What a worker holds of a job: the task as it runs it, the claimed job, and the run."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from msgspec import Raw

from bananas.config import Settings
from bananas.context import CurrentJob
from bananas.job import FRESH, Tagged, Tries
from bananas.keys import ID_LENGTH, task_tag
from bananas.middleware import Hooks
from bananas.retry import Retry
from bananas.seals import UNSEALED, Seals
from bananas.task import Task
from bananas.worker.served import Served

NO_TASK = "unknown"  # the name of the task of a job that cannot be read
Stop = Literal["", "timeout", "cancel", "lost", "shutdown"]


class Runnable:
    """A task as this worker runs it: the settings' defaults filled in."""

    __slots__ = (
        "handler",
        "hooks",
        "is_async",
        "isolated",
        "max_retries",
        "name",
        "plain",
        "retry",
        "sealed",
        "signature",
        "tag",
        "timeout_s",
        "ttl_failure_ms",
        "ttl_success_ms",
    )

    def __init__(self, task: Task[Any, Any], settings: Settings, hooks: Hooks, seals: Seals = UNSEALED) -> None:
        given = task.defaults
        self.sealed = seals.choice(*task.sealed, f"task {task.name!r}")
        self.name, self.handler, self.signature = task.name, task.handler, task.signature
        self.tag = task_tag(task.name)
        self.is_async, self.isolated = task.is_async, task.isolation == "process"
        self.hooks = hooks + task.hooks
        self.timeout_s = settings.job_timeout if given.timeout_ms is None else given.timeout_ms / 1000
        self.max_retries = settings.max_retries if given.max_retries is None else given.max_retries
        self.retry = given.retry or Retry()
        kept = settings.result_backend_enabled
        self.ttl_success_ms = int(kept and (round(settings.result_ttl_success * 1000) if given.ttl_ms is None else given.ttl_ms))
        self.plain = not self.ttl_success_ms and not (self.hooks.on_success or self.hooks.on_event)  # nobody is told of a success
        self.ttl_failure_ms = int(kept and (round(settings.result_ttl_failure * 1000) if given.ttl_ms is None else given.ttl_ms))


class Grant(NamedTuple):
    """What the jobs of one claim share: their queue, the fence, the server's ms, and (monotonic seconds) when it was asked and answered."""

    served: Served
    fence: int
    now_ms: int
    claimed_at: float
    noted_at: float


class Claimed:
    """A job in this worker's hands: what was stored, and its lease."""

    __slots__ = ("body", "cancelled", "envelope", "grant", "member", "score", "served", "slot", "tries")

    def __init__(self, grant: Grant, member: bytes, score: bytes, slot: int, body: bytes) -> None:
        self.grant, self.served = grant, grant.served
        self.member, self.score, self.slot, self.body = member, score, slot, body
        self.tries: Tries = FRESH
        self.envelope: Tagged[Raw] | None = None
        self.cancelled = False

    @property
    def job_id(self) -> str:
        """Its id."""
        return self.member[:ID_LENGTH].decode()

    @property
    def public(self) -> str:
        """The id that users see."""
        return self.served.keys.public(self.job_id)


def job_of(claimed: Claimed, state: Any) -> CurrentJob:
    """A claimed job as its handler, or a hook, sees it; `attempt` is the run that it is or would have been."""
    keys, envelope = claimed.served.keys, claimed.envelope
    task, headers, tags = (NO_TASK, None, ()) if envelope is None else (envelope.task, envelope.headers, envelope.tags)
    where, claim = (keys.queue, int(claimed.score) >> 42), (claimed.tries.attempts + 1, claimed.grant.fence)
    job = CurrentJob((keys.name, claimed.job_id), task, where, claim, headers or {}, state)
    job.tags = tags
    return job


class Host(Protocol):
    """What a run asks of whoever runs it."""

    state: Any

    def trusted(self, claimed: Claimed) -> bool:
        """Whether a lease surely holds."""
        ...


class Run:
    """A job whose handler runs.

    Attributes:
        started, deadline: monotonic seconds; deadline 0: none.
        stop: why it is to end early.
        overdue: its deadline has passed.
        alone: it is a suspect.
        task: the asyncio task that runs it.
    """

    __slots__ = ("_host", "_job", "alone", "claimed", "deadline", "overdue", "runnable", "started", "stop", "task", "timeout_s")

    def __init__(self, host: Host, claimed: Claimed, runnable: Runnable, timeout_s: float, now: float) -> None:
        self._host, self.claimed, self.runnable, self.timeout_s = host, claimed, runnable, timeout_s
        self.started = now
        self.deadline = now + timeout_s if timeout_s else 0.0
        self.stop: Stop = ""
        self.overdue = self.alone = False
        self.task: asyncio.Task[None] | None = None
        self._job: CurrentJob | None = None

    def begin(self) -> None:
        """The timeout counts from now."""
        self.started = time.monotonic()
        self.deadline = self.started + self.timeout_s if self.timeout_s else 0.0
        if self._job is not None:
            self._job.deadline = self.deadline or None

    @property
    def job(self) -> CurrentJob:
        """The job as its handler sees it; made when somebody asks."""
        if self._job is None:
            self._job = job_of(self.claimed, self._host.state).under(self, self.deadline or None)
        return self._job

    def current(self) -> CurrentJob:
        """The job, for `current_job()`."""
        return self.job

    def note(self, progress: tuple[float, str] | None, lines: Sequence[tuple[float, str]]) -> None:
        """What the handler tells of the run. From any thread."""
        self.claimed.served.notes.pad(self).add(progress, lines)

    @property
    def lost(self) -> bool:
        """Whether the lease is known to be lost."""
        return self.stop == "lost"

    def valid(self) -> bool:
        """Whether the lease surely holds still, by this machine's monotonic clock."""
        return self.stop != "lost" and self._host.trusted(self.claimed)
