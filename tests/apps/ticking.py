"""An app with a cron entry that fires ten times a second."""

from __future__ import annotations

from tests.apps.ledger import note

from bananas import Bananas, current_job

app = Bananas()


@app.cron(every=0.1, missed="all")
async def tick() -> None:
    note("tick", current_job().headers["scheduled-for-ms"])
