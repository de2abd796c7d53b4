"""Table 10, peers: the same work for Bananas and for other queues, in one interleaved run, each in an environment of its own.

Bananas is measured as every peer is, through peers/bananas.py. A peer that cannot be installed, or fails at some work, stays in the
table with the reason.
"""

import contextlib
from collections.abc import Generator, Sequence
from typing import NamedTuple

from bananas.bench.peers._declared import OWN, Declared, declared, names
from bananas.bench.peers._installed import Installed, PeerUnavailable, install
from bananas.bench.peers._running import Guard, Peer
from bananas.bench.peers._visit import WARM_UP, Visit, Visitor
from bananas.bench.percentiles import MS, percentile_figures
from bananas.bench.serving import Serving, binary_of, serve
from bananas.bench.session import Bench
from bananas.bench.sizes import Sizes
from bananas.bench.table import Figure, Goal, Row, Table, at_least, figure

KEY = "peers"
GUARANTEE = "guarantee"
# column -> (unit, the percentile of latencies that it is, None for single numbers)
FIGURES: dict[str, tuple[str, float | None]] = {
    "drain, 1 process": ("/s", None),
    "drain, 2 processes": ("/s", None),
    "submit": ("/s", None),
    "submit p50": ("ms", 50),
    "100 clients": ("/s", None),
    "bulk": ("/s", None),
    "pick-up p50": ("ms", 50),
    "pick-up p99": ("ms", 99),
    "submit and wait p50": ("ms", 50),
    "I/O of ideal": ("%", None),
    "server per queued KB": ("B", None),
    "idle worker": ("MB", None),
    "idle commands": ("/s", None),
    "commands to submit": ("", None),
    "commands to run": ("", None),
}


def measure(bench: Bench, sizes: Sizes, against: Sequence[str]) -> Table:
    """Bananas against these peers; an environment is made for each that has none yet.

    Args:
        against: names of files in peers/, e.g. ("celery", "arq"); "all": every one.

    Raises:
        ConfigError: there is no such peer. Nothing was installed or measured.
    """
    every = names() if "all" in against else []
    wanted = [declared(name) for name in dict.fromkeys((OWN, *(name for name in against if name != "all"), *every))]
    installed, notes = _install(bench, wanted)
    with Guard() as guard:
        visitors = {
            peer.name: Visitor(bench, Peer(peer, installed[peer.name], bench.new_folder(), guard), sizes, lambda: _server(bench))
            for peer in wanted
            if peer.name in installed
        }
        outcomes = bench.interleaved(KEY, {name: visitor.visit for name, visitor in visitors.items()})
    measured = {peer.name: _row(peer, outcomes[peer.name]) for peer in wanted if peer.name in outcomes}
    absent = [_row(peer, [], "-") for peer in wanted if peer.name not in outcomes]
    for peer in wanted:
        if peer.name in outcomes:
            notes += _notes(peer, installed[peer.name], outcomes[peer.name])
    return Table(
        KEY,
        "Peers",
        "How do other queues do the same work, here and now?",
        (GUARANTEE, *FIGURES),
        (*measured.values(), *absent),
        (*METHOD, *notes),
        _goals(measured, {peer.name: peer for peer in wanted}),
        plot="drain, 1 process",
    )


def _install(bench: Bench, wanted: Sequence[Declared]) -> tuple[dict[str, Installed], list[str]]:
    """The environments of those that can have one, and why the others cannot."""
    installed: dict[str, Installed] = {}
    reasons = []
    for peer in wanted:
        bench.say(f"peers: preparing {peer.title}")
        try:
            installed[peer.name] = install(peer)
        except PeerUnavailable as error:
            reasons.append(f"{peer.title}: {error}")
    return installed, reasons


