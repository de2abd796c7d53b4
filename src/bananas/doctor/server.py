"""What the facts of a server mean for a queue. Pure."""

import resource
import time
from collections.abc import Iterator

from bananas.config import Settings
from bananas.doctor.check import Check, error, note, ok, warning
from bananas.doctor.facts import ServerFacts, is_local
from bananas.errors import ServerUnsuitable
from bananas.rights import Role
from bananas.session import check_server

FULL, NEARLY_FULL = 1.0, 0.8
SLOW_MS, FAR_MS, SKEWED_MS, LAGGING_S, FORK_US = 100, 20, 1_000, 10, 200_000
CONNECTIONS_PER_PROCESS = 3


def server_checks(facts: ServerFacts, settings: Settings, processes: int) -> Iterator[Check]:
    """Every check of a server. `processes`: worker processes that are alive."""
    yield from _version(facts)
    yield from _memory(facts)
    yield from _persistence(facts)
    yield from _replication(facts)
    yield from _distance(facts)
    yield from _scripts(facts)
    yield from _connections(facts, settings, processes)
    yield from _latency(facts)
    yield from _security(facts)


def _version(facts: ServerFacts) -> Iterator[Check]:
    info = facts.info
    kind, number = ("Valkey", info["valkey_version"]) if "valkey_version" in info else ("Redis", info.get("redis_version", "?"))
    mode = info.get("server_mode") or info.get("redis_mode", "standalone")
    what = f"{kind} {number}, {mode}"
    try:
        check_server(info | {"maxmemory_policy": "noeviction"})
    except ServerUnsuitable:
        yield error("server.version", what, "Redis 7.0 or Valkey 8, or newer", "upgrade the server")
    else:
        yield ok("server.version", what)
    if mode == "sentinel":
        yield error("server.mode", "this is a Sentinel: it holds no jobs", "the server that it watches", "name that server in REDIS_URL")
    if mode == "cluster" and facts.address.db:
        yield error("server.database", f"database {facts.address.db} of a cluster", "database 0, the only one", "end the URL in /0")
    else:
        yield ok("server.database", f"database {facts.address.db}")
    if info.get("loading") == "1":
        yield warning("server.loading", "it loads its data", "loaded", "wait, and look again")


def _memory(facts: ServerFacts) -> Iterator[Check]:
    policy, limit, used = facts.info.get("maxmemory_policy", ""), facts.number("maxmemory"), facts.number("used_memory")
    set_policy = "CONFIG SET maxmemory-policy noeviction, and in its configuration file"
    if policy != "noeviction":
        yield error("memory.policy", f"maxmemory-policy is {policy}: it evicts jobs when it is full", "noeviction", set_policy)
    else:
        yield ok("memory.policy", "maxmemory-policy is noeviction")
    if facts.number("evicted_keys"):
        found = f"{facts.number('evicted_keys'):,} keys were evicted since it started"
        yield error("memory.evicted", found, "none", f"{set_policy}; then bananas doctor --audit")
    total = facts.number("total_system_memory")
    if not limit:
        remedy = "CONFIG SET maxmemory to about 60 % of the machine's memory, and in its configuration file"
        yield warning("memory.limit", f"maxmemory is not set: {_mb(used)} used of a machine of {_mb(total)}", "a limit", remedy)
        return
    share = used / limit
    what = f"{_mb(used)} of {_mb(limit)} used ({share:.0%})"
    grow = "CONFIG SET maxmemory higher, add workers, or purge; bananas plan reckons how much a load needs"
    if share >= FULL:
        yield error("memory.use", f"{what}: submits are refused, jobs that are queued go on", "below 80 %", grow)
    elif share >= NEARLY_FULL:
        yield warning("memory.use", what, "below 80 %", grow)
    else:
        yield ok("memory.use", what)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"


