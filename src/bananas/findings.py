"""What is wrong with a job, judged by what is known of it at one moment. Pure: audit.py asks the server.

Transitions are scripts, so no moment is within one: what is wrong at a moment is damage, on a queue at work too.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from bananas.keys import ID_LENGTH, birth_priority

SEARCHED_LEASES = 10_000
_LONGEST_LEASE_MS = 86_400_000
STEP = 2**42
_HEX = frozenset(b"0123456789abcdef")
_BIRTH_BYTES = 8

Kind = Literal["two places", "no body", "no place", "orphan", "unique", "malformed", "score", "priority", "expired"]
Place = Literal["jobs", "ready", "scheduled", "leases", "dead", "prio", "tries", "cancelled", "unique"]


class Finding(Struct, frozen=True, order=True):
    """One entry of one key that no transition leaves behind. An id in two places makes a finding for each.

    Attributes:
        kind: what is wrong.
            "two places"  in more than one of ready, scheduled, leases, dead (or leased twice)
            "no body"     in a place, but nothing is stored of the job
            "no place"    stored, but nowhere: this job is lost
            "orphan"      prio, tries or cancelled keeps an entry of a job that is gone
            "unique"      a unique key of a job that is dead or gone, or that its job does not know; a living job without its unique key
            "malformed"   no id, no member id:boot:fence, no priority, or a body too short to be one
            "score"       no time in ms, or in ready no priority and time
            "priority"    stands in ready with another priority than its own
            "expired"     its lease ended long ago, and nobody took it back
        id: the job's id in its queue; where there is none, the entry as it stands.
        place: the key, by its last word.
        member: the entry: an id, in leases id:boot:fence, in unique a field ("=key" or id).
        detail: one sentence for people.
    """

    queue: str
    kind: Kind
    id: str
    place: Place
    member: str
    detail: str


# --- what is known at one moment --------------------------------------------------------------------------------------


class Known(NamedTuple):
    """What is known of one id. `leased` is told only of an id of which something is kept and that has no other place."""

    job_id: bytes
    ready: bytes | None
    scheduled: bytes | None
    dead: bytes | None
    body_bytes: int
    prio: bytes | None
    tries: int
    cancelled: int
    unique: bytes | None
    leased: int

    @property
    def placed(self) -> bool:
        """Whether it is anywhere, as far as leases were searched."""
        return self.waits or self.dead is not None or bool(self.leased)

    @property
    def waits(self) -> bool:
        """Whether it is ready or scheduled."""
        return self.ready is not None or self.scheduled is not None

    @property
    def gone(self) -> bool:
        """Whether there is neither a body nor a place."""
        return not self.body_bytes and not self.placed


class Moment(NamedTuple):
    """What is known of some ids, all at one moment.

    Attributes:
        hold_ms: nobody reclaims before this time (after a gap of the server, workers extend first).
        sizes: how many bodies, and entries in ready, scheduled, leases and dead.
        expiries: of the lease members asked for, None where not held. fields: of the fields of unique asked for, None where absent.
    """

    now_ms: int
    hold_ms: int
    sizes: list[int]
    known: list[Known]
    expiries: list[bytes | None]
    fields: list[bytes | None]

    @property
    def searched_all(self) -> bool:
        """Whether every lease was searched: then what has no place has none for certain."""
        return self.sizes[3] <= SEARCHED_LEASES


# --- judging ----------------------------------------------------------------------------------------------------------


class Wrong(NamedTuple):
    """A finding in the making."""

    kind: Kind
    job_id: bytes
    place: Place
    member: bytes
    detail: str


def text_of(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def is_id(text: bytes) -> bool:
    return len(text) == ID_LENGTH and _HEX.issuperset(text)


def _is_member(member: bytes) -> bool:
    job_id, _, owner = member.partition(b":")
    boot, _, fence = owner.partition(b":")
    return is_id(job_id) and bool(boot) and _HEX.issuperset(boot) and fence.isdigit()


def _priority(prio: bytes) -> int | None:
    """A stored priority, None where it is none."""
    return int(prio) if prio.isdigit() and int(prio) <= 1000 else None


def misplaced(known: Known, leases: Sequence[tuple[bytes, float]]) -> Iterable[Wrong]:
    """Is it in one place, with a body?"""
    job_id = known.job_id
    entries: list[tuple[Place, bytes]] = [("leases", member) for member, _ in leases]
    if known.ready is not None:
        entries.append(("ready", job_id))
    if known.scheduled is not None:
        entries.append(("scheduled", job_id))
    if known.dead is not None:
        entries.append(("dead", job_id))
    for place, member in entries:
        if place == "leases" and not _is_member(member):
            yield Wrong("malformed", job_id if is_id(job_id) else member, place, member, "is no id:boot:fence: nobody owns this lease")
        elif not is_id(job_id):
            yield Wrong("malformed", job_id, place, member, f"{place} holds what is no job id")
        elif not known.body_bytes:
            yield Wrong("no body", job_id, place, member, f"is in {place}, but nothing is stored of this job")
        if len(entries) > 1:
            yield Wrong("two places", job_id, place, member, f"is in {', '.join(sorted(name for name, _ in entries))}")
    if entries and 0 < known.body_bytes <= _BIRTH_BYTES:
        yield Wrong("malformed", job_id, "jobs", job_id, f"its body has {known.body_bytes} bytes: no time of birth and job")


def lost(known: Known) -> list[Wrong]:
    """Is what `jobs` holds a job that is somewhere?"""
    job_id = known.job_id
    if not known.body_bytes:
        return []
    if not is_id(job_id):
        return [Wrong("malformed", job_id, "jobs", job_id, "jobs holds a field that is no job id")]
    if not known.placed:
        detail = "has a body, but is neither ready, scheduled, leased nor dead: this job is lost"
        return [Wrong("no place", job_id, "jobs", job_id, detail)]
    return []


def bad_scores(known: Known) -> Iterable[Wrong]:
    """Do its scores say what scripts write: in ready its priority and a time, elsewhere a time?"""
    job_id = known.job_id
    if known.ready is not None:
        number = float(known.ready)
        if not 0 < number < 1001 * STEP or number != math.floor(number) or number % STEP == 0:
            yield Wrong("score", job_id, "ready", job_id, f"its score in ready is {number!r}: no priority and time")
        elif is_id(job_id):
            own = birth_priority(text_of(job_id)) if known.prio is None else _priority(known.prio)
            if own is not None and own != number // STEP:
                detail = f"stands in ready with priority {number // STEP:.0f}, its own is {own}"
                yield Wrong("priority", job_id, "ready", job_id, detail)
    if known.scheduled is not None and not 0 < float(known.scheduled) < STEP:
        yield Wrong("score", job_id, "scheduled", job_id, f"its due time is {float(known.scheduled)!r}: no time in ms")
    if known.dead is not None and not 0 < float(known.dead) < STEP:
        yield Wrong("score", job_id, "dead", job_id, f"its time of death is {float(known.dead)!r}: no time in ms")


def bad_leases(known: Known, leases: Sequence[tuple[bytes, float]], moment: Moment, stale_ms: int) -> Iterable[Wrong]:
    """Do its leases end, and did somebody take them back in time?"""
    for member, expiry_ms in leases:
        if not 0 < expiry_ms < moment.now_ms + _LONGEST_LEASE_MS:
            yield Wrong("score", known.job_id, "leases", member, f"its lease ends at {expiry_ms!r} ms: nobody leases for so long")
        elif moment.now_ms - max(expiry_ms, moment.hold_ms) > stale_ms:
            late_s = (moment.now_ms - expiry_ms) / 1000
            yield Wrong("expired", known.job_id, "leases", member, f"its lease ended {late_s:.0f} s ago: run a worker for this queue")


def leftovers(known: Known) -> Iterable[Wrong]:
    """Is something kept of a job that is gone?"""
    if known.prio is not None and _priority(known.prio) is None:
        yield Wrong("malformed", known.job_id, "prio", known.job_id, f"its priority is {text_of(known.prio)!r}: no number from 0 to 1000")
    places: tuple[tuple[Place, bool], ...] = (
        ("prio", known.prio is not None),
        ("tries", bool(known.tries)),
        ("cancelled", bool(known.cancelled)),
    )
    for place, kept in places:
        if kept and known.gone:
            yield Wrong("orphan", known.job_id, place, known.job_id, f"{place} keeps an entry of a job that is gone")


def bad_unique(field: bytes, value: bytes, known: Known, holder: bytes | None) -> Iterable[Wrong]:
    """Do a unique key and its job know each other?

    Args:
        field, value: the entry as it was scanned: "=key" and id, or id and key.
        known: of that id. holder: who holds that key now.
    """
    job_id = known.job_id
    alive = known.waits or bool(known.leased)
    wrong = ""
    if field[:1] == b"=":
        if holder != value:
            return  # it has moved on
        if known.gone:
            wrong = "this unique key is held by a job that is gone"
        elif known.dead is not None and not alive:
            wrong = "this unique key is held by a dead job"
        elif known.placed and known.unique != field[1:]:
            wrong = "the job that holds this unique key does not know it"
    elif known.unique == value:
        if known.gone:
            wrong = "unique keeps an entry of a job that is gone"
        elif alive and holder != job_id:
            wrong = f"is alive, but its unique key is held by {text_of(holder) if holder else 'nobody'}"
    if wrong:
        yield Wrong("unique", job_id, "unique", field, wrong)
