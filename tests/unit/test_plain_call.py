"""A task called as a function runs its handler here, also one that asks for its job."""

import gc

import pytest

from bananas import Bananas, BananasError, current_job

app = Bananas("redis://127.0.0.1:1/0")


@app.task(queue="email", priority="high")
async def look() -> tuple[str, str, int, int, int]:
    job = current_job()
    return job.task, job.queue, job.priority, job.attempt, job.fence


@app.task
def look_sync() -> str:
    return current_job().task


@app.task
def outer() -> str:
    look_sync()
    return current_job().task


async def test_a_plain_call_has_a_stand_in_for_its_job() -> None:
    assert await look() == ("look", "email", 100, 1, 0)
    assert look_sync() == "look_sync"


def test_no_job_is_left_behind() -> None:
    look_sync()
    with pytest.raises(BananasError, match="where no job runs"):
        current_job()


def test_a_call_within_a_handler_keeps_the_job_of_the_outer_one() -> None:
    assert outer() == "outer"


async def test_a_call_that_is_never_finished_leaves_nothing() -> None:
    call = look()
    call.close()
    del call
    gc.collect()
    with pytest.raises(BananasError):
        current_job()
