"""Secrets among arguments are on no page of the API, and no search finds them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.http.conftest import V1, submitted

if TYPE_CHECKING:
    from tests.http.conftest import Place

SECRET = "hunter2-s3cret"


def test_a_secret_is_shown_nowhere_and_found_by_nobody(place: Place) -> None:
    with place.api().client("admin") as admin:
        job_id = submitted(admin, "login", {"nested": {"accessToken": SECRET}}, kwargs={"user": "ada", "password": SECRET}, queue="q")
        paths = (
            f"jobs/{job_id}",
            f"jobs/{job_id}/why",
            "jobs?q=task:login",
            f"jobs?q=id:{job_id}",
            "jobs/export",
            "queues/q/dead",
            "errors",
        )
        for path in paths:
            answer = admin.get(f"{V1}/{path}")
            assert answer.status_code == 200, answer.text
            assert SECRET not in answer.text, path
        shown = admin.get(f"{V1}/jobs/{job_id}").json()
        assert (shown["kwargs"], shown["args"]) == ({"user": "ada", "password": "[redacted]"}, [{"nested": {"accessToken": "[redacted]"}}])
        for query in (f"args.password:{SECRET}", "args.password:h*", SECRET, "hunter2*"):
            assert admin.get(f"{V1}/jobs", params={"q": query}).json()["jobs"] == [], query
        assert [job["id"] for job in admin.get(f"{V1}/jobs", params={"q": "args.user:ada"}).json()["jobs"]] == [job_id]


def test_a_dead_letter_is_redacted_as_the_settings_say(place: Place) -> None:
    place.worker(lease=1.0)
    with place.api("tests.apps.basic:app", BANANAS_REDACT="how").client("admin") as admin:
        job_id = submitted(admin, "steers", "dead", max_retries=0)
        assert admin.get(f"{V1}/jobs/{job_id}/result", params={"wait": 20}).json()["state"] == "dead"
        (dead,) = admin.get(f"{V1}/queues/default/dead").json()["jobs"]
        assert dead["args"] == ["[redacted]"]
    with place.api("tests.apps.basic:app", BANANAS_REDACT="none").client("admin") as admin:
        lines = [json.loads(line) for line in admin.get(f"{V1}/jobs/export", params={"q": "state:dead"}).text.splitlines()]
        assert [job["args"] for job in lines] == [["dead"]]
