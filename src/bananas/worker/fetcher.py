"""The fetch loop: turns at the server while there is something to do, the marker when there is not.

A turn is one write: settlements of every queue, then one claim for the free slots. One turn is in flight at a time; whatever ends
meanwhile is the next batch, so a busy worker batches by itself and an idle one sends at once. There is no linger.

    1. send: undo of a lost claim, unanswered settlements, promote what is due, claim
    2. hand the claimed jobs to the runner
    3. wait for an outcome, a free slot, a marker, a due time, or the end

When no queue is hungry, the waiter blocks on the markers of all queues (at most `BLOCK_S`), over a connection of its own with a hard
deadline (waiter.py). After every wake, timeout, error and reconnect: claim.

A turn whose reply is lost is of unknown fate: its settlements are sent again under the same number, its claim is undone by `recover`.

A fetcher talks to one server. On a Cluster each slot has one (intake.py), and they share the slots of the runner (sharing.py).
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from functools import partial

import structlog

from bananas import broker
from bananas.address import Address
from bananas.broker import EVERYTHING, Filter
from bananas.connection import Connection, ConnectionLost
from bananas.errors import BananasError
from bananas.session import backoff, open_checked, run
from bananas.worker.claiming import Claiming
from bananas.worker.runner import Runner
from bananas.worker.served import Rotation, Served
from bananas.worker.settler import Sent
from bananas.worker.sharing import Sharing
from bananas.worker.table import LeaseTable
from bananas.worker.turn import Turn
from bananas.worker.vitals import Pulse
from bananas.worker.waiter import Waiter

LAST_COUNTS_S = 1.0
EARLY_S, LEAVE_S = 0.05, 0.1
SUSPECT_WAIT_S, LONGEST_SUSPECT_PAUSE_S = 30.0, 300.0
TURN_TIMEOUT_S, SHARED_TURN_TIMEOUT_S = 5.0, 2.0  # shorter where other servers want the slots that a claim may fill
log = structlog.get_logger("bananas.worker")


class Fetcher:
    """Feeds one runner from one server.

    Args:
        queues: the queues on this server.
        rotation: whose turn it is, among the queues of all fetchers.
        wanted: which jobs this worker takes.

    Attributes:
        sharing: with whom it shares the slots; None where there is one server.
        asking: how many slots a claim under way may fill.
        burst: end when nothing is ready or running.
    """

    def __init__(
        self,
        address: Address,
        boot: str,
        queues: Sequence[Served],
        rotation: Rotation,
        runner: Runner,
        table: LeaseTable,
        *,
        lease_ms: int,
        wanted: Filter = EVERYTHING,
    ) -> None:
        self.boot, self.queues = boot, list(queues)
        self.sharing: Sharing | None = None
        self.asking = 0
        self._slot = queues[0].keys.slot
        self._address, self._runner, self._table = address, runner, table
        self._rotation = rotation
        self._connection: Connection | None = None
        self._claiming = Claiming(boot, runner, table, self._due, lease_ms=lease_ms, wanted=wanted)
        self._waiter = Waiter(address, self._slot, boot, self, self._claiming)
        self._event = asyncio.Event()
        self._suspect_since = self._suspect_pause_s = 0.0
        self._count_timer: asyncio.TimerHandle | None = None
        self.pulse = Pulse()
        for served in queues:
            served.leave_in = partial(self._leave_later, served)
        self.accepting = True
        self.burst = self.stopping = False

    def begin(self, *, promotes: bool, burst: bool, accepting: bool) -> None:
        """How it works: see the attributes. Before `run`."""
        self._claiming.promotes, self.burst, self.accepting = promotes, burst, accepting

    # --- what wakes the loop ---

    def changed(self) -> None:
        """A slot became free, a settlement waits, or the worker is to stop."""
        self._event.set()

    def make_hungry(self, served: Served) -> None:
        """This queue may have jobs."""
        served.hungry = True
        self._event.set()

    def _due(self, served: Served) -> None:
        served.forget_due()
        served.due = self._claiming.promotes
        self.make_hungry(served)

    # --- the loop ---

    async def run(self) -> None:
        """Turn after turn, until the worker is stopped and everything is settled."""
        failures = 0
        while True:
            self._event.clear()
            self.pulse.step()
            served = self._next_claim()
            if self._suspect_turn():
                await self._run_suspect()
            elif served is not None or self.settling or self._repairing() or self._counted():
                failures = await self._turn_safely(served, failures)
            elif self._finished():
                await self._send_last_counts()
                break
            else:
                self._count_later()
                waits = self.accepting and self._runner.free > 0 and not self._runner.suspects
                self.pulse.step(resting=not waits)
                if waits:
                    self._waiter.idle.set()
                await self._event.wait()
                self._waiter.idle.clear()
        if self.sharing is not None:
            self.sharing.wake()

    def _next_claim(self) -> Served | None:
        if not self.accepting or self._runner.free <= 0 or self._runner.suspects or self._runner.alone:
            return None
        if self._table.room < self._runner.free:
            return None
        now = asyncio.get_running_loop().time()
        return self._rotation.pick(now) if self.sharing is None else self.sharing.next_for(self, now)

    @property
    def settling(self) -> bool:
        """Whether outcomes, or a marker, wait to be sent."""
        return any(served.settler or served.rearm or served.notes for served in self.queues)

    def _repairing(self) -> bool:
        """Whether a claim is to be undone, or jobs are due while one stands at the server."""
        return self.sharing is None and any(  # of several servers, one may be away: that waits for its next claim
            served.lost_turn or (served.due and self._waiter.stands) for served in self.queues
        )

    def _counted(self) -> bool:
        """Whether what was counted is to be sent."""
        now = time.monotonic()
        return any(served.counting.due_in_s(now) == 0 for served in self.queues)

    def _count_later(self) -> None:
        """What was counted is sent soon, should nothing else be."""
        in_s = min(served.counting.due_in_s(time.monotonic()) for served in self.queues)
        if in_s != float("inf") and self._count_timer is None:
            self._count_timer = asyncio.get_running_loop().call_later(in_s, self._count_now)

    def _count_now(self) -> None:
        self._count_timer = None
        self.changed()

    async def _send_last_counts(self) -> None:
        """Not worth waiting for where the server does not answer."""
        for served in self.queues:
            served.counting.hasten()
        if self._counted():
            with contextlib.suppress(TimeoutError, ConnectionLost, BananasError):
                await asyncio.wait_for(self._turn(None), LAST_COUNTS_S)

    def _finished(self) -> bool:
        """Nothing is left to do, and nothing more will come."""
        idle = self._runner.idle and not self._runner.suspects
        if idle and self.burst and self.accepting and not self._rotation.hungry:
            log.info("burst: nothing is ready or running")
            return True
        return idle and self.stopping and not (self.sharing is not None and self.sharing.asks)

    async def _turn_safely(self, served: Served | None, failures: int) -> int:
        if self.sharing is None:
            return await self._try_turn(served, failures)
        for queue in self.queues:
            queue.busy = True
        self.sharing.wake()  # it was our turn; whose it is now need not wait for our server
        try:
            return await self._try_turn(served, failures)
        finally:
            for queue in self.queues:
                queue.busy = False
            self.sharing.wake()

    async def _try_turn(self, served: Served | None, failures: int) -> int:
        try:
            await self._turn(served)
            self.pulse.answer()
            return 0
        except (ConnectionLost, BananasError) as error:  # one that is unsuitable now (another policy, a certificate) may be mended
            self.pulse.fail()
            for queue in () if self.accepting else self.queues:
                queue.rearm = False  # a hint for others, not worth waiting for
                queue.lost_turn = 0 if self.stopping else queue.lost_turn  # its jobs are ready when their leases end
            if served is not None:
                served.hungry = True
            if failures in (0, 5) or failures % 60 == 0:
                log.warning("the server does not answer, trying on", reason=str(error), tries=failures + 1)
            await asyncio.sleep(backoff(failures))
            return failures + 1

    async def _turn(self, served: Served | None) -> None:
        connection, turn = await self._connected(), Turn()
        began = time.monotonic()
        claims = served is not None and not served.lost_turn  # should the server lack the script of the undoing, that comes after all else
        for queue in self.queues:
            if queue.lost_turn:
                turn.add(self._claiming.undo(queue), partial(self._claiming.undone, queue))
            self._add_settlements(queue, turn)
            if queue.due and ((claims and queue is served) or self._waiter.stands):
                turn.add(broker.promote(queue.keys), partial(self._promoted, queue))
        if claims and served is not None:
            self._add_claim(served, turn, began)
        for queue in self.queues:
            if queue.counting.due_in_s(began) == 0:
                turn.add(queue.counting.request(began), queue.counting.answered, vital=False)
        try:
            replies = await run(connection, turn.requests, TURN_TIMEOUT_S if self.sharing is None else SHARED_TURN_TIMEOUT_S)
        except ConnectionLost:
            if served is not None:
                served.lost_turn = served.turn
            raise
        finally:
            self.asking = 0
        turn.read(replies)

    async def _connected(self) -> Connection:
        connection = self._connection
        if connection is None or connection.closed:
            connection = await open_checked(self._address, f"bananas:worker:{self.boot}", TURN_TIMEOUT_S, slot=self._slot)
            self._connection = connection
        return connection

    def _add_settlements(self, served: Served, turn: Turn) -> None:
        full = self._table.server_full
        batches = served.settler.batches(full) if served.settler else []
        if served.notes.used:
            served.notes.add_to(turn, batches, full=full, connection=self._connection)
        for sent in batches:
            turn.add(sent.request, partial(self._settled, served, sent))
        if served.rearm:
            turn.add(broker.rearm(served.keys), served.rearmed)

    def _settled(self, served: Served, sent: Sent, held: list[bool]) -> None:
        served.settler.answered(sent)
        self._table.drop(*[settlement.slot for settlement in sent.settlements])
        for settlement, accepted in zip(sent.settlements, held, strict=True):
            if not accepted:
                log.warning("lease lost before its job was settled: nothing was changed", queue=served.keys.name)
            elif settlement.accepted is not None:
                settlement.accepted()

    def _add_claim(self, served: Served, turn: Turn, began: float) -> None:
        most = min(self._runner.free if self.sharing is None else self.sharing.room(), broker.SUBMIT_BATCH)
        if self.sharing is not None:
            self.asking = most
        turn.add(self._claiming.request(served, most), partial(self._claiming.answered, served, began))

    def _promoted(self, served: Served, moved: tuple[int, int]) -> None:
        served.due = moved[1] == 0

    # --- suspects ---

    def _suspect_turn(self) -> bool:
        """Whether a suspect can run now: alone, so nothing else runs and nothing waits to be settled."""
        suspects = self._runner.suspects
        if not suspects:
            self._suspect_since = 0.0
            return False
        self._waiter.withdraw()
        if not self._suspect_since:
            self._suspect_since = time.monotonic()
            asyncio.get_running_loop().call_later(SUSPECT_WAIT_S, self.changed)
        if not self.accepting:
            while suspects:
                self._runner.outcomes.release(suspects.pop())
            return False
        if time.monotonic() - self._suspect_since > SUSPECT_WAIT_S:
            delay_s = self._suspect_pause_s = min(LONGEST_SUSPECT_PAUSE_S, 2 * self._suspect_pause_s or SUSPECT_WAIT_S)
            while suspects:
                self._runner.outcomes.postpone(suspects.pop(), delay_s)
            return False
        if self.sharing is not None and (suspects[0].served not in self.queues or self.sharing.asks or self.sharing.settling):
            return False
        return self._runner.idle and not self.settling and not self._repairing()

    async def _run_suspect(self) -> None:
        claimed = self._runner.suspects.pop(0)
        self._suspect_since, self._suspect_pause_s = time.monotonic(), 0.0
        self._runner.alone = True
        try:
            connection = await self._connected()
            (held,) = await run(connection, [broker.isolate(claimed.served.keys, claimed.member)], TURN_TIMEOUT_S)
        except (ConnectionLost, BananasError):
            held = None
        if held is True:
            log.info("running a suspect alone", job=claimed.public, crashes=claimed.tries.crashes)
            self._runner.start_alone(claimed)
            return
        self._runner.alone = False
        if held is False:
            self._table.drop(claimed.slot)
        else:
            self._runner.outcomes.release(claimed)

    # --- idle ---

    async def wait_for_markers(self) -> None:
        """The waiter's loop."""
        await self._waiter.run()

    def room_ahead(self) -> int:
        """How many jobs claims may ask for that stand at the server until there are some; 0: they may not stand there."""
        if self.sharing is not None or self.burst or not self.accepting or self._runner.suspects or self._runner.alone:
            return 0
        if any(served.hungry or served.due or served.lost_turn for served in self.queues):
            return 0
        return max(0, min(self._runner.free, self._table.room))

    def doubt(self) -> None:
        """The server may be silent: where others want the slots that a claim may fill, it shall answer to a new connection first."""
        if self.sharing is not None and self._connection is not None and not any(served.busy for served in self.queues):
            self._connection.close()

    def fed(self) -> None:
        """The server answered; what it had was handed over."""
        self.pulse.answer()
        self._event.set()

    def woken(self, served: Served | None) -> None:
        """This queue may have jobs, or, after a while, any."""
        self._waiter.idle.clear()
        if served is None:
            for each in self.queues:
                each.hungry = True
            self._event.set()
            return
        if not self.accepting or self._runner.free <= 0:
            served.rearm = True
        served.popped = True
        self.make_hungry(served)

    def _leave_later(self, served: Served, in_s: float) -> None:
        """A job comes back then that this worker can do nothing with: others shall be first to look at it."""
        if not served.leaving:
            served.leaving = True
            asyncio.get_running_loop().call_later(max(0.0, in_s - EARLY_S), self._leave, served)

    def _leave(self, served: Served) -> None:
        loop, seconds = asyncio.get_running_loop(), EARLY_S + LEAVE_S
        served.leaving, served.resting_until = False, loop.time() + seconds
        loop.call_later(seconds + 0.005, self.make_hungry, served)  # a loop's timers may be early by a millisecond
        self._waiter.interrupt()

    def stop_accepting(self) -> None:
        """Claim no more; markers go back, so that others wake."""
        self.accepting = False
        self._waiter.withdraw()
        for served in self.queues:
            served.rearm = True
            served.forget_due()
        self.changed()

    def stop(self) -> None:
        """Claim no more, and end when everything is settled."""
        self.stopping = True
        self.stop_accepting()

    def close(self) -> None:
        """Close its connections."""
        self._waiter.close()
        if self._connection is not None:
            self._connection.close()
