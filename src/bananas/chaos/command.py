"""`bananas chaos`: inject faults into real servers and workers, and count what becomes of each job. Modules are imported when it runs."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bananas.errors import ConfigError

if TYPE_CHECKING:
    from bananas.bench.environment import Environment
    from bananas.chaos.report import Results
    from bananas.chaos.trials import Fault, Outcome, Profile
    from bananas.server import ServerBinary

EXAMPLES = """
\b
Examples:
  bananas chaos --quick                     each fault once, leases of 1 s: some minutes
  bananas chaos --only F1,F7 --seeds 5      two faults, five seeds each, default leases
  bananas chaos --only F1 --seed 1234       replay one
  bananas chaos --only F38 --minutes 60     soak for an hour, faults drawn at random
  bananas chaos --json all.json --resume    go on where the last run stopped
"""


@click.command("chaos", epilog=EXAMPLES)
@click.option("--only", metavar="NAMES", help="Some of the faults, with commas: F1,F7. Default: all but the soak, F38.")
@click.option("--seeds", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Trials of each fault, seed by seed.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The first seed.")
@click.option("--minutes", type=click.FloatRange(0.1, 10_000), help="How long the soak (F38) takes. Default: 10, --quick 1.")
@click.option("--quick", is_flag=True, help="Leases of 1 s and few jobs, as in the tests.")
@click.option("--server", "kind", type=click.Choice(["redis", "valkey"]), help="Of which kind. Default: Valkey, where it is installed.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write each outcome to this file.")
@click.option("--resume", is_flag=True, help="Keep what the --json FILE has, and run only what it lacks.")
@click.option("--report", "folder", type=click.Path(path_type=Path, file_okay=False), help="Write the table into guarantees.md there.")
@click.option("--keep", "keep_in", type=click.Path(path_type=Path, file_okay=False), help="Where the evidence of what broke is moved to.")
@click.option("--list", "listing", is_flag=True, help="List the faults and what must hold, and end.")
def chaos_command(only: str | None, seeds: int, seed: int, minutes: float | None, kind: str | None, listing: bool, **given: Any) -> None:
    """Inject faults into servers and workers of its own, and prove by a ledger that no job is lost. Exit code 1 when an invariant broke."""
    _fit()
    run = _Run(kind, given["quick"], minutes)
    faults = run.chosen(only)
    if listing:
        for fault in faults:
            click.echo(f"{fault.key:4} {fault.title}: {fault.how}. Must hold: {fault.holds}.")
        return
    if given["resume"] and given["json_path"] is None:
        raise ConfigError("--resume goes on with what a file has: name it with --json FILE.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends
    run.check_checker()
    run.begin(given["json_path"], given["keep_in"], resume=given["resume"])
    for number in range(seed, seed + seeds):
        for fault in faults:
            run.trial(fault, number)
    sys.exit(run.finish(given["folder"]))


def _fit() -> None:
    """Raises ConfigError where processes cannot be watched."""
    if not Path("/proc/self/stat").exists():
        raise ConfigError("bananas chaos watches, stops and kills processes through /proc: run it on Linux, or in a Linux container.")


class _Run:
    """The trials of one call."""

    def __init__(self, kind: str | None, quick: bool, minutes: float | None) -> None:
        from msgspec.structs import replace

        from bananas.chaos.faults import all_faults
        from bananas.chaos.trials import LONG, SHORT
        from bananas.server import find_server_binary

        self._binary: ServerBinary = find_server_binary(kind)
        profile: Profile = SHORT if quick else LONG
        self._profile = profile if minutes is None else replace(profile, minutes=minutes, limit_s=profile.limit_s + minutes * 60)
        self._faults: dict[str, Fault] = all_faults()
        self._results: Results | None = None
        self._path: Path | None = None
        self._keep_in: Path | None = None
        self._now: list[Outcome] = []

    def chosen(self, only: str | None) -> "list[Fault]":
        """The faults asked for. Raises ConfigError for one that there is not."""
        if only is None:
            return [fault for fault in self._faults.values() if fault.key != "F38"]
        keys = [key.strip().upper() for key in only.split(",") if key.strip()]
        for key in keys:
            if key not in self._faults:
                raise ConfigError(f"--only {key}: there is no such fault; there are {', '.join(self._faults)}")
        return [self._faults[key] for key in dict.fromkeys(keys)]

    def check_checker(self) -> None:
        """The checker finds what is done on purpose, before it is believed. Raises CheckerFailed."""
        import asyncio
        import tempfile

        from bananas.chaos import selfcheck

        selfcheck.check_judge()
        with tempfile.TemporaryDirectory(prefix="chaos-check-") as folder:
            asyncio.run(selfcheck.check_on_server(self._binary, Path(folder)))
        click.echo("the checker found each damage that was done on purpose, and nothing else")

    def begin(self, path: Path | None, keep_in: Path | None, *, resume: bool) -> None:
        """Read what there is, if it is to be kept."""
        from bananas.bench.environment import environment
        from bananas.chaos.report import Results, read

        self._path, self._keep_in = path, keep_in
        here: Environment = environment(str(self._binary).split(" (")[0], {})
        self._results = Results(here, (here.command,), ())
        if resume and path is not None and path.exists():
            earlier = read(path)
            commands = tuple(dict.fromkeys([*earlier.commands, here.command]))
            self._results = Results(earlier.environment, commands, earlier.outcomes)

    def trial(self, fault: "Fault", seed: int) -> None:
        """One trial, unless there is its outcome."""
        from msgspec.structs import replace

        from bananas.chaos.report import write
        from bananas.chaos.trials import run_trial

        assert self._results is not None
        done = {(outcome.fault, outcome.seed, outcome.profile) for outcome in self._results.outcomes}
        if (fault.key, seed, self._profile.name) in done:
            return
        outcome = run_trial(fault, seed, self._profile, self._binary, self._keep_in)
        self._now.append(outcome)
        self._results = replace(self._results, outcomes=(*self._results.outcomes, outcome))
        if self._path is not None:
            write(self._results, self._path)
        self._tell(fault, outcome)

    def _tell(self, fault: "Fault", outcome: "Outcome") -> None:
        if outcome.skipped:
            click.echo(f"{fault.key:4} seed {outcome.seed}: SKIPPED: {outcome.skipped}")
            return
        back = f", back within {max(outcome.recoveries):.2f} s" if outcome.recoveries else ""
        figures = f"{outcome.acked:,} acked, {outcome.lost} lost, {outcome.duplicate_runs} duplicate runs{back}"
        click.echo(f"{fault.key:4} seed {outcome.seed}: {'BROKEN' if outcome.broken else 'holds'}: {figures} ({outcome.took_s:.1f} s)")
        for text in outcome.broken:
            click.echo(f"     {text}")
        if outcome.broken:
            quick = " --quick" if outcome.profile == "short" else ""
            kind = self._binary.kind
            click.echo(f"     replay: bananas chaos --only {fault.key} --seed {outcome.seed}{quick} --server {kind}")
            click.echo(f"     evidence: {outcome.evidence}")

    def finish(self, folder: Path | None) -> int:
        """Write the report. Returns the exit code."""
        from bananas.chaos.report import markdown, put_into_page

        assert self._results is not None
        if folder is not None:
            click.echo(f"wrote {put_into_page(markdown(self._results, self._faults), folder)}")
        broken = [outcome for outcome in self._now if outcome.broken]
        skipped = sum(bool(outcome.skipped) for outcome in self._now)
        click.echo(f"{len(self._now)} trials, {len(broken)} broken, {skipped} skipped")
        return 1 if broken else 0
