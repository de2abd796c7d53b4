"""Why a job is not running: every reason that holds now, the one to look at first in front, each with its figures.

    explanation = await why(app, job_id)
    for reason in explanation.reasons:
        print(reason.sentence)

`explain` is pure; `why` gathers what it needs in a few round trips, which are not one moment: on a busy queue a figure may be a little old.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from bananas import broker, codec, sealing
from bananas.app import Bananas
from bananas.broker import Request
from bananas.info import job_info
from bananas.inspector import WorkerInfo
from bananas.job import JobInfo, Tries
from bananas.operate.namespace import Namespace, keys_of
from bananas.operate.requests import Measures, measure

Kind = Literal[
    "ended", "not_found", "moved", "dead", "running", "overdue", "worker_gone", "cancel_requested", "paused", "delayed", "retry_waits",
    "unknown_task", "expires", "expired", "no_worker", "workers_quiet", "task_unknown_to_workers", "excluded", "slots_busy", "suspect",
    "behind", "unique", "server_full", "soon",
]  # fmt: skip
Figure = int | float | str | bool | None


class Reason(Struct, frozen=True):
    """One reason: what kind, a sentence for people, and the figures in it (durations in ms)."""

    kind: Kind
    sentence: str
    figures: dict[str, Figure] = {}


class Explanation(Struct, frozen=True):
    """What is known of a job, and the reasons why it does not run; of one that runs or has ended, a single reason that says so."""

    job: JobInfo
    reasons: tuple[Reason, ...]


class Situation(Struct, frozen=True):
    """All that is looked at.

    Attributes:
        memory: used and most bytes of the server; most 0: no limit.
        expires_ms: how long after its birth it may start, 0 = whenever.
        unique: its unique key, or "".
        moved_to: its new id, where it was moved to another queue.
    """

    info: JobInfo
    tries: Tries
    measures: Measures
    workers: tuple[WorkerInfo, ...]
    memory: tuple[int, int] = (0, 0)
    expires_ms: int = 0
    unique: str = ""
    moved_to: str = ""


async def why(app: Bananas, job_id: str) -> Explanation:
    """Why a job is not running.

    Raises:
        InvalidName: the text is no public id.
        BrokerError: the server did not answer, or refused.
    """
    namespace = Namespace(app)
    keys, own = keys_of(app, job_id)
    requests: list[Request[Any]] = [
        broker.info(keys, own),
        measure(keys),
        broker.plain(_optional, "HGET", keys.fixed[8], own),
        broker.plain(_optional, "GET", keys.moved(own)),
        broker.plain(_memory, "INFO", "memory"),
    ]
    reply, measures, unique, moved_to, memory = await namespace.ask(keys, requests, f"looking at job {job_id}")
    workers = tuple(await namespace.workers())
    info = namespace.redaction.info(_with_host(job_info(keys, own, reply, app.client.seals), workers))
    situation = Situation(info, codec.unpack_tries(reply[6]), measures, workers, memory, _expires_ms(reply[5]), unique, moved_to)
    return Explanation(info, tuple(explain(situation)))


def _with_host(info: JobInfo, workers: Sequence[WorkerInfo]) -> JobInfo:
    """The info with `host:pid` for the boot id of the worker that runs it, where that one is alive."""
    found = next((worker for worker in workers if info.state == "running" and worker.boot == info.worker), None)
    if found is None:
        return info
    return msgspec.structs.replace(info, worker=f"{found.host}:{found.pid}", overdue=info.id in found.overdue)


def _optional(reply: bytes | None) -> str:
    return (reply or b"").decode()


def _memory(reply: bytes) -> tuple[int, int]:
    found = dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
    return int(found.get("used_memory", 0)), int(found.get("maxmemory", 0))


def _expires_ms(body: bytes) -> int:
    try:
        return (codec.unpack_body(body) or sealing.job_head(body)).expires_ms
    except codec.Undecodable:
        return 0


# --- the reasons ------------------------------------------------------------------------------------------------------


def explain(at: Situation) -> list[Reason]:
    """The reasons of a situation. Pure."""
    info = at.info
    if info.state == "running":
        return list(_of_running(at))
    if info.state in ("ready", "scheduled"):
        return list(_of_waiting(at))
    if info.state == "dead":
        last = info.errors[-1] if info.errors else None
        cause = f": {last.type}: {last.message}" if last else ""
        ago = at.measures.now_ms - (info.died_ms or at.measures.now_ms)
        sentence = f"It is dead since {span(ago)}, after {info.attempts} failed attempt(s){cause}. Retry it when the cause is mended."
        return [Reason("dead", sentence, {"dead_ms": ago, "attempts": info.attempts, "crashes": info.crashes})]
    if at.moved_to:
        return [Reason("moved", f"It was moved to another queue, where it is {at.moved_to}.", {"id": at.moved_to})]
    if info.state == "unknown":
        return [Reason("not_found", "There is no such job, and no result of it: it ended longer ago than results are kept.")]
    return [Reason("ended", f"It has ended: {info.state}.", {"state": info.state})]


def _of_running(at: Situation) -> Iterator[Reason]:
    info = at.info
    left_ms = None if info.lease_expires_ms is None else info.lease_expires_ms - at.measures.now_ms
    if left_ms is not None and left_ms < 0:
        sentence = f"Its worker {info.worker} has not renewed the lease, which ended {span(-left_ms)} ago: another takes it over soon."
        yield Reason("worker_gone", sentence, {"worker": info.worker, "lease_ended_ms": -left_ms})
    elif info.overdue:
        yield Reason("overdue", f"It runs on {info.worker}, beyond its timeout: its handler does not stop.", {"worker": info.worker})
    else:
        yield Reason("running", f"It is held by worker {info.worker}.", {"worker": info.worker, "attempts": info.attempts})
    if info.cancel_requested:
        yield Reason("cancel_requested", "Somebody asked for its cancellation: its worker stops it at its next heartbeat.")


def _of_waiting(at: Situation) -> Iterator[Reason]:
    info, now_ms = at.info, at.measures.now_ms
    if info.state == "scheduled" and info.due_ms is not None and info.due_ms > now_ms:
        yield from _not_due(at, info.due_ms - now_ms)
    if at.measures.paused_ms is not None:
        paused_ms = now_ms - at.measures.paused_ms
        sentence = f"Queue {info.queue} is paused since {span(paused_ms)}: no worker takes jobs from it until it is resumed."
        yield Reason("paused", sentence, {"queue": info.queue, "paused_ms": paused_ms})
    yield from _no_hands(at)
    if info.crashes:
        sentence = (
            f"It is a suspect: {info.crashes} worker(s) died while they held it. It starts only when a worker has nothing else to run."
        )
        yield Reason("suspect", sentence, {"crashes": info.crashes, "alone": at.tries.alone})
    if info.place:
        sentence = f"{info.place} job(s) of the same or a higher priority are ahead of it in queue {info.queue}."
        yield Reason("behind", sentence, {"ahead": info.place, "priority": info.priority})
    yield from _conditions(at)
    if not _hinders(at):
        yield Reason("soon", "Nothing stands in its way: a worker takes it with its next turn.")


def _hinders(at: Situation) -> bool:
    due = at.info.state == "scheduled" and (at.info.due_ms or 0) > at.measures.now_ms
    return bool(due or at.measures.paused_ms is not None or at.info.place or at.info.crashes or any(_no_hands(at)))


def _not_due(at: Situation, left_ms: int) -> Iterator[Reason]:
    info, history = at.info, at.tries.history
    figures: dict[str, Figure] = {"due_in_ms": left_ms, "due_ms": info.due_ms}
    if history.unknown_since_ms:
        for_ms = at.measures.now_ms - history.unknown_since_ms
        sentence = (
            f"No worker that took it knew task {info.task}: it was handed back {history.unknown_count} time(s) in {span(for_ms)}, "
            f"and is tried again in {span(left_ms)}. Start a worker with the code of that task."
        )
        yield Reason("unknown_task", sentence, figures | {"task": info.task, "handed_back": history.unknown_count, "unknown_ms": for_ms})
    elif info.attempts:
        error = info.errors[-1] if info.errors else None
        after = f" with {error.type}: {error.message}" if error else ""
        sentence = f"Attempt {info.attempts} failed{after}; the next one is in {span(left_ms)}."
        yield Reason("retry_waits", sentence, figures | {"attempts": info.attempts, "max_retries": info.max_retries})
    else:
        yield Reason("delayed", f"It is delayed: it becomes ready in {span(left_ms)}.", figures)


def _no_hands(at: Situation) -> Iterator[Reason]:
    """Why no worker could take it: none is there, none knows it, none may, or none is free."""
    info = at.info
    there = serving(at.workers, info.id.rpartition(".")[0])
    knowing = [worker for worker in there if info.task in worker.tasks]
    takers = [worker for worker in knowing if takes(worker, info)]
    slots, busy = sum(worker.slots for worker in takers), sum(min(worker.slots, len(worker.running)) for worker in takers)
    quiet = [] if there else [worker for worker in at.workers if worker.slots and info.id.rpartition(".")[0] in worker.queues]
    if quiet:
        sentence = f"{len(quiet)} worker(s) serve queue {info.queue}, but claim no more: they drain or stop. Start another."
        yield Reason("workers_quiet", sentence, {"queue": info.queue, "workers": len(quiet)})
    elif not there:
        elsewhere = sum(1 for worker in at.workers if worker.slots)
        sentence = f"No live worker serves queue {info.queue}" + (
            f" ({elsewhere} serve others)." if elsewhere else "; none is alive at all."
        )
        yield Reason("no_worker", sentence, {"queue": info.queue, "workers": elsewhere})
    elif not knowing:
        sentence = f"{len(there)} worker(s) serve queue {info.queue}, but none knows task {info.task}: start one with its code."
        yield Reason("task_unknown_to_workers", sentence, {"task": info.task, "workers": len(there)})
    elif not takers:
        sentence = f"{len(knowing)} worker(s) know task {info.task}, but are specialized: none takes it at priority {info.priority}."
        yield Reason("excluded", sentence, {"task": info.task, "priority": info.priority, "workers": len(knowing)})
    elif busy >= slots:
        sentence = f"All {slots} slot(s) of the {len(takers)} worker(s) that take it are busy."
        yield Reason("slots_busy", sentence, {"slots": slots, "busy": busy, "workers": len(takers)})


def takes(worker: WorkerInfo, info: JobInfo) -> bool:
    """Whether a worker's specialization lets it take a job."""
    priority_fits = not worker.only_priorities or info.priority in worker.only_priorities
    return priority_fits and (not worker.only_tasks or info.task in worker.only_tasks)


