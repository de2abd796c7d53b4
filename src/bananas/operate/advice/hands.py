"""Rules about workers and queues: who is missing, who is short of what, and what waits behind others. Pure."""

import math
import statistics
from collections.abc import Iterator

from bananas.inspector import WorkerInfo
from bananas.operate.advice.facts import (
    CORE_FULL,
    LATE_S,
    SLOT_SHARE,
    SLOTS_FULL,
    STANDING_S,
    Advice,
    Figure,
    Level,
    Snapshot,
    listed,
    mean,
)
from bananas.operate.overview import QueueFigures
from bananas.operate.why import span

STARVES = 10  # times as old as what others of its workers have waiting


def no_workers(at: Snapshot) -> Iterator[Advice]:
    """Something waits, and nobody works."""
    ready, scheduled = sum(queue.ready for queue in at.queues), sum(queue.scheduled for queue in at.queues)
    if at.takers or not ready + scheduled:
        return
    others = {
        "for upkeep alone": [each for each in at.workers if not each.slots],
        "quiet or stopping": [each for each in at.workers if each.slots],
    }
    told = ", ".join(f"{len(each)} {what}" for what, each in others.items() if each)
    upkeep = f" ({told})" if told else ""
    why = f"No worker that takes jobs is alive{upkeep}, while {ready:,} job(s) are ready and {scheduled:,} are scheduled."
    action = "Start one: bananas worker MODULE:APP. If they should run, look into their logs: a worker that cannot start says why."
    yield Advice("no_workers", "error", "", "", "No worker is alive", why, action, {"ready": ready, "scheduled": scheduled})


def unserved(at: Snapshot) -> Iterator[Advice]:
    """A queue, or a priority of it, that nobody takes jobs of, though workers are alive."""
    if not at.takers:
        return
    for queue in at.queues:
        hands = at.hands(queue.name)
        if queue.ready and not hands:
            why = (
                f"{queue.ready:,} job(s) are ready, the oldest for {_age(queue)}, and none of {len(at.workers)} live "
                "worker(s) serves the queue."
            )
            action = f"Start a worker with --queues {queue.name}, or add {queue.name} to worker_routing_keys of those that run."
            title = f"Nobody serves queue {queue.name}"
            yield Advice("unserved", "error", queue.name, "", title, why, action, {"ready": queue.ready, "workers": len(at.takers)})
        for each in queue.priorities if hands else ():
            if not any(not worker.only_priorities or each.priority in worker.only_priorities for worker in hands):
                why = (
                    f"{each.ready:,} job(s) of priority {each.priority} are ready, and all {len(hands)} worker(s) of the "
                    "queue take others only."
                )
                action = f"Add {each.priority} to worker_priorities of one of them, or start a worker in the default mode."
                title = f"Nobody takes priority {each.priority} of queue {queue.name}"
                figures = {"ready": each.ready, "priority": each.priority, "workers": len(hands)}
                yield Advice("unserved", "error", queue.name, "", title, why, action, {**figures})


def paused(at: Snapshot) -> Iterator[Advice]:
    """A queue that was paused, and in which jobs wait."""
    for queue in at.queues:
        if queue.paused and queue.ready:
            why = f"{queue.ready:,} job(s) are ready, the oldest for {_age(queue)}, and no worker may take them."
            action = f"bananas queues resume {queue.name}, if it was forgotten; bananas trail says who paused it."
            yield Advice("paused", "warning", queue.name, "", f"Queue {queue.name} is paused", why, action, {"ready": queue.ready})


def short_of_power(at: Snapshot) -> Iterator[Advice]:
    """Jobs wait because all slots are taken, or because the processes compute as much as a core can."""
    for queue in at.queues:
        growth_s, backlog_s, hands = at.growth_s(queue), at.backlog_s(queue), at.hands(queue.name)
        if queue.paused or not queue.ready or not hands or not (growth_s or backlog_s >= STANDING_S):
            continue
        hot = [worker for worker in hands if (worker.cpu_percent or 0.0) >= CORE_FULL]
        if 2 * len(hot) >= len(hands):
            yield _processes(at, queue, hands, hot)
        elif queue.busy >= SLOTS_FULL * queue.slots:
            yield _workers(at, queue, hands)


def _processes(at: Snapshot, queue: QueueFigures, hands: list[WorkerInfo], hot: list[WorkerInfo]) -> Advice:
    percent = mean(worker.cpu_percent or 0.0 for worker in hot)
    why = f"{len(hot)} of its {len(hands)} worker process(es) use {percent:.0f} % of a core each, and {_waiting(at, queue)}."
    action = (
        "More slots would not help: raise worker_processes (one per core of the machine), or start workers on more machines; "
        "a handler that computes for long belongs into a process of its own (isolation='process')."
    )
    figures = {"processes": len(hands), "at_full_core": len(hot), "cpu_percent": round(percent, 1), **_figures(at, queue)}
    return Advice(
        "add_processes", _level(at, queue), queue.name, "", f"Workers of queue {queue.name} are at a full core", why, action, figures
    )


