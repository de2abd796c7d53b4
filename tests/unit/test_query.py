"""The query language: what is read, what is refused and where, and what a query fits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bananas.errors import ConfigError
from bananas.job import ErrorRecord, JobInfo
from bananas.operate.matching import Facts, matches, top_frame
from bananas.operate.query import NAMES, QueryError, parse

NOW = 10_000_000
ID = "0190000000007000800000000000000a" + "12345678" + "1f4"


def job(**given: Any) -> JobInfo:
    usual: dict[str, Any] = {"id": f"email.{ID}", "queue": "email", "state": "dead", "task": "send_email", "priority": 500}
    return JobInfo(**usual | given)


FRAMES = '  File "/app/main.py", line 3, in run\n    send()\n  File "/app/mail.py", line 7, in send\n    smtp()\n'
FAILED = job(
    attempts=3,
    born_ms=NOW - 600_000,
    died_ms=NOW - 60_000,
    errors=(ErrorRecord(1, 3, "app.SmtpTimeout", "no such host: mx.example", FRAMES, "web-1:77"),),
    args=("a@b.c", {"id": 42, "tags": ["x", "y"]}, True, None, 2**63),
    kwargs={"subject": "hello, *world*", "ratio": 0.5},
    headers={"tenant": "acme"},
    tags=("import", "customer:42"),
)


def fits(query: str, info: JobInfo = FAILED, unique: str = "order-7", host: str = "") -> bool:
    return matches(parse(query), Facts(info, NOW, unique, host), lambda _: ("to", "user"))


@pytest.mark.parametrize(
    "query",
    [
        "",
        "task:send_email",
        "task:send_*",
        "task:other,send_email",
        "-task:other",
        "queue:email",
        "state:dead",
        "state:ready,dead",
        f"id:email.{ID}",
        "id:01900000",
        "error:timeout",
        "error_type:app.SmtpTimeout",
        "error_type:*Timeout",
        'frame:"/app/mail.py:7 in send"',
        "-error_type:SmtpTimeout",
        'error:"no such host"',
        "worker:web-1",
        "tag:import",
        "tag:customer:42,other",
        "tag:customer:*",
        "-tag:vip",
        "worker:web-1:77",
        "priority:normal",
        "priority>=500",
        "attempts>=3",
        "attempts:3",
        "crashes:0",
        "age>5m",
        "age<1h",
        "died>=1m",
        "died:1m",
        "args.to:a@b.c",
        "args.0:a@*",
        "args.user.id:42",
        "args.1.id>=42",
        "args.1.tags.1:y",
        "args.2:true",
        "args.3:null",
        "args.4:9223372036854775808",
        "args.ratio:0.50",
        'args.subject:"hello, *world*"',
        "header.tenant:acme",
        "unique:order-*",
        "SUBJECT",
        "mx.example",
        '"no such host" attempts>2',
    ],
)
def test_a_query_fits(query: str) -> None:
    assert fits(query)


@pytest.mark.parametrize(
    "query",
    [
        "task:send",
        "-task:send_email",
        "queue:mail",
        "state:ready",
        "state:retrying",
        "error:Other",
        "error_type:SmtpTimeout",
        'frame:"/app/main.py:3 in run"',
        'frame:""',
        "worker:web",
        "attempts>3",
        "waited>0s",
        "due<1h",
        "age>10m",
        'args.1.id:"42"',
        "args.2:1",
        "args.user.id.more:1",
        "args.1.tags.7:x",
        "args.missing:null",
        "args.to>1",
        "header.other:*",
        "unique:order-8",
        "nothing-like-it",
    ],
)
def test_a_query_does_not_fit(query: str) -> None:
    assert not fits(query)


def test_states_of_waiting_and_running_jobs() -> None:
    again = job(state="scheduled", attempts=1, due_ms=NOW + 30_000, priority=100)
    assert fits("state:retrying due<1m due>10s priority:high", again)
    assert not fits("state:retrying", job(state="scheduled", due_ms=NOW + 1))
    assert fits("waited>5s", job(state="ready", ready_since_ms=NOW - 6_000))
    running = job(state="running", worker="0123456789abcdef")
    assert fits("worker:0123456789abcdef", running)
    assert fits("worker:web-2", running, host="web-2:9")
    assert not fits("unique:*", running, unique="")


@pytest.mark.parametrize(
    ("query", "position", "says"),
    [
        ("tsk:x", 0, "did you mean task:?"),
        ("task:a http://x", 7, "text with a colon goes in quotes"),
        ("task:", 5, "a value is missing after task"),
        ("task:a, x", 7, "a value is missing"),
        ('error:"open', 6, "this quote is not closed"),
        ('"a"b', 3, "a space is missing after the quote"),
        ('a"b', 1, "a quote in the middle of a word"),
        ("state:gone", 6, "there is no state gone"),
        ("attempts>=many", 10, "whole number"),
        ("age>soon", 4, "age"),
        ("priority:2000", 9, "priority"),
        ("task>a", 0, "task is text"),
        ("args:1", 0, "args needs the name of one"),
        ("task.x:1", 0, "task has no parts"),
        ("x -", 3, "a value is missing"),
        ("attempts>=1,2", 10, "takes one value"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(query: str, position: int, says: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse(query)
    assert caught.value.position == position
    assert says in str(caught.value)
    assert isinstance(caught.value, ConfigError)


def test_the_places_that_may_hold_a_match() -> None:
    assert parse("").states() == ("running", "ready", "scheduled", "dead")
    assert parse("state:dead,retrying").states() == ("scheduled", "dead")
    assert parse("-state:dead due<1h").states() == ("scheduled",)
    assert parse("died>1h").states() == ("dead",)
    assert parse("task:a,b").only("task") == ("a", "b")
    assert parse("task:a* -task:b").only("task") is None


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_at_a_place_in_it(text: str) -> None:
    try:
        query = parse(text)
    except QueryError as error:
        position = error.position
    else:
        position = 0
        assert str(parse(str(query))) == str(query)
        assert matches(query, Facts(FAILED, NOW)) in (True, False)
    assert 0 <= position <= len(text)


VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.sampled_from(["task", "queue", "id", "error", "worker", "unique", "args.a.b", "header.x"]), st.lists(VALUES, min_size=1, max_size=3)
)
def test_quoted_values_arrive_as_they_are(name: str, values: list[str]) -> None:
    quoted = ",".join('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values)
    (term,) = parse(f"-{name}:{quoted}").terms
    assert [value.text for value in term.values] == values
    assert term.negated
    assert name.split(".", maxsplit=1)[0] in (*NAMES, "args", "header")
    assert parse(str(parse(f"-{name}:{quoted}"))) == parse(f"-{name}:{quoted}")


@given(VALUES.filter(lambda text: "*" not in text))
def test_what_is_in_the_arguments_is_found(text: str) -> None:
    info = job(kwargs={"note": text}, args=())
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert fits(f"args.note:{quoted}", info)


def test_the_innermost_frame_is_named() -> None:
    frames = '  File "/a/b.py", line 3, in outer\n    x()\n  File "/a/c.py", line 9, in inner\n    y()\n'
    text = f"Traceback (most recent call last):\n{frames}E: m\n"
    assert top_frame(text) == "/a/c.py:9 in inner"
    assert top_frame("") == ""
    assert fits('frame:"" error_type:E', job(errors=(ErrorRecord(1, 1, "E", "m", "", ""),)))
