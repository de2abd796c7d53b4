"""The image and the composed services, as far as they can be judged without an engine: linted, and their commands run as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tests.deploy.conftest import DEPLOY, METRICS, check_command, check_settings, judged, tool
from tests.support import ROOT, clean_environment, kill, wait_until

from bananas.config import parse_duration
from bananas.server import find_server_binary

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE, COMPOSE = DEPLOY / "Dockerfile", DEPLOY / "compose.yaml"
TOKEN = f"admin-{uuid.uuid4().hex}"


def instructions(name: str) -> list[str]:
    """What follows an instruction of the Dockerfile, each time, on one line."""
    text = re.sub(r"\\\n\s*", "", IMAGE.read_text(encoding="utf-8"))
    return [line.split(None, 1)[1] for line in text.splitlines() if line.startswith(f"{name} ")]


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in instructions("ENV") for pair in shlex.split(line))


def extras() -> str:
    return next(line.partition("=")[2] for line in instructions("ARG") if line.startswith("EXTRAS="))


def services() -> dict[str, Any]:
    """The services with their variables' defaults filled in."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE.read_text(encoding="utf-8"))
    (whole,) = documents_of(text)
    return dict(whole["services"])


def documents_of(text: str) -> list[Any]:
    import yaml

    return list(yaml.safe_load_all(text))


# --- the image --------------------------------------------------------------------------------------------------------


def test_the_dockerfile_is_clean_by_hadolint() -> None:
    judged(tool("hadolint"), "--failure-threshold", "style", str(IMAGE))


def test_the_image_runs_as_a_number_that_is_not_root_and_asks_the_worker_how_it_is() -> None:
    assert instructions("USER") == ["10001:10001"]
    (health,) = instructions("HEALTHCHECK")
    words = json.loads(health.partition("CMD ")[2])
    assert words[0] == "bananas"
    check_command(words[1:])
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["bananas"]
    settings = check_settings(image_environment())
    assert (settings.worker_heartbeat_file, settings.log_format) == ("/run/bananas/heartbeat", "json")
    assert "/run/bananas" in " ".join(instructions("RUN"))


def test_the_image_has_every_extra_that_it_names() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras().split(",")) <= set(project["optional-dependencies"])
    python = next(line.partition("=")[2] for line in instructions("ARG") if line.startswith("PYTHON="))
    assert any(each.endswith(f":: {python}") for each in project["classifiers"])


def test_the_builder_gets_what_the_stages_copy_and_nothing_else() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {word for line in instructions("COPY") if not line.startswith("--from") for word in line.split()[:-1]}
    assert "*" in lines
    assert {word.removeprefix("./") for word in copied} == let_in
    assert all((ROOT / name).exists() for name in let_in)


