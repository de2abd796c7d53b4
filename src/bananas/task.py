"""Tasks: a handler with its options, typed so that `submit` is checked against the handler's signature.

Task      what the decorator makes: call it to run it, submit it to queue it
Options   what a submit may say, all optional: `task.options(delay=60).submit(...)`
Call      a task with its arguments, not submitted yet: `task.bind(...)`
"""

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from functools import cached_property, update_wrapper
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, ParamSpec, TypedDict, TypeVar, Unpack, cast, get_args

from bananas.codec import Signature
from bananas.config import PRIORITIES, Compression, Durability, check_queue_name, check_task_name, parse_priority, seconds
from bananas.context import plain_call
from bananas.errors import ConfigError, describe
from bananas.handle import Duration, Job, epoch_ms, milliseconds
from bananas.middleware import Hooks
from bananas.retry import Retry

if TYPE_CHECKING:
    from bananas.producer import Producer

P = ParamSpec("P")
R = TypeVar("R")
Isolation = Literal["none", "process"]
Tags = list[str] | tuple[str, ...] | set[str] | frozenset[str]
MOST_TAGS, TAG_CHARS = 16, 64


class SubmitOptions(TypedDict, total=False):
    """What one submit may say; what it leaves out is the task's, or the app's.

    delay, at: ready so long from now, or at that time (an aware datetime). priority: "high", "normal", "low" or 0 to 1000, lower first.
    timeout: seconds a run may take, 0 = no limit. expires_in: not started so long after the submit, it ends as expired. result_ttl: how
    long the outcome is kept, 0 = not at all. unique: while a job of this key is alive in the queue, submit returns that one. headers: text
    that travels along. tags: words to find it by, at most 16. durability: "default", "replicated" or "fsynced": how safe the job is when
    submit returns. call_timeout: how long the submit itself may take.
    """

    queue: str
    priority: int | str
    delay: Duration
    at: datetime
    timeout: Duration
    max_retries: int
    retry: Retry
    result_ttl: Duration
    expires_in: Duration
    unique: str
    durability: Durability
    headers: Mapping[str, str]
    tags: Tags
    call_timeout: float


class TaskOptions(TypedDict, total=False):
    """What `@app.task(...)` takes; what it leaves out is the app's settings."""

    name: str
    queue: str
    priority: int | str
    timeout: Duration
    max_retries: int
    retry: Retry
    result_ttl: Duration
    expires_in: Duration
    durability: Durability
    isolation: Isolation
    compression: Compression
    encrypt: bool
    on_success: Callable[..., Any]
    on_retry: Callable[..., Any]
    on_dead: Callable[..., Any]


class Options(NamedTuple):
    """Checked options. None: not said. `at_ms` is of this machine's clock; the submit makes a delay of it."""

    queue: str | None = None
    priority: int | None = None
    delay_ms: int = 0
    at_ms: int | None = None
    timeout_ms: int | None = None
    max_retries: int | None = None
    retry: Retry | None = None
    ttl_ms: int | None = None
    expires_ms: int = 0
    unique: str = ""
    headers: Mapping[str, str] | None = None
    tags: tuple[str, ...] = ()
    call_timeout: float | None = None
    durability: Durability | None = None


def check_headers(given: Mapping[str, str]) -> dict[str, str]:
    """Headers that can travel. Raises ConfigError."""
    if not all(isinstance(name, str) and isinstance(value, str) for name, value in given.items()):
        raise ConfigError(f"headers={describe(given)}: names and values must be text")
    return dict(given)


def check_tags(given: Tags) -> tuple[str, ...]:
    """Tags that can be stored, each once. Raises ConfigError."""
    fit = isinstance(given, list | tuple | set | frozenset) and all(isinstance(tag, str) and _fits_tag(tag) for tag in given)
    tags = tuple(dict.fromkeys(given)) if fit else ()
    if not fit or len(tags) > MOST_TAGS:
        raise ConfigError(
            f"tags={describe(given)}: give a list of at most {MOST_TAGS} words of 1 to {TAG_CHARS} characters without spaces, commas and "
            "quotes, e.g. ['import', 'customer:42']"
        )
    return tags


def _fits_tag(tag: str) -> bool:
    """Whether it can be written in a query, and shown, as it is."""
    return 0 < len(tag) <= TAG_CHARS and tag.isprintable() and not set(tag) & set(' ,"')


