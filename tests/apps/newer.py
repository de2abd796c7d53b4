"""A later version of `basic`: it has one more task, and the signature of another has changed."""

from __future__ import annotations

import os

from bananas import Bananas

app = Bananas()


@app.task
async def whoami() -> int:
    return os.getpid()


@app.task
async def only_newer() -> int:
    return os.getpid()


@app.task(max_retries=0)
async def double(x: int, factor: int) -> int:
    return x * factor
