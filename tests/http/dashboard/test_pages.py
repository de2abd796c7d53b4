"""The dashboard in a browser: signing in, the overview, queues, searches, and one job."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.http.conftest import TOKENS, V1, ended, submitted
from tests.support import clean_environment, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx
    from tests.http.conftest import ApiProcess, Place
    from tests.http.dashboard.conftest import Look

expect = pytest.importorskip("playwright.sync_api", reason="THE DASHBOARD IS NOT TESTED: pip install playwright").expect
pytestmark = pytest.mark.timeout(120)


# --- who looks --------------------------------------------------------------------------------------------------------


def test_a_token_is_asked_for_and_kept_in_the_tab_alone(look: Look) -> None:
    page = look.open(role="").page
    page.get_by_label("Token").fill("not-a-token-of-this-api")
    look.press("Sign in")
    expect(page.get_by_role("alert")).to_contain_text("not valid")
    page.get_by_label("Token").fill(TOKENS["viewer"])
    look.press("Sign in")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
    assert TOKENS["viewer"] not in page.url
    look.press("Sign out")
    expect(page.get_by_label("Token")).to_be_visible()


def test_without_tokens_who_is_on_this_machine_needs_none(shared: Place, looks: Callable[..., Look]) -> None:
    open_api: ApiProcess = shared.api(BANANAS_API_TOKENS="")
    page = looks(open_api.url).open(role="").page
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    expect(page.get_by_role("button", name="Sign out")).to_have_count(0)


MOUNTED = """
import socket
import uvicorn
from bananas import Bananas
from bananas.http import api
from starlette.applications import Starlette
from starlette.routing import Mount

