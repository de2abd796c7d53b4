"""`Bananas`: the one object of an application. It knows the tasks, submits jobs, and is what `bananas worker module:app` runs."""

import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, Unpack, cast, overload

from bananas.address import Address, parse_url
from bananas.client import Client
from bananas.config import Settings, check_queue_name, load_settings, seconds
from bananas.errors import ConfigError, describe
from bananas.handle import Job
from bananas.keys import parse_public_id, task_tag
from bananas.lifecycle import Events
from bananas.middleware import Chain, Hooks, Listener
from bananas.producer import Producer
from bananas.queue import Queue
from bananas.result import Waiter, wanted
from bananas.schedule import Missed, Schedule, parse
from bananas.seals import Seals
from bananas.task import AsyncTask, Call, SubmitOptions, SyncTask, Task, TaskOptions, hooks_of, read_options, required_parameters

if TYPE_CHECKING:
    from bananas.embedded import EmbeddedServer

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
Lifespan = Callable[[], AsyncGenerator[Any, None]]


class CronEntry(NamedTuple):
    """A task that runs by a schedule; `unique`: no tick starts while the job of an earlier one is alive."""

    name: str
    task: Task[Any, Any]
    schedule: Schedule
    unique: bool


class Registry:
    """What the code declares: tasks, cron entries, hooks, resources, and the modules that declare more."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task[Any, Any]] = {}
        self.crons: dict[str, CronEntry] = {}
        self.modules: list[str] = []
        self.hooks = Hooks()
        self.lifespan: Lifespan | None = None

    def load(self) -> None:
        """Import the included modules. Raises ConfigError when one cannot be imported."""
        import importlib

        for module in self.modules:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                raise ConfigError(f"app.include({module!r}): {error}; run from the folder that holds it, or set PYTHONPATH") from error

    def queues(self) -> list[str]:
        """Every queue that a task names, in order of declaration."""
        return list(dict.fromkeys(task.defaults.queue or "default" for task in self.tasks.values()))


class Bananas:
    """An application's queues on one server.

    Args:
        url: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// URL; by default REDIS_URL, or the embedded server where
            that is allowed.
        settings: any setting of docs/settings.md by name, e.g. namespace="shop"; each wins over the environment and the files.

    Raises:
        ConfigError: an unknown setting, or a value that cannot be read. No server is contacted before the first call.

    Attributes:
        on_event: `@app.on_event` or `@app.on_event("cancelled", ...)`: call a function with each event; see lifecycle.py.
    """

    on_event: Events

    def __init__(self, url: str | None = None, **settings: Any) -> None:
        self.settings: Settings = load_settings({"redis_url": url, **settings} if url is not None else settings)
        self.registry = Registry()
        self._chain = Chain()
        self.on_event = Events(self._listen, self._chain.add)
        self._server: EmbeddedServer | None = None
        limits = self.settings.redis_pool_size, self.settings.call_timeout
        self.client = Client(self._locate, f"bananas:{self.settings.namespace}", *limits, self._leave, Seals(self.settings))
        self.producer = Producer(self.settings, self.client, self._chain, self.registry.tasks)

    # --- declare ---

    @overload
    def task(self, handler: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def task(self, handler: Callable[P, R], /) -> SyncTask[P, R]: ...
    @overload
    def task(self, /, **options: Unpack[TaskOptions]) -> "TaskDecorator": ...
    def task(self, handler: Callable[..., Any] | None = None, /, **options: Unpack[TaskOptions]) -> Any:
        """Declare a task: `@app.task` or `@app.task(queue="email", priority="high", ...)`.

        Raises:
            ConfigError: a wrong option, or a second task of the same name.
        """
        decorator = TaskDecorator(self, options)
        return decorator if handler is None else decorator(handler)

    def cron(
        self,
        expression: str | None = None,
        *,
        every: float | timedelta | None = None,
        timezone: str = "UTC",
        missed: Missed = "once",
        unique: bool = False,
        **options: Unpack[TaskOptions],
    ) -> "CronDecorator":
        """Declare a task without arguments that runs by a schedule, each tick exactly once however many workers run.

        Args:
            expression: five or six cron fields (six: seconds first), or @hourly and the like; or `every` seconds.
            timezone: the IANA zone of the expression.
            missed: what becomes of ticks that no worker was there for: "once", "skip" or "all" (bounded).
            unique: skip a tick while the job of an earlier one is alive.
            options: as for `task`.
        """
        return CronDecorator(self, parse(expression, every=every, timezone=timezone, missed=missed), unique, options)

    def lifespan(self, resources: Callable[[], AsyncIterator[Any]]) -> Callable[[], AsyncIterator[Any]]:
        """Declare the resources of a worker process: an async generator that yields once; its value is `current_job().state`."""
        import inspect

        if not inspect.isasyncgenfunction(resources):
            raise ConfigError(
                f"@app.lifespan: {describe(resources)} must be an async generator function: async def resources(): yield {{...}}"
            )
        self.registry.lifespan = cast(Lifespan, resources)
        return resources

    def middleware(self, middleware: Any) -> Any:
        """Add middleware around submit and run; see docs/middleware.md. Use as a decorator of a class, or with an instance."""
        self._chain.add(middleware)
        return middleware

    def on_success(self, hook: F) -> F:
        """Call `hook(job, value)` on the worker after each success."""
        return self._hook(hook, "on_success")

    def on_retry(self, hook: F) -> F:
        """Call `hook(job, error, delay)` on the worker after each failure that will be retried."""
        return self._hook(hook, "on_retry")

    def on_dead(self, hook: F) -> F:
        """Call `hook(job, error)` on the worker after a job went to the dead letter queue."""
        return self._hook(hook, "on_dead")

    def _hook(self, hook: F, kind: str) -> F:
        given: dict[str, Any] = {kind: hooks_of(hook, kind)}
        self.registry.hooks += Hooks(**given)
        return hook

    def _listen(self, listener: Listener) -> None:
        self.registry.hooks += Hooks(on_event=(listener,))

    def include(self, *modules: str) -> None:
        """Name further modules with tasks; a worker imports them when it starts."""
        self.registry.modules += modules

    # --- submit ---

    async def submit(self, task: str, /, *args: Any, options: SubmitOptions | None = None, **kwargs: Any) -> Job[Any]:
        """Submit by the task's name, without importing its code; where the task is known here, its defaults and signature hold."""
        return await self.producer.submit(Call(task, args, kwargs, read_options(options or {})))

    def submit_sync(self, task: str, /, *args: Any, options: SubmitOptions | None = None, **kwargs: Any) -> Job[Any]:
        """`submit` for code without an event loop."""
        return self.producer.submit_sync(Call(task, args, kwargs, read_options(options or {})))

    async def submit_many(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """Submit any number of calls, of any tasks and queues, in few round trips: `task.bind(x) for x in items`.

        Returns:
            the jobs, in the order of the calls.

        Raises:
            SubmitManyError: some were not submitted; its `outcomes` says per item which and why. The others are submitted.
        """
        return await self.producer.submit_many(calls)

    def submit_many_sync(self, calls: Iterable[Call[R]]) -> list[Job[R]]:
        """`submit_many` for code without an event loop."""
        return self.producer.submit_many_sync(calls)

    # --- find ---

    def job(self, public_id: str) -> Job[Any]:
        """The handle of a job from its public id alone. Raises InvalidName when the text is none."""
        queue, shard, job_id = parse_public_id(public_id)
        keys = self.producer.keys(queue if shard is None else f"{queue}.{shard}")
        tag = job_id[32:40]
        task = next((task for task in self.registry.tasks.values() if task_tag(task.name) == tag), None)
        if task is None:
            return Job(self.client, keys, job_id)
        return Job(self.client, keys, job_id, kind=task.signature.returns, kept=task.defaults.ttl_ms != 0)

    def queue(self, name: str) -> Queue:
        """A queue, to count, pause, resume or purge it, and its dead letters."""
        return Queue(self.client, self.producer.places.parts(check_queue_name(name)), name)

    async def as_completed(self, jobs: Iterable[Job[R]], timeout: float | None = None) -> AsyncIterator[Job[R]]:
        """Yield jobs as they end, in few round trips; `await job.result()` of a yielded one asks nobody.

        Raises:
            ResultTimeout: `timeout` seconds passed before all had ended; what was yielded is complete.
        """
        given = list(jobs)
        for job in given:
            if not isinstance(job, Job):
                raise ConfigError(f"as_completed takes jobs, as submit and app.job(id) give them, not {describe(job)}; nothing was asked")
        ended = [job for job in given if job.has_ended]
        waiting: dict[str, list[Job[R]]] = {}
        for job in given:
            if not job.has_ended:
                keys, job_id = job.place
                waiting.setdefault(keys.result(job_id), []).append(job)
        for job in ended:
            yield job
        if not waiting:
            return
        limit = None if timeout is None else seconds(timeout, "timeout")
        waiter = Waiter.of(self.client.here())
        places = wanted([jobs[0].place for jobs in waiting.values()])
        async for channel, outcome in waiter.outcomes(places, limit, self.settings.call_timeout):
            for job in waiting[channel]:
                yield job.ended(outcome)

    async def close(self) -> None:
        """Close the connections of the running loop and of threads, and leave the embedded server if no other loop uses the app.

        Submits under way end first; other calls end with BrokerUnavailable. The app may be used again: it opens new
        connections, and joins the embedded server again.
        """
        await self.client.close()

    # --- the server ---

    def _locate(self) -> Address:
        if self.settings.redis_url is not None and not self.settings.embedded:
            return parse_url(self.settings.redis_url)
        from bananas import embedded

        interactive = hasattr(sys, "ps1") or (sys.stdin is not None and sys.stdin.isatty())
        wanted_embedded = {} if self.settings.embedded is None else {"BANANAS_EMBEDDED": "1" if self.settings.embedded else "0"}
        environ = dict(os.environ) | wanted_embedded
        container = embedded.in_container()
        if not embedded.embedded_allowed(environ, interactive, container):
            raise ConfigError(embedded.refusal(environ, interactive, container))
        self._server = embedded.join()
        return parse_url(self._server.url)

    def _leave(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()


class TaskDecorator:
    """`@app.task(...)`, waiting for its handler."""

    def __init__(self, app: Bananas, options: TaskOptions) -> None:
        self._app, self._options = app, options

    @overload
    def __call__(self, handler: Callable[P, Coroutine[Any, Any, R]]) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, handler: Callable[P, R]) -> SyncTask[P, R]: ...
    def __call__(self, handler: Callable[..., Any]) -> Any:
        import inspect

        if not callable(handler):
            raise ConfigError(f"@app.task({describe(handler)}): it decorates a function; give a name as @app.task(name=...)")
        kind: type[Task[Any, Any]] = AsyncTask if inspect.iscoroutinefunction(handler) else SyncTask
        task = kind(self._app.producer, handler, self._options)
        registered = self._app.registry.tasks.setdefault(task.name, task)
        if registered is not task and _origin(registered) != _origin(task):
            raise ConfigError(
                f"two tasks are called {task.name!r}: {_origin(registered)} and {_origin(task)}. Name one of them: @app.task(name=...)"
            )
        self._app.registry.tasks[task.name] = task
        return task


def _origin(task: Task[Any, Any]) -> str:
    return f"{getattr(task.handler, '__module__', '?')}.{getattr(task.handler, '__qualname__', '?')}"


class CronDecorator:
    """`@app.cron(...)`, waiting for its handler."""

    def __init__(self, app: Bananas, schedule: Schedule, unique: bool, options: TaskOptions) -> None:
        self._app, self._schedule, self._unique, self._decorator = app, schedule, unique, TaskDecorator(app, options)

    @overload
    def __call__(self, handler: Callable[[], Coroutine[Any, Any, R]]) -> "AsyncTask[[], R]": ...  # type: ignore[overload-overlap]  # pyright: ignore[reportOverlappingOverload]
    @overload
    def __call__(self, handler: Callable[[], R]) -> "SyncTask[[], R]": ...
    def __call__(self, handler: Callable[..., Any]) -> Any:
        if callable(handler) and (needed := required_parameters(handler)):
            raise ConfigError(f"@app.cron: {describe(handler)} needs {', '.join(needed)}, which a schedule cannot give: default values can")
        task: Task[Any, Any] = self._decorator(handler)
        self._app.registry.crons[task.name] = CronEntry(task.name, task, self._schedule, self._unique)
        return task
