"""What was counted, over HTTP: the history of a namespace, and figures that Prometheus can read of it and of one worker."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tests.http.conftest import V1, Place, ended, submitted
from tests.support import wait_until

from bananas.server import PrivateServer, find_server_binary

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.conftest import ApiProcess


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels, as the parser of Prometheus's own client reads them."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text).get((name, frozenset(labels.items())), -1.0)


def test_history_and_metrics_tell_what_ran(admin: httpx.Client) -> None:
    for number in range(3):
        ended(admin, submitted(admin, "double", number, result_ttl=60))

    def told() -> list[dict[str, Any]]:
        tasks: list[dict[str, Any]] = admin.get(f"{V1}/history", params={"minutes": 5}).json()["tasks"]
        return [each for each in tasks if each["task"] == "double" and each["success"] >= 3]

    (figures,) = wait_until(told, "the counts of double")
    assert figures["queue"] == "default"
    assert figures["wait"]["count"] == figures["run"]["count"] == figures["success"]
    history = admin.get(f"{V1}/history", params={"minutes": 5, "queue": "default"}).json()
    assert (len(history["points"]), history["step_s"]) == (5, 60)
    assert sum(point["success"] for point in history["points"]) >= 3
    recent = admin.get(f"{V1}/recent", params={"limit": 200, "queue": "default"}).json()
    assert {"task": "double", "outcome": "success", "queue": "default"}.items() <= recent[0].items()
    answer = admin.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert value(answer.text, "bananas_jobs_total", queue="default", task="double", outcome="success") >= 3
    assert value(answer.text, "bananas_job_run_seconds_bucket", queue="default", task="double", le="+Inf") >= 3
    assert value(answer.text, "bananas_job_wait_seconds_count", queue="default", task="double") >= 3
    assert value(answer.text, "bananas_queue_jobs", queue="default", state="ready") == 0
    assert value(answer.text, "bananas_queue_backlog_seconds", queue="default") == 0
    assert value(answer.text, "bananas_workers") == 1
    assert value(answer.text, "bananas_server_up") == 1


def test_buckets_of_a_histogram_only_grow(admin: httpx.Client) -> None:
    ended(admin, submitted(admin, "double", 1))
    text = wait_until(lambda: text if "bananas_job_run_seconds_bucket" in (text := admin.get("/metrics").text) else "", "a histogram")
    counts: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(text):
        if family.name == "bananas_job_run_seconds":
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    counts.setdefault(sample.labels["task"], []).append(sample.value)
    assert counts
    assert all(each == sorted(each) and len(each) == 25 for each in counts.values())


def test_metrics_are_for_who_may_look(api: ApiProcess) -> None:
    with api.client() as nobody, api.client("viewer") as viewer:
        assert nobody.get("/metrics").status_code == 401
        assert viewer.get("/metrics").status_code == 200


def test_where_the_server_is_away_the_metrics_say_so_and_nothing_else(server_kind: str, tmp_path: Path) -> None:
    with PrivateServer(binary=find_server_binary(server_kind)) as server:
        place = Place(server.url, tmp_path)
        api = place.api(BANANAS_CALL_TIMEOUT="500ms")
    with api.client("viewer") as viewer:
        answer = viewer.get("/metrics")
    assert (answer.status_code, value(answer.text, "bananas_server_up")) == (200, 0)
    assert "bananas_queue" not in answer.text
    place.end()


def test_a_worker_tells_prometheus_of_itself_also_of_processes_that_are_gone(place: Place) -> None:
    worker = place.worker(worker_health_port=0, worker_health_host="127.0.0.1", worker_processes=2, max_jobs=3)
    port = int(wait_until(lambda: re.search(r"health at http://127\.0\.0\.1:(\d+)/", worker.log), "the port")[1])
    api = place.api("tests.apps.basic:app")
    with api.client("admin") as admin, httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as probe:
        for number in range(10):
            ended(admin, submitted(admin, "double", number, result_ttl=60))

        def text() -> str:
            found = probe.get("/metrics").text
            return found if value(found, "bananas_jobs_total", queue="default", task="double", outcome="success") == 10 else ""

        found = wait_until(text, "what all processes have counted")
        assert value(found, "bananas_worker_live") == 1
        wait_until(lambda: value(probe.get("/metrics").text, "bananas_worker_ready") == 1, "a worker that is ready again")

        def slots() -> set[float]:
            return {value for (name, _), value in samples(probe.get("/metrics").text).items() if name == "bananas_worker_slots"}

        wait_until(lambda: slots() == {10.0}, "processes with ten slots each")
