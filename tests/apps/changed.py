"""A later version of `drafts`, whose handlers have changed in every way that a handler can; and one that is new."""

from __future__ import annotations

from bananas import Bananas

app = Bananas()


@app.task(max_retries=0)
async def more(x: int, factor: int) -> int:
    return x * factor


@app.task(max_retries=0)
async def with_default(x: int, factor: int = 3) -> int:
    return x * factor


@app.task(max_retries=0)
async def fewer() -> int:
    return 0


@app.task(max_retries=0)
async def fewer_named() -> int:
    return 0


@app.task(max_retries=0)
async def typed(x: int) -> int:
    return x


@app.task(max_retries=0)
async def renamed(number: int) -> int:
    return number


@app.task
async def added() -> str:
    return "added"


@app.task(max_retries=0)
async def kept(x: int) -> int:
    return x + 1
