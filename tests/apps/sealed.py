"""Tasks whose payloads are sealed, for workers that may lack what opens them: WITHOUT names modules that are not installed there."""

from __future__ import annotations

import os
import sys

from bananas import Bananas, Retry

for name in filter(None, os.environ.get("WITHOUT", "").split(",")):
    sys.modules[name] = None  # type: ignore[assignment]

app = Bananas()


@app.task
async def echo(text: str) -> list[str]:
    return [str(os.getppid()), text]


@app.task(isolation="process", max_retries=0)
def echo_isolated(text: str, *, fail: bool = False) -> str:
    if fail:
        raise ValueError(text)
    return text


@app.task(retry=Retry(base=0.01, cap=0.01), max_retries=1)
async def fails(text: str) -> None:
    raise ValueError(text)
