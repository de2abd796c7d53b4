"""What the API tells of its server; also of one that is full, and of a replica, where it goes on showing everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.http.conftest import V1, Place, submitted
from tests.support import wait_until

from bananas.groups import Replicated, ask
from bananas.operate.servers import figures
from bananas.server import PrivateServer, find_server_binary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

LOOKS = ("stats", "queues", "queues/default", "queues/default/dead", "workers", "cron", "jobs?q=task:double", "errors", "trail", "history")


@pytest.fixture
def replicated() -> Iterator[Replicated]:
    with Replicated(replicas=1, sentinels=0, binary=find_server_binary()) as group:
        yield group


def everything_is_shown(client: httpx.Client, job_id: str) -> None:
    for path in (*LOOKS, f"jobs/{job_id}", f"jobs/{job_id}/why"):
        answer = client.get(f"{V1}/{path}")
        assert answer.status_code == 200, f"{path}: {answer.text}"


def test_a_server_tells_what_an_overview_needs(place: Place) -> None:
    with place.api().client("viewer") as client:
        stats = client.get(f"{V1}/stats").json()
        server = stats["server"]
        assert stats["servers"] == [server]
        assert (server["mode"], server["role"], server["maxmemory_policy"]) == ("standalone", "primary", "noeviction")
        assert (server["full"], server["read_only"], server["saves"], server["replicas"], server["replica_lag_s"]) == (
            False,
            False,
            True,
            0,
            None,
        )
        assert 0 < server["round_trip_ms"] < 10_000
        assert len(server["run_id"]) == 40
        assert server["used_memory"] > 0


def test_all_is_shown_while_the_server_is_full(tmp_path: Path) -> None:
    with PrivateServer(binary=find_server_binary()) as server:
        place = Place(server.url, tmp_path)
        try:
            with place.api("tests.apps.basic:app").client("operator") as client:
                job_id = submitted(client, "double", 1)
                ask(server, "CONFIG", "SET", "maxmemory", 1_000)
                stats = client.get(f"{V1}/stats").json()
                assert (stats["server"]["full"], stats["server"]["maxmemory"], stats["ready"]) == (True, 1_000, 1)
                everything_is_shown(client, job_id)
                refused = client.post(f"{V1}/jobs", json={"task": "double", "args": [1]})
                assert (refused.status_code, refused.json()["type"]) == (503, "urn:bananas:problem:QueueFull")
                assert client.post(f"{V1}/queues/default/pause").json() == {"changed": True}
        finally:
            place.end()


def test_all_is_shown_over_a_replica(replicated: Replicated, tmp_path: Path) -> None:
    primary, replica = replicated.data
    first, second = Place(primary.url, tmp_path), Place(replica.url, tmp_path)
    second.namespace, second.environment = first.namespace, first.environment | {"REDIS_URL": replica.url}
    try:
        with first.api("tests.apps.basic:app").client("operator") as writes:
            job_id = submitted(writes, "double", 1)
            of_primary = writes.get(f"{V1}/stats").json()["server"]
            assert (of_primary["role"], of_primary["replicas"], of_primary["read_only"]) == ("primary", 1, False)
            assert isinstance(of_primary["replica_lag_s"], int)
        with second.api("tests.apps.basic:app").client("operator") as reads:
            wait_until(lambda: reads.get(f"{V1}/stats").json()["ready"] == 1, "the replica has the job")
            server = reads.get(f"{V1}/stats").json()["server"]
            assert (server["role"], server["read_only"], server["full"]) == ("replica", True, False)
            everything_is_shown(reads, job_id)
            refused = reads.post(f"{V1}/queues/default/pause")
            assert refused.status_code == 503, refused.text
    finally:
        first.end()
        second.end()


def test_figures_are_read_of_what_either_server_says() -> None:
    valkey: dict[str, Any] = {"redis_version": "7.2.4", "valkey_version": "9.1.2", "used_memory": "10", "maxmemory": "10", "role": "slave"}
    read = figures(
        valkey | {"slave0": "ip=::1,port=1,state=online,offset=5,lag=3", "slave1": "ip=::1,port=2,state=online,lag=7"}, "cluster", 1.5
    )
    assert (read.kind, read.version, read.full, read.role, read.read_only) == ("valkey", "9.1.2", True, "replica", True)
    assert (read.replica_lag_s, read.mode, read.round_trip_ms) == (7, "cluster", 1.5)
    redis = figures({"redis_version": "7.0.15", "aof_last_write_status": "err", "loading": "1", "maxmemory": "0"}, "sentinel", 0.0)
    assert (redis.kind, redis.version, redis.full, redis.saves, redis.read_only) == ("redis", "7.0.15", False, False, True)
    assert figures({}, "standalone", 0.0).version == "?"
