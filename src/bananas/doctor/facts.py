"""What a doctor asks, over a connection of its own: a server that workers refuse is looked at too.

What this user may not ask, or the server does not know, is left out and remembered by the right that it takes (`Asker.lacks`).
"""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bananas import broker, rights
from bananas.address import Address
from bananas.app import Bananas
from bananas.audit import STALE_LEASES, STALE_MS, Reader
from bananas.broker import Request
from bananas.connection import Connection, ConnectionLost
from bananas.errors import AuthenticationFailed, BrokerUnavailable, RightsMissing, ScriptFailed
from bananas.inspector import WorkerInfo, alive
from bananas.keys import QueueKeys, queues_key
from bananas.rights import Role
from bananas.scripts import every_script
from bananas.session import answer, run, server_info

SAMPLES = 11
LATE_MS = 60_000
CONFIG = "save appendfsync min-replicas-to-write min-replicas-max-lag latency-monitor-threshold stop-writes-on-bgsave-error".split()
ROLES: tuple[Role, ...] = ("client", "worker", "viewer", "operator")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


class Asker(Reader):
    """Asks one server, and remembers which rights it lacks for that.

    Attributes:
        lacks: rules of ACL SETUSER, or the reason where it is none.
    """

    def __init__(self, app: Bananas, connection: Connection, keys: QueueKeys | None = None) -> None:
        super().__init__(app, "the doctor", keys)
        self._connection, self._timeout = connection, app.settings.call_timeout
        self._by_key = False  # in a Cluster: the app's own connections find the server of a key
        self.lacks: dict[str, str] = {}

    @property
    def home(self) -> "Asker":
        """Who asks for the keys of the namespace itself."""
        return self._at(None)

    def of(self, keys: QueueKeys) -> "Asker":
        """Who asks for the keys of this queue."""
        return self._at(keys)

    def _at(self, keys: QueueKeys | None) -> "Asker":
        if not self._app.client.address.clustered:
            return self
        made = Asker(self._app, self._connection, keys)
        made._by_key, made.lacks = True, self.lacks
        return made

    async def ask(self, request: Request[Any]) -> Any:
        """One reply. Raises the BrokerError that it comes to."""
        return await super().ask(request) if self._by_key else answer((await self.ask_many([request]))[0])

    async def ask_many(self, requests: Sequence[Request[Any]]) -> list[Any]:
        """Replies, each by itself."""
        try:
            return await run(self._connection, requests, self._timeout)
        except ConnectionLost as error:
            raise BrokerUnavailable(f"the server went away while it was looked at ({error}). Nothing was changed.") from error

    async def may(self, *command: Any) -> Any:
        """The reply to a plain command, None where it is refused."""
        try:
            return await self.ask(broker.plain(_same, *command))
        except (AuthenticationFailed, ScriptFailed) as error:
            self.lacks[rights.rule(command)] = str(error)
            return None

    async def pairs(self, key: str) -> dict[bytes, bytes]:
        """A hash, read in bounded steps; empty where that is refused."""
        found: dict[bytes, bytes] = {}
        try:
            async for flat in self.scan("HSCAN", key, count=100):
                found |= zip(flat[::2], flat[1::2], strict=True)
        except (AuthenticationFailed, ScriptFailed) as error:
            self.lacks["+hscan"] = str(error)
        return found


class Slow(NamedTuple):
    """One of our scripts in the server's slow log."""

    script: str
    ms: float
    at_s: int


class ServerFacts(NamedTuple):
    """A server. None: this user may not ask."""

    address: Address
    info: dict[str, str]
    user: str | None
    config: dict[str, str] | None
    round_trips_ms: list[float]
    skew_ms: float
    loaded: dict[str, bool] | None
    slow: list[Slow] | None
    events: list[tuple[str, int]] | None
    rights: dict[Role, RightsMissing | None] | None
    huge_pages: str

    @property
    def median_ms(self) -> float:
        """The usual round trip."""
        return statistics.median(self.round_trips_ms)

    def number(self, name: str) -> int:
        """A number of INFO, 0 where there is none."""
        text = self.info.get(name, "0")
        return int(text) if text.lstrip("-").isdigit() else 0


class QueueFacts(NamedTuple):
    """A queue. `late`: due for a minute and not made ready. `expired`: leases over for long. `crons`: name, next ms, announced ms."""

    name: str
    ready: int
    scheduled: int
    running: int
    dead: int
    layout: int | None
    paused: bool
    late: int
    expired: int
    crons: list[tuple[str, int, int]]


class NamespaceFacts(NamedTuple):
    """A namespace at one moment by the server's clock."""

    now_ms: int
    queues: list[QueueFacts]
    workers: list[WorkerInfo]


def _same(reply: Any) -> Any:
    return reply


