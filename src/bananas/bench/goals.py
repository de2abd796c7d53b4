"""Every goal of the report by its table, so that one that a run did not measure is told, and its silence not taken for success."""

from bananas.bench import clients, contest, cost, depth, drain, end_to_end, latency, report, submission, watched, workloads
from bananas.bench.sizes import FULL


def every_goal() -> dict[str, tuple[str, ...]]:
    """The words of all goals, by the key of the table that has them, in the order of the report."""
    judged = (submission, end_to_end, clients, latency, cost, workloads)
    found = {module.KEY: tuple(aim.text for aim in module.AIMS) for module in judged}
    found[drain.KEY] = (*(aim.text for aim in drain.AIMS), *map(drain.two_text, drain.SIZES), *map(report.half_text, drain.SIZES))
    found[depth.KEY] = tuple(depth.goal_text(batch, FULL.depths) for batch in depth.FACTORS)
    found[watched.KEY] = tuple(map(watched.goal_text, watched.WATCHED))
    found[contest.KEY] = tuple(wanted.text for wanted in contest.WANTED)
    return {key: found[key] for key in ORDER}


ORDER = tuple(module.KEY for module in (submission, end_to_end, drain, depth, clients, latency, cost, workloads, watched, contest))
