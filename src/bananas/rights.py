"""What the user of a connection must be allowed to do on the server (ACL), and whether it is.

The tables list every command by the keys that it is used on: by the scripts (a script runs with the rights of its user) and as plain
commands. tests/unit/test_rights.py reads the sources and holds the tables against them.

A worker asks at its start, with ACL DRYRUN, one round trip per queue. For a right that is missing is worst where it is found last: a
script that stops half-way leaves its first half done. Clients do not ask: a submit is the first thing that they do, and it says what
is refused.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import structlog

from bananas import broker
from bananas.broker import Request
from bananas.client import LoopClient
from bananas.errors import BrokerError, RightsMissing
from bananas.keys import ID_LENGTH, QueueKeys, answer_key, orders_key, queues_key, trail_key, workers_key

Role = Literal["client", "worker", "viewer", "operator"]
Command = tuple[Any, ...]
log = structlog.get_logger("bananas.worker")

# By key (the last word of its name; "channel" is that of a result): who submits, waits, cancels, replays, pauses, counts.
_CLIENT = {
    "jobs": "HDEL HEXISTS HGET HSET",
    "ready": "EXISTS ZADD ZCARD ZCOUNT ZRANGE ZRANK ZREM ZSCORE",
    "prio": "EXISTS HDEL HGET HSET",
    "scheduled": "EXISTS ZADD ZCARD ZRANGE ZREM ZSCORE",
    "leases": "ZCARD ZREVRANGE",
    "tries": "EXISTS HDEL HGET HSET",
    "dead": "ZCARD ZRANGE ZREM ZREVRANGE ZSCORE",
    "cancelled": "EXISTS SADD SISMEMBER SREM",
    "unique": "EXISTS HDEL HGET HSET HSETNX",
    "meta": "HDEL HEXISTS HGET HSETNX",
    "wake": "DEL ZADD",
    "seen": "GET PEXPIRE SET",
    "result": "DEL GET SET",
    "notes": "DEL GET",
    "moved": "GET",
    "workers": "HGET",
    "queues": "SADD SMEMBERS",
    "channel": "SPUBLISH SSUBSCRIBE SUNSUBSCRIBE",
}
# What a worker does besides: its handlers may submit and wait, so it is a client too.
_WORKER = {
    "jobs": "HMGET HSTRLEN",
    "ready": "ZRANGEBYSCORE ZREMRANGEBYRANK",
    "scheduled": "ZRANGEBYSCORE ZREMRANGEBYRANK",
    "leases": "ZADD ZMSCORE ZRANGEBYSCORE ZREM ZSCORE",
    "tries": "HMGET",
    "dead": "ZADD ZRANGEBYSCORE",
    "cancelled": "SMISMEMBER",
    "meta": "HINCRBY HSET",
    "wake": "BZPOPMIN EXISTS",
    "notes": "SET",
    "cron": "HDEL HGET HGETALL HSET",
    "recent": "PEXPIRE ZADD ZREMRANGEBYRANK",
    "stats": "HINCRBY HSET PEXPIRE",
    "workers": "HDEL HSET",
    "orders": "LRANGE LREM",
    "answer": "SET",
}
# Who looks: counts, `info`, searches, dead letters, workers, cron entries, the trail, the audit, `bananas doctor`. It changes nothing.
_VIEWER = {
    "jobs": "HEXISTS HGET HLEN HSCAN HSTRLEN",
    "ready": "ZCARD ZCOUNT ZMSCORE ZRANGE ZRANK ZSCAN ZSCORE",
    "prio": "HGET HMGET HSCAN",
    "scheduled": "ZCARD ZCOUNT ZMSCORE ZRANGE ZSCAN ZSCORE",
    "leases": "ZCARD ZCOUNT ZMSCORE ZRANGE ZREVRANGE ZSCAN",
    "tries": "HEXISTS HGET HMGET HSCAN",
    "dead": "ZCARD ZMSCORE ZRANGE ZREVRANGE ZSCAN ZSCORE",
    "cancelled": "SISMEMBER SMISMEMBER SSCAN",
    "unique": "HGET HMGET HSCAN",
    "meta": "HEXISTS HGET",
    "cron": "HSCAN",
    "result": "GET",
    "notes": "GET",
    "moved": "GET",
    "recent": "ZREVRANGE",
    "stats": "HGETALL HMGET",
    "trail": "LRANGE",
    "workers": "HGET HSCAN",
    "queues": "SMEMBERS SSCAN",
}
# Who keeps it in order: a client and a viewer who also mends what the audit finds, moves jobs, leaves a trail, and gives orders to workers:
# nobody else has a command that writes a list.
_OPERATOR = {
    "jobs": "HMGET",
    "moved": "SET",
    "notes": "SET",
    "came": "EXISTS SET",
    "trail": "LPUSH LTRIM",
    "cron": "HGET HSET",
    "orders": "LPUSH LRANGE PEXPIRE",
    "answer": "GET",
    "leases": "ZADD ZRANGEBYSCORE ZREM ZSCORE",
    "dead": "ZADD",
    "meta": "HSET",
}
_TABLES: dict[Role, tuple[dict[str, str], ...]] = {
    "client": (_CLIENT,),
    "worker": (_CLIENT, _WORKER),
    "viewer": (_VIEWER,),
    "operator": (_CLIENT, _VIEWER, _OPERATOR),
}

# What follows the key, so that the server takes the command for a whole one.
_REST: dict[str, Command] = {
    **dict.fromkeys(("HDEL", "HEXISTS", "HGET", "HMGET", "HSTRLEN", "SPUBLISH", "SADD", "SISMEMBER", "SMISMEMBER", "SREM"), ("f",)),
    **dict.fromkeys(("ZMSCORE", "ZRANK", "ZREM", "ZSCORE", "SET"), ("f",)),
    **dict.fromkeys(("HSET", "HSETNX"), ("f", "v")),
    **dict.fromkeys(("LRANGE", "LTRIM", "ZCOUNT", "ZRANGE", "ZRANGEBYSCORE", "ZREMRANGEBYRANK", "ZREVRANGE"), (0, 0)),
    **dict.fromkeys(("HSCAN", "SSCAN", "ZSCAN", "BZPOPMIN"), (0,)),
    **dict.fromkeys(("DEL", "EXISTS", "GET", "HGETALL", "HLEN", "SMEMBERS", "SSUBSCRIBE", "SUNSUBSCRIBE", "ZCARD"), ()),
    "HINCRBY": ("f", 1),
    "PEXPIRE": (1,),
    "LREM": (0, "v"),
    "LPUSH": ("v",),
    "ZADD": (0, "m"),
}
_KEYLESS: tuple[Command, ...] = (("CLIENT", "SETNAME", "bananas"), ("INFO",), ("TIME",), ("SCRIPT", "LOAD", "return 1"))
_WAITING: tuple[Command, ...] = (("WAIT", 1, 1),)  # for replicas; WAITAOF, which Redis 7.0 does not know, is granted where it is used
# What the doctor asks the server besides; without them it says what it was not told.
_ASKING: tuple[Command, ...] = (("ACL", "WHOAMI"), ("ACL", "DRYRUN", "default", "PING"))
_DOCTOR: tuple[Command, ...] = (
    *_ASKING,
    ("CONFIG", "GET", "save"),
    ("LATENCY", "LATEST"),
    ("SCRIPT", "EXISTS", "0" * 40),
    ("SLOWLOG", "GET", 1),
)
_CONTAINERS = frozenset({"ACL", "CLIENT", "CONFIG", "LATENCY", "SCRIPT", "SLOWLOG"})  # commands whose rights go by subcommand
_NO_ID, _NO_BOOT = "0" * ID_LENGTH, "0" * 16


def _keyless(role: Role) -> tuple[Command, ...]:
    waiting = () if role == "viewer" else _WAITING
    return (*_KEYLESS, *waiting, *(_DOCTOR if role == "operator" else ()))


def commands(role: Role) -> set[str]:
    """The commands that a role needs, as ACL rules name them: "hget", "client|setname"."""
    listed = {name for table in _TABLES[role] for names in table.values() for name in names.split()}
    subcommands = {"|".join(command[:2]) if command[0] in _CONTAINERS else command[0] for command in _keyless(role)}
    return {name.lower() for name in listed | subcommands | {"EVALSHA"}}


def needed(role: Role, keys: QueueKeys) -> list[Command]:
    """Every command that a role needs on each key of a queue, with arguments that stand for all."""
    scripts: Command = ("EVALSHA", "0" * 40, 13, *keys.fixed, keys.seen(_NO_BOOT), keys.result(_NO_ID))
    return [*_keyless(role), scripts, *_keyed(role, keys)]


def _keyed(role: Role, keys: QueueKeys) -> Iterator[Command]:
    names = {
        "seen": keys.seen(_NO_BOOT),
        "result": keys.result(_NO_ID),
        "channel": keys.result(_NO_ID),
        "notes": keys.notes(_NO_ID),
        "moved": keys.moved(_NO_ID),
        "came": keys.came(_NO_ID),
        "stats": keys.stats(),
        "trail": trail_key(keys.namespace),
        "orders": orders_key(keys.namespace, _NO_BOOT),
        "answer": answer_key(keys.namespace, _NO_BOOT),
        "workers": workers_key(keys.namespace),
        "queues": queues_key(keys.namespace),
    }
    for table in _TABLES[role]:
        for key, listed in table.items():
            for name in listed.split():
                yield (name, names.get(key, keys.base + key), *_REST[name])


def rules(role: Role, namespace: str) -> list[str]:
    """The least rights of a role in a namespace, as rules of ACL SETUSER; a worker's let it ask for its rights too."""
    channels = [_channels(namespace)] if "channel" in _TABLES[role][0] else []
    asking = {"acl|dryrun", "acl|whoami"} if role == "worker" else set[str]()
    return [*_patterns(namespace), *channels, *(f"+{name}" for name in sorted(commands(role) | asking))]


