"""The routes of operators: search, act on what a filter matches, groups of errors, why a job waits, what was done."""

from typing import Any

from bananas import operate
from bananas.http.access import Role, require
from bananas.http.jobs import EXAMPLE
from bananas.http.routes import LONG_S, Asked, Route, gone
from bananas.http.values import (
    Acted,
    Bulk,
    ErrorsQuery,
    JobPage,
    SearchQuery,
    TrailQuery,
    WhyView,
    job_view,
)
from bananas.operate.actions import Delete


async def search_jobs(asked: Asked) -> JobPage:
    query = asked.query
    page = await operate.search(
        asked.app, query.q, limit=query.limit, cursor=query.cursor, newest=query.newest, scan_limit=query.scan_limit
    )
    return JobPage([job_view(info) for info in page.jobs], page.cursor, page.scanned, page.total)


async def act_on_jobs(asked: Asked) -> Acted:
    bulk, role = asked.body, asked.request.scope["bananas.role"]
    if isinstance(bulk.action, Delete):
        require(role, Role.admin)
    selection = await operate.select(asked.app, bulk.query, most=bulk.most)
    if bulk.dry_run:
        return Acted(True, len(selection.of(bulk.action)), 0, {}, selection.scanned, selection.total, selection.complete)
    outcome = await operate.act(asked.app, selection, bulk.action, who=asked.who)
    told = (selection.scanned, selection.total, selection.complete)
    return Acted(False, outcome.selected, outcome.done, outcome.left, *told)


async def explain_job(asked: Asked) -> WhyView:
    explanation = await operate.why(asked.app, asked.job.id)
    if any(reason.kind == "not_found" for reason in explanation.reasons):
        raise gone(asked.job)
    return WhyView(job_view(explanation.job), list(explanation.reasons))


async def group_errors(asked: Asked) -> operate.ErrorGroups:
    return await operate.errors(asked.app, asked.query.q, scan_limit=asked.query.scan_limit)


async def list_deeds(asked: Asked) -> list[operate.Deed]:
    return await operate.trail(asked.app, asked.query.limit)


_GROUP = {"type": "ValueError", "frame": "shop.py:12 in send", "message": "no such host", "dead": 3, "retrying": 1}
_TIMES = {"first_ms": 1719830400000, "last_ms": 1719830460000, "tasks": ["send_email"], "samples": []}
_DEED = {"at_ms": 1719830400000, "who": "HTTP API, operator", "action": "retry", "query": "state:dead", "selected": 3, "done": 3}
_REASON = {"kind": "paused", "sentence": "Queue email is paused.", "figures": {}}
_LOOK: dict[str, Any] = {"method": "GET", "role": Role.viewer, "tag": "operating", "patience_s": 60.0}

ROUTES = [
    Route(
        path="/jobs",
        handler=search_jobs,
        summary="Find jobs",
        text="By a query as `task:send_email state:dead error:Timeout`. `scanned` of `total` entries were looked at; `cursor` goes on.",
        query=SearchQuery,
        reply=JobPage,
        answer={"jobs": [], "cursor": "", "scanned": 0, "total": 0},
        **_LOOK,
    ),
    Route(
        method="POST",
        path="/jobs/act",
        handler=act_on_jobs,
        role=Role.operator,
        summary="Act on all jobs that a query matches",
        text="A dry run, which only counts, unless `dry_run` is false. To delete takes the role admin.",
        tag="operating",
        body=Bulk,
        example={"query": "task:send_email state:dead", "action": {"type": "Retry"}, "dry_run": True},
        reply=Acted,
        answer={"dry_run": True, "selected": 3, "done": 0, "left": {}, "scanned": 3, "total": 3, "complete": True},
        patience_s=LONG_S,
    ),
    Route(
        path="/jobs/{id}/why",
        handler=explain_job,
        summary="Why a job is not running",
        reply=WhyView,
        answer={"job": EXAMPLE, "reasons": [_REASON]},
        **_LOOK,
    ),
    Route(
        path="/errors",
        handler=group_errors,
        summary="Dead and retrying jobs by what went wrong",
        query=ErrorsQuery,
        reply=operate.ErrorGroups,
        answer={"groups": [_GROUP | _TIMES], "scanned": 4, "total": 4},
        **_LOOK,
    ),
    Route(
        path="/trail",
        handler=list_deeds,
        summary="What operators did to many jobs at once",
        query=TrailQuery,
        reply=list[operate.Deed],
        answer=[_DEED],
        **_LOOK,
    ),
]
