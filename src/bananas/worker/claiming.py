"""Claims of one fetcher: how jobs are asked for, how a claim is undone whose reply was lost, and how what came reaches the runner."""

import time
from collections.abc import Callable

import structlog

from bananas import broker
from bananas.broker import Claim, Filter, Request
from bananas.codec import unpack_tries
from bananas.worker.run import Claimed, Grant
from bananas.worker.runner import Runner
from bananas.worker.served import FAIR_EVERY, Served
from bananas.worker.table import LeaseTable

_COMPARED_S = 60.0  # how long a comparison of two clocks counts: they drift apart by some ms an hour, and one is set at times
log = structlog.get_logger("bananas.worker")


class Claiming:
    """Asks for jobs in one worker process's name. One claim of a queue is under way at a time: their numbers say which is void.

    Args:
        due: called when scheduled jobs of a queue are due.
        wanted: which jobs this worker takes.

    Attributes:
        promotes: scheduled jobs that are due are this worker's business too.
    """

    def __init__(
        self, boot: str, runner: Runner, table: LeaseTable, due: Callable[[Served], None], *, lease_ms: int, wanted: Filter
    ) -> None:
        self.promotes = True
        self._boot, self._runner, self._table, self._due = boot, runner, table, due
        self._lease_ms, self._wanted = lease_ms, wanted
        self._compared_at, self._server_ms = float("-inf"), 0

    def request(self, served: Served, most: int) -> Request[Claim]:
        """Ask for at most so many jobs of a queue."""
        served.turn += 1
        cursor = 0 if served.turn % FAIR_EVERY == 0 else served.cursor
        return broker.claim(served.keys, self._boot, served.turn, most, self._lease_ms, wanted=self._wanted, cursor=cursor)

    def undo(self, served: Served) -> Request[int]:
        """Ask to undo the claim whose reply was lost."""
        return broker.recover(served.keys, self._boot, served.lost_turn, served.fence)

    def undone(self, served: Served, count: int) -> None:
        """A lost claim is undone: so many jobs are ready again."""
        served.lost_turn = 0
        if count:
            log.info("a claim whose reply was lost is undone", queue=served.keys.name, jobs=count)

    # --- answered ---

    def answered(self, served: Served, asked_at: float, claim: Claim) -> None:
        """A claim was answered that was sent at `asked_at` (monotonic seconds) and that the server ran then."""
        self._compared_at, self._server_ms = asked_at, claim.now_ms
        self._take(served, asked_at, claim)

    @property
    def compared(self) -> bool:
        """Whether the server's clock was compared with ours of late."""
        return time.monotonic() < self._compared_at + _COMPARED_S

    def answered_late(self, served: Served, sent_at: float, claim: Claim) -> None:
        """A claim was answered that had waited at the server since `sent_at`: by the clocks, it was run no earlier than this.

        Should the server's clock have been set since they were compared, then between its sending and now all the same.
        """
        by_clock = self._compared_at + (claim.now_ms - self._server_ms) / 1000
        self._take(served, max(sent_at, min(by_clock, time.monotonic())), claim)

    def _take(self, served: Served, asked_at: float, claim: Claim) -> None:
        got = len(claim.bodies)
        served.hear(claim, promotes=self.promotes)
        served.expect_due(claim.next_due_ms if claim.next_due_ms != 0 else -1, self._due)
        if not got:
            return
        served.fence = claim.fence
        grant = Grant(served, claim.fence, claim.now_ms, asked_at, time.monotonic())
        owner = f":{self._boot}:{claim.fence:010d}".encode()
        ids, scores = claim.ids_and_scores[: 2 * got : 2], claim.ids_and_scores[1 : 2 * got : 2]
        served.counting.claimed(claim.now_ms, ids, scores)
        members = [job_id + owner for job_id in ids]
        slots = self._table.hold(served.index, members, scores)
        jobs = [Claimed(grant, *parts) for parts in zip(members, scores, slots, claim.bodies, strict=True)]
        for job, tries in zip(jobs, claim.tries, strict=False):
            job.tries = unpack_tries(tries)
        for job, cancelled in zip(jobs, claim.cancelled, strict=False):
            job.cancelled = bool(cancelled)
        self._runner.take(jobs)
