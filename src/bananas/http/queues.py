"""The routes of queues and of their dead letters."""

from typing import Any, TypeVar

from bananas import operate
from bananas.audit import Reader
from bananas.http.access import Role
from bananas.http.routes import LONG_S, Asked, Route, Site
from bananas.http.values import Changed, DeadPage, Number, PageQuery, job_view
from bananas.keys import queues_key
from bananas.operate import QueueFigures, redacted
from bananas.operate.trail import note

T = TypeVar("T", bool, int)


async def is_used(site: Site, name: str) -> bool:
    """Whether a queue has had a job. To ask the queue itself would note its name on the server, and looking changes nothing."""
    if name in site.queues:
        return True
    reader = Reader(site.app, "listing the queues")
    async for chunk in reader.scan("SSCAN", queues_key(site.app.settings.namespace)):
        site.queues |= {found.decode().partition(".")[0] for found in chunk}
    return name in site.queues


async def list_queues(asked: Asked) -> list[QueueFigures]:
    return await operate.queues(asked.app)


async def show_queue(asked: Asked) -> QueueFigures:
    (figures,) = await operate.queues(asked.app, [asked.queue])
    return figures


async def pause_queue(asked: Asked) -> Changed:
    return Changed(await _noted(asked, "pause", await asked.app.queue(asked.queue).pause()))


async def resume_queue(asked: Asked) -> Changed:
    return Changed(await _noted(asked, "resume", await asked.app.queue(asked.queue).resume()))


async def purge_queue(asked: Asked) -> Number:
    return Number(await _noted(asked, "purge", await asked.app.queue(asked.queue).purge()))


async def list_dead(asked: Asked) -> DeadPage:
    if not await is_used(asked.site, asked.queue):  # a task names it
        return DeadPage(0, [])
    dead, page = asked.app.queue(asked.queue).dead, asked.query
    return DeadPage(await dead.count(), [job_view(redacted(asked.app, info)) for info in await dead.list(page.limit, page.offset)])


async def replay_dead(asked: Asked) -> Changed:
    await asked.app.queue(asked.queue).dead.replay(asked.job.id)
    return Changed(True)


async def replay_all_dead(asked: Asked) -> Number:
    return Number(await _noted(asked, "retry the dead", await asked.app.queue(asked.queue).dead.replay_all()))


async def delete_dead(asked: Asked) -> Changed:
    return Changed(await asked.app.queue(asked.queue).dead.delete(asked.job.id))


async def purge_dead(asked: Asked) -> Number:
    return Number(await _noted(asked, "delete the dead", await asked.app.queue(asked.queue).dead.purge()))


async def _noted(asked: Asked, action: str, done: T) -> T:
    """Written into the trail where it changed something."""
    if done:
        await note(asked.app, action, f"queue:{asked.queue}", int(done), int(done), asked.who)
    return done


_STATES = {"name": "email", "shards": 1, "ready": 12, "scheduled": 3, "running": 2, "dead": 1, "paused": False, "oldest_ms": 850}
_HANDS = {"workers": 1, "slots": 10, "busy": 2}
_QUEUE = _STATES | _HANDS | {"next_due_ms": 60_000, "priorities": [{"priority": 500, "ready": 12, "oldest_ms": 850}]}
_OPERATOR: dict[str, Any] = {"method": "POST", "role": Role.operator}
_DONE: dict[str, Any] = {"reply": Changed, "answer": {"changed": True}}
_MANY: dict[str, Any] = {"reply": Number, "answer": {"count": 1}, "patience_s": LONG_S}
_Q: dict[str, Any] = {"tag": "queues"}
_D: dict[str, Any] = {"tag": "dead letters"}

ROUTES = [
    Route(
        method="GET",
        path="/queues",
        handler=list_queues,
        role=Role.viewer,
        summary="Every queue",
        reply=list[QueueFigures],
        answer=[_QUEUE],
        **_Q,
    ),
    Route(
        method="GET",
        path="/queues/{queue}",
        handler=show_queue,
        role=Role.viewer,
        summary="One queue",
        reply=QueueFigures,
        answer=_QUEUE,
        **_Q,
    ),
    Route(
        path="/queues/{queue}/pause",
        handler=pause_queue,
        summary="Stop claims from a queue",
        text="On every worker; submits and running jobs go on.",
        **_OPERATOR,
        **_DONE,
        **_Q,
    ),
    Route(path="/queues/{queue}/resume", handler=resume_queue, summary="Let workers claim again", **_OPERATOR, **_DONE, **_Q),
    Route(
        method="POST",
        path="/queues/{queue}/purge",
        handler=purge_queue,
        role=Role.admin,
        summary="End every waiting job of a queue",
        text="They end as purged, and who waits for them is told; running and dead ones stay.",
        **_MANY,
        **_Q,
    ),
    Route(
        method="GET",
        path="/queues/{queue}/dead",
        handler=list_dead,
        role=Role.viewer,
        summary="The dead letters of a queue",
        query=PageQuery,
        reply=DeadPage,
        answer={"count": 0, "jobs": []},
        **_D,
    ),
    Route(
        path="/queues/{queue}/dead/replay",
        handler=replay_all_dead,
        summary="Make all dead letters of a queue ready again",
        text="But for those whose unique key another job holds.",
        **_OPERATOR,
        **_MANY,
        **_D,
    ),
    Route(
        path="/queues/{queue}/dead/{id}/replay",
        handler=replay_dead,
        summary="Make a dead letter ready again",
        problems=(404, 409),
        **_OPERATOR,
        **_DONE,
        **_D,
    ),
    Route(
        method="DELETE",
        path="/queues/{queue}/dead/{id}",
        handler=delete_dead,
        role=Role.admin,
        summary="Delete a dead letter",
        problems=(404,),
        **_DONE,
        **_D,
    ),
    Route(
        method="DELETE",
        path="/queues/{queue}/dead",
        handler=purge_dead,
        role=Role.admin,
        summary="Delete all dead letters of a queue",
        **_MANY,
        **_D,
    ),
]
