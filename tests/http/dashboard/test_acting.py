"""The dashboard in a browser: acting on many, error groups, dead letters, workers, cron, the trail; and that a viewer acts on nothing."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from tests.http.conftest import V1, ended, submitted
from tests.http.dashboard.crowd import gate_of
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx
    from tests.http.conftest import ApiProcess, Place
    from tests.http.dashboard.conftest import Look

expect = pytest.importorskip("playwright.sync_api", reason="THE DASHBOARD IS NOT TESTED: pip install playwright").expect
pytestmark = pytest.mark.timeout(120)
PAGES = ["overview", "jobs", "errors", "queues", "workers", "cron", "dead", "trail"]
CHANGING = re.compile(
    r"^(Pause|Resume|Purge|Retry|Cancel|Delete|Move|Reschedule|Change priority|Priority|Drain|Stop|Run now)\b", re.IGNORECASE
)


def dead(client: httpx.Client, count: int, queue: str = "default") -> list[str]:
    """Jobs that have died in a queue that has a worker, moved to their death by it."""
    ids = [submitted(client, "fails", 99, max_retries=0, headers={"group": queue}) for _ in range(count)]
    assert {ended(client, job_id)["state"] for job_id in ids} == {"dead"}
    return ids


def found(client: httpx.Client, query: str) -> int:
    return len(client.get(f"{V1}/jobs", params={"q": query, "limit": 1000}).json()["jobs"])


# --- all that a search matches ------------------------------------------------------------------------------------------


def test_all_that_match_are_counted_then_changed_and_written_down(look: Look, admin: httpx.Client) -> None:
    for number in range(60):
        submitted(admin, "double", number, queue="many", delay=3600)
    page = look.open("jobs?q=queue%3Amany%20args.0%3E%3D10").page
    expect(page.locator("a[data-row]")).to_have_count(50)
    look.press("Change priority")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Change priority 50 jobs?")
    expect(dialog).to_contain_text("queue:many args.0>=10")
    look.answer("Cancel")
    assert found(admin, "queue:many priority:high") == 0
    look.press("Change priority")
    look.answer("Change priority")
    done = page.get_by_role("status").filter(has_text="50 jobs done")
    expect(done).to_be_visible()
    assert found(admin, "queue:many priority:high") == 50
    done.get_by_role("link", name="Trail").click()
    newest = page.get_by_role("row").nth(1)
    expect(newest).to_contain_text("setpriority high")
    expect(newest).to_contain_text("queue:many args.0>=10")


def test_what_matches_is_moved_then_cancelled(look: Look, admin: httpx.Client) -> None:
    for number in range(3):
        submitted(admin, "double", number, queue="left", delay=3600)
    page = look.open("jobs?q=queue%3Aleft").page
    look.press("Move")
    page.get_by_label("To the queue").fill("right")
    look.answer("Move")
    expect(page.get_by_role("status").filter(has_text="3 jobs done")).to_be_visible()
    assert (found(admin, "queue:left"), found(admin, "queue:right")) == (0, 3)
    look.open("jobs?q=queue%3Aright")
    look.press("Cancel")
    look.answer("Cancel jobs")
    expect(page.get_by_role("status").filter(has_text="Cancel: 3 jobs done")).to_be_visible()
    assert found(admin, "queue:right") == 0


def test_what_matches_is_saved_as_json_lines(look: Look, admin: httpx.Client) -> None:
    ids = {submitted(admin, "double", number, queue="saved", delay=3600) for number in range(3)}
    page = look.open("jobs?q=queue%3Asaved").page
    with page.expect_download() as download:
        look.press("Export")
    path = download.value.path()
    assert {json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()} == ids


# --- errors and dead letters --------------------------------------------------------------------------------------------


def test_a_group_of_errors_is_retried_and_no_other(look: Look, admin: httpx.Client) -> None:
    hopeless = submitted(admin, "hopeless")
    assert ended(admin, hopeless)["state"] == "dead"
    died = {job_id: admin.get(f"{V1}/jobs/{job_id}").json()["died_ms"] for job_id in dead(admin, 4)}
    page = look.open("errors").page
    group = page.get_by_role("region", name="ValueError", exact=True)
    expect(group).to_contain_text("in fails")
    expect(group).to_contain_text(re.compile("last .*ago|last now"))
    before = admin.get(f"{V1}/jobs/{hopeless}").json()["died_ms"]
    group.get_by_role("button", name="Retry all").click()
    expect(page.get_by_role("dialog")).to_contain_text("error_type:")
    look.answer("Retry")
    expect(page.get_by_role("status").filter(has_text="done")).to_be_visible()
    for job_id, died_ms in died.items():
        wait_until(
            lambda job_id=job_id, died_ms=died_ms: admin.get(f"{V1}/jobs/{job_id}").json()["died_ms"] not in (None, died_ms), "a retry"
        )  # type: ignore[misc]
    assert admin.get(f"{V1}/jobs/{hopeless}").json()["died_ms"] == before
    group.get_by_role("link", name="ValueError").click()
    expect(page.get_by_label("Search jobs")).to_have_value(re.compile("^state:dead,retrying error_type:"))
    expect(look.row("hopeless")).to_have_count(0)


def test_a_group_that_waits_for_its_next_attempt_is_made_due(look: Look, admin: httpx.Client) -> None:
    later = {"base": 600, "factor": 1, "cap": 600, "jitter": False}
    ids = [submitted(admin, "fails", 1, max_retries=3, retry=later, headers={"group": "later"}) for _ in range(2)]
    wait_until(lambda: found(admin, "state:retrying header.group:later") == 2, "their first failures")
    page = look.open("errors?q=header.group%3Alater").page
    page.get_by_role("button", name="Retry 2 now").click()
    look.answer("Retry now")
    assert [ended(admin, job_id)["state"] for job_id in ids] == ["success", "success"]


def test_dead_letters_are_retried_and_deleted(look: Look, admin: httpx.Client) -> None:
    admin.delete(f"{V1}/queues/default/dead")
    first, second = dead(admin, 2)
    page = look.open("dead/default").page
    page.get_by_role("button", name=f"Delete {first}").click()
    look.answer("Delete")
    expect(page.locator("a[data-row]")).to_have_count(1)
    assert [job["id"] for job in admin.get(f"{V1}/queues/default/dead").json()["jobs"]] == [second]
    died_ms = admin.get(f"{V1}/jobs/{second}").json()["died_ms"]
    page.get_by_role("button", name=f"Retry {second}").click()
    wait_until(lambda: admin.get(f"{V1}/jobs/{second}").json()["died_ms"] not in (None, died_ms), "the retry")
    look.press("Delete all")
    page.get_by_label("Type default to go on").fill("default")
    look.answer("Delete all")
    expect(page.get_by_text("No job of this queue is dead.")).to_be_visible()
    assert admin.get(f"{V1}/queues/default/dead").json()["count"] == 0


# --- workers and cron ---------------------------------------------------------------------------------------------------


def test_workers_show_what_they_run(look: Look, admin: httpx.Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job_id = submitted(admin, "follow", str(gate))
    page = look.open("workers").page
    run = page.locator(".runs li").filter(has_text="follow")
    expect(run).to_be_visible()
    expect(page.locator(".worker").first).to_contain_text("1 of 10 slots")
    run.get_by_role("link").click()
    assert job_id in page.url
    gate.touch()
    expect(page.locator(".id .state")).to_have_text("success")


@pytest.fixture
def ticking(place: Place) -> ApiProcess:
    place.worker("tests.apps.ticking:app")
    return place.api("tests.apps.ticking:app")


def test_cron_entries_tell_their_schedule(ticking: ApiProcess, looks: Callable[..., Look]) -> None:
    look = looks(ticking.url)
    page = look.open("cron").page
    row = page.get_by_role("row").nth(1)
    expect(row).to_contain_text("every 0.1 s")
    expect(row).not_to_contain_text("no worker")


def test_a_cron_entry_is_paused_run_and_resumed(ticking: ApiProcess, looks: Callable[..., Look]) -> None:
    look = looks(ticking.url)
    page = look.open("cron").page
    row = page.get_by_role("row").nth(1)
    row.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("paused")
    with ticking.client("admin") as client:
        assert client.get(f"{V1}/cron").json()[0]["paused"] is True
        before = client.get(f"{V1}/cron").json()[0]["last_id"]
        row.get_by_role("button", name="Run").click()
        look.answer("Run now")
        wait_until(lambda: client.get(f"{V1}/cron").json()[0]["last_id"] not in ("", before), "the run that was asked for")
    row.get_by_role("button", name="Resume").click()
    expect(row).not_to_contain_text("paused")


def test_a_running_job_shows_its_progress_its_log_and_its_stack(place: Place, looks: Callable[..., Look]) -> None:
    gate = gate_of(place.environment, place.folder)
    place.worker("tests.apps.shop:app", lease=1.0)
    api = place.api("tests.apps.shop:app")
    with api.client("admin") as client:
        job_id = submitted(client, "import_customers", 10)
    page = looks(api.url).open(f"jobs/{job_id}").page
    expect(page.get_by_role("region", name="Progress")).to_contain_text("40 %")
    expect(page.get_by_role("region", name="Progress")).to_contain_text("page 4 of 10")
    expect(page.get_by_role("region", name="Log")).to_contain_text("page 3 has 2 rows without a name")
    page.get_by_role("button", name="Read it now").click()
    expect(page.get_by_role("region", name="Stack")).to_contain_text("in import_customers")
    with open(gate, "w"):
        pass
    expect(page.locator(".id .state")).to_have_text("success")


# --- roles --------------------------------------------------------------------------------------------------------------


def test_a_viewer_sees_everything_and_no_way_to_change_it(look: Look, admin: httpx.Client) -> None:
    (job_id,) = dead(admin, 1)
    waiting = submitted(admin, "double", 1, queue="seen", delay=3600)
    page = look.open(role="viewer").page
    for where in [*PAGES, f"jobs/{job_id}", f"jobs/{waiting}", "queues/seen", "dead/default", "jobs?q=state%3Adead"]:
        page.goto(f"{look.url}#/{where}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator(".loading")).to_have_count(0)
        assert [name for name in page.get_by_role("button").all_inner_texts() if CHANGING.match(name)] == [], where
        assert page.get_by_role("alert").count() == 0, where


def test_an_operator_may_act_but_not_delete(look: Look, admin: httpx.Client) -> None:
    (job_id,) = dead(admin, 1)
    page = look.open(f"jobs/{job_id}", role="operator").page
    expect(page.get_by_role("button", name="Retry now")).to_be_visible()
    expect(page.get_by_role("button", name="Delete")).to_have_count(0)
    page.goto(f"{look.url}#/queues")
    expect(page.get_by_role("button", name=re.compile("^Pause")).first).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("^Purge"))).to_have_count(0)
