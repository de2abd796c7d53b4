"""What several test files need."""

import asyncio
import time
from collections.abc import Awaitable, Callable


def wait_until(condition: Callable[[], object], timeout: float = 15.0, what: str = "the condition") -> None:
    """Return when `condition()` is true; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout:g} s"
        time.sleep(0.005)


async def eventually(condition: Callable[[], Awaitable[object]], timeout: float = 15.0, what: str = "the condition") -> None:
    """`wait_until` on an event loop."""
    deadline = time.monotonic() + timeout
    while not await condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout:g} s"
        await asyncio.sleep(0.005)
