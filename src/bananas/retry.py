"""When a failed job runs again: the policy a user writes, and the pure decision that a worker takes.

Nothing here reads a clock, rolls dice or touches Redis: the attempt and the random number are arguments, and the answer is a value.
The runner turns the end of a handler into an exception or None, `decide` turns that into a `Decision`, the settler carries it out.

    the handler          attempts left (attempt <= max_retries)      none left
    -------------------  ------------------------------------------  ---------
    returns              complete                                    complete
    raises Discard       discard                                     discard
    raises Dead          dead                                        dead
    raises Snooze        snooze after its delay, attempt not used    the same
    raises RetryLater    retry after its delay                       dead
    raises another       by the policy, in this order:               dead
                         `when`: False = dead, a number = retry
                         after so many seconds, True or None = go on
                         `dont_retry_on` matches = dead
                         `retry_on` is given and does not match = dead
                         retry after the backoff

Attempts count from 1: `max_retries=3` is four runs in all. KeyboardInterrupt, SystemExit and a CancelledError that nobody asked
for are failures of the handler like any other: what stops the worker is a signal, never a handler's exception.

A mistake in the steering never loses a job: a `when` that raises or answers nonsense, and a delay that is no number, fall back to
the policy, and the reason of the decision says so.

The backoff is exponential with full jitter, uniform in (0, min(cap, base * factor ** (attempt - 1))]: of the usual variants it
spreads a crowd of failures best at the least total work.
Source: Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec.structs import force_setattr

from bananas.errors import ConfigError, Dead, Discard, RetryLater, Snooze, describe

ExceptionTypes: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]
When: TypeAlias = Callable[[BaseException, int], bool | float | timedelta | None]
Wire: TypeAlias = tuple[float, float, float, bool]

MAX_DELAY_S = 10 * 365 * 86_400
"""Ten years: the longest delay that is kept; a longer one that a handler asks for becomes this."""

_REASON_CHARS = 1000


class Retry(msgspec.Struct, frozen=True):
    """How a task's failures are retried: `Retry(base=1, factor=2, cap=600)`.

    The numbers travel in the job (`to_wire`), so that a job keeps the backoff it was submitted with; exception classes and
    callables stay in the code, so that a deployed change of them holds for the jobs that already wait.

    Args:
        base: seconds before the first retry (at most, with jitter); above 0.
        factor: growth per further failure; 1 or more.
        cap: the longest backoff in seconds; from `base` to ten years.
        jitter: wait a random part of the backoff, so that jobs that failed together do not return together.
        retry_on: an exception class, or several: only these are retried. Empty: all are.
        dont_retry_on: an exception class, or several: these go to the dead letter queue at once. It wins over `retry_on`.
        when: called with the exception and the attempt (1 for the first run), before the two above: False = don't retry,
            True or None = by the rest of the policy, a number (or timedelta) = retry after that many seconds. It decides only
            while attempts are left, runs on the worker's event loop, and must not block.

    Raises:
        ConfigError: a value out of its range; the message names the field.
    """

    base: float = 1.0
    factor: float = 2.0
    cap: float = 600.0
    jitter: bool = True
    retry_on: ExceptionTypes = ()
    dont_retry_on: ExceptionTypes = ()
    when: When | None = None

    def __post_init__(self) -> None:
        for field in ("base", "factor", "cap"):
            force_setattr(self, field, _finite(field, getattr(self, field)))
        for field in ("retry_on", "dont_retry_on"):
            force_setattr(self, field, _exception_types(field, getattr(self, field)))
        self._check_ranges()
        _check_when(self.when)

    def _check_ranges(self) -> None:
        if self.base <= 0:
            raise ConfigError(f"Retry(base={self.base}): the first delay must be above 0 seconds, e.g. base=1.")
        if self.factor < 1:
            raise ConfigError(f"Retry(factor={self.factor}): the growth must be 1 or more (1 = always the same delay), e.g. factor=2.")
        if self.cap < self.base:
            raise ConfigError(f"Retry(base={self.base}, cap={self.cap}): cap is the longest delay and cannot be below base; raise cap.")
        if self.cap > MAX_DELAY_S:
            raise ConfigError(f"Retry(cap={self.cap}): the longest delay is ten years, {MAX_DELAY_S} seconds.")
        if not isinstance(self.jitter, bool):
            raise ConfigError(f"Retry(jitter={describe(self.jitter)}): must be True or False.")

    def to_wire(self) -> Wire:
        """The part that travels in the job: (base, factor, cap, jitter)."""
        return self.base, self.factor, self.cap, self.jitter

    @classmethod
    def from_wire(cls, wire: Sequence[Any], code: Retry | None = None) -> Retry:
        """A policy from a job's numbers, with the per-exception part of `code` (the task's policy on this worker).

        Raises:
            ConfigError: these are not the numbers of a policy.
        """
        if len(wire) != 4:
            raise ConfigError(f"a retry policy travels as (base, factor, cap, jitter), not as {describe(wire)}.")
        base, factor, cap, jitter = wire
        if code is None:
            return cls(base, factor, cap, jitter)
        return cls(base, factor, cap, jitter, code.retry_on, code.dont_retry_on, code.when)


class Decision(msgspec.Struct, frozen=True):
    """What becomes of a job after a run. The five kinds are all there are.

    kind        delay_ms  the job
    ----------  --------  --------------------------------------------------------------
    "complete"  0         ends with its value
    "retry"     >= 0      returns after the delay, one attempt used
    "snooze"    >= 0      returns after the delay, no attempt used
    "dead"      0         goes to the dead letter queue
    "discard"   0         ends without a value, and not in the dead letter queue

    `reason` says why in words, for people; "" where the kind says it all.
    """

    kind: Literal["complete", "retry", "snooze", "dead", "discard"]
    delay_ms: int = 0
    reason: str = ""


COMPLETE = Decision("complete")


def backoff_ms(policy: Retry, attempt: int, random: float) -> int:
    """The delay in ms (1 or more) after failure number `attempt`, which counts from 1.

    Args:
        random: uniform in [0, 1); not used without jitter.
    """
    try:
        grown_s = policy.base * policy.factor ** (attempt - 1)
    except OverflowError:
        grown_s = policy.cap
    ceiling_ms = min(policy.cap, grown_s) * 1000
    return max(1, int(ceiling_ms * (1 - random) if policy.jitter else ceiling_ms))


def decide(policy: Retry, max_retries: int, attempt: int, error: BaseException | None, random: float) -> Decision:
    """What becomes of a job whose run number `attempt` (from 1) ended with `error`, or with a value (None).

    Never raises, whatever the handler or `policy.when` did. The module's table is the rule.

    Args:
        max_retries: 0 or more; the run is the last one when `attempt` is above it.
        random: uniform in [0, 1), for the jitter.
    """
    if error is None:
        return COMPLETE
    if isinstance(error, Discard):
        return Decision("discard", reason=_reason(error))
    if isinstance(error, Dead):
        return Decision("dead", reason=_reason(error) or "the handler raised Dead")
    if isinstance(error, Snooze) and (delay_ms := _delay_ms(_delay(error))) is not None:
        return Decision("snooze", delay_ms, _reason(error))
    if attempt > max_retries:
        return Decision("dead", reason=f"failed {attempt} times (max_retries={max_retries}), last with {describe(error)}")
    if isinstance(error, (RetryLater, Snooze)):
        return _steered_retry(policy, attempt, error, random)
    return _by_policy(policy, attempt, error, random)


def _steered_retry(policy: Retry, attempt: int, signal: RetryLater | Snooze, random: float) -> Decision:
    """RetryLater, or a Snooze whose delay is none: no exception filter applies to either."""
    delay_ms = _delay_ms(_delay(signal))
    if delay_ms is not None:
        return Decision("retry", delay_ms, _reason(signal))
    note = f"{type(signal).__name__} with a delay that is no number of seconds ({describe(_delay(signal))}): retried by the policy"
    return Decision("retry", backoff_ms(policy, attempt, random), note)


def _by_policy(policy: Retry, attempt: int, error: BaseException, random: float) -> Decision:
    verdict, note = _ask_when(policy, attempt, error)
    if verdict is False:
        return Decision("dead", reason=f"{describe(error)} is not retried: `when` said no")
    if verdict is not None:
        return Decision("retry", verdict, "")
    if isinstance(error, policy.dont_retry_on):
        return Decision("dead", reason=_joined(f"{describe(error)} is not retried: dont_retry_on names it", note))
    if policy.retry_on and not isinstance(error, policy.retry_on):
        return Decision("dead", reason=_joined(f"{describe(error)} is not retried: retry_on does not name it", note))
    return Decision("retry", backoff_ms(policy, attempt, random), note)


def _ask_when(policy: Retry, attempt: int, error: BaseException) -> tuple[int | Literal[False] | None, str]:
    """`when`'s verdict (False, a delay in ms, or None = by the policy), and a note where it failed to give one."""
    if policy.when is None:
        return None, ""
    try:
        answer = policy.when(error, attempt)
    except BaseException as failure:
        return None, f"`when` raised {describe(failure)}: decided by the policy"
    if answer is False:
        return False, ""
    if answer is None or answer is True:
        return None, ""
    delay_ms = _delay_ms(answer)
    note = "" if delay_ms is not None else f"`when` answered {describe(answer)}, no bool, number or None: decided by the policy"
    return delay_ms, note


