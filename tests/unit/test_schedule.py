"""Schedules: the next tick against an independent count of every minute, both edges of daylight saving, and missed ticks."""

import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bananas.errors import ConfigError
from bananas.schedule import Missed, Schedule, describe, next_ms, parse, plan

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
NOW_MS = 1_795_500_000_123  # 2026-11-24

# The instant of a change of the clock, in UTC: an hour in Berlin and New York, half an hour on Lord Howe, at midnight in Cairo and
# Havana; and Apia, which left out the whole of 30 December 2011.
CHANGES = [
    ("Europe/Berlin", "2026-03-29T01:00"),
    ("Europe/Berlin", "2026-10-25T01:00"),
    ("America/New_York", "2026-03-08T07:00"),
    ("America/New_York", "2026-11-01T06:00"),
    ("Australia/Lord_Howe", "2026-04-04T15:00"),
    ("Australia/Lord_Howe", "2026-10-03T15:30"),
    ("Africa/Cairo", "2026-04-23T22:00"),
    ("Africa/Cairo", "2026-10-29T21:00"),
    ("America/Havana", "2026-03-08T05:00"),
    ("America/Havana", "2026-11-01T05:00"),
    ("Pacific/Apia", "2011-12-30T10:00"),
]


def utc_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def ticks(schedule: Schedule, begin_ms: int, end_ms: int) -> list[int]:
    """All ticks in [begin_ms, end_ms)."""
    found, tick_ms = [], next_ms(schedule, begin_ms - 1)
    while tick_ms < end_ms:
        found.append(tick_ms)
        tick_ms = next_ms(schedule, tick_ms)
    return found


def wall_clock(expression: str, zone: str, begin: str, end: str) -> list[str]:
    """The ticks as the zone's clock shows them, with the offset."""
    found = ticks(parse(expression, timezone=zone), utc_ms(begin), utc_ms(end))
    return [datetime.fromtimestamp(tick_ms / 1000, ZoneInfo(zone)).strftime("%d %H:%M%z") for tick_ms in found]


# --- what is accepted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("*/5 * * * *", "*/5 * * * *"),
        ("  30  2 * *\tMON-FRI ", "30 2 * * MON-FRI"),
        ("*/10 * * * * *", "*/10 * * * * *"),
        ("0 12 L * *", "0 12 L * *"),
        ("0 9 * * mon#1", "0 9 * * mon#1"),
        ("@hourly", "0 * * * *"),
        ("@Daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
    ],
)
def test_expressions_are_accepted_and_kept_with_single_spaces(written: str, kept: str) -> None:
    assert parse(written) == Schedule(expression=kept, timezone="UTC", every_ms=0, missed="once")


@pytest.mark.parametrize(
    ("every", "every_ms"),
    [(30, 30_000), (0.5, 500), (0.001, 1), (1 / 3, 333), (timedelta(hours=6), 6 * HOUR_MS), (timedelta(days=3650), 3650 * DAY_MS)],
)
def test_intervals_are_seconds_or_timedeltas(every: float | timedelta, every_ms: int) -> None:
    assert parse(every=every, missed="skip") == Schedule(every_ms=every_ms, missed="skip")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "0 field(s)"),
        ("* * * *", "4 field(s)"),
        ("* * * * * * *", "7 field(s)"),
        ("@reboot", "@daily"),
        ("60 * * * *", "bad minute"),
        ("60 * * * * *", "bad second"),
        ("* 24 * * *", "bad hour"),
        ("* * 0 * *", "bad day-of-month"),
        ("* * * 13 *", "bad month"),
        ("* * * * 8", "bad day-of-week"),
        ("*/0 * * * *", "bad minute"),
        ("5-1 * * * *", "bad minute"),
        ("every minute of the day", "bad minute"),
        ("9" * 5000 + " * * * *", "longer than"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("0 0 31 4,6 *", "bad day-of-month"),
        (30, "every=30"),
        (b"* * * * *", "must be text"),
    ],
)
def test_a_bad_expression_is_refused_with_an_example(written: object, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(written)  # type: ignore[arg-type]
    assert said in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("expression", "zone"),
    [
        ("0 0 */30 4 MON#5", "UTC"),  # the fifth Monday cannot be the 1st, and April has no 31st
        ("*/10 2 * 3 SUN#2", "America/New_York"),  # the hour that the change skips, and no other day
    ],
)
def test_an_expression_that_never_fires_is_refused(expression: str, zone: str) -> None:
    with pytest.raises(ConfigError, match="never fires in"):
        parse(expression, timezone=zone)


