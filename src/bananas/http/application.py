"""The API as an ASGI application: from the table of routes to answers.

Every request passes the same steps: who is it, how often, from which page; then its route: may it, what did it send, and the handler. What
goes wrong anywhere is a problem (problems.py). Nothing is kept between requests but limits.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, get_origin, get_type_hints

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bananas.app import Bananas
from bananas.config import check_queue_name
from bananas.errors import JobNotFound
from bananas.http import advising, crons, dashboard, jobs, metrics, operating, overview, queues, workers
from bananas.http.access import SAFE_METHODS, Access, RoleOf, require, tokens_of
from bananas.http.document import document
from bananas.http.limits import Rates
from bananas.http.problems import Refused, on_http_exception, problem_response
from bananas.http.routes import Asked, Reply, Route, Site
from bananas.http.values import encode
from bananas.keys import parse_public_id

_GROUPS = (jobs, operating, queues, workers, crons, overview, metrics, advising, dashboard)
ROUTES: tuple[Route, ...] = tuple(route for group in _GROUPS for route in group.ROUTES)
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
UNDER_WAY_S = 5.0
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]  # all: a path that is known refuses by itself
_CORS_HEADERS = ["Authorization", "Content-Type", "Idempotency-Key"]
_EXPOSED = ["Location", "Retry-After"]


def _pattern(path: str) -> str:
    """A path as it is matched: the names of cron entries are those of tasks, which may hold a slash."""
    return path.replace("{name}", "{name:path}")


class Api:
    """An HTTP API for one app, to be served or mounted; made by `api()`.

    Attributes:
        routes: the table that it serves.
    """

    def __init__(self, app: Bananas, access: Access, routes: Sequence[Route], *, checked: bool, owned: bool) -> None:
        self.routes, self._app, self._access, self._owned = tuple(routes), app, access, owned
        self._site = Site(app, checked=checked, routes=self.routes)
        self._rates = Rates(app.settings.api_rate)
        self._serve = self._built()

    def stop(self) -> None:
        """End streams and long waits: call this when the server that has it mounted is to stop. From its event loop."""
        self._site.stopping.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "websocket":
            raise Refused(404, "NoSuchPath", "There are no websockets here.")
        await self._serve(scope, receive, send)

    def _built(self) -> ASGIApp:
        by_path: dict[str, dict[str, Route]] = {}
        for route in sorted(self.routes, key=lambda route: route.path.count("{")):  # /jobs/act is no job's id
            by_path.setdefault(route.full_path, {})[route.method] = route
        served = [
            StarletteRoute("/openapi.json", self._document, methods=["GET"]),
            StarletteRoute("/", dashboard.page, methods=["GET"]),
            StarletteRoute("/static/{version}/{name:path}", dashboard.static, methods=["GET"]),
            *(StarletteRoute(_pattern(path), self._endpoint(methods), methods=_METHODS) for path, methods in by_path.items()),
        ]
        starlette = Starlette(routes=served, exception_handlers={HTTPException: on_http_exception}, lifespan=self._lifespan)
        starlette.router.redirect_slashes = False
        guarded: ASGIApp = _Guard(starlette, self._access, self._rates)
        if self._access.origins:
            guarded = CORSMiddleware(
                guarded,
                allow_origins=sorted(self._access.origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=_CORS_HEADERS,
                expose_headers=_EXPOSED,
            )
        return guarded

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncGenerator[None]:
        yield
        self.stop()
        await self._site.finished(UNDER_WAY_S)
        if self._owned:
            await self._app.close()

    async def _document(self, request: Request) -> Response:
        made = document(self.routes, request.scope.get("root_path", ""))
        return Response(msgspec.json.encode(made), media_type="application/json")

    def _endpoint(self, methods: Mapping[str, Route]) -> Any:
        async def endpoint(request: Request) -> Response:
            route = methods.get("GET" if request.method == "HEAD" else request.method)
            try:
                if route is None:
                    allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
                    raise Refused(405, "MethodNotAllowed", f"This path has {allowed}.", {"Allow": allowed})
                return await self._answer(route, request)
            except ClientDisconnect:
                return Response(status_code=400)
            except Exception as error:
                return problem_response(error)

        return endpoint

    async def _answer(self, route: Route, request: Request) -> Response:
        require(request.scope["bananas.role"], route.role)
        query = read_query(route, request)
        patience = max(self._app.settings.api_timeout, route.patience_s) + getattr(query, "wait", 0.0)
        try:
            async with asyncio.timeout(patience):
                raw = await self._read(request) if route.body is not None else b""
                await self._check_place(route, request)
                answer = await route.handler(Asked(self._site, request, query, _body(route, raw), raw))
        except TimeoutError:
            raise Refused(504, "TooLong", f"It was not done within {patience:g} s and was given up; part of it may be done.") from None
        if isinstance(answer, Response):
            return answer
        reply = answer if isinstance(answer, Reply) else Reply(answer, next(iter(route.statuses)))
        return Response(encode(reply.value), reply.status, dict(reply.headers), route.media)

    async def _check_place(self, route: Route, request: Request) -> None:
        """A queue that was never used stays unknown to the server, whoever asks for it. Raises JobNotFound, Refused, InvalidName."""
        if (public_id := request.path_params.get("id")) is not None:
            if not await queues.is_used(self._site, parse_public_id(public_id).queue):
                raise JobNotFound(f"there is no job {public_id}: its queue has never been used")
            return
        name = check_queue_name(request.path_params.get("queue", "default"))
        declared = "queue" not in request.path_params or route.method not in SAFE_METHODS or name in self._app.registry.queues()
        if not declared and not await queues.is_used(self._site, name):
            raise Refused(404, "QueueNotFound", f"There is no queue {name!r} yet: a queue begins with its first job.")

    async def _read(self, request: Request) -> bytes:
        """The body. Raises Refused when it is of another type, or too large."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, "UnsupportedMediaType", "Send JSON, as Content-Type: application/json.")
        limit = self._app.settings.api_max_body_bytes
        too_large = Refused(
            413, "BodyTooLarge", f"A body has at most {limit:,} bytes (api_max_body_bytes); nothing was stored.", {"Connection": "close"}
        )
        stated = request.headers.get("content-length", "0")
        if stated.isdecimal() and int(stated) > limit:
            raise too_large
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > limit:
                raise too_large
        return bytes(data)


