"""What any worker does for all: take back expired leases, fire cron ticks, trim the dead. Bounded steps, on the server's clock.

Upkeep   every lease/4: reclaim; now and then: trim dead letters, drop cron entries that nobody announces
Clock    announce the cron entries of this code, fire what is due, sleep until the next tick

The jobs of a tick go through the app's submit middleware in every process that tries to fire it; the server lets one of them fire. In the
others the generators are closed at their yield: nothing was submitted there, and nothing failed. When middleware raises before its yield,
the tick is kept, and this process tries again with growing pauses; the other entries go on.
"""

import asyncio
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import structlog

from bananas import broker
from bananas.app import CronEntry
from bananas.broker import NewJob
from bananas.client import LoopClient
from bananas.config import Settings
from bananas.errors import BananasError, BrokerError, ConfigError
from bananas.keys import QueueKeys
from bananas.many import from_draft
from bananas.middleware import Draft
from bananas.producer import Producer
from bananas.schedule import Schedule, count, next_ms, plan
from bananas.task import Call, Options
from bananas.worker.served import Served

TRIM_EVERY_S = 60.0
CRON_FORGOTTEN_MS = 86_400_000
STATE = b"\0state"  # of a cron entry, beside it
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
log = structlog.get_logger("bananas.worker")


class Upkeep:
    """Reclaims and trims for the queues that this worker serves."""

    def __init__(self, client: LoopClient, queues: Sequence[Served], settings: Settings, *, promotes: bool) -> None:
        self._client, self._queues, self._settings, self._promotes = client, queues, settings, promotes
        self._lease_ms = round(settings.lease * 1000)
        self._trim_at = 0.0

    async def tick(self) -> float:
        """One round. Returns seconds until the next."""
        interval = self._settings.scheduler_interval or self._settings.lease / 4
        for served in self._queues:
            taken = await self._ask(served.keys, broker.reclaim(served.keys, self._lease_ms))
            if taken:
                log.warning("took back leases of workers that are gone", queue=served.keys.name, jobs=taken)
            if self._promotes:
                _, next_due_ms = await self._ask(served.keys, broker.promote(served.keys))
                interval = min(interval, max(0.001, next_due_ms / 1000)) if next_due_ms >= 0 else interval
        if time.monotonic() >= self._trim_at:
            self._trim_at = time.monotonic() + TRIM_EVERY_S
            for served in self._queues:
                await self._trim(served.keys)
        return interval

    async def _trim(self, keys: QueueKeys) -> None:
        """Delete the oldest dead jobs beyond the count or the age, and cron entries that no worker announces."""
        (now_s, _) = await self._ask(keys, broker.plain(tuple, "TIME"))
        oldest_ms = int(now_s) * 1000 - round(self._settings.dead_max_age * 1000)
        while ids := await self._dead_beyond(keys, oldest_ms):
            deleted = await self._ask(keys, broker.discard(keys, ids))
            log.info("trimmed the dead letter queue", queue=keys.name, jobs=deleted)
            if not deleted:
                break
        entries = await self._ask(keys, broker.plain(list, "HGETALL", keys.cron))
        for name, entry in zip(entries[::2], entries[1::2], strict=True):
            if name.endswith(STATE) and name.removesuffix(STATE) not in entries[::2]:
                await self._ask(keys, broker.plain(int, "HDEL", keys.cron, name))
            elif int(entry.split(b" ", 2)[1]) < int(now_s) * 1000 - CRON_FORGOTTEN_MS:
                await self._ask(keys, broker.plain(int, "HDEL", keys.cron, name))
                if b"\0" not in name:  # no entry, but the schedule that one had before
                    log.info("deleted a cron entry that no worker announces", entry=name.decode())

    async def _dead_beyond(self, keys: QueueKeys, oldest_ms: int) -> list[str]:
        """At most 1,000 dead jobs too many, or too old, the oldest first."""
        count = await self._ask(keys, broker.plain(int, "ZCARD", keys.dead))
        excess = max(0, count - self._settings.dead_max_count)
        ids = await self._ask(keys, broker.plain(_texts, "ZRANGE", keys.dead, 0, min(excess, 1_000) - 1)) if excess else []
        ids += await self._ask(keys, broker.plain(_texts, "ZRANGEBYSCORE", keys.dead, "-inf", oldest_ms, "LIMIT", 0, 1_000))
        return list(dict.fromkeys(ids))[:1_000]

    async def _ask(self, keys: QueueKeys, request: Any) -> Any:
        return await self._client.ask(keys, request, self._settings.call_timeout, "upkeep")


def _texts(reply: list[bytes]) -> list[str]:
    return [item.decode() for item in reply]


def pack_schedule(schedule: Schedule) -> bytes:
    """A schedule as it is stored: what makes two of them the same."""
    return f"{schedule.every_ms} {schedule.missed} {schedule.timezone} {schedule.expression}".encode()


def keys_of_cron(producer: Producer, entry: CronEntry) -> QueueKeys:
    """Where a cron entry lives, with the jobs of its ticks."""
    return producer.places.of_unique(entry.task.defaults.queue or "default", entry.name)


class _Tick(NamedTuple):
    """What is to be fired: the tick as it is stored and the one that follows (None: it is a run that an operator asked for then), when its
    jobs are due, and how many ticks have none.
    """

    seen_ms: int
    next_ms: int | None
    jobs_ms: Sequence[int]
    missed: int = 0


