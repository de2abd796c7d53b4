"""How much each table runs: in full for a report, quick to look at a change, smoke to see that it works at all.

The figures of a smoke run say nothing.
"""

from collections.abc import Mapping
from typing import TypeVar

from msgspec import Struct

T = TypeVar("T")


class Sizes(Struct, frozen=True, kw_only=True):
    """Counts of jobs and operations, and how long a measurement may take.

    Attributes:
        reps: repetitions where --reps does not say.
        cap_s: the longest window of one measurement; it ends there with what was done.
        every: whether tables have all of their variants.
    """

    name: str
    reps: int
    cap_s: float
    every: bool = True
    submits: int
    bulk_jobs: int
    live_jobs: int
    live_slots: tuple[int, ...]
    live_processes: tuple[int, ...]
    drain_jobs: int
    operations: int
    depths: tuple[int, ...]
    claims: int
    clients: tuple[int, ...]
    open_loop_s: float
    pick_ups: int
    queued_jobs: int
    memory_jobs: int
    memory_steps: int = 10
    idle_s: float
    imports: int
    io_waves: int
    cpu_jobs: int
    cpu_rounds: int
    large_jobs: int
    limit_jobs: int
    peer_jobs: int

    def some(self, variants: Mapping[str, T]) -> dict[str, T]:
        """All of the variants, or the first and the last."""
        names = list(variants)
        return {name: variants[name] for name in (names if self.every else dict.fromkeys((names[0], names[-1])))}


FULL = Sizes(
    name="full",
    reps=5,
    cap_s=3.0,
    submits=10_000,
    bulk_jobs=100_000,
    live_jobs=40_000,
    live_slots=(1, 5, 10, 20, 100),
    live_processes=(1, 5, 10, 20),
    drain_jobs=100_000,
    operations=3_000,
    depths=(100, 1_000, 10_000, 1_000_000),
    claims=1_000,
    clients=(10, 50, 100, 1_000),
    open_loop_s=5.0,
    pick_ups=500,
    queued_jobs=100_000,
    memory_jobs=1_000_000,
    idle_s=20.0,
    imports=11,
    io_waves=20,
    cpu_jobs=400,
    cpu_rounds=40_000,
    large_jobs=1_000,
    limit_jobs=100_000,
    peer_jobs=20_000,
)
QUICK = Sizes(
    name="quick",
    reps=3,
    cap_s=1.0,
    submits=2_000,
    bulk_jobs=20_000,
    live_jobs=10_000,
    live_slots=(1, 10, 100),
    live_processes=(1, 5),
    drain_jobs=20_000,
    operations=500,
    depths=(100, 1_000, 10_000, 100_000),
    claims=200,
    clients=(10, 100, 1_000),
    open_loop_s=2.0,
    pick_ups=100,
    queued_jobs=20_000,
    memory_jobs=60_000,
    idle_s=2.0,
    imports=5,
    io_waves=10,
    cpu_jobs=100,
    cpu_rounds=40_000,
    large_jobs=200,
    limit_jobs=20_000,
    peer_jobs=5_000,
)
SMOKE = Sizes(
    name="smoke",
    reps=1,
    cap_s=0.3,
    every=False,
    submits=20,
    bulk_jobs=200,
    live_jobs=100,
    live_slots=(5,),
    live_processes=(2,),
    drain_jobs=200,
    operations=5,
    depths=(100, 1_000),
    claims=10,
    clients=(10,),
    open_loop_s=0.2,
    pick_ups=12,
    queued_jobs=200,
    memory_jobs=300,
    memory_steps=2,
    idle_s=0.2,
    imports=1,
    io_waves=2,
    cpu_jobs=4,
    cpu_rounds=2_000,
    large_jobs=5,
    limit_jobs=200,
    peer_jobs=50,
)