def test_a_rare_date_is_found() -> None:
    assert next_ms(parse("0 0 29 2 *"), NOW_MS) == utc_ms("2028-02-29T00:00")
    assert next_ms(parse("* * */28 2 MON#5"), NOW_MS) == utc_ms("2044-02-29T00:00")
    assert next_ms(parse("0 0 29 2 *"), utc_ms("2096-03-01T00:00")) == utc_ms("2104-02-29T00:00")


@pytest.mark.parametrize("every", [0, -1, 0.0001, math.nan, math.inf, 10**400, timedelta(0), timedelta(days=4000), "30", True])
def test_a_bad_interval_is_refused_with_an_example(every: object) -> None:
    with pytest.raises(ConfigError, match="every=30"):
        parse(every=every)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"expression": "* * * * *", "every": 30},
        {"every": 30, "timezone": "Europe/Berlin"},
        {"every": 30, "missed": "never"},
        {"expression": "* * * * *", "missed": None},
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        parse(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("zone", "said"),
    [
        ("Europe/Berln", "'Europe/Berlin'"),
        ("europe/berlin", "'Europe/Berlin'"),
        ("Berlin", "'Europe/Berlin'"),
        ("America", "IANA"),
        ("../etc/passwd", "IANA"),
        ("/etc/passwd", "IANA"),
        ("Europe\0", "IANA"),
        ("", "IANA"),
        (None, "IANA"),
        (3, "IANA"),
    ],
)
def test_an_unknown_zone_is_refused_with_the_nearest_one(zone: object, said: str) -> None:
    with pytest.raises(ConfigError, match="timezone=") as raised:
        parse("@daily", timezone=zone)  # type: ignore[arg-type]
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("schedule", "line"),
    [
        (parse("*/5 * * * *", timezone="Europe/Berlin"), '"*/5 * * * *" Europe/Berlin'),
        (parse("@daily"), '"0 0 * * *" UTC'),
        (parse(every=30), "every 30 s"),
        (parse(every=90), "every 90 s"),
        (parse(every=0.25), "every 250 ms"),
        (parse(every=300), "every 5 min"),
        (parse(every=7200), "every 2 h"),
        (parse(every=timedelta(days=7)), "every 7 d"),
    ],
)
def test_a_schedule_describes_itself(schedule: Schedule, line: str) -> None:
    assert describe(schedule) == line


def test_a_schedule_survives_its_packing() -> None:
    for schedule in (parse("30 2 * * *", timezone="Europe/Berlin", missed="all"), parse(every=30)):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(schedule), type=Schedule) == schedule


def test_a_zone_that_this_machine_does_not_know_is_named_when_it_is_used() -> None:
    with pytest.raises(ConfigError, match="Mars/Olympus"):
        next_ms(Schedule("0 0 * * *", "Mars/Olympus"), NOW_MS)


# --- the next tick, against a count of every minute --------------------------------------------------------------------

Field = tuple[str, frozenset[int]]


