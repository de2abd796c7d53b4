"""Every table at tiny sizes: its figures are there and above 0. What they are is not looked at."""

import importlib
from collections.abc import Iterator

import pytest

from bananas.bench import table
from bananas.bench.command import TABLES
from bananas.bench.goals import every_goal
from bananas.bench.session import Bench
from bananas.bench.sizes import SMOKE
from bananas.bench.table import Figure

# Where nothing is measured in a whole column: a smoke run is too short for a difference, or has no such variant.
MAY_BE_ZERO = {"worker CPU", "client CPU", "worker CPU, run", "of the limit"}
MAY_BE_ANYTHING = {"memory growth of a worker", "memory slope of a worker", "commands of an idle worker"}


@pytest.fixture(scope="module")
def bench(server_kind: str) -> Iterator[Bench]:
    with Bench(server_kind, SMOKE) as made:
        yield made


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_every_figure_and_travels_as_json(bench: Bench, name: str) -> None:
    measured = importlib.import_module(f"bananas.bench.{name}").measure(bench, SMOKE)
    assert measured.key == name
    assert measured.rows
    for row in measured.rows:
        assert tuple(row.cells) == measured.columns or set(row.cells) == set(measured.columns), row.label
        for column, cell in row.cells.items():
            if isinstance(cell, str):
                assert cell, f"{row.label}, {column}"
            elif row.label not in MAY_BE_ANYTHING:
                assert cell.values, f"{row.label}, {column}"
                assert cell.headline > 0 or column in MAY_BE_ZERO or "CPU" in row.label, f"{row.label}, {column}: {cell}"
    for column in measured.columns:
        assert any(row.cells[column] != "-" for row in measured.rows), f"nothing was measured in column {column!r}"
    assert not measured.plot or any(isinstance(row.cells[measured.plot], Figure) for row in measured.rows)
    depths = {"depth"}  # whose words name the depth, which is another one here
    assert {goal.text for goal in measured.goals} <= set(every_goal().get(name, ())) or name in depths
    assert table.from_json(table.to_json(measured)) == measured
