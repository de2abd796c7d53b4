"""What info.lua returns, as a JobInfo. Pure."""

from typing import Any

import msgspec

from bananas import codec, sealing
from bananas.job import JobInfo, Result, State, Tagged, Tries
from bananas.keys import QueueKeys
from bananas.notes import read_notes
from bananas.sealing import Place
from bananas.seals import Seals


class _Worker(msgspec.Struct):
    """What is read of a worker's record in the registry."""

    host: str
    pid: int
    overdue: list[str]


_STATES: dict[str, State] = {"ready": "ready", "scheduled": "scheduled", "leased": "running", "dead": "dead", "none": "unknown"}


def job_info(keys: QueueKeys, job_id: str, reply: list[Any], seals: Seals) -> JobInfo:
    """Read the reply of lua/info.lua. What these seals do not open is left out, and the info says why."""
    now_ms, place_name, number, place, priority, body, tries_record, owner, cancelled, packed, paused, stored = reply
    where = place_name.decode()
    tries = codec.unpack_tries(tries_record)
    common: dict[str, Any] = {
        "id": keys.public(job_id),
        "queue": keys.queue,
        "priority": priority,
        "attempts": tries.attempts,
        "crashes": tries.crashes,
        "errors": tuple(sealing.shown_error(record, seals, (keys, job_id)) for record in tries.history.errors),
        "cancel_requested": bool(cancelled),
        "queue_paused": bool(paused),
    }
    if stored and where != "none":
        common |= _notes(stored, owner if where == "leased" else None, where, (seals, (keys, job_id)))
    if where == "done":
        return _ended(common, packed)
    common |= _body(body, tries, seals, (keys, job_id))
    at_ms = int(number) if number else None
    if where == "ready" and at_ms is not None:
        common |= {"place": place, "ready_since_ms": at_ms, "waited_ms": max(0, now_ms - at_ms)}
    elif where == "scheduled":
        common["due_ms"] = at_ms
    elif where == "dead":
        common["died_ms"] = at_ms
    elif where == "leased" and owner:
        boot, fence = owner.decode().split(":")
        common |= {"lease_expires_ms": at_ms, "worker": boot, "fence": int(fence)}
    return JobInfo(state=_STATES[where], **common)


def _notes(stored: bytes, owner: bytes | None, where: str, opened: tuple[Seals, Place]) -> dict[str, Any]:
    """Log and progress; that of an earlier run is none of this one's."""
    progress, log = read_notes(stored, *opened)
    stale = where in ("ready", "scheduled") or (owner is not None and progress is not None and int(owner[-10:] or 0) != progress.fence)
    if progress is None or stale:
        return {"log": log}
    return {"log": log, "progress": progress.fraction, "progress_text": progress.text}


def _body(body: bytes, tries: Tries, seals: Seals, place: Place) -> dict[str, Any]:
    if not body:
        return {}
    found: dict[str, Any] = {"born_ms": tries.since_ms or codec.birth_ms(body)}
    try:
        envelope = codec.unpack_body(body)
        if envelope is None:
            found |= _shown(sealing.job_head(body))
            envelope = sealing.open_job(body, seals, place)
        return found | _shown(envelope) | _arguments(envelope)
    except codec.Undecodable as error:
        return found | {"unreadable": str(error)}


def _shown(envelope: Tagged[Any]) -> dict[str, Any]:
    timeout = None if envelope.timeout_ms is None else envelope.timeout_ms / 1000
    return {"task": envelope.task, "max_retries": envelope.max_retries, "timeout": timeout, "tags": envelope.tags}


def _arguments(envelope: Tagged[Any]) -> dict[str, Any]:
    args = tuple(codec.unpack(envelope.args, list[Any]))
    kwargs = {name: codec.unpack(value) for name, value in (envelope.kwargs or {}).items()}
    return {"args": args, "kwargs": kwargs, "headers": envelope.headers}


def _ended(common: dict[str, Any], packed: bytes) -> JobInfo:
    try:
        result = sealing.result_head(packed)
    except codec.Undecodable:
        result = Result("success", error_message="the stored result is unreadable")
    common |= {
        "attempts": result.attempts,
        "started_ms": result.started_ms or None,
        "finished_ms": result.finished_ms or None,
        "run_ms": result.run_ms,
        "worker": result.worker or None,
    }
    return JobInfo(state=result.state, **common)


def with_worker(info: JobInfo, record: bytes | None) -> JobInfo:
    """A running job's info with what the registry says of its worker: host:pid instead of the boot id, and whether the run is overdue."""
    if record is None:
        return info
    try:
        worker = codec.unpack(record[8:], _Worker)
    except codec.Undecodable:  # of another version, or damaged
        return info
    return msgspec.structs.replace(info, worker=f"{worker.host}:{worker.pid}", overdue=info.id in worker.overdue)
