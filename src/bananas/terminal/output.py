"""How the commands for operators write: a table at a terminal, tab-separated columns elsewhere, or JSON lines.

What jobs carry (names, arguments, errors) was written by anybody: it is shown as text. Control characters, and those that turn the
direction of text, are written as escapes; nothing is read as markup.
"""

import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec

from bananas.operate.why import span

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"}


def clean(value: object, limit: int = 0) -> str:
    """Text of one line without anything that a terminal obeys; at most `limit` characters, 0 = all."""
    text = str(value)
    if limit and len(text) > limit:
        text = f"{text[: limit - 1]}…"
    return "".join(character if unicodedata.category(character) not in _HIDDEN else _escaped(character) for character in text)


def clean_lines(text: str) -> str:
    """The same for text of several lines."""
    return "\n".join(map(clean, text.split("\n")))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def to_json(value: Any) -> str:
    """One line of JSON, in ASCII where a terminal would obey it."""
    return clean(msgspec.json.encode(value, enc_hook=str).decode())


def at_terminal() -> bool:
    """Whether people read standard output."""
    return sys.stdout.isatty()


def print_json(values: Iterable[Any]) -> None:
    """One line per value."""
    for value in values:
        click.echo(to_json(value))


def print_table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table at a terminal, else lines of cells with tabs between, the names first."""
    lines = [[clean(cell) for cell in row] for row in rows]
    if not at_terminal():
        for line in [list(names), *lines]:
            click.echo("\t".join(line))
        return
    from rich.console import Console

    Console().print(table(names, lines))


def table(names: Sequence[str], lines: Iterable[Sequence[str]]) -> Any:
    """A rich table of clean cells."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        made.add_column(name, overflow="fold")
    for line in lines:
        made.add_row(*(Text(cell) for cell in line))
    return made


def spoken(ms: float | None) -> str:
    """A duration, "-" for none."""
    return "-" if ms is None else span(ms)
