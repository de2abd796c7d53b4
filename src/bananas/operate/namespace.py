"""The queues of a namespace, and asking about them: what every part of this package does to reach the server."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bananas import broker
from bananas.app import Bananas
from bananas.broker import Once, Request
from bananas.config import check_queue_name
from bananas.info import job_info
from bananas.inspector import WorkerInfo, workers
from bananas.job import JobInfo
from bananas.keys import QueueKeys, birth_priority, parse_public_id, queues_key
from bananas.operate.redaction import Redaction
from bananas.operate.requests import Row
from bananas.seals import Seals
from bananas.session import answer

T = TypeVar("T")
_PLACES = {"running": "leases", "ready": "ready", "scheduled": "scheduled", "dead": "dead"}
_STATE_WORDS = {"leases": b"leased", "ready": b"ready", "scheduled": b"scheduled", "dead": b"dead"}


def place_of(state: str) -> str:
    """The key where jobs of a state are."""
    return _PLACES[state]


class Namespace:
    """An app's namespace, as operators look at it. Every call raises BrokerError where the server does not answer."""

    def __init__(self, app: Bananas) -> None:
        self.app = app
        self.name = app.settings.namespace
        self._parameters: dict[str, Sequence[str]] = {}
        self.redaction = Redaction(app.settings.redact, self.parameters)

    async def queues(self, names: Sequence[str] | None = None) -> list[QueueKeys]:
        """The queues there are, each shard by itself; or these, with every shard there is. Raises InvalidName for a wrong name."""
        wanted = None if names is None else {check_queue_name(name.partition(".")[0]) for name in names}
        request = broker.plain(_names, "SMEMBERS", queues_key(self.name))
        listed = await self.app.client.ask_home(self.name, request, "listing the queues")
        declared = self.app.registry.queues() if wanted is None else sorted(wanted)
        found = {keys.name: keys for queue in declared for keys in self.app.producer.places.parts(queue)}
        found |= {name: self.app.producer.keys(name) for name in listed if wanted is None or name.partition(".")[0] in wanted}
        exact = {name for name in names or () if "." in name}
        return [found[name] for name in sorted(found) if not exact or name in exact or name.partition(".")[0] in (names or ())]

    async def workers(self) -> list[WorkerInfo]:
        """Who works."""
        return await workers(self.app)

    async def ask(self, keys: QueueKeys, requests: Sequence[Request[Any]], what: str) -> list[Any]:
        """The replies of one queue's server, in one round trip. Only for what changes nothing when it is done twice."""
        lane = self.app.client.here().lanes.of(keys)
        replies = await lane.ask(None, requests, self.app.settings.call_timeout, what)
        return [answer(reply) for reply in replies]

    async def of_each(self, queues: Sequence[QueueKeys], request: Callable[[QueueKeys], Request[T]], what: str) -> list[T]:
        """One reply of every queue, in one round trip to each server."""
        by_slot: dict[int, list[QueueKeys]] = {}
        clustered = self.app.client.address.clustered
        for keys in queues:
            by_slot.setdefault(keys.slot if clustered else 0, []).append(keys)
        parts = await asyncio.gather(*(self.ask(part[0], [request(keys) for keys in part], what) for part in by_slot.values()))
        found = {
            keys: reply for part, replies in zip(by_slot.values(), parts, strict=True) for keys, reply in zip(part, replies, strict=True)
        }
        return [found[keys] for keys in queues]

    async def act(self, keys: QueueKeys, request: Callable[[Once], Request[T]], what: str) -> T:
        """A request that is done once."""
        return await self.app.client.act(keys, request, what)

    def parameters(self, task: str) -> Sequence[str]:
        """The names of a task's positional arguments, where its code is known here."""
        found = self._parameters.get(task)
        if found is None:
            known = self.app.registry.tasks.get(task)
            found = self._parameters[task] = () if known is None else tuple(inspect.signature(known.handler).parameters)
        return found


def redacted(app: Bananas, info: JobInfo) -> JobInfo:
    """What is known of a job as it may be shown, by the setting `redact`."""
    return Namespace(app).redaction.info(info)


def keys_of(app: Bananas, public_id: str) -> tuple[QueueKeys, str]:
    """A job's queue and its id there. Raises InvalidName."""
    queue, shard, own = parse_public_id(public_id)
    return app.producer.keys(queue if shard is None else f"{queue}.{shard}"), own


def info_of(keys: QueueKeys, place: str, row: Row, now_ms: int, seals: Seals) -> JobInfo:
    """A row of a search as a JobInfo; like `Job.info`, but for the place in the queue."""
    priority = int(row.priority) if row.priority else birth_priority(row.job_id)
    number = row.score % 2**42 if place == "ready" else row.score
    owner = row.member[44:].encode()
    reply = [now_ms, _STATE_WORDS[place], number, None, priority, row.body, row.tries or b"", owner, row.cancelled, b"", False, b""]
    return job_info(keys, row.job_id, reply, seals)


def _names(reply: list[bytes]) -> list[str]:
    return [name.decode() for name in reply]
