"""Acting on many jobs at once: select by a query (the dry run), then act on what was selected, in batches.

    selection = await select(app, "task:send_email state:dead error:Timeout")
    print(selection.count)                                  # nothing has changed yet
    outcome = await act(app, selection, Retry())
    outcome.done, outcome.left                              # {"gone": 3}: three ended, or moved on, meanwhile

Each batch is one of the queue's own transitions, so a job that moves on in between is left as it is, and counted under `left`. An act that
fails on its way has done what `progress` told; selecting again finds what is left. Everything is written down in the trail.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from msgspec import Struct

from bananas import broker
from bananas.app import Bananas
from bananas.broker import KeptResult, Once, Request
from bananas.codec import pack_result
from bananas.config import check_queue_name, parse_priority
from bananas.errors import ConfigError
from bananas.handle import CANCEL_RESULT_TTL_MS, milliseconds
from bananas.job import Result
from bananas.keys import QueueKeys
from bananas.operate.moving import Mover
from bananas.operate.namespace import Namespace
from bananas.operate.query import Query, parse
from bananas.operate.search import Search
from bananas.operate.trail import note

BATCH = 500
MOST = 100_000
Progress = Callable[[int, int], None]

_LEFT = {"r": "running", "l": "running", "d": "dead", "u": "unique key held by another", "0": "gone"}


class Retry(Struct, frozen=True, tag=True):
    """Make dead jobs ready again, with fresh attempts."""


class Cancel(Struct, frozen=True, tag=True):
    """End waiting jobs, and stop running ones where the query is about these too."""


class Delete(Struct, frozen=True, tag=True):
    """Delete dead jobs for good."""


class SetPriority(Struct, frozen=True, tag=True):
    """Change the priority: 0 to 1000, lower first."""

    priority: int | str


class Reschedule(Struct, frozen=True, tag=True):
    """Make waiting jobs ready so many seconds from now (0: now)."""

    delay: float


class Move(Struct, frozen=True, tag=True):
    """Move waiting jobs to another queue, where they get new ids; the old ids lead to them for a day."""

    queue: str


Action = Retry | Cancel | Delete | SetPriority | Reschedule | Move
_STATES: dict[type, tuple[str, ...]] = {
    Retry: ("dead",),
    Delete: ("dead",),
    Cancel: ("running", "ready", "scheduled"),
    SetPriority: ("running", "ready", "scheduled", "dead"),
    Reschedule: ("ready", "scheduled"),
    Move: ("ready", "scheduled"),
}


class Selected(Struct, frozen=True):
    """A job that an act is for: its queue, its id there, and where it was."""

    keys: QueueKeys
    job_id: str
    state: str


class Selection(Struct, frozen=True):
    """What a query found at one time, to act on.

    Attributes:
        scanned, total: entries looked at, and how many there are.
        complete: there are no further matches.
    """

    query: str
    jobs: tuple[Selected, ...]
    scanned: int
    total: int
    complete: bool

    @property
    def count(self) -> int:
        """How many jobs are selected."""
        return len(self.jobs)

    def of(self, action: Action) -> "tuple[Selected, ...]":
        """Those that an action can be done to, by their state."""
        return tuple(job for job in self.jobs if job.state in _STATES[type(action)])


class Outcome(Struct, frozen=True):
    """What an act came to: how many jobs were selected and could be meant, how many are done, and why the others were left."""

    action: str
    selected: int
    done: int
    left: dict[str, int]


async def select(app: Bananas, query: str | Query, *, most: int = MOST, progress: Progress | None = None) -> Selection:
    """Find what a query matches, at most so many jobs. Changes nothing. Raises as `search`.

    Args:
        progress: called after each step with (entries looked at so far, entries in all); what it raises ends the search.
    """
    asked = parse(query) if isinstance(query, str) else query
    seen, jobs = Search(app, asked, newest=False, limit=2**53), dict[tuple[QueueKeys, str], Selected]()
    if progress is not None:
        seen.stepped = lambda: progress(seen.scanned, seen.total)
    async for found in (matches := seen.found()):
        jobs[found.keys, found.job_id] = Selected(found.keys, found.job_id, found.info.state)
        if len(jobs) == most:
            await matches.aclose()
            break
    return Selection(str(asked), tuple(jobs.values()), seen.scanned, seen.total, seen.scanned >= seen.total)


async def act(app: Bananas, selection: Selection, action: Action, *, progress: Progress | None = None, who: str = "") -> Outcome:
    """Do an action to what was selected, as far as its state allows.

    Args:
        progress: called after each batch with (jobs handled so far, jobs in all); what it raises ends the act there.
        who: for the trail; by default BANANAS_OPERATOR or the system's user.

    Raises:
        ConfigError: a wrong priority, delay or queue; nothing was changed.
        BrokerError: the server did not answer, or refused; the batches before it are done.
    """
    work, jobs = _work(app, action), selection.of(action)
    left, handled = Counter[str](), 0
    try:
        for keys, batch in _batches(jobs, work.batch):
            left.update(await work.do(keys, batch))
            handled += len(batch)
            if progress is not None:
                progress(handled, len(jobs))
    finally:
        done = left.pop("", 0)
        await note(app, _named(action), selection.query, len(jobs), done, who)
    return Outcome(_named(action), len(jobs), done, dict(left))


def _batches(jobs: Sequence[Selected], size: int) -> Iterator[tuple[QueueKeys, list[Selected]]]:
    """The jobs of each queue, so many at a time."""
    for keys, group in groupby(jobs, key=lambda job: job.keys):
        own = list(group)
        yield from ((keys, own[start : start + size]) for start in range(0, len(own), size))


def _named(action: Action) -> str:
    value = next((str(getattr(action, name)) for name in action.__struct_fields__), "")
    return f"{type(action).__name__.lower()} {value}".rstrip()


class _Work:
    """An action by the queue's own transitions; gives per job "" (done) or why it was left."""

    batch = BATCH

    def __init__(self, app: Bananas, action: Action) -> None:
        self._namespace, self._action = Namespace(app), action

    async def do(self, keys: QueueKeys, jobs: Sequence[Selected]) -> list[str]:
        """Act on jobs of one queue."""
        ids, action = [job.job_id for job in jobs], self._action
        what = f"acting on {len(ids)} job(s) of queue {keys.name!r}"
        if isinstance(action, Delete):
            deleted = await self._namespace.act(keys, lambda once: broker.discard(keys, ids, once=once), what)
            return [""] * deleted + ["gone"] * (len(ids) - deleted)
        good = "rsld" if isinstance(action, SetPriority) else "e"
        if not isinstance(action, Cancel):
            codes = await self._namespace.act(keys, lambda once: _request(keys, action, ids, once), what)
            return ["" if code in good else _LEFT[code] for code in codes]
        words = list[str]()
        for state in ("running", "waiting"):  # one that began to run since it was selected as waiting is left
            part = [job.job_id for job in jobs if (job.state == "running") == (state == "running")]
            if part:
                codes = await self._namespace.act(keys, lambda once, part=part: _cancel(keys, part, once, state == "running"), what)  # type: ignore[misc]  # noqa: B023
                words += ["" if code in "em" else _LEFT[code] for code in codes]
        return words


