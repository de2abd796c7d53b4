"""Finding jobs: a query over the queues of a namespace, in bounded steps on the server.

    page = await search(app, "task:send_email state:dead error:Timeout", limit=50)
    page.jobs, page.scanned, page.total, page.cursor        # "scanned 1,200 of 48,000"; go on with cursor=page.cursor

A search goes through the states running, ready, scheduled, dead, and in each through the queues by name. Within a queue the order is that
of the server's set: ready by turn, scheduled by due time, dead by time of death; `newest=True` goes from the end. One step reads at most
1,000 entries and 2 MiB of bodies (`STEP_ENTRIES`, `STEP_BYTES`); where the query names tasks, the bodies of other tasks are not read,
since an id tells its task. What moves while a search goes on may be missed, or found in the place where it was.
"""

from collections.abc import AsyncGenerator, Callable, Sequence

from msgspec import Struct

from bananas import broker
from bananas.app import Bananas
from bananas.errors import ConfigError, describe
from bananas.info import job_info
from bananas.job import JobInfo
from bananas.keys import ID_LENGTH, QueueKeys, task_tag
from bananas.operate.matching import Facts, matches
from bananas.operate.namespace import Namespace, info_of, keys_of, place_of
from bananas.operate.query import Query, parse
from bananas.operate.requests import STEP_ENTRIES, Row, Step, Stretch, survey

SCAN_LIMIT = 200_000
_STEP = 2**42


class Page(Struct, frozen=True):
    """What a search found.

    Attributes:
        jobs: the matches, as `Job.info` gives them, but for what the setting `redact` leaves out.
        cursor: where to go on, or "" when everything was looked at.
        scanned, total: entries looked at by this page, and how many there were from where it began.
    """

    jobs: tuple[JobInfo, ...]
    cursor: str
    scanned: int
    total: int


class Found(Struct, frozen=True):
    """A match and where it is."""

    keys: QueueKeys
    job_id: str
    info: JobInfo


class _Source(Struct):
    """A place of a queue that is searched: which part is left."""

    keys: QueueKeys
    state: str
    stretch: Stretch
    left: int = 0

    @property
    def name(self) -> str:
        return f"{self.stretch.place}/{self.keys.name}"


