"""The route of advice: what is short, stuck or set wrong, and what to do."""

from bananas import operate
from bananas.http.access import Role
from bananas.http.routes import Asked, Route


async def give_advice(asked: Asked) -> list[operate.Advice]:
    return await operate.advise(asked.app)


_FIGURES = {"slots": 20, "busy": 20, "more_slots": 8, "ready": 1_200, "rate_s": 12.5, "growth_s": 1.6, "backlog_s": 96.0}
_ADVICE = {
    "kind": "add_workers",
    "level": "warning",
    "queue": "email",
    "task": "",
    "title": "Queue email is short of slots",
    "why": (
        "20 of 20 slot(s) are busy, and 1,200 job(s) are ready, growing by 1.6 jobs/s, the oldest for 1 min 30 s; "
        "that is a backlog of 1 min 36 s."
    ),
    "action": "Start more workers: about 8 more slot(s).",
    "figures": _FIGURES,
}

ROUTES = [
    Route(
        method="GET",
        path="/advice",
        handler=give_advice,
        role=Role.viewer,
        summary="What is short, stuck or set wrong, and what to do",
        text="From live data, the most pressing first; empty where all is well. It takes a second: the server is watched meanwhile.",
        tag="overview",
        reply=list[operate.Advice],
        answer=[_ADVICE],
        patience_s=60.0,
    ),
]
