"""Keys: read from the terminal as they are pressed, and what they mean."""

import os
import sys
import termios
import tty
from types import TracebackType

SORTS = ("name", "ready", "oldest", "out", "dead", "backlog")
ESCAPE, ENTER, ERASE = "\x1b", "\r\n", "\x7f\b"
_UP, _DOWN = ("\x1b[A", "\x1bOA", "k"), ("\x1b[B", "\x1bOB", "j")
LONGEST = 100


class Controls:
    """What the view is told to show.

    Attributes:
        ending: it is to end. frozen: it stands still. sort: by which column. filter: what names must contain.
        typing: the filter is being typed. offset: the first queue that is shown.
    """

    def __init__(self) -> None:
        self.ending = self.frozen = self.typing = False
        self.sort, self.filter, self.offset = SORTS[0], "", 0

    def press(self, text: str) -> None:
        """Take in what the terminal sent at once: one key, or several that were pressed quickly."""
        while text:
            key = next((each for each in (*_UP, *_DOWN) if len(each) > 1 and text.startswith(each)), text[0])
            text = text[len(key) :]
            if key == ESCAPE and text[:1] in ("[", "O"):
                text = _behind_sequence(text)  # a key that means nothing here
            elif self.typing:
                self._type(key)
            else:
                self._command(key)

    def _type(self, key: str) -> None:
        if key in ENTER:
            self.typing = False
        elif key == ESCAPE:
            self.typing, self.filter = False, ""
        elif key in ERASE:
            self.filter = self.filter[:-1]
        elif key.isprintable() and len(self.filter) < LONGEST:
            self.filter, self.offset = self.filter + key, 0

    def _command(self, key: str) -> None:
        if key in "qQ":
            self.ending = True
        elif key in "p ":
            self.frozen = not self.frozen
        elif key == "s":
            self.sort, self.offset = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)], 0
        elif key == "/":
            self.typing = True
        elif key == ESCAPE:
            self.filter, self.offset = "", 0
        elif key in _UP:
            self.offset = max(0, self.offset - 1)
        elif key in _DOWN:
            self.offset += 1


def _behind_sequence(text: str) -> str:
    for index, character in enumerate(text[1:], 1):
        if "@" <= character <= "~":
            return text[index + 1 :]
    return ""


class Keyboard:
    """The terminal's keys one by one, without an echo, while this is open; afterwards it is as it was."""

    def __init__(self) -> None:
        self.descriptor = sys.stdin.fileno()

    def __enter__(self) -> "Keyboard":
        self._before = termios.tcgetattr(self.descriptor)
        tty.setcbreak(self.descriptor)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        termios.tcsetattr(self.descriptor, termios.TCSADRAIN, self._before)

    def read(self) -> str:
        """What was pressed; nothing where the terminal is gone."""
        try:
            return os.read(self.descriptor, 1024).decode("utf-8", "ignore")
        except OSError:
            return ""