def _ticks(schedule: Schedule, due_ms: int, now_ms: int, asked_ms: int) -> tuple[list[_Tick], int]:
    """What is to be fired now, and the next tick. Raises ConfigError."""
    jobs_ms, following_ms = plan(schedule, due_ms, now_ms)
    found = [_Tick(asked_ms, None, (asked_ms,))] if asked_ms else []
    if following_ms != due_ms:
        missed = 0 if jobs_ms == (due_ms,) else count(schedule, due_ms, now_ms) - len(jobs_ms)
        found.append(_Tick(due_ms, following_ms, jobs_ms, max(0, missed)))
    return found, following_ms


class Clock:
    """Fires the cron entries of this code."""

    def __init__(self, client: LoopClient, entries: Sequence[CronEntry], producer: Producer, settings: Settings) -> None:
        self._client, self._entries, self._producer, self._settings = client, entries, producer, settings
        self._pauses: dict[str, tuple[float, float]] = {}  # entry: how long, until when (monotonic), after its tick could not be made

    async def tick(self) -> float:
        """Announce and fire. Returns seconds until the next tick, at most an upkeep interval."""
        wait = self._settings.scheduler_interval or self._settings.lease / 4
        for entry in self._entries:
            keys = keys_of_cron(self._producer, entry)
            (now_s, now_us) = await self._ask(keys, broker.plain(tuple, "TIME"))
            now_ms = int(now_s) * 1000 + int(now_us) // 1000
            packed = pack_schedule(entry.schedule)
            try:
                first = (entry.name, packed, next_ms(entry.schedule, now_ms))
                now_ms, due_ms, asked_ms = await self._ask(keys, broker.cron_register(keys, [first]))
                ticks, following_ms = _ticks(entry.schedule, due_ms, now_ms, asked_ms)
            except ConfigError as error:
                log.error("a cron entry cannot fire", entry=entry.name, reason=str(error))
                continue
            for tick in ticks if self._paused_s(entry) <= 0 else ():
                await self._fire_safely(entry, keys, packed, tick)
            wait = min(wait, max(0.001, self._paused_s(entry) or (following_ms - now_ms) / 1000))
        return wait

    def _paused_s(self, entry: CronEntry) -> float:
        """Seconds until this entry may be tried again, 0 when it is not held up."""
        _, until = self._pauses.get(entry.name, (0.0, 0.0))
        return max(0.0, until - time.monotonic())

    async def _fire_safely(self, entry: CronEntry, keys: QueueKeys, packed: bytes, tick: "_Tick") -> None:
        """Fire a tick; what the app's own code breaks is logged and holds up this entry alone."""
        fired = False
        try:
            with self._drafted(entry, keys, tick.jobs_ms) as (jobs, drafts):
                request = broker.cron_fire(keys, entry.name, packed, tick.seen_ms, tick.next_ms, jobs, tick.missed)
                fired, submitted = await self._ask(keys, request)
                if not fired:
                    raise GeneratorExit  # another process was first
                for draft, job in zip(drafts, jobs[:submitted], strict=False):
                    draft.id, draft.created = keys.public(job.job_id), True
                log.info("cron tick" if tick.next_ms else "cron run, as an operator asked", entry=entry.name, jobs=submitted)
        except GeneratorExit:
            pass
        except BrokerError:
            raise
        except Exception as error:
            if fired:
                log.exception("middleware failed after a cron tick; its jobs are submitted", entry=entry.name)
            else:
                pause_s = min(LONGEST_PAUSE_S, 2 * self._pauses.get(entry.name, (FIRST_PAUSE_S / 2, 0.0))[0])
                self._pauses[entry.name] = pause_s, time.monotonic() + pause_s
                log.error("a cron tick could not be made; it is kept", entry=entry.name, again_in=pause_s, exc_info=error)
                return
        self._pauses.pop(entry.name, None)

    @contextmanager
    def _drafted(self, entry: CronEntry, keys: QueueKeys, ticks: Sequence[int]) -> Generator[tuple[list[NewJob], list[Draft]], None, None]:
        """The packed jobs of ticks, and what submit middleware, which is around, sees of them.

        Raises ConfigError when that moves one to another queue.
        """
        calls: list[Call[Any]] = []
        for tick_ms in ticks:
            options = Options(unique=f"cron:{entry.name}" if entry.unique else "", headers={"scheduled-for-ms": str(tick_ms)})
            calls.append(Call(entry.task, (), {}, options))
        if not self._producer.chain.wraps_submit:
            yield [self._producer.pack(call)[1] for call in calls], []
            return
        drafts = [self._producer.draft(call) for call in calls]
        with self._producer.chain.around_submit(drafts):
            for draft in drafts:
                if draft.queue != keys.queue:
                    raise ConfigError(
                        f"middleware moved a job of cron entry {entry.name!r} from queue {keys.queue!r} to {draft.queue!r}: a tick and its "
                        "jobs are one step in one queue. Leave `draft.queue` as it is there, or declare the entry with queue=..."
                    )
            yield [self._producer.pack(from_draft(call, draft))[1] for call, draft in zip(calls, drafts, strict=True)], drafts

    async def _ask(self, keys: QueueKeys, request: Any) -> Any:
        return await self._client.ask(keys, request, self._settings.call_timeout, "cron")


async def repeat(tick: Any, what: str) -> None:
    """Run a loop's ticks for ever; an error of the server is logged and the loop goes on."""
    while True:
        try:
            wait = await tick()
        except BananasError as error:
            log.warning("the server did not answer, trying on", loop=what, reason=str(error))
            wait = 1.0
        await asyncio.sleep(wait)
