"""The soak: growth is told from noise, and a short run counts every job and every key."""

import random
from collections.abc import Callable

import pytest

from bananas.bench.session import Bench
from bananas.bench.sizes import SMOKE
from bananas.bench.soak import FLOORS, Sample, Soaked, growth, judge, run
from bananas.errors import ConfigError

SPAN_S, GAP_S = 3600, 5


def series(value: Callable[[float], float]) -> list[tuple[float, float]]:
    chance = random.Random(7)
    return [(at_s, value(at_s) * chance.uniform(0.99, 1.01)) for at_s in range(0, SPAN_S, GAP_S)]


def test_a_leak_is_found_in_noise() -> None:
    found = growth("worker MB", series(lambda at_s: 50 + 10 * at_s / SPAN_S), 3.0)
    assert found.grew
    assert found.rise == pytest.approx(10, rel=0.1)


def test_a_slow_leak_within_the_tolerance_is_flat() -> None:
    assert not growth("worker MB", series(lambda at_s: 50 + at_s / SPAN_S), 3.0).grew


def test_noise_is_flat() -> None:
    assert not growth("worker MB", series(lambda _: 50.0), 3.0).grew


def test_one_spike_is_flat() -> None:
    assert not growth("server MB", series(lambda at_s: 500 if at_s == SPAN_S // 2 else 10), 1.0).grew


def test_a_sawtooth_is_flat() -> None:
    assert not growth("members", series(lambda at_s: 100 + 200 * (at_s % 60) / 60), 30.0).grew


def test_what_shrinks_is_flat() -> None:
    found = growth("server MB", series(lambda at_s: 100 - 50 * at_s / SPAN_S), 1.0)
    assert not found.grew
    assert found.rise < 0


def test_a_count_that_climbs_in_steps_grew() -> None:
    assert growth("keys without TTL", [(float(at_s), float(at_s // 300)) for at_s in range(0, SPAN_S, GAP_S)], 2.0).grew


def samples(leak_per_s: float, name: str) -> tuple[Sample, ...]:
    level = dict.fromkeys(FLOORS, 40.0)
    made = []
    for at_s in range(0, SPAN_S, GAP_S):
        start_up = 30.0 if at_s < 60 else 0.0  # below its level at first, as memory is
        values = level | {name: level[name] - start_up + leak_per_s * at_s}
        made.append(Sample(float(at_s), at_s * 200, values, {}, {}, {}))
    return tuple(made)


@pytest.mark.parametrize("name", FLOORS)
def test_a_leak_in_any_series_is_named_and_ends_with_exit_code_1(name: str) -> None:
    leaking = samples(0.02, name)  # 72 an hour
    soaked = Soaked(SPAN_S, leaking, judge(leaking, SPAN_S), 0, 0)
    assert [found.name for found in soaked.growth if found.grew] == [name]
    assert soaked.exit_code == 1
    assert soaked.lines()[-1] == f"NOT flat: {name} grew"


def test_the_warm_up_is_not_judged() -> None:
    warming = samples(0.0, "worker MB")
    soaked = Soaked(SPAN_S, warming, judge(warming, SPAN_S), 0, 0)
    assert soaked.exit_code == 0
    assert soaked.lines()[-1] == "flat"


def test_a_missing_job_or_a_wrong_result_is_not_flat() -> None:
    calm = samples(0.0, "keys")
    assert Soaked(SPAN_S, calm, judge(calm, SPAN_S), 1, 0).lines()[-1] == "NOT flat: jobs are missing"
    assert Soaked(SPAN_S, calm, judge(calm, SPAN_S), 0, 2).lines()[-1] == "NOT flat: results are wrong"
    assert Soaked(SPAN_S, calm, judge(calm, SPAN_S), 0, 0, 10_000_000).lines()[-1] == "NOT flat: the rate was not kept"
    assert Soaked(SPAN_S, calm, judge(calm, SPAN_S), -3, 0).exit_code == 0  # run again after a crash: allowed


def test_a_short_soak_loses_nothing_and_sees_everything(server_kind: str) -> None:
    with Bench(server_kind, SMOKE) as bench:
        soaked = run(bench, 4.0, rate=100.0, processes=1)
    assert soaked.missing == 0, soaked.lines()
    assert soaked.wrong == 0
    assert len(soaked.samples) >= 5
    assert [found.name for found in soaked.growth] == list(FLOORS)
    first, last = soaked.samples[0], soaked.samples[-1]
    assert last.done > first.done
    assert all(last.series[name] > 0 for name in ("server MB", "worker MB", "client MB", "keys", "keys without TTL", "members"))
    kinds = {kind for sample in soaked.samples for kind in sample.kinds}
    assert {"jobs", "tries", "scheduled", "dead", "result", "workers"} <= kinds
    assert "other" not in kinds
    assert last.series["keys without TTL"] < last.series["keys"]  # results have one
    assert any("wait_p99_ms" in sample.client for sample in soaked.samples)
    assert soaked.lines()[-1].startswith(("flat", "NOT flat"))


def test_a_soak_that_could_see_nothing_is_refused() -> None:
    with Bench("redis", SMOKE) as bench, pytest.raises(ConfigError, match="too short"):
        run(bench, 0.5)
