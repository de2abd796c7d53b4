"""What went wrong, as RFC 9457 has it (`application/problem+json`): one table from the error tree to status codes.

A problem's `type` is `urn:bananas:problem:` and the name of the error, so that programs need not read texts. What is not in the table is a
fault of this program: its traceback is logged under a number, and the client gets the number.
Source: RFC 9457, "Problem Details for HTTP APIs".
"""

import re
import uuid
from collections.abc import Mapping
from typing import Any

import structlog
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.responses import Response

from bananas import errors
from bananas.config import mask_url
from bananas.http.values import encode

log = structlog.get_logger("bananas.http")
MEDIA_TYPE = "application/problem+json"
_TYPE = "urn:bananas:problem:"
_DETAIL_CHARS = 2000

# The first that an error is an instance of: its status, and the seconds after which another try makes sense.
STATUSES: list[tuple[type[errors.BananasError], int, int | None]] = [
    (errors.JobNotFound, 404, None),
    (errors.ResultsDisabled, 410, None),
    (errors.JobConflict, 409, None),
    (errors.WorkerNotFound, 404, None),
    (errors.CronEntryNotFound, 404, None),
    (errors.NoAnswer, 504, None),
    (errors.JobUndecodable, 409, None),
    (errors.PayloadTooLarge, 413, None),
    (errors.SubmitError, 422, None),
    (errors.ServerUnsuitable, 503, 30),
    (errors.ConfigError, 422, None),
    (errors.QueueFull, 503, 5),
    (errors.BrokerUnavailable, 503, 1),
    (errors.AuthenticationFailed, 503, 30),
    (errors.Unconfirmed, 504, None),
    (errors.BrokerError, 502, None),
]


class Problem(Struct, frozen=True, omit_defaults=True):
    """Why a request was not done. `job_id`: of a job that exists nonetheless (`Unconfirmed`). `instance`: what names it in the log."""

    type: str
    title: str
    status: int
    detail: str = ""
    instance: str = ""
    job_id: str = ""


class Refused(Exception):
    """A request that is not let through; `name` and `status` as in the problem."""

    def __init__(self, status: int, name: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.name, self.detail, self.headers = status, name, detail, dict(headers or {})
        super().__init__(detail)


def problem_of(error: BaseException) -> tuple[Problem, dict[str, str]]:
    """The problem, and the headers that go with it."""
    if isinstance(error, Refused):
        return _problem(error.status, error.name, error.detail), error.headers
    for kind, status, retry_s in STATUSES:
        if isinstance(error, kind):
            problem = _problem(status, type(error).__name__, str(error), getattr(error, "job_id", ""))
            return problem, {} if retry_s is None else {"Retry-After": str(retry_s)}
    number = f"urn:uuid:{uuid.uuid4()}"
    log.error("a request failed", instance=number, exc_info=error)
    return Problem(f"{_TYPE}Internal", "Internal", 500, "This is a fault of the API; its log tells more.", number), {}


def _problem(status: int, name: str, detail: str, job_id: str = "") -> Problem:
    text = re.sub(r"\S*://\S*", lambda found: mask_url(found[0]), detail)
    return Problem(f"{_TYPE}{name}", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name), status, text[:_DETAIL_CHARS], job_id=job_id)


def problem_response(error: BaseException) -> Response:
    """The problem as a response."""
    problem, headers = problem_of(error)
    return Response(encode(problem), problem.status, headers, MEDIA_TYPE)


async def on_http_exception(_: Any, error: Exception) -> Response:
    """What Starlette refuses by itself: a path that does not exist, a method that a path does not have."""
    assert isinstance(error, HTTPException)
    name = {404: "NoSuchPath", 405: "MethodNotAllowed"}.get(error.status_code, "Refused")
    detail = {404: "There is nothing at this path: /openapi.json lists what there is."}.get(error.status_code, str(error.detail))
    return problem_response(Refused(error.status_code, name, detail, error.headers))
