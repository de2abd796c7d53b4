"""The submitting side of a peer, in the peer's environment: reads an order per line, carries it out, answers with a line, all JSON.

Standard library only. It is copied beside the peer as driver.py, and peer.mjs speaks the same protocol:

    {"do": "warm_up", "n": N}                                           -> {"n"}; N noops, one by one
    {"do": "one_by_one", "task": ..., "size": B, "n": N, "cap_s": S}    -> {"n", "wall_s", "ns": per operation}
    {"do": "clients", ... , "clients": C}                               -> the same, with C concurrent callers
    {"do": "bulk", ... , "chunk": K}                                    -> {"n", "wall_s"}
    {"do": "pick_up", "n": N, "gap_s": [low, high]}                     -> {"n"}; the handlers keep the latencies
    {"do": "call", "n": N, "warm": W, "gap_s": [low, high]}             -> {"n", "ns"}, those behind the first W

Each ends at `cap_s` with what was done. A peer whose functions are coroutine functions is driven on one event loop (uvloop where it is
installed), any other from threads. It ends when its input ends: with the benchmark, however that ends.
"""
# mypy: ignore-errors
# pyright: basic, reportMissingImports=false, reportFunctionMemberAccess=false, reportOptionalMemberAccess=false

import asyncio
import inspect
import itertools
import json
import os
import random
import sys
import threading
import time
import traceback
from time import monotonic_ns

WARM_UP_BYTES = 100
PICK_UP_TIMEOUT_S = 15.0


