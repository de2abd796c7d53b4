"""What is counted of jobs, by task: how they ended, and how long they waited and ran.

A spread is a histogram whose bounds grow by the square root of two, from a quarter of a millisecond to an hour: a percentile read from
it is off by a fifth at most. Counts add up, whoever gathered them. In Redis they are fields of a hash, by the tag that stands for the
task in ids:

    <tag>         the task's name
    <tag>:<n>     how many ended so; n is the index in OUTCOMES
    <tag>:w<n>    how many waited so long; n is the index of the bucket.    <tag>:w    microseconds in all
    <tag>:r<n>    how many ran so long.                                     <tag>:r    microseconds in all
    =h =n =l =s =d   how many jobs were ready by priority (high, normal, low), scheduled and dead when last looked at
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

OUTCOMES = ("success", "retried", "dead", "other")
SUCCESS, RETRIED, DEAD, OTHER = range(4)
BOUNDS_MS = tuple(0.25 * 2 ** (n / 2) for n in range(48))
DEPTHS = {"=h": "high", "=n": "normal", "=l": "low", "=s": "scheduled", "=d": "dead"}
MINUTE_MS = 60_000


class Spread:
    """How long something took, of many.

    Attributes:
        buckets: how many took at most as long as the bound of the same index, and longer than the one before; the last: longer than all.
        total_ms: all of them together.
    """

    __slots__ = ("buckets", "total_ms")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS_MS) + 1)
        self.total_ms = 0.0

    @property
    def count(self) -> int:
        """Of how many."""
        return sum(self.buckets)

    def add(self, ms: float, count: int = 1) -> None:
        """`count` took so long."""
        self.buckets[bisect_left(BOUNDS_MS, ms)] += count
        self.total_ms += ms * count

    def merge(self, other: "Spread") -> None:
        """Take in what another has counted."""
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]
        self.total_ms += other.total_ms

    def quantile(self, share: float) -> float:
        """How long that share of them took at most, in ms: within its bucket as if they were spread evenly; 0.0 of none."""
        wanted, below = share * self.count, 0
        for index, count in enumerate(self.buckets):
            if count and below + count >= wanted:
                low = BOUNDS_MS[index - 1] if index else 0.0
                high = BOUNDS_MS[index] if index < len(BOUNDS_MS) else low
                return low + (high - low) * max(0.0, wanted - below) / count
            below += count
        return 0.0


class Counts:
    """What was counted of one task.

    Attributes:
        outcomes: how many ended so, in the order of OUTCOMES.
        wait, run: how long they waited for a worker since they were ready, and how long their handlers ran.
    """

    __slots__ = ("outcomes", "run", "wait")

    def __init__(self) -> None:
        self.outcomes = [0] * len(OUTCOMES)
        self.wait, self.run = Spread(), Spread()

    @property
    def ended(self) -> int:
        """How many jobs left for good."""
        return self.outcomes[SUCCESS] + self.outcomes[DEAD] + self.outcomes[OTHER]

    def merge(self, other: "Counts") -> None:
        """Take in what another has counted."""
        self.outcomes = [mine + theirs for mine, theirs in zip(self.outcomes, other.outcomes, strict=True)]
        self.wait.merge(other.wait)
        self.run.merge(other.run)


def fields_of(tag: str, counts: Counts) -> Iterator[tuple[str, int]]:
    """What is not zero, as fields of a hash and by how much each grows."""
    for index, count in enumerate(counts.outcomes):
        if count:
            yield f"{tag}:{index}", count
    for letter, spread in (("w", counts.wait), ("r", counts.run)):
        for index, count in enumerate(spread.buckets):
            if count:
                yield f"{tag}:{letter}{index}", count
        if spread.total_ms:
            yield f"{tag}:{letter}", round(spread.total_ms * 1000)


def read_fields(fields: Mapping[str, str]) -> tuple[dict[str, Counts], dict[str, int]]:
    """The counts of a hash by the names of their tasks, and the depths noted there. What no version known here has written is left out."""
    found: dict[str, Counts] = {}
    depths = {DEPTHS[field]: int(value) for field, value in fields.items() if field in DEPTHS and value.isdecimal()}
    for field, value in fields.items():
        tag, colon, what = field.partition(":")
        if colon and value.lstrip("-").isdecimal():
            _read_field(found.setdefault(fields.get(tag, tag), Counts()), what, int(value))
    return found, depths


def _read_field(counts: Counts, what: str, value: int) -> None:
    letter, number = what[:1], what[1:]
    spread = {"w": counts.wait, "r": counts.run}.get(letter)
    if spread is None:
        if what.isdecimal() and int(what) < len(OUTCOMES):
            counts.outcomes[int(what)] += value
    elif not number:
        spread.total_ms += value / 1000
    elif number.isdecimal() and int(number) < len(spread.buckets):
        spread.buckets[int(number)] += value


def merged(parts: Iterable[Mapping[str, Counts]]) -> dict[str, Counts]:
    """Several tables in one."""
    found: dict[str, Counts] = {}
    for part in parts:
        for task, counts in part.items():
            found.setdefault(task, Counts()).merge(counts)
    return found
