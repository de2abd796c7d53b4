"""The whole broker against a model, under a clock of the test: no job lost, none in two places, claims in order, nothing left behind.

The transitions of workers (claim to settle, crash, reclaim) and what people do to jobs by name (unique keys, priority, time, cancel,
deletion) come in any order. So that most steps find something to work on, a run starts with some jobs of each kind, and a rule waits for
what it needs. Each claim pops the marker first, as a worker that waited does: so the marker must come back whenever something is left.
"""

import itertools
from contextlib import closing
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from bananas import broker
from bananas.address import parse_url
from bananas.broker import Burial, Comeback, Ending, KeptResult, NewJob, Request
from bananas.connection import SyncConnection
from bananas.keys import QueueKeys, id_suffix, new_id
from bananas.server import PrivateServer
from bananas.session import run_sync

LEASE = 8_000
GRACE = GAP = LEASE // 2  # how long after its expiry a lease is taken back, and how long a silence must be to put that off
ALL = 10_000
ALIVE = ("ready", "scheduled", "leased")
PLACES = st.sampled_from([*ALIVE, "dead"])
_numbers = itertools.count()
leased = precondition(lambda self: self.some("leased", 1))
failed = precondition(lambda self: self.some("dead", 1))


def pairs(flat: list[bytes]) -> dict[str, bytes]:
    """A reply of names and values."""
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def scores(flat: list[bytes]) -> dict[str, int]:
    """A reply of members and scores, by id."""
    return {member[:43]: int(score) for member, score in pairs(flat).items()}


