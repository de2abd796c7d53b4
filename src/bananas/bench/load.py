"""What a client process of the benchmark is to do (`Load`), what it did (`Loaded`), and what all loads share."""

import itertools
import random
import time
from array import array
from collections.abc import Callable, Iterable
from time import monotonic_ns
from typing import Any, Literal

import msgspec
from msgspec import Struct

from bananas.bench import tasks
from bananas.task import Submission, Task

Kind = Literal["one_by_one", "memory", "bulk", "concurrent", "live", "open_loop", "pick_up", "round_trip", "compute"]
Content = Literal["text", "json", "random"]
Callee = Task[Any, Any] | Submission[Any, Any]
WARM_UP = 20
BULK = 10_000  # calls per submit_many
WATCH_EVERY = 10  # of timed jobs, every so many are watched until the server had accepted their outcome
RESULT_TIMEOUT_S = 30.0
_NAMES = ("Ada Lovelace", "Alan Turing", "Barbara Liskov", "Edsger Dijkstra", "Grace Hopper", "Leslie Lamport")
PICK_UP_GAP_S = (0.004, 0.02)


class Load(Struct, frozen=True, kw_only=True):
    """What a client process is to do.

    Attributes:
        task: of tasks.py; "timed" and "timed_kept" also say when a job was sent.
        arguments: of the task, where it takes another than a payload of `size_bytes`.
        content: of the payload: text, or bytes of JSON or of noise for the tasks that take bytes.
        queue: another than the task's.
        cap_s: it ends after so long with what was done.
        clients: concurrent callers: coroutines, or threads where `sync`.
        rate: jobs per second of an open loop.
        start_at_ns: when to begin, where several processes are to begin together.
    """

    kind: Kind
    count: int
    sync: bool = False
    task: str = "noop"
    size_bytes: int = 100
    arguments: tuple[int | float, ...] = ()
    content: Content = "text"
    queue: str = ""
    cap_s: float = 600.0
    clients: int = 1
    rate: float = 0.0
    start_at_ns: int = 0


class Loaded(Struct, frozen=True):
    """What a client process did.

    Attributes:
        samples: per operation how long it took, int64s in ns; of an open loop how late it was sent.
        memory_bytes: what an operation allocates at most, where that was asked.
    """

    count: int
    began_ns: int
    ended_ns: int
    cpu_s: float
    samples: bytes = b""
    memory_bytes: float = 0.0

    @property
    def wall_s(self) -> float:
        """How long the window was."""
        return (self.ended_ns - self.began_ns) / 1e9

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.count / self.wall_s

    @property
    def cpu_us(self) -> float:
        """CPU time of the process per operation."""
        return 1e6 * self.cpu_s / self.count

    def latencies(self) -> "array[int]":
        """The samples as numbers."""
        return array("q", self.samples)


def payload(size_bytes: int) -> str:
    """Text of so many bytes."""
    return ("0123456789abcdef" * (size_bytes // 16 + 1))[:size_bytes]


def content_of(content: Content, size_bytes: int) -> str | bytes:
    """A payload of so many bytes: `text`, or bytes of records as an API sends them (`json`), or of noise (`random`); the same each time."""
    chance = random.Random(size_bytes)
    if content == "text":
        return payload(size_bytes)
    return chance.randbytes(size_bytes) if content == "random" else _records(chance, size_bytes)


def _records(chance: random.Random, size_bytes: int) -> bytes:
    made, count = [], 0
    while count <= size_bytes:
        number, items = chance.randrange(10**9), range(chance.randrange(1, 5))
        record = {
            "order_id": number,
            "created_at": f"2026-{chance.randrange(1, 13):02}-{chance.randrange(1, 29):02}T12:{chance.randrange(60):02}:00Z",
            "customer": {"name": chance.choice(_NAMES), "email": f"user{number % 99_991}@example.org"},
            "items": [{"sku": f"SKU-{chance.randrange(10**6):06}", "price": round(chance.random() * 100, 2)} for _ in items],
            "paid": chance.random() > 0.1,
        }
        made.append(msgspec.json.encode(record))
        count += len(made[-1]) + 1
    return b",".join(made)[:size_bytes]


class Window:
    """Times a window, and says when it is over."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self.samples: array[int] = array("q")
        self.memory_bytes = 0.0
        while monotonic_ns() < load.start_at_ns:
            time.sleep(max(0.0, (load.start_at_ns - monotonic_ns()) / 1e9))
        self._cpu_s = time.process_time()
        self.began_ns = monotonic_ns()
        self._end_ns = self.began_ns + round(load.cap_s * 1e9)
        self._left = itertools.count(load.count, -1)

    def goes_on(self) -> bool:
        """Whether one more operation is to be done; safe from any thread."""
        return next(self._left) > 0 and monotonic_ns() < self._end_ns

    def loaded(self, count: int) -> Loaded:
        """The outcome; the window ends now."""
        ended_ns, cpu_s = monotonic_ns(), time.process_time() - self._cpu_s
        return Loaded(count, self.began_ns, ended_ns, cpu_s, self.samples.tobytes(), self.memory_bytes)


def calls(load: Load) -> Callable[[], tuple[Callee, tuple[Any, ...]]]:
    """Makes the next call of a load: its task and arguments."""
    text, task = content_of(load.content, load.size_bytes), tasks.app.registry.tasks[load.task]
    if not load.task.startswith("timed"):
        callee = task.options(queue=load.queue) if load.queue else task
        arguments = load.arguments or (text,)
        return lambda: (callee, arguments)
    watched = tasks.app.registry.tasks[load.task.replace("timed", "watched")]
    numbers = itertools.count(1)
    return lambda: (task if next(numbers) % WATCH_EVERY else watched, (monotonic_ns(), text))


def chunks(count: int) -> Iterable[int]:
    """The sizes of the calls of submit_many for so many jobs."""
    return (min(BULK, count - begin) for begin in range(0, count, BULK))


def peaks_loaded(load: Load, peaks: list[int]) -> Loaded:
    """The outcome of a load that looks at memory alone: the median of its peaks."""
    now = monotonic_ns()
    kept = sorted(peaks[WARM_UP:])
    return Loaded(load.count, now, now, 0.0, memory_bytes=kept[len(kept) // 2])
