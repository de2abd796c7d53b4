"""What users wrap around submit and run, and call when a job ends: plain classes and functions.

    @app.middleware
    class Tenant:
        def submit(self, draft):                    # a generator: before the yield, then after it (or the exception, thrown in)
            draft.headers["tenant"] = tenant.get()
            yield

        async def run(self, job, proceed):          # a coroutine around the handler
            with tenant.set(job.headers["tenant"]):
                return await proceed()

Either method may be absent. The first that is added is the outermost. `submit` serves the async and the sync client alike, hence a
generator. Hooks (`on_success`, `on_retry`, `on_dead`) are called on the worker once the server has accepted the outcome; their errors are
logged.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from bananas.context import CurrentJob, lease_lost
from bananas.errors import ConfigError, LeaseLost

Proceed = Callable[[], Awaitable[Any]]
Hook = Callable[..., Any]
Listener = tuple[frozenset[str], Hook]  # the kinds of events, and what is called with each


class _Submitted(Protocol):
    created: bool

    @property
    def id(self) -> str: ...


J = TypeVar("J", bound=_Submitted)


class Draft(Struct):
    """A job about to be submitted, as middleware may change it.

    Attributes:
        task, args, kwargs, queue, priority: what is submitted, where.
        headers: text that travels with the job.
        tags: words to find it by.
        id: the public id of the job, "" until it is stored; of an older one where that has its unique key, then `created` is False.
    """

    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    queue: str
    priority: int
    headers: dict[str, str] = {}
    tags: list[str] = []
    id: str = ""
    created: bool = False

    def stored(self, job: J) -> J:
        """Note that this is its job."""
        self.id, self.created = job.id, job.created
        return job


class Chain:
    """The middleware of an app, in order."""

    def __init__(self) -> None:
        self._submit: list[Callable[[Draft], Generator[None, None, None]]] = []
        self._run: list[Callable[[CurrentJob, Proceed], Awaitable[Any]]] = []

    def add(self, middleware: Any) -> None:
        """Add an instance, or a class that needs no arguments. Raises ConfigError when it has neither method."""
        instance = middleware() if isinstance(middleware, type) else middleware
        submit, run = getattr(instance, "submit", None), getattr(instance, "run", None)
        if submit is None and run is None:
            raise ConfigError(
                f"{middleware!r} is no middleware: it needs a generator method submit(draft), a coroutine method run(job, proceed), or both"
            )
        if submit is not None:
            self._submit.append(submit)
        if run is not None:
            self._run.append(run)

    @property
    def wraps_submit(self) -> bool:
        """Whether any middleware looks at submits."""
        return bool(self._submit)

    @property
    def wraps_run(self) -> bool:
        """Whether any middleware looks at runs."""
        return bool(self._run)

    @contextmanager
    def around_submit(self, drafts: Sequence[Draft]) -> Generator[None, None, None]:
        """Run the submit half of every middleware around a block, for each draft."""
        with ExitStack() as stack:
            for draft in drafts:
                for submit in self._submit:
                    stack.enter_context(contextmanager(submit)(draft))
            yield

    def around_run(self, job: CurrentJob, call: Proceed) -> Awaitable[Any]:
        """The handler's call, inside of every middleware. What it came to under a lost lease is LeaseLost to them."""
        call = _held(job, call)
        for run in reversed(self._run):
            call = _step(run, job, call)
        return call()


def _held(job: CurrentJob, inner: Proceed) -> Proceed:
    async def call() -> Any:
        cause: BaseException | None = None
        try:
            value = await inner()
        except asyncio.CancelledError as error:
            if not lease_lost(job):
                raise
            value, cause = None, error
        if lease_lost(job):
            raise LeaseLost(
                f"the lease of job {job.id} was lost while its handler ran: it runs elsewhere, and this run changes nothing"
            ) from cause
        return value

    return call


def _step(run: Callable[[CurrentJob, Proceed], Awaitable[Any]], job: CurrentJob, inner: Proceed) -> Proceed:
    return lambda: run(job, inner)


class Hooks(Struct, frozen=True):
    """What is called when a job ends or goes back; each takes the CurrentJob and the value, the error and delay, or the error.

    Attributes:
        on_event: who listens to events of which kinds; see lifecycle.py.
    """

    on_success: tuple[Hook, ...] = ()
    on_retry: tuple[Hook, ...] = ()
    on_dead: tuple[Hook, ...] = ()
    on_event: tuple[Listener, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.on_success or self.on_retry or self.on_dead or self.on_event)

    def __add__(self, other: "Hooks") -> "Hooks":
        ended = self.on_success + other.on_success, self.on_retry + other.on_retry, self.on_dead + other.on_dead
        return Hooks(*ended, self.on_event + other.on_event)