def _delay_ms(delay: object) -> int | None:
    """Seconds or a timedelta as whole ms in [0, ten years]: a time that has passed is now. None where it is neither."""
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or seconds != seconds:
        return None
    return round(min(max(seconds, 0), MAX_DELAY_S) * 1000)


def _delay(signal: RetryLater | Snooze) -> object:
    """The signal's delay, also where a subclass forgot to call the base's `__init__`."""
    return getattr(signal, "delay", None)


def _reason(signal: BaseException) -> str:
    reason = getattr(signal, "reason", "")
    text = reason if isinstance(reason, str) else describe(reason)
    return text.encode("utf-8", "backslashreplace").decode()[:_REASON_CHARS]  # a lone surrogate could not be stored


def _joined(reason: str, note: str) -> str:
    return f"{reason}; {note}" if note else reason


def _finite(field: str, number: object) -> float:
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        try:
            seconds = float(number)
        except OverflowError:
            seconds = math.inf
        if math.isfinite(seconds):
            return seconds
    raise ConfigError(f"Retry({field}={describe(number)}): must be a finite number, e.g. Retry(base=1, factor=2, cap=600).")


def _exception_types(field: str, given: object) -> tuple[type[BaseException], ...]:
    kinds = given if isinstance(given, (tuple, list, set, frozenset)) else (given,)
    return tuple(_exception_type(field, kind) for kind in kinds)


def _exception_type(field: str, kind: object) -> type[BaseException]:
    if isinstance(kind, type) and issubclass(kind, BaseException):
        return kind
    raise ConfigError(
        f"Retry({field}=…): {describe(kind)} is not an exception class. "
        f"Give a class or a tuple of classes, e.g. {field}=(OSError, TimeoutError)."
    )


def _check_when(when: object) -> None:
    if when is None:
        return
    if not callable(when):
        raise ConfigError(f"Retry(when={describe(when)}): must be callable as when(exception, attempt).")
    from inspect import iscoroutinefunction

    if iscoroutinefunction(when) or iscoroutinefunction(getattr(when, "__call__", None)):  # noqa: B004 - not a test for callability
        raise ConfigError(f"Retry(when={describe(when)}): must be a plain function, not an async one: it only decides, it cannot wait.")
