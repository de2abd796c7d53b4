"""A worker process as its supervisor sees it: started, spoken to, and its leases read."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict

from bananas.keys import QueueKeys
from bananas.orders import Order
from bananas.worker.control import DUMP_SIGNAL, Hello, Lines, Message, Told, WorkerSpec, line
from bananas.worker.table import HeldLease, LeaseTable
from bananas.worker.vitals import Vitals


class Usage:
    """What a process uses, as the system tells (Linux); what it does not tell is None.

    The processes of its own that tasks with isolation="process" have are not counted.
    """

    def __init__(self, pid: int) -> None:
        self._pid, self._at, self._cpu_s = pid, time.monotonic(), 0.0

    def look(self) -> tuple[int | None, float | None]:
        """The memory that it holds (bytes), and how much of one core it used since the last look (percent)."""
        try:
            with open(f"/proc/{self._pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return None, None
        now, cpu_s = time.monotonic(), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        percent = 100 * (cpu_s - self._cpu_s) / max(0.01, now - self._at)
        self._at, self._cpu_s = now, cpu_s
        return int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), round(percent, 1)


class Questions:
    """The socket on which a process tells stacks, also when its event loop is blocked."""

    def __init__(self, opened: socket.socket) -> None:
        self.socket, self._lines = opened, Lines()
        opened.setblocking(False)

    def ask(self, order: Order) -> None:
        """Ask for the stack of a job. Nothing happens where nobody listens any more."""
        with contextlib.suppress(OSError):
            self.socket.sendall(line(Message(told=Told(order.id, order.job))))

    def answers(self) -> list[Told] | None:
        """Answers that have come; None at the end."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return [message.told for message in self._lines.feed(data) if message.told is not None] if data else None


class ChildProcess:
    """One worker process as its supervisor sees it.

    Attributes:
        hello, table, vitals, questions, keys: what its greeting brought: None and empty before.
        known: the registry has it, and it was told so.
        obeyed: the orders that it was given, until the server has let them go.
        bye: why it left, in its own words.
        usage: what it uses of the machine.
    """

    def __init__(self, spec: WorkerSpec, *, quiet: bool = False) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "bananas.worker", str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        self.usage = Usage(self.process.pid)
        theirs.close()
        self.channel, self.lines = ours, Lines()
        self.hello: Hello | None = None
        self.table: LeaseTable | None = None
        self.vitals: Vitals | None = None
        self.questions: Questions | None = None
        self.keys: list[QueueKeys] = []
        self.known = False
        self.obeyed: list[bytes] = []
        self.bye = ""
        self._sending = threading.Lock()  # beats of several servers may report at once
        self.send(Message(start=spec, quiet=quiet))

    def send(self, message: Message) -> None:
        """Tell it something; nothing happens where it is gone."""
        with contextlib.suppress(OSError), self._sending:
            self.channel.sendall(line(message))

    def receive(self) -> list[Message]:
        """Messages that have come; the greeting brings the table along."""
        try:
            data, fds, _, _ = socket.recv_fds(self.channel, 65536, 3)
        except OSError:
            return []
        messages = self.lines.feed(data)
        for message in messages:
            if message.hello is not None and fds:
                self.hello = message.hello
                self.table = LeaseTable(fds[0], message.hello.capacity)
                self.keys = [QueueKeys.named(message.hello.namespace, name) for name in message.hello.queues]
                self.vitals = Vitals(fds[1])
                self.questions = Questions(socket.socket(fileno=fds[2]))
                for fd in fds[:2]:
                    os.close(fd)
            if message.bye:
                self.bye = message.bye
        return messages

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def ended(self) -> bool:
        """Whether it is known to be gone."""
        return self.process.returncode is not None

    @property
    def stopped(self) -> bool:
        """Whether the process is stopped by a signal (state T): then nobody may renew its leases."""
        try:
            with open(f"/proc/{self.process.pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] in ("T", "t")
        except OSError:
            state = subprocess.run(["ps", "-o", "stat=", "-p", str(self.process.pid)], capture_output=True, text=True, check=False).stdout
            return state.strip().startswith("T")

    def dump(self) -> None:
        """Have it write its stack to stderr."""
        if not self.ended:
            self.process.send_signal(DUMP_SIGNAL)

    def held(self) -> dict[int, list[HeldLease]]:
        """The leases in its table, by queue."""
        found: dict[int, list[HeldLease]] = defaultdict(list)
        if self.table is not None:
            for lease in self.table.held():
                if lease.queue < len(self.keys):
                    found[lease.queue].append(lease)
        return found

    def close(self) -> None:
        """Close the channel and the table; the process has ended."""
        self.channel.close()
        if self.questions is not None:
            self.questions.socket.close()
        if self.table is not None:
            self.table.close()
