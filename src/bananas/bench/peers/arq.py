"""arq: asyncio, a sorted set and a key per job, polled."""
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportFunctionMemberAccess=false, reportOptionalMemberAccess=false

import asyncio
import os

import counter
from arq import create_pool, func, run_worker
from arq.connections import RedisSettings

TITLE = "arq"
RUNTIME = "python"
INSTALL = ("arq>=0.28,<0.29", "hiredis", "uvloop")
PYTHON = (3, 11)
GUARANTEE = "at least once"
CONFIGURATION = (
    "run_worker on uvloop, poll_delay 0.01 (default 0.5), keep_result=0 except for submit-and-wait, which polls every 5 ms (default 500); "
    "bulk: gather of 50 enqueue_job, it has no other way"
)
SOURCE = "https://arq-docs.helpmanual.io/"
WORKER = ("{python}", "peer.py")
PROFILES = {"drain": {"slots": 100}, "io": {"slots": 100}, "idle": {"slots": 100}}
CHUNK = 50

SETTINGS = RedisSettings.from_dsn(os.environ["BENCH_URL"])
KEEP = 60 if os.environ["BENCH_RESULTS"] == "1" else 0
pool = None


async def noop(ctx, payload):
    counter.done()


async def sleep(ctx, payload):
    counter.start()
    await asyncio.sleep(0.05)
    counter.done()


async def pickup(ctx, payload):
    counter.started(int(payload))
    counter.done()


async def echo(ctx, payload):
    return payload


async def connect():
    global pool
    pool = await create_pool(SETTINGS)


async def submit(task, payload):
    await pool.enqueue_job(task, payload)


async def submit_many(task, payloads):
    await asyncio.gather(*[pool.enqueue_job(task, payload) for payload in payloads])


async def call(payload):
    job = await pool.enqueue_job("echo", payload)
    return await job.result(timeout=10, poll_delay=0.005)


class WorkerSettings:
    functions = tuple(func(handler, keep_result=KEEP) for handler in (noop, sleep, pickup, echo))
    redis_settings = SETTINGS
    max_jobs = int(os.environ["BENCH_SLOTS"])
    poll_delay = 0.01


if __name__ == "__main__":
    import logging

    import uvloop

    logging.basicConfig(level=logging.WARNING)
    uvloop.install()
    asyncio.set_event_loop(asyncio.new_event_loop())
    run_worker(WorkerSettings)
