"""Several servers: a primary that fails over, by itself or as planned (F13, F15), a slot that moves, a node that is lost (F16, F17)."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Sequence
from functools import partial

from bananas.chaos.processes import Worker, eventually
from bananas.chaos.producer import Load
from bananas.chaos.site import Host, Site
from bananas.chaos.tasks import NAMESPACE
from bananas.chaos.trials import Fault, Trial
from bananas.connection import ConnectionLost
from bananas.groups import Cluster, Replicated, ask
from bananas.keys import QueueKeys
from bananas.server import PrivateServer

TAIL_S = 1.0  # what a replica on the same machine may not have received when its primary is killed
NODE_TIMEOUT_S = 1.0
LOST_WITH_IT = ("lost", "overlaps", "double_commits")


# --- what they share --------------------------------------------------------------------------------------------------


async def _site(trial: Trial, host: Host) -> Site:
    folder = trial.folder / "site"
    folder.mkdir()
    return await trial.enter(Site(folder, host, lease=trial.profile.lease, budget_s=60.0))


async def _replicated(trial: Trial, down_after_ms: int) -> tuple[Replicated, Site, list[Worker]]:
    group = Replicated(1, 3, binary=trial.binary, down_after_ms=down_after_ms)
    site = await _site(trial, Host(group, lambda: group.primary))
    return group, site, await site.worker(2, worker_concurrency=10)


async def _clustered(trial: Trial, replicas: int) -> tuple[Cluster, Site]:
    settings = {"cluster-node-timeout": f"{NODE_TIMEOUT_S * 1000:.0f}", "cluster-require-full-coverage": "no"}
    cluster = Cluster(3, replicas, binary=trial.binary, settings=settings)
    slot = QueueKeys(NAMESPACE, "default").slot
    return cluster, await _site(trial, Host(cluster, lambda: cluster.serving(slot)))


def _at_work(site: Site, worker: Worker, since_ns: int) -> bool:
    pids = set(worker.children())
    return any(line.pid in pids and line.at_ns > since_ns for line in site.book.noted("start"))


async def _loaded(site: Site) -> None:
    before = len(site.book.noted("end"))
    await eventually(lambda: len(site.book.noted("end")) > before + 30, "load", 60)


async def _consumed_again(trial: Trial, site: Site, workers: Sequence[Worker], since_ns: int, limit_s: float) -> None:
    for worker in workers:
        await eventually(partial(_at_work, site, worker, since_ns), "each worker at work again", limit_s + 60)
        trial.recovered((time.monotonic_ns() - since_ns) / 1e9, limit_s, "a worker consumed again: this")


def _check_tail(trial: Trial, site: Site, kills_ns: Sequence[int]) -> None:
    """What is lost was acknowledged within the tail that a replica may lack."""
    lost = {name for verdict in trial.verdicts for name in verdict.lost}
    acked = {line.name: line.at_ns for line in site.book.submitted() if line.word == "ack" and line.name in lost}
    early = [name for name, at_ns in acked.items() if not any(0 <= kill_ns - at_ns <= TAIL_S * 1e9 for kill_ns in kills_ns)]
    trial.check(not early, f"{len(early)} lost jobs were acknowledged earlier than {TAIL_S:g} s before a kill: {early[:3]}")


# --- F13, F15 ---------------------------------------------------------------------------------------------------------


async def failover(trial: Trial) -> None:
    """F13: the primary is killed; when the other one has taken over, it comes back as a replica."""
    down_after_ms = trial.pick(1_000, 5_000)
    group, site, workers = await _replicated(trial, down_after_ms)
    loads = [Load(arguments=(0.02,), batch=10, pause_s=0.05), Load(prefix="late", batch=4, pause_s=0.1, options={"delay": 5.0})]
    producers = [site.produce(load) for load in loads]
    kills_ns = []
    for _ in range(trial.pick(1, 3)):
        await _loaded(site)
        old = await asyncio.to_thread(lambda: group.primary)
        kills_ns.append(time.monotonic_ns())
        await asyncio.to_thread(old.kill)
        await _consumed_again(trial, site, workers, kills_ns[-1], down_after_ms / 1000 + 5 + trial.profile.slack_s)
        trial.count("failovers")
        await asyncio.to_thread(old.start)
        await eventually(partial(_follows, old), "the old primary to follow the new one", 60)
    for producer in producers:
        await site.stop_producing(producer)
    await trial.judge(site, 120.0)
    _check_tail(trial, site, kills_ns)


def _follows(server: PrivateServer) -> bool:
    with contextlib.suppress(ConnectionLost):  # it drops everybody as it changes sides
        return bool(ask(server, "ROLE")[0] == b"slave" and "master_link_status:up" in ask(server, "INFO", "replication").decode())
    return False


async def planned_failover(trial: Trial) -> None:
    """F15: FAILOVER, to and fro; held jobs run through all of it."""
    group, site, workers = await _replicated(trial, trial.pick(1_000, 5_000))
    held = [name for name, _ in await site.submit_many(4, "hold", str(site.gate()))]
    for name in held:
        await site.started(name)
    producer = site.produce(Load(arguments=(0.02,), batch=10, pause_s=0.05))
    for _ in range(trial.pick(1, 3)):
        await _loaded(site)
        old = await asyncio.to_thread(lambda: group.primary)
        since_ns = time.monotonic_ns()
        await asyncio.to_thread(ask, old, "FAILOVER")
        await eventually(partial(_follows, old), "the old primary to follow the new one", 60)
        await _consumed_again(trial, site, workers, since_ns, trial.profile.consumes_s)
        trial.count("failovers")
    await site.stop_producing(producer)
    site.gate().touch()
    await trial.judge(site, 120.0)
    runs = {name: len(site.book.noted("start", name)) for name in held}
    trial.check(set(runs.values()) == {1}, f"live jobs were dispatched twice: {runs}")


# --- F16, F17 ---------------------------------------------------------------------------------------------------------


async def resharding(trial: Trial) -> None:
    """F16: the queue's slot moves on and on, with its jobs; how long nothing starts is noted for each move."""
    cluster, site = await _clustered(trial, 0)
    await site.worker(2, worker_concurrency=10)
    await site.submit_many(trial.pick(300, 5_000), "work", 0.0, options={"delay": trial.pick(4.0, 30.0)})
    producer = site.produce(Load(arguments=(0.02,), batch=10, pause_s=0.05))
    for _ in range(trial.pick(4, 30)):
        await _loaded(site)
        targets = [server for server in cluster.servers if server is not cluster.serving(site.keys.slot)]
        began_ns = time.monotonic_ns()
        took_s = await asyncio.to_thread(cluster.move, site.keys.slot, trial.dice.choice(targets))
        ended_ns = time.monotonic_ns()
        await eventually(lambda ended_ns=ended_ns: any(line.at_ns > ended_ns for line in site.book.noted("start")), "a job behind a move")  # type: ignore[misc]
        trial.count("moves")
        trial.count("moving s", round(took_s, 2))
        trial.recovered(_longest_gap_s(site, began_ns), 5 + trial.profile.slack_s, "the queue stood still: this")
    await site.stop_producing(producer)
    verdict = await trial.judge(site, trial.pick(60.0, 300.0))
    trial.check(verdict.duplicate_runs == 0, f"{verdict.duplicate_runs} duplicate runs")


