"""The retry policy and the decision after a run: the whole table, and what must hold for any numbers."""

import asyncio
import math
from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bananas.errors import ConfigError, Dead, Discard, RetryLater, Snooze, Steer
from bananas.retry import COMPLETE, MAX_DELAY_S, Decision, Retry, backoff_ms, decide

STEADY = Retry(base=1, factor=2, cap=600, jitter=False)

rolls = st.floats(0, 1, exclude_max=True)
attempts = st.one_of(st.integers(1, 20), st.integers(1, 10**6))


@st.composite
def policies(draw: st.DrawFn) -> Retry:
    base = draw(st.floats(0.001, 1000))
    return Retry(base=base, factor=draw(st.floats(1, 100)), cap=draw(st.floats(base, MAX_DELAY_S)), jitter=draw(st.booleans()))


class Anything:
    """What a careless `when` may answer."""


# --- the policy -------------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_documentation() -> None:
    assert Retry() == Retry(base=1, factor=2, cap=600, jitter=True, retry_on=(), dont_retry_on=(), when=None)


def test_numbers_become_floats_and_exception_classes_tuples() -> None:
    policy = Retry(base=1, factor=2, cap=600, retry_on=OSError, dont_retry_on=[ValueError, KeyError])  # type: ignore[arg-type]
    assert [type(number) for number in policy.to_wire()] == [float, float, float, bool]
    assert policy.retry_on == (OSError,)
    assert policy.dont_retry_on == (ValueError, KeyError)
    assert policy == Retry(retry_on=(OSError,), dont_retry_on=(ValueError, KeyError))


