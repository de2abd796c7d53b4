"""Plots of a report, as SVG: one column of a table as bars, with the least and the greatest repetition. Needs the extra `bench`."""

import importlib
from pathlib import Path
from typing import Any

from bananas.bench.table import Figure, Table, number
from bananas.errors import ConfigError

WIDTH_IN, BAR_IN, REST_IN = 8.0, 0.3, 1.0
COLOUR = "#d6a300"
LOGARITHMIC_FROM = 30.0  # the greatest bar is so many times the least


def require() -> None:
    """Raises ConfigError, with what to install, where nothing can be drawn."""
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        raise ConfigError(
            "plots need matplotlib: pip install 'bananas-queue[bench]' (or pip install matplotlib). The report is written without them."
        ) from None


def draw(table: Table, path: Path) -> bool:
    """Write the plot of a table, if it has one. Returns whether it has. Needs `require`."""
    bars = [(row.label, cell) for row in table.rows if isinstance(cell := row.cells.get(table.plot), Figure) and cell.headline > 0]
    if not table.plot or not bars:
        return False
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    # The same figures give the same file; text stays text.
    with pyplot.rc_context(
        {"svg.hashsalt": table.key, "svg.fonttype": "none", "font.size": 9, "axes.spines.right": False, "axes.spines.top": False}
    ):
        chart, axes = pyplot.subplots(figsize=(WIDTH_IN, REST_IN + BAR_IN * len(bars)), layout="constrained")
        _fill(axes, bars)
        axes.set_title(f"{table.title}: {table.plot}", loc="left")
        unit = table.plot if bars[0][1].unit.startswith("/") else bars[0][1].unit
        axes.set_xlabel(f"{unit}, logarithmic" if axes.get_xscale() == "log" else unit)
        chart.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(chart)
    return True


def _fill(axes: Any, bars: list[tuple[str, Figure]]) -> None:
    places = range(len(bars))
    shown = [cell.headline for _, cell in bars]
    below = [max(0.0, cell.headline - cell.low) for _, cell in bars]
    above = [max(0.0, cell.high - cell.headline) for _, cell in bars]
    axes.barh(places, shown, color=COLOUR, xerr=[below, above], error_kw={"lw": 1, "capsize": 2})
    axes.set_yticks(places, [label for label, _ in bars])
    axes.invert_yaxis()
    if max(shown) > LOGARITHMIC_FROM * min(shown):
        axes.set_xscale("log")
    for place, (_, cell) in zip(places, bars, strict=True):
        axes.annotate(number(cell.headline), (cell.high, place), xytext=(6, 0), textcoords="offset points", va="center")
    axes.margins(x=0.12)