@pytest.mark.slow
@pytest.mark.timeout(600)  # builds a wheel and installs it with its dependencies
def test_the_stages_give_a_program_that_runs(tmp_path: Path) -> None:
    import shutil

    source, wheels, environment = tmp_path / "source", tmp_path / "wheels", tmp_path / "opt"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src")
    names = {"/wheels": str(wheels), "/opt/bananas": str(environment), "EXTRAS": extras()}
    steps = [line for line in instructions("RUN") if "pip" in line]
    assert len(steps) == 2
    for step in steps:
        command = re.sub(r"/wheels|/opt/bananas", lambda found: names[found[0]], step).replace("python -m", f"{sys.executable} -m")
        command = re.sub(r"^pip ", f"{sys.executable} -m pip ", command)
        judged("sh", "-ec", command, cwd=source, env={**os.environ, "EXTRAS": names["EXTRAS"], "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    said = judged(str(environment / "bin/bananas"), "--version", cwd=tmp_path, env={"PATH": os.environ["PATH"]})
    assert said.startswith("bananas ")
    judged(str(environment / "bin/python"), "-c", "import bananas.http, uvloop, cryptography, prometheus_client", cwd=tmp_path)


# --- the services -----------------------------------------------------------------------------------------------------


def test_compose_reads_its_file(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"admin:{TOKEN}\n")
    environment = {**os.environ, "API_TOKENS_FILE": str(tmp_path / "tokens"), "WORKERS": "3"}
    read = json.loads(judged(tool("docker-compose"), "-f", str(COMPOSE), "config", "--format", "json", env=environment))
    assert set(read["services"]) == {"redis", "worker", "api"}
    assert read["services"]["worker"]["deploy"]["replicas"] == 3
    assert read["networks"]["server"]["internal"] is True
    assert [port["host_ip"] for port in read["services"]["api"]["ports"]] == ["127.0.0.1"]
    assert "ports" not in read["services"]["redis"]


def test_the_commands_and_settings_of_the_services_are_ours() -> None:
    for name in ("worker", "api"):
        service = services()[name]
        check_command(service["command"])
        settings = check_settings(image_environment() | service["environment"])
        assert parse_duration(service["stop_grace_period"], name) >= settings.shutdown_timeout + 10
        assert (service["read_only"], service["cap_drop"], service["init"]) == (True, ["ALL"], True)


def test_the_healthcheck_of_the_api_asks_the_port_that_it_listens_at() -> None:
    api = services()["api"]
    port = api["command"][api["command"].index("--port") + 1]
    assert f":{port}/health/live" in api["healthcheck"]["test"][-1]
    assert api["ports"][0].endswith(f":{port}")


class Composed:
    """The three services, by their own commands, as processes of this machine: with free ports, and files below a folder.

    Attributes:
        ports: of the server, the worker's probes and the API.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.ports = folder, [free_port() for _ in range(3)]
        self.names = {"8081": str(self.ports[1]), "8080": str(self.ports[2]), "/run/secrets/api_tokens": str(folder / "tokens")}
        (folder / "tokens").write_text(f"admin:{TOKEN}\n")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self, name: str) -> dict[str, str]:
        given = {each: value for each, value in image_environment().items() if each != "PATH"} | services()[name]["environment"]
        given |= {"REDIS_URL": f"redis://127.0.0.1:{self.ports[0]}/0", "BANANAS_WORKER_HEARTBEAT_FILE": str(self.folder / "heartbeat")}
        return clean_environment(**given)

    def start(self, name: str) -> None:
        words = [self.names.get(word, word) for word in services()[name]["command"]]
        if name == "redis":
            command = [str(find_server_binary("redis").path), *words[1:], "--port", str(self.ports[0]), "--dir", str(self.folder)]
            environment: dict[str, str] = dict(os.environ)
        else:
            command, environment = [sys.executable, "-m", "bananas", *words], self.environment(name)
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=DEPLOY / "app", env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def run(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """A command in the place of a service."""
        given = [self.names.get(word, word).replace(":8080/", f":{self.ports[2]}/") for word in words]
        command = [sys.executable, *given[1:]] if given[0] == "python" else [sys.executable, "-m", *given]
        environment = self.environment(name)
        return subprocess.run(command, cwd=DEPLOY / "app", env=environment, capture_output=True, text=True, timeout=30, check=False)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def stop(self, name: str) -> int:
        """SIGTERM. Returns the exit code."""
        kill(self.processes[name].pid, 15)
        return self.processes[name].wait(40)

    def end(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                kill(process.pid)
                process.wait(10)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Composed]:
    try:
        find_server_binary("redis")
    except Exception as error:
        pytest.skip(f"NOT CHECKED, redis-server is missing: {error}")
    made = Composed(tmp_path)
    yield made
    made.end()


def test_the_services_work_together_and_stop_in_time(composed: Composed) -> None:
    composed.start("redis")
    wait_until(lambda: "Ready to accept connections" in composed.log("redis"), "the server is up")
    composed.start("worker")
    composed.start("api")
    health = json.loads(instructions("HEALTHCHECK")[0].partition("CMD ")[2])
    wait_until(lambda: composed.run("worker", *health).returncode == 0, f"the worker is well:\n{composed.log('worker')}", 40, 0.2)
    check = services()["api"]["healthcheck"]["test"]
    assert check[0] == "CMD"
    wait_until(lambda: composed.run("api", *check[1:]).returncode == 0, f"the API is well:\n{composed.log('api')}", 40, 0.2)
    doctor = composed.run("worker", "bananas", "doctor", "shop:app", "--json")
    assert doctor.returncode == 0, doctor.stdout
    found = {check["name"]: check["level"] for check in json.loads(doctor.stdout)["checks"]}
    assert {found[name] for name in ("memory.policy", "memory.use", "persistence.log")} == {"ok"}
    url = f"http://127.0.0.1:{composed.ports[2]}"
    assert httpx.get(f"{url}/api/v1/queues", trust_env=False).status_code == 401
    assert httpx.get(f"{url}/health/ready", headers={"Host": "10.1.2.3:8080"}, trust_env=False).status_code == 200  # as a kubelet asks
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30, trust_env=False) as client:
        job = client.post("/api/v1/jobs", json={"task": "send_email", "args": ["ada@example.org"]}).json()
        ended = client.get(f"/api/v1/jobs/{job['id']}/result", params={"wait": 20}).json()
        metrics = client.get("/metrics").text
    assert ended["value"] == "sent 'hi' to ada@example.org"
    told = set(re.findall(r"^# TYPE (\w+) ", metrics, re.MULTILINE))
    assert sorted({name.removesuffix("_bucket") for name in METRICS} - told) == []  # what alerts and dashboard read
    assert httpx.get(f"http://127.0.0.1:{composed.ports[1]}/ready", trust_env=False).status_code == 200
    assert (composed.stop("worker"), composed.stop("api"), composed.stop("redis")) == (0, 0, 0)
    assert (composed.folder / "appendonlydir").is_dir()
