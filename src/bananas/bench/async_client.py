"""The loads of a client process on an event loop: what an async program does with the public interface."""

import asyncio
import random
import tracemalloc
from collections.abc import Callable, Coroutine
from time import monotonic_ns
from typing import Any

from bananas.bench import tasks
from bananas.bench.load import PICK_UP_GAP_S, RESULT_TIMEOUT_S, WARM_UP, Kind, Load, Loaded, Window, calls, chunks, payload, peaks_loaded


async def _one_by_one(load: Load) -> Loaded:
    call = calls(load)
    for _ in range(WARM_UP):
        task, arguments = call()
        await task.submit(*arguments)
    window = Window(load)
    keep = window.samples.append
    while window.goes_on():
        task, arguments = call()
        began = monotonic_ns()
        await task.submit(*arguments)
        keep(monotonic_ns() - began)
    return window.loaded(len(window.samples))


async def _memory(load: Load) -> Loaded:
    call = calls(load)
    peaks = []
    tracemalloc.start()
    for _ in range(WARM_UP + load.count):
        task, arguments = call()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        await task.submit(*arguments)
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    return peaks_loaded(load, peaks)


async def _bulk(load: Load) -> Loaded:
    call = calls(load)
    await tasks.app.submit_many([])
    window = Window(load)
    for count in chunks(load.count):
        await tasks.app.submit_many(task.bind(*arguments) for task, arguments in (call() for _ in range(count)))
    return window.loaded(load.count)


async def _concurrent(load: Load) -> Loaded:
    call = calls(load)
    task, arguments = call()
    await asyncio.gather(*[task.submit(*arguments) for _ in range(load.clients)])
    window = Window(load)
    keep = window.samples.append

    async def client() -> None:
        while window.goes_on():
            task, arguments = call()
            began = monotonic_ns()
            await task.submit(*arguments)
            keep(monotonic_ns() - began)

    await asyncio.gather(*[client() for _ in range(load.clients)])
    return window.loaded(len(window.samples))


async def _live(load: Load) -> Loaded:
    """`clients` callers who do not wait for each other, so that the client batches by itself: a web process under load."""
    call = calls(load)
    window = Window(load)
    keep = window.samples.append

    async def caller() -> None:
        while window.goes_on():
            task, arguments = call()
            began = monotonic_ns()
            await task.submit(*arguments)
            keep(monotonic_ns() - began)

    await asyncio.gather(*[caller() for _ in range(load.clients)])
    return window.loaded(len(window.samples))


async def _open_loop(load: Load) -> Loaded:
    """Jobs at random times whatever becomes of earlier ones. Each carries the time at which it was to be sent: who sends late is told."""
    call, chance = calls(load), random.Random(load.count)
    window = Window(load)
    due_ns, running = window.began_ns, set[asyncio.Task[Any]]()
    for _ in range(load.count):
        due_ns += round(chance.expovariate(load.rate) * 1e9)
        while (early_ns := due_ns - monotonic_ns()) > 0:
            await asyncio.sleep(early_ns / 1e9)
        task, arguments = call()
        sending = asyncio.ensure_future(task.submit(due_ns, *arguments[1:]))
        running.add(sending)
        sending.add_done_callback(running.discard)
        window.samples.append(monotonic_ns() - due_ns)
    await asyncio.gather(*running)
    return window.loaded(load.count)


async def _pick_up(load: Load) -> Loaded:
    """One job at a time, for a worker that has had nothing to do for a while."""
    call, chance = calls(load), random.Random(load.count)
    window = Window(load)
    for _ in range(load.count):
        await asyncio.sleep(chance.uniform(*PICK_UP_GAP_S))
        task, arguments = call()
        await task.submit(*arguments)
    return window.loaded(load.count)


async def _round_trip(load: Load) -> Loaded:
    text, window = payload(load.size_bytes), None
    for turn in range(WARM_UP + load.count):
        if turn == WARM_UP:
            window = Window(load)
        await asyncio.sleep(PICK_UP_GAP_S[0])
        began = monotonic_ns()
        job = await tasks.echo.submit(text)
        value = await job.result(timeout=RESULT_TIMEOUT_S)
        if window is not None:
            window.samples.append(monotonic_ns() - began)
        assert value == text
    assert window is not None
    return window.loaded(load.count)


LOADS: dict[Kind, Callable[[Load], Coroutine[Any, Any, Loaded]]] = {
    "one_by_one": _one_by_one,
    "memory": _memory,
    "bulk": _bulk,
    "concurrent": _concurrent,
    "live": _live,
    "open_loop": _open_loop,
    "pick_up": _pick_up,
    "round_trip": _round_trip,
}
