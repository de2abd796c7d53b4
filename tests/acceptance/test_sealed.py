"""Sealed jobs among real workers: some can open them, some cannot, and keys change while jobs wait."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.conftest import Site
from tests.support import eventually

from bananas import Bananas, TaskError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bananas.server import PrivateServer

pytestmark = pytest.mark.timeout(150)  # what is handed back comes again after up to 30 s
TARGET = "tests.apps.sealed:app"
K1, K2 = (f"k{number}:{base64.b64encode(bytes([number]) * 32).decode()}" for number in (1, 2))
NEEDLE = "needle-4711 " * 1_000


@pytest.fixture
def sites(place: PrivateServer, tmp_path: Path) -> Iterator[Any]:
    made: list[Site] = []

    def make(**settings: Any) -> Site:
        made.append(Site(place.url, tmp_path, **settings))
        return made[-1]

    yield make
    for site in made:
        site.kill()


def keyed(site: Site, keys: str, **more: str) -> None:
    site.environment |= {"BANANAS_ENCRYPTION_KEYS": keys, **more}


async def test_a_worker_without_the_key_hands_jobs_back_for_one_that_has_it(sites: Any) -> None:
    site = sites(encryption_keys=K1)
    without = site.worker(TARGET)
    job = await site.app.submit("echo", NEEDLE)
    await eventually(lambda: "cannot be opened here" in without.log, "a job that was handed back")
    assert (await job.info()).attempts == 0
    keyed(site, K1)
    able = site.worker(TARGET)
    assert await job.result(timeout=50) == [str(able.pid), NEEDLE]
    assert "'k1'" in without.log
    assert K1.partition(":")[2] not in without.log + able.log
    assert without.process.poll() is None
    await site.app.close()


async def test_a_worker_without_the_library_hands_jobs_back_for_one_that_has_it(sites: Any) -> None:
    site = sites(compression="zstd")
    site.environment["WITHOUT"] = "backports.zstd,compression.zstd"
    without = site.worker(TARGET)
    small, large = await site.app.submit("echo", "x"), await site.app.submit("echo", NEEDLE)
    assert (await small.result(timeout=50))[1] == "x"
    await eventually(lambda: "cannot be opened here" in without.log, "a job that was handed back")
    assert "bananas-queue[zstd]" in without.log
    site.environment["WITHOUT"] = ""
    able = site.worker(TARGET)
    assert await large.result(timeout=50) == [str(able.pid), NEEDLE]
    await site.app.close()


async def test_what_no_worker_can_open_is_dead_in_the_end_and_can_be_replayed(sites: Any) -> None:
    site = sites(encryption_keys=K2)
    keyed(site, K1, BANANAS_UNKNOWN_TASK_TTL="100ms")
    first = site.worker(TARGET)
    job = await site.app.submit("echo", NEEDLE)
    with pytest.raises(TaskError, match=r"no worker could open the job for .* key 'k2'") as caught:
        await job.result(timeout=50)
    assert caught.value.error_type == "Undecodable"
    (info,) = await site.app.queue("default").dead.list()
    assert (info.id, info.args) == (job.id, (NEEDLE,))
    first.stop()
    keyed(site, f"{K2},{K1}")
    site.worker(TARGET)
    await site.app.queue("default").dead.replay(job.id)
    assert (await job.result(timeout=50))[1] == NEEDLE
    await site.app.close()


async def test_a_key_is_replaced_while_jobs_wait_and_run(sites: Any) -> None:
    site = sites(encryption_keys=K1)
    jobs = [await site.app.submit("echo", f"{NEEDLE}{number}") for number in range(20)]
    keyed(site, f"{K2},{K1}")
    site.worker(TARGET)
    new = Bananas(site.environment["REDIS_URL"], namespace=site.namespace, encryption_keys=f"{K2},{K1}")
    jobs += [await new.submit("echo", f"{NEEDLE}{number}") for number in range(20, 40)]
    texts = [(await new.job(job.id).result(timeout=50))[1] for job in jobs]
    assert texts == [f"{NEEDLE}{number}" for number in range(40)]
    await site.app.close()
    await new.close()


async def test_isolated_processes_and_failures_keep_the_secret(sites: Any) -> None:
    site = sites(encryption_keys=K1, compression="zstd")
    keyed(site, K1)
    worker = site.worker(TARGET)
    assert await (await site.app.submit("echo_isolated", NEEDLE)).result(timeout=50) == NEEDLE
    for task, options in (("echo_isolated", {"fail": True}), ("fails", {})):
        job = await site.app.submit(task, NEEDLE, **options)
        with pytest.raises(TaskError, match="needle-4711"):
            await job.result(timeout=50)
        (error, *_) = (await job.info()).errors or (await site.app.queue("default").dead.list())[0].errors
        assert "needle-4711" in error.message
        assert error.sealed == b""
    assert K1.partition(":")[2] not in worker.log
    await site.app.close()
