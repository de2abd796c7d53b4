"""Mends what the audit finds, finding by finding, on queues at work too.

    1. audit                                             (audit.py: what is wrong, and where)
    2. per finding, look at the job again                (lua/amend.lua without a digest)
    3. decide where it belongs                           (`decide`, pure)
    4. bring it there if it is still as it was seen      (lua/amend.lua with the digest: one atomic step, or nothing)
    5. once more, for what one mend brings to light      (a job that lives again wants its unique key back), then audit

GUARANTEES. A job whose body exists is never deleted: it ends ready, scheduled, leased or dead. A lease that runs is never taken from its
worker, but for the older of two. Doing it twice changes nothing more. What is deleted has no body, and so nothing that could run.
Without `act` nothing is changed: the same looks and decisions, told instead of done.

Rejected: repair inside of the audit's scan (what a scan says is a hint), scripts that decide all by themselves (a dry run would need a
second set of rules; here `decide` is both).
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from bananas import broker, mending
from bananas.app import Bananas
from bananas.audit import Audit, Examined, audit, examined
from bananas.codec import Undecodable, pack_tries, unpack_body
from bananas.findings import STEP, Finding, Wrong, is_id
from bananas.job import ErrorRecord, History, Tries
from bananas.keys import id_suffix, new_id
from bananas.sealing import job_head

PASSES = 3
TURNS = 5  # so often a job that moves on meanwhile is looked at again
MOST_LEASES = 100_000
LONGEST_WAIT_S = 10.0
_DAY_MS = 86_400_000
_BIRTH_BYTES = 8

Place = Literal["", "ready", "scheduled", "dead", "leases"]

_SAID = {
    "freed": "its unique key is freed",
    "told": "it knows its unique key again",
    "taken": "it holds its unique key again",
    "given up": "it goes on without its unique key, which another job that is alive holds",
    "buried": "what is stored under it goes to the dead letters, under a new id",
    "removed": "the entry is removed: nothing is stored under it",
}
IN_ORDER = "it is in order by now"


class Remedy(Struct, frozen=True, order=True):
    """A finding and what became of it, or would: one sentence. Not `mended`: it is left as it is, and the sentence says why."""

    finding: Finding
    remedy: str
    mended: bool


class Repairs(Struct, frozen=True):
    """What a repair did, or would do.

    Attributes:
        acted: False: nothing was changed.
        remedies: one per finding, in order of finding; a repair that acts may find more while it goes on.
        after: the audit afterwards; without `acted` the one before.
    """

    acted: bool
    remedies: tuple[Remedy, ...]
    after: Audit


# --- deciding: pure ---------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What is known of one job at one moment; b"" where there is nothing. See lua/amend.lua."""

    done: int
    now_ms: int
    digest: bytes
    ready: bytes
    due: bytes
    died: bytes
    body_bytes: int
    birth: bytes
    prio: bytes
    leases: list[bytes]
    searched_all: int


class Change(NamedTuple):
    """Where a job goes: the arguments of lua/amend.lua, and in words. `place` None: it is left as it is."""

    place: Place | None
    score: str
    keep: bytes
    drop_prio: bool
    why: str


def _fence(member: bytes) -> int:
    """The fence of a lease, -1 of what is none."""
    job_id, _, owner = member.partition(b":")
    boot, _, fence = owner.partition(b":")
    return int(fence) if is_id(job_id) and boot and fence.isdigit() else -1


def _is_time(text: bytes) -> bool:
    return 0 < float(text) < STEP


