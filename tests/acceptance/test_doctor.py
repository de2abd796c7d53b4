"""`bananas doctor` on real servers: what it finds, what it says to do, and the exit code; by users of every role."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from tests.support import ROOT, clean_environment
from tests.workers import WorkerProcess

from bananas import Bananas, broker
from bananas.address import parse_url
from bananas.connection import SyncConnection
from bananas.doctor import Check, Diagnosis, diagnose
from bananas.inspector import audit
from bananas.rights import rules
from bananas.server import PrivateServer, find_server_binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

PAGE = (ROOT / "docs/doctor.md").read_text(encoding="utf-8")
SOUND = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory": "200mb", "latency-monitor-threshold": "100"}


class Patient:
    """A server of a test's own."""

    def __init__(self, server: PrivateServer) -> None:
        self.server = server
        self.connection = SyncConnection(parse_url(server.url))
        self.app = Bananas(server.url, namespace="shop", call_timeout=5, lease=0.5)

    def command(self, *words: Any) -> Any:
        (reply,) = self.connection.execute([words], 5)
        assert not isinstance(reply, Exception), reply
        return reply

    async def checks(self, **options: Any) -> dict[str, Check]:
        return {check.name: check for check in (await diagnose(self.app, **options)).checks}


@pytest.fixture
def own_server(server_kind: str) -> Iterator[PrivateServer]:
    with PrivateServer(binary=find_server_binary(server_kind), settings=SOUND) as server:
        yield server


@pytest.fixture
async def patient(own_server: PrivateServer) -> AsyncIterator[Patient]:
    made = Patient(own_server)
    yield made
    await made.app.close()
    made.connection.close()


