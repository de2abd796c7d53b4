"""BlitzQ in its reliable mode: streams, acknowledged after the run."""
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportFunctionMemberAccess=false, reportOptionalMemberAccess=false

import asyncio
import os

import counter
from blitzq import Queue

TITLE = "BlitzQ"
RUNTIME = "python"
INSTALL = ("blitzq>=1,<2", "hiredis")
PYTHON = (3, 12)
GUARANTEE = "at least once"
CONFIGURATION = "its command line, mode=reliable, store_results off except for submit-and-wait; bulk: enqueue_many"
SOURCE = "the description of the package blitzq"
WORKER = ("{bin}/blitzq", "worker", "peer:queue", "-c", "{slots}", "--log-level", "ERROR")
PROFILES = {"drain": {"slots": 500}, "io": {"slots": 100}, "idle": {"slots": 100}}
CHUNK = 1000

queue = Queue(name="bench", redis_url=os.environ["BENCH_URL"], mode="reliable", store_results=os.environ["BENCH_RESULTS"] == "1")


@queue.task
async def noop(payload):
    counter.done()


@queue.task
async def sleep(payload):
    counter.start()
    await asyncio.sleep(0.05)
    counter.done()


@queue.task
async def pickup(payload):
    counter.started(int(payload))
    counter.done()


@queue.task
async def echo(payload):
    return payload


TASKS = {"noop": noop, "sleep": sleep, "pickup": pickup, "echo": echo}


async def connect():
    pass


async def submit(task, payload):
    await TASKS[task].enqueue(payload)


async def submit_many(task, payloads):
    await TASKS[task].enqueue_many([(payload,) for payload in payloads])


async def call(payload):
    task = await echo.enqueue(payload)
    return await queue.get_result(task.id, timeout=10)
