"""The routes of jobs: submit, look, wait, cancel, move, try again, delete."""

import asyncio
from typing import Any

import msgspec
from msgspec import UNSET

from bananas.errors import BananasError, JobConflict, ResultTimeout, SubmitManyError, TaskError, UnknownTask, describe
from bananas.handle import Job
from bananas.http.access import Role
from bananas.http.once import check_key, submit_once
from bananas.http.problems import Refused, problem_of
from bananas.http.routes import Asked, Reply, Route, Site, gone
from bananas.http.values import (
    Changed,
    Ending,
    Item,
    Items,
    JobView,
    NewJob,
    NewJobs,
    NewPriority,
    NewTime,
    Submitted,
    WaitQuery,
    job_view,
)
from bananas.operate import redacted
from bananas.retry import Retry
from bananas.task import Call, read_options

KEY = {"Idempotency-Key": "Names this request: sent again within 50 minutes, it gives the same job, also when that has run and gone."}
_CALL_FIELDS = ("task", "args", "kwargs", "retry")
_STATES_THAT_WAIT = ("ready", "scheduled", "running")
ID = "email.0190a3b1c2d37e8f9a0b1c2d3e4f50611a2b3c4d1f4"


def call_of(site: Site, job: NewJob) -> Call[Any]:
    """The call that a job stands for. Raises UnknownTask, ConfigError."""
    known = site.app.registry.tasks
    if site.checked and job.task not in known:
        raise UnknownTask(
            f"no task {describe(job.task)} is declared here: nothing was stored. There is {', '.join(sorted(known)[:20]) or 'none'}."
        )
    fields = (name for name in NewJob.__struct_fields__ if name not in _CALL_FIELDS)
    given: dict[str, Any] = {name: value for name in fields if (value := getattr(job, name)) is not UNSET}
    if isinstance(job.retry, msgspec.Struct):
        given["retry"] = Retry(**msgspec.structs.asdict(job.retry))
    return Call(job.task, tuple(job.args), dict(job.kwargs), read_options(given))


async def submit_job(asked: Asked) -> Reply:
    call = call_of(asked.site, asked.body)
    if (key := asked.request.headers.get("idempotency-key")) is not None:
        job = await submit_once(asked.app, call, check_key(key), asked.raw)
    else:
        job = await asked.app.producer.submit(call)
    return Reply(Submitted(job.id, job.created), 201 if job.created else 200, {"Location": asked.path("jobs", job.id)})


async def submit_jobs(asked: Asked) -> Items:
    key = asked.request.headers.get("idempotency-key")
    outcomes: list[Any] = []
    calls: dict[int, Call[Any]] = {}
    for place, job in enumerate(asked.body.jobs):
        try:
            calls[place] = call_of(asked.site, job)
            outcomes.append(None)
        except BananasError as error:
            outcomes.append(error)
    if key is None:
        found = await _many(asked, list(calls.values()))
    else:
        whole, bodies = check_key(key), asked.body.jobs
        once = (submit_once(asked.app, call, f"{whole} {place}", msgspec.msgpack.encode(bodies[place])) for place, call in calls.items())
        found = await asyncio.gather(*once, return_exceptions=True)
    for place, outcome in zip(calls, found, strict=True):
        outcomes[place] = outcome
    items = [_item(outcome) for outcome in outcomes]
    failed = sum(item.problem is not None for item in items)
    return Items(len(items) - failed, failed, items)


async def _many(asked: Asked, calls: list[Call[Any]]) -> list[Any]:
    try:
        return list(await asked.app.producer.submit_many(calls))
    except SubmitManyError as error:
        return error.outcomes


def _item(outcome: Job[Any] | BaseException) -> Item:
    if isinstance(outcome, Job):
        return Item(outcome.id, outcome.created)
    problem, _ = problem_of(outcome)
    return Item(problem=msgspec.to_builtins(problem))


async def job_info(asked: Asked) -> JobView:
    info = await asked.job.info()
    if info.state == "unknown":
        raise gone(asked.job)
    return job_view(redacted(asked.app, info))


async def job_result(asked: Asked) -> Ending | Reply:
    job, wait = asked.job, asked.query.wait
    with asked.site.waits.seat():
        async with asked.site.unless_stopping(ending_of(job, wait)) as task:
            ending = task.result() if task.done() else None
    if ending is not None:
        return ending
    info = await job.info()
    if info.state in _STATES_THAT_WAIT:
        return Reply(Ending(job.id, info.state, False), 202, {"Retry-After": "1"})
    return await ending_of(job, 1) or Reply(Ending(job.id, info.state, True), 200)


async def ending_of(job: Job[Any], wait: float | None) -> Ending | None:
    """How the job ended; None when it has not within so many seconds. Raises JobNotFound, ResultsDisabled, BrokerError."""
    try:
        return Ending(job.id, "success", True, await job.result(wait))
    except ResultTimeout:
        return None
    except TaskError as error:
        ended: Any = error.state
        told = (error.error_type, error.error_message, error.traceback, error.attempts)
        return Ending(job.id, ended, True, UNSET, *told)


async def cancel_job(asked: Asked) -> Changed:
    job = asked.job
    if (await job.info()).state == "unknown":
        raise gone(job)
    return Changed(await job.cancel())


async def set_priority(asked: Asked) -> JobView:
    await asked.job.set_priority(asked.body.priority)
    return await job_info(asked)