def _longest_gap_s(site: Site, since_ns: int) -> float:
    """The longest time since then between two starts."""
    times = [since_ns, *(line.at_ns for line in site.book.noted("start") if line.at_ns > since_ns)]
    return max(later - earlier for earlier, later in itertools.pairwise(times)) / 1e9


async def node_lost(trial: Trial) -> None:
    """F17: the primary of one queue is killed; a queue on another one goes on meanwhile."""
    cluster, site = await _clustered(trial, 1)
    here = cluster.serving(site.keys.slot)
    other = next(name for name in map("q{}".format, range(1_000)) if cluster.serving(QueueKeys(NAMESPACE, name).slot) is not here)
    workers = await site.worker(2, worker_concurrency=10, worker_routing_keys=f"default,{other}")
    mine = site.produce(Load(prefix="mine", arguments=(0.02,), batch=10, pause_s=0.1))
    theirs = site.produce(Load(prefix="theirs", arguments=(0.02,), batch=10, pause_s=0.1, options={"queue": other}))
    await _loaded(site)
    await asyncio.sleep(trial.pick(1.0, 3.0))
    kill_ns = time.monotonic_ns()
    await asyncio.to_thread(here.kill)
    limit_s = NODE_TIMEOUT_S + 5 + trial.profile.slack_s
    await eventually(lambda: _mine_at_work(site, kill_ns + 10**9), "the queue of the lost node at work again", limit_s + 60)
    last_ns = min(line.at_ns for line in site.book.noted("start") if line.name.startswith("mine") and line.at_ns > kill_ns + 10**9)
    trial.recovered((last_ns - kill_ns) / 1e9, limit_s, "the queue of the lost node was at work again: this")
    _check_pace(trial, site, kill_ns)
    await asyncio.to_thread(here.start)
    for worker in workers:
        trial.check(worker.process.exit_code is None, "a worker ended with the node")
    for producer in (mine, theirs):
        await site.stop_producing(producer)
    await eventually(partial(_is_empty, site, other), "the end of the other queue's jobs", 60)
    await trial.judge(site, 120.0)
    _check_tail(trial, site, [kill_ns])


def _mine_at_work(site: Site, since_ns: int) -> bool:
    return any(line.name.startswith("mine") and line.at_ns > since_ns for line in site.book.noted("start"))


def _check_pace(trial: Trial, site: Site, kill_ns: int) -> None:
    """The other queue's jobs ended about as fast in the second after the kill as in the one before."""
    ends = [line.at_ns - kill_ns for line in site.book.noted("end") if line.name.startswith("theirs")]
    before, after = (sum(low <= at_ns < low + 10**9 for at_ns in ends) for low in (-(10**9), 0))
    trial.count("other queue, ended in the second before", before)
    trial.count("other queue, ended in the second after", after)
    trial.check(after >= before / 3, f"another queue went from {before} jobs per second to {after} when a node was lost")


async def _is_empty(site: Site, queue: str) -> bool:
    counts = await site.app.queue(queue).counts()
    return counts.ready + counts.scheduled + counts.running == 0


FAULTS: Sequence[Fault] = (
    Fault(
        "F13",
        "Sentinel failover",
        "three sentinels, the primary killed under load",
        "every worker consumes again within down-after + 5 s; lost is at most what the replica had not received, and counted",
        failover,
        needs=("sentinel",),
        allowed=LOST_WITH_IT,
        in_short=False,
    ),
    Fault(
        "F15",
        "planned failover",
        "FAILOVER under load, to and fro",
        "nothing is lost, no live job is dispatched twice",
        planned_failover,
        needs=("sentinel",),
        in_short=False,
    ),
    Fault(
        "F16",
        "resharding of a queue's slot under load",
        "a Cluster of three primaries, the slot moved again and again",
        "nothing is lost, no duplicate run; how long the queue stands still is counted",
        resharding,
        needs=("cluster",),
        in_short=False,
    ),
    Fault(
        "F17",
        "Cluster node lost",
        "three primaries with replicas, one primary killed under load",
        "as F13; other queues keep their pace",
        node_lost,
        needs=("cluster",),
        allowed=LOST_WITH_IT,
        in_short=False,
    ),
)
