"""What a worker holds of a job: the task as it runs it, the claimed job, and the run."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Literal

from msgspec import Raw

from bananas.config import Settings
from bananas.context import CurrentJob
from bananas.job import FRESH, Envelope, Tries
from bananas.middleware import Hooks
from bananas.retry import Retry
from bananas.task import Task
from bananas.worker.served import Served

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
        "retry",
        "signature",
        "timeout_s",
        "ttl_failure_ms",
        "ttl_success_ms",
    )

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

    __slots__ = (
        "cancelled",
        "claimed_at",
        "envelope",
        "fence",
        "job_id",
        "member",
        "noted_at",
        "now_ms",
        "score",
        "served",
        "since_ms",
        "slot",
        "tries",
    )

    def __init__(
        self, served: Served, job_id: str, member: bytes, score: bytes, fence: int, slot: int, times: tuple[int, float, float]
    ) -> None:
        self.served, self.job_id, self.member, self.score, self.fence, self.slot = served, job_id, member, score, fence, slot
        self.now_ms, self.claimed_at, self.noted_at = times
        self.tries: Tries = FRESH
        self.envelope: Envelope[Raw] | None = None
        self.since_ms = 0
        self.cancelled = False


class Run:
    """A job whose handler runs."""

    __slots__ = ("_timeout_s", "_trusted", "alone", "claimed", "deadline", "job", "overdue", "runnable", "started", "stop", "task")

    def __init__(self, trusted: Callable[[Claimed], bool], claimed: Claimed, runnable: Runnable, timeout_s: float) -> None:
        self._trusted, self.claimed, self.runnable = trusted, claimed, runnable
        self._timeout_s = timeout_s
        self.begin()
        self.stop: Stop = ""
        self.overdue = self.alone = False
        self.task: asyncio.Task[None] | None = None
        self.job: CurrentJob | None = None

    def begin(self) -> None:
        """The timeout counts from now."""
        self.started = time.monotonic()
        self.deadline = self.started + self._timeout_s if self._timeout_s else 0.0

    def valid(self) -> bool:
        """Whether the lease surely holds still, by this machine's monotonic clock."""
        return self.stop != "lost" and self._trusted(self.claimed)
