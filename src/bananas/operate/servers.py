"""The servers of a namespace as an overview shows them: memory, persistence, replicas, round trip; by INFO, which every role may ask.

Only reads, so that it is told of a server that is full, or a replica, too.
"""

import re
import time
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from bananas import broker
from bananas.app import Bananas
from bananas.keys import QueueKeys
from bananas.operate.namespace import Namespace
from bananas.session import server_info


class ServerFigures(Struct, frozen=True):
    """A Redis or Valkey server at one moment.

    Attributes:
        run_id: what tells it from others, and from itself before its restart.
        mode: how clients find it: standalone, sentinel or cluster.
        used_memory, maxmemory: bytes; maxmemory 0: no limit.
        full: it is at maxmemory: submits are refused; what is queued goes on.
        read_only: it is a replica, or loads its data: nothing can be changed there now.
        saves: its last write to disk, by either way, succeeded; where not, it may refuse writes.
        last_save_ms: of its last snapshot, or its start; unsaved_changes: since then.
        replicas, replica_lag_s: how many follow it, and how far behind the last of them is (None: there is none).
        round_trip_ms: of one question, from here.
    """

    run_id: str
    kind: Literal["redis", "valkey"]
    version: str
    mode: Literal["standalone", "sentinel", "cluster"]
    role: Literal["primary", "replica"]
    used_memory: int
    maxmemory: int
    maxmemory_policy: str
    full: bool
    read_only: bool
    aof_enabled: bool
    saves: bool
    last_save_ms: int
    unsaved_changes: int
    replicas: int
    replica_lag_s: int | None
    connected_clients: int
    operations_per_s: int
    evicted_keys: int
    uptime_s: int
    round_trip_ms: float


async def servers(app: Bananas) -> list[ServerFigures]:
    """The servers that hold the namespace's keys: that of its own keys first, on a Cluster those of its queues too. Raises BrokerError."""
    namespace = Namespace(app)
    found = [await _home(app)]
    if app.client.address.clustered:
        places = await namespace.queues()
        for info in await namespace.of_each(places, _info_of, "reading the servers' figures"):
            if info.get("run_id") not in {server.run_id for server in found}:
                found.append(figures(info, "cluster", found[0].round_trip_ms))
    return found


def _info_of(_: QueueKeys) -> broker.Request[dict[str, str]]:
    return server_info()


async def _home(app: Bananas) -> ServerFigures:
    name, kind = app.settings.namespace, app.client.address.kind
    info = await app.client.ask_home(name, server_info(), "reading the server's figures")
    began = time.monotonic()
    await app.client.ask_home(name, broker.plain(tuple, "TIME"), "asking the server for the time")
    took_ms = (time.monotonic() - began) * 1000
    return figures(info, "standalone" if kind == "server" else "sentinel" if kind == "sentinel" else "cluster", round(took_ms, 3))


def figures(info: Mapping[str, str], mode: Literal["standalone", "sentinel", "cluster"], round_trip_ms: float) -> ServerFigures:
    """What INFO says. Pure."""
    used, most = _number(info, "used_memory"), _number(info, "maxmemory")
    replica = info.get("role", "master") != "master"
    lags = [
        int(lag[1]) for name, line in info.items() if re.fullmatch(r"slave\d+", name) and (lag := re.search(r"\blag=([0-9]{1,9})\b", line))
    ]
    return ServerFigures(
        run_id=info.get("run_id", ""),
        kind="valkey" if "valkey_version" in info else "redis",
        version=info.get("valkey_version", info.get("redis_version", "?")),
        mode=mode,
        role="replica" if replica else "primary",
        used_memory=used,
        maxmemory=most,
        maxmemory_policy=info.get("maxmemory_policy", "?"),
        full=bool(most) and used >= most,
        read_only=replica or info.get("loading", "0") != "0",
        aof_enabled=info.get("aof_enabled") == "1",
        saves="err" not in (info.get("aof_last_write_status"), info.get("rdb_last_bgsave_status")),
        last_save_ms=_number(info, "rdb_last_save_time") * 1000,
        unsaved_changes=_number(info, "rdb_changes_since_last_save"),
        replicas=_number(info, "connected_slaves"),
        replica_lag_s=max(lags, default=None),
        connected_clients=_number(info, "connected_clients"),
        operations_per_s=_number(info, "instantaneous_ops_per_sec"),
        evicted_keys=_number(info, "evicted_keys"),
        uptime_s=_number(info, "uptime_in_seconds"),
        round_trip_ms=round_trip_ms,
    )


def _number(info: Mapping[str, str], name: str) -> int:
    found = re.fullmatch(r"[0-9]{1,18}", info.get(name, ""))
    return int(found[0]) if found else 0