def decide(job_id: bytes, seen: Seen, lease_ms: int) -> Change | None:
    """Where a job belongs, None where all is in order. Of several places the best stays: a lease that runs (the newest), ready, scheduled,
    dead, a lease that is over."""
    expiries = {member: float(expiry) for member, expiry in zip(seen.leases[::2], seen.leases[1::2], strict=True)}
    lease = max((member for member in expiries if _fence(member) >= 0), key=_fence, default=b"")
    runs = bool(lease) and expiries[lease] > seen.now_ms
    if seen.body_bytes <= _BIRTH_BYTES:
        return _without_body(seen, runs)
    wrong_prio = bool(seen.prio) and not (seen.prio.isdigit() and int(seen.prio) <= 1000)
    own = int(job_id[40:43], 16) if wrong_prio or not seen.prio else int(seen.prio)
    entered_ms = int(seen.birth) if _is_time(seen.birth) else seen.now_ms
    places: list[tuple[Place, bool]] = [
        ("leases", runs),
        ("ready", bool(seen.ready)),
        ("scheduled", bool(seen.due)),
        ("dead", bool(seen.died)),
        ("leases", bool(lease)),
    ]
    place: Place | None = next((name for name, here in places if here), None)
    if place is None:
        if not seen.searched_all:
            return Change(None, "", b"", False, f"left: it may be among more than {MOST_LEASES:,} leases; repair while fewer jobs run")
        return Change("ready", _text(own * STEP + entered_ms), b"", wrong_prio, "it is made ready: nothing had a place for it")
    keep = lease if place == "leases" else b""
    score, why = _score(place, seen, own, entered_ms, expiries.get(lease, 0.0), lease_ms)
    others = len(expiries) - bool(keep) + sum(map(bool, (seen.ready, seen.due, seen.died))) - (place != "leases")
    whys = [f"it stays in {place} alone"] * bool(others) + [why] * bool(why) + ["its wrong priority is dropped"] * wrong_prio
    return Change(place, score, keep, wrong_prio, ", ".join(whys)) if whys else None


def _without_body(seen: Seen, runs: bool) -> Change:
    if runs and not (seen.ready or seen.due or seen.died):
        why = "left: nothing is stored of it, but a worker may run it now; its entry ends with its lease"
        return Change(None, "", b"", False, why)
    return Change("", "", b"", False, "its entries are removed: nothing is stored of this job")


def _score(place: Place, seen: Seen, own: int, entered_ms: int, expiry: float, lease_ms: int) -> tuple[str, str]:
    """The score for a place, and in words where it is another than it had."""
    if place == "ready":
        had = float(seen.ready)
        sound = 0 < had < 1001 * STEP and had == int(had) and had % STEP > 0
        score = own * STEP + (int(had) % STEP if sound else entered_ms)
        return _text(score), "" if had == score else "its place in ready is set right"
    if place == "leases":
        sound = 0 < expiry < seen.now_ms + _DAY_MS
        return (_text(expiry), "") if sound else (_text(seen.now_ms + lease_ms), "its lease ends when it is not renewed")
    had = float(seen.due if place == "scheduled" else seen.died)
    if 0 < had < STEP:
        return _text(had), ""
    return _text(seen.now_ms), "it is due now" if place == "scheduled" else "it counts as dead since now"


def _text(score: float) -> str:
    return f"{score:.0f}"


# --- doing ------------------------------------------------------------------------------------------------------------


async def repair(app: Bananas, queues: Sequence[str] | None = None, *, act: bool = False) -> Repairs:
    """Mend what the audit finds; without `act` say what would be done. What it guarantees stands at the head of this module.

    Args:
        queues: names; by default every queue of the app's namespace.

    Raises:
        BrokerError: the server did not answer, or refused. What was mended before stays mended; repeat the call for the rest.
    """
    lease_ms = round(app.settings.lease * 1000)
    remedies: dict[Finding, Remedy] = {}
    for _ in range(PASSES if act else 1):
        mended = 0
        async for queue in examined(app, queues):
            found = await _Mending(queue, lease_ms, act=act).run()
            mended += sum(remedy.mended for remedy in found)
            remedies |= {remedy.finding: remedy for remedy in found if remedy.mended or remedy.finding not in remedies}
        if not mended:
            break
    return Repairs(act, tuple(sorted(remedies.values())), await audit(app, queues))


