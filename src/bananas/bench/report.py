"""The report of a benchmark: Markdown with a section per table, its goals first, and the environment that its figures depend on."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bananas.bench.environment import Environment
from bananas.bench.limit import KEY as LIMIT
from bananas.bench.table import Figure, Goal, Row, Table, figure, number, with_unit
from bananas.errors import ConfigError

SHARE = "of the limit"
EARLIER = "Of an earlier run:"
NOT_MEASURED = "not measured in this run"
HALF = "Drain, one process, 100 slots: at least 50% of the limit"
HALF_ROWS = ("100 B, 1 process, 100 slots", "1 KB, 1 process, 100 slots")

ORIGINAL = """\
## What the original's report got wrong

Bananas sets out to do what an older queue, written in Go, was reported to do. Two claims of that report do not hold:

- Its "end-to-end p99" was the latency of the submission: the time until the submit call returned, when no job had started. Here every
  latency names its two ends: *start* is from the submit call to the start of the handler, *completed* until the server had accepted the
  outcome, and what a submit call takes is in a table of its own.
- It never measured 10,000 jobs per second. The best that it claims end to end is 1,650/s; the 10,000 came from arithmetic. Here "jobs/s" is
  always a count of handlers that ran, or of submits that the server acknowledged, divided by the time that this took.
"""

METHOD = """\
Each figure is the median of {reps} repetition{plural}, with the least and the greatest in brackets; the repetitions of all variants of a
table are interleaved. A percentile is that of all samples of all repetitions together, and the brackets show those of single repetitions.
Jobs are counted without asking the server. Workers are started by the command line and clients use the public interface, in processes of
their own, with every guarantee at its default; results are off where a row does not say otherwise. CPU times are per job or operation.
"""


class Report(Struct, frozen=True):
    """What one run of the benchmark gave. `sizes`: "full", "quick" or "smoke"."""

    environment: Environment
    sizes: str
    reps: int
    tables: tuple[Table, ...]

    def table(self, key: str) -> Table | None:
        """One of its tables."""
        return next((table for table in self.tables if table.key == key), None)


def read_report(path: Path) -> Report:
    """The report that `bananas bench --json` wrote. Raises ConfigError when the file is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{path} is no report of `bananas bench --json`: {error}") from None


def together(report: Report, earlier: Report, order: Sequence[str]) -> Report:
    """A report with those tables of an earlier run, too, that it has not measured itself; they say which run they are of."""
    own = {table.key for table in report.tables}
    run = earlier.environment
    note = f"{EARLIER} `{run.command}`, begun {run.began}, {earlier.sizes} sizes, {earlier.reps} repetitions."
    added = [
        table if _is_earlier(table) else replace(table, notes=(*table.notes, note)) for table in earlier.tables if table.key not in own
    ]
    tables = sorted(map(without_share, (*report.tables, *added)), key=lambda table: order.index(table.key))
    return replace(report, tables=with_shares(tables))


def _is_earlier(table: Table) -> bool:
    return any(note.startswith(EARLIER) for note in table.notes)


