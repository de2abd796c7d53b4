"""The dashboard in a browser: keyboard, themes, phones, accessibility, hostile text, and servers that are full, read-only or away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.http.conftest import ALL_TOKENS, V1, ApiProcess, Place, ended, submitted
from tests.support import ROOT

from bananas.address import parse_url
from bananas.connection import SyncConnection
from bananas.server import PrivateServer, find_server_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.http.dashboard.conftest import Look

expect = pytest.importorskip("playwright.sync_api", reason="THE DASHBOARD IS NOT TESTED: pip install playwright").expect
pytestmark = pytest.mark.timeout(180)
PAGES = ["overview", "jobs", "errors", "queues", "workers", "cron", "dead", "trail"]
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\u202e${7*7}{{7*7}}"
NAME = HOSTILE.replace("\u202e", "")[:150]  # a name is printable
SHOP = f"""
from bananas import Bananas

app = Bananas()


@app.task(name={NAME!r}, max_retries=0)
async def hostile(text: str) -> str:
    raise ValueError(text)


@app.task
async def echo(text: str) -> str:
    return text
"""


@pytest.fixture
def some_jobs(admin: httpx.Client) -> dict[str, str]:
    """A job of each kind, in a queue with a worker and in one without."""
    dead = submitted(admin, "fails", 99, max_retries=1)
    done = submitted(admin, "double", 2)
    waiting = submitted(admin, "double", 1, queue="unserved")
    later = submitted(admin, "double", 1, delay=3600)
    assert (ended(admin, dead)["state"], ended(admin, done)["state"]) == ("dead", "success")
    return {"dead": dead, "done": done, "waiting": waiting, "later": later}


def everywhere(jobs: dict[str, str]) -> list[str]:
    return [*PAGES, "queues/unserved", "jobs?q=state%3Adead", *(f"jobs/{job_id}" for job_id in jobs.values())]


def settle(look: Look, where: str) -> None:
    """Go to a page, and wait until it shows its data."""
    look.page.goto(f"{look.url}#/{where}")
    expect(look.page.get_by_role("heading", level=1)).to_be_visible()
    expect(look.page.locator(".loading")).to_have_count(0)
    if where == "overview":
        expect(look.page.locator(".verdict.unknown")).to_have_count(0)
        expect(look.page.locator(".uplot")).to_have_count(4)


# --- keyboard -----------------------------------------------------------------------------------------------------------


def test_pages_rows_and_the_search_are_reached_by_keys(look: Look, some_jobs: dict[str, str]) -> None:
    page = look.open().page
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.keyboard.type("gj")
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    expect(page.locator("a[data-row]").nth(1)).to_be_visible()
    page.keyboard.type("jjk")
    expect(page.locator("a[data-row]").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".id")).to_be_visible()
    page.keyboard.type("gq")
    expect(page.get_by_role("heading", name="Queues")).to_be_visible()
    page.keyboard.press("/")
    expect(page.get_by_label("Search jobs")).to_be_focused()
    page.keyboard.type("gq")
    expect(page.get_by_label("Search jobs")).to_have_value("gq")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Dead letters")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_dialog_is_called_off_by_escape(look: Look, some_jobs: dict[str, str], admin: httpx.Client) -> None:
    page = look.open(f"jobs/{some_jobs['later']}").page
    look.press("Cancel")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert admin.get(f"{V1}/jobs/{some_jobs['later']}").json()["state"] == "scheduled"


# --- looks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_is_that_of_the_system_until_one_is_chosen(looks: Callable[..., Look], scheme: Any) -> None:
    page = looks(color_scheme=scheme).open().page
    html = page.locator("html")
    expect(html).to_have_attribute("data-theme", scheme)
    page.get_by_role("button", name="Theme: system").click()
    expect(html).to_have_attribute("data-theme", "light")
    page.get_by_role("button", name="Theme: light").click()
    page.reload()
    expect(html).to_have_attribute("data-theme", "dark")
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()


def test_a_phone_shows_every_page_without_scrolling_sideways(looks: Callable[..., Look], some_jobs: dict[str, str]) -> None:
    look = looks(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = look.open().page
    for where in everywhere(some_jobs):
        settle(look, where)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, where
    look.press("Menu")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Trail").click()
    expect(page.get_by_role("heading", name="Trail")).to_be_visible()
    expect(page.get_by_role("navigation", name="Pages")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(looks: Callable[..., Look], some_jobs: dict[str, str], scheme: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="NOT TESTED FOR ACCESSIBILITY: pip install axe-playwright-python"
    ).Axe()
    look = looks(color_scheme=scheme, reduced_motion="reduce")
    look.open()
    found: list[str] = []
    for where in everywhere(some_jobs):
        settle(look, where)
        for violation in axe.run(look.page).response["violations"]:
            nodes = [node["html"][:150] for node in violation["nodes"][:3]]
            found.append(f"{where}: {violation['impact']} {violation['id']}: {nodes}")
    assert found == [], "\n".join(found)


# --- hostile text -------------------------------------------------------------------------------------------------------


def test_what_a_job_has_stored_is_text(place: Place, looks: Callable[..., Look]) -> None:
    (place.folder / "hostile_shop.py").write_text(SHOP, encoding="utf-8")
    place.environment["PYTHONPATH"] = f"{place.folder}:{ROOT / 'src'}:{ROOT}"
    place.worker("hostile_shop:app")
    api = place.api()
    with api.client("admin") as client:
        dead = submitted(client, NAME, HOSTILE, headers={HOSTILE: HOSTILE})
        done = submitted(client, "echo", HOSTILE)
        waiting = submitted(client, NAME, HOSTILE, delay=3600, kwargs={HOSTILE: {HOSTILE: [HOSTILE]}})
        assert (ended(client, dead)["state"], ended(client, done)["value"]) == ("dead", HOSTILE)
    look = looks(api.url)
    page = look.open().page
    for where in ["overview", "jobs", "errors", "dead", "workers", f"jobs/{dead}", f"jobs/{done}", f"jobs/{waiting}"]:
        settle(look, where)
        expect(page.locator("main").get_by_text("<img src=x onerror", exact=False).first).to_be_attached()
        assert page.locator("main img, main script").count() == 0
        assert "owned" not in page.title().replace(NAME, "")


# --- trouble ------------------------------------------------------------------------------------------------------------


class Own:
    """A server of this test alone, with a job in it and an API before it."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.server = PrivateServer(binary=find_server_binary(kind))
        self.server.__enter__()
        environment = {
            "REDIS_URL": self.server.url,
            "BANANAS_NAMESPACE": "own",
            "BANANAS_API_TOKENS": ALL_TOKENS,
            "BANANAS_CALL_TIMEOUT": "2",
        }
        self.api = ApiProcess(folder, environment).ready()
        with self.api.client("admin") as client:
            self.job_id = submitted(client, "x", 1)

    def tell(self, *command: str | int) -> None:
        """Send the server a command."""
        connection = SyncConnection(parse_url(self.server.url))
        connection.execute([command], 5)
        connection.close()

    def end(self) -> None:
        """End both."""
        self.api.end()
        self.server.__exit__(None, None, None)


