"""The routes of operators: search, act on what a filter matches, groups of errors, why a job waits, what was done."""

import sys
from typing import Any

from starlette.responses import Response

from bananas import operate
from bananas.http.access import Role, require
from bananas.http.bulk import ActUnderWay, act, export_lines
from bananas.http.events import EventStream, LineStream
from bananas.http.jobs import EXAMPLE, ID
from bananas.http.routes import LONG_S, Asked, Route, gone
from bananas.http.values import (
    Acted,
    Bulk,
    ErrorsQuery,
    ExportQuery,
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


async def act_on_jobs(asked: Asked) -> Acted | Response:
    bulk = asked.body
    if isinstance(bulk.action, Delete):
        require(asked.request.scope["bananas.role"], Role.admin)
    if "text/event-stream" not in asked.request.headers.get("accept", ""):
        return await act(asked.app, bulk, asked.who)
    operate.parse(bulk.query)
    under_way = ActUnderWay(asked.site, bulk, asked.who)
    return EventStream(asked.site, under_way.events(), ended=under_way.leave)


async def export_jobs(asked: Asked) -> Response:
    query = asked.query
    operate.parse(query.q)
    return LineStream(asked.site, export_lines(asked.site, query.q, query.newest, query.limit or sys.maxsize), "jobs.ndjson")


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
_ACTING = (
    "A dry run, which only counts, unless `dry_run` is false. To delete takes the role admin. With `Accept: text/event-stream` it tells "
    "how it goes: events `selecting` (scanned, total) and `progress` (done, selected), then `end` with the outcome, or `problem`. Who "
    "closes such a stream ends the act after the batch that is under way."
)
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
        text=_ACTING,
        stream='event: progress\ndata: {"done":500,"selected":3000}\n\n',
        tag="operating",
        body=Bulk,
        example={"query": "task:send_email state:dead", "action": {"type": "Retry"}, "dry_run": True},
        reply=Acted,
        answer={"dry_run": True, "selected": 3, "done": 0, "left": {}, "scanned": 3, "total": 3, "complete": True},
        patience_s=LONG_S,
    ),
    Route(
        path="/jobs/export",
        handler=export_jobs,
        summary="Every job that a query matches, as lines of JSON",
        text="Read in bounded steps as it is sent. Where it is cut off, the last line has a `problem` instead of a job.",
        query=ExportQuery,
        media="application/x-ndjson",
        answer=f'{{"id":"{ID}","state":"dead"}}\n',
        **_LOOK,
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
