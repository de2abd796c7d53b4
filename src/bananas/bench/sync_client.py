"""The loads of a client process without an event loop, or with threads: what a sync program does with the public interface."""

import threading
import time
import tracemalloc
from array import array
from collections.abc import Callable
from time import monotonic_ns

from bananas.bench import tasks
from bananas.bench.load import PICK_UP_GAP_S, RESULT_TIMEOUT_S, WARM_UP, Kind, Load, Loaded, Window, calls, chunks, payload, peaks_loaded


def _one_by_one(load: Load) -> Loaded:
    call = calls(load)
    for _ in range(WARM_UP):
        task, arguments = call()
        task.submit_sync(*arguments)
    window = Window(load)
    keep = window.samples.append
    while window.goes_on():
        task, arguments = call()
        began = monotonic_ns()
        task.submit_sync(*arguments)
        keep(monotonic_ns() - began)
    return window.loaded(len(window.samples))


def _memory(load: Load) -> Loaded:
    call = calls(load)
    peaks = []
    tracemalloc.start()
    for _ in range(WARM_UP + load.count):
        task, arguments = call()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        task.submit_sync(*arguments)
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    return peaks_loaded(load, peaks)


def _bulk(load: Load) -> Loaded:
    call = calls(load)
    tasks.app.submit_many_sync([])
    window = Window(load)
    for count in chunks(load.count):
        tasks.app.submit_many_sync(task.bind(*arguments) for task, arguments in (call() for _ in range(count)))
    return window.loaded(load.count)


def _concurrent(load: Load) -> Loaded:
    """Threads. Each keeps its own samples; the pool of the app has as many connections as its settings say."""
    call = calls(load)
    task, arguments = call()
    task.submit_sync(*arguments)
    window = Window(load)
    found: list[array[int]] = []

    def client() -> None:
        samples: array[int] = array("q")
        while window.goes_on():
            task, arguments = call()
            began = monotonic_ns()
            task.submit_sync(*arguments)
            samples.append(monotonic_ns() - began)
        found.append(samples)

    threads = [threading.Thread(target=client) for _ in range(load.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for samples in found:
        window.samples.extend(samples)
    return window.loaded(len(window.samples))


def _round_trip(load: Load) -> Loaded:
    text, window = payload(load.size_bytes), None
    for turn in range(WARM_UP + load.count):
        if turn == WARM_UP:
            window = Window(load)
        time.sleep(PICK_UP_GAP_S[0])
        began = monotonic_ns()
        value = tasks.echo.submit_sync(text).result_sync(timeout=RESULT_TIMEOUT_S)
        if window is not None:
            window.samples.append(monotonic_ns() - began)
        assert value == text
    assert window is not None
    return window.loaded(load.count)


def _compute(load: Load) -> Loaded:
    """What a computing job does, without any queue: the ideal."""
    window = Window(load)
    for _ in range(load.count):
        tasks.compute(int(load.arguments[0]))
    return window.loaded(load.count)


LOADS: dict[Kind, Callable[[Load], Loaded]] = {
    "one_by_one": _one_by_one,
    "memory": _memory,
    "bulk": _bulk,
    "concurrent": _concurrent,
    "round_trip": _round_trip,
    "compute": _compute,
}
