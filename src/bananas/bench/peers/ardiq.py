"""ardiq: a core in Rust, streams."""
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportFunctionMemberAccess=false, reportOptionalMemberAccess=false

import asyncio
import os

import counter
from ardiq import Ardiq

TITLE = "ardiq"
RUNTIME = "python"
INSTALL = ("ardiq>=1,<2", "uvloop")
PYTHON = (3, 12)
GUARANTEE = "at least once"
CONFIGURATION = "app.run() on uvloop (its command line has asyncio), result_ttl_ms=0 except for submit-and-wait; bulk: enqueue_many"
SOURCE = "the description of the package ardiq"
WORKER = ("{python}", "peer.py")
PROFILES = {"drain": {"slots": 100}, "io": {"slots": 100}, "idle": {"slots": 100}}
CHUNK = 2000

app = Ardiq(
    redis_url=os.environ["BENCH_URL"],
    queue_name="bench",
    concurrency=int(os.environ["BENCH_SLOTS"]),
    result_ttl_ms=60_000 if os.environ["BENCH_RESULTS"] == "1" else 0,
)


@app.task(name="noop")
async def noop(payload: str) -> None:
    counter.done()


@app.task(name="sleep")
async def sleep(payload: str) -> None:
    counter.start()
    await asyncio.sleep(0.05)
    counter.done()


@app.task(name="pickup")
async def pickup(payload: str) -> None:
    counter.started(int(payload))
    counter.done()


@app.task(name="echo")
async def echo(payload: str) -> str:
    return payload


TASKS = {"noop": noop, "sleep": sleep, "pickup": pickup, "echo": echo}


async def connect():
    pass


async def submit(task, payload):
    await TASKS[task].enqueue(payload)


async def submit_many(task, payloads):
    await app.enqueue_many([TASKS[task].prepare(payload) for payload in payloads])


async def call(payload):
    job = await echo.enqueue(payload)
    return (await job.result(timeout=10)).value


if __name__ == "__main__":
    import logging

    import uvloop

    logging.basicConfig(level=logging.WARNING)
    uvloop.run(app.run())
