"""Each fault that one server shows, once, in the short profile: leases of 1 s. `bananas chaos` runs the same ones for longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bananas.chaos.faults import all_faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from bananas.chaos.trials import Outcome

FAULTS = [pytest.param(key, marks=[] if fault.in_short else [pytest.mark.slow]) for key, fault in all_faults().items()]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("key", FAULTS)
def test_what_must_hold_under_this_fault_holds(inject: Callable[[str], Outcome], key: str) -> None:
    inject(key)
