"""Huey on Redis: threads of one consumer, which pop a job before they run it."""
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportFunctionMemberAccess=false, reportOptionalMemberAccess=false

import os
import time

import counter
from huey import RedisHuey

TITLE = "Huey"
RUNTIME = "python"
INSTALL = ("huey>=3,<4", "redis", "hiredis")
PYTHON = (3, 11)
GUARANTEE = "at most once"
CONFIGURATION = (
    "huey_consumer -n (no periodic tasks), blocking pop, results off except for submit-and-wait; bulk: a loop, it has no other way"
)
SOURCE = "https://huey.readthedocs.io/en/latest/consumer.html"
WORKER = ("{bin}/huey_consumer", "peer.huey", "-k", "thread", "-w", "{slots}", "-n", "-q")
PROFILES = {"drain": {"slots": 1}, "io": {"slots": 100}, "idle": {"slots": 10}}
CHUNK = 500

huey = RedisHuey("bench", url=os.environ["BENCH_URL"], results=os.environ["BENCH_RESULTS"] == "1")


@huey.task()
def noop(payload):
    counter.done_in_thread()


@huey.task()
def sleep(payload):
    counter.start()
    time.sleep(0.05)
    counter.done_in_thread()


@huey.task()
def pickup(payload):
    counter.started(int(payload))
    counter.done_in_thread()


@huey.task()
def echo(payload):
    return payload


TASKS = {"noop": noop, "sleep": sleep, "pickup": pickup, "echo": echo}


def connect():
    pass


def submit(task, payload):
    TASKS[task](payload)


def submit_many(task, payloads):
    for payload in payloads:
        TASKS[task](payload)


def call(payload):
    return echo(payload).get(blocking=True, timeout=10, backoff=1.0, max_delay=0.005)
