"""The supervisor: it starts the worker processes, beats for them, and cleans up after those that die.

Why a process of its own, even for one child: a handler may block the event loop, or hold the GIL in C for seconds. This process runs no
user code, so its beat does not depend on theirs. It renews what stands in the children's lease tables, and it stops for a child that is
stopped (state T) or gone.

    1. start the children; each greets with its queues and its lease table
    2. every lease/4 (lease/2 while idle), one write: renew the leases, announce the workers, read (while jobs run, or it was) whether the
       server is full
    3. tell a child which leases it lost and which jobs somebody wants stopped
    4. a child that died: take back its leases at once, a crash counted; start another
    5. SIGTERM, SIGINT: the children drain; a second one cancels; SIGUSR1: claim no more; what operators order comes with the beats
"""

import selectors
import signal
import socket
import sys
import time

from bananas.errors import ConfigError
from bananas.worker.beat import Beat
from bananas.worker.control import RECYCLED, UNREACHED, Hello, Message, Probing, WorkerSpec
from bananas.worker.figures import Figures
from bananas.worker.health import Shift
from bananas.worker.probes import Probes
from bananas.worker.process import ChildProcess, Questions

KILL_AFTER_S = 5.0


class Supervisor:
    """Runs the processes of one `bananas worker`."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._children: list[ChildProcess] = []
        self._beat = Beat()
        self._selector = selectors.DefaultSelector()
        self._signals = 0
        self._stop_by = 0.0
        self._stopping = self._greeted = self._quiet = False
        self._exit_code = 0
        self._restarts: list[float] = []
        self._starts: list[float] = []
        self._turned, self._began = time.monotonic(), time.monotonic()
        self._start_s, self._kept_out, self._wanted = 0.0, False, 0
        self._figures = Figures()
        self._probes = Probes(self._shift, _say, lambda health: self._figures.text(health, list(self._children)))

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
                else:
                    self._hear(*key.data)
            for child in [child for child in self._children if child.process.poll() is not None]:
                self._ended(child)
            self._start_due()
            if time.monotonic() >= next_beat and self._lease():
                next_beat = time.monotonic() + self._lease() / 4
                self._beat.tick(self._children)
            self._obey()
            if self._stop_by and time.monotonic() > self._stop_by:
                self._kill_the_stuck()
        self._probes.close()
        self._beat.close()
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
            self._figures.add(message.counted)
            if message.hello is not None:
                self._greeted_by(child, message.hello)

    def _hear(self, child: ChildProcess, questions: Questions) -> None:
        """Stacks that a process tells."""
        answers = questions.answers()
        if answers is None:
            self._selector.unregister(questions.socket)
        for told in answers or ():
            self._beat.answer(child, told)

    def _greeted_by(self, child: ChildProcess, hello: Hello) -> None:
        self._kept_out = False
        self._follow(hello)
        if child.questions is not None:
            self._selector.register(child.questions.socket, selectors.EVENT_READ, (child, child.questions))
        self._beat.hasten()
        self._beat.tick(self._children)
        if self._quiet:
            child.send(Message(quiet=True))
        if self._stopping:
            child.send(Message(stop=True))
        elif not self._greeted:
            self._greeted, self._start_s = True, time.monotonic() - self._began
            for _ in range(hello.processes - 1):
                self._start_child()

    def _ended(self, child: ChildProcess) -> None:
        while messages := child.receive():
            for message in messages:
                self._figures.add(message.counted)
        code = child.process.returncode
        self._children.remove(child)
        self._selector.unregister(child.channel)
        if child.questions is not None and child.questions.socket in self._selector.get_map():
            self._selector.unregister(child.questions.socket)
        self._beat.take_back(child, crashed=code != 0)
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

    # --- orders of operators ---

    def _obey(self) -> None:
        while self._beat.orders:
            child, order = self._beat.orders.popleft()
            if order.kind == "stack" and child.questions is not None:
                child.questions.ask(order)
            elif order.kind in ("drain", "stop"):
                self._leave(order.kind)
            else:
                _say("an operator's order is none that this version knows")

    def _leave(self, how: str) -> None:
        """An operator wants this worker to claim no more, or to stop."""
        _say(f"an operator's order: {how}")
        if how == "drain":
            self._on_quiet_signal()
        elif not self._stopping:
            self._stop()
        self._beat.hasten()
        self._beat.tick(self._children)  # the registry tells it at once

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

    def _shift(self) -> Shift:
        """For the thread of the probes: what is so now."""
        working = sum(child.hello is not None and not child.ended for child in list(self._children))
        trouble, error = self._beat.trouble
        phase = "draining" if self._stopping else "starting" if not self._greeted else "quiet" if self._quiet else "working"
        return Shift(
            phase=phase,
            turned=self._turned,
            children=list(self._children),
            answered=self._beat.answered,
            trouble=trouble,
            error=error,
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
        self._beat.phase = "stopping" if self._stopping else "quiet"
        self._tell(Message(quiet=True))

    def _on_stop_signal(self) -> None:
        self._signals += 1
        if self._signals == 1:
            self._stop()
        else:
            _say("second signal: running jobs are cancelled and go back to their queues")
            self._tell(Message(cancel=True))

    def _stop(self) -> None:
        self._stopping, self._beat.phase = True, "stopping"
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
            self._beat.take_back(child, crashed=False)
            child.process.kill()


def _say(text: str) -> None:
    sys.stderr.write(f"bananas worker: {text}\n")
    sys.stderr.flush()


def run(spec: WorkerSpec) -> int:
    """Run workers until they are told to stop. Returns the exit code."""
    return Supervisor(spec).run()


__all__ = ["Probing", "WorkerSpec", "run"]
