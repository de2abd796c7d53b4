"""The whole broker against a small model: no job lost, none in two places, claims in order, whatever the order of transitions."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from bananas import broker
from bananas.broker import Burial, Comeback, Ending, KeptResult, NewJob, Request
from bananas.connection import SyncConnection, parse_url
from bananas.keys import QueueKeys, id_suffix, new_id
from bananas.server import PrivateServer
from bananas.session import run_sync

LEASE = 8_000
GRACE = GAP = LEASE // 2  # how long after its expiry a lease is taken back, and how long a silence must be to put that off
_numbers = itertools.count()


class BrokerMachine(RuleBasedStateMachine):
    """The model: where each id is, its score while ready, its due time while scheduled, its member, score and expiry while leased."""

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
        self.pulse, self.hold = 0, 0
        self.paused = False

    def ask(self, request: Request[Any]) -> Any:
        (reply,) = run_sync(self.connection, [request.at(self.now)], 5)
        assert not isinstance(reply, Exception), reply
        return reply

    def turn(self) -> int:
        self.number += 1
        return self.number

    def some(self, place: str, count: int = 3) -> list[str]:
        return sorted(job_id for job_id, at in self.where.items() if at == place)[:count]

    def ready(self, job_id: str, at_ms: int) -> None:
        self.where[job_id], self.score[job_id] = "ready", (int(job_id[40:], 16), at_ms, job_id)

    def beat(self) -> None:
        if self.now - self.pulse > GAP:
            self.hold = self.now + GAP
        self.pulse = self.now

    @rule(ms=st.integers(1, 3_000))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule(priorities=st.lists(st.sampled_from([0, 100, 500, 900, 1000]), min_size=1, max_size=5), delay=st.sampled_from([0, 0, 50, 4_000]))
    def enqueue(self, priorities: list[int], delay: int) -> None:
        ids = [new_id(id_suffix("task", priority)) for priority in priorities]
        jobs = [NewJob(job_id, f"body of {job_id}".encode(), delay) for job_id in ids]
        assert self.ask(broker.enqueue(self.keys, "client", self.turn(), jobs)) is None
        for job in jobs:
            if delay:
                self.where[job.job_id], self.due[job.job_id] = "scheduled", self.now + delay
            else:
                self.ready(job.job_id, self.now)

    @rule(most=st.integers(1, 6))
    def claim(self, most: int) -> None:
        claim = self.ask(broker.claim(self.keys, "aa", self.turn(), most, LEASE))
        self.beat()
        expected = [] if self.paused else sorted(self.score[job_id] for job_id in self.some("ready", 10_000))[:most]
        got = [item.decode() for item in claim.ids_and_scores[::2]]
        assert got == [job_id for _, _, job_id in expected]
        assert [body[8:].decode() for body in claim.bodies] == [f"body of {job_id}" for job_id in got]
        for job_id, score in zip(got, claim.ids_and_scores[1::2], strict=True):
            self.where[job_id], self.member[job_id] = "leased", f"{job_id}:aa:{claim.fence}".encode()
            self.lease[job_id] = (score, self.now + LEASE)

    @rule()
    def complete(self) -> None:
        if ids := self.some("leased"):
            endings = [Ending(self.member[job_id]) for job_id in ids]
            assert all(self.ask(broker.complete(self.keys, "aa", self.turn(), endings, full=False, dropped=b"")))
            for job_id in ids:
                del self.where[job_id]

    @rule(delay=st.integers(0, 5_000))
    def retry(self, delay: int) -> None:
        if ids := self.some("leased", 2):
            comebacks = [Comeback(self.member[job_id], delay, b"1 0 0 0 - ") for job_id in ids]
            assert all(self.ask(broker.retry(self.keys, "aa", self.turn(), comebacks)))
            for job_id in ids:
                self.where[job_id], self.due[job_id] = "scheduled", self.now + delay

    @rule()
    def bury(self) -> None:
        if ids := self.some("leased", 2):
            burials = [Burial(self.member[job_id], b"1 0 0 0 - ") for job_id in ids]
            assert all(self.ask(broker.bury(self.keys, "aa", self.turn(), burials, full=False, dropped=b"")))
            self.where |= dict.fromkeys(ids, "dead")

    @rule()
    def release(self) -> None:
        if ids := self.some("leased", 2):
            assert all(
                self.ask(broker.release(self.keys, "aa", self.turn(), [(self.member[job_id], self.lease[job_id][0]) for job_id in ids]))
            )
            self.where |= dict.fromkeys(ids, "ready")  # with the score that each had

    @rule()
    def crash(self) -> None:
        if ids := self.some("leased", 2):
            assert self.ask(broker.reclaim(self.keys, LEASE, [self.member[job_id] for job_id in ids])) == len(ids)
            self.beat()
            for job_id in ids:
                self.ready(job_id, self.now)

    @rule(steps=st.integers(1, 5))
    def reclaim(self, steps: int) -> None:
        for _ in range(steps):
            self.now += GAP  # not longer: no gap in the pulse
            self.beat()
            lost = [job_id for job_id in self.some("leased", 10_000) if self.lease[job_id][1] <= self.now - GRACE and self.now >= self.hold]
            assert self.ask(broker.reclaim(self.keys, LEASE)) == len(lost)
            for job_id in lost:
                self.ready(job_id, self.now)

    @rule()
    def settle_late(self) -> None:
        """By a worker that had the lease once."""
        for job_id in [job_id for job_id, at in sorted(self.where.items()) if at != "leased" and job_id in self.member][:1]:
            late = [Ending(self.member[job_id])]
            assert self.ask(broker.complete(self.keys, "aa", self.turn(), late, full=False, dropped=b"")) == [False]

    @rule()
    def promote(self) -> None:
        due = [job_id for job_id in self.some("scheduled", 10_000) if self.due[job_id] <= self.now]
        assert self.ask(broker.promote(self.keys))[0] == len(due)
        for job_id in due:
            self.ready(job_id, self.due[job_id])

    @rule()
    def replay(self) -> None:
        if ids := self.some("dead"):
            assert self.ask(broker.replay(self.keys, ids)) == "e" * len(ids)
            for job_id in ids:
                self.ready(job_id, self.now)

    @rule(place=st.sampled_from(["ready", "scheduled", "leased", "dead"]))
    def cancel(self, place: str) -> None:
        if ids := self.some(place, 2):
            code = {"ready": "e", "scheduled": "e", "leased": "r", "dead": "d"}[place]
            assert self.ask(broker.cancel(self.keys, ids, KeptResult(0, b""), running=False)) == code * len(ids)
            for job_id in ids if code == "e" else []:
                del self.where[job_id]

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        assert self.ask(broker.pause(self.keys, paused)) == (paused != self.paused)
        self.paused = paused

    @invariant()
    def every_id_is_in_exactly_one_place_and_has_a_body(self) -> None:
        keys = self.keys
        names = {"ready": keys.ready, "scheduled": keys.scheduled, "leased": keys.leases, "dead": keys.dead}
        *found, bodies = self.connection.execute([("ZRANGE", name, 0, -1) for name in names.values()] + [("HGETALL", keys.jobs)], 5)
        for place, members in zip(names, found, strict=True):
            assert sorted(item[:43].decode() for item in members) == self.some(place, 10_000)
        stored = {job_id.decode(): body[8:].decode() for job_id, body in zip(bodies[::2], bodies[1::2], strict=True)}
        assert stored == {job_id: f"body of {job_id}" for job_id in self.where}

    @invariant()
    def every_job_stands_where_its_priority_and_its_time_put_it(self) -> None:
        names = (self.keys.ready, self.keys.scheduled, self.keys.leases)
        found = self.connection.execute([("ZRANGE", name, 0, -1, "WITHSCORES") for name in names], 5)
        ready, scheduled, leased = ({item[:43].decode(): int(score) for item, score in zip(r[::2], r[1::2], strict=True)} for r in found)
        scores = {job_id: self.score[job_id] for job_id in self.some("ready", 10_000)}
        assert ready == {job_id: priority * 2**42 + at_ms for job_id, (priority, at_ms, _) in scores.items()}
        assert scheduled == {job_id: self.due[job_id] for job_id in self.some("scheduled", 10_000)}
        assert leased == {job_id: self.lease[job_id][1] for job_id in self.some("leased", 10_000)}


@pytest.fixture
def blocking(server: PrivateServer) -> Iterator[SyncConnection]:
    connection = SyncConnection(parse_url(server.url))
    yield connection
    connection.close()


def test_no_order_of_transitions_loses_a_job_or_has_it_twice(blocking: SyncConnection) -> None:
    BrokerMachine.connection = blocking
    health = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        BrokerMachine, settings=settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=health)
    )
