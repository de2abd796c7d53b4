"""The tasks of the benchmark, run by `bananas worker bananas.bench.tasks:app` as anybody's tasks are.

They count through counter.py, so that nothing but the work of the queue reaches the server. Results are off unless the name says "kept".
"""

import asyncio
import hashlib
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

from bananas.app import Bananas
from bananas.bench import counter
from bananas.context import CurrentJob
from bananas.seals import compresses

LIFELINE = "BENCH_LIFELINE"  # set: stdin is a pipe that ends with the benchmark, and a line on stdout says that the process is ready
READY = "bench: ready"
NAMESPACE = "bench"

app = Bananas(namespace=NAMESPACE)


@app.task(result_ttl=0)
async def noop(payload: str) -> None:
    """The least that a job can do."""
    counter.done()


@app.task
async def noop_kept(payload: str) -> None:
    """The same with a stored result."""
    counter.done()


@app.task(result_ttl=0)
async def timed(sent_ns: int, payload: str) -> None:
    """A job that knows when it was sent, or was to be sent."""
    counter.started(sent_ns)
    counter.done()


@app.task
async def timed_kept(sent_ns: int, payload: str) -> None:
    """The same with a stored result."""
    counter.started(sent_ns)
    counter.done()


def _accepted(job: CurrentJob, sent_ns: Any) -> None:
    counter.ended(sent_ns)


@app.task(result_ttl=0, on_success=_accepted)
async def watched(sent_ns: int, payload: str) -> int:
    """`timed`, which also notes when the server had accepted the outcome: by a hook, which costs, so only some jobs are of this task."""
    counter.started(sent_ns)
    counter.done()
    return sent_ns


@app.task(on_success=_accepted)
async def watched_kept(sent_ns: int, payload: str) -> int:
    """The same with a stored result."""
    counter.started(sent_ns)
    counter.done()
    return sent_ns


@app.task(result_ttl=0)
async def take(payload: bytes) -> None:
    """A job with a large payload, stored as it is."""
    counter.start()
    counter.done()


if compresses():

    @app.task(result_ttl=0, compression="zstd")
    async def take_zstd(payload: bytes) -> None:
        """The same, compressed."""
        counter.start()
        counter.done()


@app.task
async def echo(payload: str) -> str:
    """Its result is its payload."""
    return payload


@app.task(result_ttl=0)
async def pause(seconds: float) -> None:
    """A job that waits for something else."""
    counter.start()
    await asyncio.sleep(seconds)
    counter.done()


@app.task(result_ttl=0)
def burn(rounds: int) -> None:
    """A job that computes, in a thread."""
    counter.start_in_thread()
    compute(rounds)
    counter.done_in_thread()


def compute(rounds: int) -> str:
    """Pure Python that holds the GIL: `rounds` small hashes."""
    digest = b""
    for _ in range(rounds):
        digest = hashlib.blake2b(digest, digest_size=16).digest()
    return digest.hex()


@app.lifespan
async def resources() -> AsyncIterator[None]:
    """Below a benchmark: say when this process is ready, and end its worker when the benchmark is gone, also when it was killed."""
    if LIFELINE in os.environ:
        threading.Thread(target=_end_with_the_benchmark, args=[os.getppid()], daemon=True).start()
        sys.stdout.write(f"{READY}\n")
        sys.stdout.flush()
    yield None


def _end_with_the_benchmark(supervisor_pid: int) -> None:
    os.read(0, 1)  # blocks until the other end is closed
    if os.getppid() == supervisor_pid:
        os.kill(supervisor_pid, signal.SIGTERM)
