"""Very many jobs over HTTP: acts that tell their progress and end with their client, and exports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.http.conftest import V1, submitted
from tests.http.test_events import events
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from tests.http.conftest import ApiProcess, Place

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def process(place: Place) -> ApiProcess:
    """An API without workers: what is submitted stays."""
    return place.api(BANANAS_API_RATE="0")


@pytest.fixture
def admin(process: ApiProcess) -> Iterator[httpx.Client]:
    with process.client("admin") as client:
        yield client


def filled(client: httpx.Client, count: int, **more: Any) -> None:
    """So many waiting jobs."""
    for start in range(0, count, 1_000):
        jobs = [{"task": "t", "args": [i], "queue": "q", **more} for i in range(start, min(count, start + 1_000))]
        assert client.post(f"{V1}/jobs/batch", json={"jobs": jobs}).json()["failed"] == 0


def acting(client: httpx.Client, query: str, kind: str, **more: Any) -> list[tuple[str, Any]]:
    body = {"query": query, "action": {"type": kind}, "dry_run": False} | more
    with client.stream("POST", f"{V1}/jobs/act", json=body, headers=STREAM) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        return list(events(stream))


def test_an_act_tells_its_progress_and_its_end(admin: httpx.Client) -> None:
    filled(admin, 1_200)
    told = acting(admin, "queue:q", "Cancel")
    progress = [value for name, value in told if name == "progress"]
    assert progress[0] == {"done": 0, "selected": 1_200}
    assert [each["done"] for each in progress] == [0, 500, 1_000, 1_200]
    assert told[-1][0] == "end"
    assert (told[-1][1]["done"], told[-1][1]["selected"], told[-1][1]["dry_run"]) == (1_200, 1_200, False)
    assert admin.get(f"{V1}/queues/q").json()["ready"] == 0


def test_a_dry_run_tells_its_end_alone(admin: httpx.Client) -> None:
    filled(admin, 3)
    told = acting(admin, "queue:q", "Cancel", dry_run=True)
    assert [name for name, _ in told if name != "selecting"] == ["end"]
    assert (told[-1][1]["selected"], told[-1][1]["done"]) == (3, 0)
    assert admin.get(f"{V1}/queues/q").json()["ready"] == 3


def test_an_act_ends_when_its_client_goes_and_says_what_it_did(admin: httpx.Client) -> None:
    filled(admin, 20_000)
    body = {"query": "queue:q", "action": {"type": "Move", "queue": "other"}, "dry_run": False}
    with admin.stream("POST", f"{V1}/jobs/act", json=body, headers=STREAM) as stream:
        coming = events(stream)
        assert any(name == "progress" and value["done"] > 0 for name, value in coming)
    deeds = wait_until(lambda: admin.get(f"{V1}/trail").json(), "the act in the trail", 30)
    (deed,) = deeds
    assert (deed["action"], deed["selected"]) == ("move other", 20_000)
    moved = admin.get(f"{V1}/queues/other").json()
    assert 0 < deed["done"] < 20_000
    assert moved["ready"] == deed["done"]
    assert admin.get(f"{V1}/queues/q").json()["ready"] == 20_000 - deed["done"]


def test_what_cannot_be_done_is_a_problem_at_once_or_as_an_event(process: ApiProcess, admin: httpx.Client) -> None:
    bad = {"query": "tsk:x", "action": {"type": "Cancel"}, "dry_run": False}
    refused = admin.post(f"{V1}/jobs/act", json=bad, headers=STREAM)
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:bananas:problem:QueryError")
    filled(admin, 1)
    told = acting(admin, "queue:q", "Move", action={"type": "Move", "queue": "no such"})
    assert (told[-1][0], told[-1][1]["status"]) == ("problem", 422)
    with process.client("operator") as operator, process.client("viewer") as viewer:
        delete = {"query": "state:dead", "action": {"type": "Delete"}, "dry_run": False}
        assert operator.post(f"{V1}/jobs/act", json=delete, headers=STREAM).status_code == 403
        assert viewer.post(f"{V1}/jobs/act", json=bad, headers=STREAM).status_code == 403


def test_what_is_done_to_a_whole_queue_is_in_the_trail(admin: httpx.Client) -> None:
    filled(admin, 3)
    for act in ("pause", "pause", "resume", "purge", "dead/replay"):
        assert admin.post(f"{V1}/queues/q/{act}").status_code == 200
    deeds = [(deed["who"], deed["action"], deed["query"], deed["done"]) for deed in admin.get(f"{V1}/trail").json()]
    assert deeds == [("HTTP API, admin", act, "queue:q", done) for act, done in (("purge", 3), ("resume", 1), ("pause", 1))]


def test_an_export_has_every_job_on_a_line(process: ApiProcess, admin: httpx.Client) -> None:
    filled(admin, 1_700)
    submitted(admin, "other", queue="q")
    with process.client("viewer") as viewer:
        answer = viewer.get(f"{V1}/jobs/export", params={"q": "task:t queue:q"})
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        assert answer.headers["content-disposition"] == 'attachment; filename="jobs.ndjson"'
        jobs = [json.loads(line) for line in answer.text.splitlines()]
        assert [job["args"] for job in jobs] == [[i] for i in range(1_700)]
        assert {job["state"] for job in jobs} == {"ready"}
        few = viewer.get(f"{V1}/jobs/export", params={"q": "queue:q", "limit": 7}).text.splitlines()
        assert len(few) == 7
        assert viewer.get(f"{V1}/jobs/export", params={"q": "task:none"}).text == ""
        assert viewer.get(f"{V1}/jobs/export", params={"q": "tsk:x"}).status_code == 422


def test_an_export_whose_client_goes_ends_and_frees_its_seat(place: Place) -> None:
    process = place.api(BANANAS_API_RATE="0", BANANAS_API_MAX_STREAMS="1")
    with process.client("admin") as client:
        filled(client, 20_000)
        with client.stream("GET", f"{V1}/jobs/export") as stream:
            assert next(stream.iter_lines()).startswith("{")

        def is_let_in() -> bool:
            with client.stream("GET", f"{V1}/jobs/export", params={"limit": 1}) as stream:
                return stream.status_code == 200

        wait_until(is_let_in, "a free seat")
    assert "Traceback" not in process.log


def test_an_export_that_the_end_of_the_process_cuts_off_says_so(place: Place) -> None:
    process = place.api(BANANAS_API_RATE="0")
    with process.client("admin") as client:
        filled(client, 30_000, kwargs={"fill": "x" * 500})
        with client.stream("GET", f"{V1}/jobs/export") as stream:
            lines = stream.iter_lines()
            next(lines)
            process.process.terminate()
            told = list(lines)
    assert json.loads(told[-1])["problem"]["type"] == "urn:bananas:problem:Stopping"
    assert process.process.wait(15) == 0