class _Mending:
    """Mends one queue, by what its examination found."""

    def __init__(self, queue: Examined, lease_ms: int, *, act: bool) -> None:
        self._reader, self._keys, self._queue = queue.reader, queue.keys, queue
        self._lease_ms, self._act = lease_ms, act
        self._outcomes: dict[object, tuple[str, bool]] = {}

    async def run(self) -> list[Remedy]:
        """A remedy per finding; findings of one job have one between them."""
        expired = [wrong for wrong, _ in self._queue.wrongs if wrong.kind == "expired"]
        if expired:
            await self._take_back(expired)
        return [Remedy(finding, *await self._mend(wrong)) for wrong, finding in self._queue.wrongs]

    async def _mend(self, wrong: Wrong) -> tuple[str, bool]:
        what: object = (wrong.job_id, wrong.member) if wrong.kind == "unique" else wrong.job_id
        if what not in self._outcomes:
            if wrong.kind == "unique":
                self._outcomes[what] = self._said(
                    await self._reader.ask(mending.rekey(self._keys, wrong.job_id, wrong.member, act=self._act))
                )
            elif is_id(wrong.job_id):
                self._outcomes[what] = await self._amend(wrong.job_id)
            else:
                self._outcomes[what] = self._said(await self._sweep(wrong.job_id))
        return self._outcomes[what]

    def _said(self, code: str) -> tuple[str, bool]:
        return _SAID.get(code, IN_ORDER), True

    async def _amend(self, job_id: bytes) -> tuple[str, bool]:
        """Look and change until the job holds still for both."""
        change: Sequence[object] = ()
        digest, why = b"", ""
        for _ in range(TURNS):
            seen = Seen(*await self._reader.ask(mending.amend(self._keys, MOST_LEASES, job_id, digest, change)))
            if seen.done:
                return why, True
            decided = decide(job_id, seen, self._lease_ms)
            if decided is None:
                return IN_ORDER, True
            why = decided.why
            if decided.place is None or not self._act:
                return why, decided.place is not None
            digest = seen.digest
            change = (decided.place, decided.score, decided.keep, "1" if decided.drop_prio else "")
        return f"left: it moved on {TURNS} times while it was looked at; repeat the repair", False

    async def _sweep(self, name: bytes) -> str:
        """A name that is no id. Its body keeps the task's tag, so that workers of that task alone find it after a replay."""
        body: bytes | None = await self._reader.ask(broker.plain(_bytes_or_none, "HGET", self._keys.jobs, name))
        try:
            task = (unpack_body(body or b"") or job_head(body or b"")).task
        except Undecodable:
            task = ""
        now_s, _ = await self._reader.ask(broker.plain(tuple, "TIME"))
        why = f"it was stored under {name[:100]!r}, which is no job id; a repair moved it here"
        record = ErrorRecord(int(now_s) * 1000, 0, "Misplaced", why, "", "repair")
        tries = pack_tries(Tries(history=History((record,))))
        return await self._reader.ask(mending.sweep(self._keys, name, new_id(id_suffix(task, 500)), tries, act=self._act))  # type: ignore[no-any-return]

    async def _take_back(self, wrongs: Iterable[Wrong]) -> None:
        """Leases that are long over go back to ready, as workers do it: after a gap they extend first."""
        why, mended = "its lease is over: it is made ready, with a crash counted", True
        if self._act and not await self._reclaimed():
            why, mended = "left: after a gap nobody takes leases back at once; repeat the repair in half a lease", False
        for wrong in wrongs:
            self._outcomes[wrong.job_id] = why, mended

    async def _reclaimed(self) -> int:
        lease_s = self._lease_ms / 1000
        taken, deadline = 0, time.monotonic() + min(LONGEST_WAIT_S, lease_s)
        while True:
            took: int = await self._reader.ask(broker.reclaim(self._keys, self._lease_ms))
            taken += took
            if took < broker.SETTLE_BATCH and (taken or time.monotonic() >= deadline):
                return taken
            if not took:
                await asyncio.sleep(lease_s / 8)


def _bytes_or_none(reply: bytes | None) -> bytes | None:
    return reply
