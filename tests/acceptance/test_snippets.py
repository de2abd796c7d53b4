"""The tests that the tutorial shows are run as they are written."""

from __future__ import annotations

import inspect
import re
import types
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bananas.server import PrivateServer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
CODE = "\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
TESTS = re.findall(r"^async def (test_\w+)", CODE, re.MULTILINE)


@pytest.mark.parametrize("name", TESTS)
async def test_a_test_of_the_tutorial_passes(name: str, place: PrivateServer) -> None:
    page = types.ModuleType("tutorial")
    exec(compile(CODE, str(PAGE), "exec"), page.__dict__)
    test = page.__dict__[name]
    wants_a_server = "bananas_server" in inspect.signature(test).parameters
    await (test(place.url) if wants_a_server else test())


def test_the_tutorial_shows_each_way_to_test() -> None:
    assert len(TESTS) == 3
