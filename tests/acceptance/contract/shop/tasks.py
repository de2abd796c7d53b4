"""A further module with tasks."""

from shop.app import app


@app.task
def resize(path: str, width: int) -> int:
    return width


@app.task(queue="bulk")
async def wait_for_ever() -> None:
    import asyncio

    await asyncio.Event().wait()
