"""An app with a cron entry that fires once a year, and otherwise when an operator wants it."""

from __future__ import annotations

from bananas import Bananas

app = Bananas()


@app.cron("0 3 1 1 *")
async def sweep() -> str:
    return "swept"