def fields(low: int, high: int, *, names: tuple[str, ...] = ()) -> st.SearchStrategy[Field]:
    """One field as it is written, with the values that it means."""
    everything = list(range(low, high + 1))
    number = st.integers(low, high)
    pair = st.tuples(number, number).map(sorted)
    kinds: list[st.SearchStrategy[Field]] = [
        st.just(("*", frozenset(everything))),
        st.integers(1, high).map(lambda step: (f"*/{step}", frozenset(everything[::step]))),
        number.map(lambda value: (str(value), frozenset([value]))),
        st.lists(number, min_size=2, max_size=4).map(lambda values: (",".join(map(str, values)), frozenset(values))),
        pair.map(lambda ends: (f"{ends[0]}-{ends[1]}", frozenset(range(ends[0], ends[1] + 1)))),
    ]
    if names:
        kinds.append(st.integers(0, len(names) - 1).map(lambda index: (names[index], frozenset([low + index]))))
    return st.one_of(kinds)


@st.composite
def crons(draw: st.DrawFn) -> tuple[Field, Field, Field, Field, Field]:
    """Five fields; day and month mostly open, so that there is something in a window of days."""
    every_day, every_month = st.just(("*", frozenset(range(1, 32)))), st.just(("*", frozenset(range(1, 13))))
    day, month = draw(every_day | fields(1, 31)), draw(every_month | every_month | fields(1, 12))
    weekday = draw(fields(0, 6, names=("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")))
    # Hours near the changes of the clock are what is interesting.
    hour = draw(fields(0, 23) | st.sets(st.integers(0, 4), min_size=1).map(lambda hours: (",".join(map(str, hours)), frozenset(hours))))
    return draw(fields(0, 59)), hour, day, month, weekday


def wall_matcher(cron: tuple[Field, Field, Field, Field, Field]) -> Callable[[datetime], bool]:
    (_, minutes), (_, hours), (day_text, days), (_, months), (weekday_text, weekdays) = cron
    both = day_text.startswith("*") or weekday_text.startswith("*")

    def day_matches(day: date) -> bool:
        of_month, of_week = day.day in days, day.isoweekday() % 7 in weekdays
        return day.month in months and ((of_month and of_week) if both else (of_month or of_week))

    return lambda wall: wall.minute in minutes and wall.hour in hours and day_matches(wall.date())


@cache
def minutes_of(zone: ZoneInfo, begin_ms: int, end_ms: int) -> list[tuple[int, datetime]]:
    """Every minute of [begin_ms, end_ms), and what a clock on the wall shows then."""
    return [(ms, datetime.fromtimestamp(ms / 1000, zone).replace(tzinfo=None)) for ms in range(begin_ms, end_ms, MINUTE_MS)]


def counted(cron: tuple[Field, Field, Field, Field, Field], zone: ZoneInfo, begin_ms: int, end_ms: int) -> list[int]:
    """The ticks in [begin_ms, end_ms), by looking at every minute; `begin_ms` lies outside any gap or fold."""
    matches, shown = wall_matcher(cron), minutes_of(zone, begin_ms, end_ms)
    (minute_text, minutes), (hour_text, hours) = cron[:2]
    if minute_text.startswith("*") or hour_text.startswith("*") or len(minutes) == 60 or len(hours) == 24:
        return [instant_ms for instant_ms, wall in shown if matches(wall)]
    first: set[int] = set()
    wall = shown[0][1]  # walk the wall clock, through the gap too, and only once
    for instant_ms, reached in shown:
        while wall <= reached:
            if matches(wall):
                first.add(instant_ms)
            wall += timedelta(minutes=1)
    return sorted(first)


@settings(max_examples=150, deadline=None)
@given(crons(), st.sampled_from(CHANGES))
def test_ticks_around_a_change_of_the_clock_are_those_counted_by_hand(
    cron: tuple[Field, Field, Field, Field, Field], change: tuple[str, str]
) -> None:
    zone, at = change
    begin_ms, end_ms = utc_ms(at) - 26 * HOUR_MS, utc_ms(at) + 26 * HOUR_MS
    schedule = Schedule(" ".join(text for text, _ in cron), zone)
    expected = counted(cron, ZoneInfo(zone), begin_ms, end_ms)
    try:
        assert ticks(schedule, begin_ms, end_ms) == expected
    except ConfigError as error:
        assert expected == []
        assert "bad day-of-month" in str(error) or "never fires" in str(error)  # noqa: PT017 - dates like 30 February


