"""One fault, one seed, one profile: a trial. It notes what broke, what was measured, and keeps the evidence where something broke."""

import asyncio
import random
import shutil
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from bananas.chaos.judge import KINDS, Verdict, judge
from bananas.chaos.processes import NotInTime
from bananas.chaos.proxy import Proxy
from bananas.chaos.site import Site
from bananas.errors import BananasError
from bananas.server import PrivateServer, ServerBinary

T = TypeVar("T")


class Profile(Struct, frozen=True):
    """How long and how large trials are.

    Attributes:
        lease: of workers, in seconds. slack_s: what deadlines of the promises get on top, for a machine with other things to do.
        limit_s: of one trial. minutes: of a soak.
    """

    name: str
    lease: float
    slack_s: float
    limit_s: float
    minutes: float

    @property
    def back_s(self) -> float:
        """How soon the jobs of a dead worker are ready again: lease, grace of a half, a look every quarter, 1 s to be done."""
        return self.lease * 1.75 + 1 + self.slack_s

    @property
    def consumes_s(self) -> float:
        """How soon each worker consumes again after any restart."""
        return 5 + self.slack_s


SHORT = Profile("short", lease=1.0, slack_s=5.0, limit_s=120.0, minutes=1.0)
LONG = Profile("long", lease=8.0, slack_s=0.0, limit_s=900.0, minutes=10.0)


class Skipped(BananasError):
    """This machine cannot show the fault; the message says why."""


class Outcome(Struct, frozen=True, kw_only=True):
    """What a trial gave.

    Attributes:
        recoveries: seconds until what the fault took away was back. numbers: what else was counted.
        broken: the invariants that did not hold, in words; allowed: kinds of damage that are only counted under this fault.
        skipped: why it was not done, or "". evidence: where ledger, logs and data are kept, or "".
    """

    fault: str
    seed: int
    profile: str
    server: str
    took_s: float = 0.0
    acked: int = 0
    runs: int = 0
    duplicate_runs: int = 0
    lost: int = 0
    ghosts: int = 0
    overlaps: int = 0
    double_commits: int = 0
    stuck: int = 0
    findings: int = 0
    recoveries: tuple[float, ...] = ()
    numbers: dict[str, float] = {}
    broken: tuple[str, ...] = ()
    skipped: str = ""
    evidence: str = ""


class Fault(Struct, frozen=True):
    """A fault that can be injected.

    Attributes:
        key: as in the table of docs/guarantees.md. title, how: what it is and what is done. holds: what must hold besides the ledger.
        run: does it. needs: "sentinel" or "cluster" where one server does not show it, "root" for namespaces of the kernel.
        allowed: kinds of damage (of `judge.KINDS`) that are only counted. in_short: whether `make test` shows it.
    """

    key: str
    title: str
    how: str
    holds: str
    run: Callable[["Trial"], Awaitable[None]]
    needs: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    in_short: bool = True


