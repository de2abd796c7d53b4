"""One queue, for people: how much is in it, pausing, emptying, and its dead letters."""

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from bananas import broker
from bananas.broker import KeptResult
from bananas.client import Client
from bananas.codec import pack_result
from bananas.config import PRIORITIES, check_queue_name
from bananas.errors import BananasError, ConfigError, JobConflict, JobNotFound, describe
from bananas.handle import CANCEL_RESULT_TTL_MS
from bananas.info import job_info
from bananas.job import JobInfo, Result
from bananas.keys import ID_LENGTH, QueueKeys, parse_public_id

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


class Queue:
    """A queue by name; it need not exist yet.

    Attributes:
        dead: its dead letter queue.
    """

    def __init__(self, client: Client, keys_of: Callable[[str], QueueKeys], name: str) -> None:
        self.name = check_queue_name(name)
        self._client, self._keys = client, keys_of(name)
        self.dead = DeadLetters(client, self._keys)

    async def counts(self) -> Counts:
        """How many jobs are where. One round trip."""
        keys = self._keys
        requests = [broker.plain(int, "ZCARD", key) for key in (keys.ready, keys.scheduled, keys.leases, keys.dead)]
        requests.append(broker.plain(int, "HEXISTS", keys.meta, "paused"))
        requests += [broker.plain(int, "ZCOUNT", keys.ready, value * _STEP, f"({(value + 1) * _STEP}") for value in PRIORITIES.values()]
        replies = await self._client.here().lane.ask(keys, requests, self._client.budget, f"counting queue {self.name!r}")
        for reply in replies:
            if isinstance(reply, BananasError):
                raise reply
        ready, scheduled, running, dead, paused, *by_priority = replies
        named = dict(zip(PRIORITIES, by_priority, strict=True))
        return Counts(ready, scheduled, running, dead, bool(paused), named | {"other": ready - sum(by_priority)})

    async def pause(self) -> bool:
        """Stop claims from it, on every worker; submits and running jobs go on. Returns False if it was paused already."""
        return await self._client.act(self._keys, lambda once: broker.pause(self._keys, True, once=once), f"pausing queue {self.name!r}")

    async def resume(self) -> bool:
        """Let workers claim again. Returns False if it was not paused."""
        return await self._client.act(self._keys, lambda once: broker.pause(self._keys, False, once=once), f"resuming queue {self.name!r}")

    async def purge(self) -> int:
        """End every waiting job (ready and scheduled) as "purged", waking who waits; running and dead ones stay. Returns how many."""
        what, purged = f"purging queue {self.name!r}", 0
        for key in (self._keys.ready, self._keys.scheduled):
            left = await self._client.ask(self._keys, broker.plain(int, "ZCARD", key), what)
            while left > 0:
                ids = await self._client.ask(self._keys, broker.plain(_ids, "ZRANGE", key, 0, _BATCH - 1), what)
                if not ids:
                    break
                purged += await self._end(ids, what)
                left -= len(ids)
        return purged

    async def _end(self, ids: Sequence[str], what: str) -> int:
        result = KeptResult(CANCEL_RESULT_TTL_MS, pack_result(Result("purged", error_message="its queue was purged", attempts=0)))
        codes = await self._client.act(self._keys, lambda once: broker.cancel(self._keys, ids, result, running=False, once=once), what)
        return codes.count("e")

    def __repr__(self) -> str:
        return f"<queue {self.name}>"


def _ids(reply: list[bytes]) -> list[str]:
    return [item.decode() for item in reply]


class DeadLetters:
    """The jobs of a queue that failed for good; kept by count and age (`dead_max_count`, `dead_max_age`)."""

    def __init__(self, client: Client, keys: QueueKeys) -> None:
        self._client, self._keys = client, keys
        self._what = f"the dead letters of queue {keys.name!r}"

    async def list(self, limit: int = 50, offset: int = 0) -> list[JobInfo]:
        """The newest dead jobs with their errors, at most 1,000 at a time. Raises ConfigError where `limit` or `offset` is none."""
        if not (isinstance(limit, int) and isinstance(offset, int) and limit >= 1 and offset >= 0):
            raise ConfigError(f"limit={describe(limit)}, offset={describe(offset)}: give whole numbers, from 1 and from 0")
        limit = min(limit, _BATCH)
        ids = await self._client.ask(
            self._keys, broker.plain(_ids, "ZREVRANGE", self._keys.dead, offset, offset + limit - 1), f"listing {self._what}"
        )
        requests = [broker.info(self._keys, job_id) for job_id in ids]
        replies: list[Any] = (
            await self._client.here().lane.ask(self._keys, requests, self._client.budget, f"listing {self._what}") if ids else []
        )
        for reply in replies:
            if isinstance(reply, BananasError):
                raise reply
        infos = [job_info(self._keys, job_id, reply) for job_id, reply in zip(ids, replies, strict=True)]
        return [info for info in infos if info.state == "dead"]

    async def count(self) -> int:
        """How many there are."""
        return await self._client.ask(self._keys, broker.plain(int, "ZCARD", self._keys.dead), f"counting {self._what}")

    async def replay(self, job_id: str) -> None:
        """Make one ready again, with fresh attempts.

        Raises:
            JobNotFound: it is not dead.
            JobConflict: another job holds its unique key now; it stays dead.
        """
        code = await self._replay([self._own(job_id)])
        if code == "0":
            raise JobNotFound(f"job {job_id} is not among {self._what}; nothing was changed. `dead.list()` shows which are")
        if code == "u":
            raise JobConflict(f"job {job_id} stays dead: its unique key is held by a job that is alive. Replay it when that one has ended")

    async def replay_all(self) -> int:
        """Make all ready again, but for those whose unique key is held by another job. Returns how many."""
        replayed, skipped = 0, 0
        for _ in range(await self.count() // _BATCH + 1):
            ids = await self._client.ask(
                self._keys, broker.plain(_ids, "ZRANGE", self._keys.dead, skipped, skipped + _BATCH - 1), f"replaying {self._what}"
            )
            if not ids:
                break
            codes = await self._replay(ids)
            replayed += codes.count("e")
            skipped += len(ids) - codes.count("e")
        return replayed

    async def _replay(self, ids: Sequence[str]) -> str:
        return await self._client.act(self._keys, lambda once: broker.replay(self._keys, ids, once=once), f"replaying {self._what}")

    async def delete(self, job_id: str) -> bool:
        """Delete one for good. Returns False if it was not dead."""
        return bool(await self._discard([self._own(job_id)]))

    async def purge(self) -> int:
        """Delete all for good. Returns how many."""
        deleted = 0
        for _ in range(await self.count() // _BATCH + 1):
            ids = await self._client.ask(self._keys, broker.plain(_ids, "ZRANGE", self._keys.dead, 0, _BATCH - 1), f"purging {self._what}")
            if not ids:
                break
            deleted += await self._discard(ids)
        return deleted

    async def _discard(self, ids: Sequence[str]) -> int:
        return await self._client.act(self._keys, lambda once: broker.discard(self._keys, ids, once=once), f"deleting from {self._what}")

    def _own(self, job_id: str) -> str:
        if len(job_id) == ID_LENGTH and "." not in job_id:
            return job_id
        found = parse_public_id(job_id)
        if found.queue != self._keys.queue or found.shard != self._keys.shard:
            raise JobNotFound(f"job {job_id} belongs to queue {found.queue!r}, not to {self._keys.name!r}; nothing was changed")
        return found.job_id
