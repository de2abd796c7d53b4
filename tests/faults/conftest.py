"""What the tests of faults share: the kinds of servers that are installed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from bananas.chaos.faults import all_faults
from bananas.chaos.trials import SHORT, run_trial
from bananas.server import find_server_binary

if TYPE_CHECKING:
    from collections.abc import Callable

    from bananas.chaos.trials import Outcome
    from bananas.server import ServerBinary


@pytest.fixture
def binary(server_kind: str) -> ServerBinary:
    return find_server_binary(server_kind)


@pytest.fixture
def inject(binary: ServerBinary) -> Callable[[str], Outcome]:
    """Run one fault in the short profile with a seed of its own; a machine that cannot show it skips the test, and says why."""

    def run(key: str) -> Outcome:
        seed = random.randrange(2**31)
        outcome = run_trial(all_faults()[key], seed, SHORT, binary)
        if outcome.skipped:
            pytest.skip(f"{key}: {outcome.skipped}")
        assert not outcome.broken, (
            "\n".join(outcome.broken)
            + f"\nreplay: bananas chaos --quick --only {key} --seed {seed} --server {binary.kind}; evidence: {outcome.evidence}"
        )
        return outcome

    return run
