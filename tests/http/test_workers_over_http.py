"""Workers over HTTP: what they tell of themselves, the stack of what they run, and orders to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.http.conftest import V1, ended, submitted
from tests.support import wait_until

if TYPE_CHECKING:
    from tests.http.conftest import Place


def test_a_worker_is_looked_at_drained_and_stopped(place: Place) -> None:
    worker, process = place.worker(lease=1.0), place.api("tests.apps.basic:app")
    gate = place.folder / "gate"
    with process.client("operator") as operator, process.client("viewer") as viewer:
        job_id = submitted(operator, "follow", str(gate))
        wait_until(lambda: [run["id"] for each in viewer.get(f"{V1}/workers").json() for run in each["runs"]] == [job_id], "it is told")
        (found,) = viewer.get(f"{V1}/workers").json()
        assert (found["runs"][0]["task"], found["phase"], found["running"]) == ("follow", "working", [job_id])
        assert found["memory_bytes"] > 0
        stack = operator.get(f"{V1}/jobs/{job_id}/stack")
        assert (stack.status_code, stack.json()["id"]) == (200, job_id)
        assert "in follow" in stack.json()["text"]
        assert operator.post(f"{V1}/workers/{found['boot']}/drain").json() == {"changed": True}
        wait_until(lambda: [each["phase"] for each in viewer.get(f"{V1}/workers").json()] == ["quiet"], "it drains")
        gate.touch()
        assert ended(operator, job_id)["state"] == "success"
        refused = operator.get(f"{V1}/jobs/{job_id}/stack")
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:bananas:problem:JobConflict")
        assert operator.post(f"{V1}/workers/{found['boot']}/stop").status_code == 200
        assert worker.wait() == 0
        assert [deed["action"] for deed in viewer.get(f"{V1}/trail").json()] == ["stop", "drain"]
        assert {deed["who"] for deed in viewer.get(f"{V1}/trail").json()} == {"HTTP API, operator"}
        gone = operator.post(f"{V1}/workers/{found['boot']}/stop")
        assert (gone.status_code, gone.json()["type"]) == (404, "urn:bananas:problem:WorkerNotFound")
