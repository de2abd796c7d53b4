"""What a benchmark gives: figures in the rows of tables, with what was aimed at. Values only, so that they travel as JSON.

A figure keeps one value per repetition, never their mean: the headline is the median, with the least and the greatest beside it. A
latency percentile is taken from the samples of all repetitions together (`pooled`), because percentiles cannot be averaged; its values
per repetition then show the spread.
"""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

import msgspec
from msgspec import Struct


class Figure(Struct, frozen=True):
    """One measured quantity.

    Attributes:
        values: one per repetition, in order; at least one.
        unit: as it is printed behind the number: "/s", "us", "ms", "s", "B", "MB", "%", "x", "".
        pooled: for a percentile: the one of the samples of all repetitions.
    """

    values: tuple[float, ...]
    unit: str
    pooled: float | None = None

    @property
    def median(self) -> float:
        """The median of the repetitions."""
        return median(self.values)

    @property
    def low(self) -> float:
        """The least of the repetitions."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The greatest of the repetitions."""
        return max(self.values)

    @property
    def headline(self) -> float:
        """What is printed and compared: `pooled` where there is one, else the median."""
        return self.median if self.pooled is None else self.pooled

    def __str__(self) -> str:
        shown = with_unit(self.headline, self.unit)
        return shown if len(self.values) == 1 else f"{shown} ({number(self.low)} to {number(self.high)})"


def number(value: float) -> str:
    """Three figures that say something: 12,345 and 1,234, 123, 12.3, 1.23, 0.123."""
    size = abs(value)
    decimals = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{decimals}f}"


def with_unit(value: float, unit: str) -> str:
    """A number with its unit: "12,345/s", "91 us", "95%", "3.1x"."""
    return f"{number(value)}{unit}" if unit in ("", "%", "x") or unit.startswith("/") else f"{number(value)} {unit}"


class Row(Struct, frozen=True):
    """One variant of what was measured.

    Attributes:
        cells: per column a figure, or text where a figure has no sense there ("-" at least).
        limit: row and column of the table "limit" that bound this row's first column, where there is such a bound.
    """

    label: str
    cells: dict[str, Figure | str]
    limit: tuple[str, str] | None = None


class Goal(Struct, frozen=True):
    """What was aimed at, and whether it was reached; `figure` is what was measured, in words."""

    text: str
    met: bool
    figure: str


class Table(Struct, frozen=True):
    """The answer to one question.

    Attributes:
        key: names it on the command line and in file names, e.g. "submission".
        question: what it answers, in one line.
        columns: in order, without the label's.
        notes: how it was measured, and what to know when reading it.
        plot: the column that a plot shows; empty: none.
    """

    key: str
    title: str
    question: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    goals: tuple[Goal, ...] = ()
    plot: str = ""

    def cell(self, label: str, column: str) -> Figure:
        """The figure in one cell. Raises KeyError where there is none."""
        for row in self.rows:
            cell = row.cells.get(column)
            if row.label == label and isinstance(cell, Figure):
                return cell
        raise KeyError(f"table {self.key!r} has no figure in row {label!r}, column {column!r}")


class Aim(NamedTuple):
    """A goal for one cell: at least or at most so much."""

    text: str
    row: str
    column: str
    least: float | None = None
    most: float | None = None


def judged(rows: Sequence[Row], aims: Iterable[Aim]) -> tuple[Goal, ...]:
    """The goals of a table; those whose cell was not measured are left out."""
    cells = {(row.label, column): cell for row in rows for column, cell in row.cells.items()}
    found = []
    for aim in aims:
        cell = cells.get((aim.row, aim.column))
        if isinstance(cell, Figure):
            low_enough = aim.most is None or cell.headline <= aim.most
            high_enough = aim.least is None or cell.headline >= aim.least
            found.append(Goal(aim.text, low_enough and high_enough, str(cell)))
    return tuple(found)


def at_least(text: str, measured: Figure, wanted: float) -> Goal:
    """A goal for a figure that no cell shows."""
    return Goal(text, measured.headline >= wanted, str(measured))


def figure(values: Iterable[float], unit: str) -> Figure:
    """A figure of one value per repetition."""
    return Figure(tuple(values), unit)


def to_json(table: Table) -> bytes:
    """The table as JSON."""
    return msgspec.json.encode(table)


def from_json(text: bytes | str) -> Table:
    """The table from its JSON. Raises msgspec.ValidationError where it is none."""
    return msgspec.json.decode(text, type=Table)