class Search:
    """One search under way: what it looked at so far.

    Attributes:
        scanned, total: as in `Page`, so far; `cursor` is where it stands.
        stepped: called after each step, where it is set.
    """

    def __init__(self, app: Bananas, query: Query, *, newest: bool, limit: int = SCAN_LIMIT) -> None:
        self.query, self.scanned, self.total, self.cursor = query, 0, 0, ""
        self._namespace, self._newest, self._limit = Namespace(app), newest, limit
        self._hosts: dict[str, str] = {}
        self.stepped: Callable[[], None] | None = None

    async def found(self, cursor: str = "") -> AsyncGenerator[Found, None]:
        """Yield the matches from there on. After each, and at the end, `cursor` says where to go on ("": nothing is left)."""
        ids = self.query.only("id")
        if ids and all(len(public) > ID_LENGTH for public in ids):
            async for found in self._named(ids):
                yield found
            return
        sources = self._from(cursor, await self._sources())
        await self._measure(sources)
        if any(source.state == "running" for source in sources):
            self._hosts = {worker.boot: f"{worker.host}:{worker.pid}" for worker in await self._namespace.workers()}
        for source in sources:
            async for found in self._of(source):
                yield found
            if self.scanned >= self._limit and any(each.left for each in sources):
                return
        self.cursor = ""

    async def _named(self, ids: Sequence[str]) -> AsyncGenerator[Found, None]:
        """Jobs by their ids, whatever there is to scan."""
        self.total = len(ids)
        for public in ids:
            keys, own = keys_of(self._namespace.app, public)
            now = broker.plain(tuple, "TIME")
            unique = broker.plain(_optional, "HGET", keys.fixed[8], own)
            (seconds, _), key, reply = await self._namespace.ask(keys, [now, unique, broker.info(keys, own)], "reading a job")
            self.scanned += 1
            info = self._namespace.redaction.info(job_info(keys, own, reply, self._namespace.app.client.seals))
            if info.state in ("running", "ready", "scheduled", "dead") and self._fits(info, int(seconds) * 1000, key):
                yield Found(keys, own, info)

    async def _sources(self) -> list[_Source]:
        """Every place that may hold a match, in the order of the search."""
        names = self.query.only("queue")
        queues = await self._namespace.queues(names)
        tasks = self.query.only("task")
        tags = tuple(map(task_tag, tasks)) if tasks else ()
        sources = []
        for state in self.query.states():
            low, high = self._bounds(state)
            stretch = Stretch(place_of(state), self._newest, low, high, None, tags)
            sources += [_Source(keys, state, stretch) for keys in queues]
        return sources

    def _bounds(self, state: str) -> tuple[int, int]:
        """Scores that a match has: those of its priority."""
        whole = Stretch("", False)
        wanted = [term for term in self.query.terms if term.name == "priority" and term.operator == ":" and not term.negated]
        if state != "ready" or not wanted:
            return whole.low, whole.high
        numbers = [int(value.number) for value in wanted[0].values]
        return min(numbers) * _STEP, (max(numbers) + 1) * _STEP - 1

    def _from(self, cursor: str, sources: list[_Source]) -> list[_Source]:
        """The sources from a cursor on. Raises ConfigError for one that is none of this query."""
        if not cursor:
            return sources
        name, _, behind = cursor.rpartition("/")
        score, _, member = behind.partition(":")
        if not score.isdecimal():
            raise ConfigError(f"{describe(cursor)} is no cursor of a search: give that of the page before, with the same query and order")
        for index, source in enumerate(sources):
            if source.name == name:
                source.stretch = source.stretch._replace(behind=(int(score), member))
                return sources[index:]
        raise ConfigError(f"{describe(cursor)} is no cursor of this search: its queue is not searched. Begin without a cursor")

    async def _measure(self, sources: Sequence[_Source]) -> None:
        """How much there is to look at."""
        for state in {source.state for source in sources}:
            part = {source.keys: source for source in sources if source.state == state}
            steps = await self._namespace.of_each(list(part), lambda keys, part=part: survey(keys, part[keys].stretch, 0), "searching")  # type: ignore[misc]
            for source, step in zip(part.values(), steps, strict=True):
                source.left = step.left
        self.total = sum(source.left for source in sources)

    async def _of(self, source: _Source) -> AsyncGenerator[Found, None]:
        while source.left > 0 and self.scanned < self._limit:
            most = min(STEP_ENTRIES, self._limit - self.scanned)
            (step,) = await self._namespace.ask(source.keys, [survey(source.keys, source.stretch, most)], "searching")
            before = self.scanned
            for row, info in self._matching(source, step):
                self.scanned = before + row.position
                self.cursor = f"{source.name}/{row.score}:{row.member}"
                yield Found(source.keys, row.job_id, info)
            self.scanned, source.left = before + step.looked_at, step.left
            self.total = max(self.total, self.scanned)
            if self.stepped is not None:
                self.stepped()
            if step.last is None:
                return
            source.stretch = source.stretch._replace(behind=step.last)
            self.cursor = f"{source.name}/{step.last[0]}:{step.last[1]}"

    def _matching(self, source: _Source, step: Step) -> list[tuple[Row, JobInfo]]:
        found = []
        for row in step.rows:
            read = info_of(source.keys, source.stretch.place, row, step.now_ms, self._namespace.app.client.seals)
            info = self._namespace.redaction.info(read)
            if self._fits(info, step.now_ms, (row.unique or b"").decode()):
                found.append((row, info))
        return found

    def _fits(self, info: JobInfo, now_ms: int, unique: str) -> bool:
        facts = Facts(info, now_ms, unique, self._hosts.get(info.worker or "", ""))
        return matches(self.query, facts, self._namespace.parameters)


def _optional(reply: bytes | None) -> str:
    return (reply or b"").decode()


async def search(
    app: Bananas, query: str | Query = "", *, limit: int = 50, cursor: str = "", newest: bool = False, scan_limit: int = SCAN_LIMIT
) -> Page:
    """The next matches of a query.

    Args:
        limit: most jobs, 1 to 10,000.
        cursor: of the page before, with the same query and order.
        newest: from the end of each place instead of its beginning.
        scan_limit: most entries that this call looks at.

    Raises:
        QueryError: the query cannot be read; says where.
        BrokerError: the server did not answer, or refused.
    """
    if not (isinstance(limit, int) and 1 <= limit <= 10_000 and isinstance(scan_limit, int) and scan_limit >= 1):
        raise ConfigError(f"limit={describe(limit)}, scan_limit={describe(scan_limit)}: give whole numbers, 1 to 10,000 and from 1")
    seen = Search(app, parse(query) if isinstance(query, str) else query, newest=newest, limit=scan_limit)
    jobs: list[JobInfo] = []
    async for found in (matches_ := seen.found(cursor)):
        jobs.append(found.info)
        if len(jobs) == limit:
            await matches_.aclose()
            break
    more = seen.cursor if seen.scanned < seen.total else ""
    return Page(tuple(jobs), more, seen.scanned, seen.total)
