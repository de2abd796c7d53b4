"""What operators do, on a Cluster: orders reach workers over the server of the namespace's own keys, and figures come from every server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.support import eventually

from bananas import operate
from bananas.inspector import workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.conftest import Site

    from bananas import Bananas
    from bananas.groups import Cluster

pytestmark = pytest.mark.timeout(120)


async def test_a_worker_on_a_cluster_is_looked_into_drained_and_stopped(cluster: Cluster, site_at: Callable[..., Site]) -> None:
    site = site_at(cluster.url, queue_shards="default:3")
    worker = site.worker("tests.apps.standing:app", queue_shards="default:3")
    job, _ = await site.running(str(site.gate()), task="waits")

    async def runs() -> bool:
        return [[run.id for run in each.runs] for each in await workers(site.app)] == [[job.id]]

    await eventually(runs, "the registry tells what runs")
    (found,) = await workers(site.app)
    assert "in waits" in await operate.stack(site.app, job.id)
    await operate.drain(site.app, found.boot)

    async def drains() -> bool:
        return [each.phase for each in await workers(site.app)] == ["quiet"]

    await eventually(drains, "the registry tells that it drains")
    site.gate().touch()
    await job.result(timeout=15)
    await operate.stop(site.app, found.boot)
    assert worker.wait() == 0
    assert [deed.action for deed in await operate.trail(site.app)] == ["stop", "drain"]


async def test_a_cron_entry_on_a_cluster_is_paused_and_run(cluster: Cluster, site_at: Callable[..., Site]) -> None:
    site = site_at(cluster.url)
    site.worker("tests.apps.sweeping:app")

    async def announced() -> bool:
        return [each.announced for each in await operate.cron_entries(site.app)] == [True]

    await eventually(announced, "the entry")
    assert await operate.pause_cron(site.app, "default", "sweep")
    public = await operate.run_cron(site.app, "default", "sweep")
    assert await site.app.job(public).result(timeout=10) == "swept"
    (state,) = await operate.cron_entries(site.app)
    assert (state.paused, state.last_id) == (True, public)


async def test_the_figures_are_those_of_every_server_that_has_a_queue(cluster: Cluster, app: Bananas) -> None:
    for number in range(12):
        await app.submit("t", options={"queue": f"q{number}"})
    found = await operate.servers(app)
    assert len({server.run_id for server in found}) == len(found) == 3
    assert {(server.mode, server.role, server.read_only) for server in found} == {("cluster", "primary", False)}
    assert all(server.round_trip_ms > 0 and server.replicas == 1 for server in found)
