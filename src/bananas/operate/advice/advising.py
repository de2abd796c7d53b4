"""Looking at a namespace, and saying what to do about it."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from bananas import codec, sealing
from bananas.app import Bananas
from bananas.keys import QueueKeys
from bananas.operate.advice import hands, servers, tasks
from bananas.operate.advice.facts import Advice, Sample, Server, Snapshot
from bananas.operate.backlog import RECENT_MINUTES
from bananas.operate.history import History, history
from bananas.operate.namespace import Namespace
from bananas.operate.overview import QueueFigures, queues
from bananas.operate.requests import Step, Stretch, survey
from bananas.session import server_info

RULES = (*hands.RULES, *servers.RULES, *tasks.RULES)
MINUTES = 30
SAMPLED_JOBS, SAMPLED_BYTES = 50, 1024 * 1024
MOST_QUEUES = 20
WATCHED_S = 1.0
_ORDER = {"error": 0, "warning": 1, "hint": 2}
_WHAT = "looking for advice"


async def advise(app: Bananas) -> list[Advice]:
    """Advice from live data, the most pressing first; none where all is well.

    It takes a second and a few round trips: the server's use of its core is watched meanwhile. On a Cluster, a server that has no queue of
    the namespace is not looked at. Raises BrokerError.
    """
    return advice(await look(app))


def advice(at: Snapshot) -> list[Advice]:
    """What the rules say of a snapshot, the most pressing first. Pure."""
    return sorted((each for rule in RULES for each in rule(at)), key=lambda each: _ORDER[each.level])


async def look(app: Bananas) -> Snapshot:
    """A namespace as the rules see it. Raises BrokerError."""
    namespace = Namespace(app)
    places = await namespace.queues()
    before, began = await _infos(namespace, places), time.monotonic()
    found, alive = await asyncio.gather(queues(app), namespace.workers())
    recent, lately = await asyncio.gather(history(app, MINUTES), history(app, RECENT_MINUTES))
    by_queue, samples = await asyncio.gather(_of_queues(app, found), _samples(namespace, places))
    await asyncio.sleep(max(0.0, began + WATCHED_S - time.monotonic()))
    after, passed_s = await _infos(namespace, places), time.monotonic() - began
    declared = app.registry.tasks.items()
    limits = {
        name: (app.settings.job_timeout if task.defaults.timeout_ms is None else task.defaults.timeout_ms / 1000) for name, task in declared
    }
    return Snapshot(
        queues=tuple(found),
        workers=tuple(alive),
        recent=recent,
        lately=lately,
        by_queue=by_queue,
        servers=tuple(_server(before.get(run_id, {}), info, passed_s) for run_id, info in after.items()),
        samples=tuple(samples),
        timeouts={name: seconds for name, seconds in limits.items() if seconds},
        clustered=app.client.address.clustered,
        compressed=app.settings.compression != "none",
        dead_max_count=app.settings.dead_max_count,
    )


async def _infos(namespace: Namespace, places: Sequence[QueueKeys]) -> dict[str, dict[str, str]]:
    """INFO of each server, by what tells one from another."""
    if namespace.app.client.address.clustered and places:
        infos = await namespace.of_each(places, lambda _: server_info(), _WHAT)
    else:
        infos = [await namespace.app.client.ask_home(namespace.name, server_info(), _WHAT)]
    return {info.get("run_id", ""): info for info in infos}


def _server(before: dict[str, str], info: dict[str, str], passed_s: float) -> Server:
    seconds = [_cpu_s(each) for each in (before, info)]
    return Server(
        used_bytes=int(info.get("used_memory", 0)),
        max_bytes=int(info.get("maxmemory", 0)),
        policy=info.get("maxmemory_policy", "noeviction"),
        evicted=int(info.get("evicted_keys", 0)),
        append_only=info.get("aof_enabled", "1") == "1",
        core_share=None if None in seconds else max(0.0, (seconds[1] or 0.0) - (seconds[0] or 0.0)) / passed_s,
    )


def _cpu_s(info: dict[str, str]) -> float | None:
    """CPU seconds of the thread that runs commands; of the process where that is not told."""
    for suffix in ("_main_thread", ""):
        parts = [info.get(f"used_cpu_{kind}{suffix}") for kind in ("sys", "user")]
        if None not in parts:
            return sum(float(part or 0) for part in parts)
    return None


async def _of_queues(app: Bananas, found: Sequence[QueueFigures]) -> dict[str, History]:
    """What happened in the queues that have most jobs ready."""
    largest = sorted((queue for queue in found if queue.ready), key=lambda queue: -queue.ready)[:MOST_QUEUES]
    histories = await asyncio.gather(*(history(app, MINUTES, queue.name) for queue in largest))
    return {queue.name: each for queue, each in zip(largest, histories, strict=True)}


async def _samples(namespace: Namespace, places: Sequence[QueueKeys]) -> list[Sample]:
    """Some of the jobs that wait: of each queue those that are ready for longest, and those that are due next."""
    found: list[Sample] = []
    for place in ("ready", "scheduled"):
        stretch = Stretch(place, False)
        steps: list[Step] = await namespace.of_each(places, lambda keys, at=stretch: survey(keys, at, SAMPLED_JOBS, SAMPLED_BYTES), _WHAT)  # type: ignore[misc]
        for keys, step in zip(places, steps, strict=True):
            found += [sample for row in step.rows if (sample := _sample(keys, row.body)) is not None]
    return found


def _sample(keys: QueueKeys, body: bytes) -> Sample | None:
    try:
        head: Any = codec.unpack_body(body) or sealing.job_head(body)
    except codec.Undecodable:
        return None
    return Sample(keys.queue, head.task, len(body), head.timeout_ms / 1000 if head.timeout_ms else None)
