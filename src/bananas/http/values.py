"""What goes over the wire, as types: bodies and queries of requests, bodies of answers. The document's schemas are made of them."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bananas.config import LONGEST_S, Durability
from bananas.job import JobInfo, State
from bananas.operate import Action, Reason, ServerFigures
from bananas.operate.history import LONGEST_MINUTES
from bananas.operate.recent import MOST
from bananas.operate.search import SCAN_LIMIT
from bananas.task import MOST_TAGS, TAG_CHARS

MOST_JOBS, MOST_IDS, LONGEST_WAIT_S = 1_000, 100, 60
_DEPTH = 64

Seconds = Annotated[float, Meta(ge=0, le=LONGEST_S)]
QueueName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
CronName = Annotated[str, Meta(min_length=1, max_length=200)]
BootId = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$")]
JobId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}(\.[0-9]{1,4})?\.[0-9a-f]{43}$")]
Tag = Annotated[str, Meta(pattern=rf'^[^\s,"]{{1,{TAG_CHARS}}}$')]
Priority = Annotated[int, Meta(ge=0, le=1000)] | Literal["high", "normal", "low"]


# --- requests ---------------------------------------------------------------------------------------------------------


class RetryPolicy(Struct, frozen=True, forbid_unknown_fields=True):
    """How failures are retried: the backoff in seconds, `base * factor ** n` up to `cap`, a random part of it with `jitter`."""

    base: Annotated[float, Meta(gt=0, le=315_360_000)] = 1.0
    factor: Annotated[float, Meta(ge=1, le=1000)] = 2.0
    cap: Annotated[float, Meta(gt=0, le=315_360_000)] = 600.0
    jitter: bool = True


class NewJob(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A job to submit. What it leaves out is the task's, or the app's. `delay` and `at` (with a time zone) exclude each other."""

    task: Annotated[str, Meta(min_length=1, max_length=200)]
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    queue: QueueName | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    delay: Seconds | UnsetType = UNSET
    at: Annotated[datetime, Meta(tz=True)] | UnsetType = UNSET
    timeout: Seconds | UnsetType = UNSET
    max_retries: Annotated[int, Meta(ge=0, le=1_000_000)] | UnsetType = UNSET
    retry: RetryPolicy | UnsetType = UNSET
    result_ttl: Seconds | UnsetType = UNSET
    expires_in: Seconds | UnsetType = UNSET
    unique: Annotated[str, Meta(min_length=1, max_length=500)] | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    tags: Annotated[list[Tag], Meta(max_length=MOST_TAGS)] | UnsetType = UNSET
    durability: Durability | UnsetType = UNSET


