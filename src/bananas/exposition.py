"""Figures for Prometheus: the same names whether a worker tells of itself or the API of a whole namespace (extra `prometheus`).

Histograms have every second bound of `bananas.tally`, so each bucket is twice as wide as the one before.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bananas.tally import BOUNDS_MS, OUTCOMES, Counts, Spread

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Tables = Mapping[str, Mapping[str, Counts]]


class Gauge(NamedTuple):
    """Something at one moment: its name, what it is, its labels, and the values, each with those of its labels."""

    name: str
    text: str
    labels: tuple[str, ...]
    values: Sequence[tuple[Sequence[str], float]]


def exposition(counted: Tables, gauges: Sequence[Gauge]) -> bytes:
    """The text that a scraper reads: what was counted, by queue and task, and gauges.

    Raises:
        ImportError: prometheus-client is not installed.
    """
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import GaugeMetricFamily

    class Collector:
        def collect(self) -> Iterator[Any]:
            yield from _counted(counted)
            for name, text, labels, values in gauges:
                family = GaugeMetricFamily(name, text, labels=labels)
                for given, value in values:
                    family.add_metric(given, value)
                yield family

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    return generate_latest(registry)


def _counted(counted: Tables) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    labels = ("queue", "task")
    jobs = CounterMetricFamily("bananas_jobs", "Runs that ended, and jobs that ended without one.", labels=(*labels, "outcome"))
    wait = HistogramMetricFamily("bananas_job_wait_seconds", "How long jobs were ready before a worker took them.", labels=labels)
    ran = HistogramMetricFamily("bananas_job_run_seconds", "How long handlers ran.", labels=labels)
    for queue, tasks in sorted(counted.items()):
        for task, counts in sorted(tasks.items()):
            for name, count in zip(OUTCOMES, counts.outcomes, strict=True):
                jobs.add_metric((queue, task, name), count)
            for family, spread in ((wait, counts.wait), (ran, counts.run)):
                family.add_metric((queue, task), _buckets(spread), spread.total_ms / 1000)
    yield from (jobs, wait, ran)


def _buckets(spread: Spread) -> list[tuple[str, float]]:
    found, count = [], 0
    for index, bound in enumerate(BOUNDS_MS):
        count += spread.buckets[index]
        if index % 2 == 0:
            found.append((f"{bound / 1000:g}", float(count)))
    return [*found, ("+Inf", float(spread.count))]
