"""Users with the rights that docs/workers.md names, and with fewer: on a real server, with real workers."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
from tests.support import eventually
from tests.workers import WorkerProcess

from bananas import AuthenticationFailed, Bananas, TaskError, operate
from bananas.address import parse_url
from bananas.connection import SyncConnection
from bananas.doctor import diagnose
from bananas.errors import RightsMissing
from bananas.http import api
from bananas.http.application import ROUTES
from bananas.inspector import audit, repair, workers
from bananas.lane import new_boot
from bananas.rights import rules
from bananas.server import PrivateServer, find_server_binary
from bananas.worker.opening import open_queues

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE, PASSWORD = "shop", "secret"
WARNING = "the server does not say which rights its user has"


class Administered:
    """A server whose users the test makes, and apps that log in as one of them."""

    def __init__(self, server: PrivateServer, user: str = "") -> None:
        self._path = str(server.socket_path)
        self._connection = SyncConnection(parse_url(self.url(user) if user else server.url))
        self.apps: list[Bananas] = []

    def command(self, *words: Any) -> Any:
        (reply,) = self._connection.execute([words], 5)
        assert not isinstance(reply, Exception), reply
        return reply

    def user(self, name: str, *acl: str) -> None:
        self.command("ACL", "SETUSER", name, "reset", "on", f">{PASSWORD}", *acl)

    def url(self, name: str) -> str:
        return f"unix://{name}:{PASSWORD}@{quote(self._path)}"

    def app(self, name: str, **settings: Any) -> Bananas:
        self.apps.append(Bananas(self.url(name), namespace=NAMESPACE, **{"call_timeout": 5.0} | settings))
        return self.apps[-1]

    def refusals(self) -> list[tuple[bytes, bytes]]:
        """What the server has refused so far: the user and what it wanted."""
        entries = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in self.command("ACL", "LOG")]
        return [(entry[b"username"], entry[b"object"]) for entry in entries]


@pytest.fixture
async def administered(server_kind: str) -> AsyncIterator[Administered]:
    with PrivateServer(binary=find_server_binary(server_kind)) as server:
        made = Administered(server)
        yield made
        for app in made.apps:
            await app.close()
        made._connection.close()


@pytest.fixture
def environment(administered: Administered, tmp_path: Path) -> dict[str, str]:
    """That of a worker with the user shop-worker."""
    return {"REDIS_URL": administered.url("shop-worker"), "BANANAS_NAMESPACE": NAMESPACE, "LEDGER": str(tmp_path / "ledger")}


def follow_the_page(administered: Administered) -> None:
    """Make the users of docs/workers.md, by its own commands."""
    text = (ROOT / "docs/workers.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("redis-cli ACL SETUSER")]
    assert len(lines) == 4
    for line in lines:
        administered.command(*shlex.split(line)[1:])


# --- the users of the page ------------------------------------------------------------------------------------------


async def test_the_users_of_the_page_can_do_all_that_their_roles_do(
    administered: Administered, environment: dict[str, str], tmp_path: Path
) -> None:
    follow_the_page(administered)
    client, viewer = administered.app("shop-client"), administered.app("shop-viewer")
    with WorkerProcess(tmp_path, environment, "tests.apps.basic:app", lease=1.0) as worker:
        worker.ready()
        assert WARNING not in worker.log
        assert await (await client.submit("double", 21)).result(timeout=10) == 42
        assert await (await client.submit("fails", 1)).result(timeout=10) == 2
        dead = await client.submit("steers", "dead", options={"unique": "one"})
        with pytest.raises(TaskError):
            await dead.result(timeout=10)
        await client.queue("default").dead.replay(dead.id)
        with pytest.raises(TaskError):
            await dead.result(timeout=10)
        waiting = await client.submit("double", 1, options={"delay": 600, "priority": 3})
        await waiting.set_priority("low")
        await waiting.reschedule(delay=500)
        assert await waiting.cancel()
        running = await client.submit("follow", str(tmp_path / "gate"))
        await eventually(lambda: has_state(running, "running"), what="the job runs")

        assert (await viewer.queue("default").counts()).running == 1
        assert (await viewer.job(running.id).info()).state == "running"
        assert [info.id for info in await viewer.queue("default").dead.list()] == [dead.id]
        assert (await audit(viewer)).clean
        await eventually(lambda: running_now(viewer, running.id), what="the worker announces what it runs")
        with pytest.raises(AuthenticationFailed, match="lacks a right that a script needs"):
            await viewer.submit("double", 1)

        assert await running.cancel()
        with pytest.raises(TaskError):
            await running.result(timeout=10)
        await client.queue("default").pause()
        await client.queue("default").resume()
        assert await client.queue("default").dead.purge() == 1
        assert worker.stop() == 0
    assert {user for user, _ in administered.refusals()} == {b"shop-viewer"}
    assert {wanted for _, wanted in administered.refusals()} <= {b"sadd", b"hsetnx", b"hset"}


@pytest.fixture
async def filed(server_kind: str, tmp_path: Path) -> AsyncIterator[Administered]:
    """A server with the users of examples/users.acl."""
    shutil.copy(ROOT / "examples/users.acl", tmp_path / "users.acl")
    with PrivateServer(binary=find_server_binary(server_kind), settings={"aclfile": str(tmp_path / "users.acl")}) as server:
        made = Administered(server, user="admin")
        yield made
        for app in made.apps:
            await app.close()
        made._connection.close()


def test_the_file_has_the_rights_of_every_role() -> None:
    lines = (ROOT / "examples/users.acl").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["user default off", "user admin on >secret ~* &* +@all"]
    assert lines[2:] == [
        f"user shop-{role} on >secret {' '.join(rules(role, 'shop'))}" for role in ("worker", "client", "viewer", "operator")
    ]


async def test_only_an_operator_gives_orders_to_workers(filed: Administered, tmp_path: Path) -> None:
    environment = {"REDIS_URL": filed.url("shop-worker"), "BANANAS_NAMESPACE": NAMESPACE, "LEDGER": str(tmp_path / "ledger")}
    operator = filed.app("shop-operator")
    with WorkerProcess(tmp_path, environment, "tests.apps.basic:app", lease=1.0) as worker:
        worker.ready()
        await eventually(lambda: workers(operator), what="a worker in the registry")
        (found,) = await workers(operator)
        for role in ("client", "viewer", "worker"):
            with pytest.raises(AuthenticationFailed):
                await operate.stop(filed.app(f"shop-{role}"), found.boot)
        assert {wanted for _, wanted in filed.refusals()} == {b"lrange", b"lpush"}
        running = await operator.submit("follow", str(tmp_path / "gate"))
        await eventually(lambda: has_state(running, "running"), what="the job runs")
        assert "in follow" in await operate.stack(operator, running.id)
        await operate.drain(operator, found.boot)
        (tmp_path / "gate").touch()
        await running.result(timeout=10)
        await operate.stop(operator, found.boot)
        assert worker.wait() == 0


async def test_with_the_file_each_role_does_its_part_and_no_more(filed: Administered, tmp_path: Path) -> None:
    client, viewer, operator = (filed.app(f"shop-{role}") for role in ("client", "viewer", "operator"))
    environment = {"REDIS_URL": filed.url("shop-worker"), "BANANAS_NAMESPACE": NAMESPACE, "LEDGER": str(tmp_path / "ledger")}
    with WorkerProcess(tmp_path, environment, "tests.apps.basic:app") as worker:
        worker.ready()
        assert await (await client.submit("double", 21)).result(timeout=10) == 42
        dead = await client.submit("steers", "dead")
        with pytest.raises(TaskError):
            await dead.result(timeout=10)
        lost = await client.submit("double", 1, options={"delay": 600})
        keys, job_id = lost.place
        filed.command("ZREM", keys.scheduled, job_id)
        assert len((await repair(viewer)).remedies) == 1, "a viewer may see what a repair would do"
        with pytest.raises(AuthenticationFailed):
            await repair(viewer, act=True)
        refused = filed.refusals()
        assert (await repair(operator, act=True)).after.clean
        assert await lost.result(timeout=10) == 2
        await operator.queue("default").dead.replay(dead.id)
        with pytest.raises(TaskError):
            await dead.result(timeout=10)
        diagnosis = await diagnose(operator, role="operator", audits=True, repairs=True)
        assert {check.name for check in diagnosis.checks if check.level == "error"} <= {"persistence.log"}
        assert worker.stop() == 0
    assert filed.refusals() == refused, "what a role must do was refused"


# What nobody of a role may do: words after the user's name.
FORBIDDEN = {
    "worker": [("FLUSHALL",), ("CONFIG", "GET", "save"), ("KEYS", "*"), ("SET", "other", 1), ("GET", "{shop2:default}:jobs")],
    "client": [("FLUSHALL",), ("BZPOPMIN", "{shop:default}:wake", 0), ("DEL", "other"), ("ACL", "LIST")],
    "viewer": [
        ("ZREM", "{shop:default}:ready", "x"),
        ("HSET", "{shop:default}:jobs", "a", 1),
        ("DEL", "{shop:default}:jobs"),
        ("FLUSHDB",),
    ],
    "operator": [("FLUSHALL",), ("CONFIG", "SET", "save", ""), ("ACL", "SETUSER", "x"), ("GET", "{shop2:a}:x"), ("SHUTDOWN",)],
}


@pytest.mark.parametrize("role", FORBIDDEN)
def test_what_a_role_must_not_do_is_refused(filed: Administered, role: str) -> None:
    connection = SyncConnection(parse_url(filed.url(f"shop-{role}")))
    for command in FORBIDDEN[role]:
        (reply,) = connection.execute([command], 5)
        assert str(reply).startswith("NOPERM"), command
    connection.close()


async def has_state(job: Any, state: str) -> bool:
    return (await job.info()).state == state


async def running_now(app: Bananas, job_id: str) -> bool:
    return [worker.running for worker in await workers(app)] == [(job_id,)]


async def test_a_scheduler_and_its_cron_need_no_more(administered: Administered, environment: dict[str, str], tmp_path: Path) -> None:
    follow_the_page(administered)
    client = administered.app("shop-client")
    await client.submit("double", 1, options={"queue": "other"})
    settings = {"worker_mode": "scheduler-only", "dead_max_count": 1}
    with WorkerProcess(tmp_path, environment, "tests.apps.ticking:app", **settings) as worker:
        worker.ready()
        await eventually(lambda: has_ready(client, 3), what="ticks are submitted")
        assert worker.stop() == 0
    assert administered.refusals() == []


async def has_ready(app: Bananas, count: int) -> bool:
    return (await app.queue("default").counts()).ready >= count


async def test_a_worker_of_fewer_rights_does_not_start_and_says_what_to_grant(
    administered: Administered, environment: dict[str, str], tmp_path: Path
) -> None:
    administered.user("shop-worker", *rules("worker", NAMESPACE), "-hdel", "-zadd", "resetchannels")
    with WorkerProcess(tmp_path, environment, "tests.apps.basic:app") as worker:
        assert worker.wait(20) == 1
        assert "RightsMissing" in worker.log
        grant = re.search(r"ACL SETUSER shop-worker .*", worker.log)
    assert grant is not None
    assert administered.command("KEYS", "*") == []
    administered.command(*grant[0].split())
    with WorkerProcess(tmp_path, environment, "tests.apps.basic:app") as worker:
        worker.ready()
        assert await (await administered.app("shop-worker").submit("double", 21)).result(timeout=10) == 42


# --- which rights are missing ---------------------------------------------------------------------------------------


async def refused(administered: Administered, *acl: str) -> RightsMissing:
    administered.user("some", *acl)
    with pytest.raises(RightsMissing) as caught:
        await open_queues(administered.app("some"), new_boot())
    assert administered.command("KEYS", "*") == []
    assert caught.value.user == "some"
    assert caught.value.grant in str(caught.value)
    return caught.value


async def accepted(administered: Administered, *acl: str) -> None:
    administered.user("some", *acl)
    assert len(await open_queues(administered.app("some"), new_boot())) == 1


WORKER = rules("worker", NAMESPACE)


async def test_a_missing_command_is_named(administered: Administered) -> None:
    error = await refused(administered, *WORKER, "-hdel", "-script|load")
    assert error.missing == ("command hdel", "command script|load")
    assert error.grant == "ACL SETUSER some +hdel +script|load"
    await accepted(administered, *WORKER, "-hdel", "-script|load", *error.grant.split()[3:])


async def test_a_missing_channel_is_named(administered: Administered) -> None:
    error = await refused(administered, *WORKER, "resetchannels")
    assert [name.partition(":result:")[0] for name in error.missing] == ["channel {shop:default}"]
    assert error.grant == "ACL SETUSER some &{shop:*"
    await accepted(administered, *WORKER, "resetchannels", *error.grant.split()[3:])


async def test_another_key_pattern_is_refused_by_every_key(administered: Administered) -> None:
    error = await refused(administered, *WORKER, "resetkeys", "~{shop2:*")
    assert "key {shop:default}:jobs" in error.missing
    assert "key {shop}:workers" in error.missing
    assert "{shop:default}:ready" in str(error)
    assert error.grant == "ACL SETUSER some ~{shop:* ~{shop}:*"
    await accepted(administered, *WORKER, *error.grant.split()[3:])


async def test_the_keys_of_the_namespace_are_asked_for_too(administered: Administered) -> None:
    error = await refused(administered, *WORKER, "resetkeys", "~{shop:*")
    boot = "0" * 16
    assert error.missing == (f"key {{shop}}:answer:{boot}", f"key {{shop}}:orders:{boot}", "key {shop}:queues", "key {shop}:workers")
    assert error.grant == "ACL SETUSER some ~{shop}:*"


async def test_keys_that_may_only_be_read_are_named(administered: Administered) -> None:
    error = await refused(administered, *WORKER, "resetkeys", "%R~{shop:*", "~{shop}:*")
    assert "key {shop:default}:jobs" in error.missing
    assert error.grant == "ACL SETUSER some ~{shop:*"


async def test_a_client_is_told_all_that_a_worker_needs_besides(administered: Administered) -> None:
    error = await refused(administered, *rules("client", NAMESPACE), "+acl|whoami", "+acl|dryrun")
    more = {rule for rule in WORKER if rule not in rules("client", NAMESPACE)} - {"+acl|whoami", "+acl|dryrun"}
    assert set(error.grant.split()[3:]) == more


@pytest.mark.parametrize("denied", ["-acl|dryrun", "-acl|whoami"])
async def test_without_the_right_to_ask_a_worker_warns_and_works(
    administered: Administered, environment: dict[str, str], tmp_path: Path, denied: str
) -> None:
    administered.user("shop-worker", *WORKER, denied)
    with WorkerProcess(tmp_path, environment, "tests.apps.basic:app") as worker:
        worker.ready()
        assert worker.log.count(WARNING) == 1
        assert "+acl|whoami +acl|dryrun" in worker.log
        assert await (await administered.app("shop-worker").submit("double", 21)).result(timeout=10) == 42


async def test_every_queue_is_asked_for(administered: Administered) -> None:
    administered.user("some", *WORKER, "resetkeys", "~{shop:a}:*", "~{shop}:*")
    with pytest.raises(RightsMissing) as caught:
        await open_queues(administered.app("some", worker_routing_keys="a,b"), new_boot())
    assert {name.partition("}")[0] for name in caught.value.missing} == {"key {shop:b"}


async def test_asking_costs_a_round_trip_per_queue_and_one(administered: Administered, monkeypatch: pytest.MonkeyPatch) -> None:
    administered.user("some", *WORKER)
    app, writes = administered.app("some", worker_routing_keys="a,b,c"), list[int]()
    lane = app.client.here().lanes.home(app.settings.namespace)
    ask = lane.ask

    async def watched(keys: Any, requests: Any, *more: Any) -> Any:
        writes.extend([len(requests)] if requests[0].args[0] == "ACL" else [])
        return await ask(keys, requests, *more)

    monkeypatch.setattr(lane, "ask", watched)
    await open_queues(app, new_boot())
    assert writes[0] == 1
    assert len(writes) == 1 + 3


@pytest.mark.parametrize("denied", ["-info", "-client|setname"])
async def test_a_right_without_which_nobody_connects_is_refused_by_name(administered: Administered, denied: str) -> None:
    administered.user("some", *WORKER, denied)
    with pytest.raises(AuthenticationFailed, match=re.escape(denied[1:])):
        await open_queues(administered.app("some"), new_boot())


async def test_a_role_needs_its_password(administered: Administered) -> None:
    follow_the_page(administered)
    app = Bananas(administered.url("shop-client").replace(PASSWORD, "wrong"), namespace=NAMESPACE, call_timeout=2)
    with pytest.raises(AuthenticationFailed):
        await app.submit("double", 1)
    await app.close()


async def test_the_http_api_does_all_that_it_can_as_an_operator(administered: Administered) -> None:
    follow_the_page(administered)
    app = administered.app("shop-operator")
    transport = httpx.ASGITransport(api(app, role_of=lambda _: "admin"))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        for body in ({"task": "x", "queue": "email"}, {"task": "x", "queue": "email", "delay": 60}):
            answer = await client.post("/api/v1/jobs", json=body, headers={"Idempotency-Key": str(body)})
            assert answer.status_code == 201
        for route in ROUTES:
            if route.path != "/events":
                path = route.full_path.replace("{id}", answer.json()["id"]).replace("{queue}", "email")
                content = {} if route.body is None else {"json": route.example}
                assert (await client.request(route.method, path, **content)).status_code < 500
    assert administered.refusals() == []
