"""SAQ: asyncio, lists and a key per job."""
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportFunctionMemberAccess=false, reportOptionalMemberAccess=false

import asyncio
import os

import counter
from saq.queue.redis import RedisQueue

TITLE = "SAQ"
RUNTIME = "python"
INSTALL = ("saq[redis,hiredis]>=0.26,<0.27", "uvloop", "typing_extensions")
PYTHON = (3, 11)
GUARANTEE = "at least once"
CONFIGURATION = (
    "saq.worker.start on uvloop, no result kept except for submit-and-wait, max_concurrent_ops 100 (default 20), apply polls every 2 ms "
    "(default 500); bulk: gather of 100 enqueue, it has no other way"
)
SOURCE = "https://saq-py.readthedocs.io/"
WORKER = ("{python}", "peer.py")
PROFILES = {"drain": {"slots": 10}, "io": {"slots": 100}, "idle": {"slots": 10}}
CHUNK = 100

TTL = 60 if os.environ["BENCH_RESULTS"] == "1" else -1
queue = None


def new_queue():
    return RedisQueue.from_url(os.environ["BENCH_URL"], name="bench", max_concurrent_ops=100)


async def noop(ctx, *, payload):
    counter.done()


async def sleep(ctx, *, payload):
    counter.start()
    await asyncio.sleep(0.05)
    counter.done()


async def pickup(ctx, *, payload):
    counter.started(int(payload))
    counter.done()


async def echo(ctx, *, payload):
    return payload


def settings():
    return {"queue": new_queue(), "functions": [noop, sleep, pickup, echo], "concurrency": int(os.environ["BENCH_SLOTS"])}


async def connect():
    global queue
    queue = new_queue()
    await queue.connect()


async def submit(task, payload):
    await queue.enqueue(task, ttl=TTL, payload=payload)


async def submit_many(task, payloads):
    await asyncio.gather(*[queue.enqueue(task, ttl=TTL, payload=payload) for payload in payloads])


async def call(payload):
    return await queue.apply("echo", timeout=10, poll_interval=0.002, ttl=TTL, payload=payload)


if __name__ == "__main__":
    import logging

    import uvloop
    from saq.worker import start

    logging.basicConfig(level=logging.WARNING)
    uvloop.install()
    asyncio.set_event_loop(asyncio.new_event_loop())
    start("peer.settings")