class NewJobs(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs to submit; one that cannot be submitted does not stop the others."""

    jobs: Annotated[list[NewJob], Meta(min_length=1, max_length=MOST_JOBS)]


class NewPriority(Struct, frozen=True, forbid_unknown_fields=True):
    """Lower goes first; high is 100, normal 500, low 900."""

    priority: Priority


class NewTime(Struct, frozen=True, forbid_unknown_fields=True):
    """When a job becomes ready: so many seconds from now, or at a time with its zone; one of the two."""

    delay: Seconds | UnsetType = UNSET
    at: Annotated[datetime, Meta(tz=True)] | UnsetType = UNSET


class NoQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


class WaitQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """How many seconds to wait for the job's end."""

    wait: Annotated[float, Meta(ge=0, le=LONGEST_WAIT_S)] = 0.0


class PageQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which part of a list."""

    limit: Annotated[int, Meta(ge=1, le=1_000)] = 50
    offset: Annotated[int, Meta(ge=0, le=10_000_000)] = 0


class EventsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs whose ends to tell, or queues whose counts; neither: those of every queue."""

    job: Annotated[tuple[JobId, ...], Meta(max_length=MOST_IDS)] = ()
    queue: Annotated[tuple[QueueName, ...], Meta(max_length=MOST_IDS)] = ()


class RecentQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """How many, the newest first, of every queue or of one."""

    limit: Annotated[int, Meta(ge=1, le=MOST)] = 50
    queue: QueueName | UnsetType = UNSET


class HistoryQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The last so many minutes, of every queue or of one."""

    minutes: Annotated[int, Meta(ge=1, le=LONGEST_MINUTES)] = 60
    queue: QueueName | UnsetType = UNSET


ScanLimit = Annotated[int, Meta(ge=1, le=SCAN_LIMIT)]
QueryText = Annotated[str, Meta(max_length=2_000)]


class SearchQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which jobs, and where a search goes on."""

    q: QueryText = ""
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 50
    cursor: Annotated[str, Meta(max_length=500)] = ""
    newest: bool = False
    scan_limit: ScanLimit = SCAN_LIMIT


class ExportQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which jobs, from which end of each place, and how many at most (0: all)."""

    q: QueryText = ""
    newest: bool = False
    limit: Annotated[int, Meta(ge=0, le=100_000_000)] = 0


class ErrorsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which jobs' errors."""

    q: QueryText = ""
    scan_limit: ScanLimit = SCAN_LIMIT


class TrailQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """How many, the newest first."""

    limit: Annotated[int, Meta(ge=1, le=1_000)] = 50


class Bulk(Struct, frozen=True, forbid_unknown_fields=True):
    """An action, and the query for the jobs that it is meant for; a dry run counts them only."""

    query: Annotated[str, Meta(min_length=1, max_length=2_000)]
    action: Action
    dry_run: bool = True
    most: Annotated[int, Meta(ge=1, le=100_000)] = 100_000


# --- answers ----------------------------------------------------------------------------------------------------------


class Submitted(Struct, frozen=True):
    """A job that was submitted; `created` is false when an earlier one stands for it, by its unique or idempotency key."""

    id: str
    created: bool


class Item(Struct, frozen=True, omit_defaults=True):
    """What one of several jobs came to: an id, or a problem."""

    id: str = ""
    created: bool = False
    problem: dict[str, Any] | None = None


class Items(Struct, frozen=True):
    """What several jobs came to, in the order of the request."""

    submitted: int
    failed: int
    items: list[Item]


class Failure(Struct, frozen=True):
    """One failure of a job."""

    at_ms: int
    attempt: int
    type: str
    message: str
    traceback: str
    worker: str


class Line(Struct, frozen=True):
    """One line of a job's log, and the attempt that wrote it."""

    at_ms: int
    attempt: int
    text: str


class JobView(Struct, frozen=True, kw_only=True):
    """All that is known of a job: see JobInfo in docs/api.md. Times are the server's, in milliseconds since 1970."""

    id: str
    queue: str
    state: State
    task: str | None
    priority: int
    place: int | None
    attempts: int
    crashes: int
    max_retries: int | None
    timeout: float | None
    born_ms: int | None
    ready_since_ms: int | None
    due_ms: int | None
    lease_expires_ms: int | None
    died_ms: int | None
    started_ms: int | None
    finished_ms: int | None
    waited_ms: int | None
    run_ms: float | None
    errors: list[Failure]
    worker: str | None
    fence: int | None
    cancel_requested: bool
    overdue: bool
    queue_paused: bool
    progress: float | None
    progress_text: str
    log: list[Line]
    headers: dict[str, str] | None
    tags: list[str]
    args: list[Any] | None
    kwargs: dict[str, Any] | None
    unreadable: str | None


class Ending(Struct, frozen=True, omit_defaults=True):
    """How a job ended, if it has: with a value (state success), or without one (error_type and the rest tell why)."""

    id: str
    state: State
    ended: bool
    value: Any | UnsetType = UNSET
    error_type: str = ""
    error_message: str = ""
    traceback: str = ""
    attempts: int = 0


class Changed(Struct, frozen=True):
    """Whether the request changed anything: false when it was so already."""

    changed: bool


class Number(Struct, frozen=True):
    """How many jobs it was."""

    count: int


class DeadPage(Struct, frozen=True):
    """A part of a queue's dead letters, the newest first, and how many there are."""

    count: int
    jobs: list[JobView]


class JobPage(Struct, frozen=True):
    """What a search found: `scanned` of `total` entries were looked at; `cursor` goes on, "" when nothing is left."""

    jobs: list[JobView]
    cursor: str
    scanned: int
    total: int


class Acted(Struct, frozen=True):
    """What an action came to: how many jobs it was meant for, how many are done, and why the others were left."""

    dry_run: bool
    selected: int
    done: int
    left: dict[str, int]
    scanned: int
    total: int
    complete: bool


class WhyView(Struct, frozen=True):
    """A job, and why it does not run."""

    job: JobView
    reasons: list[Reason]


class CronRun(Struct, frozen=True):
    """The job of a run that was asked for; "" where no worker has begun it yet."""

    id: str


class StackView(Struct, frozen=True):
    """The stack of a running job, as text."""

    id: str
    text: str


class Stats(Struct, frozen=True):
    """A namespace at one moment. `server` holds its own keys; on a Cluster `servers` has those of its queues too."""

    namespace: str
    queues: int
    ready: int
    scheduled: int
    running: int
    dead: int
    workers: int
    slots: int
    server: ServerFigures
    servers: list[ServerFigures]


class Live(Struct, frozen=True):
    """That this process answers."""

    live: bool


class Ready(Struct, frozen=True):
    """Whether the Redis or Valkey server answers."""

    ready: bool
    reasons: list[str]


def job_view(info: JobInfo) -> JobView:
    """An info with its errors as objects: their record is an array where it is stored."""
    fields = {name: getattr(info, name) for name in JobView.__struct_fields__ if hasattr(info, name)}
    failures = [Failure(*(getattr(error, name) for name in Failure.__struct_fields__)) for error in info.errors]
    args = None if info.args is None else list(info.args)
    log = [Line(line.at_ms, line.attempt, line.text) for line in info.log]
    return JobView(**fields | {"errors": failures, "args": args, "tags": list(info.tags), "log": log})


def encode(value: Any) -> bytes:
    """JSON of whatever was stored: what JSON has no form for, or is nested too deep, is written as text."""
    try:
        return msgspec.json.encode(value)
    except Exception:
        return msgspec.json.encode(_plain(value, _DEPTH))


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if depth == 0:
        return "…"
    if isinstance(value, Struct):
        pairs = ((name, getattr(value, name)) for name in value.__struct_fields__)
        return {name: _plain(each, depth - 1) for name, each in pairs if each is not UNSET}
    if isinstance(value, dict):
        return {_plain(str(name), 1): _plain(each, depth - 1) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each, depth - 1) for each in value]
    try:
        return msgspec.to_builtins(value)
    except Exception:
        return _plain(str(type(value)), 1)
