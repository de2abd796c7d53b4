"""taskiq with taskiq-redis' RedisStreamBroker: a consumer group, acknowledged after the run. It never trims its stream."""
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportFunctionMemberAccess=false, reportOptionalMemberAccess=false

import asyncio
import os

import counter
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

TITLE = "taskiq stream"
RUNTIME = "python"
INSTALL = ("taskiq-redis>=1,<2", "hiredis", "uvloop")
PYTHON = (3, 11)
GUARANTEE = "at least once"
CONFIGURATION = (
    "its command line with --workers 1 --no-parse on uvloop; results off except for submit-and-wait, which polls every 5 ms (default 200); "
    "bulk: gather of 100 kiq, it has no other way"
)
SOURCE = "https://taskiq-python.github.io/guide/cli.html"
WORKER = (
    "{bin}/taskiq", "worker", "peer:broker", "--workers", "1", "--max-async-tasks", "{slots}", "--max-prefetch", "{prefetch}", "--no-parse",
    "--log-level", "WARNING",
)  # fmt: skip
PROFILES = {"drain": {"slots": 1000, "prefetch": 1000}, "io": {"slots": 100, "prefetch": 100}, "idle": {"slots": 10, "prefetch": 0}}
CHUNK = 100

broker = RedisStreamBroker(os.environ["BENCH_URL"], max_connection_pool_size=120)
if os.environ["BENCH_RESULTS"] == "1":
    broker = broker.with_result_backend(RedisAsyncResultBackend(os.environ["BENCH_URL"], result_ex_time=60))


@broker.task(task_name="noop")
async def noop(payload):
    counter.done()


@broker.task(task_name="sleep")
async def sleep(payload):
    counter.start()
    await asyncio.sleep(0.05)
    counter.done()


@broker.task(task_name="pickup")
async def pickup(payload):
    counter.started(int(payload))
    counter.done()


@broker.task(task_name="echo")
async def echo(payload):
    return payload


TASKS = {"noop": noop, "sleep": sleep, "pickup": pickup, "echo": echo}


async def connect():
    await broker.startup()


async def submit(task, payload):
    await TASKS[task].kiq(payload)


async def submit_many(task, payloads):
    await asyncio.gather(*[TASKS[task].kiq(payload) for payload in payloads])


async def call(payload):
    task = await echo.kiq(payload)
    return (await task.wait_result(check_interval=0.005, timeout=10)).return_value
