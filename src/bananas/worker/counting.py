"""What a worker counts of the jobs of one queue, until a turn of the fetch loop takes it to the server.

Nothing is sent for it alone while there is other work: once a second at most it rides along. What a lost reply leaves open is sent again
under its number, so nothing is counted twice; what a worker has not sent when it dies is not counted.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from time import monotonic

import structlog

from bananas import broker
from bananas.broker import Request, Tallied
from bananas.codec import pack
from bananas.errors import BrokerError
from bananas.keys import ID_LENGTH, QueueKeys
from bananas.tally import BOUNDS_MS, MINUTE_MS, SUCCESS, Counts, Spread, fields_of

SEND_EVERY_S, SAMPLED = 1.0, 20
UNDECLARED = "00000000"  # the tag under which jobs are counted whose task this worker does not declare: their names are without bound
UNDECLARED_NAME = "(undeclared)"
SHORTEST_MS = BOUNDS_MS[0]
_ENTRY = 2**42
log = structlog.get_logger("bananas.worker")


class Counting:
    """The counts of one queue.

    Args:
        kept_ms: how long the server keeps a minute; 0: nothing is counted.

    Attributes:
        names: the tasks that are counted each by itself, by their tags.
        room: how many more of the jobs that end are told by themselves this time.
        told: called with what goes to the server, as fields of a hash: for who keeps figures of this process.
    """

    def __init__(self, keys: QueueKeys, boot: str, names: Mapping[str, str], kept_ms: int) -> None:
        self.names, self.on = names, kept_ms > 0
        self._keys, self._boot, self._kept_ms = keys, boot, kept_ms
        self._counts: dict[str, Counts] = {}
        self._under_way: Request[bool] | None = None
        self._number = 0
        self._sent_at = self._ahead_ms = 0.0
        self._refused = False
        self._ended: list[tuple[int, bytes]] = []
        self.room = SAMPLED if self.on else 0
        self.told: Callable[[dict[str, str]], None] | None = None

    # --- counting ---

    def ran(self, tag: str, started: float) -> None:
        """A run that began then (monotonic seconds) has ended: well, unless it is said to have `failed`. For every job: so it is short."""
        ms = (monotonic() - started) * 1000
        run = (self._counts.get(tag) or self._new(tag)).run
        run.total_ms += ms
        run.buckets[bisect_left(BOUNDS_MS, ms) if ms > SHORTEST_MS else 0] += 1

    def failed(self, tag: str, outcome: int, started: float) -> None:
        """A run ended otherwise than well."""
        self.ran(tag, started)
        outcomes = self._counts[tag if tag in self.names else UNDECLARED].outcomes
        outcomes[outcome] += 1
        outcomes[SUCCESS] -= 1  # each run that was counted is added when they are sent

    def left(self, member: bytes, outcome: int) -> None:
        """A job went without a run."""
        if self.on:
            tag = member[32:40].decode()
            (self._counts.get(tag) or self._new(tag)).outcomes[outcome] += 1
            self.sample(member, outcome, None)

    def sample(self, member: bytes, outcome: int, started: float | None) -> None:
        """A job has ended for good; it began then, or was not run. Some are told by themselves, the first of each time."""
        if self.room:
            self.room -= 1
            now = monotonic()
            at_ms, run_ms = round(now * 1000 + self._ahead_ms), None if started is None else round((now - started) * 1000, 3)
            self._ended.append((at_ms, pack((member[:ID_LENGTH].decode(), outcome, at_ms, run_ms))))

    def claimed(self, now_ms: int, ids: Sequence[bytes], scores: Sequence[bytes]) -> None:
        """These jobs have waited until now, the server's time."""
        if not self.on:
            return
        self._ahead_ms = now_ms - monotonic() * 1000
        if b"".join(ids).count(ids[0][32:40]) == len(ids):  # all of one task
            _Waits(now_ms, scores).count(self._wait_of(ids[0][32:40]), 0, len(scores) - 1)
            return
        for job_id, score in zip(ids, scores, strict=True):
            self._wait_of(job_id[32:40]).add(_wait_ms(now_ms, score))

    def _wait_of(self, tag: bytes) -> Spread:
        text = tag.decode()
        return (self._counts.get(text) or self._new(text)).wait

    def _new(self, tag: str) -> Counts:
        return self._counts.setdefault(tag if tag in self.names else UNDECLARED, Counts())

    # --- sending ---

    @property
    def waits(self) -> bool:
        """Whether anything is to be sent, now or soon."""
        return bool(self._counts) or self._under_way is not None

    def due_in_s(self, now: float) -> float:
        """How long it can wait (0: it is due), by the monotonic clock; infinite where there is nothing."""
        return max(0.0, self._sent_at + SEND_EVERY_S - now) if self.waits else float("inf")

    def request(self, now: float) -> Request[bool]:
        """What the next turn sends: what is still unanswered, or else all that was counted since."""
        self._sent_at = now
        if self._under_way is None:
            self._number += 1
            taken, self._counts = self._counts, {}
            for counts in taken.values():
                counts.outcomes[SUCCESS] += counts.run.count
            names = {tag: self.names.get(tag, UNDECLARED_NAME) for tag in taken}
            grown = dict(field for tag, counts in taken.items() for field in fields_of(tag, counts))
            if self.told is not None:
                self.told(names | {field: str(by) for field, by in grown.items()})
            minute = int(now * 1000 + self._ahead_ms) // MINUTE_MS
            ended, self._ended, self.room = self._ended, [], SAMPLED
            self._under_way = broker.tally(self._keys, self._boot, self._number, self._kept_ms, Tallied(minute, names, grown, ended))
        return self._under_way

    def answered(self, reply: bool | BrokerError) -> None:
        """It has arrived, or was refused: then it is lost, and a log says so once."""
        self._under_way = None
        if isinstance(reply, BrokerError) and not self._refused:
            log.warning("what was counted of jobs could not be stored: figures will be too low", queue=self._keys.name, reason=str(reply))
        self._refused = isinstance(reply, BrokerError)

    def hasten(self) -> None:
        """What there is, is due now."""
        self._sent_at = 0.0


class _Waits:
    """How long jobs have waited that a claim gave, best first: mostly in the order in which they came, so few are looked at."""

    def __init__(self, now_ms: int, scores: Sequence[bytes]) -> None:
        self._now_ms, self._scores = now_ms, scores

    def count(self, spread: Spread, first: int, last: int) -> None:
        """Count those between two places: at once, where they are of one priority and one bucket, else by halves."""
        one, other = self._scores[first], self._scores[last]
        longest, shortest = _wait_ms(self._now_ms, one), _wait_ms(self._now_ms, other)
        alike = int(one) // _ENTRY == int(other) // _ENTRY and bisect_left(BOUNDS_MS, longest) == bisect_left(BOUNDS_MS, shortest)
        if alike or last - first < 1:
            spread.add((longest + shortest) / 2, last - first + 1)
            return
        middle = (first + last) // 2
        self.count(spread, first, middle)
        self.count(spread, middle + 1, last)


def _wait_ms(now_ms: int, score: bytes) -> int:
    return max(0, now_ms - int(score) % _ENTRY)
