"""The routes of cron entries: what there is, pause, resume, and run now."""

from typing import Any

from bananas import operate
from bananas.http.access import Role
from bananas.http.jobs import ID
from bananas.http.routes import Asked, Reply, Route
from bananas.http.values import Changed, CronRun


async def list_cron(asked: Asked) -> list[operate.CronState]:
    return await operate.cron_entries(asked.app)


async def pause_cron(asked: Asked) -> Changed:
    return Changed(await operate.pause_cron(asked.app, asked.queue, _name(asked), who=asked.who))


async def resume_cron(asked: Asked) -> Changed:
    return Changed(await operate.resume_cron(asked.app, asked.queue, _name(asked), who=asked.who))


async def run_cron(asked: Asked) -> CronRun | Reply:
    public = await operate.run_cron(asked.app, asked.queue, _name(asked), who=asked.who)
    return CronRun(public) if public else Reply(CronRun(""), 202)


def _name(asked: Asked) -> str:
    name: str = asked.request.path_params["name"]
    return name


_CRON = {"name": "report", "queue": "default", "schedule": "30 2 * * *", "timezone": "UTC", "missed": "once"}
_TICKS = {"next_ms": 1719880200000, "announced_ms": 1719830400000, "announced": True, "missed_ticks": 0, "asked_ms": None}
_PAST = {"paused": False, "paused_ms": None, "last_ms": 1719793800000, "last_id": ID}
_ACT: dict[str, Any] = {"method": "POST", "role": Role.operator, "tag": "cron"}
_DONE: dict[str, Any] = {"reply": Changed, "answer": {"changed": True}}

ROUTES = [
    Route(
        method="GET",
        path="/cron",
        handler=list_cron,
        role=Role.viewer,
        summary="The cron entries",
        tag="cron",
        reply=list[operate.CronState],
        answer=[_CRON | _TICKS | _PAST],
    ),
    Route(
        path="/cron/{queue}/{name}/pause",
        handler=pause_cron,
        summary="Pause a cron entry",
        text="It has no ticks until it is resumed; what passes meanwhile is not made up for.",
        **_ACT,
        **_DONE,
    ),
    Route(path="/cron/{queue}/{name}/resume", handler=resume_cron, summary="Let a cron entry have its ticks again", **_ACT, **_DONE),
    Route(
        path="/cron/{queue}/{name}/run",
        handler=run_cron,
        summary="Run a cron entry now",
        text="Besides its ticks, also while it is paused: a worker that has its code submits the job, as it does at a tick.",
        reply=CronRun,
        answer={"id": ID},
        statuses={200: "Its job.", 202: "No worker has begun it yet; it runs as soon as one does."},
        patience_s=20.0,
        problems=(409,),
        **_ACT,
    ),
]
