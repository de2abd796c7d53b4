"""The Lua scripts, loaded from lua/*.lua and named by content, so that two versions on one server never overwrite each other.

Every script but those in `_ALONE` begins with the prelude, inserted behind the shebang line (which must be byte 0).
"""

import os
from functools import cache
from typing import NamedTuple

_FOLDER = os.path.join(os.path.dirname(__file__), "lua")
_ALONE = frozenset({"announce", "answer", "note", "order"})


class Script(NamedTuple):
    """One transition as the server runs it."""

    name: str
    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script of lua/<name>.lua."""
    import hashlib  # 3 ms that a process which sends nothing saves

    source = _read(name)
    if name not in _ALONE:
        shebang, rest = source.split("\n", 1)
        source = f"{shebang}\n{_read('_prelude')}{rest}"
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def every_script() -> list[Script]:
    """All scripts of this version, by name."""
    names = sorted(file.removesuffix(".lua") for file in os.listdir(_FOLDER) if file.endswith(".lua") and not file.startswith("_"))
    return [script(name) for name in names]


def _read(name: str) -> str:
    with open(os.path.join(_FOLDER, f"{name}.lua"), encoding="utf-8") as file:
        return file.read()
