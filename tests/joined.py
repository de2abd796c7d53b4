"""A program of its own that uses the embedded server, for tests: told what to do line by line."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.support import clean_environment

if TYPE_CHECKING:
    from pathlib import Path


class Joined:
    """A process that runs tests/apps/joining.py."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        command = [sys.executable, "-m", "tests.apps.joining", *arguments]
        self.process = subprocess.Popen(command, cwd=cwd, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hear(self) -> Any:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 20)[0], "the program said nothing"
        return json.loads(self.process.stdout.readline())

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ask(self, line: str) -> Any:
        self.tell(line)
        return self.hear()

    def exit(self) -> None:
        self.tell("exit")
        assert self.process.wait(10) == 0

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
