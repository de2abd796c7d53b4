"""The dashboard before many jobs in all states: what it takes to look, to search, and to mend; and the pictures of the docs.

PICTURES=docs/dashboard pytest tests/http/dashboard/test_large.py   writes the pictures there; otherwise they are thrown away.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.apps import shop
from tests.http.conftest import V1, Place
from tests.http.dashboard.crowd import an_hour, apart, crowd, gate_of
from tests.http.dashboard.test_manners import settle
from tests.support import ROOT

from bananas import Bananas
from bananas.server import PrivateServer, find_server_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Page
    from tests.http.conftest import ApiProcess
    from tests.http.dashboard.conftest import Look

expect = pytest.importorskip("playwright.sync_api", reason="THE DASHBOARD IS NOT TESTED: pip install playwright").expect
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
log = logging.getLogger(__name__)  # shown with --log-cli-level=info
JOBS, MANY = 100_000, 1_000_000
PATIENT_MS = 60_000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """100,000 jobs of a shop, on a server of their own that is set up as one should be."""
    folder = tmp_path_factory.mktemp("crowd")
    with PrivateServer(folder / "data", binary=find_server_binary("redis"), appendonly=True) as server:
        made = Place(server.url, folder)
        made.namespace = made.environment["BANANAS_NAMESPACE"] = "shop"
        gate_of(made.environment, folder)
        made.worker("tests.apps.shop:app", worker_concurrency=20)
        apart(an_hour(server.url, "shop"))
        apart(crowd(server.url, "shop", JOBS))
        yield made
        made.end()


@pytest.fixture(scope="module")
def api(shared: Place) -> ApiProcess:
    return shared.api("tests.apps.shop:app")


# --- pictures, before anything is changed -----------------------------------------------------------------------------------


PICTURED = {
    "overview": "overview",
    "jobs": "jobs?q=state%3Adead%20args.1%3E%3D900",
    "errors": "errors",
    "queues": "queues",
}


ELSEWHERE = """([here, there]) => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(here, there);
}"""


def save(page: Page, name: str, folder: Path) -> None:
    """Take a picture, with few colours: it is small then. Where this tree lies is no matter of the docs."""
    path = folder / f"{name}.png"
    page.evaluate(ELSEWHERE, [str(ROOT), "/srv/shop"])
    page.screenshot(path=path, animations="disabled")
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < 200_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_for_the_docs(looks: Callable[..., Look], shared: Place, scheme: Any, tmp_path: Path) -> None:
    folder = ROOT / given if (given := os.environ.get("PICTURES")) else tmp_path
    folder.mkdir(exist_ok=True)
    look = looks(color_scheme=scheme, viewport={"width": 1280, "height": 860})
    page = look.open().page
    for name, where in PICTURED.items():
        settle(look, where)
        if name == "overview":
            expect(page.get_by_role("region", name="Advice")).to_be_visible()
        save(page, f"{name}-{scheme}", folder)
    settle(look, PICTURED["jobs"])
    page.locator("a[data-row]").first.click()
    expect(page.locator(".timeline")).to_be_visible()
    save(page, f"job-{scheme}", folder)
    phone = looks(color_scheme=scheme, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    phone.open()
    settle(phone, "overview")
    save(phone.page, f"phone-{scheme}", folder)


# --- work -------------------------------------------------------------------------------------------------------------------


def test_the_overview_is_there_at_once(look: Look) -> None:
    page = look.open().page
    expect(look.verdict("Failures")).to_contain_text("10,000 dead")
    expect(look.verdict("Waiting")).to_contain_text("60,000")
    expect(page.get_by_role("row").filter(has_text="newsletter")).to_contain_text("no worker")
    errors = page.get_by_role("region", name="Errors of late")
    expect(errors).to_contain_text("CardDeclined")  # behind 20,000 that are scheduled, and have not failed
    expect(errors).to_contain_text("ConnectionError")


def test_a_search_by_an_argument_finds_what_is_far_behind(look: Look) -> None:
    look.context.set_default_timeout(PATIENT_MS)
    page = look.open("jobs?q=state%3Adead%20args.0%3A99909").page
    expect(page.locator("a[data-row]")).to_have_count(1, timeout=PATIENT_MS)
    expect(page.locator(".scanned")).to_contain_text("scanned 10,000 of 10,000")
    box = page.get_by_label("Search jobs")
    box.fill('queue:newsletter priority:high "issue 4"')
    box.press("Enter")
    expect(page.locator("a[data-row]").first).to_contain_text("send_email", timeout=PATIENT_MS)


def test_a_group_of_thousands_of_errors_is_retried(look: Look, admin: Any) -> None:
    admin.post(f"{V1}/queues/billing/pause")
    page = look.open("errors").page
    group = page.get_by_role("region", name="tests.apps.shop.CardDeclined")
    expect(group).to_contain_text("10,000 dead", timeout=PATIENT_MS)
    group.get_by_role("button", name="Retry all 10,000 dead jobs").click()
    expect(page.get_by_role("dialog")).to_contain_text("Retry 10,000 jobs?", timeout=PATIENT_MS)
    look.answer("Retry")
    expect(page.get_by_role("status").filter(has_text="10,000 jobs done")).to_be_visible(timeout=PATIENT_MS)
    figures = admin.get(f"{V1}/queues/billing").json()
    assert (figures["dead"], figures["ready"], figures["scheduled"]) == (0, 10_000, 5_000)


def test_a_running_job_is_cancelled_and_a_priority_changed(look: Look, admin: Any) -> None:
    page = look.open("jobs?q=state%3Arunning").page
    expect(page.locator("a[data-row]")).to_have_count(6)
    page.locator("a[data-row]").first.click()
    expect(page.locator(".id .state")).to_have_text("running")
    look.press("Cancel")
    look.answer("Cancel the job")
    expect(page.locator(".id .state")).to_have_text("cancelled", timeout=PATIENT_MS)
    page.goto(f"{look.url}#/jobs?q=queue%3Anewsletter%20priority%3Alow%20args.0%3A%22tom%40example.org%22")
    look.press("Change priority")
    expect(page.get_by_role("dialog")).to_contain_text(re.compile("Change priority [\\d,]+ jobs"), timeout=PATIENT_MS)
    page.get_by_role("combobox", name="Priority").select_option("high")
    look.answer("Change priority")
    expect(page.get_by_role("status").filter(has_text="jobs done")).to_be_visible(timeout=PATIENT_MS)
    assert admin.get(f"{V1}/jobs", params={"q": 'queue:newsletter priority:low args.0:"tom@example.org"', "limit": 1}).json()["jobs"] == []


def test_every_page_is_shown(look: Look) -> None:
    look.open()
    for where in ["overview", "jobs", "errors", "queues", "queues/newsletter", "workers", "cron", "dead", "trail"]:
        look.page.goto(f"{look.url}#/{where}")
        expect(look.page.get_by_role("heading", level=1)).to_be_visible()
        expect(look.page.locator(".loading")).to_have_count(0, timeout=PATIENT_MS)
        assert look.page.get_by_role("alert").count() == 0, where


# --- a million ----------------------------------------------------------------------------------------------------------------


PAINTED = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


async def a_million(url: str) -> None:
    app = Bananas(url, namespace="million", call_timeout=60)
    for start in range(0, MANY, 10_000):
        await app.submit_many(
            [shop.send_email.options(queue=f"q{number % 5}").bind("ada@example.org") for number in range(start, start + 10_000)]
        )
    await app.close()


@pytest.mark.timeout(900)
def test_the_overview_of_a_million_jobs_is_painted_within_a_second(looks: Callable[..., Look], tmp_path: Path) -> None:
    with PrivateServer(tmp_path / "data", binary=find_server_binary("redis")) as server:
        place = Place(server.url, tmp_path)
        place.namespace = place.environment["BANANAS_NAMESPACE"] = "million"
        apart(a_million(server.url))
        look = looks(place.api().url)
        page = look.open().page
        for visit in ("first", "second"):
            expect(look.verdict("Waiting")).to_contain_text("1,000,000")
            painted_ms, shown_ms = page.evaluate(PAINTED), page.evaluate("performance.now()")
            log.info("%s visit: painted after %d ms, the figures of %d jobs after %d ms", visit, painted_ms, MANY, shown_ms)
            if visit == "first":
                page.reload()
        look.context.close()
        place.end()
    assert painted_ms < 1_000
