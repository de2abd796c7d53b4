"""The parts of a worker that run jobs, put together: its queues, the lease table, the runner and the fetch loop.

A worker process has one engine (child.py), whose leases its supervisor renews; a test has one in its own process (bananas.testing).
"""

from collections.abc import Iterable

from bananas import rights
from bananas.app import Bananas
from bananas.broker import Filter, plain
from bananas.config import parse_routing_key
from bananas.durability import level_of
from bananas.errors import ConfigError, QueueFull
from bananas.keys import queues_key, task_tag
from bananas.session import answer, check_layout, note_layout, server_info
from bananas.worker.intake import Intake
from bananas.worker.run import Runnable
from bananas.worker.runner import Runner
from bananas.worker.served import Served
from bananas.worker.table import MOST_QUEUES, LeaseTable


async def open_queues(app: Bananas, boot: str) -> list[Served]:
    """The queues that a worker of this app serves by its settings, each noted on the server and checked to be of this layout.

    First the server is asked whether this worker may do all that it will do there.

    Raises:
        ConfigError: more than 255, or one of another layout.
        RightsMissing: the server's user may not do what a worker does.
        BrokerError: the server does not answer, or refuses.
    """
    settings, here = app.settings, app.client.here()
    named = [parse_routing_key(entry) for entry in settings.worker_routing_keys]
    wanted: list[tuple[str, int | None]] = named or [(queue, None) for queue in app.registry.queues() or ["default"]]
    names = {keys.name: weight or 0 for name, weight in wanted for keys in app.producer.places.parts(name)}
    await rights.check(here, "worker", [app.producer.keys(name) for name in names], settings.call_timeout)
    request = plain(list, "SMEMBERS", queues_key(settings.namespace))
    (listed,) = await here.lanes.home(settings.namespace).ask(None, [request], settings.call_timeout, "reading queues")
    also = _also_served([name.decode() for name in answer(listed)], dict(wanted), everything=settings.worker_mode == "scheduler-only")
    others = {name: weight or 0 for name, weight in also.items() if name not in names}
    await rights.check(here, "worker", [app.producer.keys(name) for name in others], settings.call_timeout)
    names |= others
    await _check_levels(app, list(names))
    if len(names) > MOST_QUEUES:
        raise ConfigError(f"this worker would serve {len(names)} queues; the most is {MOST_QUEUES}: name some with --queues")
    queues: list[Served] = []
    for index, (name, weight) in enumerate(names.items()):
        keys = app.producer.keys(name)
        replies = await here.lanes.of(keys).ask(keys, note_layout(keys), settings.call_timeout, f"opening queue {name!r}")
        for reply in replies:
            if not isinstance(reply, QueueFull):  # what is queued on a full server is run all the same
                answer(reply)
        check_layout(keys, replies[-1])
        queues.append(Served(index, keys, boot, weight))
    return queues


async def _check_levels(app: Bananas, queues: list[str]) -> None:
    """Raises ServerUnsuitable where the server cannot make submits as durable as the app or one of its tasks wants them."""
    wanted = {task.defaults.durability for task in app.registry.tasks.values()}
    levels = [level for level in (level_of(app.settings, name) for name in {None, *wanted}) if level is not None]
    if levels and queues:
        lane, settings = app.client.here().lanes.of(app.producer.keys(queues[0])), app.settings
        (info,) = await lane.ask(None, [server_info()], settings.call_timeout, "asking what the server can do")
        for level in levels:
            level.check(answer(info))


def _also_served(listed: list[str], wanted: dict[str, int | None], *, everything: bool) -> dict[str, int | None]:
    """Of the queues on the server: shards that an earlier number of them has left behind, with the weight of their queue; or all."""
    return {name: wanted.get(name.partition(".")[0]) for name in sorted(listed) if everything or name.partition(".")[0] in wanted}


class Engine:
    """Runs the jobs of an app's queues, as the app's settings say. Whoever holds it renews the leases in its table.

    Attributes:
        queues, table, runner, intake: the parts; the runner has no pool yet for tasks with a process of their own.
    """

    def __init__(self, app: Bananas, boot: str, queues: list[Served], table: LeaseTable) -> None:
        settings, registry, seals = app.settings, app.registry, app.client.seals
        self.queues, self.table = queues, table
        tasks = {name: Runnable(task, settings, registry.hooks, seals) for name, task in registry.tasks.items()}
        self.runner = Runner(tasks, settings, app.producer.chain, table, self._changed, seals)
        self.runner.outcomes.hooks = registry.hooks
        self.intake = Intake(
            app.client.address, boot, queues, self.runner, table, lease_ms=round(settings.lease * 1000), wanted=self._wanted(app)
        )

    def _changed(self) -> None:
        self.intake.changed()

    def _wanted(self, app: Bananas) -> Filter:
        """Which jobs are claimed, by the worker's mode."""
        settings, tasks = app.settings, app.registry.tasks
        if settings.worker_mode == "specialized":
            return Filter(settings.worker_priorities)
        if settings.worker_mode == "job-specialized":
            for name in settings.worker_job_types:
                if name not in tasks:
                    raise ConfigError(f"--tasks (WORKER_JOB_TYPES) names {name!r}, which no module declares; tasks: {', '.join(tasks)}")
            self.runner.only = frozenset(settings.worker_job_types)
            return Filter((), tuple(task_tag(name) for name in settings.worker_job_types))
        return Filter()

    def stop_runs(self, lost: Iterable[bytes], cancelled: Iterable[bytes]) -> None:
        """Stop the runs of leases, by member, that the server says are lost, or whose jobs somebody cancelled."""
        for member in lost:
            if (run := self.runner.running.get(member)) is not None:
                self.runner.stop(run, "lost")
        for member in cancelled:
            if (run := self.runner.running.get(member)) is not None and run.stop == "":
                self.runner.stop(run, "cancel")