def _patterns(namespace: str) -> tuple[str, str]:
    """Key patterns: what belongs to a queue, and the two keys of the namespace. Not `{namespace*`: that would be another's too."""
    return f"~{{{namespace}:*", f"~{{{namespace}}}:*"


def _channels(namespace: str) -> str:
    return f"&{{{namespace}:*"


class _Untold(Exception):
    """The server does not say which rights its user has."""


class _Refusal(NamedTuple):
    """A right that is missing: "command", "key" or "channel", its name, and the rule that grants it."""

    kind: str
    name: str
    rule: str


def _refusal(namespace: str, verdict: str) -> _Refusal | None:
    """What a reply of ACL DRYRUN refuses: "... to run the 'hdel' command", "... to access the '{shop:email}:jobs' key" (or channel)."""
    if verdict == "OK":
        return None
    found = re.search(r"'(.+)' (command|key|channel)", verdict, re.DOTALL)
    if found is None:
        raise _Untold(f"unknown answer {verdict!r}")
    name, kind = found[1], found[2]
    if kind == "command":
        return _Refusal(kind, name, f"+{name}")
    of_queue, of_namespace = _patterns(namespace)
    if kind == "channel":
        return _Refusal(kind, name, _channels(namespace))
    return _Refusal(kind, name, of_queue if name.startswith(of_queue[1:-1]) else of_namespace)


