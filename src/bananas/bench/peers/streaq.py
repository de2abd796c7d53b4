"""streaQ: asyncio on anyio, streams and server functions."""
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportFunctionMemberAccess=false, reportOptionalMemberAccess=false

import asyncio
import os

import counter
from streaq import Worker

TITLE = "streaQ"
RUNTIME = "python"
INSTALL = ("streaq>=7,<8", "uvloop")
PYTHON = (3, 11)
GUARANTEE = "at least once"
CONFIGURATION = "Worker.run_sync on uvloop, silent tasks, ttl=0 except for submit-and-wait; bulk: enqueue_many"
SOURCE = "https://streaq.readthedocs.io/en/latest/"
WORKER = ("{python}", "-c", "from peer import worker; worker.run_sync()")
PROFILES = {"drain": {"slots": 32}, "io": {"slots": 100}, "idle": {"slots": 32}}
CHUNK = 2000

SLOTS = int(os.environ["BENCH_SLOTS"])
TTL = 60 if os.environ["BENCH_RESULTS"] == "1" else 0
worker = Worker(redis_url=os.environ["BENCH_URL"], concurrency=SLOTS, prefetch=SLOTS, anyio_kwargs={"use_uvloop": True})
opened = None


@worker.task(silent=True, ttl=TTL, name="noop")
async def noop(payload: str) -> None:
    counter.done()


@worker.task(silent=True, ttl=TTL, name="sleep")
async def sleep(payload: str) -> None:
    counter.start()
    await asyncio.sleep(0.05)
    counter.done()


@worker.task(silent=True, ttl=TTL, name="pickup")
async def pickup(payload: str) -> None:
    counter.started(int(payload))
    counter.done()


@worker.task(silent=True, ttl=TTL, name="echo")
async def echo(payload: str) -> str:
    return payload


TASKS = {"noop": noop, "sleep": sleep, "pickup": pickup, "echo": echo}


async def connect():
    global opened
    opened = worker.__asynccontextmanager__()
    await opened.__aenter__()


async def submit(task, payload):
    await TASKS[task].enqueue(payload)


async def submit_many(task, payloads):
    await worker.enqueue_many([TASKS[task].enqueue(payload) for payload in payloads])


async def call(payload):
    task = await echo.enqueue(payload)
    return (await task.result(timeout=10)).result