def _body(route: Route, raw: bytes) -> Any:
    if route.body is None:
        return None
    try:
        return msgspec.json.decode(raw, type=route.body)
    except msgspec.ValidationError as error:
        raise Refused(422, "InvalidBody", f"{error}; nothing was changed.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, "MalformedBody", f"The body is no JSON: {error}") from None
    except RecursionError:
        raise Refused(422, "InvalidBody", "The body is nested too deep; nothing was changed.") from None


def read_query(route: Route, request: Request) -> Any:
    """The parameters as the route's type. Raises Refused."""
    hints, given = get_type_hints(route.query), request.query_params
    found: dict[str, Any] = {}
    for name in given:
        values = given.getlist(name)
        if get_origin(hints.get(name)) is tuple:
            found[name] = values
        elif len(values) == 1:
            found[name] = values[0]
        else:
            raise Refused(422, "InvalidQuery", f"The parameter {name[:80]!r} is given {len(values)} times.")
    try:
        return msgspec.convert(found, route.query, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(422, "InvalidQuery", str(error)) from None


class _Guard:
    """Before any route: who it is, whether it comes too often, from which page. After it: the headers of every answer."""

    def __init__(self, inner: ASGIApp, access: Access, rates: Rates) -> None:
        self._inner, self._access, self._rates = inner, access, rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in _HEADERS if pair[0] not in given)]
            await send(message)

        request = Request(scope)
        try:
            role, client = self._access.role(request)
            self._rates.take(client)
            self._access.check_origin(request, scope["method"])
        except Exception as error:
            await problem_response(error)(scope, receive, answer)
            return
        await self._inner({**scope, "bananas.role": role}, receive, answer)


def api(
    app: Bananas,
    *,
    role_of: RoleOf | None = None,
    local: bool = False,
    checked: bool | None = None,
    owned: bool = False,
    routes: Sequence[Route] = (),
) -> Api:
    """An ASGI application with the HTTP API of an app, by its settings (`api_tokens` and the others).

    Args:
        role_of: what the sender of a request may do, where the program that mounts it knows its users: "viewer", "operator", "admin" or
            None. It gets a Starlette `HTTPConnection`, and takes the place of tokens.
        local: without tokens and `role_of`: whoever is on this machine is an admin. Not behind a proxy.
        checked: refuse tasks that are not declared; by default where any is.
        owned: close the app when the server stops.
        routes: more rows.

    Raises:
        ConfigError: nobody could use it, or everybody; or a setting is wrong.
    """
    settings = app.settings
    access = Access(tokens_of(settings), role_of, local=local, origins=settings.api_cors_origins)
    known = bool(app.registry.tasks) if checked is None else checked
    return Api(app, access, [*ROUTES, *routes], checked=known, owned=owned)
