"""What the tables measure with: `Bench` lends servers, worker processes and client processes, and runs repetitions interleaved.

Interleaved: the first repetition of every variant, then the second of every variant, and so on. A machine that slows down for a while then
slows all variants a little, and not one of them a lot.

Workers are started by the command line that users type, clients are processes of their own (client.py), and all of them end with this
process, however it ends.
"""

import contextlib
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from bananas.bench import counter
from bananas.bench.counter import Reader
from bananas.bench.load import Load, Loaded
from bananas.bench.processes import Process, cpu_s, resident_bytes
from bananas.bench.serving import Serving, Usage, serve
from bananas.bench.sizes import Sizes
from bananas.bench.table import Table
from bananas.bench.tasks import LIFELINE, NAMESPACE, READY
from bananas.config import BARE_NAMES, PREFIX

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
START_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 600.0


class Workers:
    """One `bananas worker` with its processes, ready.

    Attributes:
        reader: what its handlers have counted.
        began_ns: when it was started, on the clock of counter.py.
    """

    def __init__(self, process: Process, folder: Path) -> None:
        self.process, self.reader = process, Reader(folder)
        self.began_ns = process.began_ns

    def cpu_s(self) -> float:
        """CPU time of all its processes so far."""
        return cpu_s(self.process.tree())

    def resident_bytes(self) -> tuple[int, int]:
        """Resident memory of the supervisor, and of its worker processes together."""
        supervisor, *children = self.process.tree()
        return resident_bytes([supervisor]), resident_bytes(children)

    def wait_for_count(self, count: int, timeout_s: float = RUN_TIMEOUT_S) -> None:
        """Return when so many handlers have ended. Raises ProcessFailed."""
        self.process.wait_for(lambda: self.reader.count() >= count, timeout_s, f"{count} jobs", 0.004)


