"""Orders to real workers over Redis: they drain, stop, and tell the stacks of what they run, also blocked, and while the server is full."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.test_operate_cli import lines, run
from tests.apps import standing
from tests.support import eventually, kill

from bananas import JobConflict, JobNotFound, NoAnswer, QueueFull, WorkerNotFound, broker
from bananas.inspector import workers
from bananas.keys import orders_key
from bananas.operate import drain, stack, stop, trail
from bananas.server import PrivateServer, find_server_binary

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site

    from bananas import Job
    from bananas.inspector import WorkerInfo

TARGET = "tests.apps.standing:app"
SOURCE = Path(standing.__file__).read_text(encoding="utf-8").splitlines()


def line_of(mark: str) -> str:
    (number,) = [number for number, line in enumerate(SOURCE, 1) if line.endswith(f"# {mark}")]
    return f'standing.py", line {number}, in'


async def only(site: Site) -> WorkerInfo:
    """The one worker there is."""
    await eventually(lambda: workers(site.app), "a worker in the registry")
    (found,) = await workers(site.app)
    return found


async def in_phase(site: Site, phase: str) -> bool:
    return [worker.phase for worker in await workers(site.app)] == [phase]


async def connections(site: Site) -> int:
    """How many its server has, of apps in its namespace."""
    listed = await site.app.client.ask_home(site.namespace, broker.plain(bytes, "CLIENT", "LIST"), "listing the connections")
    return listed.decode().count(f"name=bananas:{site.namespace}")


async def has_more(site: Site, count: int) -> bool:
    return await connections(site) > count


async def ended(job: Job[Any]) -> bool:
    return (await job.info()).state == "success"


async def stands(site: Site, task: str, **settings: Any) -> Job[Any]:
    """A job that stays where it is."""
    site.worker(TARGET, **settings)
    job, _ = await site.running(str(site.gate()), task=task)
    return job


async def test_a_worker_is_in_the_registry_before_it_runs_its_first_job(site: Site) -> None:
    job = await site.app.submit("peers")
    ours = await connections(site)
    worker = site.start(TARGET)
    await eventually(worker.children, "its process")
    kill(worker.pid, signal.SIGSTOP)  # its sign of life is late
    try:
        await eventually(lambda: has_more(site, ours), "its process is at the server")
        with contextlib.suppress(AssertionError):
            await eventually(lambda: ended(job), "the end of the job", 0.7)
    finally:
        kill(worker.pid, signal.SIGCONT)
    assert len(await job.result(timeout=15)) == 1, worker.log


# --- drain and stop ---------------------------------------------------------------------------------------------------


async def test_a_drained_worker_ends_what_it_runs_and_claims_no_more(site: Site) -> None:
    worker = site.worker()
    running, _ = await site.running(str(site.gate()))
    boot = (await only(site)).boot
    assert run(site, "workers", "drain", boot, BANANAS_OPERATOR="ada").returncode == 0
    await eventually(lambda: in_phase(site, "quiet"), "the registry tells that it drains")
    later = await site.app.submit("double", 2)
    assert "claim no more" in run(site, "job", later.id, "--why").stdout
    site.gate().touch()
    await running.result(timeout=15)
    assert (await later.info()).state == "ready"
    assert [(deed.who, deed.action, deed.query) for deed in await trail(site.app)] == [("ada", "drain", f"worker:{boot}")]
    assert await workers(site.app)
    assert worker.process.poll() is None
    assert worker.stop() == 0


async def test_an_order_is_for_all_processes_of_a_worker_and_a_new_one_drains_too(site: Site) -> None:
    worker = site.worker(worker_processes=2)

    async def two_of(phase: str) -> bool:
        return [each.phase for each in await workers(site.app)] == [phase] * 2

    await eventually(lambda: two_of("working"), "both processes")
    first, second = await workers(site.app)
    await drain(site.app, first.boot)
    await eventually(lambda: two_of("quiet"), "both drain")
    kill(second.pid)
    await eventually(lambda: two_of("quiet"), "another in its place")
    job = await site.app.submit("double", 2)
    await stop(site.app, first.boot)
    assert worker.wait() == 0
    assert (await job.info()).state == "ready"


async def test_a_stopped_worker_lets_its_job_end_and_is_gone(site: Site) -> None:
    worker = site.worker()
    running, _ = await site.running(str(site.gate()))
    boot = (await only(site)).boot
    assert run(site, "workers", "stop", boot).returncode == 0
    await eventually(lambda: in_phase(site, "stopping"), "the registry tells that it stops")
    await stop(site.app, boot)  # again: nothing more happens
    site.gate().touch()
    assert worker.wait() == 0
    assert await running.result(timeout=5)
    assert await workers(site.app) == []
    assert "second signal" not in worker.log
    await site.assert_nothing_left()


async def test_who_is_not_there_gets_no_order(site: Site) -> None:
    for boot in ("0" * 16, "", "x" * 16, "0" * 17, "{shop}:jobs"):
        with pytest.raises(WorkerNotFound):
            await stop(site.app, boot)
    failed = run(site, "workers", "stop", "0" * 16)
    assert (failed.returncode, "there is no worker" in failed.stderr) == (1, True)
    assert await trail(site.app) == []


async def test_an_order_leaves_nothing_behind(site: Site) -> None:
    site.worker()
    boot = (await only(site)).boot
    await drain(site.app, boot)

    async def fetched() -> bool:
        return not await site.app.client.ask_home(site.namespace, broker.plain(int, "EXISTS", orders_key(site.namespace, boot)), "looking")

    await eventually(fetched, "the order is gone as soon as it was obeyed")


async def test_orders_are_obeyed_while_the_server_is_full(tmp_path: Path) -> None:
    from tests.acceptance.conftest import Site

    with PrivateServer(binary=find_server_binary()) as server:
        site = Site(server.url, tmp_path)
        try:
            worker = site.worker(TARGET)
            job, _ = await site.running(str(site.gate()), task="waits")
            await site.app.client.ask_home(site.namespace, broker.plain(bytes, "CONFIG", "SET", "maxmemory", 1), "filling it")
            assert line_of("waiting") in await stack(site.app, job.id)
            with pytest.raises(QueueFull):
                await site.app.submit("waits", "x")
            site.gate().touch()
            await stop(site.app, (await only(site)).boot)
            assert worker.wait() == 0
            assert [deed.action for deed in await trail(site.app)] == ["stop"]
        finally:
            site.kill()
            await site.app.close()


# --- stacks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "how", "inner"),
    [
        ("waits", "waits on the event loop", "waiting"),
        ("blocks", "runs on the event loop", "sleeping"),
        ("on_a_thread", "runs in thread", "sleeping"),
        ("on_its_own", "runs in process", "sleeping"),
        ("waits_on_its_own", "runs in process", "waiting"),
    ],
)
async def test_the_stack_of_a_running_job_is_that_of_its_code(site: Site, task: str, how: str, inner: str) -> None:
    job = await stands(site, task)

    async def told() -> str:
        text = await stack(site.app, job.id)
        return text if line_of(inner) in text else ""

    text = await eventually(told, "a stack from within")
    first, *rest = text.splitlines()
    assert first.startswith(f"job {job.id}, task {task}, for ")
    assert how in first
    assert line_of(f"in {task}") in rest[0], text
    assert "bananas/worker" not in text
    site.gate().touch()
    await job.result(timeout=15)
    await site.assert_nothing_left()


async def test_the_command_shows_a_stack(site: Site) -> None:
    job = await stands(site, "waits")
    shown = run(site, "job", job.id, "--stack")
    assert (shown.returncode, line_of("in waits") in shown.stdout) == (0, True), shown.stderr
    (told,) = lines(site, "job", job.id, "--stack")
    assert told["id"] == job.id
    assert told["text"].splitlines()[0] != ""


async def test_of_two_jobs_of_one_task_each_has_its_own_stack(site: Site) -> None:
    site.worker(TARGET, worker_concurrency=2)
    threads = [(await site.running(str(site.gate(name)), task="on_a_thread"))[0] for name in ("a", "b")]
    told = await asyncio.gather(*(stack(site.app, job.id) for job in threads))
    assert len({text.splitlines()[0].rpartition(" ")[2] for text in told}) == 2, told


async def test_what_does_not_run_has_no_stack(site: Site) -> None:
    job = await site.app.submit("waits", "x")
    with pytest.raises(JobConflict, match="is ready"):
        await stack(site.app, job.id)
    assert await job.cancel()
    with pytest.raises(JobConflict, match="is cancelled"):
        await stack(site.app, job.id)
    with pytest.raises(JobNotFound):
        await stack(site.app, "default." + "0" * 40 + "1f4")
    assert run(site, "job", job.id, "--stack").returncode == 1


async def test_a_worker_that_is_stopped_by_a_signal_does_not_answer(site: Site) -> None:
    worker = site.worker(TARGET, lease=5.0)
    job, _ = await site.running(str(site.gate()), task="waits")
    kill(worker.pid, signal.SIGSTOP)
    try:
        with pytest.raises(NoAnswer, match="has not told"):
            await stack(site.app, job.id, timeout=0.5)
    finally:
        kill(worker.pid, signal.SIGCONT)
    assert json.loads(run(site, "job", job.id, "--stack", "--json").stdout)["id"] == job.id