def write_json(report: Report, path: Path) -> None:
    """The report as JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


# --- shares of the limit ----------------------------------------------------------------------------------------------


def with_shares(tables: Sequence[Table]) -> tuple[Table, ...]:
    """The tables, those whose rows name a limit with a column that says how much of it they reach; as they were without that table."""
    limit = next((table for table in tables if table.key == LIMIT), None)
    return tuple(tables) if limit is None else tuple(_with_share(table, limit) for table in tables)


def _with_share(table: Table, limit: Table) -> Table:
    if not any(row.limit for row in table.rows):
        return table
    rate = table.columns[0]
    rows = tuple(replace(row, cells=row.cells | {SHARE: _share(row, rate, limit)}) for row in table.rows)
    goals = table.goals
    for row in rows:
        share = row.cells[SHARE]
        if row.label in HALF_ROWS and isinstance(share, Figure):
            goals += (Goal(half_text(row.label.partition(",")[0]), share.headline >= 50, str(share)),)
    return replace(table, columns=(rate, SHARE, *table.columns[1:]), rows=rows, goals=goals)


def half_text(size: str) -> str:
    """The words of a goal."""
    return f"{HALF}, {size}"


def without_share(table: Table) -> Table:
    """A table as it was measured."""
    columns = tuple(column for column in table.columns if column != SHARE)
    rows = tuple(replace(row, cells={column: cell for column, cell in row.cells.items() if column != SHARE}) for row in table.rows)
    return replace(table, columns=columns, rows=rows, goals=tuple(goal for goal in table.goals if not goal.text.startswith(HALF)))


def _share(row: Row, rate: str, limit: Table) -> Figure | str:
    reached = row.cells[rate]
    bounds = [other.cells.get(row.limit[1]) for other in limit.rows if row.limit and other.label == row.limit[0]]
    if isinstance(reached, Figure) and bounds and isinstance(bound := bounds[0], Figure):
        return figure([100 * reached.headline / bound.headline], "%")
    return "-"


def share_lines(tables: Sequence[Table]) -> list[str]:
    """The shares and the goal that hangs on them, in words."""
    lines = []
    for table in tables:
        shares = [(row.label, cell) for row in table.rows if isinstance(cell := row.cells.get(SHARE), Figure)]
        lines += [f"{table.title}, {label}: {cell} {SHARE}" for label, cell in shares]
        lines += [f"{'met   ' if goal.met else 'missed'} {goal.text}: {goal.figure}" for goal in table.goals if goal.text.startswith(HALF)]
    return lines


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(report: Report, plots: Collection[str] = (), every_goal: Mapping[str, Sequence[str]] | None = None) -> str:
    """The whole report.

    Args:
        plots: keys of the tables that have a plot in the folder `performance` beside the report.
        every_goal: the words of all goals by the key of their table; those that no table has are told as not measured.
    """
    parts = ["# Performance\n", _opening(report), _environment(report.environment), ORIGINAL, _goals(report.tables, every_goal or {})]
    parts += [_section(table, table.key in plots) for table in report.tables]
    return "\n".join(parts)


def _opening(report: Report) -> str:
    text = METHOD.format(reps=report.reps, plural="" if report.reps == 1 else "s")
    own = [table.title for table in report.tables if not _is_earlier(table)]
    if len(own) < len(report.tables):
        text += f"\nThis run measured {', '.join(own)}. The other tables are of earlier runs: each says which, and its repetitions.\n"
    if report.sizes != "full":
        text += f"\n**This run was a {report.sizes} one: its sizes are too small for figures to rely on.**\n"
    return f"Written by `{report.environment.command}`, which repeats it.\n\n{text}"


def _environment(environment: Environment) -> str:
    lines = [f"| {name} | {_escaped(text)} |" for name, text in environment.lines()]
    return "\n".join(["## Environment\n", "| | |", "|---|---|", *lines, ""])


def _goals(tables: Sequence[Table], every: Mapping[str, Sequence[str]]) -> str:
    goals = [goal for table in tables for goal in table.goals]
    texts = {goal.text for goal in goals}
    absent = [text for wanted in every.values() for text in wanted if text not in texts]
    if not goals and not absent:
        return ""
    met, left = sum(goal.met for goal in goals), f", {len(absent)} not measured" if absent else ""
    lines = [f"| {_escaped(goal.text)} | {'met' if goal.met else '**missed**'} | {_escaped(_short(goal))} |" for goal in goals]
    lines += [f"| {_escaped(text)} | {NOT_MEASURED} | - |" for text in absent]
    heading = f"## Goals: {met} of {len(goals) + len(absent)} met{left}\n"
    return "\n".join([heading, "| Goal | | Measured |", "|---|---|---:|", *lines, ""])


def _short(goal: Goal) -> str:
    return goal.figure.replace(" to ", "–")


def _section(table: Table, has_plot: bool) -> str:
    lines = [f"## {table.title}\n", f"{table.question}\n"]
    if has_plot:
        lines.append(f"![{table.title}: {table.plot}](performance/{table.key}.svg)\n")
    numeric = [any(isinstance(row.cells[column], Figure) for row in table.rows) for column in table.columns]
    lines.append(f"| | {' | '.join(map(_escaped, table.columns))} |")
    lines.append(f"|---|{'|'.join('---:' if right else '---' for right in numeric)}|")
    lines += [f"| {_escaped(row.label)} | {' | '.join(cell_text(row.cells[column]) for column in table.columns)} |" for row in table.rows]
    lines += ["", *(f"- {note}" for note in table.notes), ""]
    return "\n".join(lines)


def cell_text(cell: Figure | str) -> str:
    """A cell for people: the headline with its unit, and the least and the greatest repetition."""
    if isinstance(cell, str):
        return _escaped(cell)
    shown = with_unit(cell.headline, cell.unit)
    return shown if len(cell.values) == 1 else f"{shown} ({number(cell.low)}–{number(cell.high)})"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
