"""Who may do what over HTTP, route by route from the table; and what is refused before any route: hosts, pages, sizes, rates."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.http.conftest import ALL_TOKENS, TOKENS, V1, ended, submitted
from tests.support import ROOT, clean_environment, wait_until

from bananas import Bananas
from bananas.address import parse_url
from bananas.connection import SyncConnection
from bananas.errors import ConfigError
from bananas.http import Role, api
from bananas.http.application import ROUTES
from bananas.http.limits import Rates
from bananas.http.problems import Refused

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.conftest import ApiProcess, Place

    from bananas.http import Route

GUARDED = [route for route in ROUTES if route.role is not None]
ENDLESS = {"stream_events"}


def named(route: Route) -> str:
    return f"{route.method} {route.full_path}"


def filled(route: Route, job_id: str, queue: str = "default") -> str:
    return route.full_path.replace("{id}", job_id).replace("{queue}", queue).replace("{boot}", "0" * 16).replace("{name}", "none")


def asked(client: httpx.Client, route: Route, job_id: str, queue: str = "default") -> httpx.Response:
    content: dict[str, Any] = {} if route.body is None else {"json": route.example}
    return client.request(route.method, filled(route, job_id, queue), **content)


def keyspace(place: Place) -> dict[bytes, bytes]:
    """Every key of a place and what it holds, but for what workers and clocks write."""
    connection = SyncConnection(parse_url(place.url))
    try:
        (keys,) = connection.execute([("KEYS", f"{{{place.namespace}*")], 5)
        dumps = connection.execute([("DUMP", key) for key in sorted(keys)], 5)
        return dict(zip(sorted(keys), dumps, strict=True))
    finally:
        connection.close()


@pytest.fixture(scope="module")
def dead_id(shared: Place, api: ApiProcess) -> str:
    with api.client("admin") as client:
        job_id = submitted(client, "fails", 99, max_retries=0)
        assert ended(client, job_id)["state"] == "dead"
        return job_id


@pytest.mark.parametrize("route", GUARDED, ids=named)
def test_no_token_no_entry(route: Route, api: ApiProcess, dead_id: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong-wrong-wrong-wrong"}, {"Authorization": f"Basic {TOKENS['admin']}"}):
        with api.client(**headers) as client:
            answer = asked(client, route, dead_id)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.json()["type"] == "urn:bananas:problem:Unauthorized"


@pytest.mark.parametrize("route", [route for route in GUARDED if route.role is not Role.viewer], ids=named)
def test_a_role_that_is_too_low_is_refused(route: Route, api: ApiProcess, dead_id: str) -> None:
    for role in Role:
        if route.role is not None and role < route.role:
            with api.client(role.name) as client:
                answer = asked(client, route, dead_id)
                assert (answer.status_code, answer.json()["type"]) == (403, "urn:bananas:problem:Forbidden")


def test_every_route_that_changes_something_needs_more_than_a_viewer() -> None:
    assert [named(route) for route in ROUTES if route.method != "GET" and (route.role is None or route.role < Role.operator)] == []


def test_deleting_needs_an_admin() -> None:
    assert [named(route) for route in ROUTES if (route.method == "DELETE" or "purge" in route.path) and route.role is not Role.admin] == []


def test_a_viewer_changes_not_one_key(place: Place) -> None:
    process = place.api("tests.apps.basic:app")
    with process.client("admin") as admin, process.client("viewer") as viewer:
        job_id = submitted(admin, "double", 1, queue="some")
        submitted(admin, "double", 2, queue="some", delay=600)
        before = keyspace(place)
        for route in GUARDED:
            if route.handler.__name__ in ENDLESS:
                with viewer.stream("GET", filled(route, job_id), params={"queue": "unheard-of"}) as stream:
                    assert next(line for line in stream.iter_lines() if line.startswith("event")) == "event: queues"
                continue
            for queue, public_id in (("some", job_id), ("default", job_id.replace("some", "default")), ("x", f"x.{job_id[5:]}")):
                answer = asked(viewer, route, public_id, queue)
                assert answer.status_code < 500, answer.text
                assert keyspace(place) == before, named(route)


def test_tokens_may_be_given_as_digests_and_by_a_file(place: Place) -> None:
    path = place.folder / "tokens"
    digest = hashlib.sha256(TOKENS["operator"].encode()).hexdigest()
    path.write_text(f"# who\noperator:sha256:{digest}\nviewer:{TOKENS['viewer']}  # looks\n")
    process = place.api("--tokens-file", str(path), BANANAS_API_TOKENS="")
    with process.client("operator") as operator, process.client("admin") as admin, process.client("viewer") as viewer:
        assert operator.post(f"{V1}/queues/q/pause").status_code == 200
        assert viewer.get(f"{V1}/stats").status_code == 200
        assert admin.get(f"{V1}/stats").status_code == 401
    with process.client(Authorization=f"Bearer sha256:{digest}") as thief:
        assert thief.get(f"{V1}/stats").status_code == 401
    assert TOKENS["viewer"] not in process.log
    assert digest not in process.log


# --- without tokens -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_api(shared: Place) -> ApiProcess:
    return shared.api(BANANAS_API_TOKENS="")


def test_without_tokens_a_program_on_this_machine_is_an_admin(open_api: ApiProcess) -> None:
    port = urlsplit(open_api.url).port
    with open_api.client() as client:
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "shop.localhost"):
            assert client.post(f"{V1}/queues/q/resume", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"Host": "evil.example"}, "WrongHost"),
        ({"Host": "localhost.evil.example"}, "WrongHost"),
        ({"Host": "127.0.0.1.evil.example:80"}, "WrongHost"),
        ({"Host": "10.0.0.1"}, "WrongHost"),
        ({"Host": "0.0.0.0"}, "WrongHost"),
        ({"X-Forwarded-For": "127.0.0.1"}, "NotLocal"),
        ({"Forwarded": "for=10.0.0.1"}, "NotLocal"),
        ({"Via": "1.1 proxy"}, "NotLocal"),
    ],
)
def test_without_tokens_other_names_and_proxies_are_refused(open_api: ApiProcess, headers: dict[str, str], kind: str) -> None:
    with open_api.client(**headers) as client:
        for path in (f"{V1}/queues", "/openapi.json", "/health/live", "/"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["type"]) == (403, f"urn:bananas:problem:{kind}")


@pytest.mark.parametrize(
    ("tokens", "arguments", "told"),
    [
        ("", ("--host", "0.0.0.0"), "reached from other machines"),
        ("", ("--host", "::"), "reached from other machines"),
        ("admin:short", (), "entry 1 is not role:token"),
        ("boss:0123456789abcdef0123", (), "entry 1 is not role:token"),
        ("admin:make-your-own-token", (), "everybody knows it"),
        (ALL_TOKENS, ("--tokens-file", "/nowhere"), "remove one of them"),
        (ALL_TOKENS, ("--host", "203.0.113.7"), "nobody can listen"),
        ("", ("tests.apps.basic:app", "--namespace", "x"), "without MODULE:APP"),
    ],
)
def test_what_would_be_unsafe_or_unclear_is_refused_at_start(place: Place, tokens: str, arguments: tuple[str, ...], told: str) -> None:
    environment = {"REDIS_URL": place.url} | ({"BANANAS_API_TOKENS": tokens} if tokens else {})
    command = [sys.executable, "-m", "bananas", "api", "--port", "0", *arguments]
    run = subprocess.run(command, cwd=ROOT, env=clean_environment(**environment), capture_output=True, text=True, timeout=30, check=False)
    assert (run.returncode, told in run.stderr) == (2, True), run.stderr
    assert "Traceback" not in run.stderr
    assert not any(token.partition(":")[2] in run.stderr for token in tokens.split(",") if len(token) > 25 and "own-token" not in token)


def test_a_mounted_api_needs_tokens_or_a_rule() -> None:
    app = Bananas("redis://localhost:1")
    with pytest.raises(ConfigError, match="nobody could use the HTTP API, or everybody"):
        api(app)
    assert api(app, role_of=lambda request: None).routes


# --- pages of other sites -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),  # another port of this machine
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "OWN"}, True),
    ],
)
def test_pages_of_other_sites_change_nothing(open_api: ApiProcess, headers: dict[str, str], passes: bool) -> None:
    with open_api.client() as client:
        given = {name: open_api.url if value == "OWN" else value for name, value in headers.items()}
        answer = client.post(f"{V1}/queues/q/resume", headers=given)
        assert (answer.status_code == 200) == passes
        assert passes or answer.json()["type"] == "urn:bananas:problem:CrossSite"
        assert "access-control-allow-origin" not in answer.headers


def test_other_sites_are_let_in_by_a_setting_alone(place: Place) -> None:
    good, bad = "https://ops.example.org", "https://evil.example"
    with place.api(BANANAS_API_CORS_ORIGINS=good).client("operator") as client:
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
        allowed = client.options(f"{V1}/jobs", headers={"Origin": good} | asks)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, good)
        assert "access-control-allow-origin" not in client.options(f"{V1}/jobs", headers={"Origin": bad} | asks).headers
        cross = {"Sec-Fetch-Site": "cross-site"}
        assert client.post(f"{V1}/queues/q/pause", headers={"Origin": good} | cross).status_code == 200
        assert client.post(f"{V1}/queues/q/pause", headers={"Origin": bad} | cross).status_code == 403


def test_every_answer_has_the_headers_that_keep_it_data(api: ApiProcess) -> None:
    with api.client("viewer") as client:
        for path in (f"{V1}/queues", "/nowhere", "/openapi.json"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert headers["cache-control"] == "no-store"
            assert "server" not in headers


# --- sizes and rates ----------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_or_no_json_is_refused(place: Place) -> None:
    with place.api(BANANAS_API_MAX_BODY_BYTES="1KiB").client("operator") as client:
        large = json.dumps({"task": "x", "args": ["y" * 2_000]}).encode()
        sent = {"Content-Type": "application/json"}
        assert client.post(f"{V1}/jobs", content=large, headers=sent).status_code == 413
        chunks = (large[start : start + 100] for start in range(0, len(large), 100))
        assert client.post(f"{V1}/jobs", content=chunks, headers=sent).status_code == 413
        assert client.post(f"{V1}/jobs", content=b"{", headers=sent).status_code == 400
        assert client.post(f"{V1}/jobs", content=b'{"task": "\xff"}', headers=sent).status_code in (400, 422)
        assert client.post(f"{V1}/jobs", data={"task": "x"}).status_code == 415
        assert client.get(f"{V1}/queues").json() == []


def test_a_body_that_does_not_come_is_given_up(place: Place) -> None:
    parts = urlsplit(place.api(BANANAS_API_TIMEOUT="0.3s").url)
    head = f"POST {V1}/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKENS['operator']}\r\n"
    with socket.create_connection((parts.hostname, parts.port), 20) as connection:
        connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 504 ")


def test_a_client_that_asks_too_often_is_told_when_to_come_back(place: Place) -> None:
    process = place.api(BANANAS_API_RATE="2")
    with process.client("viewer") as client, process.client("operator") as other:
        answers = [client.get(f"{V1}/workers") for _ in range(12)]
        slowed = [answer for answer in answers if answer.status_code == 429]
        assert slowed
        assert answers[0].status_code == 200
        assert int(slowed[0].headers["retry-after"]) >= 1
        assert slowed[0].json()["type"] == "urn:bananas:problem:TooManyRequests"
        assert other.get(f"{V1}/workers").status_code == 200
        wait_until(lambda: client.get(f"{V1}/workers").status_code == 200, "a request that is let through", pause=0.3)


def test_guessing_tokens_is_limited_by_address(place: Place) -> None:
    with place.api(BANANAS_API_RATE="2").client() as client:
        tried = [client.get(f"{V1}/workers", headers={"Authorization": f"Bearer guess-{n:020}"}).status_code for n in range(12)]
    assert set(tried) == {401, 429}


def test_a_bucket_forgets_the_idlest_client() -> None:
    rates = Rates(1)
    for _ in range(2):
        rates.take("one")
    with pytest.raises(Refused):
        rates.take("one")
    for number in range(10_000):
        rates.take(str(number))
    rates.take("one")


# --- what is away -------------------------------------------------------------------------------------------------------


def test_a_server_that_is_away_is_a_problem_and_no_secret_is_told(tmp_path: Path, place: Place) -> None:
    place.url = "redis://user:hunter2@127.0.0.1:1/0"
    process = place.api("--url", place.url, BANANAS_CALL_TIMEOUT="0.2s")
    with process.client("admin") as client:
        assert client.get("/health/live").json() == {"live": True}
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"ready": False, "reasons": ["BrokerUnavailable"]})
        answer = client.post(f"{V1}/jobs", json={"task": "x"})
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:bananas:problem:BrokerUnavailable")
        assert answer.headers["retry-after"] == "1"
        assert "hunter2" not in answer.text + process.log
    assert process.stop() == 0
