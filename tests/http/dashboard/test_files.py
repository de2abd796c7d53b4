"""The files of the dashboard: how they are served, and that nothing but they can run."""

from __future__ import annotations

import hashlib
import re

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from bananas import Bananas, __version__
from bananas.http import api
from bananas.http.dashboard import FOLDER, files

PINNED = {
    "preact.js": "225d7a773766e6fb2cfcc45274fe41d2059f5782f3f2c4569aa5132a2d3a2902",
    "hooks.js": "5c65ab263688d0805862fd0807c779af02c2799c44fda0873dfcb870d0da70a0",
    "htm.js": "ab33dd3f38059b9be4d5f5350128eefb2356639c4e0bbe9d9e8b3ba75847e9e4",
    "uplot.js": "5dd9b3281aa64b461b42d9945f6adb2649d346502b12281a9ae0d46599a80eba",
    "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
OWN = [path for path in FOLDER.rglob("*") if path.suffix in (".js", ".html", ".css") and path.parent.name != "vendor"]
MAX_LINES = 400


def client(root: str = "") -> httpx.AsyncClient:
    served = api(Bananas("redis://localhost:1", namespace="files"), role_of=lambda _: None)
    mounted = Starlette(routes=[Mount(root, served)]) if root else served
    return httpx.AsyncClient(transport=httpx.ASGITransport(mounted), base_url=f"http://shop.example{root}")


async def test_the_page_and_all_that_it_names_are_served_to_anybody() -> None:
    async with client() as http:
        page = await http.get("/")
        assert (page.status_code, page.headers["content-type"], page.headers["cache-control"]) == (
            200,
            "text/html; charset=utf-8",
            "no-cache",
        )
        named = re.findall(r'(?:href|src)="([^"]+)"', page.text)
        assert len(named) > 20
        for name in named:
            file = await http.get(name)
            assert file.status_code == 200, name
            assert "immutable" in file.headers["cache-control"]
            assert file.headers["x-content-type-options"] == "nosniff"


async def test_it_works_below_a_mount_by_relative_paths_alone() -> None:
    async with client("/ops/bananas") as http:
        page = await http.get("/")
        named = re.findall(r'(?:href|src)="([^"]+)"', page.text)
        assert all(name.startswith("static/") for name in named)
        assert {(await http.get(f"/{name}")).status_code for name in named} == {200}


@pytest.mark.parametrize("path", ["/", f"/static/{files().digest}/app.js"])
async def test_only_files_of_this_server_may_run(path: str) -> None:
    async with client() as http:
        policy = (await http.get(path)).headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"} < set(policy)
    assert "unsafe" not in str(policy)


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
async def test_a_file_comes_packed_to_who_can_unpack_it(encoding: str) -> None:
    async with client() as http:
        answer = await http.get(f"/static/{files().digest}/app.js", headers={"Accept-Encoding": encoding})
    assert answer.headers.get("content-encoding", "identity") == encoding
    assert answer.content == (FOLDER / "app.js").read_bytes()


async def test_a_file_of_another_version_is_not_kept() -> None:
    async with client() as http:
        answer = await http.get("/static/0123456789abcdef/app.js")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")


@pytest.mark.parametrize("name", ["dashboard.py", "../dashboard.py", "..%2Fdashboard.py", "%2Fetc/passwd", "pages", ""])
async def test_other_files_are_not_there(name: str) -> None:
    async with client() as http:
        answer = await http.get(f"/static/{files().digest}/{name}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


async def test_who_asks_is_told_nothing_without_a_role() -> None:
    async with client() as http:
        assert (await http.get("/api/v1/me")).json() == {"role": "", "namespace": "", "version": "", "may": [], "trace_page": ""}


async def test_a_role_is_told_what_it_may_do() -> None:
    served = api(Bananas("redis://localhost:1", namespace="files"), role_of=lambda request: request.headers.get("x-role"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://shop.example") as http:
        found = {role: (await http.get("/api/v1/me", headers={"X-Role": role})).json() for role in ("viewer", "operator", "admin")}
    assert (found["viewer"]["namespace"], found["viewer"]["version"]) == ("files", __version__)
    may = {role: set(me["may"]) for role, me in found.items()}
    assert may["viewer"] < may["operator"] < may["admin"]
    assert may["operator"] - may["viewer"] >= {"POST /jobs/act", "POST /queues/{queue}/pause"}
    assert may["admin"] - may["operator"] >= {"POST /queues/{queue}/purge", "DELETE /jobs/{id}"}
    assert all(route.startswith("GET ") for route in may["viewer"])


@pytest.mark.parametrize("name", PINNED)
def test_what_others_wrote_is_as_their_packages_have_it(name: str) -> None:
    assert hashlib.sha256((FOLDER / "vendor" / name).read_bytes()).hexdigest() == PINNED[name]


def test_each_package_has_its_licence_beside_it() -> None:
    licences = {path.name for path in (FOLDER / "vendor").glob("LICENSE-*")}
    assert licences == {"LICENSE-preact.txt", "LICENSE-htm.txt", "LICENSE-uplot.txt"}


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_file_names_another_machine_or_makes_code_of_text(path: object) -> None:
    text = (FOLDER / str(path)).read_text(encoding="utf-8")
    assert (
        re.findall(
            r"https?://|innerHTML|dangerously|insertAdjacent|document\.write|\beval\(|new Function|<script>|<style|javascript:", text
        )
        == []
    )
    assert len(text.splitlines()) <= MAX_LINES
