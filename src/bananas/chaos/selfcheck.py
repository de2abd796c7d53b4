"""The judge proves itself before anything is judged by it: each kind of damage is done on purpose, and must be found, and nothing else.

First on ledgers that are made up, one for each kind of damage; then on a real server with a real worker: one job is taken from the server,
one is submitted and run twice under one name, one is left without a place. What is not found makes every later verdict worthless, so it
ends the program.
"""

from pathlib import Path

from msgspec.structs import asdict, replace

from bananas.chaos.judge import KINDS, Evidence, judge
from bananas.chaos.ledger import Commit, Noted, Submitted
from bananas.chaos.site import Site
from bananas.errors import BananasError
from bananas.server import PrivateServer, ServerBinary

JOBS = 10


class CheckerFailed(BananasError):
    """The checker did not find a damage that was done on purpose, or found one that was not."""


# --- made up ----------------------------------------------------------------------------------------------------------


def sound() -> Evidence:
    """Ten jobs, each submitted, run and settled once; the last one was killed at its first run."""
    submitted, noted, commits = [], [], []
    for number in range(JOBS):
        name, public_id = f"job{number}", f"default.{number:043x}"
        submitted += [Submitted("try", name, "", number), Submitted("ack", name, public_id, number + 1)]
        last = 1 if number == JOBS - 1 else 0
        began = 1_000 * number
        noted += [Noted("start", name, public_id, 1, number + run, 1, began + 100 * run, True, "") for run in range(last + 1)]
        noted.append(Noted("end", name, public_id, 1, number + last, 1, began + 150, True, ""))
        commits.append(Commit(public_id, "success", number + last, 1, began + 160))
    return Evidence(submitted, noted, commits, {})


def damaged() -> dict[str, Evidence]:
    """Per kind of damage, the sound evidence with it."""
    whole = sound()
    first, second = whole.noted[0], whole.noted[1]
    again = first._replace(fence=99, at_ns=second.at_ns - 10)
    lost_id = first.id
    without = replace(
        whole,
        noted=[line for line in whole.noted if line.id != lost_id],
        commits=[commit for commit in whole.commits if commit.id != lost_id],
    )
    return {
        "lost": without,
        "ghosts": replace(whole, noted=[*whole.noted, first._replace(name="stranger", id="default.ff", fence=7)]),
        "overlaps": replace(whole, noted=[*whole.noted, again]),
        "double_commits": replace(whole, commits=[*whole.commits, whole.commits[3]._replace(fence=99)]),
        "stuck": replace(without, places={lost_id: "leases"}),
    }


def check_judge() -> None:
    """Raises CheckerFailed."""
    if found := judge(sound()).broken():
        raise CheckerFailed(f"the judge finds {found} where nothing is wrong: no verdict of it can be trusted")
    for damage, seen in damaged().items():
        verdict = asdict(judge(seen))
        found = [kind for kind in KINDS if verdict[kind]]
        if found != [damage]:
            raise CheckerFailed(f"the judge was shown one job of the kind {damage!r} and found {found}: no verdict of it can be trusted")
    if (runs := judge(sound()).duplicate_runs) != 1 or judge(damaged()["overlaps"]).duplicate_runs != 2:
        raise CheckerFailed(f"the judge counts {runs} duplicate runs where there is one")
    if judge(replace(damaged()["stuck"], places={sound().noted[0].id: "dead"})).broken():
        raise CheckerFailed("the judge takes a dead job for a lost or a stuck one")


# --- on a server ------------------------------------------------------------------------------------------------------


async def check_on_server(binary: ServerBinary, folder: Path) -> None:
    """Lose and double real jobs, and look whether judge and audit see exactly these. Raises CheckerFailed."""
    async with Site(folder, PrivateServer(folder / "data", binary=binary), lease=1.0) as site:
        pairs = await site.submit_many(JOBS, "work", 0.0)
        (lost, lost_job), (homeless, homeless_job), (doubled, _) = pairs[:3]
        site.ask("ZREM", site.keys.ready, lost_job.place[1])
        site.ask("HDEL", site.keys.jobs, lost_job.place[1])
        site.ask("ZREM", site.keys.ready, homeless_job.place[1])
        await site.app.submit("work", doubled, 0.0)  # under the name of a job that there is
        await site.worker()
        if not await site.rest(60):
            raise CheckerFailed(f"the jobs of the self-check did not end: {site.counts()}")
        verdict, audit = judge(site.evidence()), await site.audit()
    found = (verdict.lost, verdict.double_commits, verdict.stuck, verdict.ghosts, verdict.overlaps)
    if found != ((lost,), (doubled,), (homeless,), (), ()):
        raise CheckerFailed(f"one job was lost, one run twice, one left without a place; the judge found {verdict.broken()}")
    kinds = [(finding.kind, finding.id) for finding in audit.findings]
    if kinds != [("no place", homeless_job.place[1])]:
        raise CheckerFailed(f"one job was left without a place; the audit found {audit.findings}")
