"""`bananas demo`: the main job on real input, and a check of its own work.

    1. find the files; give the smaller third priority high, the next normal, the largest low
    2. run a private server in a temporary folder (`keep`: the embedded server of this directory), and `bananas worker` with two processes
    3. submit one job per file, all at once: one delayed, one that fails once and recovers; and one more that always fails
    4. collect the results as they come, show where it stands
    5. judge: the digest over all results must equal the one computed directly from the files, and the odd ones must have ended as meant

It runs with settings of its own, whatever the environment and the files say, so that it shows the same everywhere. It leaves no process
behind: the workers end with it (see demo_tasks.py) even if it is killed, and the server with its last user.

WHAT IS MEASURED. Waiting: from the submit to the start of the handler, by this machine's clock; all jobs are submitted at once, so it is
mostly the queue ahead. Running: the handler alone. Jobs per second: from the submit to the end of the last handler. All three without the
delayed and the retried job, which wait on purpose.
"""

import asyncio
import contextlib
import hashlib
import math
import os
import secrets
import select
import shlex
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from bananas.config import BARE_NAMES, PREFIX
from bananas.errors import BananasError, BrokerUnavailable, ConfigError, TaskError
from bananas.handle import Job
from bananas.job import JobInfo

if TYPE_CHECKING:
    from rich.console import Console

    from bananas.demo_tasks import FileReport
    from bananas.embedded import EmbeddedServer

PRIORITIES = ("high", "normal", "low")
SKIPPED_FOLDERS = frozenset({b"__pycache__", b"site-packages", b".bananas"})
PROCESSES, CONCURRENCY = 2, 4
DELAY_S = 1.0
CLOCK_STEP_S = 0.001  # the server's times are whole milliseconds
START_TIMEOUT_S, STOP_TIMEOUT_S = 60.0, 40.0
FATAL = b""  # instead of a path: the job that always fails
SHOWN = 5  # mismatches that are listed


class Batch(Struct, frozen=True):
    """The files below a folder, by path, with their priority; which job is delayed, and which fails once."""

    files: dict[bytes, str]
    delayed: bytes
    retried: bytes
    size_bytes: int
    unreadable: int


class Record(Struct, frozen=True, kw_only=True):
    """What the demo saw: results by path, jobs of files that ended without one, and the dead letters at the end.

    Attributes:
        submitted: when the submit began, in seconds since the epoch.
        fatal_id: the job that always fails.
    """

    batch: Batch
    submitted: float
    reports: dict[bytes, "FileReport"]
    failed: dict[bytes, TaskError]
    dead: list[JobInfo]
    fatal_id: str

    @property
    def plain(self) -> dict[bytes, "FileReport"]:
        """The reports without those of the delayed and the retried job."""
        return {path: report for path, report in self.reports.items() if path not in (self.batch.delayed, self.batch.retried)}

    @property
    def lateness_s(self) -> float:
        """How long after its due time the delayed job started; below 0 it was early."""
        return self.reports[self.batch.delayed].started - self.submitted - DELAY_S


# --- the files --------------------------------------------------------------------------------------------------------


