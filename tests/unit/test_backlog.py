"""How long a backlog takes."""

from hypothesis import given
from hypothesis import strategies as st

from bananas.operate import backlog_seconds
from bananas.operate.backlog import rates
from bananas.operate.history import History, Point, TaskFigures


def test_what_is_ready_takes_as_long_as_the_rate_says() -> None:
    assert backlog_seconds(600, 20.0, 5_000) == 30
    assert backlog_seconds(0, 20.0, None) == 0
    assert backlog_seconds(0, 0.0, None) == 0


def test_where_nothing_ends_the_oldest_tells() -> None:
    assert backlog_seconds(600, 0.0, 5_000) == 5
    assert backlog_seconds(1, 0.0, None) == 0


@given(st.integers(0, 10**9), st.floats(0, 1e6), st.none() | st.integers(0, 10**12))
def test_it_is_a_number_of_seconds_whatever_the_figures(ready: int, rate_s: float, oldest_ms: int | None) -> None:
    assert backlog_seconds(ready, rate_s, oldest_ms) >= 0


def test_rates_are_of_all_outcomes_over_the_time_that_the_history_covers() -> None:
    points = [Point(60_000 * minute, 0, 0, 0, 0, None, None, None) for minute in range(2)]
    tasks = [TaskFigures("a", "email", 30, 10, 4, 1, None, None), TaskFigures("b", "email", 45, 0, 0, 0, None, None)]
    assert rates(History(90_000, 60, points, [*tasks, TaskFigures("c", "bulk", 9, 0, 0, 0, None, None)])) == {"email": 1.0, "bulk": 0.1}
    assert rates(History(90_000, 60, [], [])) == {}


def test_minutes_before_the_first_run_do_not_count() -> None:
    points = [Point(60_000 * minute, 30 * (minute > 2), 0, 0, 0, None, None, None) for minute in range(5)]
    assert rates(History(270_000, 60, points, [TaskFigures("a", "email", 45, 0, 0, 0, None, None)])) == {"email": 0.5}
