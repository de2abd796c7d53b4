"""Whether a job matches a query. Pure: what is known of the job, and the time, are arguments."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from msgspec import Struct

from bananas.job import JobInfo
from bananas.operate.query import Query, Term, Value

_FRAME = re.compile(r'^\s+File "(.+?)", line (\d+)(?:, in (.+))?$', re.MULTILINE)
Parameters = Callable[[str], Sequence[str]]  # of a task: the names of its positional arguments


def no_parameters(_: str) -> Sequence[str]:
    """For tasks whose code is not known."""
    return ()


class Facts(Struct, frozen=True):
    """What a query is held against.

    Attributes:
        now_ms: the server's time.
        unique: its unique key, or "".
        host: the worker that runs it, as `host:pid`, where that is known.
    """

    info: JobInfo
    now_ms: int
    unique: str = ""
    host: str = ""


def matches(query: Query, facts: Facts, parameters: Parameters = no_parameters) -> bool:
    """Whether every term holds."""
    return all(_holds(term, facts, parameters) != term.negated for term in query.terms)


def _holds(term: Term, facts: Facts, parameters: Parameters) -> bool:
    if term.name == "args":
        return _argument_fits(term, facts.info, parameters)
    if term.name == "header":
        given = (facts.info.headers or {}).get(".".join(term.path))
        return given is not None and any(_like(value.text, given) for value in term.values)
    if term.name == "state":
        retrying = facts.info.state == "scheduled" and facts.info.attempts > 0
        return any(value.text == facts.info.state or (retrying and value.text == "retrying") for value in term.values)
    number = _number(term.name, facts)
    if number is not None:
        return any(_compares(number, term.operator, value.number) for value in term.values)
    if term.name in ("priority", "attempts", "crashes", "age", "waited", "due", "died"):
        return False
    return any(_text_fits(term.name, value, facts) for value in term.values)


def _number(name: str, facts: Facts) -> float | None:
    info, now_ms = facts.info, facts.now_ms
    if name in ("priority", "attempts", "crashes"):
        return float(getattr(info, name))
    since = {"age": info.born_ms, "waited": info.ready_since_ms, "died": info.died_ms}.get(name)
    if since is not None:
        return float(max(0, now_ms - since))
    return float(max(0, info.due_ms - now_ms)) if name == "due" and info.due_ms is not None else None


def _compares(number: float, operator: str, wanted: float) -> bool:
    return {
        ":": number == wanted,
        ">": number > wanted,
        ">=": number >= wanted,
        "<": number < wanted,
        "<=": number <= wanted,
    }[operator]


def _text_fits(name: str, value: Value, facts: Facts) -> bool:
    info = facts.info
    if name == "task":
        return _like(value.text, info.task or "")
    if name == "queue":
        listed = info.id.rpartition(".")[0]  # with the shard, where there is one
        return _like(value.text, listed) or _like(value.text, listed.partition(".")[0])
    if name == "id":
        return _like(value.text, info.id) or info.id.rpartition(".")[2].startswith(value.text)
    if name == "unique":
        return bool(facts.unique) and _like(value.text, facts.unique)
    if name == "tag":
        return any(_like(value.text, tag) for tag in info.tags)
    if name == "error":
        return any(_within(value.text, f"{error.type}: {error.message}") for error in info.errors[-1:])
    if name in ("error_type", "frame"):
        return any(_like(value.text, error.type if name == "error_type" else top_frame(error.traceback)) for error in info.errors[-1:])
    if name == "worker":
        hosts = (facts.host, info.worker or "", *(error.worker for error in info.errors[-1:] if info.state != "running"))
        return any(host and (_like(value.text, host) or host.startswith(f"{value.text}:")) for host in hosts)
    return any(_within(value.text, text) for text in _texts(info))


def top_frame(traceback: str) -> str:
    """The innermost frame of a traceback as `file:line in function`; "" where there is none."""
    found = _FRAME.findall(traceback)
    if not found:
        return ""
    file, line, function = found[-1]
    return f"{file}:{line} in {function}" if function else f"{file}:{line}"


def _texts(info: JobInfo) -> Iterable[str]:
    yield info.id
    yield info.task or ""
    for error in info.errors:
        yield f"{error.type}: {error.message}"
    yield f"{info.args!r} {info.kwargs!r}" if info.args is not None else ""


@lru_cache(256)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, re.split(r"\*+", text))), re.DOTALL)


def _like(pattern: str, text: str) -> bool:
    """Whether a name is this, with `*` for anything."""
    return pattern == text if "*" not in pattern else _pattern(pattern).fullmatch(text) is not None


def _within(text: str, where: str) -> bool:
    """Whether the text is in there, in any case, with `*` for anything between."""
    return _pattern(text.lower()).search(where.lower()) is not None


# --- arguments --------------------------------------------------------------------------------------------------------


def _argument_fits(term: Term, info: JobInfo, parameters: Parameters) -> bool:
    if info.args is None:
        return False
    found, value = _step_into(_named(info, parameters), term.path)
    return found and any(_equals(value, term.operator, wanted) for wanted in term.values)


def _named(info: JobInfo, parameters: Parameters) -> dict[str, Any]:
    """All arguments by position, and by name where that is known."""
    args = info.args or ()
    positions = {str(index): value for index, value in enumerate(args)}
    return positions | dict(zip(parameters(info.task or ""), args, strict=False)) | (info.kwargs or {})


def _step_into(value: Any, path: Sequence[str]) -> tuple[bool, Any]:
    for name in path:
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list | tuple) and name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < len(value):
            value = value[int(name)]
        else:
            return False, None
    return True, value


def _equals(value: Any, operator: str, wanted: Value) -> bool:
    if operator != ":":
        try:
            number = float(wanted.text)
        except ValueError:
            return False
        return isinstance(value, int | float) and not isinstance(value, bool) and _compares(value, operator, number)
    if isinstance(value, str):
        return _like(wanted.text, value)
    if wanted.quoted:
        return False
    if value is None or isinstance(value, bool):
        return wanted.text.lower() == ("null" if value is None else str(value).lower())
    if isinstance(value, int | float):
        return wanted.text == str(value) or _same_number(value, wanted.text)
    return False


def _same_number(value: float, text: str) -> bool:
    try:
        return value == (int(text) if text.lstrip("-").isdecimal() and len(text) < 4000 else float(text))
    except ValueError:
        return False
