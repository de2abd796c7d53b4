"""Server-sent events: the ends of jobs, snapshots of queues, heartbeats, bounds, and the end of the process."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from tests.http.conftest import V1, submitted
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from tests.http.conftest import ApiProcess, Place


def events(stream: httpx.Response) -> Iterator[tuple[str, Any]]:
    """The events of a stream as they come."""
    name = ""
    for line in stream.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_the_ends_of_jobs_come_as_they_are(admin: httpx.Client, shared: Place) -> None:
    gate = shared.folder / "gate"
    waiting, failing = submitted(admin, "follow", str(gate)), submitted(admin, "fails", 99, max_retries=0)
    unknown = f"default.{'0' * 43}"
    with admin.stream("GET", f"{V1}/events", params={"job": [waiting, failing, unknown]}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        coming = events(stream)
        first = dict(job_of(next(coming)) for _ in range(2))
        assert first == {failing: "dead", unknown: "unknown"}
        gate.touch()
        assert job_of(next(coming)) == (waiting, "success")
        assert next(coming) == ("end", {"jobs": 3})
        assert list(coming) == []


def job_of(event: tuple[str, Any]) -> tuple[str, str]:
    assert event[0] == "job"
    return event[1]["id"], event[1]["state"]


def test_figures_of_queues_come_again_and_again(admin: httpx.Client) -> None:
    submitted(admin, "double", 1, queue="watched")
    with admin.stream("GET", f"{V1}/events", params={"queue": "watched"}) as stream:
        coming = events(stream)
        name, (queue,) = next(coming)
        assert (name, queue["name"], queue["ready"]) == ("queues", "watched", 1)
        submitted(admin, "double", 2, queue="watched")
        assert any(event[1][0]["ready"] == 2 for _, event in zip(range(5), coming, strict=False))


def test_streams_are_bounded_and_a_seat_is_free_again_when_a_client_goes(place: Place) -> None:
    with place.api(BANANAS_API_MAX_STREAMS="1").client("viewer") as client:
        with client.stream("GET", f"{V1}/events") as stream:
            lines = stream.iter_lines()  # kept: httpx closes a stream whose lines nobody holds
            assert next(lines) == "retry: 2000"
            refused = client.get(f"{V1}/events")
            assert (refused.status_code, refused.json()["type"]) == (503, "urn:bananas:problem:NoSeat")

        def is_let_in() -> bool:
            with client.stream("GET", f"{V1}/events") as stream:
                return stream.status_code == 200

        wait_until(is_let_in, "a free seat")


def test_streams_and_waits_end_when_the_process_is_told_to(place: Place) -> None:
    process = place.api()
    told: dict[str, Any] = {}
    with process.client("admin") as client, process.client("admin") as waiter:
        job_id = submitted(client, "x", queue="idle")
        path = f"{V1}/jobs/{job_id}/result"
        thread = threading.Thread(target=lambda: told.update(wait=waiter.get(path, params={"wait": 50})))
        with client.stream("GET", f"{V1}/events") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "retry: 2000"
            thread.start()
            wait_until(lambda: open_connections(process) >= 2, "both connections")
            assert process.stop() == 0
            assert all(isinstance(line, str) for line in lines)  # to a clean end, or httpx raises
        thread.join(10)
    assert told["wait"].status_code == 202
    assert "Traceback" not in process.log


def open_connections(process: ApiProcess) -> int:
    port = int(process.url.rpartition(":")[2])
    with open(f"/proc/{process.process.pid}/net/tcp") as file:
        sockets = [line.split() for line in file.readlines()[1:]]
    return sum(local.endswith(f":{port:04X}") and state == "01" for _, local, _, state, *_ in sockets)
