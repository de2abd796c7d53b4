"""A producer as a process of its own: `python -m bananas.chaos.producer SPEC`, SPEC being JSON.

It submits by turns one batch and a few single jobs at once, writes down each name before and each id after, and goes on until it has sent
`count` jobs, or is told to stop (the end of its stdin, or a line there). A submit that fails is noted; the next one is tried.
"""

import asyncio
import itertools
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from bananas.app import Bananas
from bananas.chaos.ledger import FOLDER, Book
from bananas.chaos.tasks import NAMESPACE
from bananas.errors import BananasError, SubmitManyError
from bananas.handle import Job
from bananas.task import Call, read_options


class Load(Struct, frozen=True, kw_only=True):
    """What a producer submits.

    Attributes:
        prefix: its names begin so. count: of jobs, 0 = until told to stop.
        task, arguments: what is called, behind the name. batch: jobs of a submit_many, and of the singles at once.
        pause_s: between two batches. budget_s: of a call. options: as for a submit.
    """

    prefix: str = "p"
    count: int = 0
    task: str = "work"
    arguments: tuple[Any, ...] = (0.005,)
    batch: int = 10
    pause_s: float = 0.0
    budget_s: float = 30.0
    options: dict[str, Any] = {}


class Producer:
    """Submits one load."""

    def __init__(self, load: Load, app: Bananas, book: Book) -> None:
        self._load, self._app, self._book = load, app, book
        self._names = (f"{load.prefix}-{os.getpid()}-{number}" for number in itertools.count())
        self._sent = 0
        self.stopped = False

    async def run(self) -> None:
        """Submit until the count is reached or `stopped` is set."""
        while not self.stopped and (not self._load.count or self._sent < self._load.count):
            await self._many(self._take(self._load.batch))
            await self._singles(self._take(max(1, self._load.batch // 2)))
            if self._load.pause_s:
                await asyncio.sleep(self._load.pause_s)

    def _take(self, count: int) -> list[str]:
        if self._load.count:
            count = min(count, self._load.count - self._sent)
        self._sent += count
        return list(itertools.islice(self._names, count))

    def _calls(self, names: Iterable[str]) -> list[Call[Any]]:
        options = read_options(self._load.options)
        return [Call(self._load.task, (name, *self._load.arguments), {}, options) for name in names]

    async def _many(self, names: Sequence[str]) -> None:
        if not names:
            return
        self._book.trying(names)
        try:
            outcomes: list[Any] = list(await self._app.submit_many(self._calls(names)))
        except SubmitManyError as error:
            outcomes = error.outcomes
        except BananasError as error:
            outcomes = [error] * len(names)
        self._note(names, outcomes)

    async def _singles(self, names: Sequence[str]) -> None:
        if not names:
            return
        self._book.trying(names)
        submits = (self._app.producer.submit(call) for call in self._calls(names))
        self._note(names, await asyncio.gather(*submits, return_exceptions=True))

    def _note(self, names: Sequence[str], outcomes: Sequence[Any]) -> None:
        pairs = list(zip(names, outcomes, strict=True))
        self._book.acked((name, outcome.id) for name, outcome in pairs if isinstance(outcome, Job))
        for name, outcome in pairs:
            if isinstance(outcome, BananasError):
                self._book.failed([name], type(outcome).__name__)
            elif isinstance(outcome, BaseException):
                raise outcome


def _obey(producer: Producer) -> None:
    os.read(0, 1)  # blocks until it is told, or the trial is gone
    producer.stopped = True


async def _run(load: Load) -> None:
    app = Bananas(namespace=NAMESPACE, call_timeout=load.budget_s)
    producer = Producer(load, app, Book(Path(os.environ[FOLDER])))
    threading.Thread(target=_obey, args=[producer], daemon=True).start()
    try:
        await producer.run()
    finally:
        await app.close()


if __name__ == "__main__":
    asyncio.run(_run(msgspec.json.decode(sys.argv[1], type=Load)))
