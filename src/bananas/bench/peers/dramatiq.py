"""Dramatiq on its Redis broker: threads in a forked process; an idle consumer polls, ever more slowly."""
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportFunctionMemberAccess=false, reportOptionalMemberAccess=false

import os
import time

import counter
import dramatiq
from dramatiq.brokers.redis import RedisBroker

TITLE = "Dramatiq"
RUNTIME = "python"
INSTALL = ("dramatiq[redis]>=2,<3", "hiredis")
PYTHON = (3, 11)
GUARANTEE = "at least once"
CONFIGURATION = (
    "its command line with one process, default middleware, no results except for submit-and-wait; bulk: a loop, it has no other way"
)
SOURCE = "https://dramatiq.io/guide.html"
WORKER = ("{bin}/dramatiq", "peer", "--processes", "1", "--threads", "{slots}", "--skip-logging")
PROFILES = {"drain": {"slots": 100}, "io": {"slots": 100}, "idle": {"slots": 8}}
CHUNK = 500

RESULTS = os.environ["BENCH_RESULTS"] == "1"
broker = RedisBroker(url=os.environ["BENCH_URL"])
if RESULTS:
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend

    broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCH_URL"])))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(payload):
    counter.done_in_thread()


@dramatiq.actor
def sleep(payload):
    counter.start()
    time.sleep(0.05)
    counter.done_in_thread()


@dramatiq.actor
def pickup(payload):
    counter.started(int(payload))
    counter.done_in_thread()


def echo(payload):
    return payload


echo = dramatiq.actor(echo, **({"store_results": True} if RESULTS else {}))
TASKS = {"noop": noop, "sleep": sleep, "pickup": pickup, "echo": echo}


def connect():
    pass


def submit(task, payload):
    TASKS[task].send(payload)


def submit_many(task, payloads):
    for payload in payloads:
        TASKS[task].send(payload)


def call(payload):
    return echo.send(payload).get_result(block=True, timeout=10_000)
