"""One queue, for people: how much is in it, pausing, emptying, and its dead letters."""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from msgspec import Struct

from bananas import broker
from bananas.broker import KeptResult
from bananas.client import Client
from bananas.codec import pack_result
from bananas.config import PRIORITIES
from bananas.errors import BananasError, ConfigError, JobConflict, JobNotFound, describe
from bananas.handle import CANCEL_RESULT_TTL_MS
from bananas.info import job_info
from bananas.job import JobInfo, Result
from bananas.keys import ID_LENGTH, QueueKeys, parse_public_id, queues_key

T = TypeVar("T")
Ids = list[str]
Infos = list[JobInfo]  # `list` is a method of DeadLetters

_BATCH = 1_000
_STEP = 2**42


class Counts(Struct, frozen=True):
    """Jobs of a queue by state. `ready_by_priority` has "high", "normal", "low" and "other"."""

    ready: int
    scheduled: int
    running: int
    dead: int
    paused: bool
    ready_by_priority: dict[str, int]


class _Parts:
    """The keys of a queue: one set, or where it has shards one of each."""

    def __init__(self, client: Client, parts: Sequence[QueueKeys]) -> None:
        self._client, self.configured = client, tuple(parts)

    async def all(self) -> Sequence[QueueKeys]:
        """Every part there is: those of the settings, and what an earlier number of shards has left behind."""
        first = self.configured[0]
        if first.shard is None:
            return self.configured
        request = broker.plain(_ids, "SMEMBERS", queues_key(first.namespace))
        listed = await self._client.ask_home(first.namespace, request, f"listing the shards of queue {first.queue!r}")
        others = (QueueKeys.named(first.namespace, name) for name in sorted(listed) if name.partition(".")[0] == first.queue)
        return list(dict.fromkeys([*self.configured, *others]))

    async def each(self, work: Callable[[QueueKeys], Coroutine[Any, Any, T]]) -> list[T]:
        """What the work gives for every part, at once."""
        return list(await asyncio.gather(*(work(keys) for keys in await self.all())))


class Queue:
    """A queue by name; it need not exist yet. Where it has shards, every call is about all of them.

    Attributes:
        dead: its dead letter queue.
    """

    def __init__(self, client: Client, parts: Sequence[QueueKeys], name: str) -> None:
        self.name = name
        self._client, self._parts = client, _Parts(client, parts)
        self.dead = DeadLetters(client, parts, name)

    async def counts(self) -> Counts:
        """How many jobs are where. One round trip; with shards one to each, and one more."""
        return functools.reduce(_sum, await self._parts.each(self._counts_of))

    async def _counts_of(self, keys: QueueKeys) -> Counts:
        requests = [broker.plain(int, "ZCARD", key) for key in (keys.ready, keys.scheduled, keys.leases, keys.dead)]
        requests.append(broker.plain(int, "HEXISTS", keys.meta, "paused"))
        requests += [broker.plain(int, "ZCOUNT", keys.ready, value * _STEP, f"({(value + 1) * _STEP}") for value in PRIORITIES.values()]
        replies = await self._client.here().lanes.of(keys).ask(keys, requests, self._client.budget, f"counting queue {self.name!r}")
        for reply in replies:
            if isinstance(reply, BananasError):
                raise reply
        ready, scheduled, running, dead, paused, *by_priority = replies
        named = dict(zip(PRIORITIES, by_priority, strict=True))
        return Counts(ready, scheduled, running, dead, bool(paused), named | {"other": ready - sum(by_priority)})

    async def pause(self) -> bool:
        """Stop claims from it, on every worker; submits and running jobs go on. Returns False if it was paused already."""
        return any(await self._parts.each(lambda keys: self._pause(keys, True, "pausing")))

    async def resume(self) -> bool:
        """Let workers claim again. Returns False if it was not paused."""
        return any(await self._parts.each(lambda keys: self._pause(keys, False, "resuming")))

    async def _pause(self, keys: QueueKeys, paused: bool, what: str) -> bool:
        return await self._client.act(keys, lambda once: broker.pause(keys, paused, once=once), f"{what} queue {self.name!r}")

    async def purge(self) -> int:
        """End every waiting job (ready and scheduled) as "purged", waking who waits; running and dead ones stay. Returns how many."""
        return sum(await self._parts.each(self._purge))

    async def _purge(self, keys: QueueKeys) -> int:
        what, purged = f"purging queue {self.name!r}", 0
        for key in (keys.ready, keys.scheduled):
            left = await self._client.ask(keys, broker.plain(int, "ZCARD", key), what)
            while left > 0:
                ids = await self._client.ask(keys, broker.plain(_ids, "ZRANGE", key, 0, _BATCH - 1), what)
                if not ids:
                    break
                purged += await self._end(keys, ids, what)
                left -= len(ids)
        return purged

    async def _end(self, keys: QueueKeys, ids: Sequence[str], what: str) -> int:
        result = KeptResult(CANCEL_RESULT_TTL_MS, pack_result(Result("purged", error_message="its queue was purged", attempts=0)))
        codes = await self._client.act(keys, lambda once: broker.cancel(keys, ids, result, running=False, once=once), what)
        return codes.count("e")

    def __repr__(self) -> str:
        return f"<queue {self.name}>"


def _sum(one: Counts, other: Counts) -> Counts:
    """Counts of two parts together: paused where both are."""
    by_priority = {name: count + other.ready_by_priority[name] for name, count in one.ready_by_priority.items()}
    together = (one.ready + other.ready, one.scheduled + other.scheduled, one.running + other.running, one.dead + other.dead)
    return Counts(*together, one.paused and other.paused, by_priority)


