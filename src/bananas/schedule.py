"""When a periodic task runs: cron expressions and intervals, as pure arithmetic on milliseconds since the epoch.

A `Schedule` is a frozen value that lies packed in Redis beside its next tick. Whoever comes by asks `plan` which ticks are to fire
now and what the next one is; two processes that ask the same get the same, so the script that stores the answer can compare.

DESIGN
cronsim reads the expressions and walks the bare calendar, where there are no time zones. The step from wall clock to real time is
done here, because cronsim's own has holes (2.8): it misses ticks after a change of half an hour (Australia/Lord_Howe), runs a daily
job with six fields never or twice on the days of the change, and can answer with a time before the one it was asked about.
The rules are Debian cron's (and cronsim's, for five fields), the same for five and six:

    the day of the change     a job at a fixed time                a job with a wildcard
    ------------------------  -----------------------------------  --------------------------------------------
    spring, 02:30 is skipped  runs once, at the end of the gap     times that do not exist do not run
    autumn, 02:30 comes twice runs once, at the first              runs at both: each real hour, minute, second

A job has a wildcard if its minute or hour field starts with `*` or names all 60 or 24. So `30 2 * * *` runs each day once,
and `*/5 * * * *` each real 5 minutes. Ticks that a gap moves to one instant are one tick.

Within one UTC offset, wall time is real time plus a constant; so the search goes offset by offset, and finds a change by looking once
a day along the way and then bisecting: no zone has changed twice within a day.

Intervals are multiples of their length since the epoch, not since a process started: all processes agree, and a restart moves nothing.
`every=7 days` therefore falls on a Thursday, 00:00 UTC: whoever wants another day writes a cron expression.

cronsim and zoneinfo are imported where they are used: most programs that submit jobs have no schedules.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal, TypeAlias, get_args

import msgspec

from bananas.errors import ConfigError
from bananas.errors import describe as quote

Missed: TypeAlias = Literal["skip", "once", "all"]

MAX_EVERY_S = 10 * 365 * 86_400

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - a point on the bare calendar, where walls are counted from
_SECOND = timedelta(seconds=1)
_DAY_S = 86_400
_HORIZON_S = 50 * 366 * _DAY_S
_CHECKED_FROM_MS = 2_208_988_800_000  # 2040-01-01: zones follow their current rule from then on, and no year without a leap day is near
_MAX_EXPRESSION_CHARS = 1000
_ACCEPTED = (
    'five fields "minute hour day month weekday", as in "*/5 * * * *" or "30 2 * * MON-FRI"; '
    'six with the seconds first, as in "*/10 * * * * *"; or one of @hourly, @daily, @weekly, @monthly, @yearly'
)
_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms"))


class Schedule(msgspec.Struct, frozen=True):
    """When a periodic task runs; made and checked by `parse`.

    Attributes:
        expression: five or six cron fields (six: the seconds first), "" for an interval.
        timezone: the IANA name of the zone whose wall clock the expression means.
        every_ms: the interval's length, 0 for a cron expression.
        missed: what becomes of ticks that passed while nobody could fire them, see `plan`.
    """

    expression: str = ""
    timezone: str = "UTC"
    every_ms: int = 0
    missed: Missed = "once"


def parse(
    expression: str | None = None,
    *,
    every: float | timedelta | None = None,
    timezone: str = "UTC",
    missed: Missed = "once",
) -> Schedule:
    """The schedule that a user wrote: a cron expression, or an interval in seconds (kept to the millisecond) or as a timedelta.

    Raises:
        ConfigError: not a schedule, one that never fires, or an unknown zone; the message says what is accepted.
    """
    if missed not in get_args(Missed):
        raise ConfigError(f'missed={quote(missed)}: must be "once", "skip" or "all".')
    if (expression is None) == (every is None):
        raise ConfigError(f"a schedule is either a cron expression or every=SECONDS, one of the two. A cron expression has {_ACCEPTED}.")
    if every is not None:
        return Schedule(every_ms=_every_ms(every, timezone), missed=missed)
    schedule = Schedule(_normalised(expression), timezone, 0, missed)
    next_ms(schedule, _CHECKED_FROM_MS)
    return schedule


def next_ms(schedule: Schedule, after_ms: int) -> int:
    """The first tick strictly after `after_ms`, in ms since the epoch.

    Costs 1 us for an interval, 40 to 200 us for a cron expression, a few ms where its ticks are years apart.

    Raises:
        ConfigError: the expression has no time in the next 50 years, or this machine does not know the zone.
    """
    if schedule.every_ms:
        return (after_ms // schedule.every_ms + 1) * schedule.every_ms
    return _Cron(schedule).next_s(after_ms // 1000) * 1000


def plan(schedule: Schedule, due_ms: int, now_ms: int, limit: int = 100, grace_ms: int = 60_000) -> tuple[tuple[int, ...], int]:
    """Which ticks to fire now, and which tick to store as the next.

        missed   fires, of the ticks from due_ms to now_ms
        -------  ---------------------------------------------------------
        "once"   the latest: however many were missed, the task runs once
        "skip"   those that are at most grace_ms late, the rest is dropped
        "all"    all
                 ("skip" and "all": at most `limit`, the newest)

    A stored tick that the schedule does not have (the expression was changed) fires nothing and is replaced.

    Args:
        due_ms: the stored next tick.
        now_ms: the server's time.
        limit: 1 or more. The cost grows with what is fired, not with what was missed.

    Returns:
        (ticks to fire, oldest first; the next tick). Before `due_ms`: ((), due_ms).
    """
    if now_ms < due_ms:
        return (), due_ms
    oldest_ms = max(due_ms, now_ms - grace_ms) if schedule.missed == "skip" else due_ms
    ticks = _newest_ms(schedule, oldest_ms, now_ms, 1 if schedule.missed == "once" else limit)
    return tuple(reversed(ticks)), next_ms(schedule, now_ms)


def count(schedule: Schedule, first_ms: int, last_ms: int, most: int = 500) -> int:
    """How many ticks lie from `first_ms` to `last_ms`; of a cron expression `most` are counted, which takes up to 0.1 s."""
    if schedule.every_ms:
        return last_ms // schedule.every_ms - (first_ms - 1) // schedule.every_ms
    cron, found, at_s = _Cron(schedule), 0, -(-first_ms // 1000) - 1
    while found < most and (at_s := cron.next_s(at_s)) <= last_ms // 1000:
        found += 1
    return found


def describe(schedule: Schedule) -> str:
    """A line for people: `every 30 s`, or `"*/5 * * * *" Europe/Berlin`."""
    if not schedule.every_ms:
        return f'"{schedule.expression}" {schedule.timezone}'
    size_ms, unit = next((size_ms, unit) for size_ms, unit in _UNITS if schedule.every_ms % size_ms == 0)
    return f"every {schedule.every_ms // size_ms} {unit}"


# --- the walk along the ticks -----------------------------------------------------------------------------------------


class _Cron:
    """A cron expression in its zone. Seconds throughout: instants count from the epoch, walls as if the clock stood at UTC."""

    def __init__(self, schedule: Schedule) -> None:
        from cronsim import CronSim, CronSimError

        self.schedule, self.zone = schedule, _zone(schedule.timezone)
        try:
            self._sim = CronSim(schedule.expression, _EPOCH)
        except CronSimError as error:
            raise _bad_expression(schedule.expression, str(error).lower()) from None

    def next_s(self, after_s: int) -> int:
        """The first tick strictly after `after_s`."""
        return self._next_real_s(after_s) if self._has_wildcard() else self._next_fixed_s(after_s)

    def latest_s(self, oldest_s: int, newest_s: int, reach_s: int) -> int | None:
        """The latest tick in [oldest_s, newest_s].

        Gallops back, first by `reach_s`, until a tick lies between, then bisects up to the last: logarithmic in the distance.
        """
        low_s = max(oldest_s - 1, newest_s - reach_s)
        while (tick_s := self.next_s(low_s)) > newest_s:
            if low_s < oldest_s:
                return None
            reach_s *= 2
            low_s = max(oldest_s - 1, newest_s - reach_s)
        return self._last_from_s(tick_s, newest_s)

    def _last_from_s(self, tick_s: int, newest_s: int) -> int:
        high_s = newest_s  # no tick lies in (high_s, newest_s]
        while tick_s < high_s:
            next_s = self.next_s(tick_s)
            if next_s > newest_s:
                break
            tick_s = next_s
            middle_s = (tick_s + high_s) // 2
            next_s = self.next_s(middle_s)
            if next_s <= newest_s:
                tick_s = next_s
            else:
                high_s = middle_s
        return tick_s

    def _has_wildcard(self) -> bool:
        minutes, hours = self._sim.parts[1:3]
        return minutes.startswith("*") or hours.startswith("*") or len(self._sim.minutes) == 60 or len(self._sim.hours) == 24

    def _next_real_s(self, after_s: int) -> int:
        """The next tick of a job with a wildcard: search from one change of the offset to the next."""
        begin_s = after_s + 1
        while begin_s < after_s + _HORIZON_S:
            offset_s = _offset_s(self.zone, begin_s)
            tick_s = self._next_wall_s(begin_s + offset_s - 1) - offset_s
            change_s = _change_s(self.zone, begin_s, tick_s)
            if change_s is None:
                return tick_s
            begin_s = change_s
        raise _never_fires(self.schedule)

    def _next_fixed_s(self, after_s: int) -> int:
        """The next tick of a job at a fixed time: every wall time happens once, so the walk is along the wall clock."""
        wall_s = after_s + _offset_s(self.zone, after_s)
        while True:
            wall_s = self._next_wall_s(wall_s)
            tick_s = _first_instant_s(self.zone, wall_s)
            if tick_s > after_s:
                return tick_s

    def _next_wall_s(self, wall_s: int) -> int:
        """The first match on the bare calendar strictly after `wall_s`."""
        self._sim.dt = _EPOCH + timedelta(seconds=wall_s)
        moment = next(self._sim, None)
        if moment is None:
            raise _never_fires(self.schedule)
        return (moment - _EPOCH) // _SECOND


def _newest_ms(schedule: Schedule, oldest_ms: int, newest_ms: int, limit: int) -> list[int]:
    """The latest `limit` ticks in [oldest_ms, newest_ms], newest first."""
    if schedule.every_ms:
        latest_ms = newest_ms // schedule.every_ms * schedule.every_ms
        first_ms = max(oldest_ms, latest_ms - (limit - 1) * schedule.every_ms)
        return list(range(latest_ms, first_ms - 1, -schedule.every_ms))
    cron, ticks = _Cron(schedule), list[int]()
    oldest_s, newest_s, reach_s = -(-oldest_ms // 1000), newest_ms // 1000, 1
    while oldest_s <= newest_s and len(ticks) < limit:
        tick_s = cron.latest_s(oldest_s, newest_s, reach_s)
        if tick_s is None:
            break
        ticks.append(tick_s * 1000)
        reach_s, newest_s = newest_s - tick_s + 1, tick_s - 1
    return ticks


# --- wall clock and real time -----------------------------------------------------------------------------------------


def _offset_s(zone: tzinfo, instant_s: int) -> int:
    """What the zone's wall clock is ahead of UTC."""
    moment = (_EPOCH + timedelta(seconds=instant_s)).replace(tzinfo=UTC).astimezone(zone)
    return _seconds(moment.utcoffset())