def _count(value: int, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1_000_000:
        raise ConfigError(f"{what}={describe(value)}: must be a whole number from 0 to 1,000,000")
    return value


def _unique(key: str) -> str:
    if not isinstance(key, str) or not 0 < len(key) <= 500 or key != key.encode(errors="replace").decode():
        raise ConfigError(
            f"unique={describe(key)}: must be Unicode text of 1 to 500 characters that names what may exist once, e.g. 'welcome:42'"
        )
    return key


def _retry(policy: Retry) -> Retry:
    if not isinstance(policy, Retry):
        raise ConfigError(f"retry={describe(policy)}: must be a Retry, e.g. Retry(base=1, factor=2, cap=600)")
    return policy


def hooks_of(given: Any, kind: str) -> tuple[Callable[..., Any], ...]:
    """The hooks that one option stands for: none or one. Raises ConfigError where it cannot be called."""
    if given is not None and not callable(given):
        raise ConfigError(f"{kind}={describe(given)}: must be a function that a worker calls")
    return () if given is None else (given,)


def required_parameters(handler: Callable[..., Any]) -> list[str]:
    """The names of what a call must give."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(handler).parameters.values()
    return [each.name for each in parameters if each.default is each.empty and each.kind not in variadic]


def _call_timeout(given: Any) -> float:
    if not (budget := seconds(given, "call_timeout")):
        raise ConfigError("call_timeout=0: a call needs time to be answered; give seconds, e.g. 5, or leave it out for the app's")
    return budget


def _durability(given: Any) -> Durability:
    if given not in get_args(Durability):
        raise ConfigError(f"durability={describe(given)}: must be one of {', '.join(get_args(Durability))}")
    return given  # type: ignore[no-any-return]


def _compression(given: Any) -> Compression | None:
    if given not in (None, "none", "zstd"):
        raise ConfigError(f"compression={describe(given)}: must be 'zstd' or 'none', or left out for the app's")
    return given  # type: ignore[no-any-return]


def _encrypt(given: Any) -> bool | None:
    if given is not None and not isinstance(given, bool):
        raise ConfigError(f"encrypt={describe(given)}: must be True or False, or left out for the app's")
    return given


_READERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "queue": ("queue", check_queue_name),
    "priority": ("priority", parse_priority),
    "delay": ("delay_ms", lambda value: milliseconds(value, "delay")),
    "at": ("at_ms", epoch_ms),
    "timeout": ("timeout_ms", lambda value: milliseconds(value, "timeout")),
    "max_retries": ("max_retries", lambda value: _count(value, "max_retries")),
    "retry": ("retry", _retry),
    "result_ttl": ("ttl_ms", lambda value: milliseconds(value, "result_ttl")),
    "expires_in": ("expires_ms", lambda value: max(1, milliseconds(value, "expires_in"))),
    "unique": ("unique", _unique),
    "headers": ("headers", check_headers),
    "tags": ("tags", check_tags),
    "call_timeout": ("call_timeout", _call_timeout),
    "durability": ("durability", _durability),
}


def read_options(given: Mapping[str, Any]) -> Options:
    """Check submit options.

    Raises:
        ConfigError: an unknown name (with the nearest one), or a value out of its range; nothing was sent.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"options={describe(given)}: give a dict, e.g. {{'delay': 60}}; the names are those of task.options(...)")
    if "delay" in given and "at" in given:
        raise ConfigError("delay and at both say when the job becomes ready: give one of the two")
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if name not in _READERS:
            import difflib

            near = difflib.get_close_matches(name, _READERS, 1)
            raise ConfigError(f"unknown option {name!r}{f', did you mean {near[0]!r}?' if near else ''} Options: {', '.join(_READERS)}")
        field, read = _READERS[name]
        fields[field] = read(value)
    return Options(**fields)


NO_OPTIONS = Options()