def _cancel(keys: QueueKeys, ids: Sequence[str], once: Once, running: bool) -> Request[str]:
    result = KeptResult(CANCEL_RESULT_TTL_MS, pack_result(Result("cancelled", error_message="an operator cancelled it", attempts=0)))
    return broker.cancel(keys, ids, result, running=running, once=once)


def _request(keys: QueueKeys, action: Action, ids: Sequence[str], once: Once) -> Request[str]:
    if isinstance(action, Retry):
        return broker.replay(keys, ids, once=once)
    if isinstance(action, SetPriority):
        return broker.reprioritize(keys, parse_priority(action.priority), ids, once=once)
    assert isinstance(action, Reschedule)
    return broker.reschedule(keys, milliseconds(action.delay, "delay"), ids, once=once)


class _Moving:
    """A move: in smaller batches, since each job takes part in three steps."""

    batch = 100

    def __init__(self, app: Bananas, queue: str) -> None:
        self._mover = Mover(app, check_queue_name(queue))

    async def do(self, keys: QueueKeys, jobs: Sequence[Selected]) -> list[str]:
        """Move jobs of one queue."""
        return await self._mover.move(keys, [job.job_id for job in jobs])


def _work(app: Bananas, action: Action) -> "_Work | _Moving":
    """What does an action. Raises ConfigError for values that cannot be."""
    if isinstance(action, Move):
        return _Moving(app, action.queue)
    if isinstance(action, SetPriority):
        parse_priority(action.priority)
    if isinstance(action, Reschedule):
        milliseconds(action.delay, "delay")
    if not isinstance(action, Action):
        raise ConfigError(f"{action!r} is no action: Retry, Cancel, Delete, SetPriority, Reschedule or Move")
    return _Work(app, action)
