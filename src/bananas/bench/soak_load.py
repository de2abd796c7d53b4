"""The load of a soak: its tasks, and the client process that submits them (`python -m bananas.bench.soak_load RATE`).

Of 40 jobs 24 succeed without a result, 8 leave a result for two seconds, of which half are waited for, 4 fail once and are retried, 3 are
delayed, and 1 ends in the dead letter queue: at most two a second, for that queue is trimmed once a minute.

The client sends at a steady rate whatever becomes of earlier jobs, up to a bound of calls under way. It answers each line of its input
with one of what it did since the last, and keeps nothing older: where its memory grows, that is the library's doing. Nothing here keeps
samples in mapped files, which would look like a leak.
"""

import asyncio
import json
import os
import sys
import time
from array import array
from typing import Any

from bananas.app import Bananas
from bananas.bench import counter, tasks
from bananas.bench.load import payload
from bananas.bench.percentiles import percentile
from bananas.context import current_job
from bananas.errors import BananasError
from bananas.handle import Job
from bananas.retry import Retry

NAMESPACE = "soak"
KEPT_DEAD = 20
RESULT_TTL_S, DELAY_S = 2, 1.0
TURNS = 40
DEAD_GAP_S = 0.5
MOST_UNDER_WAY = 2_000
RESULT_TIMEOUT_S = 60.0
TEXT = payload(1_000)

KEPT_MINUTES_S = 60.0  # of what is counted: a minute more of the usual two days is one more key, which is not what is looked for

app = Bananas(namespace=NAMESPACE, dead_max_count=KEPT_DEAD, stats_ttl=KEPT_MINUTES_S)
app.lifespan(tasks.resources)


@app.task(result_ttl=0)
async def plain(text: str) -> None:
    """Succeeds."""
    counter.done()


@app.task(result_ttl=RESULT_TTL_S)
async def kept(text: str) -> int:
    """Leaves a result."""
    counter.done()
    return len(text)


@app.task(result_ttl=0, max_retries=5, retry=Retry(base=0.2, factor=1, cap=0.2))
async def flaky(text: str) -> None:
    """Fails once."""
    if current_job().attempt == 1:
        raise ConnectionError("this job fails once, to be retried")
    counter.done()


@app.task(result_ttl=0, max_retries=0)
async def doomed(text: str) -> None:
    """Ends in the dead letter queue."""
    raise ValueError("this job always fails, to be a dead letter")


class Sender:
    """Submits at a steady rate, and counts since it was last asked."""

    def __init__(self, rate: float) -> None:
        self._gap_ns = round(1e9 / rate)
        self._under_way: set[asyncio.Task[None]] = set()
        self.totals = {"submitted": 0, "doomed": 0, "wrong": 0, "failed": 0, "skipped": 0}
        self._submit_ns, self._wait_ns = array("q"), array("q")
        self._doomed_at = 0.0

    async def send(self, stop: asyncio.Event) -> None:
        """Submit until `stop`, then wait for what is under way."""
        due_ns, turn = time.monotonic_ns(), 0
        while not stop.is_set():
            due_ns, turn = due_ns + self._gap_ns, turn + 1
            if (early_ns := due_ns - time.monotonic_ns()) > 0:
                await asyncio.sleep(early_ns / 1e9)
            elif not turn % 50:
                await asyncio.sleep(0)
            if len(self._under_way) >= MOST_UNDER_WAY:
                self.totals["skipped"] += 1
                continue
            sending = asyncio.ensure_future(self._one(turn % TURNS))
            self._under_way.add(sending)
            sending.add_done_callback(self._under_way.discard)
        await asyncio.gather(*self._under_way)

    async def _one(self, turn: int) -> None:
        began = time.monotonic_ns()
        try:
            job = await self._submit(turn)
            self.totals["submitted"] += 1
            self._submit_ns.append(time.monotonic_ns() - began)
            if 24 <= turn < 28:
                value = await job.result(timeout=RESULT_TIMEOUT_S)
                self.totals["wrong"] += value != len(TEXT)
                self._wait_ns.append(time.monotonic_ns() - began)
        except BananasError:
            self.totals["failed"] += 1

    async def _submit(self, turn: int) -> Job[Any]:
        if turn < 24:
            return await plain.submit(TEXT)
        if turn < 32:
            return await kept.submit(TEXT)
        if turn < 36:
            return await flaky.submit(TEXT)
        if turn < 39:
            return await plain.options(delay=DELAY_S).submit(TEXT)
        if time.monotonic() < self._doomed_at + DEAD_GAP_S:
            return await plain.submit(TEXT)
        self._doomed_at = time.monotonic()
        self.totals["doomed"] += 1
        return await doomed.submit(TEXT)

    def tell(self) -> dict[str, Any]:
        """Totals so far, and latencies since the last time."""
        submit_ns, self._submit_ns = sorted(self._submit_ns), array("q")
        wait_ns, self._wait_ns = sorted(self._wait_ns), array("q")
        latencies = {
            f"{name}_p{share}_ms": percentile(ordered, share) / 1e6
            for name, ordered in (("submit", submit_ns), ("wait", wait_ns))
            for share in (50, 99)
            if ordered
        }
        return self.totals | latencies


async def serve(rate: float) -> None:
    """Send, and answer orders from stdin: "tell", or "stop", which answers when all is sent; the end of stdin ends all."""
    sender, stop = Sender(rate), asyncio.Event()
    sending = asyncio.ensure_future(sender.send(stop))
    say({"ready": True})
    while line := await asyncio.to_thread(sys.stdin.readline):
        if json.loads(line)["do"] == "stop":
            stop.set()
            await sending
        say(sender.tell())
    stop.set()
    sending.cancel()
    await app.close()


def say(answer: dict[str, Any]) -> None:
    """One line of JSON."""
    os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