class Bench:
    """One run of the benchmark.

    Args:
        kind: of the server: "redis", "valkey" or "embedded".
        reps: repetitions of each variant.
    """

    def __init__(self, kind: str, sizes: Sizes, reps: int | None = None, console: "Console | None" = None) -> None:
        self.kind, self.sizes, self.reps = kind, sizes, reps or sizes.reps
        self._console = console
        self._names = itertools.count()
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) and "TMPDIR" not in os.environ else None
        self._counters = Path(tempfile.mkdtemp(prefix="bench-", dir=memory))

    @property
    def transports(self) -> tuple[str, ...]:
        """How clients reach the servers of this kind; the first is the usual one."""
        return ("unix",) if self.kind == "embedded" else ("TCP", "unix") if self.sizes.every else ("TCP",)

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self._counters, ignore_errors=True)

    def say(self, text: str) -> None:
        """Tell people what goes on."""
        if self._console is not None:
            self._console.print(text, highlight=False, markup=False)

    def show(self, table: Table) -> None:
        """Show a table."""
        if self._console is None:
            return
        from rich.table import Table as Shown

        shown = Shown(title=f"{table.title}. {table.question}", title_justify="left")
        shown.add_column("")
        for column in table.columns:
            shown.add_column(column, justify="right")
        for row in table.rows:
            shown.add_row(row.label, *(str(row.cells[column]) for column in table.columns))
        self._console.print(shown)
        for goal in table.goals:
            self._console.print(f"{'met   ' if goal.met else 'missed'} {goal.text}: {goal.figure}", highlight=False)

    def new_folder(self) -> Path:
        """An empty folder that goes with this run."""
        path = self.folder / f"{next(self._names)}"
        path.mkdir()
        return path

    def new_counters(self) -> Path:
        """An empty folder for the files of counter.py, in memory where the system has such a place."""
        path = self._counters / f"{next(self._names)}"
        path.mkdir()
        return path

    # --- parts of a measurement ---

    @contextlib.contextmanager
    def server(self, *, kind: str | None = None, durable: bool = False) -> Generator[Serving]:
        """A server of the kind asked for, or of another; empty, and in memory only unless `durable` (AOF everysec)."""
        with serve(kind or self.kind, self.new_folder(), durable=durable) as serving:
            yield serving

    @contextlib.contextmanager
    def workers(self, url: str, *, slots: int = 10, processes: int = 1, settings: Mapping[str, str] | None = None) -> Generator[Workers]:
        """`bananas worker` on the benchmark's tasks, all of its processes ready; it is gone afterwards.

        Args:
            settings: variables of its environment, beside the server's.
        """
        with self.starting_workers(url, slots=slots, processes=processes, settings=settings) as workers:
            log_path = workers.process.log_path
            workers.process.wait_for(lambda: log_path.read_text(errors="replace").count(READY) >= processes, START_TIMEOUT_S, "its start")
            yield workers

    @contextlib.contextmanager
    def starting_workers(
        self, url: str, *, slots: int = 10, processes: int = 1, settings: Mapping[str, str] | None = None
    ) -> Generator[Workers]:
        """The same, without waiting until it is ready."""
        counters = self.new_counters()
        command = [sys.executable, "-m", "bananas", "worker", "bananas.bench.tasks:app"]
        command += ["--concurrency", str(slots), "--processes", str(processes), "--log-level", "warning", "--shutdown-timeout", "3s"]
        environment = own_environment(url) | {counter.FOLDER: str(counters), LIFELINE: "1"} | dict(settings or {})
        folder = self.new_folder()
        with Process(command, environment, folder / "worker.log", folder) as process:
            yield Workers(process, counters)
        shutil.rmtree(counters, ignore_errors=True)

    @contextlib.contextmanager
    def loading(self, url: str | Path, load: Load, settings: Mapping[str, str] | None = None) -> Generator["Loading"]:
        """A client process at work; it is gone afterwards.

        Args:
            url: of the server; a path: the client works in this folder with its embedded server, as a user's program does.
            settings: variables of its environment, beside the server's.
        """
        folder = self.new_folder()
        order, answer = folder / "order", folder / "answer"
        order.write_bytes(msgspec.msgpack.encode(load))
        command = [sys.executable, "-m", "bananas.bench.client", str(order), str(answer)]
        environment = own_environment(url) | dict(settings or {})
        if load.kind == "open_loop":  # one on a machine that is too slow shows its latency, and does not fail
            environment["BANANAS_CALL_TIMEOUT"] = "60s"
        with Process(command, environment, folder / "client.log", url if isinstance(url, Path) else folder) as process:
            yield Loading(process, answer)

    def load(self, url: str | Path, load: Load, settings: Mapping[str, str] | None = None) -> Loaded:
        """Run a client process to its end. Raises ProcessFailed."""
        with self.loading(url, load, settings) as loading:
            return loading.outcome()

    # --- repetitions ---

    def interleaved(self, table: str, variants: Mapping[str, Callable[[], T]], reps: int | None = None) -> dict[str, list[T]]:
        """Run each variant `reps` times, in turns, showing what runs. Returns the outcomes by the variants' names, in order."""
        outcomes: dict[str, list[T]] = {name: [] for name in variants}
        reps = reps or self.reps
        with self._progress(table, reps * len(variants)) as show:
            for rep in range(1, reps + 1):
                for name, run in variants.items():
                    show(f"{table}: {name} ({rep}/{reps})")
                    outcomes[name].append(run())
        return outcomes

    @contextlib.contextmanager
    def _progress(self, table: str, total: int) -> Generator[Callable[[str], None]]:
        """On a terminal a bar with what runs now, elsewhere a line when the table is through."""
        began = time.monotonic()
        if self._console is None:
            yield lambda _: None
            return
        if not self._console.is_terminal:
            yield lambda _: None
        else:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
            with Progress(*columns, console=self._console, transient=True) as progress:
                bar = progress.add_task(table, total=total + 1)

                def show(text: str) -> None:
                    progress.update(bar, description=text, advance=1)

                yield show
        self._console.print(f"{table}: {total} measurements in {time.monotonic() - began:.0f} s", highlight=False)


class Loading:
    """A client process under way."""

    def __init__(self, process: Process, answer: Path) -> None:
        self.process, self._answer = process, answer

    def outcome(self, timeout_s: float = RUN_TIMEOUT_S) -> Loaded:
        """What it did, when it has ended. Raises ProcessFailed."""
        self.process.wait(timeout_s)
        return msgspec.msgpack.decode(self._answer.read_bytes(), type=Loaded)


def own_environment(url: str | Path) -> dict[str, str]:
    """The variables of a process below the benchmark: the server's (a path: the embedded one's), and no setting of the user's."""
    import bananas

    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX) and name not in BARE_NAMES}
    source = str(Path(bananas.__file__).resolve().parents[1])
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    server = {"BANANAS_EMBEDDED": "1"} if isinstance(url, Path) else {"REDIS_URL": url}
    return kept | server | {"BANANAS_CONFIG": os.devnull, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def queue_is_quiet(serving: Serving, queue: str = "default") -> bool:
    """Whether nothing of a queue is ready or leased: every outcome is settled."""
    base = f"{{{NAMESPACE}:{queue}}}:"
    return not serving.ask("ZCARD", f"{base}ready") and not serving.ask("ZCARD", f"{base}leases")


__all__ = ["Bench", "Loading", "Serving", "Usage", "Workers", "own_environment", "queue_is_quiet"]
