"""Tasks that block the event loop, each in its way; and some that take as long and do not."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import re
import time
from typing import Any

from tests.apps.ledger import note

from bananas import Bananas

app = Bananas()


@app.task(timeout=60)
async def spins(seconds: float) -> None:
    until = time.monotonic() + seconds
    any(time.monotonic() > until for _ in itertools.count())  # spinning


@app.task(timeout=60)
async def sleeps(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251  # sleeping


@app.task(timeout=60)
async def matches(seconds: float) -> None:
    """A regular expression that backtracks, in one call, for at least so long."""
    length, took = 18, 0.0
    while took < seconds:
        began = time.monotonic()
        re.match("(a+)+$", "a" * length + "b")  # matching
        took = time.monotonic() - began
        length += 1 if took > seconds / 4 else 2


@app.task(timeout=60)
async def naps_in_c(seconds: float) -> None:
    """Hold the GIL without using the processor."""
    libc: Any = ctypes.PyDLL(None)
    libc.usleep(int(seconds * 1e6))  # napping


@app.task(timeout=60)
async def follows(seconds: float) -> None:
    note("start")
    await asyncio.sleep(seconds)


@app.task(timeout=60)
def follows_sync(seconds: float) -> None:
    note("start")
    time.sleep(seconds)