class Task(Generic[P, R]):
    """A handler that can be submitted. Made by `@app.task`.

    Attributes:
        name: what names it in jobs: `name=`, or the function's name.
        sealed: its own `compression` and `encrypt`, None where the app's holds.
        handler: the function itself.
    """

    def __init__(self, producer: "Producer", handler: Callable[..., Any], given: TaskOptions) -> None:
        self.producer, self.handler = producer, handler
        self.is_async = inspect.iscoroutinefunction(handler)
        if inspect.isasyncgenfunction(handler) or inspect.isgeneratorfunction(handler):
            raise ConfigError(f"{describe(handler)} is a generator: a handler returns its value, or is a coroutine function that does")
        extra: dict[str, Any] = dict(given)
        self.name = check_task_name(extra.pop("name", None) or getattr(handler, "__name__", ""))
        self.isolation = self._isolation(extra.pop("isolation", "none"))
        self.sealed = _compression(extra.pop("compression", None)), _encrypt(extra.pop("encrypt", None))
        hooks: dict[str, Any] = {hook: hooks_of(extra.pop(hook, None), hook) for hook in ("on_success", "on_retry", "on_dead")}
        self.hooks = Hooks(**hooks)
        for option in ("delay", "at", "unique", "headers", "tags", "call_timeout"):
            if option in extra:
                raise ConfigError(f"{option!r} belongs to a submit, not to a task: {self.name}.options({option}=...).submit(...)")
        self.defaults = read_options(extra)
        update_wrapper(cast(Any, self), handler)

    def _isolation(self, given: Any) -> Isolation:
        if given not in ("none", "process"):
            raise ConfigError(
                f"isolation={describe(given)}: must be 'none' (the worker's loop or its threads) or 'process' (one that can be killed)"
            )
        return given  # type: ignore[no-any-return]

    @cached_property
    def signature(self) -> Signature:
        """The handler's parameters, read at first use, when every name in its annotations exists."""
        return Signature(self.handler)

    def options(self, **options: Unpack[SubmitOptions]) -> "Submission[P, R]":
        """How a submit of this task differs from its defaults. Raises ConfigError for a wrong option."""
        return Submission(self, read_options(options))

    async def submit(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Queue one run.

        Raises:
            SubmitError: these arguments cannot be submitted; nothing was stored.
            QueueFull: the server is full; nothing was stored.
            BrokerUnavailable: no answer within the budget; the message says whether the job may exist.
        """
        return await self.producer.submit(Call(self, args, kwargs))

    def submit_sync(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """`submit` for code without an event loop; safe from any thread. Raises SyncOnRunningLoop where a loop runs."""
        return self.producer.submit_sync(Call(self, args, kwargs))

    async def submit_and_wait(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Queue one run and wait for its value. Raises as `submit` and `Job.result`."""
        job = await self.submit(*args, **kwargs)
        return await job.result()

    def _plain_call(self) -> AbstractContextManager[None]:
        given = self.defaults.priority
        return plain_call(self.name, self.defaults.queue or "default", PRIORITIES["normal"] if given is None else given)

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> "Call[R]":
        """The task with its arguments, for `app.submit_many`."""
        return Call(self, args, kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name}>"


class AsyncTask(Task[P, R]):
    """A task whose handler is a coroutine function."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the handler here, now; nothing is queued."""
        with self._plain_call():
            return await self.handler(*args, **kwargs)  # type: ignore[no-any-return]


class SyncTask(Task[P, R]):
    """A task whose handler is a plain function; a worker runs it in a thread."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the handler here, now; nothing is queued."""
        with self._plain_call():
            return self.handler(*args, **kwargs)  # type: ignore[no-any-return]


class Submission(Generic[P, R]):
    """A task together with the options of a submit. The same calls as on the task."""

    __slots__ = ("_options", "_task")

    def __init__(self, task: Task[P, R], options: Options) -> None:
        self._task, self._options = task, options

    async def submit(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """`Task.submit` with these options."""
        return await self._task.producer.submit(Call(self._task, args, kwargs, self._options))

    def submit_sync(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """`Task.submit_sync` with these options."""
        return self._task.producer.submit_sync(Call(self._task, args, kwargs, self._options))

    async def submit_and_wait(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """`Task.submit_and_wait` with these options."""
        job = await self.submit(*args, **kwargs)
        return await job.result()

    def bind(self, *args: P.args, **kwargs: P.kwargs) -> "Call[R]":
        """`Task.bind` with these options."""
        return Call(self._task, args, kwargs, self._options)


class Call(Generic[R]):
    """A task with its arguments and options, not submitted yet. `task` is a name where the code is not here."""

    __slots__ = ("args", "kwargs", "options", "task")

    def __init__(self, task: Task[Any, R] | str, args: tuple[Any, ...], kwargs: dict[str, Any], options: Options = NO_OPTIONS) -> None:
        self.task, self.args, self.kwargs, self.options = task, args, kwargs, options