def files_below(directory: str | None) -> Batch:
    """The readable regular files below a folder, by size. Raises ConfigError when there is no such folder, or no file in it."""
    root = os.path.realpath(directory or sysconfig.get_path("stdlib"))
    if not os.path.isdir(root):
        raise ConfigError(f"{root} is {'a file' if os.path.exists(root) else 'not there'}: name a folder with files, e.g. bananas demo .")
    sizes: dict[bytes, int] = {}
    unreadable: list[object] = []
    for folder, folders, names in os.walk(os.fsencode(root), onerror=unreadable.append):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        for path in (os.path.join(folder, name) for name in names):
            try:
                size_bytes = _readable_bytes(path)
            except OSError:
                unreadable.append(path)
                continue
            if size_bytes is not None:
                sizes[path] = size_bytes
    if not sizes:
        raise ConfigError(f"{root} has no regular file that can be read ({len(unreadable)} cannot): name another folder.")
    ordered = sorted(sizes, key=lambda path: (sizes[path], path))
    files = {path: PRIORITIES[index * len(PRIORITIES) // len(ordered)] for index, path in enumerate(ordered)}
    return Batch(files, ordered[0], ordered[len(ordered) // 2], sum(sizes.values()), len(unreadable))


def _readable_bytes(path: bytes) -> int | None:
    """The size of a regular file, None for links, pipes and the like. Raises OSError when it cannot be opened."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        return None
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size


def file_digests(paths: Iterable[bytes]) -> dict[bytes, str]:
    """The SHA-256 of files, read here and now; "" for one that is gone."""
    found = dict.fromkeys(paths, "")
    for path in found:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            found[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def digest_of(digests: Mapping[bytes, str]) -> str:
    """One SHA-256 over all paths and their digests."""
    total = hashlib.sha256()
    for path, digest in sorted(digests.items()):
        total.update(path + b"\0" + digest.encode() + b"\n")
    return total.hexdigest()


# --- the judgement ----------------------------------------------------------------------------------------------------


def faults(record: Record, expected: Mapping[bytes, str]) -> list[str]:
    """What is not as it must be; empty when the demo succeeded. `expected`: the digests computed directly from the files. Pure."""
    found = [f"the job of {os.fsdecode(path)!r} ended without a result: {error}" for path, error in list(record.failed.items())[:SHOWN]]
    results = {path: report.sha256 for path, report in record.reports.items()}
    if digest_of(results) != digest_of(expected):
        found.append(f"the digest over all results is {digest_of(results)}, over the files {digest_of(expected)}")
        wrong = [path for path in sorted(results.keys() | expected.keys()) if results.get(path) != expected.get(path)]
        found += [f"{os.fsdecode(path)!r}: the job says {results.get(path)}, the file {expected.get(path)}" for path in wrong[:SHOWN]]
        found += [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    if record.batch.delayed in record.reports and record.lateness_s < -CLOCK_STEP_S:
        found.append(f"the delayed job started {-record.lateness_s:.3f} s early")
    retried = record.reports.get(record.batch.retried)
    if retried is not None and retried.attempt != 2:
        found.append(f"the job that fails once ended in attempt {retried.attempt}, not 2")
    if [(info.id, info.attempts) for info in record.dead] != [(record.fatal_id, 2)]:
        listed = ", ".join(f"{info.id} after {info.attempts} attempts" for info in record.dead) or "none"
        found.append(f"dead letters: {listed}; it must be {record.fatal_id} alone, the job that always fails, after 2 attempts")
    return found


# --- the processes ----------------------------------------------------------------------------------------------------


def _own_settings(url: str, namespace: str) -> None:
    """Make the settings of this process, and of those that it starts, the demo's own."""
    for name in [name for name in os.environ if name.startswith(PREFIX) or name in BARE_NAMES]:
        del os.environ[name]
    os.environ.update(BANANAS_CONFIG=os.devnull, REDIS_URL=url, BANANAS_NAMESPACE=namespace)


@contextlib.contextmanager
def _server(directory: Path | None) -> Generator["EmbeddedServer"]:
    """The embedded server of a directory, or of this one. Afterwards, unless others use it, it has ended."""
    from bananas.embedded import join

    server = join(directory)
    try:
        yield server
    finally:
        server.close()
        deadline = time.monotonic() + 10
        with contextlib.suppress(ProcessLookupError):
            while directory is not None and time.monotonic() < deadline:
                os.kill(server.watcher_pid, 0)
                time.sleep(0.02)


@contextlib.contextmanager
def _workers(log_path: Path) -> Generator["subprocess.Popen[bytes]"]:
    """`bananas worker` with two processes, both ready. They are stopped afterwards, and when this process ends in whatever way."""
    from bananas.demo_tasks import LIFELINE

    command = [sys.executable, "-m", "bananas", "worker", "bananas.demo_tasks:app"]
    command += ["--processes", str(PROCESSES), "--concurrency", str(CONCURRENCY)]
    with open(log_path, "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env={**os.environ, LIFELINE: "1"})
    with process:
        try:
            _await_ready(process)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()  # its children stop by themselves then


def _await_ready(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdout is not None
    said, deadline = b"", time.monotonic() + START_TIMEOUT_S
    while said.count(b"ready\n") < PROCESSES:
        if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise BrokerUnavailable(f"the workers were not ready within {START_TIMEOUT_S:g} s")
        data = os.read(process.stdout.fileno(), 4096)
        if not data:
            raise BrokerUnavailable(f"the workers ended with exit code {process.wait()} before they were ready")
        said += data


# --- the jobs ---------------------------------------------------------------------------------------------------------


async def _drive(batch: Batch, progress: "Progress") -> Record:
    """Submit the jobs and collect what they come to."""
    from bananas.demo_tasks import always_fails, app, digest

    options: dict[bytes, dict[str, Any]] = {path: {"priority": priority} for path, priority in batch.files.items()}
    options[batch.delayed]["delay"] = DELAY_S
    calls: list[Any] = [digest.options(**options[path]).bind(path, path == batch.retried) for path in batch.files]
    submitted = time.time()
    jobs: list[Job[Any]] = await app.submit_many([always_fails.bind(), *calls])
    path_of = dict(zip(jobs, [FATAL, *batch.files], strict=True))
    reports: dict[bytes, FileReport] = {}
    failed: dict[bytes, TaskError] = {}
    timeout_s = 120 + len(jobs) / 20 + batch.size_bytes / 1e6
    async for job in app.as_completed(jobs, timeout=timeout_s):
        path = path_of[job]
        try:
            reports[path] = await job.result()
        except TaskError as error:
            failed[path] = error
        progress.one_done(batch.files.get(path, "normal"))
    failed.pop(FATAL, None)
    dead = await app.queue("demo").dead.list()
    return Record(batch=batch, submitted=submitted, reports=reports, failed=failed, dead=dead, fatal_id=jobs[0].id)


async def _drive_watched(batch: Batch, progress: "Progress", workers: "subprocess.Popen[bytes]") -> Record:
    """`_drive`, which ends as soon as there is nobody to run the jobs. (The workers' supervisor restarts single processes.)"""
    from bananas.demo_tasks import app

    async def ended() -> None:
        while workers.poll() is None:
            await asyncio.sleep(0.2)

    drive, watch = asyncio.ensure_future(_drive(batch, progress)), asyncio.ensure_future(ended())
    try:
        await asyncio.wait([drive, watch], return_when=asyncio.FIRST_COMPLETED)
        if not drive.done():
            raise BrokerUnavailable(f"the workers ended with exit code {workers.returncode} before the jobs had")
        return drive.result()
    finally:
        drive.cancel()
        watch.cancel()
        await asyncio.gather(drive, watch, return_exceptions=True)
        await app.close()  # the server ends with its last connection


# --- what people see --------------------------------------------------------------------------------------------------


class Progress:
    """How many jobs have ended: on a terminal a bar per priority (inside `with self.bars`), elsewhere a line now and then."""

    def __init__(self, console: "Console", batch: Batch) -> None:
        from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

        totals = Counter(batch.files.values()) + Counter(normal=1)  # the one that always fails
        self._console, self._total, self._done, self._next_line = console, totals.total(), 0, time.monotonic() + 1
        columns = [*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn()]
        self.bars = Progress(*columns, console=console, disable=not console.is_terminal)
        self._bar_of = {priority: self.bars.add_task(f"{priority:6}", total=totals[priority]) for priority in PRIORITIES}

    def one_done(self, priority: str) -> None:
        """Count one."""
        self._done += 1
        self.bars.advance(self._bar_of[priority])
        if not self._console.is_terminal and (self._done == self._total or time.monotonic() > self._next_line):
            self._next_line = time.monotonic() + 1
            self._console.print(f"{self._done:,} of {self._total:,} jobs have ended")


def percentile_ms(values_s: Sequence[float], share: float) -> str:
    """The smallest value that `share` of the values do not exceed, as text."""
    ordered = sorted(values_s)
    return f"{ordered[max(0, math.ceil(len(ordered) * share) - 1)] * 1000:,.1f} ms" if ordered else "-"


def _show(console: "Console", record: Record) -> None:
    from rich.table import Table

    plain, reports = record.plain, record.reports.values()
    outcomes = Table("Outcome", "Jobs", title="Jobs by outcome", title_justify="left")
    recovered = sum(report.attempt > 1 for report in reports)
    outcomes.add_row("success at the first run", f"{len(reports) - recovered:,}")
    outcomes.add_row("success after a retry", f"{recovered:,}")
    outcomes.add_row("dead", f"{len(record.dead):,}")
    times = Table("Priority", "Jobs", "Waiting p50", "p99", "Running p50", "p99", title="Times by priority", title_justify="left")
    for priority in (*PRIORITIES, "all"):
        chosen = [report for path, report in plain.items() if priority in ("all", record.batch.files[path])]
        waits, runs = [report.started - record.submitted for report in chosen], [report.run_s for report in chosen]
        figures = [percentile_ms(values, share) for values in (waits, runs) for share in (0.5, 0.99)]
        times.add_row(priority, f"{len(chosen):,}", *figures)
    for table in (outcomes, times):
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table)
    packed, whole = (sum(getattr(report, size) for report in reports) for size in ("packed_bytes", "size_bytes"))
    took_s = max((report.started + report.run_s for report in plain.values()), default=0.0) - record.submitted
    speed = f"{len(plain) / took_s:,.0f} jobs/s. " if plain else ""
    console.print(f"{speed}Compressed to {packed / max(whole, 1):.0%} of {whole / 1e6:,.1f} MB.")
    if record.batch.delayed in record.reports:
        console.print(f"The job delayed by {DELAY_S:g} s started {record.lateness_s * 1000:+,.1f} ms from its time.")


def _show_dead(console: "Console", record: Record, commands: Sequence[str]) -> None:
    for info in record.dead:
        console.print(f"Dead after {info.attempts} attempts: {info.id}")
        console.print(f"  {info.errors[-1].type}: {info.errors[-1].message}" if info.errors else "  no error was recorded")
        console.print(f"  replay it: await app.queue({info.queue!r}).dead.replay({info.id!r})")
    console.print("\n".join(f"  {line}" for line in commands) if commands else "  (its server is gone now; `bananas demo --keep` keeps it)")


# --- the command ------------------------------------------------------------------------------------------------------


def run_demo(directory: str | None, keep: bool = False) -> int:
    """Run the demo in this process, whose settings become the demo's.

    Args:
        directory: whose files; the running Python's standard library by default.
        keep: use the embedded server of this directory, so that the jobs' outcomes stay there.

    Returns:
        0 only if everything checked out.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    batch = files_below(directory)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    namespace = f"demo-{secrets.token_hex(4)}" if keep else "demo"
    with tempfile.TemporaryDirectory(prefix="bananas-demo-", ignore_cleanup_errors=True) as folder:
        log_path = Path(folder, "workers.log")
        with _server(None if keep else Path(folder)) as server:
            _own_settings(server.url, namespace)
            where = server.directory if keep else "a temporary folder"
            console.print(f"{len(batch.files):,} files, {batch.size_bytes / 1e6:,.1f} MB; {batch.unreadable} cannot be read")
            console.print(f"a private server in {where}, {PROCESSES} worker processes with {CONCURRENCY} slots each")
            record, exit_code = _run(console, batch, log_path)
        wrong = faults(record, file_digests(batch.files))
        wrong += [f"the workers ended with exit code {exit_code}"] if exit_code else []
        _show(console, record)
        _show_dead(console, record, _replay_lines(record, server.directory.parent, namespace) if keep else [])
        console.print("\n".join([*(f"FAILED: {fault}" for fault in wrong), _last_lines(log_path)]) if wrong else "All checks passed.")
    return 1 if wrong else 0


def _run(console: "Console", batch: Batch, log_path: Path) -> tuple[Record, int]:
    """The part that needs workers. Returns also their exit code."""
    progress = Progress(console, batch)
    try:
        with _workers(log_path) as workers, progress.bars:
            record = asyncio.run(_drive_watched(batch, progress, workers))
    except BananasError:
        console.print(_last_lines(log_path))
        raise
    return record, workers.returncode


def _replay_lines(record: Record, directory: Path, namespace: str) -> list[str]:
    ours = f"BANANAS_EMBEDDED=1 BANANAS_NAMESPACE={namespace} bananas"
    replay, run = f"replay bananas.demo_tasks:app {record.fatal_id}", "worker bananas.demo_tasks:app"
    return [f"cd {shlex.quote(str(directory))}", f"{ours} {replay}", f"{ours} {run}"]


def _last_lines(path: Path) -> str:
    with open(path, errors="replace") as log:
        return "The end of the workers' log:\n" + "".join(deque(log, 20))
