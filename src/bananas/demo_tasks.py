"""The tasks of `bananas demo`: they read real files, in a worker's threads, where hashing and compressing leave the GIL free."""

import asyncio
import hashlib
import os
import signal
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator

from msgspec import Struct

from bananas.app import Bananas
from bananas.context import current_job
from bananas.retry import Retry

LIFELINE = "DEMO_LIFELINE"  # set: stdin is a pipe that ends with the demo, stdout one on which it waits for the workers
CHUNK_BYTES = 1 << 20
QUICK = Retry(base=0.1, factor=1, cap=0.2)

app = Bananas()


class FileReport(Struct, frozen=True):
    """What a job found out about a file, and how it ran: `started` in seconds since the epoch, `run_s` the handler alone."""

    sha256: str
    size_bytes: int
    packed_bytes: int
    attempt: int
    pid: int
    started: float
    run_s: float


@app.task(queue="demo", max_retries=1, retry=QUICK, timeout=600)
def digest(path: bytes, fail_first: bool = False) -> FileReport:
    """Read a file; return its SHA-256 and how small zlib makes it. A path is bytes, because a file's name need not be text."""
    started, clock = time.time(), time.perf_counter()
    attempt = current_job().attempt
    if fail_first and attempt == 1:
        raise ConnectionError("this job fails once, to show a retry")
    sha256, packer = hashlib.sha256(), zlib.compressobj()
    size_bytes = packed_bytes = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha256.update(chunk)
            size_bytes += len(chunk)
            packed_bytes += len(packer.compress(chunk))
    packed_bytes += len(packer.flush())
    return FileReport(sha256.hexdigest(), size_bytes, packed_bytes, attempt, os.getpid(), started, time.perf_counter() - clock)


@app.task(queue="demo", max_retries=1, retry=QUICK)
async def always_fails() -> None:
    """Fail whatever happens, to show the dead letter queue."""
    await asyncio.sleep(0)
    raise ValueError("this job always fails, to show a dead letter")


@app.lifespan
async def resources() -> AsyncIterator[None]:
    """Below a demo: say when this process is ready, and end its worker when the demo is gone, also when it was killed."""
    if LIFELINE in os.environ:
        threading.Thread(target=_end_with_the_demo, args=[os.getppid()], daemon=True).start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
    yield None


def _end_with_the_demo(supervisor_pid: int) -> None:
    os.read(0, 1)  # blocks until the other end is closed; sys.stdin would hold a lock that the interpreter wants when it ends
    if os.getppid() == supervisor_pid:
        os.kill(supervisor_pid, signal.SIGTERM)
