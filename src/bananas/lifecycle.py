"""What happens to jobs, as values for functions of the application.

    @app.on_event                               # every event
    def publish(event: Event) -> None:
        bus.send(msgspec.json.encode(event))

    @app.on_event("cancelled", "expired")       # these
    async def unused(event: Event) -> None: ...

"submitted" is told in the process that submits, once the job is stored; the others on the worker: "started" before the handler is called,
the rest once the server has accepted the outcome. Who adds none pays nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import Any, Literal, TypeVar, get_args, overload

from msgspec import Struct

from bananas.context import CurrentJob
from bananas.errors import ConfigError, describe
from bananas.middleware import Draft, Listener

EventKind = Literal["submitted", "started", "succeeded", "retried", "snoozed", "died", "cancelled", "discarded", "expired"]
KINDS: tuple[EventKind, ...] = get_args(EventKind)
F = TypeVar("F", bound=Callable[..., Any])


class Event(Struct, frozen=True, kw_only=True):
    """One step in the life of a job.

    Attributes:
        at_ms: when, since 1970: by the server's time, of "submitted" by this machine's.
        id: the public id.
        attempt: the run that it is, or would have been; 0 for "submitted".
        worker: host:pid; "" for "submitted".
        run_ms: how long the run took, where one has ended.
        delay_ms: until it runs again ("retried", "snoozed").
        error_type, error_message: what failed, or why it ended without a value.
    """

    kind: EventKind
    at_ms: int
    id: str
    task: str
    queue: str
    priority: int
    attempt: int = 0
    tags: tuple[str, ...] = ()
    headers: Mapping[str, str] = {}
    worker: str = ""
    run_ms: float | None = None
    delay_ms: int | None = None
    error_type: str = ""
    error_message: str = ""


def event_of(kind: EventKind, job: CurrentJob, at_ms: int, worker: str, **told: Any) -> Event:
    """An event of a job in a worker's hands."""
    what: dict[str, Any] = {"id": job.id, "task": job.task, "queue": job.queue, "priority": job.priority, "attempt": job.attempt}
    return Event(kind=kind, at_ms=at_ms, worker=worker, tags=job.tags, headers=job.headers, **what, **told)


def submitted(draft: Draft) -> Event:
    """The event of a job that was stored."""
    what: dict[str, Any] = {"id": draft.id, "task": draft.task, "queue": draft.queue, "priority": draft.priority}
    return Event(kind="submitted", at_ms=time.time_ns() // 1_000_000, tags=tuple(draft.tags), headers=dict(draft.headers), **what)


class AfterSubmit:
    """Middleware that tells a hook of each job that was stored. An error in the hook is logged; the submit has succeeded."""

    def __init__(self, hook: Callable[[Event], Any]) -> None:
        self._hook = hook
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, draft: Draft) -> Generator[None, None, None]:
        """Tell, when the job is there."""
        try:
            yield
        finally:  # also where others of its submit_many have failed
            if draft.created:
                self._tell(submitted(draft))

    def _tell(self, event: Event) -> None:
        try:
            outcome = self._hook(event)
        except Exception:
            self._log()
            return
        if not hasattr(outcome, "__await__"):
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(self._await(outcome))
            return
        task = loop.create_task(self._await(outcome))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _await(self, outcome: Awaitable[Any]) -> None:
        try:
            await outcome
        except Exception:
            self._log()

    def _log(self) -> None:
        import structlog

        structlog.get_logger("bananas").exception("a hook failed", hook=getattr(self._hook, "__qualname__", repr(self._hook)))


class Events:
    """`app.on_event`.

    Args:
        listen: takes a hook that workers call.
        wrap: takes middleware.
    """

    def __init__(self, listen: Callable[[Listener], None], wrap: Callable[[AfterSubmit], None]) -> None:
        self._listen, self._wrap = listen, wrap

    @overload
    def __call__(self, hook: F, /) -> F: ...
    @overload
    def __call__(self, *kinds: EventKind) -> Callable[[F], F]: ...
    def __call__(self, *given: Any) -> Any:
        """Call `hook(event)` at every event, or at events of these kinds. Raises ConfigError for a kind that there is not."""
        if len(given) == 1 and callable(given[0]):
            return self._add(given[0], KINDS)
        if not given or not set(given) <= set(KINDS):
            raise ConfigError(f"on_event{describe(given)}: give a function, or names of events: {', '.join(KINDS)}")
        return lambda hook: self._add(hook, given)

    def _add(self, hook: F, kinds: tuple[EventKind, ...]) -> F:
        if not callable(hook):
            raise ConfigError(f"on_event: {describe(hook)} must be a function that takes an event")
        if "submitted" in kinds:
            self._wrap(AfterSubmit(hook))
        if others := frozenset(kinds) - {"submitted"}:
            self._listen((others, hook))
        return hook
