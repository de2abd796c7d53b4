"""Figures, tables, percentiles and the report of them: pure."""

import random
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from bananas.bench import cluster, environment, report, table
from bananas.bench.cost import memory_rows
from bananas.bench.goals import every_goal
from bananas.bench.percentiles import mean, percentile, percentile_figures
from bananas.bench.report import Report, cell_text, markdown, read_report, with_shares, write_json
from bananas.bench.table import Aim, Figure, Row, Table, at_least, figure, judged, number, with_unit
from bananas.errors import ConfigError

RATE = figure((900.0, 1_000.0, 1_300.0), "/s")
LIMIT = Table("limit", "The limit", "?", ("100 B",), (Row("run, 100 at once", {"100 B": figure((4_000,), "/s")}),))
DRAIN = Table(
    "drain",
    "Drain",
    "How fast?",
    ("jobs/s", "how"),
    (Row(report.HALF_ROWS[0], {"jobs/s": RATE, "how": "a | b"}, ("run, 100 at once", "100 B")), Row("other", {"jobs/s": "-", "how": "-"})),
    ("a note",),
    judged([Row("a", {"x": RATE})], [Aim("fast", "a", "x", least=1_000), Aim("slow", "a", "x", most=999), Aim("none", "b", "x", least=1)]),
    plot="jobs/s",
)


def some_environment() -> environment.Environment:
    return environment.environment("Redis 7.0.15", {"appendonly": "no", "save": ""}, ("msgspec", "no-such-package"))


# --- percentiles ------------------------------------------------------------------------------------------------------


def test_a_percentile_is_a_sample_that_so_many_do_not_exceed() -> None:
    ordered = list(range(1, 101))
    assert [percentile(ordered, share) for share in (0.1, 1, 50, 95, 99, 99.9, 100)] == [1, 1, 50, 95, 99, 100, 100]
    assert percentile([7], 99) == 7
    assert [percentile([1, 2], share) for share in (50, 51)] == [1, 2]


def test_percentiles_come_from_all_samples_not_from_those_of_repetitions() -> None:
    quiet, disturbed = [1_000] * 9_900, [9_000_000] * 100
    (p99,) = percentile_figures([quiet, disturbed], (99,), "us", 1_000)
    assert p99.values == (1.0, 9_000.0)
    assert p99.headline == 1.0, "99 percent of all samples are at most 1 us"
    assert p99.median == 4_500.5, "which the middle of both repetitions' percentiles is far from"


def test_the_order_of_samples_does_not_matter() -> None:
    samples = [random.randrange(10**9) for _ in range(1_001)]
    assert percentile_figures([samples], (50,), "ns", 1) == percentile_figures([sorted(samples)], (50,), "ns", 1)
    assert mean([1, 2, 6]) == 3


# --- figures and tables -----------------------------------------------------------------------------------------------


def test_a_figure_is_its_median_with_the_least_and_the_greatest() -> None:
    assert (RATE.median, RATE.low, RATE.high, RATE.headline) == (1_000, 900, 1_300, 1_000)
    assert str(RATE) == "1,000/s (900 to 1,300)"
    assert str(figure((12.345,), "ms")) == "12.3 ms"
    assert Figure((1.0, 3.0), "us", pooled=2.5).headline == 2.5


def test_numbers_have_three_figures_that_say_something() -> None:
    assert [number(value) for value in (12_345.6, 123.4, 12.34, 1.234, 0.1234, 0, 7)] == [
        "12,346",
        "123",
        "12.3",
        "1.23",
        "0.123",
        "0",
        "7",
    ]
    assert [with_unit(95, "%"), with_unit(3.1, "x"), with_unit(91, "us"), with_unit(5, "")] == ["95%", "3.10x", "91 us", "5"]


def test_goals_are_judged_by_the_headline_and_left_out_where_nothing_was_measured() -> None:
    assert [(goal.text, goal.met) for goal in DRAIN.goals] == [("fast", True), ("slow", False)]
    assert at_least("3x", figure((2.9,), "x"), 3).met is False


def test_a_table_gives_a_cell_by_its_names() -> None:
    assert DRAIN.cell(report.HALF_ROWS[0], "jobs/s") == RATE
    with pytest.raises(KeyError, match="other"):
        DRAIN.cell("other", "jobs/s")


def test_a_table_travels_as_json() -> None:
    assert table.from_json(table.to_json(DRAIN)) == DRAIN
    with pytest.raises(msgspec.ValidationError):
        table.from_json(b'{"key": 1}')


# --- the report -------------------------------------------------------------------------------------------------------


def test_rows_are_shown_as_a_share_of_the_limit_where_it_was_measured() -> None:
    shared, limit = with_shares([DRAIN, LIMIT])
    assert limit == LIMIT
    assert shared.columns == ("jobs/s", report.SHARE, "how")
    assert shared.cell(report.HALF_ROWS[0], report.SHARE) == figure((25.0,), "%")
    assert shared.rows[1].cells[report.SHARE] == "-"
    assert (shared.goals[-1].text, shared.goals[-1].met) == (f"{report.HALF}, 100 B", False)
    assert with_shares([DRAIN]) == (DRAIN,)


