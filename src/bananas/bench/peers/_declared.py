"""What the peers' files say of themselves, read from their text: nothing of a peer is imported where it is not installed."""

import ast
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from bananas.errors import ConfigError

HERE = Path(__file__).parent
OWN = "bananas"
FIELDS = ("TITLE", "RUNTIME", "INSTALL", "PYTHON", "GUARANTEE", "CONFIGURATION", "SOURCE", "WORKER", "PROFILES", "CHUNK")
FUNCTIONS = ("connect", "submit", "submit_many", "call")
HANDLERS = ("noop", "sleep", "pickup", "echo")

Runtime = Literal["python", "node", "here"]
Guarantee = Literal["at least once", "at most once"]


class Declared(Struct, frozen=True):
    """A peer's constants; see the package for what they mean."""

    name: str
    title: str
    runtime: Runtime
    install: tuple[str, ...]
    python: tuple[int, int]
    guarantee: Guarantee
    configuration: str
    source: str
    worker: tuple[str, ...]
    profiles: dict[Literal["drain", "io", "idle"], dict[str, int | str]]
    chunk: int

    def slots(self, profile: Literal["drain", "io", "idle"]) -> int:
        """How many jobs its worker runs at once."""
        return int(self.profiles[profile]["slots"])


def names() -> list[str]:
    """Every peer, Bananas first."""
    found = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))
    return [OWN, *(name for name in found if name != OWN)]


def declared(name: str) -> Declared:
    """What a peer declares.

    Raises:
        ConfigError: there is no such peer, or its file does not declare all that it must.
    """
    if name not in names():
        raise ConfigError(f"{name!r} is not a peer: there are {', '.join(names()[1:])}.")
    given = _constants(ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8")))
    missing = [field for field in FIELDS if field not in given]
    if missing:
        raise ConfigError(f"the peer {name} does not declare {', '.join(missing)} as a literal.")
    found = msgspec.convert({"name": name} | {field.lower(): given[field] for field in FIELDS}, Declared, strict=True)
    if set(found.profiles) != {"drain", "io", "idle"} or not all("slots" in profile for profile in found.profiles.values()):
        raise ConfigError(f"the peer {name} needs the profiles drain, io and idle, each with slots.")
    return found


def _constants(tree: ast.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in FIELDS:
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found
