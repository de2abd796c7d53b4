"""The Lua scripts, loaded from lua/*.lua and named by content, so that two versions on one server never overwrite each other.

Every script but those in `_ALONE` begins with the prelude, inserted behind the shebang line (which must be byte 0).
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent / "lua"
_ALONE = frozenset({"announce"})


@dataclass(frozen=True, slots=True)
class Script:
    """One transition as the server runs it."""

    name: str
    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script of lua/<name>.lua."""
    source = (_FOLDER / f"{name}.lua").read_text()
    if name not in _ALONE:
        shebang, rest = source.split("\n", 1)
        source = f"{shebang}\n{(_FOLDER / '_prelude.lua').read_text()}{rest}"
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
