"""What a doctor says: one line per check, by level; and all of them together."""

from typing import Literal

from msgspec import Struct

from bananas.audit import Audit
from bananas.repair import Repairs

Level = Literal["ok", "note", "warning", "error"]
LEVELS: tuple[Level, ...] = ("ok", "note", "warning", "error")


class Check(Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        level: "ok"; "note" (good to know); "warning" (jobs may be late, or lost in a fault); "error" (jobs are lost or stand still).
        name: what was looked at, e.g. "memory.policy"; the same in every version.
        found: what is. should: what should be, "" where it is so. remedy: how to set it.
    """

    level: Level
    name: str
    found: str
    should: str = ""
    remedy: str = ""


class Diagnosis(Struct, frozen=True):
    """What was found.

    Attributes:
        server: where, without passwords. namespace: whose queues were looked at.
        audit, repairs: where they were asked for, and could be done.
    """

    server: str
    namespace: str
    checks: tuple[Check, ...]
    audit: Audit | None = None
    repairs: Repairs | None = None

    @property
    def worst(self) -> Level:
        """The highest level among the checks."""
        found: set[Level] = {check.level for check in self.checks}
        worst: Level = "ok"
        for level in LEVELS:
            worst = level if level in found else worst
        return worst

    def exit_code(self, *, strict: bool = False) -> int:
        """2 with an error, 1 with a warning where `strict`, else 0."""
        return {"error": 2, "warning": int(strict)}.get(self.worst, 0)


def ok(name: str, found: str) -> Check:
    return Check("ok", name, found)


def note(name: str, found: str, should: str = "", remedy: str = "") -> Check:
    return Check("note", name, found, should, remedy)


def warning(name: str, found: str, should: str, remedy: str) -> Check:
    return Check("warning", name, found, should, remedy)


def error(name: str, found: str, should: str, remedy: str) -> Check:
    return Check("error", name, found, should, remedy)