def test_a_report_takes_other_tables_from_an_earlier_run() -> None:
    other = Table("depth", "Depth", "?", ("p50",), (Row("100 queued", {"p50": RATE}),))
    old_limit = Table("limit", "The limit", "?", ("100 B",), (Row("run, 100 at once", {"100 B": figure((9_000,), "/s")}),))
    earlier = Report(environment.finished(some_environment()), "full", 5, with_shares([DRAIN, old_limit, other]))
    later = Report(environment.finished(some_environment()), "quick", 3, with_shares([LIMIT]))
    made = report.together(later, earlier, ("drain", "depth", "limit"))
    assert [table.key for table in made.tables] == ["drain", "depth", "limit"]
    assert made.tables[2] == LIMIT, "what was measured again wins"
    assert made.tables[0].cell(report.HALF_ROWS[0], report.SHARE) == figure((25.0,), "%"), "of the later limit"
    assert [goal.text for goal in made.tables[0].goals].count(f"{report.HALF}, 100 B") == 1
    assert "full sizes, 5 repetitions" in made.tables[1].notes[-1]
    assert made.sizes == "quick"
    again = report.together(later, made, ("drain", "depth", "limit"))
    assert again.tables[1].notes == made.tables[1].notes, "of its first run, once"
    assert "This run measured The limit. The other tables" in markdown(again)


def test_the_report_has_every_figure_its_goals_and_what_repeats_it() -> None:
    made = Report(environment.finished(some_environment()), "smoke", 3, with_shares([DRAIN, LIMIT]))
    text = markdown(made, {"drain"})
    assert "| 100 B, 1 process, 100 slots | 1,000/s (900–1,300) | 25% | a \\| b |" in text
    assert "Goals: 1 of 3 met" in text
    assert "| slow | **missed** | 1,000/s (900–1,300) |" in text
    assert "![Drain: jobs/s](performance/drain.svg)" in text
    assert "limit.svg" not in text
    assert "This run was a smoke one" in text
    assert "submission" in text
    assert "1,650/s" in text
    assert made.environment.command in text
    assert "- a note" in text


def test_goals_that_were_not_measured_are_told_in_every_case() -> None:
    made = Report(environment.finished(some_environment()), "smoke", 3, (DRAIN,))
    text = markdown(made, (), {"drain": ("fast", "half | whole"), "peers": ("ahead",)})
    assert "Goals: 1 of 4 met, 2 not measured" in text
    assert "| half \\| whole | not measured in this run | - |\n| ahead | not measured in this run | - |" in text
    assert text.count("| fast |") == 1
    assert "Goals: 0 of 1 met, 1 not measured" in markdown(replace(made, tables=(LIMIT,)), (), {"peers": ("ahead",)})


def test_every_goal_has_words_of_its_own() -> None:
    texts = [text for wanted in every_goal().values() for text in wanted]
    assert len(texts) == len(set(texts)) > 30


def test_memory_is_a_slope_through_all_checkpoints_with_its_least_and_greatest_step() -> None:
    rows = {row.label: row.cells["measured"] for row in memory_rows([(100, 30.0), (200, 30.2), (300, 30.1), (400, 30.3)])}
    assert rows["memory after 100 jobs"] == figure((30.0,), "MB")
    assert rows["memory after 400 jobs"] == figure((30.3,), "MB")
    growth, slope = rows["memory growth of a worker"], rows["memory slope of a worker"]
    assert isinstance(growth, Figure)
    assert growth.headline == pytest.approx(1)
    assert isinstance(slope, Figure)
    assert (slope.headline, slope.low, slope.high) == pytest.approx((80, -100, 200))


def test_what_primaries_could_do_is_reckoned_from_the_busiest() -> None:
    made = cluster.row("x", [cluster.Spread(1_000, 5.0, 6.0, 0.01, 0.02, [0.002, 0.001, 0.001], [0.004, 0.001, 0.001])])
    cells = {column: cell.headline for column, cell in made.cells.items() if isinstance(cell, Figure)}
    assert cells["drain/s"] == 5
    assert cells["server CPU, submit"] == pytest.approx(4)
    assert cells["worker CPU, run"] == pytest.approx(20)
    assert cells["servers of all CPU"] == pytest.approx(25)
    assert cells["busiest primary of servers"] == pytest.approx(60)
    assert cells["one primary's core"] == pytest.approx(100_000)
    assert cells["all primaries' cores"] == pytest.approx(1_000 / 0.006)


def test_a_report_travels_as_a_file(tmp_path: Path) -> None:
    made = Report(some_environment(), "full", 5, (DRAIN,))
    write_json(made, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == made
    assert made.table("drain") == DRAIN
    assert made.table("limit") is None
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ConfigError, match="no report"):
        read_report(tmp_path / "other.json")


def test_cells_of_one_repetition_show_no_range() -> None:
    assert [cell_text("-"), cell_text(figure((5,), "/s"))] == ["-", "5/s"]


# --- the environment --------------------------------------------------------------------------------------------------


def test_the_environment_says_what_figures_depend_on() -> None:
    made = environment.finished(some_environment())
    lines = dict(made.lines())
    assert set(made.packages) == {"msgspec"}
    assert made.cores >= 1
    assert lines["Persistence"] == "appendonly no, save none"
    assert lines["Server"] == "Redis 7.0.15"
    assert all(lines.values())
    assert made.load_after


def test_the_command_is_the_one_a_user_types() -> None:
    assert environment.command_line(["/x/__main__.py", "bench", "--only", "a b"]) == "bananas bench --only 'a b'"
