"""What faults have found, each with the smallest deed that showed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bananas.chaos.processes import eventually
from bananas.chaos.trials import SHORT, Fault, run_trial
from bananas.scripts import script

if TYPE_CHECKING:
    from bananas.chaos.trials import Trial
    from bananas.server import ServerBinary


def test_what_undoes_a_lost_claim_leaves_the_next_claim_alone_where_its_script_has_to_be_loaded(binary: ServerBinary) -> None:
    """F18: `recover` was sent with the next claim, was not known, and was sent again: behind that claim, whose jobs it took back."""

    async def lose_a_claim(trial: Trial) -> None:
        site = await trial.site(proxied=True)
        await site.worker(worker_concurrency=10)
        drop = trial.proxy.lose_reply(script("claim"), least_bytes=150)
        pairs = await site.submit_many(3, "hold", str(site.gate()))
        await eventually(drop.reached.is_set, "the claim that loses its reply")
        pairs += await site.submit_many(4, "hold", str(site.gate()))
        drop.let_go.set()
        for name, _ in pairs:
            await site.started(name)
        site.gate().touch()
        verdict = await trial.judge(site)
        trial.check(verdict.runs == len(pairs), f"{verdict.runs} runs of {len(pairs)} jobs")

    outcome = run_trial(Fault("F33", "a claim is lost", "", "", lose_a_claim), 1, SHORT, binary)
    assert outcome.broken == ()