web = Starlette(routes=[Mount("/ops/bananas", api(Bananas(), role_of=lambda request: "operator"))])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(web, log_level="warning", timeout_graceful_shutdown=1)).run(sockets=[listener])
"""


@pytest.fixture
def mounted(shared: Place) -> Iterator[str]:
    """The URL of the dashboard in a program that knows its users."""
    environment = clean_environment(**shared.environment)
    with subprocess.Popen([sys.executable, "-c", MOUNTED], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/ops/bananas"
        process.kill()


def test_it_works_below_a_mount_with_the_sign_in_of_its_program(mounted: str, looks: Callable[..., Look], admin: httpx.Client) -> None:
    job_id = submitted(admin, "double", 1, delay=3600, queue="mounted")
    look = looks(mounted)
    page = look.open(role="").page
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    expect(page.locator(".foot")).to_contain_text("operator")
    page.goto(f"{look.url}#/queues")
    look.row("mounted").get_by_role("button", name="Pause").click()
    look.answer("Pause")
    expect(look.row("mounted")).to_contain_text("paused")  # by the event stream
    page.goto(f"{look.url}#/jobs/{job_id}")
    expect(page.get_by_role("region", name="Why is it not running?")).to_contain_text("Queue mounted is paused")


# --- the overview -----------------------------------------------------------------------------------------------------


def test_the_overview_answers_four_questions_and_keeps_itself_current(look: Look, admin: httpx.Client) -> None:
    job_id = submitted(admin, "fails", 99, max_retries=0, queue="overview")
    page = look.open().page
    expect(look.verdict("Workers")).to_contain_text("1 alive")
    expect(look.verdict("Workers")).to_contain_text("Nobody serves overview")
    expect(look.verdict("Waiting")).to_contain_text("in overview")
    expect(look.verdict("Server")).to_contain_text("MiB")
    expect(page.locator(".fresh")).to_contain_text("as of")
    before = int(look.verdict("Failures").locator(".verdict-figure").inner_text().split()[0])
    admin.post(f"{V1}/jobs/{job_id}/cancel")
    dead = submitted(admin, "fails", 99, max_retries=0)
    assert ended(admin, dead)["state"] == "dead"
    expect(look.verdict("Failures")).to_contain_text(f"{before + 1} dead")
    expect(look.verdict("Workers")).not_to_contain_text("Nobody serves")
    expect(page.get_by_role("region", name="Errors", exact=True)).to_contain_text("ValueError")


# --- queues -----------------------------------------------------------------------------------------------------------


def test_what_ended_lately_leads_to_its_job(look: Look, admin: httpx.Client) -> None:
    job_id = submitted(admin, "double", 21, result_ttl=60)
    ended(admin, job_id)
    page = look.open().page
    table = page.get_by_role("region", name="Jobs that ended lately")
    row = table.get_by_role("row").filter(has_text=job_id[-19:-11])
    expect(row).to_contain_text("success")
    row.get_by_role("link", name="double").click()
    expect(page.get_by_text(job_id)).to_be_visible()


def test_a_queue_is_paused_resumed_and_purged(look: Look, admin: httpx.Client) -> None:
    for _ in range(3):
        submitted(admin, "double", 1, queue="acted")
    page = look.open("queues").page
    row = look.row("acted")
    row.get_by_role("button", name="Pause").click()
    look.answer("Cancel")
    assert admin.get(f"{V1}/queues/acted").json()["paused"] is False
    row.get_by_role("button", name="Pause").click()
    look.answer("Pause")
    expect(row).to_contain_text("paused")
    assert admin.get(f"{V1}/queues/acted").json()["paused"] is True
    row.get_by_role("button", name="Resume").click()
    expect(row).not_to_contain_text("paused")
    row.get_by_role("button", name="Purge").click()
    look.answer("Purge")  # its name was not typed
    assert admin.get(f"{V1}/queues/acted").json()["ready"] == 3
    page.get_by_label("Type acted to go on").fill("acted")
    look.answer("Purge")
    expect(page.get_by_role("status").filter(has_text="3 jobs purged")).to_be_visible()
    assert admin.get(f"{V1}/queues/acted").json()["ready"] == 0


def test_one_queue_shows_its_depth_by_priority(look: Look, admin: httpx.Client) -> None:
    for priority in ("high", "low", "low"):
        submitted(admin, "double", 1, queue="deep", priority=priority)
    page = look.open("queues/deep").page
    bars = page.get_by_role("region", name="Ready by priority").get_by_role("listitem")
    expect(bars).to_have_count(2)
    expect(bars.nth(0)).to_contain_text("high")
    expect(bars.nth(1)).to_contain_text("2")
    bars.nth(1).get_by_role("link").click()
    expect(page.get_by_label("Search jobs")).to_have_value("queue:deep state:ready priority:900")
    expect(page.locator("a[data-row]")).to_have_count(2)


# --- searches ---------------------------------------------------------------------------------------------------------


def test_a_search_is_in_the_url_and_says_how_much_was_looked_at(look: Look, admin: httpx.Client) -> None:
    for number in range(55):
        submitted(admin, "double", number, queue="sought", kwargs={}, delay=3600)
    page = look.open("jobs").page
    box = page.get_by_label("Search jobs")
    box.fill("queue:sought args.0>=2")
    box.press("Enter")
    expect(page.locator("a[data-row]")).to_have_count(50)
    expect(page.locator(".scanned")).to_contain_text("of 55")
    assert "q=queue%3Asought+args.0%3E%3D2" in page.url
    page.get_by_role("link", name="Next page").click()
    expect(page.locator("a[data-row]")).to_have_count(3)
    page.reload()
    expect(page.locator("a[data-row]")).to_have_count(3)
    expect(box).to_have_value("queue:sought args.0>=2")
    page.go_back()
    expect(page.locator("a[data-row]")).to_have_count(50)


def test_qualifiers_and_their_values_are_completed_by_the_keyboard(look: Look, admin: httpx.Client) -> None:
    submitted(admin, "double", 1, queue="completed", delay=3600)
    page = look.open("jobs").page
    expect(page.locator("a[data-row]").first).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("que")
    expect(page.get_by_role("option")).to_contain_text(["queue:"])
    page.keyboard.press("Tab")
    page.keyboard.type("compl")
    expect(page.get_by_role("option")).to_contain_text(["queue:completed"])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.type("state:sch")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Search jobs")).to_have_value("queue:completed state:scheduled ")
    page.keyboard.press("Enter")
    expect(page.locator("a[data-row]")).to_have_count(1)


def test_a_search_that_cannot_be_read_says_where(look: Look) -> None:
    look.statuses.add(422)
    page = look.open("jobs?q=state:dead%20nosuch:1").page
    expect(page.get_by_role("alert")).to_contain_text("at character 12 of the query")
    look.press("dead")
    expect(page.get_by_label("Search jobs")).to_have_value("nosuch:1")


def test_a_whole_id_leads_to_its_job_also_when_that_has_ended(look: Look, admin: httpx.Client) -> None:
    job_id = submitted(admin, "double", 21)
    assert ended(admin, job_id)["value"] == 42
    page = look.open("jobs").page
    page.get_by_label("Search jobs").fill(f" {job_id} ")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Result")).to_contain_text("42")


SUGGESTED = """async ([text, known]) => {
    const { suggest } = await import(document.querySelector("script[src]").src.replace("app.js", "qualifiers.js"));
    return suggest(text, text.length, known).map((item) => item.insert);
}"""


@pytest.mark.parametrize(
    ("text", "known", "first"),
    [
        ("sta", {}, "state:"),
        ("-sta", {}, "-state:"),
        ("task:a state:de", {}, "state:dead"),
        ("state:ready,sch", {}, "state:ready,scheduled"),
        ("queue:b", {"queue": ["bulk"]}, "queue:bulk"),
        ("task:two", {"task": ["two words"]}, 'task:"two words"'),
        ('error:"a state:', {"error": ["a state: b"]}, None),
        ("args.", {"args": ["user_id"]}, "args.user_id:"),
        ("age>", {}, "age>30s"),
    ],
)
def test_what_may_be_meant_is_suggested(look: Look, text: str, known: dict[str, list[str]], first: str | None) -> None:
    items = look.open().page.evaluate(SUGGESTED, [text, known])
    assert (items[0] if items else None) == first


WITH_STATE = """async ([text, state]) => {
    const { withState } = await import(document.querySelector("script[src]").src.replace("app.js", "qualifiers.js"));
    return withState(text, state);
}"""


@pytest.mark.parametrize(
    ("text", "state", "then"),
    [
        ("", "dead", "state:dead"),
        ("state:dead  task:a", "dead", "task:a"),
        ("state:ready,dead x", "dead", "x state:dead"),
        ('"a state:dead b"', "ready", '"a state:dead b" state:ready'),
        ("-state:dead", "ready", "-state:dead state:ready"),
    ],
)
def test_a_state_is_chosen_and_taken_back(look: Look, text: str, state: str, then: str) -> None:
    assert look.open().page.evaluate(WITH_STATE, [text, state]) == then


# --- one job ----------------------------------------------------------------------------------------------------------


def test_a_dead_job_shows_its_failures_and_is_retried(look: Look, admin: httpx.Client) -> None:
    job_id = submitted(admin, "fails", 2, max_retries=1)
    assert ended(admin, job_id)["state"] == "dead"
    died_ms = admin.get(f"{V1}/jobs/{job_id}").json()["died_ms"]
    page = look.open(f"jobs/{job_id}").page
    expect(page.get_by_role("heading", name="fails")).to_be_visible()
    expect(page.get_by_role("region", name="Timeline")).to_contain_text("attempt 2 failed")
    failures = page.get_by_role("region", name="Errors", exact=True)
    expect(failures).to_contain_text("Traceback (most recent call last)")
    expect(failures.locator("details")).to_have_count(2)
    look.press("Retry now")
    expect(page.get_by_role("status").filter(has_text="It is ready again")).to_be_visible()
    wait_until(lambda: admin.get(f"{V1}/jobs/{job_id}").json()["died_ms"] not in (None, died_ms), "the retry, which fails again")


def test_a_scheduled_job_is_made_due_and_its_result_shown(look: Look, admin: httpx.Client) -> None:
    job_id = submitted(admin, "double", 9007199254740993, delay=3600)
    page = look.open(f"jobs/{job_id}").page
    expect(page.get_by_role("region", name="Why is it not running?")).to_contain_text("It is delayed")
    expect(page.get_by_role("region", name="Arguments")).to_contain_text("9007199254740993")
    look.press("Reschedule")
    look.answer("Reschedule")
    expect(page.get_by_role("region", name="Result")).to_contain_text("18014398509481986")
    expect(page.locator(".id .state")).to_have_text("success")


def test_a_running_job_is_cancelled(look: Look, admin: httpx.Client, tmp_path: Path) -> None:
    job_id = submitted(admin, "follow", str(tmp_path / "never"))
    page = look.open(f"jobs/{job_id}").page
    expect(page.locator(".id .state")).to_have_text("running")
    look.press("Cancel")
    look.answer("Cancel the job")
    expect(page.locator(".id .state")).to_have_text("cancelled")
    assert ended(admin, job_id)["state"] == "cancelled"


def test_priority_is_changed_and_the_job_moved(look: Look, admin: httpx.Client) -> None:
    job_id = submitted(admin, "double", 1, queue="here", delay=3600)
    page = look.open(f"jobs/{job_id}").page
    look.press("Priority")
    page.get_by_role("combobox", name="Priority").select_option("low")
    look.answer("Change")
    expect(page.get_by_role("region", name="Facts")).to_contain_text("low (900)")
    look.press("Move")
    page.get_by_label("To the queue").fill("there")
    look.answer("Move")
    page.get_by_role("link", name="Open it").click()
    expect(page.get_by_role("region", name="Facts")).to_contain_text("there")
    expect(page.locator(".id .state")).to_have_text("scheduled")


def test_the_trace_of_a_job_is_a_link_where_the_app_says_where_traces_are(shared: Place, looks: Callable[..., Look]) -> None:
    api: ApiProcess = shared.api("tests.apps.basic:app", BANANAS_API_TRACE_PAGE="https://traces.example.org/t/{trace_id}?x=1")
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    with api.client("admin") as client:
        job_id = submitted(client, "double", 1, queue="held", headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"})
    look = looks(api.url).open(f"jobs/{job_id}")
    expect(look.page.get_by_role("link", name=trace_id)).to_have_attribute("href", f"https://traces.example.org/t/{trace_id}?x=1")


def test_a_job_that_is_not_there_is_told_so(look: Look) -> None:
    look.statuses.add(404)
    page = look.open("jobs/default." + "0" * 43).page
    expect(page.get_by_role("alert")).to_contain_text("there is no job")
