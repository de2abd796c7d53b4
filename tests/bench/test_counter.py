"""Counting in mapped files: by this process, its forks, and processes that know this one file alone."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bananas.bench import counter
from bananas.bench.counter import Reader


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(counter.FOLDER, str(tmp_path))
    monkeypatch.setattr(counter, "_view", None)
    yield tmp_path
    counter._view = None


def test_nothing_is_counted_before_a_handler_has_ended(folder: Path) -> None:
    reader = Reader(folder)
    assert (reader.count(), reader.first_start_ns(), reader.last_end_ns(), list(reader.samples(0))) == (0, 0, 0, [])
    counter.start()
    assert reader.count() == 0
    assert reader.first_start_ns() > 0


def test_handlers_are_counted_with_the_first_start_and_the_last_end(folder: Path) -> None:
    before = time.monotonic_ns()
    counter.start()
    started = time.monotonic_ns()
    counter.done()
    counter.done()
    reader = Reader(folder)
    assert reader.count() == 2
    assert before <= reader.first_start_ns() <= started <= reader.last_end_ns() <= time.monotonic_ns()


def test_a_handler_that_takes_no_time_needs_no_start(folder: Path) -> None:
    counter.done()
    reader = Reader(folder)
    assert 0 < reader.first_start_ns() == reader.last_end_ns()


def test_latencies_of_both_kinds_are_kept_one_by_one(folder: Path) -> None:
    sent = time.monotonic_ns() - 5_000_000
    for _ in range(3):
        counter.started(sent)
        counter.done()
    counter.ended(sent)
    reader = Reader(folder)
    starts, ends = reader.samples(0), reader.samples(1)
    assert (len(starts), len(ends), reader.count()) == (3, 1, 3)
    assert all(5_000_000 <= sample < 60_000_000_000 for sample in (*starts, *ends))
    assert list(starts) == sorted(starts)


def test_samples_without_room_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter.done()
    monkeypatch.setattr(counter, "ROOM", 2)
    for _ in range(3):
        counter.started(time.monotonic_ns())
    assert Reader(folder).lost() == 1


def test_threads_lose_no_count(folder: Path) -> None:
    def work() -> None:
        for _ in range(2_000):
            counter.start_in_thread()
            counter.done_in_thread()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Reader(folder).count() == 8_000


def test_reset_counts_from_zero_again_in_the_process_that_counts(folder: Path) -> None:
    counter.started(time.monotonic_ns())
    counter.done()
    reader = Reader(folder)
    reader.reset()
    assert (reader.count(), list(reader.samples(0)), reader.first_start_ns()) == (0, [], 0)
    counter.done()
    assert (reader.count(), Reader(folder).count()) == (1, 1)


FORKED = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("counter", sys.argv[1])
counter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(counter)
counter.done()
if not os.fork():
    counter.done()
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize(("shared", "counts"), [("0", [1, 1]), ("1", [2])])
def test_the_file_works_alone_and_after_a_fork(folder: Path, shared: str, counts: list[int]) -> None:
    environment = {**os.environ, counter.SHARED: shared, "PYTHONPATH": ""}
    source = str(Path(counter.__file__))
    subprocess.run([sys.executable, "-I", "-S", "-c", FORKED, source], env=environment, check=True, timeout=30)
    assert Reader(folder).counts() == counts


def test_counting_imports_the_standard_library_alone() -> None:
    code = "import sys, importlib.util as u; s = u.spec_from_file_location('c', sys.argv[1]); s.loader.exec_module(u.module_from_spec(s))"
    check = "; print([n for n in sys.modules if n.partition('.')[0] in ('bananas', 'msgspec', 'hiredis')])"
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code + check, counter.__file__], capture_output=True, text=True, timeout=30, check=True
    )
    assert run.stdout.strip() == "[]"
