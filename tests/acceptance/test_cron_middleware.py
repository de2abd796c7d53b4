"""Cron ticks pass through the submit middleware of the process that fires them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.acceptance.conftest import Site
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bananas.server import PrivateServer


@pytest.fixture(scope="module")
def ticking(place: PrivateServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three processes that fire the same entries."""
    site = Site(place.url, tmp_path_factory.mktemp("ticking"))
    site.worker("tests.apps.drafted:app", worker_processes=3, log_format="logfmt")
    yield site
    site.kill()


def ticks(site: Site, task: str) -> list[int]:
    """For which times (server's ms) a task ran, in order."""
    return sorted(int(line.more.split()[1]) for line in site.ledger.lines("tick") if line.more.split()[0] == task)


def submits(site: Site, word: str, task: str) -> list[int]:
    path = Path(f"{site.ledger.path}.submits")
    found = [text.split() for text in path.read_text().splitlines()] if path.exists() else []
    return sorted(int(tick) for outcome, name, tick in found if (outcome, name) == (word, task))


def wait_for_each_once(site: Site, task: str, count: int, timeout: float = 15.0) -> list[int]:
    """Wait until so many ticks ran, none twice and none missing between them; the jobs of some may still be on their way."""

    def complete() -> list[int]:
        times = ticks(site, task)
        return times if len(times) >= count and times == list(range(times[0], times[0] + 200 * len(times), 200)) else []

    return wait_until(complete, f"{count} ticks of {task}, each once", timeout)


def test_the_jobs_of_ticks_carry_what_middleware_gave_them(ticking: Site) -> None:
    wait_until(lambda: len(ticks(ticking, "steady")) >= 10, "ten ticks")
    for line in ticking.ledger.lines("tick"):
        _, tick, trace, priority = line.more.split()
        assert (trace, priority) == (f"trace-{tick}", "7")


def test_each_tick_is_stored_once_for_middleware_as_for_the_server(ticking: Site) -> None:
    wait_for_each_once(ticking, "steady", 15)
    wait_until(lambda: set(ticks(ticking, "steady")) <= set(submits(ticking, "stored", "steady")), "the end of the generators")
    assert set(Counter(submits(ticking, "stored", "steady")).values()) == {1}
    assert submits(ticking, "failed", "steady") == []


def test_a_tick_whose_middleware_raises_is_kept_and_tried_again(ticking: Site) -> None:
    log = ticking._workers[0]
    wait_until(lambda: log.log.count("LookupError: no tenant") >= 3, "the errors in the log")
    assert "a cron tick could not be made; it is kept" in log.log
    tried = log.log.count("LookupError: no tenant")
    before = ticks(ticking, "steady")[-1]
    wait_until(lambda: ticks(ticking, "steady")[-1] >= before + 2_000, "ten more ticks of another entry")
    assert log.log.count("LookupError: no tenant") <= tried + 6  # it backs off: not one per tick and process
    assert ticks(ticking, "gated") == []
    Path(f"{ticking.ledger.path}.gate").touch()
    assert wait_for_each_once(ticking, "gated", 10, 40)[0] < before


def test_a_middleware_that_raises_after_its_yield_loses_no_tick(ticking: Site) -> None:
    wait_for_each_once(ticking, "noisy", 5)
    assert "middleware failed after a cron tick; its jobs are submitted" in ticking._workers[0].log


def test_a_job_cannot_be_moved_to_another_queue(ticking: Site) -> None:
    wait_until(
        lambda: "middleware moved a job of cron entry 'moved' from queue 'default' to 'elsewhere'" in ticking._workers[0].log, "the error"
    )
    assert ticks(ticking, "moved") == []
