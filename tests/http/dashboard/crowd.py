"""A namespace with many jobs, in all states, and an hour behind it."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from tests.apps import shop
from tests.support import eventually

from bananas import Bananas, broker, operate
from bananas.keys import QueueKeys, task_tag
from bananas.tally import BOUNDS_MS, Counts, fields_of

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from bananas.task import Call

T = TypeVar("T")
CHUNK = 5_000
PEOPLE = ("ada", "bob", "eve", "kim", "leo", "mia", "noa", "tom")


def apart(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of a thread of its own: Playwright has one on this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def calls(total: int) -> Iterator[Call[Any]]:
    """So many calls: of 100 there are 10 that die, 5 that wait for a retry, 5 that succeed, 20 scheduled, and 60 that nobody takes."""
    for number in range(total):
        to, kind = f"{PEOPLE[number % 8]}@example.org", number % 100
        if kind < 10:
            yield shop.charge_card.options(headers={"tenant": f"t{number % 7}"}, tags=("import",)).bind(number, 100 + number % 900)
        elif kind < 15:
            yield shop.sync_ledger.bind(f"account-{number % 40}")
        elif kind < 20:
            yield shop.send_email.bind(to)
        elif kind < 40:
            yield shop.send_email.options(delay=3600 + number % 7200, priority=("low", "normal")[number % 2]).bind(to, "reminder")
        else:
            yield shop.send_email.options(queue="newsletter", priority=(100, 500, 500, 900)[number % 4]).bind(to, f"issue {number % 12}")


async def crowd(url: str, namespace: str, total: int) -> None:
    """Submit, and wait until what a worker does with it is done."""
    app = Bananas(url, namespace=namespace)
    try:
        listed = calls(total)
        while part := [call for _, call in zip(range(CHUNK), listed, strict=False)]:
            await app.submit_many(part)
        await app.submit_many([shop.resize_image.bind(f"s3://photos/{number}.jpg", 640) for number in range(6)])
        await eventually(lambda: _is_done(app, total), "the worker's part", 240)
    finally:
        await app.close()


async def _is_done(app: Bananas, total: int) -> bool:
    found = {queue.name: queue for queue in await operate.queues(app)}
    billing = found["billing"]
    return (billing.dead, billing.scheduled, found["media"].running, found["email"].ready) == (total // 10, total // 20, 6, 0)


async def an_hour(url: str, namespace: str) -> None:
    """Write down what workers would have counted in the last two hours of a shop."""
    app, chance = Bananas(url, namespace=namespace), random.Random(7)
    newest = int(time.time()) // 60
    try:
        for queue, task, level, ran_ms in (
            ("email", "send_email", 900, 35),
            ("billing", "charge_card", 120, 180),
            ("media", "resize_image", 60, 900),
        ):
            keys = QueueKeys(namespace, queue)
            for minute in range(newest - 120, newest):
                wave = 1 + 0.4 * math.sin(minute / 9) + (1.2 if 30 <= newest - minute <= 38 else 0)
                fields = {task_tag(task): task} | dict(fields_of(task_tag(task), _counted(int(level * wave), wave, ran_ms, chance)))
                depths = {"=h": int(4 * wave), "=n": int(90 * wave * wave), "=l": int(40 * wave), "=s": 300, "=d": 12}
                flat = [part for pair in (fields | depths).items() for part in pair]
                await app.client.ask(keys, broker.plain(int, "HSET", keys.stats(minute), *flat), "writing an hour")
    finally:
        await app.close()


def _counted(many: int, wave: float, ran_ms: float, chance: random.Random) -> Counts:
    counts = Counts()
    counts.outcomes = [many, int(many * 0.01 * wave), int(many * 0.004 * wave), 0]
    for _ in range(60):
        counts.wait.add(min(BOUNDS_MS[-1], 4 * wave**3 * chance.lognormvariate(0, 1)), max(1, many // 60))
        counts.run.add(ran_ms * chance.lognormvariate(0, 0.5), max(1, many // 60))
    return counts


def gate_of(environment: dict[str, str], folder: Any) -> str:
    """Where the gate of resize_image is; also set in the environment."""
    environment["SHOP_GATE"] = os.path.join(folder, "gate")
    return environment["SHOP_GATE"]
