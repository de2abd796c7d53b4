"""Submitting under an idempotency key: the request is one job, also when it is sent again after the job has run and gone.

1. The key's record takes the id that was drawn for the job, and a digest of the request; where there is a record, its id holds.
2. The job is stored under that id, as batch 1 of a boot id made of key and job id: the server remembers such a batch for an hour, so a
   second one changes nothing.

The record lives for less than that hour, so while it is there the batch is remembered too. Two requests of one key that are under way at
the same time come to one job; none waits for the other. Both keys are in the queue's (or the shard's) own slot, and go by themselves.
Source: draft-ietf-httpapi-idempotency-key-header.
"""

import hashlib
from typing import Any

from bananas import broker
from bananas.app import Bananas
from bananas.errors import Unconfirmed
from bananas.handle import Job
from bananas.http.problems import Refused
from bananas.lane import Patience, confirmed
from bananas.many import from_draft
from bananas.session import answer
from bananas.task import Call

KEPT_MS = 3_000_000  # below the hour for which a batch is remembered
MOST_CHARS = 255


def check_key(text: str) -> str:
    """The key in a header's value, whose quotes may be left out. Raises Refused."""
    key = text[1:-1] if len(text) >= 2 and text[0] == text[-1] == '"' else text
    if not (0 < len(key) <= MOST_CHARS and key.isascii() and key.isprintable()):
        raise Refused(
            422, "InvalidIdempotencyKey", f"Idempotency-Key has 1 to {MOST_CHARS} printable ASCII characters; nothing was stored."
        )
    return key


async def submit_once(app: Bananas, call: Call[Any], key: str, content: bytes) -> Job[Any]:
    """Submit a call, or find the job of an earlier request with this key.

    Args:
        content: the request; another one under the same key is refused.

    Raises:
        Refused: the key stands for another request.
        SubmitError, ConfigError, BrokerError: as `submit`; the same request may be sent again with the same key.
    """
    producer = app.producer
    if not producer.chain.wraps_submit:
        return await _store(app, call, key, content)
    draft = producer.draft(call)
    with producer.chain.around_submit([draft]):
        return draft.stored(await _store(app, from_draft(call, draft), key, content))


async def _store(app: Bananas, call: Call[Any], key: str, content: bytes) -> Job[Any]:
    producer = app.producer
    plan, job = producer.pack(call, spread=key)
    what, name = f"submitting a job to queue {plan.keys.name!r}", _digest(key.encode())
    patience = Patience(call.options.call_timeout or app.client.budget, what)
    record = f"{job.job_id} {_digest(content)}"
    claim = broker.plain(_text, "SET", plan.keys.seen(name, "key"), record, "NX", "GET", "PX", KEPT_MS)
    held = await app.client.ask(plan.keys, claim, what)
    if held is not None:
        job_id, _, digest = held.partition(" ")
        if digest != _digest(content):
            raise Refused(422, "KeyReused", "This Idempotency-Key was used for another request within the hour; nothing was stored.")
        plan, job = producer.pack(call, job_id=job_id, spread=key)
    boot = _digest(f"{name} {job.job_id}".encode())
    request = broker.enqueue(plan.keys, boot, 1, [job])
    lane = app.client.here().lane(plan.keys, plan.level, bulk=False)
    replies = await lane.insist(plan.keys, lambda: confirmed(request, plan.level, plan.keys, boot, patience.left), patience)
    ids = answer(replies[0])
    job_id = job.job_id if ids is None else ids[0]
    if plan.level is not None and (shortfall := plan.level.shortfall(replies[1:])):
        raise Unconfirmed(plan.keys.public(job_id), plan.level.name, shortfall)
    return Job(app.client, plan.keys, job_id, created=held is None and job_id == job.job_id)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _text(reply: bytes | None) -> str | None:
    return None if reply is None else reply.decode()
