"""Bananas, through its public interface and its command line."""
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportFunctionMemberAccess=false, reportOptionalMemberAccess=false

import asyncio
import os

import counter

from bananas.app import Bananas

TITLE = "Bananas"
RUNTIME = "here"
INSTALL = ()
PYTHON = (3, 11)
GUARANTEE = "at least once"
CONFIGURATION = "the command line, all defaults but the slots; results off except for submit-and-wait"
SOURCE = "docs/workers.md"
WORKER = ("{python}", "-m", "bananas", "worker", "peer:app", "--concurrency", "{slots}", "--log-level", "warning")
PROFILES = {"drain": {"slots": 100}, "io": {"slots": 100}, "idle": {"slots": 10}}
CHUNK = 2000

app = Bananas(os.environ["BENCH_URL"], namespace="bench")
TTL = 60 if os.environ["BENCH_RESULTS"] == "1" else 0


@app.task(result_ttl=TTL)
async def noop(payload: str) -> None:
    counter.done()


@app.task(result_ttl=TTL)
async def sleep(payload: str) -> None:
    counter.start()
    await asyncio.sleep(0.05)
    counter.done()


@app.task(result_ttl=TTL)
async def pickup(payload: str) -> None:
    counter.started(int(payload))
    counter.done()


@app.task(result_ttl=TTL)
async def echo(payload: str) -> str:
    return payload


TASKS = {"noop": noop, "sleep": sleep, "pickup": pickup, "echo": echo}


async def connect():
    pass


async def submit(task, payload):
    await TASKS[task].submit(payload)


async def submit_many(task, payloads):
    await app.submit_many([TASKS[task].bind(payload) for payload in payloads])


async def call(payload):
    job = await echo.submit(payload)
    return await job.result(timeout=10)
