"""What the audit and the repair ask of a server beyond `broker`: one function per script, each a `Request` that any connection can run."""

from collections.abc import Sequence
from typing import Any

from bananas.broker import Request
from bananas.keys import QueueKeys
from bananas.scripts import script


def examine(
    keys: QueueKeys, most_leases: int, ids: Sequence[bytes], members: Sequence[bytes] = (), fields: Sequence[bytes] = ()
) -> Request[list[Any]]:
    """What is known of at most 1,000 ids at one moment, raw: see lua/examine.lua and `audit.Moment`."""
    return Request(list, script("examine"), keys.fixed, (most_leases, len(ids), len(members), *ids, *members, *fields))


def amend(keys: QueueKeys, most_leases: int, job_id: bytes, digest: bytes = b"", change: Sequence[Any] = ()) -> Request[list[Any]]:
    """Bring a damaged job into one place, if it is as `digest` says; without one, only tell. Raw: see lua/amend.lua and `repair.Seen`."""
    return Request(list, script("amend"), keys.fixed, (job_id, most_leases, digest, *change))


def rekey(keys: QueueKeys, job_id: bytes, field: bytes, *, act: bool) -> Request[str]:
    """Make a job and its unique key know each other. Returns what was done, or would be: see lua/rekey.lua."""
    return Request(_text, script("rekey"), keys.fixed, ("1" if act else "", job_id, field))


def sweep(keys: QueueKeys, name: bytes, new_id: str, tries: bytes, *, act: bool) -> Request[str]:
    """Remove what is no job id from everywhere; its body is dead under the new id. Returns what was done, or would be."""
    return Request(_text, script("sweep"), keys.fixed, ("1" if act else "", name, new_id, tries))


def _text(reply: bytes) -> str:
    return reply.decode()
