"""What is done to, or told of, very many jobs: an act with its progress as events, and an export as lines of JSON.

Both end when the client goes. An act ends then after the batch that is under way, with what it did in the trail: it is a task of its own,
which a connection that breaks does not tear; the site waits for it at the end of the process.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from bananas import operate
from bananas.app import Bananas
from bananas.errors import BananasError
from bananas.http.events import Events, event, problem_event
from bananas.http.problems import problem_of
from bananas.http.routes import Site
from bananas.http.values import Acted, Bulk, encode, job_view

SELECTING_S = 0.25
EXPORT_PAGE = 500
Tell = Callable[[str, Any], None]


class _Gone(Exception):
    """Nobody listens any more."""


async def act(app: Bananas, bulk: Bulk, who: str, tell: Tell | None = None) -> Acted:
    """Do an action to what a query matches, or count it; `tell` hears how it goes."""
    told_at = 0.0

    def selecting(scanned: int, total: int) -> None:
        nonlocal told_at
        if tell is not None and time.monotonic() > told_at + SELECTING_S:
            told_at = time.monotonic()
            tell("selecting", {"scanned": scanned, "total": total})

    def acting(done: int, selected: int) -> None:
        if tell is not None:
            tell("progress", {"done": done, "selected": selected})

    selection = await operate.select(app, bulk.query, most=bulk.most, progress=selecting)
    seen = (selection.scanned, selection.total, selection.complete)
    meant = len(selection.of(bulk.action))
    if bulk.dry_run:
        return Acted(True, meant, 0, {}, *seen)
    acting(0, meant)
    outcome = await operate.act(app, selection, bulk.action, progress=acting, who=who)
    return Acted(False, outcome.selected, outcome.done, outcome.left, *seen)


class ActUnderWay:
    """An act that tells its progress: `selecting` and `progress` as it goes, then `end` with the outcome, or `problem`."""

    def __init__(self, site: Site, bulk: Bulk, who: str) -> None:
        self._site, self._bulk, self._who = site, bulk, who
        self._news: asyncio.Queue[bytes] = asyncio.Queue()
        self._gone = False

    def leave(self) -> None:
        """Nobody listens any more: it ends after the batch that is under way."""
        self._gone = True

    async def events(self) -> Events:
        """Begin, and yield what happens."""
        self._site.keep(self._work())
        while told := await self._news.get():
            yield told

    async def _work(self) -> None:
        try:
            self._tell("end", await act(self._site.app, self._bulk, self._who, self._tell))
        except _Gone:
            pass
        except Exception as error:
            self._news.put_nowait(problem_event(error))
        finally:
            self._news.put_nowait(b"")

    def _tell(self, name: str, value: Any) -> None:
        if self._gone or self._site.stopping.is_set():
            raise _Gone
        self._news.put_nowait(event(name, value))


async def export_lines(site: Site, query: str, newest: bool, limit: int) -> Events:
    """The jobs that match, a line each; where they do not come to their end, a last line has the problem."""
    cursor, left = "", limit
    try:
        while left > 0:
            page = await operate.search(site.app, query, limit=min(EXPORT_PAGE, left), cursor=cursor, newest=newest)
            left, cursor = left - len(page.jobs), page.cursor
            if page.jobs:
                yield b"".join(encode(job_view(info)) + b"\n" for info in page.jobs)
            if not cursor:
                return
    except BananasError as error:
        yield encode({"problem": problem_of(error)[0]}) + b"\n"
