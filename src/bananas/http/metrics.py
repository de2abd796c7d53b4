"""The routes of what was counted: over time, and for Prometheus."""

import asyncio
from typing import Any

from msgspec import UNSET
from starlette.responses import Response

from bananas import operate
from bananas.errors import BrokerError
from bananas.exposition import CONTENT_TYPE, Gauge, exposition
from bananas.http.access import Role
from bananas.http.problems import Refused
from bananas.http.routes import Asked, Route
from bananas.http.values import HistoryQuery, RecentQuery
from bananas.inspector import WorkerInfo, workers
from bananas.session import server_info

_STATES = ("ready", "scheduled", "running", "dead")


async def show_history(asked: Asked) -> operate.History:
    query = asked.query
    return await operate.history(asked.app, query.minutes, None if query.queue is UNSET else query.queue)


async def list_recent(asked: Asked) -> list[operate.Finished]:
    query = asked.query
    return await operate.recent(asked.app, None if query.queue is UNSET else query.queue, query.limit)


async def expose_metrics(asked: Asked) -> Response:
    app = asked.app
    try:
        counted, queues, backlogs, alive, server = await asyncio.gather(
            operate.totals(app),
            operate.queues(app),
            operate.backlog(app),
            workers(app),
            app.client.ask_home(app.settings.namespace, server_info(), "reading the server's figures"),
        )
        gauges = [*_of_queues(queues), _of_backlogs(backlogs), *_of_workers(alive), *_of_server(server)]
    except BrokerError:
        counted, gauges = {}, [_up(0.0)]
    try:
        text = await asyncio.to_thread(exposition, counted, gauges)
    except ImportError:
        raise Refused(501, "NotInstalled", "prometheus-client is not installed here: pip install 'bananas-queue[prometheus]'.") from None
    return Response(text, media_type=CONTENT_TYPE)


def _of_queues(queues: list[operate.QueueFigures]) -> list[Gauge]:
    one = ("queue",)
    states = [((queue.name, state), float(getattr(queue, state))) for queue in queues for state in _STATES]
    ready = [((queue.name, str(each.priority)), float(each.ready)) for queue in queues for each in queue.priorities]
    oldest = [((queue.name,), (queue.oldest_ms or 0) / 1000) for queue in queues]
    paused = [((queue.name,), float(queue.paused)) for queue in queues]
    return [
        Gauge("bananas_queue_jobs", "Jobs of a queue by their state.", ("queue", "state"), states),
        Gauge("bananas_queue_ready", "Ready jobs by priority, lower goes first.", ("queue", "priority"), ready),
        Gauge("bananas_queue_oldest_seconds", "How long the job has waited that is ready for longest.", one, oldest),
        Gauge("bananas_queue_paused", "1 while nobody may claim.", one, paused),
        Gauge("bananas_queue_workers", "Worker processes that serve it.", one, [((queue.name,), float(queue.workers)) for queue in queues]),
    ]


def _of_backlogs(backlogs: list[operate.QueueBacklog]) -> Gauge:
    text = "How long the ready jobs take at the rate of the last minutes; where nothing ended, how long the oldest has waited."
    return Gauge("bananas_queue_backlog_seconds", text, ("queue",), [((each.queue,), each.seconds) for each in backlogs])


def _of_workers(alive: list[WorkerInfo]) -> list[Gauge]:
    of_each = [((worker.host, str(worker.pid)), worker) for worker in alive]
    labels = ("host", "pid")
    return [
        Gauge("bananas_workers", "Worker processes that are alive.", (), [((), float(len(alive)))]),
        Gauge("bananas_worker_slots", "Jobs that it runs at once.", labels, [(given, float(worker.slots)) for given, worker in of_each]),
        Gauge("bananas_worker_busy", "Jobs that it runs.", labels, [(given, float(len(worker.running))) for given, worker in of_each]),
    ]


def _of_server(info: dict[str, str]) -> list[Gauge]:
    return [
        _up(1.0),
        Gauge("bananas_server_memory_bytes", "What the server uses.", (), [((), float(info.get("used_memory", 0)))]),
        Gauge("bananas_server_memory_max_bytes", "What it may use, 0 = no limit.", (), [((), float(info.get("maxmemory", 0)))]),
        Gauge("bananas_server_clients", "Connections.", (), [((), float(info.get("connected_clients", 0)))]),
    ]


def _up(value: float) -> Gauge:
    return Gauge(
        "bananas_server_up", "1: the Redis or Valkey server answers; 0: it does not, and nothing else is known.", (), [((), value)]
    )


_TIMES = {"count": 10, "p50_ms": 1.4, "p95_ms": 7.1, "p99_ms": 9.8}
_ENDED = {"success": 10, "retried": 1, "dead": 0, "other": 0, "wait": _TIMES, "run": _TIMES}
_DEPTH = {"high": 0, "normal": 12, "low": 0, "scheduled": 3, "dead": 1}
_POINT = {"at_ms": 1719830400000, **_ENDED, "depth": _DEPTH}
_HISTORY = {"now_ms": 1719830430000, "step_s": 60, "points": [_POINT], "tasks": [{"task": "send_email", "queue": "email", **_ENDED}]}
_FINISHED = {
    "id": "email.0190a3b1c2d37e8f9a0b1c2d3e4f50611a2b3c4d1f4",
    "task": "send_email",
    "queue": "email",
    "outcome": "success",
    "finished_ms": 1719830400000,
    "run_ms": 12.5,
}
_LOOK: dict[str, Any] = {"method": "GET", "role": Role.viewer, "tag": "overview"}
_ABOUT = (
    "Counted by the workers and sent with what they send anyway, once a second at most. Up to 180 steps of 1, 5, 15 or 30 minutes. "
    "Percentiles are read from histograms: off by a fifth at most."
)

ROUTES = [
    Route(
        path="/history",
        handler=show_history,
        summary="What happened in the last minutes",
        text=_ABOUT,
        query=HistoryQuery,
        reply=operate.History,
        answer=_HISTORY,
        patience_s=60.0,
        **_LOOK,
    ),
    Route(
        path="/recent",
        handler=list_recent,
        summary="Some of the jobs that ended lately",
        text="Each worker process tells the first 20 of each second and queue; each queue keeps the last 200.",
        query=RecentQuery,
        reply=list[operate.Finished],
        answer=[_FINISHED],
        **_LOOK,
    ),
    Route(
        path="/metrics",
        handler=expose_metrics,
        summary="Figures for Prometheus",
        text="Counters since ever, histograms and gauges. It needs the extra `prometheus`, else 501.",
        bare=True,
        media="text/plain",
        answer='bananas_queue_jobs{queue="email",state="ready"} 12.0\n',
        problems=(501,),
        **_LOOK,
    ),
]