def doctor(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(REDIS_URL=url, BANANAS_NAMESPACE="shop", BANANAS_LEASE="0.5s")
    command = [sys.executable, "-m", "bananas", "doctor", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=40, check=False)


# --- what it finds ----------------------------------------------------------------------------------------------------


async def test_a_sound_server_has_no_warning(patient: Patient) -> None:
    diagnosis = await diagnose(patient.app, audits=True)
    assert [check for check in diagnosis.checks if check.level in ("warning", "error")] == []
    assert (diagnosis.exit_code(strict=True), diagnosis.exit_code()) == (0, 0)
    assert diagnosis.audit is not None
    assert diagnosis.audit.clean


# setting of the server -> what is found: check and level
SETTINGS = {
    ("maxmemory-policy", "allkeys-lru"): ("memory.policy", "error"),
    ("maxmemory", "0"): ("memory.limit", "warning"),
    ("maxmemory", "1"): ("memory.use", "error"),
    ("appendonly", "no"): ("persistence.log", "error"),
    ("appendfsync", "no"): ("persistence.log", "warning"),
    ("latency-monitor-threshold", "0"): ("latency.events", "note"),
    ("maxclients", "11"): ("connections.server", "warning"),
}


@pytest.mark.parametrize("setting", SETTINGS, ids=" ".join)
async def test_each_setting_is_found_and_the_remedy_named(patient: Patient, setting: tuple[str, str]) -> None:
    name, level = SETTINGS[setting]
    patient.command("CONFIG", "SET", *setting)
    check = (await patient.checks())[name]
    assert (check.level, bool(check.should)) == (level, True)
    assert check.remedy
    patient.command("CONFIG", "SET", setting[0], SOUND.get(setting[0], {"maxclients": "10000"}.get(setting[0], "noeviction")))
    check = (await patient.checks()).get(name)
    assert check is None or check.level == "ok"


async def test_snapshots_alone_are_a_warning_that_says_what_is_lost(patient: Patient) -> None:
    patient.command("CONFIG", "SET", "appendonly", "no")
    patient.command("CONFIG", "SET", "save", "900 1")
    check = (await patient.checks())["persistence.log"]
    assert check.level == "warning"
    assert re.search(r"snapshots \(900 1\).*since the last \(\d+ changes", check.found)


async def test_a_replica_is_refused_and_the_primary_told_of_its_settings(patient: Patient, server_kind: str) -> None:
    with PrivateServer(binary=find_server_binary(server_kind), port=0) as primary:
        above = SyncConnection(parse_url(primary.url))
        port = int(primary.url.rpartition(":")[2].partition("/")[0])
        patient.command("REPLICAOF", "127.0.0.1", port)
        assert (await patient.checks())["replication.role"].level == "error"
        app = Bananas(primary.url, namespace="shop")
        async with closing(app):
            for _ in range(2_000):
                checks = {check.name: check for check in (await diagnose(app)).checks}
                if checks.get("replication.lag", Check("error", "", "")).level == "ok":
                    break
            assert checks["replication.lag"].level == "ok"
            assert checks["replication.least"].level == "warning"
            above.execute([("CONFIG", "SET", "min-replicas-to-write", 1)], 5)
            assert {check.name: check.level for check in (await diagnose(app)).checks}["replication.least"] == "ok"
        above.close()


@asynccontextmanager
async def closing(app: Bananas) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await app.close()


async def test_a_slow_script_of_ours_is_named(patient: Patient) -> None:
    patient.command("CONFIG", "SET", "slowlog-log-slower-than", "0")
    await patient.app.submit("task")
    patient.command("CONFIG", "SET", "slowlog-log-slower-than", "-1")
    assert re.match(r"[1-9]\d* of our scripts", (await patient.checks())["latency.scripts"].found)


async def test_a_server_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    app = Bananas(f"unix://{tmp_path}/nobody.sock", call_timeout=1)
    diagnosis = await diagnose(app, audits=True)
    assert [(check.name, check.level) for check in diagnosis.checks] == [("server.answers", "error")]
    assert diagnosis.exit_code() == 2


async def test_what_stands_still_in_a_namespace_is_found(patient: Patient) -> None:
    app, keys = patient.app, patient.app.producer.keys("default")
    await app.submit("task")
    late = await app.submit("task", options={"delay": 600})
    patient.command("ZADD", keys.scheduled, 5, late.place[1])
    patient.command("ZADD", keys.leases, 5, "0" * 43 + ":abc:1")
    patient.command("HSET", keys.cron, "nightly", "5 5 x")
    await app.queue("default").pause()
    await app.submit("task", options={"queue": "other"})
    patient.command("HSET", app.producer.keys("other").meta, "layout", 99)
    checks = await patient.checks()
    levels = {name: check.level for name, check in checks.items()}
    assert levels["workers.queues"] == levels["cron.alive"] == levels["jobs.expired"] == "warning"
    assert levels["workers.alive"] == levels["workers.paused"] == "note"
    assert levels["namespace.layout"] == "error"
    assert "jobs.late" not in levels, "a paused queue is late on purpose"
    assert "default, other" in checks["workers.queues"].found
    assert "default: nightly" in checks["cron.alive"].found
    await app.queue("default").resume()
    assert (await patient.checks())["jobs.late"].level == "warning"


async def test_dead_letters_near_their_bound_are_a_warning(patient: Patient) -> None:
    keys = patient.app.producer.keys("default")
    await patient.app.submit("task")
    patient.command("ZADD", keys.dead, *[part for number in range(80) for part in (5, f"{number:043d}")])
    assert (await patient.checks())["dead.bound"].level == "note"
    few = Bananas(patient.server.url, namespace="shop", dead_max_count=100)
    async with closing(few):
        assert {check.name: check.level for check in (await diagnose(few)).checks}["dead.bound"] == "warning"


async def test_with_a_worker_all_is_served(patient: Patient, tmp_path: Path) -> None:
    environment = {"REDIS_URL": patient.server.url, "BANANAS_NAMESPACE": "shop", "LEDGER": str(tmp_path / "ledger")}
    with WorkerProcess(tmp_path, environment, "tests.apps.ticking:app") as worker:
        worker.ready()
        checks = await patient.checks()
        assert [checks[name].level for name in ("workers.alive", "workers.queues", "cron.alive")] == ["ok"] * 3
        assert checks["cron.alive"].found.startswith("1 cron")


# --- rights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["client", "worker", "viewer", "operator"])
async def test_each_role_is_known_by_its_rights(patient: Patient, role: Any) -> None:
    asking = ["+acl|whoami", "+acl|dryrun"]
    patient.command("ACL", "SETUSER", "some", "reset", "on", ">secret", *rules(role, "shop"), *asking)
    app = Bananas(patient.server.url.replace("unix://", "unix://some:secret@"), namespace="shop")
    async with closing(app):
        checks = {check.name: check for check in (await diagnose(app)).checks}
        assert checks[f"rights.{role}"].level == "ok"
        assert "server.looked_at" not in checks
        assert "memory.policy" in checks
        assert ("rights.doctor" in checks) == (role != "operator")
        for other in {"client", "worker", "viewer", "operator"} - {role}:
            required = {check.name: check for check in (await diagnose(app, role=other)).checks}[f"rights.{other}"]
            implied = set(rules(other, "shop")) <= {*rules(role, "shop"), *asking}
            assert required.level == ("ok" if implied else "error")
            assert implied or required.remedy.startswith("ACL SETUSER some ")


async def test_a_user_without_rights_is_told_so(patient: Patient) -> None:
    patient.command("ACL", "SETUSER", "some", "reset", "on", ">secret", "+client|setname")
    app = Bananas(patient.server.url.replace("unix://", "unix://some:secret@"), namespace="shop")
    async with closing(app):
        diagnosis = await diagnose(app, audits=True)
        assert diagnosis.exit_code() == 2
        assert {check.name for check in diagnosis.checks} >= {"server.looked_at", "audit"}


# --- the command ------------------------------------------------------------------------------------------------------


async def damaged(patient: Patient) -> str:
    job = await patient.app.submit("double", 21)
    keys, job_id = job.place
    await patient.app.client.ask(keys, broker.plain(int, "ZREM", keys.ready, job_id), "damaging")
    return job.id


async def test_the_commands_of_the_page_do_what_it_says(patient: Patient) -> None:
    await damaged(patient)
    lines = re.search(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert lines is not None
    codes: dict[str, int] = {}
    for line in lines[1].splitlines():
        words = line.partition("#")[0].replace("shop:app", "tests.apps.newer:app").split()[2:]
        run = doctor(patient.server.url, *words)
        assert "Traceback" not in run.stderr
        codes[" ".join(words)] = run.returncode
    app = "tests.apps.newer:app"
    assert codes == {
        "": 0,
        app: 0,
        f"{app} --role worker": 0,
        f"{app} --audit": 2,
        f"{app} --repair": 2,
        f"{app} --repair --yes": 0,
        f"{app} --strict --json": 1,  # a job waits in a queue that no worker serves
    }
    assert (await audit(patient.app)).clean


async def test_what_it_prints_is_plain_and_json_is_typed(patient: Patient) -> None:
    job_id = await damaged(patient)
    run = doctor(patient.server.url, "--repair")
    assert "\x1b" not in run.stdout
    assert re.search(r"^ok +memory.policy +maxmemory-policy is noeviction$", run.stdout, re.MULTILINE)
    assert re.search(rf"^default: no place: {job_id.partition('.')[2]}: would be mended .*made ready", run.stdout, re.MULTILINE)
    run = doctor(patient.server.url, "--repair", "--json")
    diagnosis = msgspec.json.decode(run.stdout, type=Diagnosis)
    assert diagnosis.repairs is not None
    assert (diagnosis.worst, diagnosis.repairs.acted, len(diagnosis.repairs.remedies)) == ("error", False, 1)
    assert set(json.loads(run.stdout)) == {"server", "namespace", "checks", "audit", "repairs"}


async def test_yes_without_repair_is_refused(patient: Patient) -> None:
    run = doctor(patient.server.url, "--yes")
    assert (run.returncode, "--repair" in run.stderr) == (2, True)


def test_the_page_has_every_check() -> None:
    source = "".join(path.read_text() for path in (ROOT / "src/bananas/doctor").glob("*.py"))
    names = set(re.findall(r'\b(?:ok|note|warning|error|kind)\(\s*"([a-z]+\.[a-z_]+)"', source))
    assert len(names) > 40
    assert sorted(name for name in names if f"`{name}`" not in PAGE) == []
