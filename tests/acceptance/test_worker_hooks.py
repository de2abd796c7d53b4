"""Hooks that are under way when their worker stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.acceptance.conftest import Site


async def test_a_worker_ends_the_hooks_of_its_last_jobs_before_it_leaves(site: Site) -> None:
    job = await site.app.submit("work")
    assert site.start("tests.apps.hooked:app", burst=True).wait() == 0
    assert site.ledger.hooks(job.id) == ["success 7"]
