"""What the facts of a namespace mean: queues that nobody serves, cron that nobody fires, dead letters near their bound. Pure."""

from collections.abc import Iterable, Iterator

from bananas.app import Bananas
from bananas.doctor.check import Check, error, note, ok, warning
from bananas.doctor.facts import LATE_MS, NamespaceFacts
from bananas.keys import LAYOUT

UNANNOUNCED_MS = 60_000
NEAR = 0.8
NAMED = 5


def namespace_checks(facts: NamespaceFacts, app: Bananas) -> Iterator[Check]:
    """Every check of a namespace."""
    yield from _layout(facts)
    yield from _workers(facts, app)
    yield from _cron(facts)
    yield from _dead(facts, app.settings.dead_max_count)
    yield from _late(facts)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:NAMED]) + (f" and {len(listed) - NAMED} more" if len(listed) > NAMED else "")


def _layout(facts: NamespaceFacts) -> Iterator[Check]:
    others = [f"{queue.name} ({queue.layout})" for queue in facts.queues if queue.layout not in (None, LAYOUT)]
    if others:
        remedy = "use the version of bananas-queue that made them, or another namespace"
        yield error("namespace.layout", f"queues of another layout: {_some(others)}", f"layout {LAYOUT}", remedy)
    else:
        yield ok("namespace.layout", f"{len(facts.queues)} queues, layout {LAYOUT}")


def _workers(facts: NamespaceFacts, app: Bananas) -> Iterator[Check]:
    served = {name for worker in facts.workers for name in worker.queues if worker.slots}
    slots = sum(worker.slots for worker in facts.workers)
    start = "bananas worker module:app"
    if facts.workers:
        yield ok("workers.alive", f"{len(facts.workers)} processes, {slots} slots")
    else:
        yield note("workers.alive", "no worker is alive", "one or more", start)
    unserved = [queue.name for queue in facts.queues if queue.ready + queue.scheduled and queue.name not in served]
    if unserved:
        found = f"jobs wait in queues that no worker serves: {_some(unserved)}"
        yield warning("workers.queues", found, "a worker for each", f"{start} --queues {','.join(unserved[:NAMED])}")
    else:
        yield ok("workers.queues", "no jobs wait where no worker serves")
    known = {name for worker in facts.workers for name in worker.tasks}
    unknown = sorted(set(app.registry.tasks) - known) if facts.workers else []
    if unknown:
        found = f"tasks of this app that no worker knows: {_some(unknown)}"
        yield note("workers.tasks", found, "a worker for each", "deploy workers of this code: their jobs are handed back until then")
    if paused := [queue.name for queue in facts.queues if queue.paused]:
        yield note("workers.paused", f"paused queues: {_some(paused)}", "", "await app.queue(name).resume()")


def _cron(facts: NamespaceFacts) -> Iterator[Check]:
    entries = [(f"{queue.name}: {name}", announced) for queue in facts.queues for name, _, announced in queue.crons]
    silent = [name for name, announced_ms in entries if facts.now_ms - announced_ms > UNANNOUNCED_MS]
    if silent:
        remedy = "start a worker, or bananas scheduler, of that code; an entry that nobody announces is deleted after 24 h"
        yield warning("cron.alive", f"cron entries that no live worker announces: {_some(silent)}", "a worker that fires them", remedy)
    else:
        yield ok("cron.alive", f"{len(entries)} cron entries, each with a live worker")


def _dead(facts: NamespaceFacts, most: int) -> Iterator[Check]:
    near = [f"{queue.name} ({queue.dead:,})" for queue in facts.queues if queue.dead >= NEAR * most]
    total = sum(queue.dead for queue in facts.queues)
    if near:
        found = f"dead letters near their bound of {most:,}: {_some(near)}; beyond it the oldest are deleted"
        yield warning("dead.bound", found, f"below {NEAR:.0%}", "replay or delete them, or raise dead_max_count")
    elif total:
        yield note("dead.bound", f"{total:,} dead letters", "0", "await app.queue(name).dead.list() shows why")
    else:
        yield ok("dead.bound", "no dead letters")


def _late(facts: NamespaceFacts) -> Iterator[Check]:
    overdue = [job for worker in facts.workers for job in worker.overdue]
    late = [f"{queue.name} ({queue.late:,})" for queue in facts.queues if queue.late and not queue.paused]
    expired = [f"{queue.name} ({queue.expired:,})" for queue in facts.queues if queue.expired]
    if overdue:
        found = f"{len(overdue)} jobs run beyond their timeout: {_some(overdue)}"
        yield warning("jobs.overdue", found, "none", 'handlers that stop when cancelled, or isolation="process"')
    else:
        yield ok("jobs.overdue", "no job runs beyond its timeout")
    if late:
        found = f"jobs are due for more than {LATE_MS // 1000} s: {_some(late)}"
        yield warning("jobs.late", found, "none", "start a worker for these queues, or bananas scheduler")
    if expired:
        found = f"leases that nobody took back: {_some(expired)}"
        yield warning("jobs.expired", found, "none", "start a worker for these queues, or bananas doctor --repair")
