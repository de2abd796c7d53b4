"""The model of test_model.py, with what people do to jobs by name mixed in: unique keys, changes of priority and time, cancels, deletions.

So that most steps find something to work on, a run starts with some jobs of each kind, and a rule waits for what it needs. Each claim
pops the marker first, as a worker that waited does: so the marker must come back whenever something is left.
"""

from contextlib import closing

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test
from tests.broker.test_model import LEASE, BrokerMachine

from bananas import broker
from bananas.broker import KeptResult, NewJob
from bananas.connection import SyncConnection, parse_url
from bananas.keys import id_suffix, new_id
from bananas.server import PrivateServer

ALIVE = ("ready", "scheduled", "leased")
PLACES = st.sampled_from([*ALIVE, "dead"])
running = precondition(lambda self: self.some("leased", 1))
failed = precondition(lambda self: self.some("dead", 1))
PRIORITIES = st.sampled_from([0, 300, 500, 1000])


class ByNameMachine(BrokerMachine):
    """Beside its base: the priority that each job has now, the unique key that it came with, and who is asked to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.prio: dict[str, int] = {}
        self.key_of: dict[str, str] = {}
        self.asked: set[str] = set()

    complete, retry = running(BrokerMachine.complete), running(BrokerMachine.retry)
    release, crash = running(BrokerMachine.release), running(BrokerMachine.crash)

    @initialize()
    def begin(self) -> None:
        """Some of each kind, one of them with a unique key and one dead of it."""
        self.enqueue_unique("a", 0)
        super().claim(1)
        super().bury()
        self.enqueue_unique("a", 0)
        self.enqueue([100, 500, 500, 900], 0)
        super().claim(3)
        self.enqueue([500, 500], 4_000)

    @rule(paused=st.sampled_from([True, False, False, False]))
    def pause(self, paused: bool) -> None:
        super().pause(paused)

    def ready(self, job_id: str, at_ms: int) -> None:
        self.where[job_id], self.score[job_id] = "ready", (self.prio.get(job_id, int(job_id[40:], 16)), at_ms, job_id)

    def holder(self, key: str) -> str | None:
        """The job that is alive under this key."""
        return next((job_id for job_id, theirs in self.key_of.items() if theirs == key and self.where.get(job_id) in ALIVE), None)

    @rule(most=st.integers(1, 6))
    def claim(self, most: int) -> None:
        self.connection.execute([("ZPOPMIN", self.keys.wake)], 5)
        super().claim(most)

    @rule(key=st.sampled_from("ab"), delay=st.sampled_from([0, 3_000]))
    def enqueue_unique(self, key: str, delay: int) -> None:
        job_id, holder = new_id(id_suffix("task", 500)), self.holder(key)
        ids = self.ask(broker.enqueue(self.keys, "client", self.turn(), [NewJob(job_id, f"body of {job_id}".encode(), delay, key)]))
        assert ids == (holder and [holder])
        if holder is None:
            self.key_of[job_id] = key
            if delay:
                self.where[job_id], self.due[job_id] = "scheduled", self.now + delay
            else:
                self.ready(job_id, self.now)

    @failed
    @rule()
    def replay(self) -> None:
        for job_id in self.some("dead", 2):
            key = self.key_of.get(job_id)
            taken = key is not None and self.holder(key) is not None
            assert self.ask(broker.replay(self.keys, [job_id])) == ("u" if taken else "e")
            if not taken:
                self.ready(job_id, self.now)

    @rule(place=PLACES, priority=PRIORITIES)
    def reprioritize(self, place: str, priority: int) -> None:
        ids = self.some(place, 2)
        code = {"ready": "r", "scheduled": "s", "leased": "l", "dead": "d"}[place]
        assert self.ask(broker.reprioritize(self.keys, priority, ids)) == code * len(ids)
        self.prio |= dict.fromkeys(ids, priority)
        for job_id in ids:
            if place in ("ready", "leased"):  # a lease returns to the time at which it was claimed
                self.score[job_id] = (priority, *self.score[job_id][1:])

    @rule(place=PLACES, delay=st.sampled_from([0, 1, 4_000]))
    def reschedule(self, place: str, delay: int) -> None:
        ids = self.some(place, 2)
        code = {"leased": "l", "dead": "d"}.get(place, "e")
        assert self.ask(broker.reschedule(self.keys, delay, ids)) == code * len(ids)
        for job_id in ids if code == "e" else []:
            if delay:
                self.where[job_id], self.due[job_id] = "scheduled", self.now + delay
            elif place == "scheduled":
                self.ready(job_id, self.now)

    @running
    @rule()
    def stop_running(self) -> None:
        ids = self.some("leased", 2)
        assert self.ask(broker.cancel(self.keys, ids, KeptResult(1_000, b"cancelled"), running=True)) == "m" * len(ids)
        self.asked |= set(ids)

    @running
    @rule()
    def bury(self) -> None:
        super().bury()
        self.asked -= set(self.some("dead", 10_000))

    @running
    @rule()
    def extend(self) -> None:
        ids = self.some("leased", 10_000)
        extension = self.ask(broker.extend(self.keys, LEASE, [self.member[job_id] for job_id in ids]))
        self.beat()
        assert (extension.held, extension.cancelled) == ([True] * len(ids), [job_id in self.asked for job_id in ids])
        for job_id in ids:
            self.lease[job_id] = (self.lease[job_id][0], max(self.lease[job_id][1], self.now + LEASE))

    @failed
    @rule()
    def discard(self) -> None:
        ids = self.some("dead", 1)
        assert self.ask(broker.discard(self.keys, [*ids, *self.some("ready", 1)])) == len(ids)
        for job_id in ids:
            del self.where[job_id]

    @invariant()
    def every_score_is_the_models(self) -> None:
        keys = self.keys
        found = self.connection.execute([("ZRANGE", name, 0, -1, "WITHSCORES") for name in (keys.ready, keys.scheduled, keys.leases)], 5)
        ready, due, expiry = ({item[:43].decode(): int(score) for item, score in zip(part[::2], part[1::2], strict=True)} for part in found)
        assert ready == {job_id: self.score[job_id][0] * 2**42 + self.score[job_id][1] for job_id in self.some("ready", 10_000)}
        assert due == {job_id: self.due[job_id] for job_id in self.some("scheduled", 10_000)}
        assert expiry == {job_id: self.lease[job_id][1] for job_id in self.some("leased", 10_000)}

    @invariant()
    def nothing_is_kept_of_jobs_that_are_gone(self) -> None:
        names = [self.keys.base + name for name in ("prio", "unique", "cancelled", "tries")]
        prio, unique, cancelled, tries = self.connection.execute(
            [("HGETALL", names[0]), ("HGETALL", names[1]), ("SMEMBERS", names[2]), ("HKEYS", names[3])], 5
        )
        changed = {job_id.decode(): int(value) for job_id, value in zip(prio[::2], prio[1::2], strict=True)}
        assert changed == {job_id: priority for job_id, priority in self.prio.items() if job_id in self.where}
        named = {name.decode(): value.decode() for name, value in zip(unique[::2], unique[1::2], strict=True)}
        kept = {job_id: key for job_id, key in self.key_of.items() if job_id in self.where}
        assert named == kept | {f"={key}": holder for key in "ab" if (holder := self.holder(key)) is not None}
        assert {item.decode() for item in cancelled} == {job_id for job_id in self.asked if job_id in self.where}
        assert {item.decode() for item in tries} <= set(self.where)

    @invariant()
    def somebody_is_woken_while_there_is_something_to_do(self) -> None:
        (armed,) = self.connection.execute([("EXISTS", self.keys.wake)], 5)
        if self.paused:
            assert not armed
        elif self.some("ready", 1):
            assert armed


def test_no_order_of_changes_by_name_loses_a_job_or_leaves_something_behind(server: PrivateServer) -> None:
    health = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    with closing(SyncConnection(parse_url(server.url))) as ByNameMachine.connection:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            ByNameMachine, settings=settings(max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=health)
        )
