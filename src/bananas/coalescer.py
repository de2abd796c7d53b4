"""Submits of one event loop to one queue, sent together: whatever gathers while a batch is under way is the next batch.

There is no timer: a submit on an idle lane goes out with whatever else the loop is about to submit in this iteration; while it is under way
the next batch gathers. 100 coroutines become a few round trips by themselves, a lone submit waits for nobody.

Each call fails by its own budget, which counts from the call. One that is given up before its batch was sent is taken out of the batch.
"""

import asyncio
import math
import time
from collections.abc import Iterable
from itertools import chain
from typing import Any

from bananas import broker
from bananas.broker import NewJob, Request
from bananas.connection import ConnectionLost, Reply, ReplyError
from bananas.durability import Level
from bananas.errors import ScriptFailed, Unconfirmed
from bananas.keys import QueueKeys
from bananas.lane import Delivery, Lane, Patience, confirmed, refused
from bananas.session import answer


class _Entry:
    """A job on its way, the future of the id that stands for it, and until when its caller waits."""

    __slots__ = ("budget", "deadline", "future", "job")

    def __init__(self, job: NewJob, future: "asyncio.Future[str]", budget: float) -> None:
        self.job, self.future, self.budget = job, future, budget
        self.deadline = time.monotonic() + budget


class _Batch:
    """Entries that are sent together, with the patience of the most patient: the others fail by their own budgets meanwhile."""

    __slots__ = ("entries", "number", "patience")

    def __init__(self, entries: list[_Entry], number: int, what: str) -> None:
        self.entries, self.number = entries, number
        last = max(entries, key=lambda entry: entry.deadline)
        self.patience = Patience(last.budget, what)
        self.patience.deadline = last.deadline

    def requests(self, lane: Lane, keys: QueueKeys, level: Level | None) -> list[Request[Any]]:
        """What is sent: always the same where it may have been done already; before that without entries whose callers have gone."""
        if not self.patience.sent:
            self.entries = [entry for entry in self.entries if not entry.future.done()]
        request = broker.enqueue(keys, lane.boot, self.number, [entry.job for entry in self.entries])
        return confirmed(request, level, keys, lane.boot, self.patience.share(lane.address))


class Coalescer:
    """Submits to one queue from one loop: whatever gathers while a batch is under way is the next batch."""

    def __init__(self, lane: Lane, keys: QueueKeys, level: Level | None) -> None:
        self._lane, self._keys, self._level = lane, keys, level
        self._what = f"submitting to queue {keys.name!r}"
        self._waiting: list[_Entry] = []
        self._under_way: _Batch | None = None
        self._busy = False
        self._number = 0
        self._loop = asyncio.get_running_loop()
        self._watching: asyncio.TimerHandle | None = None
        self._watch_at = math.inf
        self._task: asyncio.Task[None] | None = None

    def add(self, job: NewJob, budget: float) -> "asyncio.Future[str]":
        """The future of the id that stands for this job; it fails when `budget` seconds have passed."""
        entry = _Entry(job, self._loop.create_future(), budget)
        self._waiting.append(entry)
        if entry.deadline < self._watch_at:
            self._watch_until(entry.deadline)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._start)
        return entry.future

    def _entries(self) -> Iterable[_Entry]:
        return chain(self._under_way.entries if self._under_way is not None else (), self._waiting)

    # --- each call fails by its own budget ---

    def _watch_until(self, deadline: float) -> None:
        """One timer for all calls: it comes back when the first of them is due."""
        if self._watching is not None:
            self._watching.cancel()
        self._watch_at = deadline
        self._watching = self._loop.call_later(deadline - time.monotonic(), self._expire)

    def _expire(self) -> None:
        batch = self._under_way
        if batch is not None:
            self._give_up(batch.entries, batch.patience.sent, batch.patience.reason)
        self._give_up(self._waiting, False, "submits before it are not answered")
        self._watching, self._watch_at = None, math.inf
        first = min((entry.deadline for entry in self._entries() if not entry.future.done()), default=math.inf)
        if first < math.inf:
            self._watch_until(first)

    def _give_up(self, entries: list[_Entry], sent: bool, reason: object) -> None:
        now = time.monotonic()
        for entry in entries:
            if entry.deadline <= now and not entry.future.done():
                patience = Patience(entry.budget, self._what)
                patience.sent, patience.reason = sent, reason
                entry.future.set_exception(patience.given_up(self._lane.address))

    # --- batches ---

    def _next_batch(self) -> _Batch | None:
        """As many as fit; none whose caller has gone."""
        while self._waiting:
            size, count = 0, 0
            for entry in self._waiting[: broker.SUBMIT_BATCH]:
                size += len(entry.job.body)
                if count and size > broker.SUBMIT_BYTES:
                    break
                count += 1
            entries = [entry for entry in self._waiting[:count] if not entry.future.done()]
            self._waiting = self._waiting[count:]
            if entries:
                self._number += 1
                return _Batch(entries, self._number, self._what)
        return None

    def _start(self) -> None:
        batch = self._under_way = self._next_batch()
        if batch is None:
            self._busy = False
            return
        connection = self._lane.ready(self._keys)
        if connection is None or self._level is not None:
            self._insist(batch)
            return
        (request,) = batch.requests(self._lane, self._keys, None)

        def done(outcome: list[Reply] | ConnectionLost) -> None:
            if isinstance(outcome, ConnectionLost):
                self._insist(batch)
            elif isinstance(outcome[0], ReplyError):
                batch.patience.sent = not refused(request, outcome[0])
                self._insist(batch)
            else:
                try:
                    ids = request.read(outcome[0])
                except ScriptFailed:  # asked once more, it fails the batch
                    self._insist(batch)
                else:
                    self._finish(batch, Delivery(ids))

        batch.patience.sent = True
        connection.send([request.command()], batch.patience.share(self._lane.address), done)

    def _insist(self, batch: _Batch) -> None:
        """The slow path: connect, load the script, resend under the same number, have it confirmed, or fail. Not where nobody waits."""
        if all(entry.future.done() for entry in batch.entries):
            self._start()
            return

        async def deliver() -> None:
            try:
                replies = await self._lane.insist(self._keys, lambda: batch.requests(self._lane, self._keys, self._level), batch.patience)
                delivery = Delivery(answer(replies[0]), self._level.shortfall(replies[1:]) if self._level is not None else "")
            except BaseException as error:
                for entry in batch.entries:
                    if not entry.future.done():
                        entry.future.set_exception(error)
                self._start()
            else:
                self._finish(batch, delivery)

        self._task = self._loop.create_task(deliver())

    def _finish(self, batch: _Batch, delivery: Delivery) -> None:
        ids = delivery.ids
        for index, entry in enumerate(batch.entries):
            if entry.future.done():
                continue
            job_id = entry.job.job_id if ids is None else ids[index]
            if delivery.shortfall and self._level is not None:
                entry.future.set_exception(Unconfirmed(self._keys.public(job_id), self._level.name, delivery.shortfall))
            else:
                entry.future.set_result(job_id)
        self._start()

    async def finish(self) -> None:
        """Wait until every call has its answer, and leave nothing under way."""
        while calls := [entry.future for entry in self._entries() if not entry.future.done()]:
            await asyncio.wait(calls)
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
