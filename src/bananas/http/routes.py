"""What a route is: one row of the table from which requests are served, roles are checked and the document is written.

A row names everything: who may, what comes in, what goes out, what can go wrong. A handler gets an `Asked`, whose parts have been checked,
and gives a value of the row's `reply`, or a `Reply` with another status. More routes are more rows: `api(app, routes=[...])`.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct
from starlette.requests import Request

from bananas.app import Bananas
from bananas.config import check_queue_name
from bananas.errors import JobNotFound
from bananas.handle import Job
from bananas.http.access import Role
from bananas.http.limits import Seats
from bananas.http.values import NoQuery
from bananas.keys import parse_public_id

T = TypeVar("T")
MOST_WAITS, LONG_S = 1_000, 600.0
PREFIX = "/api/v1"


class Site:
    """What all handlers share: the app, what is limited, and whether the server is to stop.

    Attributes:
        stopping: set when the process is to end: long waits and streams end then.
        streams, waits: the places for them.
        queues: names that the server is known to have.
        routes: the table that is served.
    """

    def __init__(self, app: Bananas, *, checked: bool, routes: "tuple[Route, ...]" = ()) -> None:
        self.app, self.checked, self.routes = app, checked, routes
        self.stopping, self.queues = asyncio.Event(), set[str]()
        self.streams = Seats(app.settings.api_max_streams, "event streams")
        self.waits = Seats(MOST_WAITS, "requests that wait")
        self.tasks: set[asyncio.Task[Any]] = set()

    def keep(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something that may outlive its request; it does not raise."""
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def finished(self, seconds: float) -> None:
        """Wait for what is under way, so long at most."""
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=seconds)

    @asynccontextmanager
    async def unless_stopping(self, work: Coroutine[Any, Any, T]) -> AsyncGenerator["asyncio.Task[T]"]:
        """The work as a task that has ended, or that the end of this process has come before; then it is cancelled."""
        task, stop = asyncio.ensure_future(work), asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            yield task
        finally:
            for each in (task, stop):
                each.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)


class Asked(NamedTuple):
    """A request that was let through."""

    site: Site
    request: Request
    query: Any
    body: Any
    raw: bytes

    @property
    def app(self) -> Bananas:
        """The app."""
        return self.site.app

    @property
    def queue(self) -> str:
        """The queue that the path names. Raises InvalidName."""
        return check_queue_name(self.request.path_params["queue"])

    @property
    def job(self) -> Job[Any]:
        """The job that the path names, with plain data as its result. Raises JobNotFound."""
        return job_of(self.app, self.request.path_params["id"])

    @property
    def who(self) -> str:
        """Who asks, for the trail."""
        return f"HTTP API, {self.request.scope['bananas.role'].name}"

    def path(self, *parts: str) -> str:
        """Where something of this API is, as the client sees it."""
        return "/".join([self.request.scope.get("root_path", "") + PREFIX, *parts])


def job_of(app: Bananas, public_id: str) -> Job[Any]:
    """A handle by its public id, with plain data as its result. Raises InvalidName."""
    queue, shard, job_id = parse_public_id(public_id)
    return Job(app.client, app.producer.keys(queue if shard is None else f"{queue}.{shard}"), job_id)


def gone(job: Job[Any]) -> JobNotFound:
    """The error for a job that is not there."""
    return JobNotFound(f"there is no job {job.id} and no result of it: it never was, or it ended longer ago than its result is kept")


class Reply(NamedTuple):
    """An answer with a status or headers that are not the usual ones of its route."""

    value: Any
    status: int
    headers: Mapping[str, str] = {}


Handler = Callable[[Asked], Awaitable[Any]]


class Route(Struct, frozen=True, kw_only=True):
    """One row.

    Attributes:
        path: below the prefix, with {id} and {queue}; `bare`: as it stands.
        role: the least that may; None: anybody.
        summary, text: what it does, for the document.
        reply: the type of the answer, or None where the handler makes a Response itself, of the type `media`.
        stream: what it may be as a stream of events, where that is asked for by Accept: an example.
        statuses: with what it answers, the usual one first, and what each means.
        problems: statuses of problems besides those that every route has.
        body, query, headers: what comes in.
        example, answer: a body, and what it may be answered with.
        patience_s: how long it may take at least.
    """

    method: str
    path: str
    handler: Handler
    role: Role | None
    summary: str
    text: str = ""
    tag: str
    bare: bool = False
    reply: Any = None
    media: str = "application/json"
    stream: str = ""
    statuses: dict[int, str] = msgspec.field(default_factory=lambda: {200: "Done."})
    problems: tuple[int, ...] = ()
    body: Any = None
    query: Any = NoQuery
    headers: dict[str, str] = {}
    example: Any = None
    answer: Any = None
    patience_s: float = 0.0

    @property
    def full_path(self) -> str:
        """The path below the root of the API."""
        return self.path if self.bare else PREFIX + self.path

    @property
    def name(self) -> str:
        """The operation's name in the document."""
        return self.handler.__name__.strip("_")
