"""The supervisor: it starts the worker processes, beats for them, and cleans up after those that die.

Why a process of its own, even for one child: a handler may block the event loop, or hold the GIL in C for seconds. This process runs no
user code, so its beat does not depend on theirs. It renews what stands in the children's lease tables, and it stops for a child that is
stopped (state T) or gone.

    1. start the children; each greets with its queues and its lease table
    2. every lease/4 (lease/2 while idle), one write: renew the leases, announce the workers, read (while jobs run, or it was) whether the
       server is full
    3. tell a child which leases it lost and which jobs somebody wants stopped
    4. a child that died: take back its leases at once, a crash counted; start another
    5. SIGTERM, SIGINT: the children drain; a second one cancels; SIGUSR1: claim no more
"""

import contextlib
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from bananas import broker
from bananas.broker import Extension, Request
from bananas.connection import ConnectionLost, SyncConnection
from bananas.errors import BananasError, BrokerError, ConfigError
from bananas.keys import queues_key, workers_key
from bananas.session import run_sync
from bananas.worker.control import RECYCLED, UNREACHED, Hello, Message, Probing, WorkerSpec
from bananas.worker.health import Shift
from bananas.worker.probes import Probes
from bananas.worker.process import ChildProcess
from bananas.worker.table import HeldLease

KILL_AFTER_S = 5.0


