"""The routes of the whole: figures, events, health."""

import asyncio
from typing import Any

from starlette.responses import Response

from bananas import broker, operate
from bananas.errors import BananasError
from bananas.http.access import Role
from bananas.http.events import EventStream, job_events, queue_events
from bananas.http.routes import Asked, Reply, Route, job_of
from bananas.http.values import EventsQuery, Live, Ready, Stats
from bananas.inspector import workers

_READY_S = 2.0


async def show_stats(asked: Asked) -> Stats:
    queues, alive, servers = await asyncio.gather(operate.queues(asked.app), workers(asked.app), operate.servers(asked.app))
    totals = {state: sum(getattr(queue, state) for queue in queues) for state in ("ready", "scheduled", "running", "dead")}
    return Stats(
        namespace=asked.app.settings.namespace,
        queues=len(queues),
        **totals,
        workers=len(alive),
        slots=sum(worker.slots for worker in alive),
        server=servers[0],
        servers=servers,
    )


async def stream_events(asked: Asked) -> Response:
    site, query = asked.site, asked.query
    if query.job:
        jobs = [job_of(site.app, public_id) for public_id in query.job]
        return EventStream(site, job_events(site, jobs))
    return EventStream(site, queue_events(site, list(query.queue)))


async def health_live(_: Asked) -> Live:
    return Live(True)


async def health_ready(asked: Asked) -> Ready | Reply:
    app = asked.app
    request = broker.plain(tuple, "TIME")  # every role of the ACL may
    try:
        lane = app.client.here().lanes.home(app.settings.namespace)
        (reply,) = await lane.ask(None, [request], min(_READY_S, app.settings.call_timeout), "asking the server")
        reason = str(reply) if isinstance(reply, Exception) else ""
    except BananasError as error:
        reason = type(error).__name__
    if asked.site.stopping.is_set():
        reason = "stopping"
    return Reply(Ready(False, [reason]), 503) if reason else Ready(True, [])


_MEMORY = {"used_memory": 2_000_000, "maxmemory": 0, "maxmemory_policy": "noeviction", "full": False, "evicted_keys": 0}
_SAVING = {"aof_enabled": True, "saves": True, "last_save_ms": 1719830400000, "unsaved_changes": 12, "replicas": 1, "replica_lag_s": 0}
_LOAD = {"connected_clients": 4, "operations_per_s": 1200, "uptime_s": 86_400, "round_trip_ms": 0.21}
_WHICH = {"run_id": "0" * 40, "kind": "valkey", "version": "9.1.2", "mode": "standalone", "role": "primary", "read_only": False}
_SERVER = _WHICH | _MEMORY | _SAVING | _LOAD
_STATS = {"namespace": "shop", "queues": 1, "ready": 12, "scheduled": 3, "running": 2, "dead": 1, "workers": 1, "slots": 10}
_LOOK: dict[str, Any] = {"method": "GET", "role": Role.viewer, "tag": "overview"}
_HEALTH: dict[str, Any] = {"method": "GET", "role": None, "tag": "health", "bare": True}
_EVENTS = (
    "With `job` (up to 100 times): an event `job` as each ends, like the answer of its result, then `end`. Otherwise an event `queues` "
    "every second, for the queues named by `queue`, or all. A comment every 15 seconds keeps the connection; `problem` tells what is wrong."
)

ROUTES = [
    Route(
        path="/stats",
        handler=show_stats,
        summary="Totals of all queues and workers, and the server",
        reply=Stats,
        text="Only reads: it answers while the server is full, and of a replica.",
        answer=_STATS | {"server": _SERVER, "servers": [_SERVER]},
        **_LOOK,
    ),
    Route(
        path="/events",
        handler=stream_events,
        summary="Server-sent events",
        text=_EVENTS,
        query=EventsQuery,
        media="text/event-stream",
        answer='event: queues\ndata: [{"name":"email","ready":12}]\n\n',
        **_LOOK,
    ),
    Route(path="/health/live", handler=health_live, summary="Whether this process answers", reply=Live, answer={"live": True}, **_HEALTH),
    Route(
        path="/health/ready",
        handler=health_ready,
        summary="Whether the Redis or Valkey server answers too",
        reply=Ready,
        answer={"ready": True, "reasons": []},
        statuses={200: "It does.", 503: "It does not: `reasons`."},
        **_HEALTH,
    ),
]