@settings(max_examples=100, deadline=None)
@given(crons(), st.sampled_from(CHANGES), st.integers(-26 * 60, 26 * 60))
def test_six_fields_that_start_with_zero_are_the_same_as_five(
    cron: tuple[Field, Field, Field, Field, Field], change: tuple[str, str], minutes: int
) -> None:
    zone, at = change
    expression, after_ms = " ".join(text for text, _ in cron), utc_ms(at) + minutes * MINUTE_MS
    try:
        expected = next_ms(Schedule(expression, zone), after_ms)
    except ConfigError:
        return
    assert next_ms(Schedule("0 " + expression, zone), after_ms) == expected


schedules = st.one_of(
    st.builds(lambda every_ms: Schedule(every_ms=every_ms), st.integers(1, 10 * DAY_MS)),
    st.builds(
        Schedule,
        st.sampled_from(
            ["* * * * *", "*/7 * * * *", "30 2 * * *", "0 */3 * * *", "15,45 1-3 * * *", "*/20 * * * * *", "5 30 2 * * *", "0 0 1 * MON"]
        ),
        st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    ),
)


@settings(max_examples=200, deadline=None)
@given(schedules, st.integers(0, 4_000_000_000_000), st.integers(0, DAY_MS))
def test_the_next_tick_is_later_and_no_tick_lies_between(schedule: Schedule, after_ms: int, part_ms: int) -> None:
    tick_ms = next_ms(schedule, after_ms)
    assert tick_ms > after_ms
    assert next_ms(schedule, tick_ms - 1) == tick_ms
    assert next_ms(schedule, min(after_ms + part_ms, tick_ms - 1)) == tick_ms
    assert next_ms(schedule, tick_ms) > tick_ms


@given(st.integers(1, 10 * DAY_MS), st.integers(0, 4_000_000_000_000))
def test_intervals_tick_at_multiples_of_their_length(every_ms: int, after_ms: int) -> None:
    tick_ms = next_ms(Schedule(every_ms=every_ms), after_ms)
    assert tick_ms % every_ms == 0
    assert 0 < tick_ms - after_ms <= every_ms


def test_the_first_of_six_fields_is_the_second() -> None:
    begin_ms = utc_ms("2026-11-24T10:00")
    assert ticks(parse("*/20 * * * * *"), begin_ms, begin_ms + MINUTE_MS) == [begin_ms, begin_ms + 20_000, begin_ms + 40_000]
    assert next_ms(parse("15 30 2 * * *"), begin_ms) == utc_ms("2026-11-25T02:30:15")


# --- both edges of daylight saving, as a person reads them -------------------------------------------------------------


@pytest.mark.parametrize("expression", ["30 2 * * *", "0 30 2 * * *"])
def test_a_daily_job_in_the_skipped_hour_runs_once_at_its_end(expression: str) -> None:
    assert wall_clock(expression, "Europe/Berlin", "2026-03-27T12:00", "2026-03-30T12:00") == [
        "28 02:30+0100",
        "29 03:00+0200",
        "30 02:30+0200",
    ]
    assert wall_clock(expression, "America/New_York", "2026-03-07T00:00", "2026-03-09T12:00") == [
        *("07 02:30-0500", "08 03:00-0400", "09 02:30-0400"),
    ]


@pytest.mark.parametrize("expression", ["30 2 * * *", "0 30 2 * * *"])
def test_a_daily_job_in_the_repeated_hour_runs_once_at_its_first(expression: str) -> None:
    assert wall_clock(expression, "Europe/Berlin", "2026-10-24T00:00", "2026-10-26T12:00") == [
        "24 02:30+0200",
        "25 02:30+0200",
        "26 02:30+0100",
    ]


def test_a_daily_job_asked_for_within_the_repeated_hour_is_not_answered_with_the_past() -> None:
    second_0210_ms = utc_ms("2026-10-25T01:10")
    assert next_ms(parse("30 2 * * *", timezone="Europe/Berlin"), second_0210_ms) == utc_ms("2026-10-26T01:30")


