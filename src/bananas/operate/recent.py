"""Jobs that ended lately: a sample, since a job that has ended is in no queue.

Each worker process tells the first few of each second and queue; each queue keeps the last 200. What a job returned is asked for by its id,
while its result is kept.
"""

from collections.abc import Sequence

from msgspec import Struct

from bananas import broker
from bananas.app import Bananas
from bananas.broker import Request
from bananas.codec import Undecodable, unpack
from bananas.keys import QueueKeys
from bananas.operate.namespace import Namespace
from bananas.tally import OUTCOMES

MOST = 200
_WHAT = "reading what ended lately"


class Finished(Struct, frozen=True):
    """A job that has ended.

    Attributes:
        task: its name, or the tag that stands for it where no worker declares it.
        outcome: success, dead, or other (cancelled, discarded, expired).
        run_ms: how long its last run took; None: it was not run.
    """

    id: str
    task: str
    queue: str
    outcome: str
    finished_ms: int
    run_ms: float | None


async def recent(app: Bananas, queue: str | None = None, limit: int = 50) -> list[Finished]:
    """The newest first, of every queue or of one with its shards, at most 200. Raises BrokerError, ValueError."""
    if not 1 <= limit <= MOST:
        raise ValueError(f"limit is {limit}: give 1 to {MOST}")
    namespace = Namespace(app)
    places = await namespace.queues(None if queue is None else [queue])
    listed = await namespace.of_each(places, lambda keys: _list(keys, limit), _WHAT)
    found: list[Finished] = []
    for keys, packed in zip(places, listed, strict=True):
        found += await _of_queue(namespace, keys, packed)
    return sorted(found, key=lambda each: -each.finished_ms)[:limit]


async def _of_queue(namespace: Namespace, keys: QueueKeys, packed: Sequence[bytes]) -> list[Finished]:
    entries = [entry for entry in map(_entry, packed) if entry is not None]
    tags = sorted({job_id[32:40] for job_id, *_ in entries})
    if not tags:
        return []
    (told,) = await namespace.ask(keys, [broker.plain(list, "HMGET", keys.stats(), *tags)], _WHAT)
    names = {tag: tag if name is None else name.decode("utf-8", "replace") for tag, name in zip(tags, told, strict=True)}
    return [
        Finished(keys.public(job_id), names[job_id[32:40]], keys.queue, OUTCOMES[outcome], finished_ms, run_ms)
        for job_id, outcome, finished_ms, run_ms in entries
    ]


def _list(keys: QueueKeys, limit: int) -> Request[list[bytes]]:
    return broker.plain(list, "ZREVRANGE", keys.recent, 0, limit - 1)


def _entry(packed: bytes) -> tuple[str, int, int, float | None] | None:
    """An entry of the list, or None where no version known here wrote it."""
    try:
        entry = unpack(packed, tuple[str, int, int, float | None])
    except Undecodable:
        return None
    known: tuple[str, int, int, float | None] = entry
    return known if 0 <= known[1] < len(OUTCOMES) else None