def _persistence(facts: ServerFacts) -> Iterator[Check]:
    info, config = facts.info, facts.config or {}
    turn_on = "CONFIG SET appendonly yes, CONFIG SET appendfsync everysec, and in its configuration file"
    if info.get("aof_enabled") != "1":
        yield from _without_log(facts, turn_on)
    else:
        sync = config.get("appendfsync", "not told")
        if sync == "no":
            found = "the append-only file is on, appendfsync is no: power loss takes up to 30 s of jobs"
            yield warning("persistence.log", found, "everysec", "CONFIG SET appendfsync everysec, and in its configuration file")
        else:
            yield ok("persistence.log", f"the append-only file is on, appendfsync: {sync}")
        if info.get("aof_last_write_status", "ok") != "ok":
            yield error("persistence.write", "the last write to the append-only file failed", "ok", "mend its disk: writes are refused")
        if info.get("aof_last_bgrewrite_status", "ok") != "ok":
            yield warning("persistence.rewrite", "the last rewrite of the append-only file failed", "ok", "look into the server's log")
        if late := facts.number("aof_delayed_fsync"):
            yield note("persistence.late", f"{late:,} fsyncs were late: each may lose up to 2 s with the power", "0", "a faster disk")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        stops = info.get("aof_enabled") != "1" and config.get("stop-writes-on-bgsave-error", "yes") == "yes"
        kind = error if stops else warning
        yield kind("persistence.snapshot", "the last snapshot failed", "ok", "mend its disk or memory (see its log), then BGSAVE")


def _without_log(facts: ServerFacts, turn_on: str) -> Iterator[Check]:
    saves = None if facts.config is None else facts.config.get("save", "")
    if saves == "":
        found = "neither an append-only file nor snapshots: a restart loses every job"
        kind = warning if facts.number("connected_slaves") else error
        yield kind("persistence.log", found, "the append-only file", turn_on)
        return
    since_s = max(0, int(time.time()) - facts.number("rdb_last_save_time"))
    lost = f"{facts.number('rdb_changes_since_last_save'):,} changes, {since_s:,} s"
    found = f"no append-only file, snapshots {f'({saves})' if saves else 'unknown'}: a crash now loses what came since the last ({lost})"
    yield warning("persistence.log", found, "the append-only file", turn_on)


def _replication(facts: ServerFacts) -> Iterator[Check]:
    info, count = facts.info, facts.number("connected_slaves")
    if info.get("role") == "slave":
        link = info.get("master_link_status", "?")
        yield error("replication.role", f"this is a replica (link: {link}): it takes no jobs", "a primary", "name the primary in REDIS_URL")
        return
    if not count:
        yield note("replication.replicas", "no replica: jobs are as safe as this machine's disk", "one or more, where that is not enough")
        return
    yield ok("replication.replicas", f"{count} connected")
    least = (facts.config or {}).get("min-replicas-to-write")
    remedy = "CONFIG SET min-replicas-to-write 1 and min-replicas-max-lag 10, and in its configuration file"
    if least == "0":
        found = "min-replicas-to-write is 0: a primary that is cut off goes on taking jobs, which are lost when it comes back"
        yield warning("replication.least", found, "1 or more", remedy)
    elif least is not None:
        yield ok("replication.least", f"min-replicas-to-write is {least}")
    for number in range(count):
        fields = dict(part.split("=", 1) for part in info.get(f"slave{number}", "").split(",") if "=" in part)
        behind = facts.number("master_repl_offset") - int(fields.get("offset", 0))
        what = f"{fields.get('ip')}:{fields.get('port')} is {fields.get('state')}, {behind:,} bytes and {fields.get('lag', '?')} s behind"
        if fields.get("state") != "online" or int(fields.get("lag", 0)) > LAGGING_S:
            yield warning("replication.lag", what, f"online, at most {LAGGING_S} s", "look at the network and the replica's load")
        else:
            yield ok("replication.lag", what)


def _distance(facts: ServerFacts) -> Iterator[Check]:
    what = f"{facts.median_ms:.2f} ms, the longest of {len(facts.round_trips_ms)} {max(facts.round_trips_ms):.2f} ms"
    if facts.median_ms > FAR_MS:
        yield warning("distance.round_trip", what, f"below {FAR_MS} ms", "run clients and workers near the server")
    else:
        yield ok("distance.round_trip", what)
    what = f"the server's clock is {facts.skew_ms:+,.0f} ms from this machine's"
    if abs(facts.skew_ms) > SKEWED_MS:
        found = f"{what}: times given as at=... are off by so much"
        yield warning("distance.clock", found, "within 1 s", "run NTP on both")
    else:
        yield ok("distance.clock", what)


def _scripts(facts: ServerFacts) -> Iterator[Check]:
    if facts.loaded is None:
        return
    missing = sorted(name for name, there in facts.loaded.items() if not there)
    what = f"{len(facts.loaded) - len(missing)} of {len(facts.loaded)} scripts of this version are loaded"
    yield ok("scripts.loaded", what + (", the others at their first use" if missing else ""))
    if evicted := facts.number("evicted_scripts"):
        yield note("scripts.evicted", f"{evicted:,} scripts were evicted (programs that send EVAL); ours stay", "0")


