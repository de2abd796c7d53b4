"""The routes of workers: who works, orders to them, and the stack of what runs."""

from typing import Any

from bananas import operate
from bananas.http.access import Role
from bananas.http.jobs import ID
from bananas.http.routes import Asked, Route
from bananas.http.values import Changed, StackView
from bananas.inspector import WorkerInfo, workers


async def list_workers(asked: Asked) -> list[WorkerInfo]:
    return await workers(asked.app)


async def drain_worker(asked: Asked) -> Changed:
    await operate.drain(asked.app, asked.request.path_params["boot"], who=asked.who)
    return Changed(True)


async def stop_worker(asked: Asked) -> Changed:
    await operate.stop(asked.app, asked.request.path_params["boot"], who=asked.who)
    return Changed(True)


async def show_stack(asked: Asked) -> StackView:
    public = asked.job.id
    return StackView(public, await operate.stack(asked.app, public))


_BOOT = "9f86d081884c7d65"
_WHO = {"boot": _BOOT, "host": "web-1", "pid": 4711, "supervisor": 4700, "queues": ["email"], "tasks": ["send_email"]}
_RUN = {"id": ID, "task": "send_email", "started_ms": 1719830460000, "overdue": False}
_USE = {"version": "0.1.0", "memory_bytes": 61_000_000, "cpu_percent": 12.5, "runs": [_RUN], "phase": "working"}
_WORKER = _WHO | _USE | {"slots": 10, "running": [ID], "overdue": [], "started_ms": 1719830400000}
_STACK = f'job {ID}, task send_email, for 12.3 s: it waits on the event loop\n  File "/srv/shop.py", line 12, in send_email\n'
_ORDER: dict[str, Any] = {"method": "POST", "role": Role.operator, "tag": "workers", "problems": (404, 504)}
_GIVEN: dict[str, Any] = {"reply": Changed, "answer": {"changed": True}}

ROUTES = [
    Route(
        method="GET",
        path="/workers",
        handler=list_workers,
        role=Role.viewer,
        summary="The workers that are alive",
        tag="workers",
        reply=list[WorkerInfo],
        answer=[_WORKER],
    ),
    Route(
        path="/workers/{boot}/drain",
        handler=drain_worker,
        summary="Let a worker claim no more",
        text="All processes of its supervisor, within half a lease: `phase` tells. What runs ends; then it stays idle.",
        **_ORDER,
        **_GIVEN,
    ),
    Route(
        path="/workers/{boot}/stop",
        handler=stop_worker,
        summary="Stop a worker",
        text="As SIGTERM to its supervisor: what runs may end within `shutdown_timeout`. What keeps it running may start another.",
        **_ORDER,
        **_GIVEN,
    ),
    Route(
        method="GET",
        path="/jobs/{id}/stack",
        handler=show_stack,
        role=Role.operator,
        summary="Where the code of a running job is",
        text="Asked of its worker, which answers with its next beat, also while its event loop is blocked.",
        tag="workers",
        patience_s=60.0,
        problems=(404, 409, 504),
        reply=StackView,
        answer={"id": ID, "text": _STACK},
    ),
]