def test_a_half_hour_change_skips_and_repeats_half_an_hour() -> None:
    lord_howe = "Australia/Lord_Howe"
    assert wall_clock("15 2 * * *", lord_howe, "2026-10-02T20:00", "2026-10-04T20:00") == ["04 02:30+1100", "05 02:15+1100"]
    assert wall_clock("45 1 * * *", lord_howe, "2026-04-03T20:00", "2026-04-05T20:00") == ["05 01:45+1100", "06 01:45+1030"]
    assert wall_clock("*/15 1-3 * * *", lord_howe, "2026-04-04T14:15", "2026-04-04T16:00") == [
        *("05 01:15+1100", "05 01:30+1100", "05 01:45+1100", "05 01:30+1030", "05 01:45+1030", "05 02:00+1030", "05 02:15+1030"),
    ]
    assert wall_clock("*/10 3 * * *", lord_howe, "2026-10-03T12:00", "2026-10-03T16:20")[:2] == ["04 03:00+1100", "04 03:10+1100"]


@pytest.mark.parametrize(("zone", "at"), [change for change in CHANGES if change[0] != "Australia/Lord_Howe"])
@pytest.mark.parametrize("expression", ["0 * * * *", "0 0-23 * * *", "@hourly", "0 0 * * * *"])
def test_an_hourly_job_runs_each_real_hour(expression: str, zone: str, at: str) -> None:
    found = ticks(parse(expression, timezone=zone), utc_ms(at) - 5 * HOUR_MS, utc_ms(at) + 5 * HOUR_MS)
    assert {later_ms - earlier_ms for earlier_ms, later_ms in pairwise(found)} == {HOUR_MS}
    assert len(found) == 10


@pytest.mark.parametrize(("zone", "at"), CHANGES)
@pytest.mark.parametrize(("expression", "step_ms"), [("* * * * *", MINUTE_MS), ("*/5 * * * *", 5 * MINUTE_MS), ("*/30 * * * * *", 30_000)])
def test_a_minutely_job_runs_each_real_minute(expression: str, step_ms: int, zone: str, at: str) -> None:
    found = ticks(parse(expression, timezone=zone), utc_ms(at) - HOUR_MS, utc_ms(at) + HOUR_MS)
    assert {later_ms - earlier_ms for earlier_ms, later_ms in pairwise(found)} == {step_ms}


# --- missed ticks ------------------------------------------------------------------------------------------------------


def planned(schedule: Schedule, due_ms: int, now_ms: int, limit: int, grace_ms: int) -> tuple[tuple[int, ...], int]:
    """`plan` by listing every tick."""
    if now_ms < due_ms:
        return (), due_ms
    missed_ms = ticks(schedule, due_ms, now_ms + 1)
    if schedule.missed == "skip":
        missed_ms = [tick_ms for tick_ms in missed_ms if now_ms - tick_ms <= grace_ms]
    newest = missed_ms[-1:] if schedule.missed == "once" else missed_ms[-limit:]
    return tuple(newest), next_ms(schedule, now_ms)


windows_ms = st.one_of(st.integers(-HOUR_MS, HOUR_MS), st.integers(0, 3 * DAY_MS))
policies = st.sampled_from(["skip", "once", "all"])


@settings(max_examples=200, deadline=None)
@given(schedules, policies, st.sampled_from(CHANGES), windows_ms, st.booleans(), st.integers(1, 20), st.integers(0, 2 * HOUR_MS))
def test_a_plan_is_what_listing_every_tick_gives(
    schedule: Schedule, missed: Missed, change: tuple[str, str], late_ms: int, on_a_tick: bool, limit: int, grace_ms: int
) -> None:
    every_ms = schedule.every_ms and max(schedule.every_ms, 30_000)  # the listing has to end
    schedule = msgspec.structs.replace(schedule, missed=missed, every_ms=every_ms)
    due_ms = utc_ms(change[1]) - 4 * HOUR_MS
    if on_a_tick:
        due_ms = next_ms(schedule, due_ms)
    expected = planned(schedule, due_ms, due_ms + late_ms, limit, grace_ms)
    assert plan(schedule, due_ms, due_ms + late_ms, limit, grace_ms) == expected


