r"""The query language of operators: what somebody types to find jobs. Pure.

    task:send_email state:dead error:Timeout -queue:bulk attempts>=3 age>5m args.user_id:42 "no such host"

A query is terms with spaces between; a job matches when every term does. A term is `name:value`, or for numbers and times `name>=value`
(`>`, `<`, `<=`, `:`), or text alone, which is looked for in the task, the id, the arguments and the errors, in any case.
`-` in front of a term negates it; a comma separates values of which one must fit (`state:dead,scheduled`); in names `*` stands for
anything. A value with spaces, commas or a leading dash stands in double quotes, with \" and \\ inside.
"""

import re
from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from bananas.errors import ConfigError
from bananas.values import parse_duration, parse_priority

Operator = Literal[":", ">", ">=", "<", "<="]
STATES = ("running", "ready", "scheduled", "dead")  # in the order in which they are searched
STATE_NAMES = (*STATES, "retrying")
TEXTS = frozenset({"task", "queue", "id", "error", "worker", "unique", "tag", "error_type", "frame"})
NUMBERS = frozenset({"priority", "attempts", "crashes"})
TIMES = frozenset({"age", "waited", "due", "died"})
PATHS = ("args", "header")
NAMES = (
    *("task", "queue", "state", "id", "error", "error_type", "frame", "worker", "tag", "unique"),
    *("priority", "attempts", "crashes", "age", "waited", "due", "died"),
)

_HEAD = re.compile(r"([A-Za-z_]+)((?:\.[\w-]+)*)(:|>=|<=|>|<)")
_PLAIN = re.compile(r'[^\s,"]+')


class QueryError(ConfigError):
    """The query cannot be read.

    Attributes:
        query, position: the text, and where in it (0 = the first character).
    """

    def __init__(self, message: str, query: str, position: int) -> None:
        self.query, self.position = query, position
        super().__init__(f"{message}, at character {position + 1} of the query:\n  {query}\n  {' ' * position}^")


class Value(Struct, frozen=True):
    """One value of a term: as it was written, whether in quotes, and for numbers and times (ms) what it stands for."""

    text: str
    quoted: bool = False
    number: float = 0.0


class Term(Struct, frozen=True):
    """One condition. `name` is "" for text alone; `path` is what follows `args.` or `header.`."""

    name: str
    values: tuple[Value, ...]
    operator: Operator = ":"
    path: tuple[str, ...] = ()
    negated: bool = False


class Query(Struct, frozen=True):
    """Conditions that all must hold; none: every job."""

    terms: tuple[Term, ...] = ()

    def __str__(self) -> str:
        return " ".join(map(_written, self.terms))

    def only(self, name: str) -> tuple[str, ...] | None:
        """The values of which this name must have one, where a term says so without `*`; else None."""
        for term in self.terms:
            if term.name == name and not term.negated and term.operator == ":" and all("*" not in value.text for value in term.values):
                return tuple(value.text for value in term.values)
        return None

    def states(self) -> tuple[str, ...]:
        """The places that may hold a match, in the order in which they are searched."""
        wanted = set(STATES)
        for term in self.terms:
            named = {value.text for value in term.values}
            if term.name == "state" and term.negated:
                wanted -= named
            elif term.name == "state":
                wanted &= named | ({"scheduled"} if "retrying" in named else set())
            elif not term.negated:
                wanted &= {"waited": {"ready"}, "due": {"scheduled"}, "died": {"dead"}}.get(term.name, wanted)
        return tuple(state for state in STATES if state in wanted)


def parse(text: str) -> Query:
    """Read a query; an empty one matches every job.

    Raises:
        QueryError: says what is wrong, and where.
    """
    return Query(tuple(_terms(text)))


def _terms(text: str) -> Iterator[Term]:
    position = 0
    while True:
        while position < len(text) and text[position].isspace():
            position += 1
        if position == len(text):
            return
        term, position = _term(text, position)
        yield term