METHOD = (
    "Each peer in its own environment and its best documented configuration, in turns, on one server in memory, by TCP.",
    "Jobs of 100 B; 1 KB where jobs are submitted one by one or by 100 clients, and for the bytes of a queued one.",
    f"Warm before it is measured: {WARM_UP} submits of each client, {WARM_UP} jobs of each worker; of a small run, a tenth of its jobs.",
    "Drain: by the handlers, from the end of the warm-up to the last end, of what was queued before; with two, both have run one then.",
    "A slow peer is cut off after some seconds: its rate is that of the jobs done. Acknowledgement of the last job is outside of it.",
    "At least once: a job whose worker dies is run again. At most once: it is lost, or kept as failed. The two are not the same work.",
    "Pick-up: from the call of submit to the start of the handler on an idle worker.",
    "Commands to submit and to run: all that the server ran, inside of scripts too; to run: of the drain, with its worker's start.",
    "Idle worker: its whole process tree, shared pages counted once (PSS), at its default slots or so; commands from clients alone.",
)


@contextlib.contextmanager
def _server(bench: Bench) -> Generator[Serving]:
    """The server of this run; in place of the embedded one, which peers cannot reach, one of its kind with a port."""
    if bench.kind != "embedded":
        with bench.server() as serving:
            yield serving
        return
    with serve(binary_of(bench.kind).kind, bench.new_folder()) as serving:
        yield serving


def _row(peer: Declared, visits: list[Visit], otherwise: str = "failed") -> Row:
    cells: dict[str, Figure | str] = {GUARANTEE: peer.guarantee}
    for column, (unit, share) in FIGURES.items():
        cells[column] = otherwise
        if share is None:
            if values := [visit.figures[column] for visit in visits if column in visit.figures]:
                cells[column] = figure(values, unit)
        elif samples := [visit.latencies[column] for visit in visits if visit.latencies.get(column)]:
            (cells[column],) = percentile_figures(samples, (share,), unit, MS)
    return Row(peer.title, cells)


def _notes(peer: Declared, installed: Installed, visits: list[Visit]) -> list[str]:
    slots = ", ".join(f"{profile} {peer.slots(profile)}" for profile in ("drain", "io", "idle"))
    versions = f" ({installed.versions_text})" if installed.versions else ""
    notes = [f"{peer.title}{versions}: {peer.configuration}. Slots: {slots}. Source: {peer.source}."]
    failures = {work: reason for visit in visits for work, reason in visit.failures.items()}
    return notes + [f"{peer.title} failed at {work.replace('_', ' ')}: {reason}" for work, reason in failures.items()]


# --- goals ------------------------------------------------------------------------------------------------------------


class Wanted(NamedTuple):
    """A goal: so many times the best of others in one column. `against`: a peer, "python", or "lossless" (at least once, in Python)."""

    text: str
    column: str
    against: str
    factor: float


WANTED = (
    Wanted("Drain, one process: at least 3x the best peer in Python that is at least once", "drain, 1 process", "lossless", 3.0),
    Wanted("Drain, one process: at least 3x BullMQ", "drain, 1 process", "bullmq", 3.0),
    Wanted("Drain, two processes: at least 2x BlitzQ's two", "drain, 2 processes", "blitzq", 2.0),
    Wanted("Submit one by one: at least 3x the best peer in Python", "submit", "python", 3.0),
)


def _goals(rows: dict[str, Row], peers: dict[str, Declared]) -> tuple[Goal, ...]:
    python = [name for name, peer in peers.items() if name != OWN and peer.runtime == "python"]
    lossless = [name for name in python if peers[name].guarantee == "at least once"]
    groups = {"lossless": lossless, "python": python}
    found = []
    for wanted in WANTED:
        ratio = _ratio(rows, wanted.column, groups.get(wanted.against, [wanted.against]))
        if ratio is not None:
            found.append(at_least(wanted.text, ratio, wanted.factor))
    return tuple(found)


def _ratio(rows: dict[str, Row], column: str, against: Sequence[str]) -> Figure | None:
    """How many times the best of these peers Bananas is, None where one of both was not measured."""
    theirs = [cell.headline for name in against if name in rows and isinstance(cell := rows[name].cells[column], Figure)]
    ours = rows[OWN].cells[column] if OWN in rows else None
    return figure((ours.headline / max(theirs),), "x") if theirs and isinstance(ours, Figure) else None
