"""Celery with its Redis transport. It acknowledges a job before it runs it, unless told otherwise."""
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportFunctionMemberAccess=false, reportOptionalMemberAccess=false

import os
import time

import counter
from celery import Celery

TITLE = "Celery"
RUNTIME = "python"
INSTALL = ("celery[redis]>=5,<6", "hiredis")
PYTHON = (3, 11)
GUARANTEE = "at most once"
CONFIGURATION = (
    "solo pool for the drain (the fastest with one process), threads for the rest; results ignored except for submit-and-wait, "
    "prefetch raised, no gossip, mingle, heartbeat or events, acks_late off (its default); bulk: apply_async with one producer"
)
SOURCE = "https://docs.celeryq.dev/en/stable/userguide/optimizing.html"
WORKER = (
    "{bin}/celery", "-A", "peer", "worker", "--pool", "{pool}", "-c", "{slots}", "--prefetch-multiplier", "{prefetch}", "--without-gossip",
    "--without-mingle", "--without-heartbeat", "-O", "fair", "-l", "ERROR", "-n", "{unique}@%h",
)  # fmt: skip
PROFILES = {
    "drain": {"slots": 1, "pool": "solo", "prefetch": 100},
    "io": {"slots": 100, "pool": "threads", "prefetch": 4},
    "idle": {"slots": 10, "pool": "threads", "prefetch": 10},
}
CHUNK = 1000

URL, RESULTS = os.environ["BENCH_URL"], os.environ["BENCH_RESULTS"] == "1"
app = Celery("bench", broker=URL, backend=URL if RESULTS else None)
app.conf.update(
    task_ignore_result=not RESULTS,
    task_store_errors_even_if_ignored=False,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=100,
    result_expires=60,
)


@app.task(name="noop")
def noop(payload):
    counter.done_in_thread()


@app.task(name="sleep")
def sleep(payload):
    counter.start()
    time.sleep(0.05)
    counter.done_in_thread()


@app.task(name="pickup")
def pickup(payload):
    counter.started(int(payload))
    counter.done_in_thread()


@app.task(name="echo")
def echo(payload):
    return payload


TASKS = {"noop": noop, "sleep": sleep, "pickup": pickup, "echo": echo}


def connect():
    pass


def submit(task, payload):
    TASKS[task].apply_async((payload,))


def submit_many(task, payloads):
    with app.producer_or_acquire() as producer:
        for payload in payloads:
            TASKS[task].apply_async((payload,), producer=producer)


def call(payload):
    return echo.apply_async((payload,)).get(timeout=10)
