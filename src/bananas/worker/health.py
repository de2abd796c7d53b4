"""Whether a worker is alive and ready: judged by its supervisor from what its processes do, not from what they say when asked.

live    every process's event loop turns and its fetch loop gets on, or rests with reason. A server that does not answer changes nothing
        here: to start the worker anew would not help.
ready   live; the server answers beats and turns; some process claims jobs, from a queue that is not paused.

How long something lasts is counted by looks that come often. A look that comes late counts nothing: then this process stood still itself
(its machine slept, the container was frozen), and so did the others. Stopping a single process with a signal shows in its state.
"""

import os
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import msgspec

from bananas.worker.control import Hello
from bananas.worker.vitals import LONGEST_STEP_S, Sign, Vitals

LATE_S = 1.0  # a loop that has not turned for so long stands still
AWAY_S = 1.0  # a server that has not answered for so long is away
BUSY_S = 5.0  # a process whose loop stands still for so long takes no jobs
LATE_LOOK_S = 2.0


class Child(Protocol):
    """A process as its supervisor knows it."""

    hello: Hello | None
    vitals: Vitals | None

    @property
    def pid(self) -> int:
        """Its process id."""
        ...

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether a signal has stopped it."""
        ...

    def dump(self) -> None:
        """Have it write its stack to stderr."""
        ...


class Shift(NamedTuple):
    """What a supervisor says of itself and its processes.

    Attributes:
        phase: starting (no process has greeted yet), working, quiet or draining.
        turned: when its own loop last turned (monotonic seconds).
        answered, trouble, error: when a beat was last answered, since when beats are not (or 0), and why.
        short_by: how many processes it lacks that ought to work.
        kept_out: what it lacks did not start because the server does not answer.
        start_s: how long the first process took to start.
    """

    phase: str
    turned: float
    children: Sequence[Child]
    answered: float = 0.0
    trouble: float = 0.0
    error: str = ""
    short_by: int = 0
    kept_out: bool = False
    start_s: float = 0.0


class ProcessHealth(msgspec.Struct, kw_only=True):
    """One process: starting, working, stopped (by a signal), blocked (its event loop) or stuck (its fetch loop), for so many seconds."""

    pid: int
    state: str = "starting"
    seconds: float = 0.0
    accepting: bool = False
    connected: bool = False


class Health(msgspec.Struct, kw_only=True):
    """How a worker is. `at_monotonic` and `valid_s` say until when that is news, by the clock that processes of one system share."""

    live: bool
    ready: bool
    phase: str
    not_live: list[str]
    not_ready: list[str]
    processes: list[ProcessHealth]
    queues: dict[str, str]
    host: str
    pid: int
    at: str
    at_monotonic: float
    valid_s: float = 0.0


class _Track:
    """How long a process has been in a state, as far as that was seen."""

    def __init__(self) -> None:
        self.state, self.seconds, self.progress = "starting", 0.0, 0.0
        self.held_s, self.told = 0.0, False

    def look(self, child: Child, sign: Sign | None, now: float, passed: float) -> None:
        state = "starting" if sign is None else self._state_of(child, sign, now)
        self.seconds = self.seconds + passed if state == self.state else 0.0
        self.state = state
        held = state == "blocked" and sign is not None and 0 < sign.watched < now - LATE_S
        self.held_s = self.held_s + passed if held else 0.0
        self.told = self.told and held

    def _state_of(self, child: Child, sign: Sign, now: float) -> str:
        if sign.turned and now - sign.turned > LATE_S:
            return "stopped" if child.stopped else "blocked"
        same = sign.progress == self.progress and not sign.resting
        self.progress = sign.progress
        return "stuck" if same and self.state in ("stuck", "working") and now - sign.progress > LONGEST_STEP_S else "working"


class Observer:
    """Looks at the processes of one worker, often, and judges."""

    def __init__(self) -> None:
        self._tracks: dict[int, _Track] = {}
        self._looked = time.monotonic()
        self._short_s = self._idle_s = 0.0
        self._last_turned = 0.0

    def look(self, shift: Shift, live_timeout: float) -> Health:
        """How the worker is now."""
        now = time.monotonic()
        passed = now - self._looked if now - self._looked <= LATE_LOOK_S else 0.0
        self._looked = now
        self._short_s = self._short_s + passed if shift.short_by and not shift.kept_out else 0.0
        self._idle_s = self._idle_s + passed if shift.turned == self._last_turned else 0.0
        self._last_turned = shift.turned
        children = [child for child in shift.children if not child.ended]
        signs = [(child, _read(child)) for child in children]
        self._tracks = {child.pid: self._tracks.get(child.pid) or _Track() for child in children}
        for child, sign in signs:
            self._tracks[child.pid].look(child, sign, now, passed)
        processes = [self._process(child, sign, now) for child, sign in signs]
        not_live = self._not_live(shift, processes, live_timeout)
        queues = _queues(signs)
        not_ready = [*not_live, *_not_ready(shift, signs, processes, queues, now)]
        return Health(
            live=not not_live,
            ready=not not_ready,
            phase=shift.phase,
            not_live=not_live,
            not_ready=not_ready,
            processes=processes,
            queues=queues,
            host=socket.gethostname(),
            pid=os.getpid(),
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            at_monotonic=now,
        )

    def mute(self, shift: Shift, threshold_s: float) -> list[tuple[Child, float]]:
        """The processes, each once, in which somebody has held the GIL in C for longer than this, and for how long."""
        found = []
        for child in shift.children:
            track = self._tracks.get(child.pid)
            if track is not None and track.held_s + LATE_S > threshold_s and track.held_s and not track.told:
                track.told = True
                found.append((child, track.held_s + LATE_S))
        return found

    def _process(self, child: Child, sign: Sign | None, now: float) -> ProcessHealth:
        track = self._tracks[child.pid]
        found = ProcessHealth(pid=child.pid, state=track.state, seconds=round(track.seconds, 1))
        if sign is not None:
            usable = track.state == "working" or (track.state == "blocked" and track.seconds < BUSY_S)
            found.accepting = usable and sign.accepting
            found.connected = usable and not (sign.trouble and now - sign.trouble > AWAY_S)
        return found

    def _not_live(self, shift: Shift, processes: Sequence[ProcessHealth], live_timeout: float) -> list[str]:
        reasons = []
        if self._idle_s > max(live_timeout, LONGEST_STEP_S):
            reasons.append(f"the supervisor has stood still for {self._idle_s:.0f} s")
        if self._short_s > live_timeout + shift.start_s:
            reasons.append(f"{shift.short_by} of its processes cannot be started since {self._short_s:.0f} s")
        for process in processes:
            if process.state == "stopped" and process.seconds >= LATE_S:
                reasons.append(f"process {process.pid} is stopped")
            elif process.state == "blocked" and process.seconds > live_timeout:
                reasons.append(f"process {process.pid}: its event loop has been blocked for {process.seconds:.0f} s")
            elif process.state == "stuck" and process.seconds > live_timeout:
                reasons.append(f"process {process.pid}: its fetch loop has not got on for {process.seconds + LONGEST_STEP_S:.0f} s")
        return reasons


def _read(child: Child) -> Sign | None:
    """The last sign of a process that has greeted."""
    sign = None if child.vitals is None else child.vitals.read()
    return sign if sign is not None and (sign.turned or sign.progress) else None


def _queues(signs: Sequence[tuple[Child, Sign | None]]) -> dict[str, str]:
    """The queues that are served: open, or paused where every process says so."""
    found: dict[str, str] = {}
    for child, sign in signs:
        for index, name in enumerate(child.hello.queues if child.hello is not None and sign is not None else ()):
            is_open = sign is not None and index not in sign.paused
            found[name] = "open" if is_open or found.get(name) == "open" else "paused"
    return found


def _not_ready(
    shift: Shift, signs: Sequence[tuple[Child, Sign | None]], processes: Sequence[ProcessHealth], queues: dict[str, str], now: float
) -> list[str]:
    if shift.phase != "working":
        words = {"starting": "no process has greeted yet", "quiet": "it is quiet: it claims no more jobs (SIGUSR1)"}
        return [words.get(shift.phase, "it is draining: it claims no more jobs")]
    hello = next((child.hello for child, sign in signs if child.hello is not None and sign is not None), None)
    if hello is None:
        return ["no process is at work"]
    reasons = []
    answered = max([shift.answered, *(sign.answered for _, sign in signs if sign is not None)])
    if shift.trouble and now - shift.trouble > AWAY_S:
        reasons.append(f"the server does not answer: {shift.error}")
    elif now - answered > hello.lease + LONGEST_STEP_S:
        reasons.append(f"the server has answered nothing for {now - answered:.0f} s")
    elif not any(process.connected for process in processes):
        reasons.append("the server does not answer the turns of any process")
    if hello.claims and not any(process.accepting for process in processes):
        reasons.append("no process accepts jobs")
    if hello.claims and queues and "open" not in queues.values():
        reasons.append("all queues are paused")
    return reasons
