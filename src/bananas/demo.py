"""`bananas demo`: the main job on real input, and a check of its own work.

One job per file below a directory, at three priorities, on a private server and two worker processes. Among them one that is delayed, one
that fails once and recovers, and one that always fails. The digest over all results must equal the one computed directly from the files.
"""

import asyncio
import hashlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from bananas.errors import ConfigError, TaskError

PRIORITIES = ("high", "normal", "low")
DELAY_S = 1.0
TIMEOUT_S = 170.0


class Report(Struct, kw_only=True):
    """What the demo saw."""

    files: list[str]
    results: dict[str, str]
    waits: list[float]
    runs: list[float]
    seconds: float
    early_by: float
    recovered_attempt: int
    dead: list[TaskError]
    dead_listed: int


def files_below(directory: str | None) -> list[str]:
    """The readable regular files, sorted. Raises ConfigError when there are none."""
    root = Path(directory or sysconfig.get_path("stdlib")).resolve()
    if not root.is_dir():
        raise ConfigError(f"{root} is no directory: name one with files, e.g. bananas demo .")
    found: list[str] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in ("site-packages", "__pycache__", ".git", ".venv", "node_modules")]
        paths = [os.path.join(folder, name) for name in names]
        found += [path for path in paths if os.path.isfile(path) and not os.path.islink(path) and os.access(path, os.R_OK)]
    found = [path for path in found if path.isprintable()]
    if len(found) < 3:
        raise ConfigError(f"{root} has {len(found)} readable files; the demo needs 3 or more")
    return sorted(found)


def digest_of(pairs: Iterable[tuple[str, str]]) -> str:
    """One digest over paths and their digests."""
    total = hashlib.sha256()
    for path, digest in sorted(pairs):
        total.update(f"{path}\0{digest}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def faults(report: Report) -> list[str]:
    """What is not as it must be; empty when the demo succeeded."""
    found: list[str] = []
    expected = digest_of((path, hashlib.sha256(Path(path).read_bytes()).hexdigest()) for path in report.files)
    if digest_of(report.results.items()) != expected:
        missing = len(set(report.files) - set(report.results))
        found.append(f"the digest over {len(report.results)} results differs from that over {len(report.files)} files ({missing} missing)")
    if report.early_by > 0:
        found.append(f"the delayed job started {report.early_by:.3f} s early")
    if report.recovered_attempt != 2:
        found.append(f"the job that fails once ended in attempt {report.recovered_attempt}, not 2")
    if len(report.dead) != 1 or report.dead_listed != 1:
        found.append(f"{len(report.dead)} jobs died and {report.dead_listed} are listed as dead; it must be exactly one")
    return found


async def _drive(files: Sequence[str], report_progress: Any) -> Report:
    from bananas.demo_tasks import Digest, always_fails, app, digest

    began = time.time()
    delayed, retried, rest = files[0], files[1], files[2:]
    first = await digest.options(delay=DELAY_S).submit(delayed)
    due = time.time() + DELAY_S
    failing = await always_fails.submit(files[2])
    second = await digest.submit(retried, fail_first=True)
    calls = (digest.options(priority=PRIORITIES[index % 3]).bind(path) for index, path in enumerate(rest))
    jobs: list[Any] = [first, failing, second, *await app.submit_many(calls)]
    submitted = time.time()
    results: dict[str, Digest] = {}
    dead: list[TaskError] = []
    async for job in app.as_completed(jobs, timeout=TIMEOUT_S):
        try:
            found = await job.result()
            results[found.path] = found
        except TaskError as error:
            dead.append(error)
        report_progress(len(results) + len(dead), len(jobs))
    seconds = time.time() - began
    listed = await app.queue("demo").dead.list()
    await app.close()
    return Report(
        files=list(files),
        results={path: found.sha256 for path, found in results.items()},
        waits=sorted(max(0.0, found.started - submitted) for found in results.values()),
        runs=sorted(found.run for found in results.values()),
        seconds=seconds,
        early_by=due - DELAY_S * 0.001 - results[delayed].started - 0.005,
        recovered_attempt=results[retried].attempt,
        dead=dead,
        dead_listed=len(listed),
    )


def _percentile(values: Sequence[float], share: float) -> str:
    return f"{values[min(len(values) - 1, int(len(values) * share))] * 1000:,.1f} ms" if values else "-"


def _show(report: Report, console: Any) -> None:
    from rich.table import Table

    table = Table(title="bananas demo", show_header=False)
    table.add_row("files digested", f"{len(report.results):,}")
    table.add_row("recovered after a failure", "1")
    table.add_row("dead", str(len(report.dead)))
    table.add_row("jobs per second", f"{(len(report.results) + len(report.dead)) / report.seconds:,.0f}")
    table.add_row("waiting after the last submit p50 / p99", f"{_percentile(report.waits, 0.5)} / {_percentile(report.waits, 0.99)}")
    table.add_row("running p50 / p99", f"{_percentile(report.runs, 0.5)} / {_percentile(report.runs, 0.99)}")
    console.print(table)
    for error in report.dead:
        console.print(f"dead: {error.job_id}\n  {error.error_type}: {error.error_message}", markup=False, soft_wrap=True)
        console.print(f"  replay it: await app.queue('demo').dead.replay({error.job_id!r})", markup=False, soft_wrap=True)


def _progress(console: Any) -> tuple[Any, Any]:
    from rich.progress import Progress

    progress = Progress(console=console, disable=not console.is_terminal)
    task = progress.add_task("jobs", total=None)
    return progress, lambda done, total: progress.update(task, completed=done, total=total)


def _run_workers(files: Sequence[str], console: Any) -> tuple[Report, int]:
    """Drive the jobs through two worker processes; the report, and the workers' exit code."""
    command = [sys.executable, "-m", "bananas", "worker", "bananas.demo_tasks:app", "--processes", "2", "--log-level", "error"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as workers:
        try:
            progress, update = _progress(console)
            with progress:
                report = asyncio.run(_drive(files, update))
        finally:
            workers.terminate()
            code = workers.wait(60)
    return report, code


def run_demo(directory: str | None) -> int:
    """Run the demo. Returns 0 only if everything checked out."""
    from rich.console import Console

    from bananas.embedded import join

    console = Console()
    files = files_below(directory)
    os.environ.pop("BANANAS_EMBEDDED", None)
    with tempfile.TemporaryDirectory(prefix="bananas-demo-", ignore_cleanup_errors=True) as folder:
        server = join(Path(folder))
        os.environ["REDIS_URL"] = os.environ["BANANAS_REDIS_URL"] = server.url
        console.print(f"{len(files):,} files, an embedded server, two worker processes")
        try:
            report, code = _run_workers(files, console)
        finally:
            server.close()
    _show(report, console)
    wrong = faults(report) + ([f"the workers ended with exit code {code}"] if code else [])
    for fault in wrong:
        console.print(f"FAILED: {fault}", markup=False)
    if not wrong:
        console.print("checked: the digest over all results equals the one computed from the files")
    return 1 if wrong else 0
