"""Rules about tasks and their jobs: failures, timeouts, sizes, and what nobody knows. Pure."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator

from bananas.operate.advice.facts import Advice, Figure, Level, Sample, Snapshot, listed
from bananas.operate.why import span

FEW_RUNS, FAILING, FAILING_BADLY = 20, 0.2, 0.5
NEAR_TIMEOUT = 0.8  # percentiles are off by a fifth at most, and runs are cut at their timeout
LARGE_BYTES, HUGE_BYTES = 32 * 1024, 256 * 1024
DEAD_NEAR = 0.8


def failing(at: Snapshot) -> Iterator[Advice]:
    """A task of which many runs fail."""
    minutes = _minutes(at)
    for each in at.recent.tasks:
        failed, runs = each.retried + each.dead, each.success + each.retried + each.dead
        if runs < FEW_RUNS or failed < FAILING * runs:
            continue
        share, level = failed / runs, "error" if failed >= FAILING_BADLY * runs else "warning"
        why = f"{failed:,} of {runs:,} runs ({share:.0%}) failed in the last {minutes} min, {each.dead:,} of them for good."
        action = (
            f"bananas errors 'task:{each.task}' groups them by error and place. When the cause is mended: "
            f"bananas jobs 'state:dead task:{each.task}' --retry."
        )
        figures: dict[str, Figure] = {"runs": runs, "failed": failed, "dead": each.dead, "share": round(share, 3)}
        yield Advice("failing", _level(level), each.queue, each.task, f"Task {each.task} fails", why, action, figures)


def _level(text: str) -> Level:
    return "error" if text == "error" else "warning"


def timeouts(at: Snapshot) -> Iterator[Advice]:
    """A task whose runs take as long as they may."""
    told = _timeouts(at)
    for each in at.recent.tasks:
        timeout_s = told.get((each.queue, each.task)) or at.timeouts.get(each.task)
        if each.run is None or each.run.count < FEW_RUNS or not timeout_s or each.run.p99_ms < NEAR_TIMEOUT * timeout_s * 1000:
            continue
        p50_s, p99_s = each.run.p50_ms / 1000, each.run.p99_ms / 1000
        why = (
            f"Of {each.run.count:,} runs in the last {_minutes(at)} min, one in a hundred took {span(p99_s * 1000)} or "
            "longer (half of them "
            f"{span(p50_s * 1000)}), and a run is ended after {timeout_s:g} s."
        )
        action = (
            f"Raise the task's timeout (or job_timeout, which holds where it has none) well above {span(p99_s * 1000)}, or "
            "make the task shorter."
        )
        figures: dict[str, Figure] = {
            "timeout_s": timeout_s,
            "p50_s": round(p50_s, 3),
            "p99_s": round(p99_s, 3),
            "runs": each.run.count,
        }
        title = f"Task {each.task} runs into its timeout"
        yield Advice("timeout", "warning", each.queue, each.task, title, why, action, figures)


def _timeouts(at: Snapshot) -> dict[tuple[str, str], float | None]:
    """The usual timeout of jobs that wait, by queue and task."""
    found: dict[tuple[str, str], Counter[float | None]] = defaultdict(Counter)
    for sample in at.samples:
        found[sample.queue, sample.task][sample.timeout_s] += 1
    return {where: counted.most_common(1)[0][0] for where, counted in found.items()}


def payloads(at: Snapshot) -> Iterator[Advice]:
    """A task whose jobs are large."""
    for (queue, task), sizes in _sizes(at).items():
        usual, largest = statistics.median(sizes), max(sizes)
        if usual < LARGE_BYTES and largest < HUGE_BYTES:
            continue
        why = (
            f"Of {len(sizes):,} waiting job(s) that were looked at, half take {_kib(usual)} or more, the largest "
            f"{_kib(largest)}, as they are stored."
        )
        shrink = "" if at.compressed else ", or set compression=zstd (extra zstd)"
        action = (
            "A queue moves fewer large jobs per second, and the server holds them all: pass a reference (a key, a URL) "
            f"instead of the data{shrink}. "
            "max_payload_bytes is the limit that submits are held to."
        )
        figures: dict[str, Figure] = {"sampled": len(sizes), "median_bytes": int(usual), "largest_bytes": largest}
        level: Level = "warning" if usual >= HUGE_BYTES else "hint"
        yield Advice("payload", level, queue, task, f"Jobs of {task} are large", why, action, figures)


def _sizes(at: Snapshot) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for sample in at.samples:
        found[sample.queue, sample.task].append(sample.size_bytes)
    return found


def _kib(size_bytes: float) -> str:
    return f"{size_bytes / 1024:,.0f} KiB"


def unknown(at: Snapshot) -> Iterator[Advice]:
    """Jobs wait that no worker of their queue knows the task of."""
    waiting: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in at.samples:
        waiting[sample.queue, sample.task].append(sample)
    for (queue, task), samples in waiting.items():
        hands = at.hands(queue)
        if not hands or any(task in worker.tasks for worker in hands):
            continue
        why = (
            f"{len(samples):,} of the waiting jobs that were looked at are of it, and none of the {len(hands)} worker(s) of "
            f"queue {queue} knows it."
        )
        action = (
            "Start a worker with the code of that task, or deploy it: until then they are handed back, and are dead after unknown_task_ttl."
        )
        figures: dict[str, Figure] = {"sampled": len(samples), "workers": len(hands)}
        yield Advice("unknown_task", "error", queue, task, f"No worker knows task {task}", why, action, figures)


def overdue(at: Snapshot) -> Iterator[Advice]:
    """Runs that go on beyond their timeout, and keep their slots."""
    for worker in at.workers:
        if not worker.overdue:
            continue
        tasks = sorted({run.task for run in worker.runs if run.overdue})
        what = f" ({listed(tasks)})" if tasks else ""
        why = (
            f"{len(worker.overdue)} run(s){what} of worker {worker.host}:{worker.pid} are beyond their timeout, and keep "
            f"{len(worker.overdue)} of its {worker.slots} slot(s)."
        )
        action = (
            "A thread cannot be ended from outside: declare such a task with isolation='process', or give its calls timeouts of their own."
        )
        figures: dict[str, Figure] = {"overdue": len(worker.overdue), "slots": worker.slots}
        title = f"Runs on {worker.host}:{worker.pid} do not end"
        yield Advice("overdue", "warning", "", tasks[0] if len(tasks) == 1 else "", title, why, action, figures)


def dead_letters(at: Snapshot) -> Iterator[Advice]:
    """A queue whose dead letters come to the number that is kept."""
    for queue in at.queues:
        most = at.dead_max_count * queue.shards
        if queue.dead < DEAD_NEAR * most:
            continue
        why = f"{queue.dead:,} dead jobs are kept, of {most:,} (dead_max_count): then the oldest are deleted."
        action = f"bananas errors 'queue:{queue.name} state:dead' says what they are; retry or delete them, or raise dead_max_count."
        figures: dict[str, Figure] = {"dead": queue.dead, "most": most}
        yield Advice("dead_letters", "warning", queue.name, "", f"Dead letters of queue {queue.name} are nearly full", why, action, figures)


def _minutes(at: Snapshot) -> int:
    return len(at.recent.points) * at.recent.step_s // 60


RULES = (unknown, failing, timeouts, payloads, overdue, dead_letters)
