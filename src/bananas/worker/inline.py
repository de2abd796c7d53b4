"""One job run to its end in this process, by the worker's own runner and without a server: what `bananas.testing.inline` stands on.

The runner puts settlements into its queue's settler, whoever that is. Here it is a desk: it hands the settlement of the one job back to
the one who waits for it, who ends with the outcome or gives the job to the runner again.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from bananas.app import Bananas
from bananas.broker import Burial, Comeback, Ending, NewJob
from bananas.client import new_boot
from bananas.codec import unpack_body, unpack_tries
from bananas.errors import EndlessSnooze, UnknownTask
from bananas.job import FRESH
from bananas.keys import QueueKeys, birth_priority
from bananas.result import GONE, Outcome
from bananas.sealing import job_head
from bananas.worker import table as tables
from bananas.worker.run import Claimed, Grant, Runnable
from bananas.worker.runner import Runner
from bananas.worker.served import Served
from bananas.worker.settler import Settlement, Settler

MOST_SNOOZES = 100
FOR_EVER = float("inf")


class Desk(Settler):
    """A settler that sends nothing: it has room for one settlement, and a future of it."""

    settled: "asyncio.Future[Settlement]"

    def expect(self) -> "asyncio.Future[Settlement]":
        """The future of the next settlement."""
        self.settled = asyncio.get_running_loop().create_future()
        return self.settled

    def add(self, settlement: Settlement) -> None:
        """Hand it over; nobody waits any more where the submit was cancelled."""
        if not self.settled.done():
            self.settled.set_result(settlement)


class InlineRun:
    """One job and the runner that runs it.

    Args:
        state: what its handler finds in `current_job().state`.
        fences: the numbers of its claims.
    """

    def __init__(self, app: Bananas, keys: QueueKeys, state: Any, fences: Iterator[int]) -> None:
        self._app, self._keys, self._fences, self._boot = app, keys, fences, new_boot()
        self._runner = Runner({}, app.settings, app.producer.chain, tables.private(1), lambda: None, app.client.seals)
        self._runner.state = state
        self._served = Served(0, keys, self._boot)
        self._served.settler = self._desk = Desk(keys, self._boot)

    async def run(self, job: NewJob) -> Outcome:
        """Run it until it ends; retries and snoozes run at once.

        Raises:
            UnknownTask: no task of its name is declared.
            EndlessSnooze: it snoozed a hundred times in a row.
        """
        try:
            return await self._run(job)
        finally:
            self._runner.close()

    async def _run(self, job: NewJob) -> Outcome:
        now_ms = time.time_ns() // 1_000_000
        body = now_ms.to_bytes(8, "big") + job.body
        self._learn((unpack_body(body) or job_head(body)).task)
        tries, snoozes = FRESH, 0
        while snoozes < MOST_SNOOZES:
            claimed = self._claimed(job, now_ms, body)
            claimed.tries = tries
            entry = (await self._settlement(claimed)).entry
            if isinstance(entry, Ending | Burial):
                return GONE if entry.result is None else entry.result.packed
            assert isinstance(entry, Comeback)
            again = unpack_tries(entry.tries)
            tries, snoozes = again, 0 if again.attempts > tries.attempts else snoozes + 1
        raise EndlessSnooze(
            f"job {self._keys.public(job.job_id)} snoozed {MOST_SNOOZES} times in a row: inline, it runs again at once, "
            "before anything else can happen. Test it with bananas.testing.worker_for."
        )

    def _learn(self, name: str) -> None:
        tasks = self._app.registry.tasks
        if name not in tasks:
            raise UnknownTask(f"no task {name!r} is declared here, so it cannot run inline: import its module. Tasks: {', '.join(tasks)}")
        runnable = self._runner.tasks[name] = Runnable(tasks[name], self._app.settings, self._app.registry.hooks, self._app.client.seals)
        runnable.isolated = False

    def _claimed(self, job: NewJob, now_ms: int, body: bytes) -> Claimed:
        """The job as if claimed now, under a lease that does not end."""
        grant = Grant(self._served, next(self._fences), now_ms, FOR_EVER, time.monotonic())
        member = f"{job.job_id}:{self._boot}:{grant.fence:010d}".encode()
        return Claimed(grant, member, b"%d" % (birth_priority(job.job_id) << 42), 0, body)

    async def _settlement(self, claimed: Claimed) -> Settlement:
        """One run: what it came to, after its hooks."""
        settled = self._desk.expect()
        try:
            self._runner.take([claimed])
            settlement = await settled
        except asyncio.CancelledError:
            self._runner.stop_all()
            raise
        if settlement.accepted is not None:
            settlement.accepted()
            await self._runner.outcomes.hooks_ended()
        return settlement