def _error(role: Role, user: str, refusals: Sequence[_Refusal]) -> RightsMissing:
    missing: dict[str, list[str]] = {}
    for refusal in refusals:
        missing.setdefault(refusal.kind, []).append(refusal.name)
    named = "; ".join(f"the {kind}s {', '.join(sorted(names))}" for kind, names in missing.items())
    grant = " ".join(["ACL SETUSER", user, *sorted({refusal.rule for refusal in refusals})])
    return RightsMissing(
        f"the server's user {user!r} lacks rights that a {role} needs: {named}. Nothing was started. Grant them on the server: {grant}",
        user,
        tuple(sorted(f"{refusal.kind} {refusal.name}" for refusal in refusals)),
        grant,
    )


def rule(command: Command) -> str:
    """The rule that grants a command: "+config|get"."""
    return "+" + ("|".join(command[:2]) if command[0] in _CONTAINERS else command[0]).lower()


def questions(role: Role, user: str, keys: QueueKeys) -> list[Request[str]]:
    """What to ask the server of a user's rights on a queue."""
    return [broker.plain(_text, "ACL", "DRYRUN", user, *command) for command in needed(role, keys)]


def judged(role: Role, user: str, namespace: str, verdicts: Sequence[str]) -> RightsMissing | None:
    """What the answers to `questions` say is missing, None where nothing is."""
    refusals = dict.fromkeys(filter(None, map(partial(_refusal, namespace), verdicts)))
    return _error(role, user, list(refusals)) if refusals else None


async def check(client: LoopClient, role: Role, queues: Sequence[QueueKeys], budget: float) -> None:
    """Ask the server whether our user has every right of a role; a warning in the log where it does not say.

    Raises:
        RightsMissing: names every right that is missing, and the command that grants them. Nothing was done.
        BrokerUnavailable: the server did not answer within `budget` seconds.
    """
    refusals: dict[_Refusal, None] = {}
    user = "?"
    try:
        if queues:
            (user,) = await _told(client, queues[0], [broker.plain(_text, "ACL", "WHOAMI")], budget)
        for keys in queues:
            requests = questions(role, user, keys)
            refusals |= dict.fromkeys(filter(None, map(partial(_refusal, keys.namespace), await _told(client, keys, requests, budget))))
    except _Untold as error:
        log.warning(
            "the server does not say which rights its user has: a missing one will show when it is needed",
            grant=f"ACL SETUSER {user} +acl|whoami +acl|dryrun",
            reason=str(error),
        )
    if refusals:
        raise _error(role, user, list(refusals))


async def _told(client: LoopClient, keys: QueueKeys, requests: Sequence[Request[str]], budget: float) -> list[str]:
    replies = await client.lanes.of(keys).ask(None, requests, budget, "asking for our rights on the server")
    for reply in replies:
        if isinstance(reply, BrokerError):
            raise _Untold(str(reply)) from reply
    return replies


def _text(reply: bytes) -> str:
    return reply.decode()
