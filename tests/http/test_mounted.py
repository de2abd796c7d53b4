"""The API mounted below a path of another ASGI application, by the rules of that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Mount

from bananas import Bananas
from bananas.errors import ConfigError
from bananas.http import Api, Asked, Role, Route, api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from bananas.server import PrivateServer


def role_of(request: HTTPConnection) -> str | None:
    return request.headers.get("x-role")


async def tell_name(asked: Asked) -> str:
    return asked.app.settings.namespace


MORE = [Route(method="GET", path="/name", handler=tell_name, role=Role.viewer, summary="Its name", tag="more", reply=str, answer="shop")]


def in_starlette(mounted: Api) -> Any:
    return Starlette(routes=[Mount("/bananas", mounted)])


def by_hand(mounted: Api) -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"].startswith("/bananas/")
        await mounted({**scope, "root_path": "/bananas"}, receive, send)

    return application


@pytest.fixture(params=[in_starlette, by_hand])
async def client(request: pytest.FixtureRequest, server: PrivateServer) -> AsyncIterator[httpx.AsyncClient]:
    app = Bananas(server.url, namespace="mounted")
    mount: Callable[[Api], Any] = request.param
    transport = httpx.ASGITransport(mount(api(app, role_of=role_of, routes=MORE)))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as made:
        yield made
    await app.close()


async def test_paths_and_the_document_know_where_it_is_mounted(client: httpx.AsyncClient) -> None:
    operator = {"X-Role": "operator"}
    answer = await client.post("/bananas/api/v1/jobs", json={"task": "x"}, headers=operator)
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/bananas/api/v1/jobs/{answer.json()['id']}"
    assert (await client.get(answer.headers["location"], headers=operator)).json()["state"] == "ready"
    document = (await client.get("/bananas/openapi.json")).json()
    assert document["servers"] == [{"url": "/bananas"}]
    assert "/api/v1/name" in document["paths"]


async def test_the_rule_of_the_program_holds_for_every_route(client: httpx.AsyncClient) -> None:
    name = "/bananas/api/v1/name"
    assert (await client.get(name)).status_code == 401
    assert (await client.get(name, headers={"X-Role": "viewer"})).json() == "mounted"
    assert (await client.post("/bananas/api/v1/queues/q/pause", headers={"X-Role": "viewer"})).status_code == 403
    wrong = await client.get(name, headers={"X-Role": "emperor"})
    assert wrong.status_code == 500
    assert "emperor" not in wrong.text


async def test_an_answer_that_cannot_be_json_is_text(server: PrivateServer) -> None:
    app = Bananas(server.url, namespace="odd")

    async def give_odd(_: Asked) -> Any:
        return {"surrogate": "\ud800", (1, 2): {1, b"x"}, "what": object, "deep": _deep(500)}

    odd = [Route(method="GET", path="/odd", handler=give_odd, role=None, summary="Odd", tag="more", reply=dict, answer={})]
    transport = httpx.ASGITransport(api(app, role_of=role_of, routes=odd))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop.example") as client:
        body = (await client.get("/api/v1/odd")).json()
    assert body["surrogate"] == "\\ud800"
    assert set(body) == {"surrogate", "(1, 2)", "what", "deep"}
    await app.close()


def _deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def test_two_ways_to_give_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="remove one of them"):
        api(Bananas("redis://localhost:1", api_tokens="viewer:0123456789abcdef", api_tokens_file="x"))
