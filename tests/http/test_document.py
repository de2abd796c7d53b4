"""The OpenAPI document is valid and tells what the API does: its examples fit, and schemathesis finds nothing that differs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from openapi_spec_validator import validate
from tests.http.conftest import TOKENS, V1
from tests.support import clean_environment

from bananas import errors
from bananas.http.application import ROUTES
from bananas.http.problems import STATUSES
from bananas.http.values import JobView
from bananas.job import JobInfo

if TYPE_CHECKING:
    import httpx
    from tests.http.conftest import Place

CONFIGURATION = """
[generation]
max-examples = 12
[parameters]
"query.wait" = 0
[checks]
not_a_server_error.expected-statuses = ["2xx", "4xx", "504"]  # 504: durability that this server, without replicas, cannot confirm
positive_data_acceptance.enabled = false  # delay and at exclude each other, a cursor has a form, ...: no schema says so
"""


def test_the_document_is_valid_and_has_every_route(admin: httpx.Client) -> None:
    document = admin.get("/openapi.json").json()
    validate(document)
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert told == {(route.method, route.full_path) for route in ROUTES}


def test_the_names_of_operations_are_unique(admin: httpx.Client) -> None:
    paths = admin.get("/openapi.json").json()["paths"]
    names = [operation["operationId"] for methods in paths.values() for operation in methods.values()]
    assert len(names) == len(set(names)) == len(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_examples_fit_their_types(route: Any) -> None:
    if route.body is not None:
        msgspec.convert(route.example, route.body)
    if route.reply is not None:
        msgspec.convert(route.answer, route.reply)


def test_a_job_is_shown_with_all_that_is_known_of_it() -> None:
    assert set(JobView.__struct_fields__) == set(JobInfo.__struct_fields__)


def test_every_error_of_a_call_has_a_status() -> None:
    """But those that only handlers, hooks, tests and `result` meet, and the results of jobs, which are answers."""
    elsewhere = {
        "TaskError",
        "ResultTimeout",
        "JobPoisoned",
        "EndlessSnooze",
        "IsolatedFailure",
        "IsolatedProcessDied",
        "BananasError",
        "JobError",
    }
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.BananasError)]
    assert {kind.__name__ for kind in kinds if not any(issubclass(kind, known) for known, _, _ in STATUSES)} == elsewhere


@pytest.mark.timeout(240)
def test_schemathesis_finds_nothing(place: Place) -> None:
    process = place.api(BANANAS_API_RATE="0")
    with process.client("admin") as client:
        client.post(f"{V1}/jobs", json={"task": "x", "queue": "email"})
    (place.folder / "schemathesis.toml").write_text(CONFIGURATION)
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(place.folder / "schemathesis.toml"), "run"]
    command += [f"{process.url}/openapi.json", "--exclude-operation-id", "stream_events", "--phases", "examples,coverage,fuzzing"]
    command += ["--header", f"Authorization: Bearer {TOKENS['admin']}", "--seed", "1", "--no-color"]
    run = subprocess.run(
        command, cwd=place.folder, env=clean_environment(PATH=os.environ["PATH"]), capture_output=True, text=True, timeout=200, check=False
    )
    assert run.returncode == 0, run.stdout[-8_000:] + run.stderr[-2_000:]
    assert "Traceback" not in process.log