def _workers(at: Snapshot, queue: QueueFigures, hands: list[WorkerInfo]) -> Advice:
    rate_s, growth_s = at.rate_s(queue.name), at.growth_s(queue)
    why = f"{queue.busy} of {queue.slots} slot(s) are busy, and {_waiting(at, queue)}."
    needed = math.ceil((rate_s + growth_s) * queue.busy / rate_s / SLOT_SHARE) if rate_s else 0
    more = max(1, needed - queue.slots)
    if rate_s:
        why += f" {rate_s + growth_s:,.3g} jobs/s come in; at the pace of now that takes about {needed:,} slots, one in five of them free."
    known = [worker.cpu_percent for worker in hands if worker.cpu_percent is not None]
    if known and mean(known) < CORE_FULL / 2:
        slots = max(worker.slots for worker in hands)
        action = (
            f"The processes use {mean(known):.0f} % of a core, so their handlers wait for others: "
            f"raise worker_concurrency ({slots} now), or start more workers."
        )
    else:
        action = f"Start more workers: about {more:,} more slot(s)."
    figures = {"slots": queue.slots, "busy": queue.busy, "more_slots": more, **_figures(at, queue)}
    return Advice("add_workers", _level(at, queue), queue.name, "", f"Queue {queue.name} is short of slots", why, action, figures)


def _level(at: Snapshot, queue: QueueFigures) -> Level:
    return "warning" if at.growth_s(queue) or at.backlog_s(queue) >= LATE_S else "hint"


def _waiting(at: Snapshot, queue: QueueFigures) -> str:
    growth_s = at.growth_s(queue)
    grows = f", growing by {growth_s:,.3g} jobs/s" if growth_s else ""
    return f"{queue.ready:,} job(s) are ready{grows}, the oldest for {_age(queue)}; that is a backlog of {span(at.backlog_s(queue) * 1000)}"


def _figures(at: Snapshot, queue: QueueFigures) -> dict[str, Figure]:
    return {
        "ready": queue.ready,
        "rate_s": round(at.rate_s(queue.name), 3),
        "growth_s": round(at.growth_s(queue), 3),
        "backlog_s": round(at.backlog_s(queue), 1),
    }


def starving(at: Snapshot) -> Iterator[Advice]:
    """A queue whose jobs wait much longer than those of queues that the same workers serve."""
    for queue in at.queues:
        others = [each for each in at.queues if each is not queue and not each.paused and _shared(at, queue, each) and at.rate_s(each.name)]
        age_s, busy = (queue.oldest_ms or 0) / 1000, queue.busy >= SLOTS_FULL * queue.slots
        if queue.paused or not others or age_s < STANDING_S or not busy:
            continue
        usual_s = statistics.median((each.oldest_ms or 0) / 1000 for each in others)
        if age_s < STARVES * usual_s:
            continue
        names = listed(each.name for each in others)
        why = (
            f"Its oldest job has waited for {_age(queue)}, where those of {names} wait for {span(usual_s * 1000)}; the same "
            "workers serve both."
        )
        action = (
            f"Give it a weight in worker_routing_keys (for example {queue.name}:3,{others[0].name}:1), a place further in front, "
            f"or workers of its own."
        )
        figures: dict[str, Figure] = {"oldest_s": round(age_s, 1), "others_s": round(usual_s, 1), "ready": queue.ready}
        yield Advice("starving", "warning", queue.name, "", f"Queue {queue.name} starves behind others", why, action, figures)


def _shared(at: Snapshot, one: QueueFigures, other: QueueFigures) -> bool:
    boots = {worker.boot for worker in at.hands(one.name)}
    return any(worker.boot in boots for worker in at.hands(other.name))


def low_priority(at: Snapshot) -> Iterator[Advice]:
    """Jobs of a low priority that wait for long while those of a higher one go at once."""
    for queue in at.queues:
        if queue.paused or len(queue.priorities) < 2 or not at.hands(queue.name):
            continue
        first, last = queue.priorities[0], queue.priorities[-1]
        if last.oldest_ms < LATE_S * 1000 or last.oldest_ms < STARVES * first.oldest_ms:
            continue
        why = (
            f"{last.ready:,} job(s) of priority {last.priority} are ready, the oldest for {span(last.oldest_ms)}, "
            f"where those of priority {first.priority} wait for {span(first.oldest_ms)}: a lower priority runs when "
            "nothing higher is ready."
        )
        action = (
            f"Keep some slots for it: a worker with worker_mode=specialized and worker_priorities={last.priority}; "
            f"or add workers until the higher ones leave room."
        )
        figures: dict[str, Figure] = {"priority": last.priority, "ready": last.ready, "oldest_s": round(last.oldest_ms / 1000, 1)}
        title = f"Priority {last.priority} of queue {queue.name} starves"
        yield Advice("low_priority", "warning", queue.name, "", title, why, action, figures)


def _age(queue: QueueFigures) -> str:
    return span(queue.oldest_ms or 0)


RULES = (no_workers, unserved, paused, short_of_power, starving, low_priority)
