"""Private servers for the tests: one per kind and session, emptied for each test."""

import itertools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from tests.support import GO_ON

from bananas import Bananas
from bananas.address import parse_url
from bananas.broker import Request
from bananas.connection import Connection, SyncConnection
from bananas.errors import BrokerError, ConfigError
from bananas.keys import QueueKeys
from bananas.server import PrivateServer, find_server_binary
from bananas.session import run

_names = itertools.count()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a suite in the background: what it starts would ignore SIGINT too
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _kinds() -> list[str]:
    required = os.environ.get("TEST_SERVERS")
    if required:
        return required.split(",")
    found = []
    for kind in ("valkey", "redis"):
        try:
            find_server_binary(kind)
        except ConfigError:
            continue
        found.append(kind)
    return found


KINDS = _kinds()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server_kind" in metafunc.fixturenames:
        every = "broker" in metafunc.definition.path.parts
        metafunc.parametrize("server_kind", KINDS if every else KINDS[:1], scope="session")


@pytest.fixture(scope="session")
def running_server(server_kind: str) -> Iterator[PrivateServer]:
    with PrivateServer(binary=find_server_binary(server_kind)) as server:
        yield server


@pytest.fixture
def server(running_server: PrivateServer) -> PrivateServer:
    """A server without keys, whatever the test before left behind."""
    connection = SyncConnection(parse_url(running_server.url))
    settings = [("CONFIG", "SET", "maxmemory", 0), ("CONFIG", "SET", "maxmemory-policy", "noeviction")]
    connection.execute([GO_ON, *settings, ("FLUSHALL",)], 5)
    connection.close()
    return running_server


@pytest.fixture
def keys() -> QueueKeys:
    """The keys of a queue that no other test uses."""
    return QueueKeys(f"test{next(_names)}", "jobs")


@pytest.fixture
async def connection(server: PrivateServer) -> AsyncIterator[Connection]:
    opened = await Connection.open(parse_url(server.url))
    yield opened
    opened.close()


Ask = Callable[[Request[Any]], Awaitable[Any]]


@pytest.fixture
def ask(connection: Connection) -> Ask:
    """Run one request and return its reply, or raise the error that it comes to."""

    async def call(request: Request[Any]) -> Any:
        (reply,) = await run(connection, [request], 5)
        if isinstance(reply, BrokerError):
            raise reply
        return reply

    return call


@pytest.fixture
async def app(server: PrivateServer) -> AsyncIterator[Bananas]:
    made = Bananas(server.url, namespace=f"app{next(_names)}", call_timeout=2)
    yield made
    await made.close()
