"""An app's use of the embedded server: it begins with the first call, ends with `close`, and begins again."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING

import pytest
from tests.support import eventually, is_gone, wait_until

from bananas import Bananas, embedded
from bananas.embedded import join

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It has a `.bananas`, and is the working directory."""
    (project / ".bananas").mkdir(mode=0o700)
    monkeypatch.chdir(project)
    return project


def server_pid(project: Path) -> int:
    """The server that runs, asked as another user of the directory."""
    use = join(project)
    try:
        return use.pid
    finally:
        use.close()


async def test_a_closed_app_leaves_the_server_and_joins_again_when_it_is_used_again(project: Path) -> None:
    app = Bananas(embedded=True)
    job = await app.submit("task", 1)
    first = server_pid(project)
    await app.close()
    await eventually(lambda: is_gone(first))
    assert (await app.submit("task", 2)).created
    assert server_pid(project) != first
    assert (await app.queue("default").counts()).ready == 2
    assert (await job.info()).state == "ready", "a handle from before finds its job"
    await app.close()
    await app.close()


async def test_closing_one_loop_does_not_take_the_server_from_another(project: Path) -> None:
    app = Bananas(embedded=True)
    await app.submit("task", 1)
    pid = server_pid(project)
    mine = app.client.here().lanes.home(app.settings.namespace).ready(None)
    assert mine is not None

    async def elsewhere() -> None:
        await app.submit("task", 2)
        await app.close()

    thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
    thread.start()
    await asyncio.to_thread(thread.join)
    mine.close()  # without a connection only the use keeps the server
    assert (await app.queue("default").counts()).ready == 2
    assert not is_gone(pid)
    await app.close()
    await eventually(lambda: is_gone(pid))


def test_threads_that_use_an_app_for_the_first_time_at_once_are_one_user(project: Path) -> None:
    app = Bananas(embedded=True)
    begin = threading.Barrier(5)

    def submit() -> None:
        begin.wait()
        app.submit_sync("task", 1)

    threads = [threading.Thread(target=submit) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pid = server_pid(project)
    asyncio.run(app.close())
    wait_until(lambda: is_gone(pid))


def test_a_forked_child_that_closes_its_parents_use_keeps_its_own(project: Path) -> None:
    parents = join(project)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            own = join(project)  # it may have the number that the parent's descriptor had
            parents.close()
            code = 0 if own._use in embedded._uses else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    parents.close()
