"""What a handler writes down about its runs: one line each with O_APPEND, so that it survives the kill of its process."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from bananas import current_job

if TYPE_CHECKING:
    from bananas import CurrentJob


def note(word: str, *more: object, job: CurrentJob | None = None) -> None:
    """Append `word id attempt fence pid monotonic_ns ...` to the file that LEDGER names, for the job that runs or the one given."""
    job = job or current_job()
    parts = (word, job.id, job.attempt, job.fence, os.getpid(), time.monotonic_ns(), *more)
    fd = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, (" ".join(map(str, parts)) + "\n").encode())
    finally:
        os.close(fd)