def _connections(facts: ServerFacts, settings: Settings, processes: int) -> Iterator[Check]:
    used, most = facts.number("connected_clients"), facts.number("maxclients")
    need = CONNECTIONS_PER_PROCESS * processes + settings.redis_pool_size
    what = f"{used:,} of {most:,}; {processes} worker processes and one client with a full pool take {need:,}"
    remedy = "CONFIG SET maxclients higher (and the server's file limit), or lower REDIS_POOL_SIZE"
    if most and max(used, need) > NEARLY_FULL * most:
        yield warning("connections.server", what, "below 80 %", remedy)
    else:
        yield ok("connections.server", what)
    if refused := facts.number("rejected_connections"):
        yield warning("connections.refused", f"{refused:,} connections were refused since it started", "0", remedy)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * settings.redis_pool_size + 64
    if files != resource.RLIM_INFINITY and files < wanted:
        yield warning("connections.files", f"this process may open {files:,} files", f"{wanted:,} or more", f"ulimit -n {wanted}")
    else:
        yield ok("connections.files", f"this process may open {'any number of' if files == resource.RLIM_INFINITY else f'{files:,}'} files")


def _latency(facts: ServerFacts) -> Iterator[Check]:
    if facts.slow is not None:
        worst = max(facts.slow, key=lambda entry: entry.ms, default=None)
        if worst is not None and worst.ms > SLOW_MS:
            found = f"{len(facts.slow)} of our scripts in the slow log, the worst {worst.script} with {worst.ms:,.0f} ms"
            yield warning("latency.scripts", found, f"below {SLOW_MS} ms", "smaller jobs, or a server that shares its core with nobody")
        else:
            yield ok("latency.scripts", f"{len(facts.slow)} of our scripts in the slow log, none above {SLOW_MS} ms")
    if facts.events:
        yield note("latency.events", "; ".join(f"{name} up to {most:,} ms" for name, most in facts.events), "none", "LATENCY DOCTOR")
    elif (facts.config or {}).get("latency-monitor-threshold") == "0":
        yield note("latency.events", "the latency monitor is off", "on", "CONFIG SET latency-monitor-threshold 100")
    fork_us = facts.number("latest_fork_usec")
    what = f"the last fork stopped the server for {fork_us / 1000:,.1f} ms"
    if fork_us > FORK_US:
        yield warning(
            "latency.fork", what, f"below {FORK_US // 1000} ms", "less memory per server, huge pages off, or snapshots on a replica"
        )
    else:
        yield ok("latency.fork", what)
    if "[always]" in facts.huge_pages:
        remedy = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, then restart the server"
        yield warning("latency.huge_pages", "transparent huge pages are always on: each fork copies much", "madvise or never", remedy)
    elif facts.huge_pages:
        yield ok("latency.huge_pages", "transparent huge pages are not always on")


def _security(facts: ServerFacts) -> Iterator[Check]:
    address = facts.address
    if is_local(address):
        yield ok("security.tls", "the server is on this machine")
    elif not address.tls:
        found = f"jobs and the password travel to {address.host} as they are"
        yield warning("security.tls", found, "TLS", "rediss://... in REDIS_URL, and tls-port on the server")
    elif not address.tls_verify:
        yield warning("security.tls", "TLS, but the certificate is not checked", "checked", "leave ssl_cert_reqs=none out of the URL")
    else:
        yield ok("security.tls", "TLS, the certificate is checked")
    if facts.user == "default" and not address.password and not is_local(address):
        found = "nobody is asked for a password: whoever reaches the port may do anything"
        yield warning("security.user", found, "users with the rights of their role", "an ACL file: docs/workers.md")


def rights_checks(facts: ServerFacts, role: Role | None) -> Iterator[Check]:
    """Which roles the user may fill; the role asked for must be among them."""
    if facts.rights is None:
        return
    for each, missing in facts.rights.items():
        name = f"rights.{each}"
        if missing is None:
            yield ok(name, f"the user {facts.user!r} has the rights of role {each}")
        elif role is None:
            yield note(
                name, f"the user {facts.user!r} has not those of role {each}: it lacks {', '.join(missing.missing[:3])}", "", missing.grant
            )
        else:
            found = f"the user {facts.user!r} lacks {', '.join(missing.missing)}"
            yield error(name, found, f"the rights of role {each}", missing.grant)
    if role is None and all(facts.rights.values()):
        yield error("rights.any", f"the user {facts.user!r} has the rights of no role", "those of one role", "docs/workers.md lists them")
