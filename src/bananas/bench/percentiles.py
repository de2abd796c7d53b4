"""Percentiles of latencies, exact: from every sample, sorted. Averages of percentiles are none, so nothing here merges two of them."""

import math
from array import array
from collections.abc import Iterable, Sequence

from bananas.bench.table import Figure

US = 1_000
MS = 1_000_000


def percentile(ordered: Sequence[int], share: float) -> int:
    """The least sample that at least `share` percent of all samples do not exceed (nearest rank).

    Args:
        ordered: sorted samples, at least one.
        share: above 0, at most 100.
    """
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]


def percentile_figures(repetitions: Sequence[Iterable[int]], shares: Sequence[float], unit: str, unit_ns: int) -> list[Figure]:
    """One figure per share: its values from each repetition's samples, its headline from all samples together.

    Args:
        repetitions: per repetition all samples, in ns; each at least one.
        unit, unit_ns: what a figure is given in, and how many ns that is.
    """
    ordered = [sorted(samples) for samples in repetitions]
    pooled = sorted(array("q", (sample for samples in ordered for sample in samples)))
    return [
        Figure(
            tuple(percentile(samples, share) / unit_ns for samples in ordered),
            unit,
            percentile(pooled, share) / unit_ns,
        )
        for share in shares
    ]


def mean(samples: Sequence[int]) -> float:
    """The mean of at least one sample."""
    return sum(samples) / len(samples)