@settings(max_examples=100, deadline=None)
@given(schedules, policies, st.lists(st.integers(1, 3 * HOUR_MS), min_size=1, max_size=8))
def test_a_worker_that_comes_by_at_any_times_fires_no_tick_twice(schedule: Schedule, missed: Missed, steps_ms: list[int]) -> None:
    schedule = msgspec.structs.replace(schedule, missed=missed)
    now_ms = utc_ms("2026-10-24T22:00")
    due_ms, fired = next_ms(schedule, now_ms), list[int]()
    for step_ms in steps_ms:
        now_ms += step_ms
        now_fired, due_ms = plan(schedule, due_ms, now_ms)
        fired += now_fired
        assert due_ms > now_ms
        assert all(tick_ms <= now_ms for tick_ms in now_fired)
    assert fired == sorted(set(fired))


def test_nothing_happens_before_the_tick() -> None:
    schedule = parse("@hourly")
    due_ms = utc_ms("2026-11-24T10:00")
    assert plan(schedule, due_ms, due_ms - 1) == ((), due_ms)
    assert plan(schedule, due_ms, due_ms) == ((due_ms,), due_ms + HOUR_MS)


def test_missed_ticks_follow_the_policy() -> None:
    due_ms = utc_ms("2026-11-24T10:00")
    now_ms = due_ms + 3 * MINUTE_MS + 50_000
    on_the_minute = [due_ms + minute * MINUTE_MS for minute in range(5)]
    fired = {missed: plan(parse("* * * * *", missed=missed), due_ms, now_ms) for missed in ("skip", "once", "all")}
    assert fired["once"] == ((on_the_minute[3],), on_the_minute[4])
    assert fired["skip"] == ((on_the_minute[3],), on_the_minute[4])
    assert fired["all"] == (tuple(on_the_minute[:4]), on_the_minute[4])
    assert plan(parse("@hourly", missed="skip"), due_ms, now_ms) == ((), due_ms + HOUR_MS)
    assert plan(parse("@hourly", missed="skip"), due_ms, now_ms, grace_ms=10 * MINUTE_MS) == ((due_ms,), due_ms + HOUR_MS)


def test_at_most_the_limit_is_fired_and_the_newest_win() -> None:
    due_ms = utc_ms("2026-11-24T10:00")
    fired, _ = plan(parse(every=1, missed="all"), due_ms, due_ms + DAY_MS, limit=3)
    assert fired == tuple(due_ms + DAY_MS + late_ms for late_ms in (-2000, -1000, 0))


def test_a_stored_tick_that_the_schedule_no_longer_has_fires_nothing() -> None:
    due_ms = utc_ms("2026-11-24T10:07")
    assert plan(parse("@hourly"), due_ms, due_ms + MINUTE_MS) == ((), utc_ms("2026-11-24T11:00"))


@pytest.mark.parametrize("missed", ["once", "all", "skip"])
@pytest.mark.parametrize("expression", ["* * * * * *", "*/5 * * * *", "30 2 * * *", "* * * 1 1 *"])
def test_a_year_of_missed_ticks_costs_few_steps(expression: str, missed: Missed, monkeypatch: pytest.MonkeyPatch) -> None:
    from cronsim import CronSim

    steps, original = 0, CronSim.__next__

    def counting(self: CronSim) -> datetime:
        nonlocal steps
        steps += 1
        return original(self)

    schedule = parse(expression, timezone="Europe/Berlin", missed=missed)
    monkeypatch.setattr(CronSim, "__next__", counting)
    fired, _ = plan(schedule, NOW_MS - 365 * DAY_MS, NOW_MS)
    assert len(fired) <= 100
    assert steps <= 12 * len(fired) + 150