class Supervisor:
    """Runs the processes of one `bananas worker`."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._children: list[ChildProcess] = []
        self._full = False
        self._silent_until = 0.0
        self._selector = selectors.DefaultSelector()
        self._connection: SyncConnection | None = None
        self._signals = 0
        self._stop_by = 0.0
        self._stopping = self._greeted = self._quiet = False
        self._exit_code = 0
        self._started_ms = int(time.time() * 1000)
        self._restarts: list[float] = []
        self._starts: list[float] = []
        self._turned, self._began = time.monotonic(), time.monotonic()
        self._answered = self._trouble = self._start_s = 0.0
        self._error, self._kept_out, self._wanted = "", False, 0
        self._probes = Probes(self._shift, _say)

    def run(self) -> int:
        """Block until every child has ended for good. Returns the exit code."""
        self._probes.use(self._spec.probing)
        waker = self._catch_signals()
        self._start_child()
        next_beat = 0.0
        while self._children or self._starts:
            now = self._turned = time.monotonic()
            for key, _ in self._selector.select(max(0.0, min(next_beat - now, 0.1)) if self._lease() else 0.1):
                if key.fileobj is waker:
                    waker.recv(64)
                elif isinstance(key.data, ChildProcess):
                    self._listen(key.data)
            for child in [child for child in self._children if child.process.poll() is not None]:
                self._ended(child)
            self._start_due()
            if time.monotonic() >= next_beat and self._lease():
                next_beat = time.monotonic() + self._lease() / 4
                self._beat()
            if self._stop_by and time.monotonic() > self._stop_by:
                self._kill_the_stuck()
        self._probes.close()
        if self._connection is not None:
            self._connection.close()
        return self._exit_code

    def _lease(self) -> float:
        return next((child.hello.lease for child in self._children if child.hello is not None), 0.0)

    # --- children ---

    def _start_child(self) -> None:
        child = ChildProcess(self._spec, quiet=self._quiet)
        self._children.append(child)
        self._selector.register(child.channel, selectors.EVENT_READ, child)

    def _listen(self, child: ChildProcess) -> None:
        for message in child.receive():
            if message.hello is not None:
                self._greeted_by(child, message.hello)

    def _greeted_by(self, child: ChildProcess, hello: Hello) -> None:
        self._silent_until, self._kept_out = 0.0, False
        self._follow(hello)
        self._beat()
        if self._quiet:
            child.send(Message(quiet=True))
        if self._stopping:
            child.send(Message(stop=True))
        elif not self._greeted:
            self._greeted, self._start_s = True, time.monotonic() - self._began
            for _ in range(hello.processes - 1):
                self._start_child()

    def _ended(self, child: ChildProcess) -> None:
        while child.receive():
            pass
        code = child.process.returncode
        self._children.remove(child)
        self._selector.unregister(child.channel)
        self._take_back(child, crashed=code != 0)
        child.close()
        self._kept_out = child.bye == UNREACHED
        if not self._greeted and not self._stopping and code > 0:
            self._exit_code = code
            self._stop()
        elif not self._stopping and not (self._spec.burst and code == 0 and not child.bye.startswith(RECYCLED)):
            self._restart(child, code)
        elif code not in (0, -signal.SIGKILL, -signal.SIGTERM):
            self._exit_code = self._exit_code or 1

    def _restart(self, child: ChildProcess, code: int) -> None:
        now = time.monotonic()
        self._restarts = [at for at in self._restarts if at > now - 10] + [now]
        if code:
            _say(f"worker process {child.process.pid} died with exit code {code}; starting another")
        self._starts.append(now + (1.0 if len(self._restarts) > 10 else 0.0))

    def _start_due(self) -> None:
        """Start the processes whose time has come: one that dies over and over waits, and the beat of the others goes on."""
        now = time.monotonic()
        due = [at for at in self._starts if at <= now]
        self._starts = [at for at in self._starts if at > now]
        for _ in due:
            self._start_child()

    def _take_back(self, child: ChildProcess, *, crashed: bool) -> None:
        """What a process that is gone still held: crashed, with a crash counted; else unused."""
        requests: list[Request[Any]] = []
        hello = child.hello
        if hello is None:
            return
        parts = ((queue, part) for queue, leases in child.held().items() for part in _chunks(leases))
        for number, (queue, leases) in enumerate(parts, 1):
            if crashed:
                requests.append(broker.reclaim(child.keys[queue], round(hello.lease * 1000), [lease.member for lease in leases]))
            else:
                requests.append(
                    broker.release(child.keys[queue], hello.boot + "s", number, [(lease.member, lease.score) for lease in leases])
                )
        requests.append(broker.plain(int, "HDEL", workers_key(hello.namespace), hello.boot))
        with contextlib.suppress(BananasError, ConnectionLost):
            self._ask(requests, hello)

    # --- the beat ---

    def _beat(self) -> None:
        """Renew the leases of all processes, and their registry entries; every second one is left out while nothing is held."""
        alive = [child for child in self._children if child.hello is not None and child.process.poll() is None and not child.stopped]
        if not alive or alive[0].hello is None:
            return
        requests: list[Request[Any]] = []
        extended: list[tuple[ChildProcess, list[HeldLease]]] = []
        every_held = [child.held() for child in alive]
        if time.monotonic() < self._silent_until and not any(every_held) and not self._full:
            return
        for child, held in zip(alive, every_held, strict=True):
            hello = child.hello
            assert hello is not None
            for queue, leases in held.items():
                for part in _chunks(leases):
                    requests.append(broker.extend(child.keys[queue], round(hello.lease * 1000), [lease.member for lease in part]))
                    extended.append((child, part))
            requests.append(self._announcement(child, hello, held))
        if extended or self._full:  # only who settles needs to know; what was full is asked until it is not
            requests.append(broker.plain(_memory, "INFO", "memory"))
        began = time.monotonic()
        try:
            replies = self._ask(requests, alive[0].hello)
        except (BananasError, ConnectionLost) as error:
            self._note(error)
            return
        self._note(next((reply for reply in replies if isinstance(reply, BrokerError)), None))
        if extended or self._full:
            self._full = replies[-1] is True
        self._silent_until = 0.0 if any(every_held) else began + 0.4 * alive[0].hello.lease
        extensions = [reply for reply in replies if isinstance(reply, Extension)]
        if len(extensions) == len(extended):
            for (child, leases), extension in zip(extended, extensions, strict=True):
                self._report(child, leases, extension)
            for child in alive:
                if child.table is not None:
                    child.table.note_beat(began, full=self._full)

    def _report(self, child: ChildProcess, leases: list[HeldLease], extension: Extension) -> None:
        """Note which leases are lost, before this beat is noted; the child hears of them too."""
        gone = [lease for lease, held in zip(leases, extension.held, strict=True) if not held]
        for lease in gone:
            if child.table is not None:
                child.table.mark_lost(lease)
        lost = [lease.member.decode() for lease in gone]
        cancelled = [lease.member.decode() for lease, wanted in zip(leases, extension.cancelled, strict=True) if wanted]
        if lost or cancelled:
            child.send(Message(lost=lost, cancelled=cancelled))

    def _announcement(self, child: ChildProcess, hello: Hello, held: dict[int, list[HeldLease]]) -> Request[int]:
        running = [child.keys[queue].public(lease.member[:43].decode()) for queue, leases in held.items() for lease in leases]
        overdue = [
            child.keys[queue].public(lease.member[:43].decode()) for queue, leases in held.items() for lease in leases if lease.overdue
        ]
        record = {
            "host": socket.gethostname(),
            "pid": hello.pid,
            "supervisor": os.getpid(),
            "queues": hello.queues,
            "tasks": hello.tasks,
            "slots": hello.slots,
            "running": running[:1_000],
            "overdue": overdue[:1_000],
            "started_ms": self._started_ms,
        }
        ttl_ms = round(hello.lease * 1500)
        namespace = hello.namespace
        packed = msgspec.msgpack.encode(record)
        return broker.announce(workers_key(namespace), queues_key(namespace), hello.boot, ttl_ms, packed, hello.queues)

    def _ask(self, requests: list[Request[Any]], hello: Hello) -> list[Any]:
        timeout = max(0.3, min(2.0, hello.lease / 3))
        if self._connection is None or self._connection.closed:
            self._connection = SyncConnection(hello.address, f"bananas:supervisor:{os.getpid()}", timeout)
        return run_sync(self._connection, requests, timeout)

    # --- health ---

    def _follow(self, hello: Hello) -> None:
        """Serve probes as the app's settings say; where that cannot be, the worker ends."""
        self._wanted = hello.processes
        try:
            self._probes.use(hello.probing)
        except ConfigError as error:
            _say(f"{type(error).__name__}: {error}")
            self._exit_code = 2
            if not self._stopping:
                self._stop()

    def _note(self, error: Exception | None) -> None:
        """How the last beat went."""
        if error is None:
            self._answered, self._trouble = time.monotonic(), 0.0
        else:
            self._trouble, self._error = self._trouble or time.monotonic(), str(error)

    def _shift(self) -> Shift:
        """For the thread of the probes: what is so now."""
        working = sum(child.hello is not None and not child.ended for child in list(self._children))
        phase = "draining" if self._stopping else "starting" if not self._greeted else "quiet" if self._quiet else "working"
        return Shift(
            phase=phase,
            turned=self._turned,
            children=list(self._children),
            answered=self._answered,
            trouble=self._trouble,
            error=self._error,
            short_by=0 if self._stopping or not self._greeted or self._spec.burst else max(0, self._wanted - working),
            kept_out=self._kept_out,
            start_s=self._start_s,
        )

    # --- signals ---

    def _catch_signals(self) -> socket.socket:
        waker, trigger = socket.socketpair()
        waker.setblocking(False)
        trigger.setblocking(False)
        signal.set_wakeup_fd(trigger.fileno(), warn_on_full_buffer=False)
        self._trigger = trigger
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._on_stop_signal())
        signal.signal(signal.SIGUSR1, lambda *_: self._on_quiet_signal())
        self._selector.register(waker, selectors.EVENT_READ)
        return waker

    def _tell(self, message: Message) -> None:
        for child in self._children:
            child.send(message)

    def _on_quiet_signal(self) -> None:
        self._quiet = True
        self._tell(Message(quiet=True))

    def _on_stop_signal(self) -> None:
        self._signals += 1
        if self._signals == 1:
            self._stop()
        else:
            _say("second signal: running jobs are cancelled and go back to their queues")
            self._tell(Message(cancel=True))

    def _stop(self) -> None:
        self._stopping = True
        self._starts.clear()
        timeout = next((child.hello.shutdown_timeout for child in self._children if child.hello is not None), 0.0)
        self._stop_by = time.monotonic() + timeout + KILL_AFTER_S
        for child in self._children:
            if child.hello is None:
                child.process.terminate()
        self._tell(Message(stop=True))

    def _kill_the_stuck(self) -> None:
        """A child that did not leave: its jobs go back unused, then it is killed."""
        self._stop_by = 0.0
        for child in self._children:
            _say(f"worker process {child.process.pid} did not stop: its jobs go back to their queues")
            self._take_back(child, crashed=False)
            child.process.kill()


def _chunks(leases: list[HeldLease]) -> Iterator[list[HeldLease]]:
    """As many leases at a time as one script takes."""
    return (leases[start : start + broker.SETTLE_BATCH] for start in range(0, len(leases), broker.SETTLE_BATCH))


def _memory(reply: bytes) -> bool:
    info = dict(text.split(":", 1) for text in reply.decode().splitlines() if ":" in text)
    limit = int(info.get("maxmemory", 0))
    return bool(limit) and int(info.get("used_memory", 0)) >= limit


def _say(text: str) -> None:
    sys.stderr.write(f"bananas worker: {text}\n")
    sys.stderr.flush()


def run(spec: WorkerSpec) -> int:
    """Run workers until they are told to stop. Returns the exit code."""
    return Supervisor(spec).run()


__all__ = ["Probing", "WorkerSpec", "run"]
