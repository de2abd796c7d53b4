"""Tasks that stay in a place that a stack can show, each kind of handler in its way, until a file exists."""

from __future__ import annotations

import asyncio
import time

from tests.apps.basic import is_open
from tests.apps.ledger import note

from bananas import Bananas
from bananas.inspector import workers

app = Bananas()


async def _inner(gate: str) -> None:
    while not is_open(gate):
        await asyncio.sleep(0.01)  # waiting


def _sleep(gate: str) -> None:
    while not is_open(gate):
        time.sleep(0.01)  # sleeping


@app.task(timeout=60)
async def waits(gate: str) -> None:
    note("start")
    await _inner(gate)  # in waits


@app.task(timeout=60)
async def blocks(gate: str) -> None:
    note("start")
    _sleep(gate)  # in blocks


@app.task(timeout=60)
def on_a_thread(gate: str) -> None:
    note("start")
    _sleep(gate)  # in on_a_thread


@app.task(timeout=60, isolation="process")
def on_its_own(gate: str) -> None:
    note("start")
    _sleep(gate)  # in on_its_own


@app.task(timeout=60, isolation="process")
async def waits_on_its_own(gate: str) -> None:
    note("start")
    await _inner(gate)  # in waits_on_its_own


@app.task
async def peers() -> list[str]:
    """The workers that are in the registry while this runs."""
    return [worker.boot for worker in await workers(app)]
