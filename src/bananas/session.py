"""Requests over a connection: scripts loaded where the server lacks them, each reply judged by itself, server errors named.

The exchange is a generator of batches, so that the event loop and a thread run the same code (`run`, `run_sync`).
"""

import asyncio
import time
from collections.abc import Generator, Sequence
from typing import Any

from bananas import broker
from bananas.address import Address, Command
from bananas.broker import Confirmation, Request
from bananas.connection import Connection, ConnectionLost, Reply, ReplyError, SyncConnection
from bananas.discovery import find, find_sync
from bananas.errors import AuthenticationFailed, BrokerError, BrokerUnavailable, QueueFull, ScriptFailed, ServerUnsuitable
from bananas.keys import LAYOUT, QueueKeys, queues_key
from bananas.scripts import Script

# Replies of a server that will be well again: wait and resend. Each says that nothing was done.
_PASSING = ("LOADING", "BUSY", "READONLY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "NOREPLICAS", "MOVED", "ASK", "UNKILLABLE")
# Of these, what says that another server is the one to ask: it is looked for again, over a new connection.
_ELSEWHERE = ("MOVED", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "ASK")


class Passing(BrokerUnavailable):
    """The server refused for now (loading, read-only, a script running); nothing was done."""


def named(request: Request[Any], reply: Exception) -> BrokerError:
    """The error of ours for a server's error reply."""
    text = str(reply)
    word = text.split(" ", 1)[0].removeprefix("-")
    if word in _PASSING:
        return Passing(f"the server refuses for now: {text}. Nothing was done.")
    if "cannot be used with replica instances" in text:  # WAIT, WAITAOF
        return Passing(f"the server is a replica now: {text}. Nothing was done.")
    if word == "MISCONF":
        return Passing(f"the server takes no writes, since it cannot save to its disk: {text}. Nothing was done. Mend its disk.")
    if word == "OOM":
        return QueueFull(
            "the server is full (maxmemory reached): nothing of this batch was stored; jobs that are queued go on running and free memory. "
            "Submit again later, raise maxmemory, or purge what is not needed."
        )
    if word in ("NOPERM", "NOAUTH", "WRONGPASS"):
        return AuthenticationFailed(f"the server refuses this user: {text}. Nothing was done. Check the user's rights (ACL) and REDIS_URL.")
    if "ACL failure in script" in text or "user executing the script" in text:  # Valkey and Redis since 7.2; Redis 7.0
        return AuthenticationFailed(
            f"the server's user lacks a right that a script needs: {text}. What the script had done before stays done. "
            "Grant the user the rights of its role: docs/workers.md lists them under ACL."
        )
    return broker.failure(request, reply)


def exchange(requests: Sequence[Request[Any]]) -> Generator[list[Command], list[Reply], list[Any]]:
    """Run requests in one write, and once more those whose script the server did not have.

    Returns:
        per request its parsed reply, or the BrokerError that it came to.
    """
    replies = yield [request.command() for request in requests]
    missing = [i for i, reply in enumerate(replies) if _is_unknown(reply)]
    if missing:
        # What confirms the others' writes spoke before these were made.
        missing += [i for i in range(missing[0], len(requests)) if isinstance(requests[i], Confirmation)]
        scripts: set[Script] = {lacking for i in missing if (lacking := requests[i].script) is not None}
        loads: list[Command] = [("SCRIPT", "LOAD", script.source) for script in scripts]
        again = yield loads + [requests[i].command() for i in missing]
        refused = next((reply for reply in again[: len(loads)] if isinstance(reply, ReplyError)), None)
        for i, reply in zip(missing, again[len(loads) :], strict=True):
            replies[i] = refused if refused is not None and _is_unknown(reply) else reply
    return [
        named(request, reply) if isinstance(reply, ReplyError) else _read(request, reply)
        for request, reply in zip(requests, replies, strict=True)
    ]


def _read(request: Request[Any], reply: Reply) -> Any:
    try:
        return request.read(reply)
    except ScriptFailed as error:
        return error


def _is_unknown(reply: Reply) -> bool:
    """Whether the server does not have the script."""
    return isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT")


def leads_elsewhere(reply: Reply) -> bool:
    """Whether a reply says that this server is not, or no longer, the one to ask."""
    return isinstance(reply, ReplyError) and str(reply).removeprefix("-").startswith(_ELSEWHERE)


async def run(connection: Connection, requests: Sequence[Request[Any]], timeout: float) -> list[Any]:
    """`exchange` on an event loop. Raises ConnectionLost: any of the requests may have taken effect."""
    steps = exchange(requests)
    commands = next(steps)
    while True:
        replies = await connection.execute(commands, timeout)
        if any(map(leads_elsewhere, replies)):
            connection.close()
        try:
            commands = steps.send(replies)
        except StopIteration as end:
            return list(end.value)


def run_sync(connection: SyncConnection, requests: Sequence[Request[Any]], timeout: float) -> list[Any]:
    """`exchange` on a thread. Raises as `run`."""
    steps = exchange(requests)
    commands = next(steps)
    while True:
        replies = connection.execute(commands, timeout)
        if any(map(leads_elsewhere, replies)):
            connection.close()
        try:
            commands = steps.send(replies)
        except StopIteration as end:
            return list(end.value)


def answer(reply: Any) -> Any:
    """One of the replies of `run`; raises the BrokerError that its request came to."""
    if isinstance(reply, BrokerError):
        raise reply
    return reply


# --- is this a server for jobs? ---------------------------------------------------------------------------------------


def note_queue(keys: QueueKeys) -> Request[int]:
    """Note a queue's name in its namespace."""
    return broker.plain(int, "SADD", queues_key(keys.namespace), keys.name)


def note_layout(keys: QueueKeys) -> list[Request[Any]]:
    """Note a queue's layout where it has none yet, and read it: the last reply."""
    return [broker.plain(int, "HSETNX", keys.meta, "layout", LAYOUT), broker.plain(_read_layout, "HGET", keys.meta, "layout")]


def _read_layout(reply: bytes | None) -> int | None:
    return None if reply is None else int(reply)


def check_layout(keys: QueueKeys, layout: int | None) -> bool:
    """Whether the queue is known from now on: False where a full server refused to note its layout.

    Raises:
        ServerUnsuitable: another version of this library owns the queue.
    """
    if layout is None:
        return False
    if layout != LAYOUT:
        raise ServerUnsuitable(
            f"queue {keys.name!r} in namespace {keys.namespace!r} was made with layout {layout}, this version reads layout {LAYOUT}: "
            "nothing was done. Use the version of bananas-queue that made it, or another namespace."
        )
    return True


def server_info() -> Request[dict[str, str]]:
    """The server's INFO as a dict."""
    return broker.plain(_read_info, "INFO")


def _read_info(reply: bytes) -> dict[str, str]:
    lines = reply.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def check_server(info: dict[str, str]) -> None:
    """Raises ServerUnsuitable when jobs are not safe on this server; says which setting to change."""
    valkey, redis = info.get("valkey_version"), info.get("redis_version", "0")
    version, oldest, kind = (valkey, 8, "Valkey") if valkey else (redis, 7, "Redis")
    if int(version.split(".")[0]) < oldest:
        raise ServerUnsuitable(f"the server is {kind} {version}; Bananas needs Redis 7.0 or Valkey 8, or newer. Nothing was sent.")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ServerUnsuitable(
            f"the server's maxmemory-policy is {policy}: it would evict jobs when it is full. Nothing was sent. "
            "Set it on a queue's server: CONFIG SET maxmemory-policy noeviction, and in its configuration file."
        )


async def open_checked(address: Address, name: str, timeout: float, *, slot: int = 0, spins: bool = False) -> Connection:
    """A connection to the server of a slot, one that is fit for jobs. Raises as `find`, `Connection.open` and `check_server`."""
    deadline = time.monotonic() + timeout
    at = await find(address, slot, name, timeout)
    while True:
        connection = await Connection.open(at, name, _left(deadline), spins=spins)
        try:
            (info,) = await run(connection, [server_info()], _left(deadline))
            check_server(answer(info))
            moved = _promoted(address, at, info, deadline)
        except ConnectionLost as error:
            raise BrokerUnavailable(f"{at} went away while it was asked for its version: {error}") from error
        except BaseException:
            connection.close()
            raise
        if moved is None:
            return connection
        connection.close()
        at = moved


def open_checked_sync(address: Address, name: str, timeout: float, *, slot: int = 0, fit: bool = True) -> SyncConnection:
    """`open_checked` on a thread; also to a server that is not `fit` for jobs where that does not matter."""
    deadline = time.monotonic() + timeout
    at = find_sync(address, slot, name, timeout)
    while True:
        connection = SyncConnection(at, name, _left(deadline))
        try:
            (info,) = run_sync(connection, [server_info()], _left(deadline))
            if fit:
                check_server(answer(info))
            moved = _promoted(address, at, info, deadline)
        except ConnectionLost as error:
            raise BrokerUnavailable(f"{at} went away while it was asked for its version: {error}") from error
        except BaseException:
            connection.close()
            raise
        if moved is None:
            return connection
        connection.close()
        at = moved


def _left(deadline: float) -> float:
    """Seconds until a deadline (monotonic), or as little as makes sense."""
    return max(0.05, deadline - time.monotonic())


def _promoted(address: Address, at: Address, info: dict[str, str], deadline: float) -> Address | None:
    """None for a primary. A replica that sentinels still call the primary names the one that it follows (they notice a FAILOVER late).

    Raises:
        BrokerUnavailable: it is a replica, and the one to ask is not known yet.
    """
    if address.kind == "server" or info.get("role", "master") == "master":
        return None
    host, port = info.get("master_host", ""), info.get("master_port", "")
    if address.kind == "sentinel" and host and port and info.get("master_link_status") == "up" and time.monotonic() < deadline:
        return at.server(host, int(port))
    raise BrokerUnavailable(f"{at} is a replica now; whoever named it does not know yet. Nothing was sent.")


def backoff(tries: int) -> float:
    """Seconds to wait before the next try: 10 ms doubling to 0.5 s."""
    return min(0.5, 0.01 * (1 << min(tries, 8)))


async def pause_before(tries: int, deadline: float) -> None:
    """Wait before try number `tries`, but not beyond `deadline` (the loop's time)."""
    left = deadline - asyncio.get_running_loop().time()
    await asyncio.sleep(max(0.0, min(backoff(tries), left)))
