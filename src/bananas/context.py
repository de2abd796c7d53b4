"""The job that runs now, as its handler sees it: `current_job()`."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from bananas.errors import BananasError, ConfigError, describe

TEXT_CHARS, LINE_CHARS = 200, 500


def _storable(text: object, limit: int) -> str:
    """Text of at most so many characters, as it can be stored."""
    whole = text if isinstance(text, str) else str(text)
    cut = whole if len(whole) <= limit else f"{whole[: limit - 1]}…"
    return cut if cut.isascii() else cut.encode("utf-8", "backslashreplace").decode()


class CurrentJob:
    """The running job.

    Attributes:
        id: the public id.
        task, queue, priority: what it is and where it was queued.
        attempt: 1 for the first run.
        fence: grows with every claim of any job of the queue; write it along with side effects to tell a stale run from a fresh one.
        deadline: when its timeout ends, on time.monotonic's clock; None without a timeout.
        headers, tags: what was submitted with it.
        state: what the app's lifespan yielded.
    """

    __slots__ = ("_lease", "_public", "attempt", "deadline", "fence", "headers", "priority", "queue", "state", "tags", "task")

    def __init__(
        self, public: tuple[str, str], task: str, where: tuple[str, int], claim: tuple[int, int], headers: Mapping[str, str], state: Any
    ) -> None:
        """`where`: queue and priority; `claim`: attempt and fence."""
        self._public, self.task = public, task
        self.queue, self.priority = where
        self.attempt, self.fence = claim
        self.headers, self.state = headers, state
        self.tags: tuple[str, ...] = ()
        self.deadline: float | None = None
        self._lease: Any = None

    def under(self, lease: Any, deadline: float | None) -> "CurrentJob":
        """This job with the lease and the deadline of its run."""
        self._lease, self.deadline = lease, deadline
        return self

    @property
    def id(self) -> str:
        """The public id, `queue.id`."""
        return ".".join(self._public)

    @property
    def lease_valid(self) -> bool:
        """Whether this worker may still act for the job: False once its lease may have ended and another worker may run it."""
        return self._lease is None or bool(self._lease.valid())

    @property
    def time_left(self) -> float | None:
        """Seconds until the timeout; None without one."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def progress(self, fraction: float, text: str = "") -> None:
        """Tell how far the run has come: 0 to 1, and in words, at most 200 characters. Cheap, from any thread.

        Shown by `Job.info` within about a second. Raises ConfigError when the fraction is no number.
        """
        if not isinstance(fraction, int | float) or fraction != fraction:
            raise ConfigError(f"progress({describe(fraction)}): give a number from 0 to 1, e.g. done / total")
        if self._lease is not None:
            self._lease.note((min(1.0, max(0.0, float(fraction))), _storable(text, TEXT_CHARS)), ())

    def log(self, text: str) -> None:
        """Add a line to the job's own log, which keeps the last 100 of all attempts, 500 characters each. Cheap, from any thread.

        Shown by `Job.info` within about a second.
        """
        if self._lease is not None:
            self._lease.note(None, ((time.monotonic(), _storable(text, LINE_CHARS)),))

    def __repr__(self) -> str:
        return f"<job {self.id} {self.task} attempt {self.attempt}>"


def lease_lost(job: CurrentJob) -> bool:
    """Whether the lease of its run is known to be lost, so that its outcome counts for nothing."""
    return job._lease is not None and bool(job._lease.lost)


# Gives the running job: where nobody asks, none is made.
running: ContextVar[Callable[[], CurrentJob] | None] = ContextVar("bananas_job", default=None)


@contextmanager
def plain_call(task: str, queue: str, priority: int) -> Generator[None, None, None]:
    """A stand-in for the job of a handler that is called as a function; where a job runs already, that one stays."""
    before = running.get()
    if before is None:
        stand_in = CurrentJob(("local", task), task, (queue, priority), (1, 0), {}, None)
        running.set(lambda: stand_in)
    try:
        yield
    finally:
        running.set(before)  # no reset of a token: a coroutine that is never finished may be closed in another context


def current_job() -> CurrentJob:
    """The job whose handler is running. In a plain call of a task it is a stand-in: attempt 1, fence 0, no deadline, state None.

    Raises:
        BananasError: called outside of a handler.
    """
    job = running.get()
    if job is None:
        raise BananasError("current_job() was called where no job runs: it works inside of the handler of a task")
    return job()
