"""Several servers that belong together: a Cluster, and a primary with a replica and sentinels, started once for all tests here."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.conftest import Site
from tests.conftest import KINDS

from bananas import Bananas
from bananas.groups import Cluster, Replicated
from bananas.server import find_server_binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

_names = itertools.count()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "group_kind" in metafunc.fixturenames:
        kinds = [kind if kind == KINDS[0] else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
        metafunc.parametrize("group_kind", kinds, scope="session")


@pytest.fixture(scope="session")
def cluster(group_kind: str) -> Iterator[Cluster]:
    """Three primaries, each with a replica."""
    with Cluster(3, 1, binary=find_server_binary(group_kind), appendonly=True) as made:
        yield made


@pytest.fixture
def replicated(group_kind: str) -> Iterator[Replicated]:
    """A primary, a replica and three sentinels: for this test, which may break them."""
    with Replicated(1, 3, binary=find_server_binary(group_kind), appendonly=True) as made:
        yield made


@pytest.fixture
async def app(cluster: Cluster) -> AsyncIterator[Bananas]:
    """An app on the Cluster."""
    made = Bananas(cluster.url, namespace=f"c{next(_names)}")
    yield made
    await made.close()


@pytest.fixture
async def site_at(tmp_path: Path) -> AsyncIterator[Callable[..., Site]]:
    """Makes a namespace with workers at a URL; all that it started is gone afterwards."""
    made: list[Site] = []

    def make(url: str, **settings: Any) -> Site:
        made.append(Site(url, tmp_path, **settings))
        return made[-1]

    yield make
    for site in made:
        site.kill()
        await site.app.close()
