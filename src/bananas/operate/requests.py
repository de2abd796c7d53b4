"""What operators ask of a server beyond `broker`: one function per script, each a `Request` that any connection can run."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bananas.broker import Request
from bananas.keys import QueueKeys
from bananas.scripts import script

STEP_ENTRIES = 1_000
STEP_BYTES = 2 * 1024 * 1024
HOLD_BATCH = 100


class Row(NamedTuple):
    """One entry of a place with what is stored of its job; `member` is the id, of a lease `id:boot:fence`."""

    position: int
    member: str
    score: int
    body: bytes
    tries: bytes | None
    priority: bytes | None
    cancelled: bool
    unique: bytes | None

    @property
    def job_id(self) -> str:
        """The id within its queue."""
        return self.member[:43]


class Step(NamedTuple):
    """What a step of a search read: so many entries up to `last`, and the jobs among them; `left` are behind it."""

    now_ms: int
    looked_at: int
    left: int
    last: tuple[int, str] | None
    rows: list[Row]


class Stretch(NamedTuple):
    """Which part of a place is read: between two scores, behind an entry, from which end, and of which tasks (by their tags)."""

    place: str
    backwards: bool
    low: int = 0
    high: int = 2**53 - 2
    behind: tuple[int, str] | None = None
    tags: tuple[str, ...] = ()


def survey(keys: QueueKeys, stretch: Stretch, most: int = STEP_ENTRIES, most_bytes: int = STEP_BYTES) -> Request[Step]:
    """Read on in a place of a queue, at most 1,000 entries."""
    score, member = stretch.behind or ("", "")
    args = (stretch.place, int(stretch.backwards), score, member, stretch.low, stretch.high, most, most_bytes, *stretch.tags)
    return Request(_read_step, script("survey"), keys.fixed, args)


def _read_step(reply: list[Any]) -> Step:
    now_ms, looked_at, left, score, member, picked, *columns = reply
    last = (int(float(score)), member.decode()) if looked_at else None
    return Step(now_ms, looked_at, left, last, list(_rows(picked, columns)))


def _rows(picked: list[Any], columns: list[list[Any]]) -> Iterator[Row]:
    bodies, *others = columns
    tries, priorities, cancelled, uniques = (column or [None] * len(bodies) for column in others)
    for i, body in enumerate(bodies):
        position, member, score = picked[3 * i : 3 * i + 3]
        yield Row(position, member.decode(), int(float(score)), body, tries[i], priorities[i], bool(cancelled[i]), uniques[i])


class Measures(NamedTuple):
    """The figures of a queue, or of a shard, at one moment. `priorities`: (priority, jobs ready, ms of entry of the oldest)."""

    now_ms: int
    ready: int
    scheduled: int
    running: int
    dead: int
    paused_ms: int | None
    due_ms: int | None
    priorities: list[tuple[int, int, int]]


def measure(keys: QueueKeys) -> Request[Measures]:
    """The figures of a queue."""
    return Request(_read_measures, script("measure"), keys.fixed, ())


def _read_measures(reply: list[Any]) -> Measures:
    now_ms, ready, scheduled, running, dead, paused, due, flat = reply
    priorities = [(flat[i], flat[i + 1], int(flat[i + 2])) for i in range(0, len(flat), 3)]
    return Measures(now_ms, ready, scheduled, running, dead, int(paused) if paused else None, int(float(due)) if due else None, priorities)


class Held(NamedTuple):
    """A job that is kept for a move, or why it is not: `code` as in lua/hold.lua; `score` is where it was."""

    code: str
    score: int
    body: bytes
    tries: bytes
    priority: int | None
    unique: str
    now_ms: int


def hold(keys: QueueKeys, hold_ms: int, ids: Sequence[str]) -> Request[list[Held]]:
    """Keep at most 100 waiting jobs from being run for so long."""
    return Request(_read_held, script("hold"), keys.fixed, (hold_ms, *ids))


def _read_held(reply: list[Any]) -> list[Held]:
    codes, scores, bodies, tries, priorities, uniques, now_ms = reply
    columns = zip(codes.decode(), scores, bodies, tries, priorities, uniques, strict=True)
    return [
        Held(code, int(float(score or 0)), body or b"", tried or b"", int(prio) if prio else None, (unique or b"").decode(), now_ms)
        for code, score, body, tried, prio, unique in columns
    ]


class Adopted(NamedTuple):
    """A job as it goes into its new queue."""

    job_id: str
    body: bytes
    tries: bytes
    unique: str
    delay_ms: int


def adopt(keys: QueueKeys, job: Adopted, remembered_ms: int) -> Request[str]:
    """Take a job of another queue in, once. Returns 'e' here, 'u' its unique key is held by another."""
    return Request(_text, script("adopt"), (*keys.fixed, keys.came(job.job_id)), (*job, remembered_ms))


def depart(keys: QueueKeys, job_id: str, new_id: str, known_ms: int) -> Request[str]:
    """Let a job go that has another place. Returns 'e' gone, 'l' it runs or has ended here."""
    return Request(_text, script("depart"), (*keys.fixed, keys.moved(job_id)), (job_id, new_id, known_ms))


def _text(reply: bytes) -> str:
    return reply.decode()


def note(trail: str, deed: bytes, kept: int) -> Request[int]:
    """Write down what an operator did; the oldest beyond `kept` are dropped."""
    return Request(int, script("note"), (trail,), (deed, kept))


def cron_pause(keys: QueueKeys, name: str, schedule: bytes, paused: bool, next_ms: int) -> Request[int]:
    """Pause a cron entry of this schedule, or resume it with this tick. Returns 1 if it changed, 0 if it was so, -1 if it is another."""
    return Request(int, script("cron_pause"), (*keys.fixed, keys.cron), (name, schedule, "1" if paused else "0", next_ms))


def cron_run(keys: QueueKeys, name: str, announced_ms: int) -> Request[int]:
    """Ask for a run of a cron entry that was announced so lately.

    Returns when it was asked for in ms; -1: there is no such entry; -2: it was not announced.
    """
    return Request(int, script("cron_run"), (*keys.fixed, keys.cron), (name, announced_ms))