class BrokerMachine(RuleBasedStateMachine):
    """The model: where each id is, its score while ready, its due time while scheduled, its member, score and expiry while leased;
    the priority that it was given, the unique key that it came with, and who is asked to stop."""

    connection: SyncConnection

    def __init__(self) -> None:
        super().__init__()
        self.keys = QueueKeys(f"model{next(_numbers)}", "q")
        self.now, self.number = 1_800_000_000_000, 0
        self.where: dict[str, str] = {}
        self.score: dict[str, tuple[int, int, str]] = {}
        self.due: dict[str, int] = {}
        self.member: dict[str, bytes] = {}
        self.lease: dict[str, tuple[bytes, int]] = {}
        self.prio: dict[str, int] = {}
        self.key_of: dict[str, str] = {}
        self.asked: set[str] = set()
        self.pulse, self.hold = 0, 0
        self.paused = False

    # --- the model's words ---

    def ask(self, request: Request[Any]) -> Any:
        (reply,) = run_sync(self.connection, [request.at(self.now)], 5)
        assert not isinstance(reply, Exception), reply
        return reply

    def turn(self) -> int:
        self.number += 1
        return self.number

    def some(self, place: str, count: int = ALL) -> list[str]:
        return sorted(job_id for job_id, at in self.where.items() if at == place)[:count]

    def ready(self, job_id: str, at_ms: int) -> None:
        self.where[job_id], self.score[job_id] = "ready", (self.prio.get(job_id, int(job_id[40:], 16)), at_ms, job_id)

    def submitted(self, job: NewJob) -> None:
        if job.delay_ms:
            self.where[job.job_id], self.due[job.job_id] = "scheduled", self.now + job.delay_ms
        else:
            self.ready(job.job_id, self.now)

    def holder(self, key: str) -> str | None:
        """The job that is alive under this key."""
        return next((job_id for job_id, theirs in self.key_of.items() if theirs == key and self.where.get(job_id) in ALIVE), None)

    def beat(self) -> None:
        if self.now - self.pulse > GAP:
            self.hold = self.now + GAP
        self.pulse = self.now

    # --- submit, claim, settle ---

    @initialize()
    def begin(self) -> None:
        """Some of each kind, one of them with a unique key and one dead of it."""
        self.enqueue_unique("a", 0)
        self.claim(1)
        self.bury()
        self.enqueue_unique("a", 0)
        self.enqueue([100, 500, 500, 900], 0)
        self.claim(3)
        self.enqueue([500, 500], 4_000)

    @rule(ms=st.integers(1, 3_000))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule(priorities=st.lists(st.sampled_from([0, 100, 500, 900, 1000]), min_size=1, max_size=5), delay=st.sampled_from([0, 0, 50, 4_000]))
    def enqueue(self, priorities: list[int], delay: int) -> None:
        ids = [new_id(id_suffix("task", priority)) for priority in priorities]
        jobs = [NewJob(job_id, f"body of {job_id}".encode(), delay) for job_id in ids]
        assert self.ask(broker.enqueue(self.keys, "client", self.turn(), jobs)) is None
        for job in jobs:
            self.submitted(job)

    @rule(key=st.sampled_from("ab"), delay=st.sampled_from([0, 3_000]))
    def enqueue_unique(self, key: str, delay: int) -> None:
        job_id, holder = new_id(id_suffix("task", 500)), self.holder(key)
        job = NewJob(job_id, f"body of {job_id}".encode(), delay, key)
        assert self.ask(broker.enqueue(self.keys, "client", self.turn(), [job])) == (holder and [holder])
        if holder is None:
            self.key_of[job_id] = key
            self.submitted(job)

    @rule(most=st.integers(1, 6))
    def claim(self, most: int) -> None:
        self.connection.execute([("ZPOPMIN", self.keys.wake)], 5)
        claim = self.ask(broker.claim(self.keys, "aa", self.turn(), most, LEASE))
        self.beat()
        expected = [] if self.paused else sorted(self.score[job_id] for job_id in self.some("ready"))[:most]
        got = [item.decode() for item in claim.ids_and_scores[::2]]
        assert got == [job_id for _, _, job_id in expected]
        assert [body[8:].decode() for body in claim.bodies] == [f"body of {job_id}" for job_id in got]
        for job_id, score in zip(got, claim.ids_and_scores[1::2], strict=True):
            self.where[job_id], self.member[job_id] = "leased", f"{job_id}:aa:{claim.fence:010d}".encode()
            self.lease[job_id] = (score, self.now + LEASE)

    @leased
    @rule()
    def complete(self) -> None:
        ids = self.some("leased", 3)
        endings = [Ending(self.member[job_id]) for job_id in ids]
        assert all(self.ask(broker.complete(self.keys, "aa", self.turn(), endings, full=False, dropped=b"")))
        for job_id in ids:
            del self.where[job_id]

    @leased
    @rule(delay=st.integers(0, 5_000))
    def retry(self, delay: int) -> None:
        ids = self.some("leased", 2)
        comebacks = [Comeback(self.member[job_id], delay, b"1 0 0 0 - ") for job_id in ids]
        assert all(self.ask(broker.retry(self.keys, "aa", self.turn(), comebacks)))
        for job_id in ids:
            self.where[job_id] = "scheduled"
            self.due[job_id] = self.now if job_id in self.asked else self.now + delay  # whose end is asked for is claimed at once

    @leased
    @rule()
    def bury(self) -> None:
        ids = self.some("leased", 2)
        burials = [Burial(self.member[job_id], b"1 0 0 0 - ") for job_id in ids]
        assert all(self.ask(broker.bury(self.keys, "aa", self.turn(), burials, full=False, dropped=b"")))
        self.where |= dict.fromkeys(ids, "dead")
        self.asked -= set(ids)

    @leased
    @rule()
    def release(self) -> None:
        ids = self.some("leased", 2)
        held = [(self.member[job_id], self.lease[job_id][0]) for job_id in ids]
        assert all(self.ask(broker.release(self.keys, "aa", self.turn(), held)))
        self.where |= dict.fromkeys(ids, "ready")  # with the score that each had

    @precondition(lambda self: any(at != "leased" and job_id in self.member for job_id, at in self.where.items()))
    @rule()
    def settle_late(self) -> None:
        """By a worker that had the lease once."""
        job_id = min(job_id for job_id, at in self.where.items() if at != "leased" and job_id in self.member)
        late = [Ending(self.member[job_id])]
        assert self.ask(broker.complete(self.keys, "aa", self.turn(), late, full=False, dropped=b"")) == [False]

    # --- leases and time ---

    @leased
    @rule()
    def extend(self) -> None:
        ids = self.some("leased")
        extension = self.ask(broker.extend(self.keys, LEASE, [self.member[job_id] for job_id in ids]))
        self.beat()
        assert (extension.held, extension.cancelled) == ([True] * len(ids), [job_id in self.asked for job_id in ids])
        for job_id in ids:
            self.lease[job_id] = (self.lease[job_id][0], max(self.lease[job_id][1], self.now + LEASE))

    @leased
    @rule()
    def crash(self) -> None:
        ids = self.some("leased", 2)
        assert self.ask(broker.reclaim(self.keys, LEASE, [self.member[job_id] for job_id in ids])) == len(ids)
        self.beat()
        for job_id in ids:
            self.ready(job_id, self.now)

    @rule(steps=st.integers(1, 5))
    def reclaim(self, steps: int) -> None:
        for _ in range(steps):
            self.now += GAP  # not longer: no gap in the pulse
            self.beat()
            lost = [job_id for job_id in self.some("leased") if self.lease[job_id][1] <= self.now - GRACE and self.now >= self.hold]
            assert self.ask(broker.reclaim(self.keys, LEASE)) == len(lost)
            for job_id in lost:
                self.ready(job_id, self.now)

    @rule()
    def promote(self) -> None:
        due = [job_id for job_id in self.some("scheduled") if self.due[job_id] <= self.now]
        assert self.ask(broker.promote(self.keys))[0] == len(due)
        for job_id in due:
            self.ready(job_id, self.due[job_id])

    # --- by name ---

    @rule(paused=st.sampled_from([True, False, False, False]))
    def pause(self, paused: bool) -> None:
        assert self.ask(broker.pause(self.keys, paused)) == (paused != self.paused)
        self.paused = paused

    @failed
    @rule(count=st.integers(1, 3))
    def replay(self, count: int) -> None:
        ids, codes = self.some("dead", count), ""
        for job_id in ids:
            key = self.key_of.get(job_id)
            taken = key is not None and self.holder(key) is not None
            codes += "u" if taken else "e"
            if not taken:
                self.ready(job_id, self.now)
        assert self.ask(broker.replay(self.keys, ids)) == codes

    @failed
    @rule()
    def discard(self) -> None:
        ids = self.some("dead", 1)
        assert self.ask(broker.discard(self.keys, [*ids, *self.some("ready", 1)])) == len(ids)
        for job_id in ids:
            del self.where[job_id]

    @rule(place=PLACES)
    def cancel(self, place: str) -> None:
        ids = self.some(place, 2)
        code = {"ready": "e", "scheduled": "e", "leased": "r", "dead": "d"}[place]
        assert self.ask(broker.cancel(self.keys, ids, KeptResult(0, b""), running=False)) == code * len(ids)
        for job_id in ids if code == "e" else []:
            del self.where[job_id]

    @leased
    @rule()
    def stop_running(self) -> None:
        ids = self.some("leased", 2)
        assert self.ask(broker.cancel(self.keys, ids, KeptResult(1_000, b"cancelled"), running=True)) == "m" * len(ids)
        self.asked |= set(ids)

    @rule(place=PLACES, priority=st.sampled_from([0, 300, 500, 1000]))
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

    # --- what must hold after each step ---

    @invariant()
    def the_server_is_as_the_model(self) -> None:
        keys = self.keys
        places = [("ZRANGE", name, 0, -1, "WITHSCORES") for name in (keys.ready, keys.scheduled, keys.leases, keys.dead)]
        hashes = [("HGETALL", name) for name in (keys.jobs, keys.base + "prio", keys.base + "unique")]
        rest = [("SMEMBERS", keys.base + "cancelled"), ("HKEYS", keys.tries), ("EXISTS", keys.wake)]
        ready, scheduled, leases, dead, jobs, prio, unique, cancelled, tries, armed = self.connection.execute([*places, *hashes, *rest], 5)
        self._every_job_is_in_its_place_alone(ready, scheduled, leases, dead)
        assert {job_id: body[8:] for job_id, body in pairs(jobs).items()} == {name: f"body of {name}".encode() for name in self.where}
        self._nothing_is_kept_of_jobs_that_are_gone(pairs(prio), pairs(unique), cancelled, tries)
        assert not (armed and self.paused)
        assert armed or self.paused or not self.some("ready", 1), "somebody is woken while there is something to do"

    def _every_job_is_in_its_place_alone(self, ready: Any, scheduled: Any, leases: Any, dead: Any) -> None:
        assert scores(ready) == {job_id: self.score[job_id][0] * 2**42 + self.score[job_id][1] for job_id in self.some("ready")}
        assert scores(scheduled) == {job_id: self.due[job_id] for job_id in self.some("scheduled")}
        assert scores(leases) == {job_id: self.lease[job_id][1] for job_id in self.some("leased")}
        assert len(leases) == 2 * len(self.some("leased")), "no job is leased twice"
        assert sorted(scores(dead)) == self.some("dead")

    def _nothing_is_kept_of_jobs_that_are_gone(
        self, prio: dict[str, bytes], unique: dict[str, bytes], cancelled: Any, tries: list[bytes]
    ) -> None:
        assert {job_id: int(value) for job_id, value in prio.items()} == {
            job_id: priority for job_id, priority in self.prio.items() if job_id in self.where
        }
        kept = {job_id: key for job_id, key in self.key_of.items() if job_id in self.where}
        held = {f"={key}": holder for key in "ab" if (holder := self.holder(key)) is not None}
        assert {name: value.decode() for name, value in unique.items()} == kept | held
        assert {item.decode() for item in cancelled} == {job_id for job_id in self.asked if job_id in self.where}
        assert {item.decode() for item in tries} <= set(self.where)


def test_no_order_of_transitions_loses_a_job_has_it_twice_or_leaves_something_behind(server: PrivateServer) -> None:
    health = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    with closing(SyncConnection(parse_url(server.url))) as BrokerMachine.connection:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            BrokerMachine, settings=settings(max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=health)
        )
