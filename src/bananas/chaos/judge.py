"""What a ledger proves. Pure: no I/O, no clock.

lost            acknowledged, but neither ended, nor on the server, nor ended by the driver
ghosts          started, though nobody had tried to submit them
duplicate runs  starts beyond one for each id and attempt
overlaps        two runs of one id at the same time, while the earlier one still trusted its lease
double commits  two accepted final settles of one job, or of two jobs that one submit made
stuck           acknowledged, and on the server when all was to be at rest, but not among the dead: nobody runs them
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from bananas.chaos.ledger import Book, Commit, Noted, Submitted

KINDS = ("lost", "ghosts", "overlaps", "double_commits", "stuck")


class Evidence(Struct, frozen=True):
    """All that is known at the end of a trial.

    Attributes:
        places: what is left on the server: public id -> ready, scheduled, leases, dead, or nowhere (a body without a place).
    """

    submitted: Sequence[Submitted]
    noted: Sequence[Noted]
    commits: Sequence[Commit]
    places: Mapping[str, str]


class Verdict(Struct, frozen=True):
    """What became of the jobs; the names behind each count, in order."""

    tried: int = 0
    acked: int = 0
    ended: int = 0
    runs: int = 0
    duplicate_runs: int = 0
    lost: tuple[str, ...] = ()
    ghosts: tuple[str, ...] = ()
    overlaps: tuple[str, ...] = ()
    double_commits: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()

    def broken(self, allowed: Iterable[str] = ()) -> list[str]:
        """Each kind of damage that there is, in words; `allowed`: kinds that this fault may cause, which are only counted."""
        found = []
        for kind in KINDS:
            names: tuple[str, ...] = getattr(self, kind)
            if names and kind not in allowed:
                some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                found.append(f"{len(names)} {kind.replace('_', ' ')} ({some})")
        return found


def evidence(book: Book, places: Mapping[str, str]) -> Evidence:
    """Read a ledger."""
    return Evidence(book.submitted(), book.noted(), book.commits(), places)


def judge(seen: Evidence) -> Verdict:
    """Weigh the evidence."""
    tried = {line.name for line in seen.submitted if line.word == "try"}
    acked = {line.name: line.more for line in seen.submitted if line.word == "ack"}
    gone = {line.name for line in seen.submitted if line.word == "gone"}
    name_of = {public_id: name for name, public_id in acked.items()} | {line.id: line.name for line in seen.noted}
    committed = {name_of.get(commit.id, commit.id) for commit in seen.commits}
    ended = {line.name for line in seen.noted if line.word == "end"} | committed | gone
    starts = [line for line in seen.noted if line.word == "start"]
    left = {name: seen.places[public_id] for name, public_id in acked.items() if public_id in seen.places}
    return Verdict(
        tried=len(tried),
        acked=len(acked),
        ended=len(ended & acked.keys()),
        runs=len(starts),
        duplicate_runs=len(starts) - len({(line.id, line.attempt) for line in starts}),
        lost=tuple(sorted(acked.keys() - ended - left.keys())),
        ghosts=tuple(sorted({line.name for line in seen.noted} - tried)),
        overlaps=tuple(sorted(_overlaps(seen.noted))),
        double_commits=tuple(sorted(_double_commits(seen.commits, name_of))),
        stuck=tuple(sorted(name for name, place in left.items() if place != "dead")),
    )


def _overlaps(noted: Iterable[Noted]) -> set[str]:
    """Jobs of which a run began while an earlier one was at work and trusted its lease."""
    runs: dict[str, dict[int, list[Noted]]] = defaultdict(lambda: defaultdict(list))
    for line in noted:
        runs[line.id][line.fence].append(line)
    found = set()
    for fences in runs.values():
        trusted_ns = 0
        for _, lines in sorted(fences.items()):
            began_ns = min(line.at_ns for line in lines)
            if began_ns < trusted_ns:
                found.add(lines[0].name)
            trusted_ns = max(trusted_ns, *(line.at_ns for line in lines if line.valid), 0)
    return found


def _double_commits(commits: Iterable[Commit], name_of: Mapping[str, str]) -> set[str]:
    counts = Counter(name_of.get(commit.id, commit.id) for commit in commits)
    return {name for name, count in counts.items() if count > 1}
