"""The structural audit: proves on a server's keys what the transitions promise, and names what breaks a promise.

Each id is in exactly one place, with a body; nothing is kept of an id that is gone; unique keys name living jobs; scores, priorities and
leases are such as a script writes. The audit changes nothing.

    1. scan a key for ids, in chunks                     (what a scan says is a hint: a job may move on at once)
    2. ask what is known of these ids at one moment      (lua/examine.lua)
    3. judge that, by the pure functions of findings.py  (transitions are scripts too: no moment is within one)
    4. compare how many bodies and how many places there are; only where these differ are bodies scanned

GUARANTEES. At rest, every damage of the kinds in findings.py is found. On a queue at work, a finding was true when it was looked at, for
whatever moves between two reads is looked at again, whole; and a damage that stays where it is from the beginning to the end is found. One
limit: with more than `SEARCHED_LEASES` leases in a queue, "no place" means that `LOOKS` looks in a row saw the job nowhere.

COST. Per 1,000 ids two round trips, about 6 ms of the server at a stretch. Memory here: the leases, and one chunk.
Rejected: reading all keys and comparing (no snapshot: on a busy queue it cries wolf), looking several times at what looks wrong (a job
that retries over and over looks lost each time), HKEYS and the like (one such call on a large queue stops the server).
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from msgspec import Struct

from bananas import broker, mending
from bananas.app import Bananas
from bananas.broker import Request
from bananas.errors import ScriptFailed
from bananas.findings import (
    SEARCHED_LEASES,
    Finding,
    Kind,
    Known,
    Moment,
    Place,
    Wrong,
    bad_leases,
    bad_scores,
    bad_unique,
    leftovers,
    lost,
    misplaced,
    text_of,
)
from bananas.keys import ID_LENGTH, QueueKeys, queues_key
from bananas.session import answer

CHUNK = 1_000
CHUNK_BYTES = 4 * 1024 * 1024
LOOKS = 3
STALE_LEASES = 10
STALE_MS = 30_000
_TRIES_BYTES = 40_000


class Audit(Struct, frozen=True):
    """What an audit saw: in which queues, how many jobs, and what is wrong, in order of queue and kind."""

    queues: tuple[str, ...]
    jobs: int
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


async def audit(app: Bananas, queues: Sequence[str] | None = None) -> Audit:
    """Look for jobs that are lost, doubled or left over. What it guarantees and costs stands at the head of this module.

    Args:
        queues: names; by default every queue of the app's namespace.

    Raises:
        BrokerError: the server did not answer, or refused; nothing was changed.
    """
    names, findings, jobs = [], set[Finding](), 0
    async for queue in examined(app, queues):
        names.append(queue.keys.name)
        jobs += queue.jobs
        findings.update(finding for _, finding in queue.wrongs)
    return Audit(tuple(names), jobs, tuple(sorted(findings)))


class Examined(NamedTuple):
    """One queue after its examination: what is wrong, as bytes and as it is told, and a reader for more."""

    reader: "Reader"
    keys: QueueKeys
    jobs: int
    wrongs: list[tuple[Wrong, Finding]]


async def examined(app: Bananas, queues: Sequence[str] | None = None) -> AsyncIterator[Examined]:
    """Examine queues one after another. Raises as `audit`."""
    reader = Reader(app, "the audit")
    if queues is None:
        key = queues_key(app.settings.namespace)
        queues = sorted({name.decode() async for chunk in reader.scan("SSCAN", key) for name in chunk})
    else:
        queues = [keys.name for name in queues for keys in app.producer.places.parts(name)]
    stale_ms = max(STALE_MS, round(STALE_LEASES * app.settings.lease * 1000))
    for name in queues:
        keys = app.producer.keys(name)
        examination = _Examination(reader.of(keys), keys, stale_ms)
        jobs = await examination.run()
        yield Examined(reader.of(keys), keys, jobs, examination.found)


# --- reading ----------------------------------------------------------------------------------------------------------


class Reader:
    """Reads keys in bounded steps, over the app's own connection: those of a queue, or by default those of the namespace itself."""

    def __init__(self, app: Bananas, what: str, keys: QueueKeys | None = None) -> None:
        self._app, self._what, self._place = app, what, keys
        self._fields_alone = True  # HSCAN NOVALUES: Redis since 7.4, Valkey since 8

    def of(self, keys: QueueKeys) -> "Reader":
        """A reader of this queue."""
        return Reader(self._app, self._what, keys)

    async def ask(self, request: Request[Any]) -> Any:
        """One reply. Raises the BrokerError that it comes to."""
        lanes = self._app.client.here().lanes
        lane = lanes.home(self._app.settings.namespace) if self._place is None else lanes.of(self._place)
        (reply,) = await lane.ask(None, [request], self._app.settings.call_timeout, self._what)
        return answer(reply)

    async def scan(self, command: str, key: str, *more: Any, count: int = CHUNK) -> AsyncIterator[list[bytes]]:
        """Every member (SSCAN), or member and value in turns (HSCAN, ZSCAN), in chunks; some may come twice."""
        cursor = b"0"
        while True:
            cursor, found = await self.ask(broker.plain(tuple, command, key, cursor, "COUNT", count, *more))
            for part in _chunks(found, 2 * CHUNK):
                yield part
            if cursor == b"0":
                return

    async def fields(self, key: str, value_bytes: int) -> AsyncIterator[list[bytes]]:
        """The fields of a hash; where the server cannot leave out the values (of about this size), in smaller chunks."""
        if self._fields_alone:
            try:
                async for found in self.scan("HSCAN", key, "NOVALUES"):
                    yield found
                return
            except ScriptFailed:  # refused at its first call
                self._fields_alone = False
        async for found in self.scan("HSCAN", key, count=max(1, min(CHUNK, CHUNK_BYTES // value_bytes))):
            yield found[::2]

    async def examine(self, keys: QueueKeys, ids: Sequence[bytes], members: Sequence[bytes] = (), fields: Sequence[bytes] = ()) -> Moment:
        """What is known of at most `CHUNK` ids, lease members and fields of unique."""
        now_ms, hold, sizes, *columns, expiries, found = await self.ask(mending.examine(keys, SEARCHED_LEASES, ids, members, fields))
        known = list(map(Known._make, zip(ids, *columns, strict=True)))
        return Moment(now_ms, int(hold or 0), sizes, known, expiries, found)


def _chunks(items: list[bytes], size: int) -> Iterator[list[bytes]]:
    return (items[start : start + size] for start in range(0, len(items), size))


# --- one queue --------------------------------------------------------------------------------------------------------


class _Examination:
    """Goes through one queue, key by key. The leases come first: they tell of ids elsewhere, and what is in two places is named in full."""

    def __init__(self, reader: Reader, keys: QueueKeys, stale_ms: int) -> None:
        self._reader, self._keys, self._stale_ms = reader, keys, stale_ms
        self._found: dict[tuple[Kind, Place, bytes], tuple[Wrong, Finding]] = {}
        self._members: dict[bytes, list[bytes]] = {}
        self._bodies = self._body_bytes = 0
        self._unsure: set[bytes] = set()

    @property
    def found(self) -> list[tuple[Wrong, Finding]]:
        return list(self._found.values())

    async def run(self) -> int:
        """Examine everything. Returns how many jobs there are."""
        await self._read_leases()
        for members in self._chunks_of_leases():
            await self._judge_leases(members)
        for key in (self._keys.ready, self._keys.scheduled, self._keys.dead):
            async for flat in self._reader.scan("ZSCAN", key):
                await self._judge_places(flat[::2])
        await self._judge_leftovers()
        await self._judge_unique()
        sizes = (await self._reader.examine(self._keys, ())).sizes
        if self._found or sizes[0] != sum(sizes[1:]):
            await self._judge_bodies()
        return sizes[0]

    def _note(self, wrongs: Iterable[Wrong]) -> None:
        for wrong in wrongs:
            finding = Finding(self._keys.name, wrong.kind, text_of(wrong.job_id), wrong.place, text_of(wrong.member), wrong.detail)
            self._found.setdefault((wrong.kind, wrong.place, wrong.member), (wrong, finding))

    async def _examine(self, ids: Sequence[bytes], fields: Sequence[bytes] = ()) -> Moment:
        """What is known of ids, with the leases that they had."""
        members = [member for job_id in ids for member in self._members.get(job_id, ())]
        return await self._reader.examine(self._keys, ids, members[:CHUNK], fields)

    # --- places ---

    async def _read_leases(self) -> None:
        self._members.clear()
        async for flat in self._reader.scan("ZSCAN", self._keys.leases):
            for member in flat[::2]:
                listed = self._members.setdefault(member[:ID_LENGTH], [])
                if member not in listed and len(listed) < CHUNK:
                    listed.append(member)

    def _chunks_of_leases(self) -> Iterator[list[bytes]]:
        """At most `CHUNK` members at a time, those of one id together."""
        part: list[bytes] = []
        for members in self._members.values():
            if len(part) + len(members) > CHUNK:
                yield part
                part = []
            part += members
        if part:
            yield part

    async def _judge_leases(self, members: Sequence[bytes]) -> None:
        moment = await self._reader.examine(self._keys, [member[:ID_LENGTH] for member in members], members)
        held: dict[bytes, list[tuple[bytes, float]]] = {}
        for member, expiry in zip(members, moment.expiries, strict=True):
            if expiry is not None:
                held.setdefault(member[:ID_LENGTH], []).append((member, float(expiry)))
        for known in moment.known:
            leases = held.get(known.job_id, ())
            self._note(misplaced(known, leases))
            self._note(bad_leases(known, leases, moment, self._stale_ms))

    async def _judge_places(self, ids: Sequence[bytes]) -> None:
        for known in (await self._reader.examine(self._keys, ids)).known:
            self._bodies += 1
            self._body_bytes += known.body_bytes
            self._note(misplaced(known, ()))
            self._note(bad_scores(known))

    # --- what is kept beside ---

    async def _judge_leftovers(self) -> None:
        prio, cancelled = self._keys.base + "prio", self._keys.base + "cancelled"
        await self._judge_kept(self._reader.fields(prio, value_bytes=4))
        await self._judge_kept(self._reader.fields(self._keys.tries, _TRIES_BYTES))
        await self._judge_kept(self._reader.scan("SSCAN", cancelled))

    async def _judge_kept(self, chunks: AsyncIterator[list[bytes]]) -> None:
        async for ids in chunks:
            for part in _chunks(ids, CHUNK):
                for known in (await self._examine(part)).known:
                    self._note(leftovers(known))

    async def _judge_unique(self) -> None:
        async for flat in self._reader.scan("HSCAN", self._keys.base + "unique"):
            pairs = list(zip(flat[::2], flat[1::2], strict=True))
            by_key = [field[:1] == b"=" for field, _ in pairs]
            ids = [value if named else field for (field, value), named in zip(pairs, by_key, strict=True)]
            fields = [field if named else b"=" + value for (field, value), named in zip(pairs, by_key, strict=True)]
            moment = await self._examine(ids, fields)
            for (field, value), known, holder in zip(pairs, moment.known, moment.fields, strict=True):
                self._note(bad_unique(field, value, known, holder))

    # --- bodies ---

    async def _judge_bodies(self) -> None:
        """Bodies without a place. Those that were not among the leases searched are looked for again: they may be leased after all."""
        typical_bytes = self._body_bytes // self._bodies if self._bodies else 0
        async for ids in self._reader.fields(self._keys.jobs, typical_bytes or CHUNK_BYTES // 10):
            await self._judge_lost(ids)
        for look in range(2, LOOKS + 1):
            if self._unsure:
                await self._read_leases()
                ids = sorted(self._unsure)
                self._unsure.clear()
                await self._judge_lost(ids, last=look == LOOKS)

    async def _judge_lost(self, ids: list[bytes], *, last: bool = False) -> None:
        for part in _chunks(ids, CHUNK):
            moment = await self._examine(part)
            for known in moment.known:
                wrongs = lost(known)
                if last or moment.searched_all:
                    self._note(wrongs)
                elif wrongs:
                    self._unsure.add(known.job_id)
