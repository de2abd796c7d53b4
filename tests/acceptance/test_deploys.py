"""Old and new code, and old and new versions of the library, side by side on one server."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import ROOT, SRC, clean_environment, eventually

from bananas import TaskError, broker
from bananas.codec import pack_tries
from bananas.doctor import diagnose
from bananas.inspector import audit
from bananas.job import Tries

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site

CHANGED = "tests.apps.changed:app"

# task, args and kwargs as an older client stored them -> what its error says
DIFFERENCES: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], str]] = {
    "a required parameter was added": ("more", (1,), {}, r"\(x: 'int', factor: 'int'\).*missing a required argument: 'factor'"),
    "a required parameter was added, by name": ("more", (), {"x": 1}, r"missing a required argument: 'factor'"),
    "a parameter was removed": ("fewer", (1,), {}, r"signature \(\).*at most 0 positional arguments, not 1"),
    "a named parameter was removed": ("fewer_named", (), {"x": 1}, r"got an unexpected keyword argument 'x'"),
    "a type changed": ("typed", ("text",), {}, r"\(x: 'int'\).*Expected `int`, got `str`"),
    "a parameter was renamed": ("renamed", (), {"x": 1}, r"\(number: 'int'\).*'number'|unexpected keyword argument 'x'"),
}


# --- code -------------------------------------------------------------------------------------------------------------


async def test_a_changed_signature_fails_that_job_alone_and_names_the_difference(site: Site) -> None:
    odd = {name: await site.app.submit(task, *args, **kwargs) for name, (task, args, kwargs, _) in DIFFERENCES.items()}
    fine = await site.app.submit("kept", 1), await site.app.submit("with_default", 2)
    worker = site.worker(CHANGED)
    for name, (_, _, _, said) in DIFFERENCES.items():
        with pytest.raises(TaskError) as caught:
            await odd[name].result(timeout=10)
        assert caught.value.error_type.endswith("InvalidArguments"), name
        assert re.search(said, caught.value.error_message, re.DOTALL), caught.value.error_message
    assert [await job.result(timeout=10) for job in fine] == [2, 6]
    assert await (await site.app.submit("kept", 5)).result(timeout=10) == 6, "the worker goes on"
    assert worker.stop() == 0
    await site.assert_nothing_left()


async def test_a_job_goes_from_a_worker_that_does_not_know_it_to_one_that_does(site: Site) -> None:
    old = site.worker()
    job = await site.app.submit("added")
    await eventually(lambda: "unknown task, handed back" in old.log, "the old worker hands it back")
    assert (await job.info()).attempts == 0
    site.worker(CHANGED)
    assert await job.result(timeout=30) == "added"
    assert await (await site.app.submit("double", 4)).result(timeout=30) == 8, "and the other way round"
    await site.assert_nothing_left()


async def test_a_task_that_nobody_knows_is_dead_after_its_time_and_runs_when_replayed(site: Site) -> None:
    old = site.worker(unknown_task_ttl=0.5)
    job = await site.app.submit("added")
    with pytest.raises(TaskError, match=r"no worker knew the task 'added' for 0\.5 s: deploy one, then replay it"):
        await job.result(timeout=20)
    assert (await job.info()).errors[-1].type == "UnknownTask"
    old.stop()
    site.worker(CHANGED)
    await site.app.queue("default").dead.replay(job.id)
    assert await job.result(timeout=10) == "added"


async def test_a_job_packed_by_a_later_version_is_dead_with_the_reason_and_the_worker_goes_on(site: Site) -> None:
    await site.app.queue("default").pause()
    job = await site.app.submit("double", 3)
    keys, job_id = job.place
    body = await site.app.client.ask(keys, broker.plain(lambda reply: reply, "HGET", keys.jobs, job_id), "reading")
    later = body[:8] + b"\x03" + body[9:]
    await site.app.client.ask(keys, broker.plain(int, "HSET", keys.jobs, job_id, later), "changing")
    await site.app.queue("default").resume()
    site.worker()
    with pytest.raises(TaskError, match="packed as version 3, this worker reads versions 1 and 2"):
        await job.result(timeout=10)
    assert await (await site.app.submit("double", 4)).result(timeout=10) == 8
    await site.app.client.ask(keys, broker.plain(int, "HSET", keys.jobs, job_id, body), "as a worker of that version reads it")
    await site.app.queue("default").dead.replay(job.id)
    assert await job.result(timeout=10) == 6


async def test_a_tries_record_that_a_later_version_wrote_stops_no_worker(site: Site) -> None:
    await site.app.queue("default").pause()
    job = await site.app.submit("double", 3)
    keys, job_id = job.place
    record = pack_tries(Tries(attempts=1)) + b"\x93\xc1 what nobody reads"
    await site.app.client.ask(keys, broker.plain(int, "HSET", keys.tries, job_id, record), "changing")
    await site.app.queue("default").resume()
    site.worker()
    assert await job.result(timeout=10) == 6


# --- the library ------------------------------------------------------------------------------------------------------


class Copy:
    """Another version of the library: a copy of the package with changes, for programs of their own."""

    def __init__(self, site: Site, folder: Path) -> None:
        self._site, self.folder = site, folder
        shutil.copytree(SRC / "bananas", folder / "bananas", ignore=shutil.ignore_patterns("__pycache__"))

    def change(self, file: str, old: str, new: str) -> None:
        path = self.folder / "bananas" / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} in {file}"
        path.write_text(text.replace(old, new))

    def run(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = clean_environment(**self._site.environment) | {"PYTHONPATH": f"{self.folder}:{ROOT}"}
        command = [sys.executable, *(("-c", code) if code else ("-m", "bananas")), *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=50, check=False)


@pytest.fixture
def other(site: Site, tmp_path: Path) -> Copy:
    return Copy(site, tmp_path / "other")


SUBMITS = """
import asyncio, sys
from bananas import Bananas
async def main():
    app = Bananas(call_timeout=5)
    print((await app.submit("double", 21)).id)
    await app.close()
