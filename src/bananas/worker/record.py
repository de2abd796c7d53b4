"""What a supervisor writes into the registry of a process below it: who, what it serves, what it runs and since when, what it uses.

Everything is known without asking the process, which may be blocked: its greeting, its lease table, and what the system says. A job costs
nothing for it: the table notes when each claim came, and ids tell the task.
"""

import os
import socket
import time
from functools import cache
from typing import Any

from bananas.keys import task_tag
from bananas.worker.control import Hello
from bananas.worker.process import ChildProcess
from bananas.worker.table import HeldLease

MOST_RUNNING, MOST_RUNS = 1_000, 100


def record_of(
    child: ChildProcess, hello: Hello, held: dict[int, list[HeldLease]], *, started_ms: int, ahead_ms: float, phase: str
) -> dict[str, Any]:
    """The record.

    Args:
        held: its leases by queue.
        ahead_ms: how far the server's clock is ahead of ours, for the times of runs.
    """
    from bananas import __version__  # here, since the package itself comes last

    leases = [(child.keys[queue].public(lease.member[:43].decode()), lease) for queue, each in held.items() for lease in each]
    memory_bytes, cpu_percent = child.usage.look()
    return {
        "host": socket.gethostname(),
        "pid": hello.pid,
        "supervisor": os.getpid(),
        "queues": hello.queues,
        "tasks": hello.tasks,
        "slots": hello.slots if hello.claims else 0,
        "only_priorities": hello.only_priorities,
        "only_tasks": hello.only_tasks,
        "running": [public for public, _ in leases][:MOST_RUNNING],
        "overdue": [public for public, lease in leases if lease.overdue][:MOST_RUNNING],
        "started_ms": started_ms,
        "version": __version__,
        "phase": phase,
        "memory_bytes": memory_bytes,
        "cpu_percent": cpu_percent,
        "runs": _runs(leases, tuple(hello.tasks), ahead_ms),
    }


def _runs(leases: list[tuple[str, HeldLease]], tasks: tuple[str, ...], ahead_ms: float) -> list[dict[str, Any]]:
    """What has run for longest comes first."""
    names, now, now_ms = _by_tag(tasks), time.monotonic(), time.time() * 1000 + ahead_ms
    longest = sorted(leases, key=lambda lease: lease[1].since)[:MOST_RUNS]
    return [
        {
            "id": public,
            "task": names.get(lease.member[32:40].decode(), ""),
            "started_ms": round(now_ms - (now - lease.since) * 1000),
            "overdue": lease.overdue,
        }
        for public, lease in longest
    ]


@cache
def _by_tag(tasks: tuple[str, ...]) -> dict[str, str]:
    """Names of tasks by what ids say of them; two that ids do not tell apart have none."""
    found: dict[str, str] = {}
    for name in tasks:
        tag = task_tag(name)
        found[tag] = "" if tag in found else name
    return found
