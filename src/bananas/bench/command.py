"""`bananas bench`: run tables, show them, write them down. What it needs is imported when it runs, for the command line starts fast."""

import importlib
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from bananas.errors import BananasError, ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from bananas.bench.environment import Environment
    from bananas.bench.report import Report
    from bananas.bench.session import Bench
    from bananas.bench.table import Table

# In the order of the report. "peers" is one more, for --against.
TABLES = (
    *("submission", "end_to_end", "drain", "operations", "depth", "clients", "latency", "cost", "workloads"),
    *("watched", "cluster", "limit"),
)
PEERS = "peers"
PLAIN_WIDTH = 200  # columns of a table that does not go to a terminal

EPILOG = f"""
\b
Tables: {" ".join(TABLES)}

\b
Examples:
  bananas bench --quick                                a look, some minutes
  bananas bench --report docs --json bench.json        the whole report, an hour or so
  bananas bench --only drain,limit --server valkey     two tables
  bananas bench --only cluster                         one primary against three
  bananas bench --only drain --against arq,celery      side by side with others
  bananas bench --only peers --against all --also bench.json --report docs    a report in two runs
  bananas bench --soak 1h                              steady load: does anything grow?
"""


@click.command("bench", epilog=EPILOG)
@click.option("--only", metavar="NAMES", help="These tables only, separated by commas.")
@click.option("--against", metavar="NAMES", help="Other queues to measure in the same run, e.g. celery,arq; all: every one that is known.")
@click.option(
    "--server",
    "kind",
    type=click.Choice(["redis", "valkey", "embedded"]),
    help="The server to start. Default: redis, where it is installed.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures to this file.")