def _term(text: str, start: int) -> tuple[Term, int]:
    negated = text[start] == "-"
    begin = start + negated
    head = _HEAD.match(text, begin)
    if head is None:
        value, end = _value(text, begin, ":" if negated else "", free=True)
        return Term("", (value,), negated=negated), end
    name, path, operator = head[1].lower(), tuple(head[2].split(".")[1:]), head[3]
    _check_name(text, begin, name, path, operator)
    values, end = [], head.end()
    while True:
        at = end
        value, end = _value(text, end, name)
        values.append(_checked(text, at, name, value))
        if end == len(text) or text[end] != ",":
            break
        end += 1
    if operator != ":" and len(values) > 1:
        raise QueryError(f"{name}{operator} takes one value", text, head.end())
    return Term(name, tuple(values), operator, path, negated), end  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def _check_name(text: str, at: int, name: str, path: tuple[str, ...], operator: str) -> None:
    if name in PATHS:
        if not path:
            raise QueryError(f"{name} needs the name of one, e.g. {name}.user_id:42", text, at)
        if name == "args" or operator == ":":
            return
    elif name not in NAMES:
        import difflib

        near = difflib.get_close_matches(name, (*NAMES, *PATHS), 1)
        hint = f"did you mean {near[0]}:?" if near else f"there are {', '.join((*NAMES, 'args.NAME', 'header.NAME'))};"
        raise QueryError(f"there is no {name}: to search by; {hint} text with a colon goes in quotes", text, at)
    elif path:
        raise QueryError(f"{name} has no parts, write {name}:", text, at)
    if operator != ":" and name not in NUMBERS | TIMES:
        raise QueryError(f"{name} is text, write {name}:", text, at)


def _value(text: str, start: int, name: str, *, free: bool = False) -> tuple[Value, int]:
    if start < len(text) and text[start] == '"':
        return _quoted(text, start)
    found = re.compile(r'[^\s"]+').match(text, start) if free else _PLAIN.match(text, start)
    if found is None:
        raise QueryError(f"a value is missing{f' after {name}' if name not in ('', ':') else ''}", text, start)
    if found.end() < len(text) and text[found.end()] == '"':
        raise QueryError("a quote in the middle of a word: put the whole value in quotes", text, found.end())
    return Value(found[0]), found.end()


def _quoted(text: str, start: int) -> tuple[Value, int]:
    characters, position = list[str](), start + 1
    while position < len(text):
        character = text[position]
        if character == '"':
            end = position + 1
            if end < len(text) and not text[end].isspace() and text[end] != ",":
                raise QueryError("a space is missing after the quote", text, end)
            return Value("".join(characters), True), end
        if character == "\\" and position + 1 < len(text):
            position += 1
            character = text[position]
        characters.append(character)
        position += 1
    raise QueryError("this quote is not closed", text, start)


def _checked(text: str, at: int, name: str, value: Value) -> Value:
    """The value, with its number where it stands for one."""
    try:
        if name == "state" and value.text not in STATE_NAMES:
            raise ConfigError(f"there is no state {value.text}: {', '.join(STATE_NAMES)}")
        if name == "priority":
            return Value(value.text, value.quoted, parse_priority(value.text))
        if name in NUMBERS:
            if not value.text.isascii() or not value.text.isdecimal():
                raise ConfigError(f"{name} is compared with a whole number, e.g. {name}>=3")
            return Value(value.text, value.quoted, int(value.text))
        if name in TIMES:
            return Value(value.text, value.quoted, parse_duration(value.text, name) * 1000)
    except ConfigError as error:
        raise QueryError(str(error), text, at) from None
    return value


def _written(term: Term) -> str:
    name = f"{'.'.join((term.name, *term.path))}{term.operator}" if term.name else ""
    return f"{'-' if term.negated else ''}{name}{','.join(_quote(value, alone=not name) for value in term.values)}"


def _quote(value: Value, *, alone: bool) -> str:
    text = value.text
    plain = _PLAIN.fullmatch(text) is not None and not (alone and (_HEAD.match(text) or text[0] == "-"))
    if plain and not value.quoted:
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