@pytest.fixture
def own(tmp_path: Path, server_kind: str) -> Iterator[Own]:
    made = Own(tmp_path, server_kind)
    yield made
    made.end()


def look_around(look: Look, own: Own) -> None:
    for where in [*PAGES, "queues/default", f"jobs/{own.job_id}"]:
        settle(look, where)
        assert look.page.get_by_role("alert").count() == 0, where
    expect(look.page.get_by_role("region", name="Why is it not running?")).to_contain_text("none is alive at all")


def test_a_server_that_is_full_is_looked_at_all_the_same(own: Own, looks: Callable[..., Look]) -> None:
    look = looks(own.api.url).open()
    own.tell("CONFIG", "SET", "maxmemory", 1)
    look_around(look, own)
    expect(look.page.locator(".why li[data-kind=server_full]")).to_contain_text("The server is full (")
    settle(look, "overview")
    expect(look.verdict("Server")).to_contain_text("It is full")


def test_a_server_that_is_read_only_is_looked_at_all_the_same(own: Own, looks: Callable[..., Look]) -> None:
    look = looks(own.api.url).open()
    settle(look, "overview")
    own.tell("REPLICAOF", "127.0.0.1", 1)
    look_around(look, own)


def test_a_server_that_is_away_leaves_the_last_figures_and_tells_their_age(own: Own, looks: Callable[..., Look]) -> None:
    look = looks(own.api.url)
    look.statuses |= {503, 504}
    page = look.open().page
    settle(look, "overview")
    expect(page.locator(".fresh")).not_to_have_class("fresh old")
    own.tell("CLIENT", "PAUSE", 40_000, "ALL")
    expect(page.get_by_role("alert")).to_contain_text("does not answer")
    expect(page.locator(".fresh.old")).to_contain_text("as of")
    expect(look.verdict("Waiting")).to_contain_text("1")


HIDE = """state => {
    Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_tab_that_nobody_sees_asks_for_nothing(look: Look) -> None:
    look.page.clock.install()
    page = look.open().page
    settle(look, "overview")
    page.evaluate(HIDE, "hidden")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(60_000)
    assert asked == []
    page.evaluate(HIDE, "visible")
    expect(page.locator(".fresh")).to_contain_text("as of now")
    assert any("/events" in url for url in asked)
