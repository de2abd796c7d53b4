"""Rules about the servers: what is set wrong, what runs out. Pure."""

from collections.abc import Iterator

from bananas.operate.advice.facts import Advice, Figure, Snapshot, mean
from bananas.operate.why import span

NEARLY_FULL, SOON_S = 0.8, 4 * 3600
CORE_BUSY = 0.75
MOSTLY = 0.8
STORED_FACTOR, STORED_BYTES = 1.2, 350  # what a job takes on the server: as bananas plan reckons


def policies(at: Snapshot) -> Iterator[Advice]:
    """A server that throws jobs away."""
    for server in at.servers:
        if server.policy != "noeviction":
            lost = f"; {server.evicted:,} key(s) are gone already" if server.evicted else ""
            why = f"maxmemory-policy is {server.policy}: when the server is full it evicts jobs{lost}."
            action = "CONFIG SET maxmemory-policy noeviction, and in its configuration file; then bananas doctor --audit."
            figures: dict[str, Figure] = {"policy": server.policy, "evicted": server.evicted}
            yield Advice("policy", "error", "", "", "The server evicts jobs when it is full", why, action, figures)
            return


def persistence(at: Snapshot) -> Iterator[Advice]:
    """A server that forgets."""
    if any(not server.append_only for server in at.servers):
        why = "The append-only file is off: what came since the last snapshot is lost when the server dies."
        action = (
            "CONFIG SET appendonly yes and appendfsync everysec, and in its configuration file; replicas with "
            "durability=replicated help too."
        )
        yield Advice("persistence", "warning", "", "", "The server does not write jobs down", why, action)


def memory(at: Snapshot) -> Iterator[Advice]:
    """A server that is nearly full, will be soon, or has no limit."""
    for server in at.servers:
        figures: dict[str, Figure] = {"used_bytes": server.used_bytes, "max_bytes": server.max_bytes}
        if not server.max_bytes:
            why = (
                f"maxmemory is not set, and {_mib(server.used_bytes)} are used: a backlog may take all of the machine's "
                "memory, and the system ends the server."
            )
            action = (
                "CONFIG SET maxmemory to about 60 % of the machine's memory, and in its configuration file: then submits "
                "are refused, and jobs go on."
            )
            yield Advice("memory_limit", "hint", "", "", "The server has no limit of memory", why, action, figures)
            continue
        share = server.used_bytes / server.max_bytes
        if share < NEARLY_FULL:
            continue
        full = share >= 1.0
        why = f"{_mib(server.used_bytes)} of {_mib(server.max_bytes)} are used ({share:.0%})" + (
            ": submits are refused with QueueFull; what is queued still runs." if full else "."
        )
        action = (
            "Raise maxmemory, add workers, or purge; keep results for a shorter time (result_ttl_success, "
            "result_ttl_failure) and fewer dead "
            "letters (dead_max_count, dead_max_age). bananas plan reckons how much a load needs."
        )
        title = "The server is full" if full else "The server is nearly full"
        yield Advice("memory", "error" if full else "warning", "", "", title, why, action, figures)


def memory_growth(at: Snapshot) -> Iterator[Advice]:
    """A server that the growing backlog will fill soon. Of one server: on several, nobody knows which of them grows."""
    if len(at.servers) != 1 or not at.servers[0].max_bytes or at.servers[0].used_bytes >= at.servers[0].max_bytes:
        return
    growing = {queue.name: at.growth_s(queue) for queue in at.queues if at.growth_s(queue)}
    rate = sum(jobs_s * _stored(at, name) for name, jobs_s in growing.items())
    left = at.servers[0].max_bytes - at.servers[0].used_bytes
    if not rate or left / rate > SOON_S:
        return
    largest = max(growing, key=lambda name: growing[name])
    why = (
        f"Queues grow by {sum(growing.values()):,.3g} jobs/s ({_mib(rate * 3600)} an hour), {largest} most of all; "
        f"{_mib(left)} are left: full in {span(left / rate * 1000)}."
    )
    action = "Add workers, or raise maxmemory before it is full; submits are refused from then on (QueueFull)."
    figures: dict[str, Figure] = {"bytes_s": round(rate), "left_bytes": left, "full_in_s": round(left / rate)}
    yield Advice("memory_growth", "warning", largest, "", "The server will be full soon", why, action, figures)


def _stored(at: Snapshot, queue: str) -> float:
    sizes = [sample.size_bytes for sample in at.samples if sample.queue == queue]
    return mean(sizes) * STORED_FACTOR + STORED_BYTES


def cores(at: Snapshot) -> Iterator[Advice]:
    """A server whose one command thread has little left to give."""
    busy = [server.core_share for server in at.servers if server.core_share is not None and server.core_share >= CORE_BUSY]
    if not busy:
        return
    rates = {queue.name: at.rate_s(queue.name) for queue in at.queues}
    total = sum(rates.values())
    largest = max(rates, key=lambda name: rates[name], default="")
    share = rates[largest] / total if total else 0.0
    if at.clustered:
        action = f"Add primaries, and give {largest} more parts (queue_shards), about three per primary."
    elif share >= MOSTLY:
        action = (
            f"Move to a Cluster of several primaries (redis+cluster://...), with {largest} in parts: "
            f"queue_shards={largest}:9, about three per primary."
        )
    else:
        action = (
            "Move to a Cluster of several primaries (redis+cluster://...): its queues spread over them. queue_shards splits a single queue."
        )
    why = (
        f"Its command thread uses {max(busy):.0%} of the one core that it can use, at {total:,.3g} runs/s, {share:.0%} of "
        f"them of queue {largest}."
    )
    ahead = "Before that: smaller payloads, and result_ttl=0 where nobody asks for results. "
    figures: dict[str, Figure] = {"core_share": round(max(busy), 3), "runs_s": round(total, 3), "largest_share": round(share, 3)}
    yield Advice("add_shards", "warning", largest if share >= MOSTLY else "", "", "The server's core is busy", why, ahead + action, figures)


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"


RULES = (policies, persistence, memory, memory_growth, cores)
