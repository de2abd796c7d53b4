"""A primary of a Cluster that is away, silent or gone, and that nobody replaces: it holds up its own queues alone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support import eventually, wait_until

from bananas.groups import Cluster, ask
from bananas.keys import QueueKeys, home_slot
from bananas.server import find_server_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.acceptance.conftest import Site

    from bananas.server import PrivateServer

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def sparse(group_kind: str) -> Iterator[Cluster]:
    """Three primaries without replicas, which go on serving their slots when one of them is lost."""
    with Cluster(3, binary=find_server_binary(group_kind), settings={"cluster-require-full-coverage": "no"}) as made:
        yield made


class Victim:
    """The server of some queues, which falls silent until the end of the test; others have queues elsewhere."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._names = [(f"v{number}", cluster.serving(QueueKeys(namespace, f"v{number}").slot)) for number in range(40)]
        self.server: PrivateServer = next(server for _, server in self._names if server is not cluster.serving(home_slot(namespace)))
        self.queues = [name for name, server in self._names if server is self.server]
        self.others = [name for name, server in self._names if server is not self.server]
        self._stopped = False

    def falls_silent(self) -> None:
        pid = self.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        self._stopped = True
        stat = Path(f"/proc/{pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "the stop")

    def goes_on(self) -> None:
        if self._stopped and self.server.pid is not None:
            os.kill(self.server.pid, signal.SIGCONT)
            for server in self._cluster.servers:
                wait_until(lambda server=server: "cluster_state:ok" in ask(server, "CLUSTER", "INFO").decode(), "a whole Cluster", 30)


@pytest.fixture
def victim_of(sparse: Cluster) -> Iterator[Callable[[str], Victim]]:
    made: list[Victim] = []

    def make(namespace: str) -> Victim:
        made.append(Victim(sparse, namespace))
        return made[-1]

    yield make
    for victim in made:
        victim.goes_on()


async def test_an_idle_worker_ends_at_once_while_a_server_is_away(
    sparse: Cluster, site_at: Callable[..., Site], victim_of: Callable[[str], Victim]
) -> None:
    site = site_at(sparse.url, lease=1.0)
    victim = victim_of(site.namespace)
    worker = site.worker(worker_routing_keys=f"{victim.queues[0]},{victim.others[0]}", shutdown_timeout=60)
    job = await site.app.submit("double", 1, options={"queue": victim.others[0]})
    assert await job.result(timeout=10) == 2
    victim.falls_silent()
    worker.send(signal.SIGTERM)
    assert await asyncio.to_thread(worker.wait, 30) == 0


async def test_many_queues_of_a_silent_server_leave_slots_to_the_others(
    sparse: Cluster, site_at: Callable[..., Site], victim_of: Callable[[str], Victim]
) -> None:
    site = site_at(sparse.url, lease=2.0)
    victim = victim_of(site.namespace)
    queues = [*victim.queues[:6], victim.others[0]]
    site.worker(worker_routing_keys=",".join(queues), worker_concurrency=4)
    assert await (await site.app.submit("double", 1, options={"queue": victim.others[0]})).result(timeout=10) == 2
    victim.falls_silent()
    slowest, until = 0.0, time.monotonic() + 12
    while time.monotonic() < until:
        began = time.monotonic()
        assert await (await site.app.submit("double", 2, options={"queue": victim.others[0]})).result(timeout=40) == 4
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 3


async def test_a_worker_starts_while_a_server_is_away(
    sparse: Cluster, site_at: Callable[..., Site], victim_of: Callable[[str], Victim]
) -> None:
    site = site_at(sparse.url, lease=1.0, call_timeout=5)
    victim = victim_of(site.namespace)
    own = await site.app.submit("double", 1, options={"queue": victim.queues[0]})
    victim.falls_silent()
    site.start(worker_routing_keys=f"{victim.queues[0]},{victim.others[0]}", call_timeout=1)
    job = await site.app.submit("double", 2, options={"queue": victim.others[0]})
    assert await job.result(timeout=30) == 4
    victim.goes_on()
    assert await own.result(timeout=30) == 2


async def test_results_are_heard_again_after_a_primary_fell_silent(cluster: Cluster, site_at: Callable[..., Site]) -> None:
    site = site_at(cluster.url, lease=2.0, call_timeout=20)
    site.worker()
    slot = QueueKeys(site.namespace, "default").slot
    assert await (await site.app.submit("double", 1)).result(timeout=10) == 2
    victim = cluster.serving(slot)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGSTOP)
    try:

        def replaced() -> bool:
            other = next(server for server in cluster.servers if server is not victim)
            owner = next(entry[2][1] for entry in ask(other, "CLUSTER", "SLOTS") if entry[0] <= slot <= entry[1])
            return bool(owner != victim.port)

        await asyncio.to_thread(wait_until, replaced, "another primary", 30)
        began = time.monotonic()
        assert await (await site.app.submit("double", 2)).result(timeout=40) == 4
        for _ in range(5):
            began = time.monotonic()
            assert await (await site.app.submit("double", 2)).result(timeout=40) == 4
            assert time.monotonic() - began < 2.5
    finally:
        os.kill(victim.pid, signal.SIGCONT)
        await eventually(lambda: ask(victim, "ROLE")[0] == b"slave" and b"connected" in ask(victim, "ROLE"), "its return", 30)
