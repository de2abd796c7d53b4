"""The parts of a worker that run jobs, put together: its queues, the lease table, the runner and the fetch loop.

A worker process has one engine (child.py), whose leases its supervisor renews; a test has one in its own process (bananas.testing).
"""

from collections.abc import Coroutine, Iterable
from typing import Any

from bananas.app import Bananas
from bananas.broker import Filter
from bananas.errors import ConfigError
from bananas.keys import task_tag
from bananas.worker.counting import Counting
from bananas.worker.intake import Intake
from bananas.worker.opening import open_later
from bananas.worker.run import Runnable
from bananas.worker.runner import Runner
from bananas.worker.served import Served
from bananas.worker.table import LeaseTable


class Engine:
    """Runs the jobs of an app's queues, as the app's settings say. Whoever holds it renews the leases in its table.

    Attributes:
        queues, table, runner, intake: the parts; the runner has no pool yet for tasks with a process of their own.
    """

    def __init__(self, app: Bananas, boot: str, queues: list[Served], table: LeaseTable) -> None:
        settings, registry, seals = app.settings, app.registry, app.client.seals
        self._app, self.queues, self.table = app, queues, table
        names = {task_tag(name): name for name in registry.tasks}
        for served in queues:
            served.counting = Counting(served.keys, boot, names, round(settings.stats_ttl * 1000))
        tasks = {name: Runnable(task, settings, registry.hooks, seals) for name, task in registry.tasks.items()}
        self.runner = Runner(tasks, settings, app.producer.chain, table, self._changed, seals)
        self.runner.outcomes.hooks = registry.hooks
        for served in queues:
            served.notes.begin(self._changed, self.runner.outcomes.hides, seals)
        self.intake = Intake(
            app.client.address, boot, queues, self.runner, table, lease_ms=round(settings.lease * 1000), wanted=self._wanted(app)
        )

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run as tasks, once `intake.begin` has said how."""
        return [*self.intake.loops(), *(open_later(self._app, served, self._changed) for served in self.queues if served.away)]

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