class Trial:
    """What a fault's function is given.

    Attributes:
        dice: all chance in it comes from here.
    """

    def __init__(self, seed: int, profile: Profile, binary: ServerBinary, folder: Path) -> None:
        self.seed, self.profile, self.binary, self.folder = seed, profile, binary, folder
        self.dice = random.Random(seed)
        self.broken: list[str] = []
        self.allowed: set[str] = set()
        self.recoveries: list[float] = []
        self.numbers: dict[str, float] = {}
        self.verdicts: list[Verdict] = []
        self.findings = 0
        self.stack = AsyncExitStack()
        self.sites: list[Site] = []

    def pick(self, short: T, long: T) -> T:
        """The one of this profile."""
        return short if self.profile.name == "short" else long

    # --- what it takes place on ---

    async def site(
        self,
        *,
        durable: bool = False,
        settings: Mapping[str, str] | None = None,
        proxied: bool = False,
        lease: float = 0.0,
        budget_s: float = 30.0,
    ) -> Site:
        """A server and all around it, gone at the end of the trial.

        Args:
            durable: append-only file, everysec. proxied: behind a proxy; see `proxy`. lease: other than the profile's.
        """
        folder = self.folder / f"site{len(self.sites)}"
        folder.mkdir()
        server = PrivateServer(folder / "data", binary=self.binary, appendonly=durable, settings=settings)
        url = ""
        if proxied:
            await asyncio.to_thread(server.start)
            self.proxy = self.stack.enter_context(Proxy(server.url, self.seed))
            url = self.proxy.url
        return await self.enter(Site(folder, server, lease=lease or self.profile.lease, url=url, budget_s=budget_s))

    async def enter(self, site: Site) -> Site:
        """Start a site, which is gone at the end of the trial."""
        self.sites.append(site)
        return await self.stack.enter_async_context(site)

    # --- what it finds ---

    def check(self, holds: object, text: str) -> None:
        """Note an invariant that does not hold."""
        if not holds and text not in self.broken:
            self.broken.append(text)

    def recovered(self, seconds: float, limit_s: float, what: str) -> None:
        """Note how long something took to be back."""
        self.recoveries.append(round(seconds, 3))
        self.check(seconds <= limit_s, f"{what} took {seconds:.1f} s, more than {limit_s:g} s")

    def count(self, name: str, by: float = 1) -> None:
        """Add to a number."""
        self.numbers[name] = self.numbers.get(name, 0) + by

    async def judge(self, site: Site, timeout_s: float = 60.0) -> Verdict:
        """Wait until all has ended, and judge ledger and server."""
        if not await site.rest(timeout_s):
            self.broken.append(f"not at rest after {timeout_s:g} s: {site.counts()}")
        verdict = judge(site.evidence())
        self.verdicts.append(verdict)
        self.broken += verdict.broken(self.allowed)
        audit = await site.audit()
        self.findings += len(audit.findings)
        self.check(audit.clean, f"the audit finds {len(audit.findings)}: {'; '.join(finding.detail for finding in audit.findings[:3])}")
        return verdict

    def outcome(self, fault: Fault, took_s: float, **more: Any) -> Outcome:
        """All of it."""
        sums: dict[str, Any] = {kind: sum(len(getattr(verdict, kind)) for verdict in self.verdicts) for kind in KINDS}
        names = ("acked", "runs", "duplicate_runs")
        counts: dict[str, Any] = {name: sum(getattr(verdict, name) for verdict in self.verdicts) for name in names}
        return Outcome(
            fault=fault.key,
            seed=self.seed,
            profile=self.profile.name,
            server=f"{self.binary.kind} {'.'.join(map(str, self.binary.version))}",
            took_s=round(took_s, 1),
            findings=self.findings,
            recoveries=tuple(self.recoveries),
            numbers=self.numbers,
            broken=tuple(self.broken),
            **sums,
            **counts,
            **more,
        )


def run_trial(fault: Fault, seed: int, profile: Profile, binary: ServerBinary, keep_in: Path | None = None) -> Outcome:
    """Run one trial, with an event loop of its own.

    Args:
        keep_in: where the evidence of a broken invariant goes; by default it stays in the temporary folder that the outcome names.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{fault.key}-{seed}-"))
    trial, began = Trial(seed, profile, binary, folder), time.monotonic()
    trial.allowed |= set(fault.allowed)
    skipped = ""
    try:
        asyncio.run(_carry_out(fault, trial))
    except Skipped as reason:
        skipped = str(reason)
    took_s = time.monotonic() - began
    if not trial.broken:
        shutil.rmtree(folder, ignore_errors=True)
        return trial.outcome(fault, took_s, skipped=skipped)
    if keep_in is not None:
        keep_in.mkdir(parents=True, exist_ok=True)
        folder = Path(shutil.move(folder, keep_in))
    outcome = trial.outcome(fault, took_s, evidence=str(folder))
    (folder / "outcome.json").write_bytes(msgspec.json.format(msgspec.json.encode(outcome)))
    return outcome


async def _carry_out(fault: Fault, trial: Trial) -> None:
    async with trial.stack:
        try:
            async with asyncio.timeout(trial.profile.limit_s):
                await fault.run(trial)
        except Skipped:
            raise
        except (NotInTime, TimeoutError) as late:
            trial.broken.append(str(late) or f"not through within {trial.profile.limit_s:g} s")
        except Exception:
            trial.broken.append(f"it failed: {traceback.format_exc()}")
        if trial.broken:
            await asyncio.to_thread(_keep_data, trial)


def _keep_data(trial: Trial) -> None:
    """Have the servers write what they hold into their folders, and note where each id is."""
    for site in trial.sites:
        try:
            (site.folder / "places.json").write_bytes(msgspec.json.encode(site.places()))
            site.ask("SAVE")
        except (BananasError, OSError) as error:  # the server is away
            (site.folder / "places.json").write_text(f"not read: {type(error).__name__}: {error}", encoding="utf-8")
