"""After each test of the edge: every key that is left has a TTL or is one of those that a queue always has."""

import re
from collections.abc import Iterator

import pytest

from bananas.address import parse_url
from bananas.connection import SyncConnection
from bananas.server import PrivateServer

LASTING = re.compile(
    r"\{[^:}]+:[^}]+\}:(jobs|ready|prio|scheduled|leases|tries|dead|cancelled|unique|meta|wake|cron|stats:total)"  # of a queue
    r"|\{[^:}]+\}:(workers|queues)"  # of a namespace
)


@pytest.fixture(autouse=True)
def no_key_stays_for_ever(request: pytest.FixtureRequest) -> Iterator[None]:
    if "server" not in request.fixturenames:
        yield
        return
    server: PrivateServer = request.getfixturevalue("server")
    yield
    connection = SyncConnection(parse_url(server.url))
    (names,) = connection.execute([("KEYS", "*")], 5)
    ages = connection.execute([("TTL", name) for name in names], 5)
    connection.close()
    lasting = {name.decode() for name, ttl in zip(names, ages, strict=True) if ttl == -1}
    leaked = sorted(name for name in lasting if not LASTING.fullmatch(name))
    assert not leaked, f"keys without a TTL that are not of the layout (keys.py): {leaked}"
