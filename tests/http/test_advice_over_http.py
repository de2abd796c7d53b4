"""Advice over HTTP, and by the command."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.http.conftest import V1
from tests.support import clean_environment, wait_until

if TYPE_CHECKING:
    from tests.http.conftest import ApiProcess, Place


def told(place: Place, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(**{name: value for name, value in place.environment.items() if name != "LEDGER"})
    command = [sys.executable, "-m", "bananas", "advise", *flags]
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)


def test_a_viewer_gets_the_advice_that_the_command_tells(place: Place) -> None:
    api: ApiProcess = place.api()
    with api.client("operator") as client:
        for _ in range(3):
            assert client.post(f"{V1}/jobs", json={"task": "send", "queue": "email"}).status_code == 201
    with api.client() as client:
        assert client.get(f"{V1}/advice").status_code == 401
    with api.client("viewer") as client:
        answer = client.get(f"{V1}/advice")
    assert answer.status_code == 200
    found = {each["kind"]: each for each in answer.json()}
    assert (found["no_workers"]["level"], found["no_workers"]["figures"]) == ("error", {"ready": 3, "scheduled": 0})
    lines = told(place, "--json")
    assert lines.returncode == 0, lines.stderr
    assert {json.loads(line)["kind"] for line in lines.stdout.splitlines()} == set(found)
    text = told(place, "--strict")
    assert text.returncode == 1
    assert text.stdout.startswith("error   No worker is alive\n        No worker that takes jobs is alive, while 3 job(s) are ready")
    assert "-> Start one: bananas worker MODULE:APP" in text.stdout


def test_a_real_worker_is_seen_and_what_it_does_not_know(place: Place) -> None:
    api: ApiProcess = place.api()
    place.worker()
    with api.client("operator") as client:
        assert client.post(f"{V1}/jobs", json={"task": "unheard", "delay": 600}).status_code == 201
        assert client.post(f"{V1}/jobs", json={"task": "double", "args": [1], "delay": 600}).status_code == 201

        def found() -> list[tuple[str, str]]:
            return [(each["kind"], each["task"]) for each in client.get(f"{V1}/advice").json() if each["level"] == "error"]

        wait_until(lambda: found() == [("unknown_task", "unheard")], "the worker is announced, and does not know the task", 30)
