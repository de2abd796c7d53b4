"""What a handler writes down about its runs: one line each with O_APPEND, so that it survives the kill of its process."""

from __future__ import annotations

import os
import time

from bananas import current_job


def note(word: str, *more: object) -> None:
    """Append `word id attempt fence pid monotonic_ns ...` to the file that LEDGER names."""
    job = current_job()
    parts = (word, job.id, job.attempt, job.fence, os.getpid(), time.monotonic_ns(), *more)
    fd = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, (" ".join(map(str, parts)) + "\n").encode())
    finally:
        os.close(fd)