@click.option("--also", type=click.Path(path_type=Path, dir_okay=False), help="Take other tables from the --json FILE of an earlier run.")
@click.option("--report", "report_folder", type=click.Path(path_type=Path, file_okay=False), help="Write performance.md and plots here.")
@click.option("--reps", type=click.IntRange(1, 100), help="Repetitions of each variant. Default: 5, --quick 3, --smoke 1.")
@click.option("--quick", "size", flag_value="quick", help="Small sizes: figures to look at, not to rely on.")
@click.option("--smoke", "size", flag_value="smoke", help="Tiny sizes: does it work at all?")
@click.option("--soak", metavar="TIME", help="Instead of tables: steady load for so long, e.g. 1h; fails when something grows.")
@click.option("--rate", type=click.FloatRange(1, 100_000), default=200.0, show_default=True, help="Of --soak: jobs per second.")
def bench_command(
    only: str | None,
    against: str | None,
    kind: str | None,
    reps: int | None,
    size: str | None,
    soak: str | None,
    rate: float,
    **files: Path | None,
) -> None:
    """Measure Bananas on a server of its own: throughput, latency, cost, limits, and other queues beside it."""
    from rich.console import Console

    from bananas.bench import sizes
    from bananas.bench.report import read_report, together
    from bananas.bench.session import Bench

    names = _names(only, against)
    earlier = read_report(files["also"]) if files["also"] is not None else None
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    chosen = {"full": sizes.FULL, "quick": sizes.QUICK, "smoke": sizes.SMOKE}[size or "full"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends
    with Bench(kind or _installed_kind(), chosen, reps, console) as bench:
        if soak is not None:
            sys.exit(_soak(bench, soak, rate))
        report, failures = run_tables(bench, names, _split(against))
    if earlier is not None:
        report = together(report, earlier, (*TABLES, PEERS))
    _write(report, files["json_path"], files["report_folder"], console)
    for failure in failures:
        click.echo(f"bananas bench: {failure}", err=True)
    sys.exit(1 if failures else 0)


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(name for name in (part.strip() for part in (text or "").split(",")) if name)


def _names(only: str | None, against: str | None) -> list[str]:
    """The tables to run, in the order of the report. Raises ConfigError for one, or a peer, that there is not."""
    known = (*TABLES, *([PEERS] if against else []))
    chosen = [name.replace("-", "_") for name in _split(only)]
    for name in chosen:
        if name not in known:
            raise ConfigError(
                f"--only {name}: there is no such table{' without --against' if name == PEERS else ''}; there are {', '.join(known)}"
            )
    if against:
        from bananas.bench.peers._declared import declared

        for name in _split(against):
            if name != "all":
                declared(name)  # one that there is not is told now, not behind an hour of tables
    return [name for name in known if not chosen or name in chosen or name == PEERS]


def _installed_kind() -> str:
    from bananas.server import find_server_binary

    try:
        return find_server_binary("redis").kind
    except ConfigError:
        return find_server_binary().kind


def _soak(bench: "Bench", duration: str, rate: float) -> int:
    from bananas.bench.soak import run
    from bananas.config import parse_duration

    soaked = run(bench, parse_duration(duration, "--soak"), rate=rate)
    for line in soaked.lines():
        click.echo(line)
    return soaked.exit_code


# --- the run ----------------------------------------------------------------------------------------------------------


def run_tables(bench: "Bench", names: Sequence[str], against: Sequence[str] = ()) -> tuple["Report", list[str]]:
    """Measure tables, showing each as it is through.

    Returns:
        the report, and in words which tables failed: the others are in it.
    """
    from bananas.bench.environment import finished
    from bananas.bench.report import Report, share_lines, with_shares

    environment = _environment(bench)
    tables: list[Table] = []
    failures: list[str] = []
    for name in names:
        try:
            table = _measured(bench, name, against)
        except KeyboardInterrupt:
            failures.append(f"interrupted in table {name}")
            break
        except Exception as error:
            failures.append(f"table {name} failed: {type(error).__name__}: {error}")
            bench.say(failures[-1] if isinstance(error, BananasError) else traceback.format_exc())
            continue
        tables.append(table)
        bench.show(table)
    report = Report(finished(environment), bench.sizes.name, bench.reps, with_shares(tables))
    for line in share_lines(report.tables):
        bench.say(line)
    return report, failures


def _environment(bench: "Bench") -> "Environment":
    from bananas.bench.environment import PERSISTENCE, environment

    with bench.server() as serving:
        return environment(serving.name, serving.settings(PERSISTENCE))


def _measured(bench: "Bench", name: str, against: Sequence[str]) -> "Table":
    """One table, with a note of what else the machine did meanwhile."""
    from msgspec.structs import replace

    from bananas.bench.processes import foreign_share, machine_times

    before, began = machine_times(), time.monotonic()
    if name == PEERS:
        from bananas.bench.contest import measure

        table = measure(bench, bench.sizes, against)
    else:
        table = cast("Table", importlib.import_module(f"bananas.bench.{name}").measure(bench, bench.sizes))
    notes = (f"Took {time.monotonic() - began:,.0f} s.",)
    share = foreign_share(before, machine_times())
    if share is not None and bench.kind != "embedded":  # whose server is no child of ours
        notes = (f"Took {time.monotonic() - began:,.0f} s; other programs used {share:.0%} of the machine meanwhile.",)
    return replace(table, notes=(*table.notes, *notes))


def _write(report: "Report", json_path: Path | None, folder: Path | None, console: "Console") -> None:
    from bananas.bench import plots
    from bananas.bench.goals import every_goal
    from bananas.bench.report import markdown, write_json

    if json_path is not None:
        write_json(report, json_path)
        console.print(f"wrote {json_path}", highlight=False)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    drawn: set[str] = set()
    try:
        plots.require()
        (folder / "performance").mkdir(exist_ok=True)
        drawn = {table.key for table in report.tables if plots.draw(table, folder / "performance" / f"{table.key}.svg")}
    except ConfigError as error:
        click.echo(f"bananas bench: {error}", err=True)
    path = folder / "performance.md"
    path.write_text(markdown(report, drawn, every_goal()), encoding="utf-8")
    console.print(f"wrote {path}{f' and {len(drawn)} plots' if drawn else ''}", highlight=False)
