"""Moving waiting jobs to another queue.

Queues live on different servers of a Cluster, so a move is three steps, each one script: the old queue keeps the job out of every worker's
reach for a minute (hold), the new one takes it in (adopt), the old one lets it go and remembers where it went (depart). Insertion comes
before removal, so no job is lost wherever the mover dies: it is then still in the old queue, ready after that minute. Doing it again makes
no second job: the new id follows from the old one, and the new queue remembers for a day whom it took in.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from bananas import broker, codec, sealing
from bananas.app import Bananas
from bananas.broker import KeptResult, Request
from bananas.codec import Undecodable
from bananas.errors import BrokerError
from bananas.keys import QueueKeys, birth_priority, queues_key, shard_of
from bananas.notes import KEPT_MS, moved
from bananas.operate.namespace import Namespace
from bananas.operate.requests import Adopted, Held, adopt, depart, hold
from bananas.sealing import Place
from bananas.seals import Choice, compresses

HOLD_MS = 60_000
KNOWN_MS = 86_400_000


class Mover:
    """Moves jobs to one queue."""

    def __init__(self, app: Bananas, queue: str) -> None:
        self._namespace, self._parts = Namespace(app), app.producer.places.parts(queue)

    async def move(self, keys: QueueKeys, ids: Sequence[str]) -> list[str]:
        """Move at most 100 jobs. Gives per job "" or why it was left."""
        if keys.queue == self._parts[0].queue:
            return ["already in that queue"] * len(ids)
        what = f"moving {len(ids)} job(s) from queue {keys.name!r}"
        (held,) = await self._namespace.ask(keys, [hold(keys, HOLD_MS, ids)], what)
        words = []
        for index, (job_id, one) in enumerate(zip(ids, held, strict=True)):
            try:
                words.append(await self._move(keys, job_id, one, what))
            except BrokerError:
                left = [other for other, kept in zip(ids[index:], held[index:], strict=True) if kept.code == "r"]
                await self._namespace.act(keys, lambda once, left=left: broker.reschedule(keys, 0, left, once=once), what)  # type: ignore[misc]
                raise
        return words

    async def _move(self, keys: QueueKeys, job_id: str, held: Held, what: str) -> str:
        if held.code not in "rs":
            return {"l": "running", "d": "dead", "0": "gone"}[held.code]
        target = self._parts[shard_of(held.unique or job_id, len(self._parts))]
        delay_ms = max(0, held.score - held.now_ms) if held.code == "s" else 0
        new_id = successor(keys, job_id, target, birth_priority(job_id) if held.priority is None else held.priority)
        try:
            body, tries = self._resealed(held, (keys, job_id), (target, new_id))
        except Undecodable:
            await self._give_back(keys, job_id, 0 if held.code == "r" else delay_ms, what)
            return "encrypted, or unreadable: needs its key"
        job = Adopted(new_id, body, tries, held.unique, delay_ms)
        await self._namespace.app.client.ask_home(keys.namespace, broker.plain(int, "SADD", *_listing(target)), what)
        (code,) = await self._namespace.ask(target, [adopt(target, job, KNOWN_MS)], what)
        if code == "u":
            await self._give_back(keys, job_id, 0 if held.code == "r" else delay_ms, what)
            return "unique key held by another"
        requests: list[Request[Any]] = [
            broker.plain(_bytes, "GET", keys.notes(job_id)),
            depart(keys, job_id, target.public(new_id), KNOWN_MS),
        ]
        log, code = await self._namespace.ask(keys, requests, what)
        if code == "e":
            await self._keep_log(log, held, (keys, job_id), (target, new_id), what)
            return ""
        nobody = KeptResult(0, b"")  # it ran in its old queue after all: what was not begun in the new one is taken back
        await self._namespace.act(target, lambda once: broker.cancel(target, [new_id], nobody, running=False, once=once), what)
        return "running"

    async def _keep_log(self, stored: bytes, held: Held, old: Place, new: Place, what: str) -> None:
        """Let the job's log go along. It is left where a run in the new queue writes one already, or the server does not take it."""
        log = moved(stored, self._namespace.app.client.seals if sealing.is_encrypted(held.body) else None, old, new) if stored else b""
        if log:
            target, new_id = new
            request = broker.plain(_bytes, "SET", target.notes(new_id), log, "NX", "PX", KEPT_MS)
            with suppress(BrokerError):
                await self._namespace.ask(target, [request], what)

    async def _give_back(self, keys: QueueKeys, job_id: str, delay_ms: int, what: str) -> None:
        """Let a job that was held wait as it did."""
        await self._namespace.act(keys, lambda once: broker.reschedule(keys, delay_ms, [job_id], once=once), what)

    def _resealed(self, held: Held, old: Place, new: Place) -> tuple[bytes, bytes]:
        """Body and tries as they are stored in the new place: what is encrypted belongs to its place. Raises Undecodable."""
        if not sealing.is_encrypted(held.body):
            return held.body, held.tries
        seals = self._namespace.app.client.seals
        if not seals.keyed:
            raise Undecodable("there is no key here")
        envelope = sealing.open_job(held.body, seals, old)
        body = sealing.pack_job(envelope, 2**31, seals, Choice(compress=compresses(), encrypt=True), new)
        tries = codec.unpack_tries(held.tries)
        errors = tuple(sealing.hide_error(sealing.shown_error(error, seals, old), seals, new) for error in tries.history.errors)
        history = msgspec.structs.replace(tries.history, errors=errors)
        packed = codec.pack_tries(msgspec.structs.replace(tries, history=history)) if held.tries else b""
        return held.body[: codec.BIRTH_BYTES] + body, packed


def _bytes(reply: bytes | None) -> bytes:
    return reply or b""


def _listing(keys: QueueKeys) -> tuple[str, str]:
    return queues_key(keys.namespace), keys.name


def successor(keys: QueueKeys, job_id: str, target: QueueKeys, priority: int) -> str:
    """The id that a job gets in another queue: always the same, as old by its time, and none that a client makes."""
    digest = hashlib.sha256(f"{keys.public(job_id)} {target.base}".encode()).hexdigest()
    return f"{job_id[:13]}{digest[:19]}{job_id[32:40]}{priority:03x}"
