"""Counting jobs: spreads and their percentiles, and what becomes of counts as fields of a hash."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from bananas.tally import BOUNDS_MS, DEAD, OUTCOMES, SUCCESS, Counts, Spread, fields_of, merged, read_fields

MS = st.floats(0, 5_000_000)


def spread_of(values: list[float]) -> Spread:
    spread = Spread()
    for ms in values:
        spread.add(ms)
    return spread


def test_a_percentile_is_off_by_a_fifth_at_most() -> None:
    rng = random.Random(7)
    values = sorted(rng.lognormvariate(3, 2) for _ in range(5_000))
    spread = spread_of(values)
    for share in (0.5, 0.95, 0.99):
        exact = values[int(share * len(values)) - 1]
        assert abs(spread.quantile(share) - exact) <= 0.2 * exact + BOUNDS_MS[0], share


def test_a_spread_of_nothing_says_nothing_and_one_of_what_is_beyond_all_bounds_its_last_bound() -> None:
    assert Spread().quantile(0.99) == 0.0
    assert spread_of([1e12]).quantile(0.5) == BOUNDS_MS[-1]


@given(st.lists(MS, max_size=40), st.lists(MS, max_size=40))
def test_two_spreads_make_what_one_of_all_would_be(some: list[float], others: list[float]) -> None:
    one, two, both = spread_of(some), spread_of(others), spread_of(some + others)
    one.merge(two)
    assert one.buckets == both.buckets
    assert abs(one.total_ms - both.total_ms) <= 1e-6 * (1 + both.total_ms)
    assert one.count == len(some) + len(others)


@given(st.lists(st.tuples(st.integers(0, len(OUTCOMES) - 1), MS, MS), max_size=40))
def test_counts_come_back_from_the_fields_of_a_hash(jobs: list[tuple[int, float, float]]) -> None:
    counts = Counts()
    for outcome, wait_ms, run_ms in jobs:
        counts.outcomes[outcome] += 1
        counts.wait.add(wait_ms)
        counts.run.add(run_ms)
    fields = {field: str(grown) for field, grown in fields_of("1a2b3c4d", counts)} | {"1a2b3c4d": "send_email", "=h": "3"}
    tables, depths = read_fields(fields)
    read = tables.get("send_email", Counts())
    assert (read.outcomes, read.wait.buckets, read.run.buckets) == (counts.outcomes, counts.wait.buckets, counts.run.buckets)
    assert abs(read.run.total_ms - counts.run.total_ms) <= 0.001
    assert depths == {"high": 3}


def test_fields_that_another_version_wrote_or_that_are_damaged_are_left_out() -> None:
    fields = {
        "t": "task",
        "t:0": "5",
        "t:9": "1",
        "t:w99": "1",
        "t:w": "x",
        "t:zz": "4",
        "t:": "4",
        "=q": "9",
        "=h": "many",
        "alone": "name",
    }
    tables, depths = read_fields(fields)
    assert list(tables) == ["task"]
    assert tables["task"].outcomes == [5, 0, 0, 0]
    assert tables["task"].wait.count == 0
    assert depths == {}


def test_tables_of_several_shards_add_up() -> None:
    one, two = Counts(), Counts()
    one.outcomes[SUCCESS], two.outcomes[SUCCESS], two.outcomes[DEAD] = 2, 3, 1
    found = merged([{"a": one}, {"a": two, "b": two}])
    assert found["a"].outcomes == [5, 0, 1, 0]
    assert found["b"].ended == 4
