"""Looking at a whole namespace from outside: who works, whether the queues are in order (`audit`), and mending them (`repair`)."""

from typing import Any

import msgspec
from msgspec import Struct

from bananas import broker
from bananas.app import Bananas
from bananas.audit import Audit, Reader, audit
from bananas.codec import Undecodable, unpack
from bananas.findings import Finding
from bananas.keys import workers_key
from bananas.repair import Remedy, Repairs, repair

__all__ = ["Audit", "Finding", "Remedy", "Repairs", "WorkerInfo", "WorkerRun", "audit", "repair", "workers"]


class WorkerRun(Struct, frozen=True):
    """A job in a worker's hands: its public id, its task (where the worker knows it), when it was taken (server time), and whether it runs
    for longer than its timeout.
    """

    id: str
    task: str
    started_ms: int
    overdue: bool = False


class WorkerInfo(Struct, frozen=True):
    """A worker process as it announced itself: who, what it serves, and the public ids of what it runs (overdue: beyond its timeout).

    `only_priorities` and `only_tasks` say what a specialized worker takes; empty: everything.

    Attributes:
        runs: at most 100 of what it runs, the longest first.
        version: of bananas-queue; "" for one from before it was told.
        phase: working, quiet (it claims no more) or stopping.
        memory_bytes, cpu_percent: what the process holds, and how much of one core it used lately; None where its system does not tell.
    """

    boot: str
    host: str
    pid: int
    supervisor: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    slots: int
    running: tuple[str, ...]
    overdue: tuple[str, ...]
    started_ms: int
    only_priorities: tuple[int, ...] = ()
    only_tasks: tuple[str, ...] = ()
    version: str = ""
    memory_bytes: int | None = None
    cpu_percent: float | None = None
    runs: tuple[WorkerRun, ...] = ()
    phase: str = "working"


async def workers(app: Bananas) -> list[WorkerInfo]:
    """The worker processes of the app's namespace that are alive, by the server's clock."""
    return await alive(Reader(app, "listing the workers"), app.settings.namespace)


async def alive(reader: Reader, namespace: str) -> list[WorkerInfo]:
    """`workers`, by a reader of its own."""
    seconds, microseconds = await reader.ask(broker.plain(tuple, "TIME"))
    now_ms = int(seconds) * 1000 + int(microseconds) // 1000
    records: dict[bytes, bytes] = {}
    async for flat in reader.scan("HSCAN", workers_key(namespace), count=50):
        records |= zip(flat[::2], flat[1::2], strict=True)
    living = (worker_info(boot, record) for boot, record in records.items() if int.from_bytes(record[:8], "big") > now_ms)
    return [worker for worker in living if worker is not None]


def worker_info(boot: bytes, record: bytes) -> WorkerInfo | None:
    """What a record of the registry says; None where it cannot be read: of another version, or damaged."""
    try:
        return msgspec.convert(unpack(record[8:], dict[str, Any]) | {"boot": boot.decode()}, WorkerInfo)
    except (Undecodable, UnicodeDecodeError, msgspec.ValidationError):
        return None