async def reschedule_job(asked: Asked) -> JobView:
    given = asked.body
    if (given.delay is UNSET) == (given.at is UNSET):
        raise Refused(422, "InvalidBody", "Give delay or at, one of the two; nothing was changed.")
    await asked.job.reschedule(**({"at": given.at} if given.delay is UNSET else {"delay": given.delay}))
    return await job_info(asked)


async def retry_job(asked: Asked) -> JobView:
    job = asked.job
    state = (await job.info()).state
    if state == "dead":
        await asked.app.queue(job.place[0].queue).dead.replay(job.id)
    elif state == "scheduled":
        await job.reschedule(delay=0)
    elif state == "unknown":
        raise gone(job)
    else:
        raise JobConflict(f"job {job.id} is {state}: nothing was changed. A job is tried again when it is dead, or waits for its time")
    return await job_info(asked)


async def delete_job(asked: Asked) -> Changed:
    job = asked.job
    if await asked.app.queue(job.place[0].queue).dead.delete(job.id):
        return Changed(True)
    state = (await job.info()).state
    if state == "unknown":
        raise gone(job)
    raise JobConflict(f"job {job.id} is {state}, not dead: nothing was deleted. A job that waits is cancelled instead")


_NEW = {"task": "send_email", "args": ["ada@example.org"], "kwargs": {"subject": "welcome"}, "delay": 60, "tags": ["newsletter"]}
EXAMPLE = dict.fromkeys(JobView.__struct_fields__) | {
    "id": ID,
    "queue": "email",
    "state": "ready",
    "task": "send_email",
    "priority": 500,
    "place": 3,
    "attempts": 0,
    "crashes": 0,
    "born_ms": 1719830400000,
    "ready_since_ms": 1719830400000,
    "waited_ms": 120,
    "errors": [],
    "progress_text": "",
    "log": [],
    "tags": ["newsletter"],
    "cancel_requested": False,
    "overdue": False,
    "queue_paused": False,
    "args": ["ada@example.org"],
    "kwargs": {"subject": "welcome"},
}
_JOB: dict[str, Any] = {"tag": "jobs", "problems": (404, 409)}
_ACT: dict[str, Any] = _JOB | {"role": Role.operator, "method": "POST"}

ROUTES = [
    Route(
        method="POST",
        path="/jobs",
        handler=submit_job,
        role=Role.operator,
        summary="Submit a job",
        text="Where the API knows an app, its task must be declared there, and the arguments must fit the handler's annotations.",
        tag="jobs",
        body=NewJob,
        example=_NEW,
        reply=Submitted,
        answer={"id": ID, "created": True},
        headers=KEY,
        statuses={201: "A new job.", 200: "The job of an earlier request, by its unique or idempotency key."},
        problems=(413, 502, 504),
    ),
    Route(
        method="POST",
        path="/jobs/batch",
        handler=submit_jobs,
        role=Role.operator,
        summary="Submit up to 1,000 jobs",
        text="Each comes to an id or to a problem of its own; the answer has them in order.",
        tag="jobs",
        body=NewJobs,
        example={"jobs": [_NEW, {"task": "send_email", "args": ["bob@example.org"]}]},
        reply=Items,
        answer={"submitted": 1, "failed": 0, "items": [{"id": ID, "created": True}]},
        headers=KEY,
        problems=(413,),
    ),
    Route(
        method="GET",
        path="/jobs/{id}",
        handler=job_info,
        role=Role.viewer,
        summary="All that is known of a job",
        reply=JobView,
        answer=EXAMPLE,
        **_JOB,
    ),
    Route(
        method="GET",
        path="/jobs/{id}/result",
        handler=job_result,
        role=Role.viewer,
        summary="The end of a job, waiting for it",
        text="A job that ended without a value is an answer too: its state and error say why.",
        query=WaitQuery,
        reply=Ending,
        answer={"id": ID, "state": "success", "ended": True, "value": "sent"},
        statuses={200: "It has ended.", 202: "It has not ended yet: ask again."},
        tag="jobs",
        problems=(404, 409, 410),
    ),
    Route(
        path="/jobs/{id}/cancel",
        handler=cancel_job,
        summary="Cancel a job",
        text="At once while it waits, within a heartbeat while it runs; false when it has ended already.",
        reply=Changed,
        answer={"changed": True},
        **_ACT,
    ),
    Route(
        path="/jobs/{id}/priority",
        handler=set_priority,
        summary="Change a job's priority",
        body=NewPriority,
        example={"priority": "high"},
        reply=JobView,
        answer=EXAMPLE,
        **_ACT,
    ),
    Route(
        path="/jobs/{id}/reschedule",
        handler=reschedule_job,
        summary="Change when a job becomes ready",
        body=NewTime,
        example={"delay": 0},
        reply=JobView,
        answer=EXAMPLE,
        **_ACT,
    ),
    Route(
        path="/jobs/{id}/retry",
        handler=retry_job,
        summary="Try a job again now",
        text="A dead one is replayed, with fresh attempts; one that waits for its time is made ready.",
        reply=JobView,
        answer=EXAMPLE,
        **_ACT,
    ),
    Route(
        method="DELETE",
        path="/jobs/{id}",
        handler=delete_job,
        role=Role.admin,
        summary="Delete a dead job",
        reply=Changed,
        answer={"changed": True},
        **_JOB,
    ),
]
