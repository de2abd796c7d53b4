"""F38: steady load for long, faults drawn at random; at the end nothing is lost, the audit is clean, and nothing has grown."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence

from bananas.bench.processes import resident_bytes
from bananas.bench.soak import growth
from bananas.chaos.faults.servers import watching_the_disk
from bananas.chaos.processes import Worker, send
from bananas.chaos.producer import Load
from bananas.chaos.site import Site
from bananas.chaos.trials import Fault, Trial

MB = 1e6
FLOORS = {"keys without TTL": 3.0, "steady worker MB": 6.0}
PAUSES_S = (1.0, 4.0)


class _Adversary:
    """Does something bad, drawn at random, and mends it.

    Attributes:
        steady: a worker that is stopped and cut off, but never killed: its memory is watched.
    """

    def __init__(self, trial: Trial, site: Site, steady: Worker) -> None:
        self._trial, self._site, self.steady = trial, site, steady
        self._dice = trial.dice

    async def strike(self) -> None:
        """One fault."""
        ways: list[Callable[[], Awaitable[None]]] = [
            self._kill_process,
            self._kill_worker,
            self._stop_worker,
            self._leave,
            self._kill_server,
            self._stop_server,
            self._flush,
            self._pause,
            self._cut,
            self._slow,
            self._refuse,
            self._fill,
        ]
        way = self._dice.choice(ways)
        await way()
        self._trial.count(way.__name__.strip("_").replace("_", " "))

    def _mortal(self) -> Worker:
        return self._dice.choice([worker for worker in self._site.workers if worker is not self.steady])

    async def _kill_process(self) -> None:
        children = self._mortal().children()
        if children:
            send(self._dice.choice(children))

    async def _kill_worker(self) -> None:
        worker = self._mortal()
        worker.kill()
        self._replace(worker)

    async def _leave(self) -> None:
        worker = self._mortal()
        send(worker.pid, signal.SIGTERM)
        code = await worker.ended(60)
        self._trial.check(code == 0, f"a worker that was asked to leave ended with exit code {code}")
        self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        self._site.workers.remove(worker)
        self._site.start(worker_concurrency=5, worker_processes=2)

    async def _stop_worker(self) -> None:
        worker = self._dice.choice(self._site.workers)
        pids = worker.stop()
        await asyncio.sleep(self._site.lease * self._dice.uniform(0.1, 2.5))
        for pid in pids:
            send(pid, signal.SIGCONT)

    async def _kill_server(self) -> None:
        with watching_the_disk(self._site) as pending:
            await asyncio.sleep(0.3)
        await self._site.host.kill()
        if pending and time.monotonic() - pending[-1] < 2:
            self._trial.allowed.add("lost")
            self._trial.count("kills with an fsync pending")
        await asyncio.sleep(self._dice.uniform(0.0, 2.0))
        await self._site.host.start()

    async def _stop_server(self) -> None:
        self._site.host.send(signal.SIGSTOP)
        await asyncio.sleep(self._site.lease * self._dice.uniform(0.1, 2.0))
        self._site.host.send(signal.SIGCONT)

    async def _flush(self) -> None:
        self._site.ask("SCRIPT", "FLUSH")

    async def _pause(self) -> None:
        self._site.ask("CLIENT", "PAUSE", round(self._site.lease * self._dice.uniform(100, 900)), "ALL")

    async def _cut(self) -> None:
        self._trial.proxy.cut(self._dice.choice(["", "bananas:worker", "bananas:supervisor", "bananas:chaos"]))

    async def _slow(self) -> None:
        self._trial.proxy.delay_s = (0.005, 0.2)
        await asyncio.sleep(self._dice.uniform(0.5, 3.0))
        self._trial.proxy.delay_s = (0.0, 0.0)

    async def _refuse(self) -> None:
        self._trial.proxy.refuse("LOADING Redis is loading the dataset in memory", share=0.8)
        await asyncio.sleep(self._dice.uniform(0.2, 2.0))
        self._trial.proxy.refuse("")

    async def _fill(self) -> None:
        self._site.ask("CONFIG", "SET", "maxmemory", 1)
        await asyncio.sleep(self._dice.uniform(0.2, 2.0))
        self._site.ask("CONFIG", "SET", "maxmemory", 0)


async def soak(trial: Trial) -> None:
    """F38."""
    site = await trial.site(durable=True, proxied=True, lease=min(2.0, trial.profile.lease), budget_s=60.0)
    site.keeps = {"result_ttl_success": 5, "result_ttl_failure": 5}
    (steady,) = await site.worker(worker_concurrency=5)
    await site.worker(2, worker_concurrency=5, worker_processes=2)
    loads = [
        Load(prefix="plain", arguments=(0.1,), batch=4, pause_s=0.1),
        Load(prefix="fails", task="fails", arguments=(1,), batch=2, pause_s=0.4),
        Load(prefix="late", arguments=(0.02,), batch=2, pause_s=0.4, options={"delay": 1.0}),
        Load(prefix="sync", task="work_sync", arguments=(0.05,), batch=2, pause_s=0.4),
    ]
    producers = [site.produce(load) for load in loads]
    adversary, points = _Adversary(trial, site, steady), list[tuple[float, float, float]]()
    began = time.monotonic()
    while (at_s := time.monotonic() - began) < trial.profile.minutes * 60:
        points.append((at_s, *_sample(site, steady)))
        await adversary.strike()
        await asyncio.sleep(trial.dice.uniform(*PAUSES_S))
    for producer in producers:
        await site.stop_producing(producer)
    await trial.judge(site, 300.0)
    settled = points[len(points) // 5 :]
    for index, (name, floor) in enumerate(FLOORS.items(), 1):
        grown = growth(name, [(point[0], point[index]) for point in settled], floor)
        trial.check(not grown.grew, str(grown))
        trial.count(f"{name}, median", round(grown.level, 1))
    trial.count("minutes", trial.profile.minutes)


def _sample(site: Site, steady: Worker) -> tuple[float, float]:
    """Keys without a TTL, and the memory of the steady worker in MB."""
    endless = sum(site.ask("PTTL", key) == -1 for key in site.ask("KEYS", "*"))
    return float(endless), resident_bytes(steady.everything()) / MB


FAULTS: Sequence[Fault] = (
    Fault(
        "F38",
        "soak",
        "steady load for minutes, faults drawn at random every few seconds",
        "audit clean; memory of a worker and number of keys without a TTL flat",
        soak,
        in_short=False,
    ),
)