def test_a_policy_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Retry().base = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base": 0}, "base=0.0"),
        ({"base": -1}, "above 0"),
        ({"base": math.nan}, "base=nan"),
        ({"base": "1"}, "base='1'"),
        ({"base": True}, "base=True"),
        ({"base": 10**400}, "finite"),
        ({"factor": 0.5}, "factor=0.5"),
        ({"factor": math.inf}, "finite"),
        ({"cap": 0.5}, "raise cap"),
        ({"base": 1000}, "raise cap"),
        ({"cap": MAX_DELAY_S + 1}, "ten years"),
        ({"jitter": 1}, "True or False"),
        ({"retry_on": "OSError"}, "retry_on"),
        ({"retry_on": (OSError, int)}, "not an exception class"),
        ({"retry_on": None}, "retry_on"),
        ({"dont_retry_on": ValueError("an instance")}, "dont_retry_on"),
        ({"when": 3}, "callable"),
    ],
)
def test_a_bad_value_is_refused_by_name(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Retry(**options)  # type: ignore[arg-type]
    assert said in str(raised.value)


def test_an_async_when_is_refused() -> None:
    async def when(error: BaseException, attempt: int) -> bool:
        return True

    class AsyncCallable:
        async def __call__(self, error: BaseException, attempt: int) -> bool:
            return True

    for bad in (when, AsyncCallable()):
        with pytest.raises(ConfigError, match="plain function"):
            Retry(when=bad)  # type: ignore[arg-type]


@given(policies())
def test_the_numbers_survive_the_wire(policy: Retry) -> None:
    assert Retry.from_wire(msgspec.msgpack.decode(msgspec.msgpack.encode(policy.to_wire()))) == policy


def test_the_numbers_come_from_the_job_and_the_rest_from_the_code() -> None:
    code = Retry(base=9, retry_on=OSError, dont_retry_on=FileNotFoundError, when=lambda error, attempt: None)
    assert Retry.from_wire((1.0, 3.0, 60.0, False), code) == Retry(1, 3, 60, False, (OSError,), (FileNotFoundError,), code.when)


@pytest.mark.parametrize("wire", [(), (1.0, 2.0, 600.0), (1.0, 2.0, 600.0, True, 1), (0.0, 2.0, 600.0, True), ("1", 2.0, 600.0, True)])
def test_foreign_numbers_on_the_wire_are_refused(wire: tuple[object, ...]) -> None:
    with pytest.raises(ConfigError):
        Retry.from_wire(wire)


# --- the backoff ------------------------------------------------------------------------------------------------------


def test_the_backoff_doubles_up_to_the_cap() -> None:
    assert [backoff_ms(STEADY, attempt, 0.5) for attempt in range(1, 13)] == [
        *(1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000),
        *(600_000, 600_000),
    ]


@given(policies(), attempts, rolls)
def test_the_backoff_is_never_nothing_and_never_above_its_ceiling(policy: Retry, attempt: int, roll: float) -> None:
    delay_ms = backoff_ms(policy, attempt, roll)
    assert isinstance(delay_ms, int)
    assert delay_ms >= 1
    exponent = (attempt - 1) * math.log(policy.factor)  # the same ceiling in logarithms, which cannot overflow
    ceiling_s = min(policy.cap, policy.base * math.exp(min(exponent, 700)))
    assert delay_ms <= max(1, ceiling_s * 1000 * (1 + 1e-6))


@given(policies(), attempts, rolls)
def test_jitter_takes_a_uniform_part_of_the_backoff(policy: Retry, attempt: int, roll: float) -> None:
    numbers = policy.to_wire()[:3]
    full_ms = backoff_ms(Retry(*numbers, False), attempt, roll)
    assert backoff_ms(Retry(*numbers, True), attempt, 0.0) == full_ms
    assert backoff_ms(Retry(*numbers, True), attempt, roll) == pytest.approx(full_ms * (1 - roll), abs=1.001)


@given(policies(), st.integers(1, 10_000))
def test_without_jitter_a_later_failure_never_waits_less(policy: Retry, attempt: int) -> None:
    steady = Retry(*policy.to_wire()[:3], False)
    assert backoff_ms(steady, attempt, 0) <= backoff_ms(steady, attempt + 1, 0)


@pytest.mark.parametrize("attempt", [10_000, 10**30, 10**400])
def test_the_backoff_does_not_overflow(attempt: int) -> None:
    assert backoff_ms(STEADY, attempt, 0.0) == 600_000
    assert backoff_ms(Retry(base=1, factor=1e300, cap=5, jitter=False), attempt, 0.0) == 5000


# --- the decision -----------------------------------------------------------------------------------------------------

TABLE: list[tuple[str, Retry, BaseException | None, Decision, str]] = [
    # what, policy, the end of the handler, the decision with attempts left, the kind without
    ("returned", STEADY, None, COMPLETE, "complete"),
    ("Discard", STEADY, Discard("stale"), Decision("discard", 0, "stale"), "discard"),
    ("Dead", STEADY, Dead("poisoned row"), Decision("dead", 0, "poisoned row"), "dead"),
    ("Dead without a reason", STEADY, Dead(), Decision("dead", 0, "the handler raised Dead"), "dead"),
    ("Snooze", STEADY, Snooze(2.5, "busy"), Decision("snooze", 2500, "busy"), "snooze"),
    ("Snooze now", STEADY, Snooze(0), Decision("snooze", 0), "snooze"),
    ("Snooze to a time that has passed", STEADY, Snooze(-3), Decision("snooze", 0), "snooze"),
    ("RetryLater", STEADY, RetryLater(7, "429"), Decision("retry", 7000, "429"), "dead"),
    ("RetryLater with a timedelta", STEADY, RetryLater(timedelta(minutes=2)), Decision("retry", 120_000), "dead"),  # type: ignore[arg-type]
    ("RetryLater for ever", STEADY, RetryLater(math.inf), Decision("retry", MAX_DELAY_S * 1000), "dead"),
    ("RetryLater past retry_on", Retry(retry_on=OSError), RetryLater(7), Decision("retry", 7000), "dead"),
    ("any exception", STEADY, ValueError("x"), Decision("retry", 2000), "dead"),
    ("a timeout", STEADY, TimeoutError(), Decision("retry", 2000), "dead"),
    ("a bare signal", STEADY, Steer(), Decision("retry", 2000), "dead"),
    ("a group", STEADY, ExceptionGroup("g", [ValueError()]), Decision("retry", 2000), "dead"),
    ("KeyboardInterrupt", STEADY, KeyboardInterrupt(), Decision("retry", 2000), "dead"),
    ("SystemExit", STEADY, SystemExit(1), Decision("retry", 2000), "dead"),
    ("CancelledError", STEADY, asyncio.CancelledError(), Decision("retry", 2000), "dead"),
]


@pytest.mark.parametrize(("policy", "error", "with_attempts_left"), [row[1:4] for row in TABLE], ids=[row[0] for row in TABLE])
def test_decision_while_attempts_are_left(policy: Retry, error: BaseException | None, with_attempts_left: Decision) -> None:
    assert decide(policy, 3, 2, error, 0.0) == with_attempts_left


@pytest.mark.parametrize(("policy", "error", "kind"), [(*row[1:3], row[4]) for row in TABLE], ids=[row[0] for row in TABLE])
def test_decision_after_the_last_attempt(policy: Retry, error: BaseException | None, kind: str) -> None:
    decision = decide(policy, 3, 4, error, 0.0)
    assert decision.kind == kind
    assert bool(decision.delay_ms) <= (kind == "snooze")


def test_three_retries_are_four_runs() -> None:
    assert [decide(STEADY, 3, attempt, ValueError(), 0.0).kind for attempt in range(1, 6)] == ["retry"] * 3 + ["dead"] * 2
    assert decide(STEADY, 0, 1, ValueError(), 0.0).kind == "dead"


def test_a_death_by_exhaustion_says_how_often_and_with_what() -> None:
    reason = decide(STEADY, 3, 4, ValueError("no such user"), 0.0).reason
    assert "failed 4 times" in reason
    assert "max_retries=3" in reason
    assert "no such user" in reason


@pytest.mark.parametrize(
    ("policy", "error", "kind"),
    [
        (Retry(retry_on=OSError), OSError(), "retry"),
        (Retry(retry_on=OSError), FileNotFoundError(), "retry"),
        (Retry(retry_on=OSError), ValueError(), "dead"),
        (Retry(retry_on=(OSError, ValueError)), ValueError(), "retry"),
        (Retry(retry_on=OSError), SystemExit(), "dead"),
        (Retry(retry_on=SystemExit), SystemExit(), "retry"),
        (Retry(dont_retry_on=ValueError), ValueError(), "dead"),
        (Retry(dont_retry_on=ValueError), UnicodeError(), "dead"),
        (Retry(dont_retry_on=ValueError), OSError(), "retry"),
        (Retry(retry_on=OSError, dont_retry_on=FileNotFoundError), OSError(), "retry"),
        (Retry(retry_on=OSError, dont_retry_on=FileNotFoundError), FileNotFoundError(), "dead"),
        (Retry(retry_on=FileNotFoundError, dont_retry_on=OSError), FileNotFoundError(), "dead"),
    ],
)
def test_exception_classes_decide(policy: Retry, error: BaseException, kind: str) -> None:
    decision = decide(policy, 3, 1, error, 0.0)
    assert decision.kind == kind
    assert bool(decision.reason) is (kind == "dead")


@pytest.mark.parametrize(
    ("answer", "error", "decision"),
    [
        (False, OSError(), "dead"),
        (True, OSError(), Decision("retry", 1000)),
        (None, OSError(), Decision("retry", 1000)),
        (True, ValueError(), "dead"),
        (None, ValueError(), "dead"),
        (5, ValueError(), Decision("retry", 5000)),
        (0.25, OSError(), Decision("retry", 250)),
        (0, OSError(), Decision("retry", 0)),
        (timedelta(seconds=9), OSError(), Decision("retry", 9000)),
    ],
)
def test_when_decides_before_the_exception_classes(answer: bool | float | None, error: BaseException, decision: Decision | str) -> None:
    policy = Retry(jitter=False, dont_retry_on=ValueError, when=lambda error, attempt: answer)
    decided = decide(policy, 3, 1, error, 0.0)
    assert (decided.kind if isinstance(decision, str) else decided) == decision


def test_when_sees_the_exception_and_the_attempt_while_attempts_are_left_only() -> None:
    seen: list[tuple[BaseException, int]] = []

    def when(error: BaseException, attempt: int) -> None:
        seen.append((error, attempt))

    error = OSError()
    for attempt in range(1, 5):
        decide(Retry(when=when), 3, attempt, error, 0.0)
    for signal in (None, Discard(), Dead(), Snooze(1), RetryLater(1)):
        decide(Retry(when=when), 3, 1, signal, 0.0)
    assert seen == [(error, 1), (error, 2), (error, 3)]


@pytest.mark.parametrize("failure", [RuntimeError("bug in when"), SystemExit("bug in when"), asyncio.CancelledError("bug in when")])
def test_a_when_that_raises_leaves_the_decision_to_the_policy_and_is_named(failure: BaseException) -> None:
    def when(error: BaseException, attempt: int) -> bool:
        raise failure

    policy = Retry(jitter=False, dont_retry_on=ValueError, when=when)
    retried, dead = decide(policy, 3, 1, OSError(), 0.0), decide(policy, 3, 1, ValueError(), 0.0)
    assert (retried.kind, retried.delay_ms) == ("retry", 1000)
    assert "bug in when" in retried.reason
    assert dead.kind == "dead"
    assert "dont_retry_on" in dead.reason
    assert "bug in when" in dead.reason


@pytest.mark.parametrize("answer", ["5", math.nan, Anything(), b"", [1]])
def test_a_when_that_answers_nonsense_leaves_the_decision_to_the_policy_and_is_named(answer: object) -> None:
    decision = decide(Retry(jitter=False, when=lambda error, attempt: answer), 3, 1, OSError(), 0.0)  # type: ignore[arg-type,return-value]
    assert (decision.kind, decision.delay_ms) == ("retry", 1000)
    assert "`when` answered" in decision.reason


@pytest.mark.parametrize("signal", [RetryLater, Snooze])
@pytest.mark.parametrize("delay", ["soon", None, math.nan, True])
def test_a_signal_whose_delay_is_no_number_retries_by_the_policy_and_says_so(
    signal: type[RetryLater] | type[Snooze], delay: object
) -> None:
    decision = decide(STEADY, 3, 2, signal(delay), 0.0)  # type: ignore[arg-type]
    assert (decision.kind, decision.delay_ms) == ("retry", 2000)
    assert signal.__name__ in decision.reason
    assert decide(STEADY, 3, 4, signal(delay), 0.0).kind == "dead"  # type: ignore[arg-type]


def test_signals_may_be_subclassed_even_carelessly() -> None:
    class Careless(Snooze):
        def __init__(self) -> None:
            Exception.__init__(self, "forgot super().__init__")

    class Quiet(Discard):
        def __init__(self) -> None:
            Exception.__init__(self)

    assert decide(STEADY, 3, 2, Careless(), 0.0).kind == "retry"
    assert decide(STEADY, 3, 2, Quiet(), 0.0) == Decision("discard")


def test_reasons_are_bounded_text() -> None:
    assert len(decide(STEADY, 3, 1, Discard("x" * 100_000), 0.0).reason) == 1000
    assert decide(STEADY, 3, 1, Dead(404), 0.0).reason == "404"  # type: ignore[arg-type]
    assert decide(STEADY, 3, 1, Discard("bad\udcff"), 0.0).reason == "bad\\udcff"
    assert len(decide(STEADY, 0, 1, ValueError("x" * 100_000), 0.0).reason) < 1000


def test_an_exception_whose_repr_fails_is_decided_all_the_same() -> None:
    class Unprintable(Exception):
        def __repr__(self) -> str:
            raise RuntimeError

    assert decide(STEADY, 0, 1, Unprintable(), 0.0).kind == "dead"
    assert decide(STEADY, 3, 1, Unprintable(), 0.0).kind == "retry"


errors = st.sampled_from([None, ValueError(), OSError(), SystemExit(), Discard(), Dead()]) | st.builds(
    lambda signal, delay: signal(delay), st.sampled_from([RetryLater, Snooze]), st.floats() | st.integers() | st.timedeltas() | st.text()
)
answers = st.none() | st.booleans() | st.floats() | st.integers() | st.timedeltas() | st.text()


@given(policies(), st.integers(0, 50), st.integers(1, 60), errors, answers, rolls)
def test_any_end_of_a_handler_has_a_decision_that_keeps_the_limits(
    policy: Retry, max_retries: int, attempt: int, error: BaseException | None, answer: object, roll: float
) -> None:
    code = Retry(retry_on=(OSError, SystemExit), when=lambda error, attempt: answer)  # type: ignore[arg-type,return-value]
    decision = decide(Retry.from_wire(policy.to_wire(), code), max_retries, attempt, error, roll)
    assert 0 <= decision.delay_ms <= MAX_DELAY_S * 1000
    assert decision.delay_ms == 0 or decision.kind in ("retry", "snooze")
    assert decision.kind != "retry" or attempt <= max_retries
    assert (decision.kind == "complete") is (error is None)
    assert decision.kind != "snooze" or isinstance(error, Snooze)