async def ask_server(asker: Asker, address: Address, roles: Sequence[Role], queues: Sequence[QueueKeys]) -> ServerFacts:
    """Look at a server. Raises BrokerError where INFO or TIME is refused."""
    info = await asker.ask(server_info())
    round_trips, skew_ms = await _clock(asker)
    user = await asker.may("ACL", "WHOAMI")
    config = await asker.may("CONFIG", "GET", *CONFIG)
    scripts = every_script()
    loaded = await asker.may("SCRIPT", "EXISTS", *[each.sha for each in scripts])
    slow, events = await asker.may("SLOWLOG", "GET", 128), await asker.may("LATENCY", "LATEST")
    names = {each.sha.encode(): each.name for each in scripts}
    return ServerFacts(
        address=address,
        info=info,
        user=None if user is None else user.decode(),
        config=None if config is None else {str(k, "utf-8"): str(v, "utf-8") for k, v in zip(config[::2], config[1::2], strict=True)},
        round_trips_ms=round_trips,
        skew_ms=skew_ms,
        loaded=None if loaded is None else {each.name: bool(there) for each, there in zip(scripts, loaded, strict=True)},
        slow=None if slow is None else [Slow(names[e[3][1]], e[2] / 1000, e[1]) for e in slow if len(e[3]) > 1 and e[3][1] in names],
        events=None if events is None else [(event[0].decode(), event[3]) for event in events],
        rights=None if user is None else await _rights(asker, user.decode(), roles, queues),
        huge_pages=_huge_pages() if is_local(address) else "",
    )


async def _clock(asker: Asker) -> tuple[list[float], float]:
    """Round trips in ms, and how far the server's clock is ahead of this machine's, by the quickest of them."""
    samples = []
    for _ in range(SAMPLES):
        began, wall = time.monotonic(), time.time()
        seconds, micros = await asker.ask(broker.plain(_same, "TIME"))
        took_s = time.monotonic() - began
        samples.append((took_s * 1000, (int(seconds) + int(micros) / 1e6 - wall - took_s / 2) * 1000))
    return [took for took, _ in samples], min(samples)[1]


async def _rights(asker: Asker, user: str, roles: Sequence[Role], queues: Sequence[QueueKeys]) -> dict[Role, RightsMissing | None] | None:
    found: dict[Role, RightsMissing | None] = {}
    for role in roles:
        verdicts: list[str] = []
        for keys in queues:
            replies = await asker.ask_many(rights.questions(role, user, keys))
            refused = next((reply for reply in replies if not isinstance(reply, str)), None)
            if refused is not None:
                asker.lacks["+acl|dryrun"] = str(refused)
                return None
            verdicts += replies
        found[role] = rights.judged(role, user, queues[0].namespace, verdicts)
    return found


def is_local(address: Address) -> bool:
    """Whether the server is surely on this machine."""
    return bool(address.path) or address.host in ("localhost", "::1") or address.host.startswith("127.")


def _huge_pages() -> str:
    try:
        return HUGE_PAGES.read_text()
    except OSError:
        return ""


async def queue_names(asker: Asker, app: Bananas) -> list[str]:
    """Every queue of the namespace, and of the app's tasks."""
    names = set(app.registry.queues())
    try:
        async for chunk in asker.scan("SSCAN", queues_key(app.settings.namespace)):
            names |= {name.decode() for name in chunk}
    except (AuthenticationFailed, ScriptFailed) as error:
        asker.lacks["+sscan"] = str(error)
    return sorted(names)


async def ask_namespace(asker: Asker, app: Bananas, names: Sequence[str]) -> NamespaceFacts:
    """Look at the queues and workers of a namespace."""
    seconds, micros = await asker.ask(broker.plain(_same, "TIME"))
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    stale_ms = max(STALE_MS, round(STALE_LEASES * app.settings.lease * 1000))
    queues = [await _queue(asker.of(app.producer.keys(name)), app.producer.keys(name), now_ms, stale_ms) for name in names]
    try:
        workers = await alive(asker.home, app.settings.namespace)
    except (AuthenticationFailed, ScriptFailed) as error:
        asker.lacks["+hscan"] = str(error)
        workers = []
    return NamespaceFacts(now_ms, queues, workers)


async def _queue(asker: Asker, keys: QueueKeys, now_ms: int, stale_ms: int) -> QueueFacts:
    layout = await asker.may("HGET", keys.meta, "layout")
    crons = []
    for name, entry in (await asker.pairs(keys.cron)).items():
        next_ms, announced_ms, *_ = entry.split(b" ", 2)
        if b"\0" not in name:  # what one had before is no entry
            crons.append((name.decode(), int(next_ms), int(announced_ms)))
    return QueueFacts(
        keys.name,
        ready=await asker.may("ZCARD", keys.ready) or 0,
        scheduled=await asker.may("ZCARD", keys.scheduled) or 0,
        running=await asker.may("ZCARD", keys.leases) or 0,
        dead=await asker.may("ZCARD", keys.dead) or 0,
        layout=None if layout is None else int(layout),
        paused=bool(await asker.may("HEXISTS", keys.meta, "paused")),
        late=await asker.may("ZCOUNT", keys.scheduled, "-inf", now_ms - LATE_MS) or 0,
        expired=await asker.may("ZCOUNT", keys.leases, "-inf", now_ms - stale_ms) or 0,
        crons=sorted(crons),
    )
