"""The tasks of `bananas demo`: they read real files."""

import asyncio
import hashlib
import time
import zlib
from pathlib import Path

from msgspec import Struct

from bananas.app import Bananas
from bananas.context import current_job
from bananas.retry import Retry

app = Bananas()


class Digest(Struct):
    """What a job found out about a file; `started` in seconds since the epoch, `run` in seconds."""

    path: str
    sha256: str
    size: int
    ratio: float
    attempt: int
    started: float
    run: float


@app.task(queue="demo", max_retries=1, retry=Retry(base=0.1, factor=1, cap=0.2), timeout=60)
async def digest(path: str, fail_first: bool = False) -> Digest:
    """Read a file; return its SHA-256 and how well it compresses."""
    started, clock = time.time(), time.perf_counter()
    attempt = current_job().attempt
    if fail_first and attempt == 1:
        raise ConnectionError("this job fails once, to show a retry")
    data = await asyncio.to_thread(Path(path).read_bytes)
    packed = len(zlib.compress(data, 1))
    return Digest(
        path, hashlib.sha256(data).hexdigest(), len(data), len(data) / max(1, packed), attempt, started, time.perf_counter() - clock
    )


@app.task(queue="demo", max_retries=1, retry=Retry(base=0.1, factor=1, cap=0.2))
async def always_fails(path: str) -> None:
    """Fail whatever happens, to show the dead letter queue."""
    raise ValueError(f"{path} cannot be digested: this job always fails, to show a dead letter")
