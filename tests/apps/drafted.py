"""Cron entries of an app whose middleware looks at submits: it stamps them, fails until a gate opens, or moves them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.apps.ledger import note

from bananas import Bananas, current_job

if TYPE_CHECKING:
    from collections.abc import Generator

    from bananas.middleware import Draft

app = Bananas()


def write(*words: object) -> None:
    with open(os.environ["LEDGER"] + ".submits", "a", encoding="utf-8") as file:
        file.write(" ".join(map(str, words)) + "\n")


@app.middleware
class Stamp:
    def submit(self, draft: Draft) -> Generator[None, None, None]:
        tick = draft.headers["scheduled-for-ms"]
        if draft.task == "gated" and not os.path.exists(os.environ["LEDGER"] + ".gate"):
            raise LookupError("no tenant")
        if draft.task == "moved":
            draft.queue = "elsewhere"
        draft.headers["trace"] = f"trace-{tick}"
        draft.priority = 7
        try:
            yield
        except Exception:
            write("failed", draft.task, tick)
            raise
        write("stored", draft.task, tick)
        if draft.task == "noisy":
            raise LookupError("after the yield")


def ticked() -> None:
    job = current_job()
    note("tick", job.task, job.headers["scheduled-for-ms"], job.headers["trace"], job.priority)


@app.cron(every=0.2, missed="all")
async def steady() -> None:
    ticked()


@app.cron(every=0.2, missed="all")
async def gated() -> None:
    ticked()


@app.cron(every=0.2, missed="all")
async def noisy() -> None:
    ticked()


@app.cron(every=0.2, missed="all")
async def moved() -> None:
    ticked()
