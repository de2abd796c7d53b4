"""When the embedded server may stand in, and which server reads whose data: pure rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from bananas import server
from bananas.embedded import ServerBinary, embedded_allowed, in_container, refusal
from bananas.errors import ConfigError


@pytest.mark.parametrize(
    ("asked", "interactive", "container", "expected"),
    [
        (None, True, False, True),
        (None, False, False, False),
        (None, True, True, False),
        (None, False, True, False),
        ("", True, False, True),
        ("1", False, False, True),
        ("1", False, True, True),
        ("Yes", False, True, True),
        ("0", True, False, False),
        ("off", True, True, False),
    ],
)
def test_it_stands_in_when_asked_for_or_at_a_terminal_outside_containers(
    asked: str | None, interactive: bool, container: bool, expected: bool
) -> None:
    environ = {} if asked is None else {"BANANAS_EMBEDDED": asked}
    assert embedded_allowed(environ, interactive, container) is expected
    if not expected:
        assert "Set REDIS_URL, for example redis://localhost:6379/0" in refusal(environ, interactive, container)


def test_a_refusal_names_its_reason() -> None:
    assert "in a container" in refusal({}, True, True)
    assert "off a terminal" in refusal({}, False, False)
    assert "BANANAS_EMBEDDED=1" in refusal({}, False, False)
    assert "forbids" in refusal({"BANANAS_EMBEDDED": "0"}, True, False)


def test_an_unreadable_wish_is_an_error() -> None:
    with pytest.raises(ConfigError, match="BANANAS_EMBEDDED='maybe' is neither"):
        embedded_allowed({"BANANAS_EMBEDDED": "maybe"}, True, False)


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv"])
def test_a_container_is_known_by_its_files(tmp_path: Path, mark: str) -> None:
    assert not in_container(tmp_path, {})
    (tmp_path / mark).parent.mkdir(exist_ok=True)
    (tmp_path / mark).write_text("")
    assert in_container(tmp_path, {})


def test_a_container_is_known_by_its_environment_and_its_groups(tmp_path: Path) -> None:
    assert in_container(tmp_path, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    groups = tmp_path / "proc" / "1" / "cgroup"
    groups.parent.mkdir(parents=True)
    groups.write_text("0::/init.scope\n")
    assert not in_container(tmp_path, {})
    groups.write_text("12:memory:/kubepods/besteffort/pod1\n")
    assert in_container(tmp_path, {})


@pytest.mark.parametrize(
    ("kind", "version", "wrote", "expected"),
    [
        ("redis", (7, 0, 15), "redis 7.0.15", True),
        ("redis", (7, 0, 15), "redis 7.0.99", True),
        ("redis", (7, 0, 15), "redis 7.2.0", False),
        ("redis", (8, 0, 0), "redis 7.4.1", True),
        ("redis", (8, 0, 0), "valkey 8.0.0", False),
        ("valkey", (9, 1, 2), "redis 7.2.4", True),
        ("valkey", (9, 1, 2), "redis 7.4.0", False),
        ("valkey", (9, 1, 2), "valkey 8.1.0", True),
        ("valkey", (9, 1, 2), "valkey 9.10.0", False),
    ],
)
def test_which_server_reads_whose_data(kind: server.Kind, version: tuple[int, int, int], wrote: str, expected: bool) -> None:
    binary = ServerBinary(Path("/bin/server"), kind, version)
    assert server.reads(binary, *wrote.split()) is expected
