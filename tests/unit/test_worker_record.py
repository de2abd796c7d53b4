"""What a worker's record in the registry says, and that records of older versions are still read."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec

from bananas.inspector import worker_info
from bananas.keys import new_id, task_tag
from bananas.worker import record
from bananas.worker.process import Usage
from bananas.worker.table import HeldLease

OLD: dict[str, Any] = {"host": "h", "pid": 1, "supervisor": 2, "queues": ["q"], "tasks": ["t"], "slots": 3, "running": [], "overdue": []}


def packed(**fields: Any) -> bytes:
    return bytes(8) + msgspec.msgpack.encode(OLD | {"started_ms": 5} | fields)


def held(task: str, ago_s: float, slot: int = 0) -> tuple[str, HeldLease]:
    job_id = new_id(f"{task_tag(task)}1f4")
    return f"q.{job_id}", HeldLease(0, f"{job_id}:boot:1".encode(), b"1", False, slot, time.monotonic() - ago_s)


def test_a_record_without_the_newer_fields_is_read() -> None:
    info = worker_info(b"b", packed())
    assert info is not None
    assert (info.version, info.memory_bytes, info.cpu_percent, info.runs) == ("", None, None, ())
    assert info.slots == 3


def test_a_record_with_fields_of_a_later_version_is_read() -> None:
    run = {"id": "q.1", "task": "t", "started_ms": 7, "overdue": True, "later": 1}
    info = worker_info(b"b", packed(version="9.9", runs=[run], cpu_percent=3, invented="x"))
    assert info is not None
    assert (info.version, info.cpu_percent, info.runs[0].id, info.runs[0].overdue) == ("9.9", 3.0, "q.1", True)


def test_runs_are_those_that_run_for_longest_with_their_tasks_and_the_servers_time() -> None:
    leases = [held("t", float(ago), ago) for ago in range(150)]
    runs = record._runs(leases, ("t", "other"), 60_000.0)
    assert len(runs) == record.MOST_RUNS
    assert [run["id"] for run in runs] == [public for public, _ in reversed(leases)][: record.MOST_RUNS]
    assert {run["task"] for run in runs} == {"t"}
    ahead = [run["started_ms"] - (time.time() * 1000 + 60_000 - 1000 * ago) for run, ago in zip(runs, range(149, 0, -1), strict=False)]
    assert max(map(abs, ahead)) < 5_000


def test_a_task_that_the_worker_does_not_know_has_no_name() -> None:
    (run,) = record._runs([held("elsewhere", 1.0)], ("t",), 0.0)
    assert run["task"] == ""


def test_the_usage_of_a_process_is_that_of_the_system() -> None:
    usage = Usage(os.getpid())
    usage.look()
    began = time.process_time()
    while time.process_time() < began + 0.2:
        pass
    memory_bytes, percent = usage.look()
    assert memory_bytes is not None
    assert percent is not None
    assert (memory_bytes > 2**20, percent > 1) == (True, True)


def test_the_usage_of_a_process_that_is_gone_is_unknown() -> None:
    assert Usage(2**31 - 1).look() == (None, None)
