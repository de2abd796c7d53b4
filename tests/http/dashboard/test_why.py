"""The dashboard in a browser: a job's page says why it is not running, in each case that a test can bring about."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest
from tests.http.conftest import V1, ended, submitted
from tests.support import kill, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx
    from tests.http.conftest import ApiProcess, Place
    from tests.http.dashboard.conftest import Look

expect = pytest.importorskip("playwright.sync_api", reason="THE DASHBOARD IS NOT TESTED: pip install playwright").expect
pytestmark = pytest.mark.timeout(120)
LATER: dict[str, Any] = {"base": 600, "factor": 1, "cap": 600, "jitter": False}


def told(look: Look, job_id: str, **reasons: str) -> None:
    """The page of this job gives these reasons, each with such a sentence."""
    look.open(f"jobs/{job_id}")
    shown = look.page.locator(".why")
    for kind, sentence in reasons.items():
        expect(shown.locator(f"li[data-kind={kind}]")).to_contain_text(sentence)


def info(client: httpx.Client, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"{V1}/jobs/{job_id}").json()
    return found


def until_running(client: httpx.Client, job_id: str) -> None:
    wait_until(lambda: info(client, job_id)["state"] == "running", "its start")


# --- with a worker that serves another queue, or has slots free -------------------------------------------------------------


def test_paused_behind_no_worker(look: Look, admin: httpx.Client) -> None:
    submitted(admin, "double", 1, queue="held")
    job_id = submitted(admin, "double", 1, queue="held")
    admin.post(f"{V1}/queues/held/pause")
    told(
        look,
        job_id,
        paused="Queue held is paused since",
        no_worker="No live worker serves queue held (1 serve",
        behind="1 job(s) of the same",
    )


def test_delayed_unique_expires(look: Look, admin: httpx.Client) -> None:
    job_id = submitted(admin, "double", 1, delay=3600, unique="order-7", expires_in=7200)
    told(look, job_id, delayed="it becomes ready in", unique="'order-7'", expires="It expires if it has not started in")


def test_expired(look: Look, admin: httpx.Client) -> None:
    job_id = submitted(admin, "double", 1, queue="stale", expires_in=0.05)
    told(look, job_id, expired="It has expired")


def test_retry_waits(look: Look, admin: httpx.Client) -> None:
    job_id = submitted(admin, "fails", 1, retry=LATER)
    wait_until(lambda: info(admin, job_id)["attempts"] == 1, "its first failure")
    told(look, job_id, retry_waits="Attempt 1 failed with ValueError")


def test_unknown_task(shared: Place, looks: Callable[..., Look]) -> None:
    api: ApiProcess = shared.api()  # it knows no task, so it takes any
    with api.client("admin") as client:
        job_id = submitted(client, "nobody_knows_me")
        wait_until(lambda: info(client, job_id)["state"] == "scheduled", "the worker's handing it back")
    told(looks(api.url), job_id, unknown_task="No worker that took it knew task nobody_knows_me", task_unknown_to_workers="none knows task")


def test_running_and_cancel_requested_of_one_that_does_not_stop(look: Look, admin: httpx.Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = submitted(admin, "stubborn", str(gate), timeout=1)
    until_running(admin, job_id)
    told(look, job_id, overdue="beyond its timeout")
    admin.post(f"{V1}/jobs/{job_id}/cancel")
    told(look, job_id, cancel_requested="Somebody asked for its cancellation")
    gate.touch()
    ended(admin, job_id)


def test_dead_ended_moved(look: Look, admin: httpx.Client) -> None:
    dead, done = submitted(admin, "hopeless"), submitted(admin, "double", 1)
    assert (ended(admin, dead)["state"], ended(admin, done)["state"]) == ("dead", "success")
    told(look, dead, dead="It is dead since")
    told(look, done, ended="It has ended: success")
    moved = submitted(admin, "double", 1, queue="from", delay=3600)
    admin.post(f"{V1}/jobs/act", json={"query": f"id:{moved}", "action": {"type": "Move", "queue": "to"}, "dry_run": False})
    told(look, moved, moved="It was moved to another queue")


# --- with workers of their own ----------------------------------------------------------------------------------------------


@pytest.fixture
def client(place: Place) -> Any:
    """An admin of an API of this place, which has no worker yet."""
    process = place.api("tests.apps.basic:app")
    with process.client("admin") as made:
        yield made


@pytest.fixture
def there(client: httpx.Client, looks: Callable[..., Look]) -> Look:
    """A look at that place."""
    return looks(str(client.base_url))


def test_no_worker_at_all(there: Look, client: httpx.Client) -> None:
    told(there, submitted(client, "double", 1), no_worker="none is alive at all")


def test_slots_busy(there: Look, client: httpx.Client, place: Place, tmp_path: Path) -> None:
    place.worker(worker_concurrency=1)
    first = submitted(client, "follow", str(tmp_path / "gate"))
    until_running(client, first)
    told(there, first, running="It is held by worker")
    told(there, submitted(client, "double", 1), slots_busy="All 1 slot(s) of the 1 worker(s)")


def test_excluded(there: Look, client: httpx.Client, place: Place) -> None:
    place.worker(worker_mode="job-specialized", worker_job_types=["work"])
    told(there, submitted(client, "double", 1), excluded="are specialized: none takes it")


def test_workers_quiet(there: Look, client: httpx.Client, place: Place) -> None:
    place.worker(lease=1.0)
    (worker,) = wait_until(lambda: client.get(f"{V1}/workers").json(), "the worker")
    there.open("workers")
    there.page.get_by_role("button", name="Drain").click()
    there.answer("Drain")
    expect(there.page.locator(".worker")).to_contain_text("takes no more")
    assert client.get(f"{V1}/workers").json()[0]["boot"] == worker["boot"]
    told(there, submitted(client, "double", 1), workers_quiet="but claim no more")


def test_suspect(there: Look, client: httpx.Client, place: Place, tmp_path: Path) -> None:
    doomed = place.worker(lease=1.0, worker_concurrency=1)
    suspect = submitted(client, "follow", str(tmp_path / "gate"))
    until_running(client, suspect)
    place.worker(lease=1.0, worker_concurrency=1)
    until_running(client, submitted(client, "follow", str(tmp_path / "gate")))
    doomed.kill_tree()
    wait_until(lambda: info(client, suspect)["crashes"] == 1, "its return to the queue")
    told(there, suspect, suspect="It starts only when a worker has nothing else to run")


def test_worker_gone(there: Look, client: httpx.Client, place: Place, tmp_path: Path) -> None:
    worker = place.worker(lease=1.0)
    job_id = submitted(client, "follow", str(tmp_path / "gate"))
    until_running(client, job_id)
    worker.kill_tree()
    told(there, job_id, worker_gone="has not renewed the lease")


def test_soon(there: Look, client: httpx.Client, place: Place) -> None:
    worker = place.worker(lease=60.0)
    wait_until(lambda: client.get(f"{V1}/workers").json(), "the worker")
    for pid in [worker.pid, *worker.children()]:  # alive, by the server's clock, and not moving
        kill(pid, signal.SIGSTOP)
    told(there, submitted(client, "double", 1), soon="Nothing stands in its way")