asyncio.run(main())
"""


def change_every_script(other: Copy) -> None:
    for path in sorted((other.folder / "bananas/lua").glob("*.lua")):
        text = path.read_text()
        path.write_text(text + "-- as the next version has it\n")


async def test_two_versions_with_different_scripts_share_the_jobs(site: Site, other: Copy) -> None:
    change_every_script(other)
    shas = "from bananas.scripts import script; print(*(script(name).sha for name in ('claim', 'enqueue', 'complete', 'bury')))"
    theirs = set(other.run(shas).stdout.split())
    assert len(theirs) == 4
    waiting = await site.app.submit("double", 1)
    burst = other.run("", "worker", "tests.apps.basic:app", "--burst")
    assert burst.returncode == 0, burst.stderr
    assert await waiting.result(timeout=5) == 2, "theirs ran ours"
    submitted = other.run(SUBMITS)
    assert submitted.returncode == 0, submitted.stderr
    site.worker()
    assert await site.app.job(submitted.stdout.strip()).result(timeout=10) == 42, "ours ran theirs"
    keys = site.app.producer.keys("default")
    ours = {broker.script(name).sha for name in ("claim", "enqueue", "complete")}
    assert not ours & theirs
    loaded = await site.app.client.ask(keys, broker.plain(list, "SCRIPT", "EXISTS", *sorted(ours)), "asking")
    assert loaded == [1, 1, 1], "theirs did not take the place of ours"
    await site.assert_nothing_left()


async def test_another_layout_is_refused_by_both_sides_and_nothing_is_changed(site: Site, other: Copy) -> None:
    other.change("keys.py", "LAYOUT = 1", "LAYOUT = 2")
    job = await site.app.submit("double", 1)
    for run in (other.run("", "worker", "tests.apps.basic:app", "--burst"), other.run(SUBMITS)):
        assert run.returncode != 0
        assert "was made with layout 1, this version reads layout 2" in run.stderr
        assert "nothing was done" in run.stderr
    assert (await site.app.queue("default").counts()).ready == 1
    assert (await audit(site.app)).findings == ()
    site.worker()
    assert await job.result(timeout=10) == 2


async def test_an_older_version_refuses_a_queue_of_the_newer(site: Site, other: Copy) -> None:
    other.change("keys.py", "LAYOUT = 1", "LAYOUT = 2")
    submitted = other.run(SUBMITS)
    assert submitted.returncode == 0, submitted.stderr
    worker = site.start()
    assert worker.wait(30) == 2
    assert "was made with layout 2, this version reads layout 1" in worker.log
    (check,) = [check for check in (await diagnose(site.app)).checks if check.name == "namespace.layout"]
    assert (check.level, "default (2)" in check.found) == ("error", True)
    assert (await audit(site.app)).jobs == 1
