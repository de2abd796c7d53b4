"""An app whose hook takes longer than its worker has left."""

import asyncio
import os

from bananas import Bananas, CurrentJob

app = Bananas()


@app.on_success
async def noted(job: CurrentJob, value: object) -> None:
    await asyncio.sleep(0.3)
    with open(os.environ["LEDGER"], "a", encoding="utf-8") as file:  # noqa: ASYNC230  # one line, and nothing else runs
        file.write(f"hook-success {job.id} {value}\n")


@app.task
async def work() -> int:
    return 7
