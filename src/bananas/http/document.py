"""The OpenAPI 3.1 document, made of the table of routes and of the types in it, so that it cannot differ from what is served."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from bananas.http.problems import MEDIA_TYPE, Problem
from bananas.http.routes import Route
from bananas.http.values import BootId, CronName, JobId, NoQuery, QueueName

_REF = "#/components/schemas/{name}"
_PATH_PARTS: dict[str, tuple[Any, str, str]] = {
    "id": (JobId, "The public id of a job.", "email.0190a3b1c2d37e8f9a0b1c2d3e4f50611a2b3c4d1f4"),
    "queue": (QueueName, "The name of a queue.", "email"),
    "name": (CronName, "The name of a cron entry: that of its task.", "report"),
    "boot": (BootId, "The boot id of a worker process.", "9f86d081884c7d65"),
}
_PROBLEMS = {
    400: "The body is no JSON, or the request is malformed.",
    401: "No token, or one that is not valid.",
    403: "The role may not do this, or the request comes from where it may not.",
    404: "It does not exist, or no more.",
    409: "The state of the job does not allow it; nothing was changed.",
    410: "Its result was not kept.",
    413: "The body, or the packed job, is too large; nothing was stored.",
    415: "The body is not application/json.",
    422: "A value does not fit; nothing was changed.",
    429: "Too many requests: Retry-After says when to come back.",
    500: "A fault of the API: `instance` names it in the log.",
    501: "This server lacks the part; the detail says how to install it.",
    502: "The Redis or Valkey server refused it.",
    503: "The Redis or Valkey server is away or full, or this process is: Retry-After says when to come back.",
    504: "It took too long, or was stored less safely than asked for; the detail says what was left.",
}
_ABOUT = """An HTTP API of the task queue Bananas. Errors are `application/problem+json` (RFC 9457), with a `type` for programs.

Roles: a *viewer* looks, an *operator* acts on jobs and queues, an *admin* may also delete them.
Send a token as `Authorization: Bearer TOKEN`.
"""


def document(routes: Sequence[Route], root: str) -> dict[str, Any]:
    """The document.

    Args:
        root: the path under which the API is mounted, or "".
    """
    from bananas import __version__

    types = [Problem, *(kind for route in routes for kind in (route.reply, route.body) if kind is not None)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(map(str, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.full_path, {})[route.method.lower()] = _operation(route, by_type)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Bananas",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": root or "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}],
    }


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    role = f"Needs the role {route.role.name}." if route.role is not None else "Needs no token."
    operation: dict[str, Any] = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.summary,
        "description": f"{route.text} {role}".strip(),
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
        "responses": {str(status): _response(route, text, schemas) for status, text in route.statuses.items()},
    }
    if route.role is None:
        operation["security"] = []
    if route.body is not None:
        content = {"schema": schemas[str(route.body)], "examples": {"usual": {"value": route.example}}}
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    for status in problem_statuses(route):
        operation["responses"].setdefault(str(status), _problem(_PROBLEMS[status]))
    return operation


def problem_statuses(route: Route) -> list[int]:
    """With which statuses of problems a route may answer."""
    always = {403, 422, 429, 500, 502, 503, 504} | ({401} if route.role is not None else set())
    of_body = {400, 413, 415} if route.body is not None else {400}
    of_path = {404} if "{" in route.path else set()
    return sorted(always | of_body | of_path | set(route.problems))


def _response(route: Route, text: str, schemas: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "string"} if route.reply is None else schemas[str(route.reply)]
    content: dict[str, Any] = {route.media: {"schema": schema, "examples": {"usual": {"value": route.answer}}}}
    if route.stream:
        content["text/event-stream"] = {"schema": {"type": "string"}, "examples": {"usual": {"value": route.stream}}}
    return {"description": text, "content": content}


def _problem(text: str) -> dict[str, Any]:
    return {"description": text, "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}}}


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", route.path)
    return [_parameter("path", name, msgspec.json.schema(_PATH_PARTS[name][0]), *_PATH_PARTS[name][1:]) for name in names]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is NoQuery:
        return []
    _, components = msgspec.json.schema_components([route.query], ref_template=_REF)
    schema = components[route.query.__name__]
    return [_parameter("query", name, part, schema["description"]) for name, part in schema["properties"].items()]


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"}
    return [_parameter("header", name, schema, text) for name, text in route.headers.items()]


def _parameter(place: str, name: str, schema: Any, text: str, example: Any = None) -> dict[str, Any]:
    parameter = {"name": name, "in": place, "required": place == "path", "schema": schema, "description": text}
    return parameter | ({} if example is None else {"example": example})
