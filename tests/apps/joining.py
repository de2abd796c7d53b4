"""A program that joins the embedded server, says what it got, and executes one line of its input at a time.

A line is a Redis command, "fork", or "exit"; each answer is a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from tests.support import ask_server

from bananas import embedded
from bananas.errors import BananasError


def say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def fork() -> int:
    """A child that does nothing with the server, and outlives its parent."""
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    return child


def main() -> int:
    try:
        server = embedded.join(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    except BananasError as error:
        say({"error": f"{type(error).__name__}: {error}"})
        return 1
    say({"url": server.url, "directory": str(server.directory), "pid": server.pid, "watcher_pid": server.watcher_pid})
    for line in sys.stdin:
        if line.strip() == "exit":
            break
        say(fork() if line.strip() == "fork" else ask_server(server.url, *line.split()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
