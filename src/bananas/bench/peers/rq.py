"""RQ: one job at a time per worker. SimpleWorker runs it in the worker's own process; the default forks for each job, at 50 jobs/s."""
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportFunctionMemberAccess=false, reportOptionalMemberAccess=false

import os
import time

import counter
from redis import Redis
from rq import Queue

TITLE = "RQ"
RUNTIME = "python"
INSTALL = ("rq>=2.6,<4", "hiredis")
PYTHON = (3, 11)
GUARANTEE = "at most once"
CONFIGURATION = "rq worker with SimpleWorker, result_ttl=0 except for submit-and-wait; bulk: Queue.enqueue_many; abandoned jobs are failed"
SOURCE = "https://python-rq.org/docs/workers/"
WORKER = (
    "{bin}/rq",
    "worker",
    "-u",
    "{url}",
    "-w",
    "rq.worker.SimpleWorker",
    "--disable-job-desc-logging",
    "-q",
    "--path",
    "{folder}",
    "bench",
)
PROFILES = {"drain": {"slots": 1}, "io": {"slots": 1}, "idle": {"slots": 1}}
CHUNK = 1000

TTL = 60 if os.environ["BENCH_RESULTS"] == "1" else 0
queue = None


def noop(payload):
    counter.done()


def sleep(payload):
    counter.start()
    time.sleep(0.05)
    counter.done()


def pickup(payload):
    counter.started(int(payload))
    counter.done()


def echo(payload):
    return payload


def connect():
    global queue
    queue = Queue("bench", connection=Redis.from_url(os.environ["BENCH_URL"]))


def submit(task, payload):
    queue.enqueue(f"peer.{task}", payload, result_ttl=TTL)


def submit_many(task, payloads):
    queue.enqueue_many([Queue.prepare_data(f"peer.{task}", (payload,), result_ttl=TTL) for payload in payloads])


def call(payload):
    return queue.enqueue("peer.echo", payload, result_ttl=TTL).latest_result(timeout=10).return_value
