"""The units of systemd: read by systemd itself, judged for what they may, and their commands and times by our own rules."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from tests.deploy.conftest import DEPLOY, check_command, check_settings, judged, tool

from bananas.config import parse_duration

UNITS = sorted((DEPLOY / "systemd").iterdir())
SERVICES = [DEPLOY / "systemd" / f"bananas-{name}@.service" for name in ("worker", "api")]


def values(path: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def installed(tmp_path: Path) -> list[Path]:
    """The units, with a program that is there: systemd looks."""
    made = []
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8").replace("/opt/bananas/bin/bananas", str(Path(sys.executable)))
        (tmp_path / unit.name).write_text(text)
        made.append(tmp_path / unit.name)
    return made


def test_systemd_finds_nothing_wrong(installed: list[Path]) -> None:
    assert judged(tool("systemd-analyze"), "verify", "--man=no", *map(str, installed)) == ""


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_services_may_little(service: Path) -> None:
    judged(tool("systemd-analyze"), "security", "--offline=true", "--threshold=20", str(service))  # 2.0 of 10


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_commands_settings_and_times_of_services_are_ours(service: Path) -> None:
    (command,) = values(service, "ExecStart")
    words = shlex.split(command.replace("$APP", "shop:app shop.reports"))
    assert words[0] == "/opt/bananas/bin/bananas"
    check_command(words[1:])
    environment = dict(pair.split("=", 1) for line in values(service, "Environment") for pair in line.split())
    settings = check_settings({**environment, "APP": "shop:app"})
    assert parse_duration(values(service, "TimeoutStopSec")[0], "TimeoutStopSec") >= settings.shutdown_timeout + 10
    assert values(service, "KillMode") == ["mixed"]  # SIGTERM for the supervisor alone: its processes would take it for the second one
    assert values(service, "RestartPreventExitStatus") == ["2"]


def test_the_health_of_a_worker_is_read_where_it_is_written() -> None:
    worker, health = SERVICES[0], DEPLOY / "systemd/bananas-worker-health@.service"
    (command,) = values(health, "ExecStart")
    inner = shlex.split(command)[2].partition(" || ")[0]
    path = shlex.split(inner)[-1]
    check_command(shlex.split(inner)[1:])
    assert values(worker, "ExecStart")[0].endswith(f"--heartbeat-file {path}")
    assert path.startswith(f"/run/{values(worker, 'RuntimeDirectory')[0]}/")
