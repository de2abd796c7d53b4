"""Table 4: what a claim takes when the queue is deep. What was claimed is completed, and as many jobs follow at the end of the queue."""

import time
from functools import partial

from bananas import broker
from bananas.bench.load import Load
from bananas.bench.operations import BOOT, Driver, members
from bananas.bench.percentiles import US, percentile_figures
from bananas.bench.session import Bench
from bananas.bench.sizes import Sizes
from bananas.bench.table import Figure, Goal, Row, Table
from bananas.broker import Ending

KEY = "depth"
SHARES = (50, 95, 99)
BATCHES = (1, 100)
COLUMNS = tuple(f"claim {batch}, p{share}" for batch in BATCHES for share in SHARES)
FACTORS = {1: 1.25, 100: 2.2}


def _claims(driver: Driver, count: int) -> dict[int, list[int]]:
    """Samples in ns, by batch."""
    found: dict[int, list[int]] = {batch: [] for batch in BATCHES}
    for batch, samples in found.items():
        for _ in range(count):
            request = driver.claim(batch)
            began = time.monotonic_ns()
            claim = driver.call(request)
            samples.append(time.monotonic_ns() - began)
            assert len(claim.bodies) == batch, f"a claim of {batch} gave {len(claim.bodies)}"
            endings = [Ending(member) for member in members(claim)]
            driver.call(broker.complete(driver.keys, BOOT, driver.number(), endings, full=False, dropped=b""))
            driver.call(broker.enqueue(driver.keys, BOOT, driver.number(), driver.jobs(batch)))
    return found


def _row(depth: int, runs: list[dict[int, list[int]]]) -> Row:
    cells = [cell for batch in BATCHES for cell in percentile_figures([run[batch] for run in runs], SHARES, "us", US)]
    return Row(f"{depth:,} queued", dict(zip(COLUMNS, cells, strict=True)))


def goal_text(batch: int, depths: tuple[int, ...]) -> str:
    """The words of a goal."""
    return f"A claim of {batch} at {depths[-1]:,} queued: p50 at most {FACTORS[batch]} times that at {depths[0]:,}"


def _goals(rows: tuple[Row, ...], depths: tuple[int, ...]) -> list[Goal]:
    """The deepest against the shallowest."""
    found = []
    for batch, factor in FACTORS.items():
        shallow, deep = (row.cells[f"claim {batch}, p50"] for row in (rows[0], rows[-1]))
        if isinstance(shallow, Figure) and isinstance(deep, Figure):
            ratio = deep.headline / shallow.headline
            found.append(Goal(goal_text(batch, depths), ratio <= factor, f"{ratio:.2f}x"))
    return found


def measure(bench: Bench, sizes: Sizes) -> Table:
    """Claim one job and 100 from queues of 100 to 1,000,000."""
    with bench.server() as serving:
        drivers: dict[int, Driver] = {}
        for depth in sizes.depths:
            bench.load(serving.url, Load(kind="bulk", count=depth, queue=f"d{depth}"))
            drivers[depth] = Driver(serving, f"d{depth}", bench.transports[0])
        variants = {f"{depth:,}": partial(_claims, driver, sizes.claims) for depth, driver in drivers.items()}
        outcomes = bench.interleaved(KEY, variants)
        for driver in drivers.values():
            driver.close()
    rows = tuple(_row(depth, outcomes[f"{depth:,}"]) for depth in sizes.depths)
    return Table(
        KEY,
        "Depth",
        "Does a claim take longer when more jobs are queued?",
        COLUMNS,
        rows,
        (
            (
                f"Jobs of 100 B, one connection ({bench.transports[0]}), {sizes.claims:,} claims of each size per repetition, of jobs "
                "that nobody has touched since they were queued; the queues of all depths are on one server, filled once."
            ),
        ),
        tuple(_goals(rows, sizes.depths)),
        plot="claim 1, p50",
    )