def _change_s(zone: tzinfo, begin_s: int, end_s: int) -> int | None:
    """The first instant in (begin_s, end_s] whose offset differs from the one at `begin_s`."""
    offset_s, low_s = _offset_s(zone, begin_s), begin_s
    while low_s < end_s:
        high_s = min(low_s + _DAY_S, end_s)
        if _offset_s(zone, high_s) != offset_s:
            return _bisect_change_s(zone, low_s, high_s)
        low_s = high_s
    return None


def _bisect_change_s(zone: tzinfo, low_s: int, high_s: int) -> int:
    offset_s = _offset_s(zone, low_s)
    while high_s - low_s > 1:
        middle_s = (low_s + high_s) // 2
        if _offset_s(zone, middle_s) == offset_s:
            low_s = middle_s
        else:
            high_s = middle_s
    return high_s


def _first_instant_s(zone: tzinfo, wall_s: int) -> int:
    """When the wall clock shows `wall_s` for the first time, or the end of the gap that skips it."""
    moment = (_EPOCH + timedelta(seconds=wall_s)).replace(tzinfo=zone)
    instant_s = wall_s - _seconds(moment.utcoffset())
    if instant_s + _offset_s(zone, instant_s) == wall_s:
        return instant_s
    before_gap_s = wall_s - _seconds(moment.replace(fold=1).utcoffset())
    return _bisect_change_s(zone, before_gap_s, instant_s)