def _ids(reply: list[bytes]) -> list[str]:
    return [item.decode() for item in reply]


class DeadLetters:
    """The jobs of a queue that failed for good; kept by count and age (`dead_max_count`, `dead_max_age`)."""

    def __init__(self, client: Client, parts: Sequence[QueueKeys], name: str) -> None:
        self._client, self._parts, self._name = client, _Parts(client, parts), name
        self._what = f"the dead letters of queue {name!r}"

    async def list(self, limit: int = 50, offset: int = 0) -> list[JobInfo]:
        """The newest dead jobs with their errors, at most 1,000 at a time. Raises ConfigError where `limit` or `offset` is none."""
        if not (isinstance(limit, int) and isinstance(offset, int) and limit >= 1 and offset >= 0):
            raise ConfigError(f"limit={describe(limit)}, offset={describe(offset)}: give whole numbers, from 1 and from 0")
        limit = min(limit, _BATCH)
        places = await self._parts.all()
        if len(places) == 1:
            return await self._infos(places[0], await self._newest(places[0], offset, limit))
        newest = await self._parts.each(lambda keys: self._infos_to(keys, offset + limit))
        merged = sorted((info for infos in newest for info in infos), key=lambda info: info.died_ms or 0, reverse=True)
        return merged[offset : offset + limit]

    async def _infos_to(self, keys: QueueKeys, end: int) -> Infos:
        return await self._infos(keys, await self._newest(keys, 0, end))

    async def _newest(self, keys: QueueKeys, offset: int, count: int) -> Ids:
        request = broker.plain(_ids, "ZREVRANGE", keys.dead, offset, offset + count - 1)
        return await self._client.ask(keys, request, f"listing {self._what}")

    async def _infos(self, keys: QueueKeys, ids: Sequence[str]) -> Infos:
        requests = [broker.info(keys, job_id) for job_id in ids]
        if not ids:
            return []
        replies = await self._client.here().lanes.of(keys).ask(keys, requests, self._client.budget, f"listing {self._what}")
        for reply in replies:
            if isinstance(reply, BananasError):
                raise reply
        infos = [job_info(keys, job_id, reply, self._client.seals) for job_id, reply in zip(ids, replies, strict=True)]
        return [info for info in infos if info.state == "dead"]

    async def count(self) -> int:
        """How many there are."""
        return sum(await self._parts.each(self._count))

    async def _count(self, keys: QueueKeys) -> int:
        return await self._client.ask(keys, broker.plain(int, "ZCARD", keys.dead), f"counting {self._what}")

    async def replay(self, job_id: str) -> None:
        """Make one ready again, with fresh attempts.

        Raises:
            JobNotFound: it is not dead.
            JobConflict: another job holds its unique key now; it stays dead.
        """
        own, places = await self._own(job_id)
        codes = [await self._replay(keys, [own]) for keys in places]
        if "u" in codes:
            raise JobConflict(f"job {job_id} stays dead: its unique key is held by a job that is alive. Replay it when that one has ended")
        if "e" not in codes:
            raise JobNotFound(f"job {job_id} is not among {self._what}; nothing was changed. `dead.list()` shows which are")

    async def replay_all(self) -> int:
        """Make all ready again, but for those whose unique key is held by another job. Returns how many."""
        return sum(await self._parts.each(self._replay_all))

    async def _replay_all(self, keys: QueueKeys) -> int:
        replayed, skipped = 0, 0
        for _ in range(await self._count(keys) // _BATCH + 1):
            request = broker.plain(_ids, "ZRANGE", keys.dead, skipped, skipped + _BATCH - 1)
            ids = await self._client.ask(keys, request, f"replaying {self._what}")
            if not ids:
                break
            codes = await self._replay(keys, ids)
            replayed += codes.count("e")
            skipped += len(ids) - codes.count("e")
        return replayed

    async def _replay(self, keys: QueueKeys, ids: Sequence[str]) -> str:
        return await self._client.act(keys, lambda once: broker.replay(keys, ids, once=once), f"replaying {self._what}")

    async def delete(self, job_id: str) -> bool:
        """Delete one for good. Returns False if it was not dead."""
        own, places = await self._own(job_id)
        return any([await self._discard(keys, [own]) for keys in places])

    async def purge(self) -> int:
        """Delete all for good. Returns how many."""
        return sum(await self._parts.each(self._purge))

    async def _purge(self, keys: QueueKeys) -> int:
        deleted = 0
        for _ in range(await self._count(keys) // _BATCH + 1):
            ids = await self._client.ask(keys, broker.plain(_ids, "ZRANGE", keys.dead, 0, _BATCH - 1), f"purging {self._what}")
            if not ids:
                break
            deleted += await self._discard(keys, ids)
        return deleted

    async def _discard(self, keys: QueueKeys, ids: Sequence[str]) -> int:
        return await self._client.act(keys, lambda once: broker.discard(keys, ids, once=once), f"deleting from {self._what}")

    async def _own(self, job_id: str) -> tuple[str, Sequence[QueueKeys]]:
        """The id within a part, and the parts where it may be: every one for an id that does not say. Raises JobNotFound."""
        places = await self._parts.all()
        if len(job_id) == ID_LENGTH and "." not in job_id:
            return job_id, places
        found = parse_public_id(job_id)
        here = [keys for keys in places if (keys.queue, keys.shard) == (found.queue, found.shard)]
        if not here:
            raise JobNotFound(f"job {job_id} belongs to queue {found.queue!r}, not to {self._name!r}; nothing was changed")
        return found.job_id, here
