"""Code that uses the API wrongly: each call is a typed error that says what to write instead, before anything is sent."""

from typing import Any

import pytest

from bananas import Bananas, ConfigError, InvalidName

app = Bananas("redis://127.0.0.1:1/0")


@app.task
async def work(number: int = 0) -> int:
    return number


def test_a_name_in_the_place_of_the_function_is_refused_with_the_form_to_use() -> None:
    with pytest.raises(ConfigError, match=r"name=\.\.\."):
        app.task("email")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


@pytest.mark.parametrize("every", [None, 5])
def test_a_cron_task_that_needs_an_argument_is_refused(every: Any) -> None:
    async def sweep(directory: str, depth: int = 1) -> None: ...

    with pytest.raises(ConfigError, match="needs directory"):
        app.cron(every=every or 1)(sweep)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert "sweep" not in app.registry.tasks


def test_a_cron_task_whose_parameters_have_defaults_is_taken() -> None:
    @app.cron("@hourly")
    async def hourly(*args: int, depth: int = 1, **others: int) -> None: ...

    assert "hourly" in app.registry.crons


@pytest.mark.parametrize("kind", ["on_success", "on_retry", "on_dead"])
def test_a_hook_that_cannot_be_called_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"{kind}=3"):
        getattr(app, kind)(3)
    wrong: dict[str, Any] = {kind: 3}
    with pytest.raises(ConfigError, match=f"{kind}=3"):
        app.task(**wrong)(lambda: None)


def test_a_call_without_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="call_timeout=0"):
        work.options(call_timeout=0)


MANY = [str(n) for n in range(17)]


@pytest.mark.parametrize("tags", ["vip", ["a b"], ["a,b"], ['a"'], [""], ["x" * 65], [1], ["a\n"], ["\ud800"], MANY, None])
def test_tags_that_cannot_be_stored_are_refused(tags: Any) -> None:
    with pytest.raises(ConfigError, match="at most 16 words of 1 to 64 characters"):
        work.options(tags=tags)


def test_tags_are_an_option_of_a_submit_not_of_a_task() -> None:
    wrong: dict[str, Any] = {"tags": ["vip"]}
    with pytest.raises(ConfigError, match="belongs to a submit"):
        app.task(**wrong)(lambda: None)


async def test_options_that_are_no_dict_are_refused() -> None:
    with pytest.raises(ConfigError, match="give a dict"):
        await app.submit("work", options=work.options(delay=5))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_what_is_not_several_calls_is_refused() -> None:
    with pytest.raises(ConfigError, match="submit_many takes calls"):
        await app.submit_many(work)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_single_call_is_not_several() -> None:
    with pytest.raises(ConfigError, match="submit_many takes calls"):
        app.submit_many_sync(work.bind(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("wrong", [None, 7, b"default.x", "x"])
def test_what_is_no_job_id_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidName, match="is not a job id"):
        app.job(wrong)


async def test_what_is_no_job_cannot_be_waited_for() -> None:
    with pytest.raises(ConfigError, match=r"app\.job\(id\)"):
        await anext(app.as_completed(["an id"]))  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("part", [{"limit": 0}, {"limit": -1}, {"offset": -1}, {"limit": "5"}])
async def test_a_part_of_the_dead_letters_that_is_none_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="whole numbers"):
        await app.queue("default").dead.list(**part)
