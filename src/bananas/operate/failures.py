"""Failures grouped: dead and retrying jobs by what they failed with last, and where."""

from msgspec import Struct

from bananas.app import Bananas
from bananas.job import ErrorRecord
from bananas.operate.matching import top_frame
from bananas.operate.query import Query, Term, Value, parse
from bananas.operate.search import SCAN_LIMIT, Search

SAMPLES = 5


class ErrorGroup(Struct, frozen=True):
    """Jobs that failed alike: by the type of their last error, and the innermost frame of its traceback ("" where there is none).

    Attributes:
        dead, retrying: how many of each.
        first_ms, last_ms: when the oldest and the newest of these last errors were.
        tasks: of which tasks, sorted; message: of the newest.
        samples: public ids of the newest.
    """

    type: str
    frame: str
    message: str
    dead: int
    retrying: int
    first_ms: int
    last_ms: int
    tasks: tuple[str, ...]
    samples: tuple[str, ...]


class ErrorGroups(Struct, frozen=True):
    """The groups, the largest first, and how much of what there is was looked at."""

    groups: tuple[ErrorGroup, ...]
    scanned: int
    total: int


class _Gathering:
    """A group while it grows."""

    def __init__(self) -> None:
        self.dead = self.retrying = 0
        self.errors: list[tuple[int, str, str]] = []
        self.first_ms, self.tasks = 2**63, set[str]()

    def add(self, public_id: str, task: str, error: ErrorRecord, *, dead: bool) -> None:
        self.dead, self.retrying = self.dead + dead, self.retrying + (not dead)
        self.first_ms = min(self.first_ms, error.at_ms)
        self.tasks.add(task)
        self.errors = sorted([*self.errors, (error.at_ms, public_id, error.message)], reverse=True)[:SAMPLES]

    def group(self, kind: str, frame: str) -> ErrorGroup:
        last_ms, _, message = self.errors[0]
        samples = tuple(public for _, public, _ in self.errors)
        return ErrorGroup(kind, frame, message, self.dead, self.retrying, self.first_ms, last_ms, tuple(sorted(self.tasks)), samples)


async def errors(app: Bananas, query: str | Query = "", *, scan_limit: int = SCAN_LIMIT) -> ErrorGroups:
    """Group the dead and retrying jobs that match a query, at most `scan_limit` entries of the newest. Raises as `search`."""
    asked = parse(query) if isinstance(query, str) else query
    wanted = Query((*asked.terms, Term("state", (Value("dead"), Value("retrying")))))
    seen, gathered = Search(app, wanted, newest=True, limit=scan_limit), dict[tuple[str, str], _Gathering]()
    async for found in seen.found():
        if found.info.errors:
            error = found.info.errors[-1]
            group = gathered.setdefault((error.type, top_frame(error.traceback)), _Gathering())
            group.add(found.info.id, found.info.task or "", error, dead=found.info.state == "dead")
    groups = [gathering.group(*key) for key, gathering in gathered.items()]
    groups.sort(key=lambda group: (-group.dead - group.retrying, group.type, group.frame))
    return ErrorGroups(tuple(groups), seen.scanned, seen.total)
