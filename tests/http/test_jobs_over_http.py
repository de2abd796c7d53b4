"""Jobs over HTTP: submitted, looked at, waited for and changed, by a real process, with a real worker."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.http.conftest import V1, ended, submitted
from tests.support import wait_until

if TYPE_CHECKING:
    import httpx
    from tests.http.conftest import ApiProcess, Place

UNKNOWN = "default." + "0" * 43
IDLE: dict[str, Any] = {"queue": "idle"}  # a queue that no worker serves


def state_of(client: httpx.Client, job_id: str) -> str:
    found: str = client.get(f"{V1}/jobs/{job_id}").json()["state"]
    return found


def kind_of(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    found: str = body["type"].removeprefix("urn:bananas:problem:")
    return found


def test_a_job_runs_and_its_value_comes_back(admin: httpx.Client) -> None:
    answer = admin.post(f"{V1}/jobs", json={"task": "double", "args": [21]})
    assert answer.status_code == 201
    job_id = answer.json()["id"]
    assert answer.headers["location"] == f"{V1}/jobs/{job_id}"
    assert ended(admin, job_id) == {"id": job_id, "state": "success", "ended": True, "value": 42}
    assert admin.get(answer.headers["location"]).json()["state"] == "success"


def test_a_failure_is_an_answer_with_its_traceback(admin: httpx.Client) -> None:
    job_id = submitted(admin, "fails", 99, max_retries=0)
    ending = ended(admin, job_id)
    assert (ending["state"], ending["error_type"], ending["error_message"]) == ("dead", "ValueError", "attempt 1")
    assert "raise ValueError" in ending["traceback"]
    info = admin.get(f"{V1}/jobs/{job_id}").json()
    assert info["errors"][0]["message"] == "attempt 1"


def test_waiting_for_a_job_that_does_not_end_comes_back_in_time(admin: httpx.Client) -> None:
    job_id = submitted(admin, "double", 1, **IDLE)
    answer = admin.get(f"{V1}/jobs/{job_id}/result", params={"wait": 0.2})
    assert (answer.status_code, answer.json()) == (202, {"id": job_id, "state": "ready", "ended": False})
    assert kind_of(admin.get(f"{V1}/jobs/{job_id}/result", params={"wait": 61})) == "InvalidQuery"


def test_options_of_a_submit_hold(admin: httpx.Client) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    said = {"at": at.isoformat(), "priority": "high", "max_retries": 7, "timeout": 5, "headers": {"tenant": "x"}, "tags": ["vip", "a:1"]}
    job_id = submitted(admin, "double", 1, **IDLE, **said)
    info = admin.get(f"{V1}/jobs/{job_id}").json()
    assert (info["state"], info["priority"], info["max_retries"], info["timeout"]) == ("scheduled", 100, 7, 5.0)
    assert (info["headers"], info["tags"], info["args"]) == ({"tenant": "x"}, ["vip", "a:1"], [1])
    found = admin.get(f"{V1}/jobs", params={"q": f"tag:a:1 id:{job_id}"}).json()["jobs"]
    assert [job["id"] for job in found] == [job_id]
    assert abs(info["due_ms"] - at.timestamp() * 1000) < 60_000
    retry = submitted(admin, "double", 1, **IDLE, delay=3600, retry={"base": 1, "factor": 3, "cap": 9, "jitter": False})
    assert state_of(admin, retry) == "scheduled"


def test_progress_and_log_of_a_running_job_are_shown(place: Place) -> None:
    process, gate = place.api(), place.folder / "gate"
    place.worker("tests.apps.isolated:app")
    with process.client("admin") as client:
        job_id = submitted(client, "tells", str(gate))
        info = wait_until(lambda: (found := client.get(f"{V1}/jobs/{job_id}").json())["log"] and found, "its log")
        assert (info["state"], info["progress"], info["progress_text"]) == ("running", 0.5, "half")
        ((at_ms, attempt, text),) = [(line["at_ms"], line["attempt"], line["text"]) for line in info["log"]]
        assert (at_ms >= info["born_ms"], attempt, text.endswith(" waits")) == (True, 1, True)
        (listed,) = client.get(f"{V1}/jobs", params={"q": f"id:{job_id} state:running"}).json()["jobs"]
        assert listed["id"] == job_id
        gate.touch()
        assert ended(client, job_id)["value"] == "told"


def test_a_unique_job_is_given_to_whoever_submits_it_again(admin: httpx.Client) -> None:
    body = {"task": "double", "args": [1], "unique": uuid.uuid4().hex, **IDLE}
    first, second = admin.post(f"{V1}/jobs", json=body), admin.post(f"{V1}/jobs", json=body)
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == {"id": first.json()["id"], "created": False}


def test_a_request_with_an_idempotency_key_is_one_job_also_after_it_has_ended(admin: httpx.Client) -> None:
    key = {"Idempotency-Key": f'"{uuid.uuid4()}"'}
    body = {"task": "double", "args": [4]}
    first = admin.post(f"{V1}/jobs", json=body, headers=key)
    assert ended(admin, first.json()["id"])["value"] == 8
    again = admin.post(f"{V1}/jobs", json=body, headers=key)
    assert (again.status_code, again.json()) == (200, {"id": first.json()["id"], "created": False})
    assert state_of(admin, first.json()["id"]) == "success"
    other = admin.post(f"{V1}/jobs", json={"task": "double", "args": [5]}, headers=key)
    assert (other.status_code, kind_of(other)) == (422, "KeyReused")


def test_an_idempotency_key_holds_for_each_item_of_a_batch(admin: httpx.Client) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    body = {"jobs": [{"task": "double", "args": [n], **IDLE} for n in range(3)]}
    first, again = (admin.post(f"{V1}/jobs/batch", json=body, headers=key).json() for _ in range(2))
    assert (first["submitted"], again["submitted"]) == (3, 3)
    assert [item["id"] for item in first["items"]] == [item["id"] for item in again["items"]]
    assert len({item["id"] for item in first["items"]}) == 3


def test_a_bad_item_of_a_batch_fails_alone(admin: httpx.Client) -> None:
    jobs = [
        {"task": "double", "args": [1], **IDLE},
        {"task": "double", "args": ["x"]},
        {"task": "no such"},
        {"task": "double", "args": [2], **IDLE},
    ]
    body = admin.post(f"{V1}/jobs/batch", json={"jobs": jobs}).json()
    assert (body["submitted"], body["failed"]) == (2, 2)
    kinds = [item.get("problem", {}).get("title") for item in body["items"]]
    assert kinds == [None, "Invalid Arguments", "Unknown Task", None]
    assert admin.get(f"{V1}/jobs/{body['items'][3]['id']}").json()["args"] == [2]


def test_a_waiting_job_is_moved_and_cancelled(admin: httpx.Client) -> None:
    job_id = submitted(admin, "double", 1, **IDLE)
    path = f"{V1}/jobs/{job_id}"
    assert admin.post(f"{path}/priority", json={"priority": "low"}).json()["priority"] == 900
    assert admin.post(f"{path}/reschedule", json={"delay": 3600}).json()["state"] == "scheduled"
    assert admin.post(f"{path}/retry").json()["state"] == "ready"
    assert kind_of(admin.post(f"{path}/retry")) == "JobConflict"
    assert kind_of(admin.delete(path)) == "JobConflict"
    assert kind_of(admin.post(f"{path}/reschedule", json={})) == "InvalidBody"
    assert admin.post(f"{path}/cancel").json() == {"changed": True}
    assert ended(admin, job_id)["state"] == "cancelled"
    assert admin.post(f"{path}/cancel").json() == {"changed": False}


def test_a_running_job_is_cancelled(admin: httpx.Client, shared: Place) -> None:
    job_id = submitted(admin, "follow", str(shared.folder / "never"))
    wait_until(lambda: state_of(admin, job_id) == "running", "the run")
    why = admin.get(f"{V1}/jobs/{job_id}/why").json()
    assert [reason["kind"] for reason in why["reasons"]] == ["running"]
    assert admin.post(f"{V1}/jobs/{job_id}/cancel").json() == {"changed": True}
    assert ended(admin, job_id)["state"] == "cancelled"


def test_a_dead_job_is_tried_again_and_deleted(admin: httpx.Client) -> None:
    job_id = submitted(admin, "fails", 99, max_retries=0)
    assert ended(admin, job_id)["state"] == "dead"
    assert job_id in [job["id"] for job in admin.get(f"{V1}/queues/default/dead").json()["jobs"]]
    assert admin.post(f"{V1}/jobs/{job_id}/retry").status_code == 200
    wait_until(lambda: state_of(admin, job_id) == "dead", "the second death")
    assert admin.post(f"{V1}/queues/default/dead/{job_id}/replay").json() == {"changed": True}
    wait_until(lambda: state_of(admin, job_id) == "dead", "the third death")
    assert admin.delete(f"{V1}/queues/default/dead/{job_id}").json() == {"changed": True}
    gone = submitted(admin, "fails", 99, max_retries=0, result_ttl=0)
    wait_until(lambda: state_of(admin, gone) == "dead", "the death")
    assert admin.delete(f"{V1}/jobs/{gone}").json() == {"changed": True}
    assert kind_of(admin.delete(f"{V1}/jobs/{gone}")) == "JobNotFound"


def test_a_queue_is_paused_counted_and_purged(admin: httpx.Client) -> None:
    name = f"q{uuid.uuid4().hex[:8]}"
    job_id = submitted(admin, "double", 1, queue=name)
    submitted(admin, "double", 2, queue=name, delay=600)
    assert admin.post(f"{V1}/queues/{name}/pause").json() == {"changed": True}
    assert admin.post(f"{V1}/queues/{name}/pause").json() == {"changed": False}
    queue = admin.get(f"{V1}/queues/{name}").json()
    assert (queue["ready"], queue["scheduled"], queue["paused"]) == (1, 1, True)
    assert next(found for found in admin.get(f"{V1}/queues").json() if found["name"] == name)["ready"] == 1
    kinds = {reason["kind"] for reason in admin.get(f"{V1}/jobs/{job_id}/why").json()["reasons"]}
    assert {"paused", "no_worker"} <= kinds
    assert admin.post(f"{V1}/queues/{name}/resume").json() == {"changed": True}
    assert admin.post(f"{V1}/queues/{name}/purge").json() == {"count": 2}
    assert ended(admin, job_id)["state"] == "purged"


def test_dead_letters_come_in_pages_and_are_all_replayed_and_deleted(place: Place) -> None:
    place.worker(lease=1.0)
    with place.api("tests.apps.basic:app").client("admin") as client:
        ids = [submitted(client, "fails", 99, max_retries=0) for _ in range(5)]
        for job_id in ids:
            assert ended(client, job_id)["state"] == "dead"
        dead = f"{V1}/queues/default/dead"
        pages = [client.get(dead, params={"limit": 2, "offset": offset}).json() for offset in (0, 2, 4)]
        assert [page["count"] for page in pages] == [5, 5, 5]
        assert {job["id"] for page in pages for job in page["jobs"]} == set(ids)
        groups = client.get(f"{V1}/errors").json()["groups"]
        assert [(group["type"], group["dead"]) for group in groups] == [("ValueError", 5)]
        assert client.post(f"{dead}/replay").json() == {"count": 5}
        wait_until(lambda: client.get(dead).json()["count"] == 5, "the second deaths")
        assert client.delete(dead).json() == {"count": 5}
        assert client.get(dead).json() == {"count": 0, "jobs": []}


def test_jobs_are_found_and_acted_on_by_a_query(admin: httpx.Client, api: ApiProcess) -> None:
    name = f"q{uuid.uuid4().hex[:8]}"
    ids = [submitted(admin, "double", number, queue=name) for number in range(4)]
    found = admin.get(f"{V1}/jobs", params={"q": f"queue:{name}", "limit": 3}).json()
    assert [job["id"] for job in found["jobs"]] == ids[:3]
    rest = admin.get(f"{V1}/jobs", params={"q": f"queue:{name}", "cursor": found["cursor"]}).json()
    assert [job["id"] for job in rest["jobs"]] == ids[3:]
    asked = {"query": f"queue:{name} state:ready", "action": {"type": "Cancel"}}
    dry = admin.post(f"{V1}/jobs/act", json=asked).json()
    assert (dry["dry_run"], dry["selected"], dry["done"]) == (True, 4, 0)
    assert state_of(admin, ids[0]) == "ready"
    done = admin.post(f"{V1}/jobs/act", json=asked | {"dry_run": False}).json()
    assert (done["selected"], done["done"], done["left"]) == (4, 4, {})
    assert admin.get(f"{V1}/trail").json()[0]["who"] == "HTTP API, admin"
    with api.client("operator") as operator:
        refused = operator.post(f"{V1}/jobs/act", json={"query": "state:dead", "action": {"type": "Delete"}, "dry_run": False})
        assert (refused.status_code, kind_of(refused)) == (403, "Forbidden")
    assert kind_of(admin.get(f"{V1}/jobs", params={"q": "nonsense:1"})) == "QueryError"


def test_workers_cron_entries_and_figures(place: Place) -> None:
    place.worker("tests.apps.ticking:app")
    with place.api("tests.apps.ticking:app").client("viewer") as client:
        (worker,) = client.get(f"{V1}/workers").json()
        assert worker["slots"] == 10
        entries = wait_until(lambda: client.get(f"{V1}/cron").json(), "the cron entries")
        assert all(entry["schedule"] for entry in entries)
        stats = client.get(f"{V1}/stats").json()
        assert (stats["namespace"], stats["workers"], stats["slots"]) == (place.namespace, 1, 10)
        assert stats["server"]["used_memory"] > 0


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"task": "double", "args": ["no number"]}, 422, "InvalidArguments"),
        ({"task": "double"}, 422, "InvalidArguments"),
        ({"task": "<script>alert(1)</script>"}, 422, "UnknownTask"),
        ({"task": "double", "args": [1], "dleay": 1}, 422, "InvalidBody"),
        ({"task": "double", "args": [1], "delay": 1, "at": "2030-01-01T00:00:00Z"}, 422, "ConfigError"),
        ({"task": "double", "args": [1], "queue": "no such/queue"}, 422, "InvalidBody"),
        ({"task": "double", "args": [2**70]}, 422, "NotSerializable"),
        ({"task": "work", "args": [1.0], "headers": {"x": "y" * 1_100_000}}, 413, "PayloadTooLarge"),
    ],
)
def test_a_submit_that_cannot_be_is_refused_by_name(admin: httpx.Client, body: dict[str, Any], status: int, kind: str) -> None:
    answer = admin.post(f"{V1}/jobs", json=body)
    assert (answer.status_code, kind_of(answer)) == (status, kind)
    assert "Traceback" not in answer.text
    assert "<script>" not in answer.text or answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("GET", "/result"), ("GET", "/why"), ("POST", "/cancel"), ("POST", "/retry"), ("DELETE", "")]
)
def test_a_job_that_is_not_there_is_not_found(admin: httpx.Client, method: str, path: str) -> None:
    submitted(admin, "double", 1)
    for job_id in (UNKNOWN, UNKNOWN.replace("default", "never-used")):
        answer = admin.request(method, f"{V1}/jobs/{job_id}{path}")
        assert (answer.status_code, kind_of(answer)) == (404, "JobNotFound")
    assert kind_of(admin.request(method, f"{V1}/jobs/no-id{path}")) == "InvalidName"


def test_without_an_app_jobs_are_submitted_as_they_come(place: Place) -> None:
    api = place.api()
    hostile = "<img src=x onerror=alert(1)>"
    with api.client("admin") as client:
        job_id = submitted(client, hostile, hostile, {"a": [1, None, 2.5]}, kwargs={"</script>": "\u2028"})
        answer = client.get(f"{V1}/jobs/{job_id}")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        info = answer.json()
        assert (info["task"], info["args"], info["kwargs"]) == (hostile, [hostile, {"a": [1, None, 2.5]}], {"</script>": "\u2028"})
        deep: Any = 0
        for _ in range(400):
            deep = [deep]
        deep_id = submitted(client, "deep", deep)
        assert client.get(f"{V1}/jobs/{deep_id}").status_code == 200
        nested = b'{"task":"x","args":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        refused = client.post(f"{V1}/jobs", content=nested, headers={"Content-Type": "application/json"})
        assert (refused.status_code, kind_of(refused)) == (422, "InvalidBody")
