"""What is not shown of a job, by the names of arguments."""

from __future__ import annotations

from typing import Any

import pytest

from bananas.config import REDACTED
from bananas.job import JobInfo
from bananas.operate.matching import no_parameters
from bananas.operate.redaction import REDACTED as SHOWN
from bananas.operate.redaction import Redaction


def job(*args: Any, headers: dict[str, str] | None = None, task: str = "send", **kwargs: Any) -> JobInfo:
    return JobInfo(id="q.1", queue="q", state="ready", priority=500, task=task, args=args, kwargs=kwargs, headers=headers)


def parameters(task: str) -> tuple[str, ...]:
    return ("to", "password") if task == "send" else ()


@pytest.fixture
def usual() -> Redaction:
    return Redaction(REDACTED, parameters)


@pytest.mark.parametrize(
    "name",
    ["password", "PASSWORD", "user_password", "accessToken", "X-Api-Key", "token2", "db.secret", "cardNumber", "Authorization", "APIKey"],
)
def test_a_name_with_one_of_the_words_is_redacted(usual: Redaction, name: str) -> None:
    assert usual.info(job(**{name: "s3cret"})).kwargs == {name: SHOWN}


@pytest.mark.parametrize("name", ["to", "max_tokens", "tokenize", "passwordless", "secretary", "key", "keyboard", "", "cvvalid"])
def test_other_names_are_shown(usual: Redaction, name: str) -> None:
    info = job(**{name: "x"})
    assert usual.info(info) is info


def test_what_is_inside_of_arguments_is_redacted_and_the_rest_kept(usual: Redaction) -> None:
    info = job({"user": {"id": 1, "password": {"old": "a"}}, "list": [{"token": 5}, "x"]}, "shown?", 7, plain=b"x")
    found = usual.info(info)
    assert found.args == ({"user": {"id": 1, "password": SHOWN}, "list": [{"token": SHOWN}, "x"]}, SHOWN, 7)
    assert found.kwargs == {"plain": b"x"}
    assert info.args is not None
    assert info.args[0]["user"]["password"] == {"old": "a"}, "the info itself is as it was"


def test_positional_arguments_have_names_where_the_code_is_known(usual: Redaction) -> None:
    assert usual.info(job("ada", "s3cret", "more")).args == ("ada", SHOWN, "more")
    assert usual.info(job("ada", "s3cret", task="unknown")).args == ("ada", "s3cret")


def test_headers_are_redacted_too(usual: Redaction) -> None:
    assert usual.info(job(headers={"Authorization": "Bearer x", "tenant": "acme"})).headers == {"Authorization": SHOWN, "tenant": "acme"}


def test_a_name_may_be_that_of_one_task() -> None:
    redaction = Redaction(["charge:number", "a:b:pin"], no_parameters)
    assert redaction.info(job(number=1, task="charge")).kwargs == {"number": SHOWN}
    assert redaction.info(job(number=1)).kwargs == {"number": 1}
    assert redaction.info(job(pin=1, task="a:b")).kwargs == {"pin": SHOWN}


def test_without_names_everything_is_shown() -> None:
    info = job(password="x")
    assert Redaction((), parameters).info(info) is info


def test_what_is_nested_without_end_is_not_followed(usual: Redaction) -> None:
    value: Any = "deep"
    for _ in range(5_000):
        value = [value]
    found = usual.info(job(value)).args
    assert found is not None
    inner: Any = found[0]
    depth = 0
    while isinstance(inner, list):
        inner, depth = inner[0], depth + 1
    assert (inner, depth < 100) == (SHOWN, True)


def test_a_job_that_cannot_be_read_is_shown_as_it_is(usual: Redaction) -> None:
    info = JobInfo(id="q.1", queue="q", state="dead", priority=500)
    assert usual.info(info) is info
