"""`bananas demo`: what it finds, what it accepts of what it saw, and the whole thing on a small folder."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from tests.support import children_of, clean_environment, is_gone, kill, wait_until

from bananas.demo import Batch, Record, digest_of, faults, file_digests, files_below, percentile_ms
from bananas.demo_tasks import FileReport
from bananas.errors import ConfigError, TaskError
from bananas.job import JobInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

FATAL_ID = "demo.fatal"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven files of growing size, one of them with a name that is no text; and what the demo passes over."""
    root = tmp_path / "files"
    (root / "below" / "__pycache__").mkdir(parents=True)
    (root / "below" / "__pycache__" / "x.pyc").write_bytes(b"cached")
    for size in range(6):
        (root / "below" / f"file {size}").write_bytes(b"banana" * size * 100)
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\n")).write_bytes(b"x" * 10_000)
    (root / "link").symlink_to(root / "below" / "file 1")
    os.mkfifo(root / "pipe")
    return root


# --- the files --------------------------------------------------------------------------------------------------------


def test_regular_files_are_found_with_the_smaller_ones_first(folder: Path) -> None:
    batch = files_below(str(folder))
    assert [os.path.basename(path) for path in batch.files] == [b"file %d" % size for size in range(6)] + [b"\xff\n"]
    assert list(batch.files.values()) == ["high"] * 3 + ["normal"] * 2 + ["low"] * 2
    assert (batch.size_bytes, batch.unreadable) == (19_000, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_files_are_counted(folder: Path) -> None:
    (folder / "below" / "file 1").chmod(0)
    batch = files_below(str(folder))
    assert (len(batch.files), batch.unreadable) == (6, 1)


def test_a_missing_folder_a_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, word in (("missing", "not there"), ("file", "a file"), ("empty", "no regular file")):
        with pytest.raises(ConfigError, match=word):
            files_below(str(tmp_path / name))


# --- the judgement ----------------------------------------------------------------------------------------------------


def report(sha256: str, **given: Any) -> FileReport:
    return replace(FileReport(sha256, 1, 1, attempt=1, pid=1, started=1000.5, run_s=0.1), **given)


@pytest.fixture
def record() -> Record:
    """All went well: file a is delayed by a second, file b failed once, file c is as any other."""
    batch = Batch({b"a": "high", b"b": "normal", b"c": "low"}, delayed=b"a", retried=b"b", size_bytes=3, unreadable=0)
    reports = {b"a": report("da", started=1001.01), b"b": report("db", attempt=2), b"c": report("dc")}
    dead = JobInfo(id=FATAL_ID, queue="demo", state="dead", priority=500, attempts=2)
    return Record(batch=batch, submitted=1000.0, reports=reports, failed={}, dead=[dead], fatal_id=FATAL_ID)


EXPECTED = {b"a": "da", b"b": "db", b"c": "dc"}


def test_a_record_in_which_all_went_well_has_no_faults(record: Record) -> None:
    assert faults(record, EXPECTED) == []


def test_a_corrupted_expectation_is_a_fault_that_names_the_file(record: Record) -> None:
    found = faults(record, EXPECTED | {b"c": "corrupted"})
    assert len(found) == 2
    assert digest_of(EXPECTED) in found[0]
    assert "'c'" in found[1]
    assert "corrupted" in found[1]


def test_a_missing_result_is_a_fault(record: Record) -> None:
    error = TaskError("demo.x", "dead", "OSError", "gone", "", 2)
    found = faults(replace(record, reports={path: record.reports[path] for path in (b"a", b"b")}, failed={b"c": error}), EXPECTED)
    assert "OSError" in found[0]
    assert any("the digest over all results" in fault for fault in found)


def test_results_that_swap_their_digests_are_a_fault(record: Record) -> None:
    swapped = record.reports | {b"b": report("dc", attempt=2), b"c": report("db")}
    assert len(faults(replace(record, reports=swapped), EXPECTED)) == 3


@pytest.mark.parametrize(
    ("path", "change", "words"),
    [(b"a", {"started": 1000.9}, "0.100 s early"), (b"b", {"attempt": 1}, "attempt 1"), (b"b", {"attempt": 3}, "attempt 3")],
)
def test_an_odd_job_that_ended_otherwise_is_a_fault(record: Record, path: bytes, change: dict[str, Any], words: str) -> None:
    [fault] = faults(replace(record, reports=record.reports | {path: replace(record.reports[path], **change)}), EXPECTED)
    assert words in fault


def test_exactly_one_job_must_be_dead_and_the_right_one(record: Record) -> None:
    [dead] = record.dead
    for wrong in ([], [dead, replace(dead, id="demo.x")], [replace(dead, id="demo.x")], [replace(dead, attempts=1)]):
        [fault] = faults(replace(record, dead=wrong), EXPECTED)
        assert FATAL_ID in fault


def test_file_digests_are_sha256_and_empty_for_a_file_that_is_gone(folder: Path) -> None:
    there, gone = os.fsencode(folder / "below" / "file 3"), os.fsencode(folder / "gone")
    assert file_digests([there, gone]) == {there: hashlib.sha256(b"banana" * 300).hexdigest(), gone: ""}


def test_percentiles_are_nearest_ranks() -> None:
    values = [number / 1000 for number in range(100, 0, -1)]
    assert (percentile_ms(values, 0.5), percentile_ms(values, 0.99), percentile_ms([], 0.5)) == ("50.0 ms", "99.0 ms", "-")


# --- the whole --------------------------------------------------------------------------------------------------------


class Demo:
    """One `bananas demo` with its own place for temporary files."""

    def __init__(self, home: Path, *arguments: str, **variables: str) -> None:
        self.temporary = home / "tmp"
        self.temporary.mkdir()
        (home / "here").mkdir()
        self.environment = clean_environment(TMPDIR=str(self.temporary), COLUMNS="120", **variables)
        self.here = home / "here"
        self.output_path = home / "output"
        with open(self.output_path, "w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bananas", "demo", *arguments],
                cwd=self.here,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def output(self) -> str:
        return self.output_path.read_text()

    def wait(self) -> int:
        return self.process.wait(50)

    def workers(self) -> list[int]:
        """The pids of the supervisor and its children, once both have started."""
        supervisor = [pid for pid in children_of(self.process.pid) if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        children = [child for pid in supervisor for child in children_of(pid)]
        return supervisor + children if len(children) == 2 else []

    def close(self) -> None:
        kill(self.process.pid, signal.SIGTERM)
        self.process.wait(50)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    started: list[Demo] = []

    def start(*arguments: str, **variables: str) -> Demo:
        started.append(Demo(tmp_path, *arguments, **variables))
        return started[-1]

    yield start
    for demo in started:
        demo.close()


def test_the_demo_of_a_small_folder_checks_out_whatever_the_environment_says(folder: Path, start: Any) -> None:
    odd = {"RESULT_BACKEND_ENABLED": "false", "WORKER_MODE": "scheduler-only", "REDIS_URL": "redis://127.0.0.1:1", "BANANAS_MISSPELT": "1"}
    demo = start(str(folder), **odd)
    assert demo.wait() == 0, demo.output
    for text in ("7 files", "8 of 8 jobs have ended", "jobs/s", "p99", "ValueError: this job always fails", "All checks passed."):
        assert text in demo.output
    assert re.search(r"success after a retry\W+1\b", demo.output)
    assert re.search(r"dead\W+1\b", demo.output)
    assert re.search(r"await app.queue\('demo'\).dead.replay\('demo\.[0-9a-f]{43}'\)", demo.output)
    assert list(demo.here.iterdir()) == []
    assert [path for path in demo.temporary.iterdir() if path.name.startswith("bananas-demo-")] == []


def test_a_kept_demo_of_a_single_file_can_be_replayed_with_the_lines_that_it_prints(tmp_path: Path, start: Any) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "file").write_text("banana")
    demo = start(str(tmp_path / "one"), "--keep")
    assert demo.wait() == 0, demo.output
    found = re.search(r"cd (\S+)\n\s+(.*) bananas (replay .*)\n\s+.* bananas (worker .*)", demo.output)
    assert found, demo.output
    assert Path(found[1]) == demo.here
    variables = dict(word.split("=") for word in found[2].split())
    for arguments, output in ((found[3], "is ready again"), (f"{found[4]} --burst", "attempt failed, will retry")):
        run = subprocess.run(
            [sys.executable, "-m", "bananas", *arguments.split()],
            cwd=demo.here,
            env=demo.environment | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert output in run.stdout + run.stderr


def test_an_empty_folder_is_refused_with_exit_code_2(tmp_path: Path, start: Any) -> None:
    (tmp_path / "empty").mkdir()
    demo = start(str(tmp_path / "empty"))
    assert demo.wait() == 2
    assert "no regular file" in demo.output
    assert "Traceback" not in demo.output


@pytest.fixture
def slow(tmp_path: Path) -> str:
    """A folder whose demo takes seconds."""
    root = tmp_path / "slow"
    root.mkdir()
    for number in range(400):
        with open(root / f"{number}", "wb") as file:
            file.truncate(1 << 21)
    return str(root)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_when_the_demo_is_ended_early(slow: str, start: Any, number: signal.Signals) -> None:
    demo = start(slow)
    pids = wait_until(demo.workers, "the workers", 30)
    wait_until(lambda: "have ended" in demo.output, "the first results", 30)
    kill(demo.process.pid, number)
    assert demo.wait() != 0
    assert "Error" not in demo.output, "the demo, and its workers, end without a complaint"
    # Their server is gone too: what they could not settle holds them for shutdown_timeout and a little, 30 s.
    wait_until(lambda: all(map(is_gone, pids)), "the end of the workers", 40)
    if number != signal.SIGKILL:
        assert [path for path in demo.temporary.iterdir() if path.name.startswith("bananas-demo-")] == []


def test_a_demo_whose_workers_are_killed_says_so_and_fails(slow: str, start: Any) -> None:
    demo = start(slow)
    pids = wait_until(demo.workers, "the workers", 30)
    wait_until(lambda: "have ended" in demo.output, "the first results", 30)
    began = time.monotonic()
    kill(pids[0])
    assert demo.wait() == 1, demo.output
    assert time.monotonic() - began < 20
    assert demo.output.splitlines()[-1] == "bananas: BrokerUnavailable: the workers ended with exit code -9 before the jobs had"
