"""Advice, backlogs and the live view of a namespace whose queues are on several servers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.support import clean_environment

from bananas import Bananas, operate
from bananas.operate.advice.advising import look
from bananas.task import SubmitOptions

if TYPE_CHECKING:
    from bananas.groups import Cluster


async def test_every_server_and_every_part_of_a_queue_is_looked_at(cluster: Cluster) -> None:
    app = Bananas(cluster.url, namespace="looks", queue_shards="email:9")
    try:
        for number in range(18):
            options: SubmitOptions = {"queue": "email"}
            await app.submit("send", number, options=options)
        seen = await look(app)
        assert len(seen.servers) == 3  # nine parts are on all primaries
        assert all(server.core_share is not None for server in seen.servers)
        assert (len(seen.samples), {sample.queue for sample in seen.samples}) == (18, {"email"})
        found = {each.kind: each for each in await operate.advise(app)}
        assert found["no_workers"].figures == {"ready": 18, "scheduled": 0}
        (backlog,) = await operate.backlog(app)
        assert (backlog.queue, backlog.ready) == ("email", 18)
        told = once(cluster.url)
        assert [(queue["name"], queue["shards"], queue["ready"]) for queue in told["queues"]] == [("email", 9, 18)]
    finally:
        await app.close()


def once(url: str) -> Any:
    command = [sys.executable, "-m", "bananas", "top", "--once", "--json", "--url", url, "--namespace", "looks"]
    run = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