def _conditions(at: Situation) -> Iterator[Reason]:
    info, now_ms = at.info, at.measures.now_ms
    if info.cancel_requested:
        yield Reason("cancel_requested", "Somebody asked for its cancellation: the next worker that takes it ends it.")
    if at.expires_ms and info.born_ms is not None:
        left_ms = info.born_ms + at.expires_ms - now_ms
        kind: Kind = "expires" if left_ms > 0 else "expired"
        when = (
            f"It expires if it has not started in {span(left_ms)}."
            if left_ms > 0
            else "It has expired: the next worker that takes it ends it."
        )
        yield Reason(kind, when, {"expires_in_ms": left_ms})
    if at.unique:
        yield Reason("unique", f"It holds the unique key {at.unique!r}: submits with it stand for this job.", {"key": at.unique})
    used, limit = at.memory
    if limit and used >= limit:
        sentence = f"The server is full ({used:,} of {limit:,} bytes): new jobs are refused; waiting ones still run."
        yield Reason("server_full", sentence, {"used_bytes": used, "max_bytes": limit})


def span(ms: float) -> str:
    """A duration in words: 850 ms, 12 s, 3 min 20 s, 2 h 5 min, 4 d 3 h."""
    if ms < 1_000:
        return f"{max(0, round(ms))} ms"
    seconds = round(ms / 1000)
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    index = next(i for i, (_, size) in enumerate(units) if seconds >= size)
    unit, size = units[index]
    text, rest = f"{seconds // size} {unit}", seconds % size
    if index + 1 < len(units) and (smaller := rest // units[index + 1][1]):
        text += f" {smaller} {units[index + 1][0]}"
    return text


def serving(workers: Sequence[WorkerInfo], name: str) -> list[WorkerInfo]:
    """The workers that take jobs of a queue, or of a shard, by its listed name; those that claim no more do not."""
    return [worker for worker in workers if worker.slots and name in worker.queues and worker.phase == "working"]