def _seconds(offset: timedelta | None) -> int:
    return 0 if offset is None else offset // _SECOND


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError, AttributeError):  # all that odd names make of it
        raise _unknown_zone(name) from None


# --- checks and their messages ----------------------------------------------------------------------------------------


def _normalised(given: object) -> str:
    """Six or five fields, one space between them, aliases spelt out. What the fields say is checked where it is read."""
    if not isinstance(given, str):
        raise ConfigError(f"a cron expression must be text, not {quote(given)}. For an interval write every=30 (seconds).")
    expression = _ALIASES.get(given.strip().lower(), " ".join(given.split()))
    fields = len(expression.split())
    if fields not in (5, 6):
        raise _bad_expression(given, f"it has {fields} field(s)")
    if len(expression) > _MAX_EXPRESSION_CHARS:
        raise _bad_expression(given, f"it is longer than {_MAX_EXPRESSION_CHARS} characters")
    return expression


def _every_ms(every: object, timezone_name: str) -> int:
    if timezone_name != "UTC":
        raise ConfigError(
            f"timezone={quote(timezone_name)} with every=…: an interval has no time zone. Leave it out, or write a cron expression."
        )
    seconds = every.total_seconds() if isinstance(every, timedelta) else every
    accepted = "Accepted: 0.001 seconds to ten years, as in every=30, every=0.5 or every=timedelta(hours=6)."
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise ConfigError(f"every={quote(every)}: not a number of seconds or a timedelta. {accepted}")
    if not 0.001 <= seconds <= MAX_EVERY_S:
        raise ConfigError(f"every={quote(every)}: out of range. {accepted}")
    return round(seconds * 1000)


def _bad_expression(given: str, fault: str) -> ConfigError:
    return ConfigError(f"cron expression {quote(given)}: {fault}. Accepted: {_ACCEPTED}.")


def _never_fires(schedule: Schedule) -> ConfigError:
    return ConfigError(
        f"cron expression {quote(schedule.expression)} never fires in {schedule.timezone}: no such date or time in 50 years. "
        f"Check day, month and weekday, and whether the time exists on that day."
    )


def _unknown_zone(name: object) -> ConfigError:
    from difflib import get_close_matches
    from zoneinfo import available_timezones

    known = {zone.casefold(): zone for zone in available_timezones()}
    if not known:
        return ConfigError(f"timezone={quote(name)}: this machine has no time zone data. Install them: pip install tzdata.")
    nearest = get_close_matches(str(name).casefold(), known, n=1)
    hint = f" Did you mean {known[nearest[0]]!r}?" if nearest else ""
    return ConfigError(f'timezone={quote(name)}: unknown.{hint} Accepted: IANA names, as in "Europe/Berlin" or "UTC".')
