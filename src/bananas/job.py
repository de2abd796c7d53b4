"""The values that flow: what is stored of a job, what a worker holds of it, and what becomes of it. All frozen, no I/O.

    Envelope   packed once at submit, immutable:            jobs[id]
    Tries      what went wrong so far:                      tries[id]
    Lease      one worker's right to run it:                leases
    Outcome    what one run came to, and what follows:      settle
    Result     the final outcome, for those who wait:       result:<id>
    JobInfo    all of that at one moment, for people

STATES, each a place (see keys.py), so that no status field can disagree with reality:

    submit -> scheduled -> ready -> leased -> (gone, with a Result)
                  ^          ^        |  |
                  |          +--------+  +--> dead -> ready (replay)
                  +-------- retry
"""

from typing import Any, Generic, Literal, TypeVar

from msgspec import Raw, Struct

A = TypeVar("A")

State = Literal["ready", "scheduled", "running", "success", "dead", "cancelled", "discarded", "expired", "purged", "unknown"]
FinalState = Literal["success", "dead", "cancelled", "discarded", "expired", "purged"]

NO_EXPIRY = 0
KEPT_ERRORS = 5


class Envelope(Struct, Generic[A], array_like=True, frozen=True, gc=False):
    """A job as it is packed: `Envelope[Any]` before packing, `Envelope[Raw]` after unpacking. None means: as the worker's task says."""

    task: str
    args: A
    kwargs: dict[str, A] | None = None
    timeout_ms: int | None = None
    max_retries: int | None = None
    retry: tuple[float, float, float, bool] | None = None
    ttl_success_ms: int | None = None
    ttl_failure_ms: int | None = None
    expires_ms: int = NO_EXPIRY
    headers: dict[str, str] | None = None


class Tagged(Envelope[A], Generic[A], array_like=True, frozen=True, gc=False):
    """A job with tags, and how every job is read: one without tags is packed as an Envelope, as it was before there were any."""

    tags: tuple[str, ...] = ()


class ErrorRecord(Struct, array_like=True, frozen=True):
    """One failure: when (ms), in which attempt, what, on which worker; `sealed`: message and traceback, where they are stored encrypted."""

    at_ms: int
    attempt: int
    type: str
    message: str
    traceback: str
    worker: str
    sealed: bytes = b""


class History(Struct, array_like=True, frozen=True):
    """The part of a job's tries that only Python reads: the last errors, and since when no worker knew its task."""

    errors: tuple[ErrorRecord, ...] = ()
    unknown_since_ms: int = 0
    unknown_count: int = 0

    def with_error(self, record: ErrorRecord) -> "History":
        """The history after one more failure; the oldest beyond `KEPT_ERRORS` are dropped."""
        return History((*self.errors, record)[-KEPT_ERRORS:])


class Tries(Struct, frozen=True):
    """What is stored of a job that did not run to its end at once.

    Attributes:
        attempts: runs that failed.
        crashes: workers that died while they held it; from the first on it is a suspect and runs alone.
        alone: crashes while it ran alone.
        since_ms: expiry counts from here, where not 0 (set by a replay).
    """

    attempts: int = 0
    crashes: int = 0
    alone: int = 0
    since_ms: int = 0
    history: History = History()


FRESH = Tries()


class LogLine(Struct, frozen=True):
    """One line of a job's log: when (server ms), in which attempt, what."""

    at_ms: int
    attempt: int
    text: str


class Lease(Struct, frozen=True, gc=False):
    """One worker's right to run one job.

    Attributes:
        job_id: 43 characters.
        member: `id:boot:fence`, the lease's name on the server.
        fence: grows with every claim.
        score: where the job stood in ready, to put it back there.
    """

    job_id: str
    member: bytes
    fence: int
    score: bytes


class Result(Struct, array_like=True, frozen=True):
    """The final outcome as it is stored. `value` is packed msgpack (nil unless success)."""

    state: FinalState
    value: Raw = Raw(b"\xc0")
    error_type: str = ""
    error_message: str = ""
    traceback: str = ""
    attempts: int = 1
    started_ms: int = 0
    finished_ms: int = 0
    run_ms: float = 0.0
    worker: str = ""
    dropped: bool = False


class JobInfo(Struct, frozen=True, kw_only=True):
    """All that is known of a job at one moment.

    Attributes:
        state: where it is; "unknown" when there is neither a job nor a result of this id.
        place: jobs before it in its queue (ready only).
        attempts, crashes: failed runs, and workers that died with it.
        born_ms, ready_since_ms, due_ms, lease_expires_ms, died_ms, started_ms, finished_ms: server times, or None.
        waited_ms: time it has been ready for (ready only); run_ms: how long the last run took.
        errors: the last failures, oldest first.
        worker: who runs it, or ran it.
        overdue: it runs for longer than its timeout (its handler does not stop).
        args, kwargs: as plain data; None when the body is gone or unreadable.
        progress, progress_text: how far its last run has come, 0 to 1, where its handler says so; None while it waits.
        log: the last lines that its handler logged, in all attempts, the oldest first. Both only from `Job.info`, not in lists.
        tags: those of its submit; () when the body is gone.
        unreadable: why arguments and headers are not shown, where the body is there, e.g. the id of the key that is missing here.
    """

    id: str
    queue: str
    state: State
    task: str | None = None
    priority: int
    place: int | None = None
    attempts: int = 0
    crashes: int = 0
    max_retries: int | None = None
    timeout: float | None = None
    born_ms: int | None = None
    ready_since_ms: int | None = None
    due_ms: int | None = None
    lease_expires_ms: int | None = None
    died_ms: int | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    waited_ms: int | None = None
    run_ms: float | None = None
    errors: tuple[ErrorRecord, ...] = ()
    worker: str | None = None
    fence: int | None = None
    cancel_requested: bool = False
    overdue: bool = False
    queue_paused: bool = False
    progress: float | None = None
    progress_text: str = ""
    log: tuple[LogLine, ...] = ()
    headers: dict[str, str] | None = None
    tags: tuple[str, ...] = ()
    args: tuple[Any, ...] | None = None
    kwargs: dict[str, Any] | None = None
    unreadable: str | None = None