def text(size):
    return ("0123456789abcdef" * (size // 16 + 1))[:size]


class Window:
    """Counts operations down from `n` within `cap_s`."""

    def __init__(self, order):
        self.ns = []
        self._left = itertools.count(order["n"], -1)
        self.began_ns = monotonic_ns()
        self._end_ns = self.began_ns + int(order.get("cap_s", 600) * 1e9)

    def goes_on(self):
        return next(self._left) > 0 and monotonic_ns() < self._end_ns

    def answer(self, n):
        return {"n": n, "wall_s": (monotonic_ns() - self.began_ns) / 1e9, "ns": self.ns}


def chunks(order):
    """The payloads of a bulk, chunk by chunk, until the time is over."""
    one, done = text(order["size"]), 0
    end_ns = monotonic_ns() + int(order["cap_s"] * 1e9)
    while done < order["n"] and monotonic_ns() < end_ns:
        size = min(order["chunk"], order["n"] - done)
        yield [one] * size
        done += size


def gap(order, chance):
    return chance.uniform(*order["gap_s"])


def ended():
    import counter

    return counter.Reader(os.environ[counter.FOLDER]).count


# --- on an event loop -------------------------------------------------------------------------------------------------


class OnLoop:
    """Drives coroutine functions."""

    def __init__(self, peer):
        self.peer = peer

    async def warm_up(self, order):
        for _ in range(order["n"]):
            await self.peer.submit("noop", text(WARM_UP_BYTES))
        return {"n": order["n"]}

    async def one_by_one(self, order):
        return await self.clients(order | {"clients": 1})

    async def clients(self, order):
        submit, task, one = self.peer.submit, order["task"], text(order["size"])
        await asyncio.gather(*[submit(task, one) for _ in range(order["clients"])])
        window = Window(order)

        async def client():
            while window.goes_on():
                began = monotonic_ns()
                await submit(task, one)
                window.ns.append(monotonic_ns() - began)

        await asyncio.gather(*[client() for _ in range(order["clients"])])
        return window.answer(len(window.ns))

    async def bulk(self, order):
        window, n = Window(order), 0
        for payloads in chunks(order):
            await self.peer.submit_many(order["task"], payloads)
            n += len(payloads)
        return window.answer(n)

    async def pick_up(self, order):
        window, chance, count = Window(order), random.Random(1), ended()
        for turn in range(order["n"]):
            await asyncio.sleep(gap(order, chance))
            before, deadline = count(), time.monotonic() + PICK_UP_TIMEOUT_S
            await self.peer.submit("pickup", str(monotonic_ns()))
            while count() == before:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"job {turn} was not run within {PICK_UP_TIMEOUT_S:g} s")
                await asyncio.sleep(0.001)
        return window.answer(order["n"])

    async def call(self, order):
        chance, window = random.Random(1), Window(order)
        for turn in range(order["warm"] + order["n"]):
            await asyncio.sleep(gap(order, chance))
            began = monotonic_ns()
            value = await asyncio.wait_for(self.peer.call("x" * 16), 15)
            if turn >= order["warm"]:
                window.ns.append(monotonic_ns() - began)
            if value != "x" * 16:
                raise RuntimeError(f"the result of echo is {value!r}")
        return window.answer(order["n"])

    async def run(self):
        await self.peer.connect()
        say({"ready": True})
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order = json.loads(line)
            say(await getattr(self, order["do"])(order))


# --- from threads -----------------------------------------------------------------------------------------------------


class OnThreads:
    """Drives plain functions."""

    def __init__(self, peer):
        self.peer = peer

    def warm_up(self, order):
        for _ in range(order["n"]):
            self.peer.submit("noop", text(WARM_UP_BYTES))
        return {"n": order["n"]}

    def one_by_one(self, order):
        submit, task, one = self.peer.submit, order["task"], text(order["size"])
        submit(task, one)
        window = Window(order)
        while window.goes_on():
            began = monotonic_ns()
            submit(task, one)
            window.ns.append(monotonic_ns() - began)
        return window.answer(len(window.ns))

    def clients(self, order):
        submit, task, one = self.peer.submit, order["task"], text(order["size"])
        gate = threading.Barrier(order["clients"] + 1)
        windows = []

        def client():
            submit(task, one)
            gate.wait()
            while windows[0].goes_on():
                began = monotonic_ns()
                submit(task, one)
                windows[0].ns.append(monotonic_ns() - began)

        threads = [threading.Thread(target=client) for _ in range(order["clients"])]
        for thread in threads:
            thread.start()
        while gate.n_waiting < order["clients"]:
            time.sleep(0.001)
        windows.append(Window(order))
        gate.wait()
        for thread in threads:
            thread.join()
        return windows[0].answer(len(windows[0].ns))

    def bulk(self, order):
        window, n = Window(order), 0
        for payloads in chunks(order):
            self.peer.submit_many(order["task"], payloads)
            n += len(payloads)
        return window.answer(n)

    def pick_up(self, order):
        window, chance, count = Window(order), random.Random(1), ended()
        for turn in range(order["n"]):
            time.sleep(gap(order, chance))
            before, deadline = count(), time.monotonic() + PICK_UP_TIMEOUT_S
            self.peer.submit("pickup", str(monotonic_ns()))
            while count() == before:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"job {turn} was not run within {PICK_UP_TIMEOUT_S:g} s")
                time.sleep(0.001)
        return window.answer(order["n"])

    def call(self, order):
        chance, window = random.Random(1), Window(order)
        for turn in range(order["warm"] + order["n"]):
            time.sleep(gap(order, chance))
            began = monotonic_ns()
            value = self.peer.call("x" * 16)
            if turn >= order["warm"]:
                window.ns.append(monotonic_ns() - began)
            if value != "x" * 16:
                raise RuntimeError(f"the result of echo is {value!r}")
        return window.answer(order["n"])

    def run(self):
        self.peer.connect()
        say({"ready": True})
        for line in sys.stdin:
            order = json.loads(line)
            say(getattr(self, order["do"])(order))


def say(answer):
    replies.write(json.dumps(answer) + "\n")
    replies.flush()


def main():
    import peer

    if not inspect.iscoroutinefunction(peer.submit):
        OnThreads(peer).run()
        return
    try:
        import uvloop
    except ImportError:
        asyncio.run(OnLoop(peer).run())
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(OnLoop(peer).run())


if __name__ == "__main__":
    replies = os.fdopen(os.dup(1), "w")  # what a library prints goes to the log instead
    os.dup2(2, 1)
    try:
        main()
    except BaseException as error:
        traceback.print_exc()
        say({"error": f"{type(error).__name__}: {error}"})
        os._exit(1)
    os._exit(0)  # some clients have threads or loops that never end
