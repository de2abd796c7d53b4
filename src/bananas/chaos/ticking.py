"""An app with a cron entry, for trials of schedulers: one tick a second, each noted with the second that it stands for."""

from bananas.app import Bananas
from bananas.chaos import tasks
from bananas.chaos.tasks import NAMESPACE, note
from bananas.context import current_job

app = Bananas(namespace=NAMESPACE)
app.lifespan(tasks.resources)
app.on_success(tasks.succeeded)
app.on_dead(tasks.died)


@app.cron("* * * * * *", missed="all")
async def tick() -> None:
    """Once a second."""
    second = int(current_job().headers["scheduled-for-ms"]) // 1000
    note("start", f"tick-{second}")
    note("end", f"tick-{second}")
