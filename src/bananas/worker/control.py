"""What supervisor and child say to each other: lines of JSON over a socket pair, and once the file of the lease table.

supervisor -> child   start, known (the registry has it: it may claim), lost, cancelled, stop, cancel, quiet
child -> supervisor   hello (with the file descriptors of the table and the vitals, and a socket for questions), counted, bye
on that socket        told: asked for without a text, answered with one
"""

import signal
import socket
import sys
from typing import Any

import msgspec
from msgspec import Struct

from bananas.address import Address
from bananas.config import Settings
from bananas.errors import describe

RECYCLED = "recycled"  # how a child's farewell begins when another is to take its place


# Makes a child write its stack. One that programs do not use, where there are such ones.
DUMP_SIGNAL: int = signal.SIGRTMIN + 7 if sys.platform == "linux" else signal.SIGUSR2
UNREACHED = "unreached"  # the farewell of one that did not start, since the server does not answer


class Probing(Struct, frozen=True, kw_only=True):
    """How a worker is watched and probes are served: see the settings worker_health_*, worker_heartbeat_file and the like."""

    port: int | None = None
    host: str = "0.0.0.0"
    file: str = ""
    live_timeout: float = 60.0
    blocked_warning: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> "Probing":
        """As these settings say."""
        return cls(
            port=settings.worker_health_port,
            host=settings.worker_health_host,
            file=settings.worker_heartbeat_file or "",
            live_timeout=settings.worker_live_timeout,
            blocked_warning=settings.blocked_loop_warning,
        )


class WorkerSpec(Struct, frozen=True, kw_only=True):
    """What `bananas worker` was asked to run.

    Attributes:
        target: module:app.
        modules: further modules with tasks.
        settings: by field name, what the command line gave; it wins over the code's and the environment's.
        burst: end when nothing is ready or running.
        probing: how probes are served before a process has greeted with its app's settings.
    """

    target: str
    modules: tuple[str, ...] = ()
    settings: dict[str, Any] = {}
    burst: bool = False
    probing: Probing = Probing()


class Hello(Struct, frozen=True, kw_only=True):
    """A child is ready to work."""

    boot: str
    pid: int
    address: Address
    namespace: str
    queues: list[str]
    tasks: list[str]
    only_priorities: list[int] = []
    only_tasks: list[str] = []
    slots: int
    capacity: int
    lease: float
    shutdown_timeout: float
    processes: int
    claims: bool
    probing: Probing


class Told(Struct, frozen=True):
    """The stack of a job that an order asks for, or why there is none; without a text, the question."""

    order: str
    job: str
    found: bool = False
    text: str = ""


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. Members are `id:boot:fence` as text; `counted` is by queue what `bananas.tally` makes of counts."""

    start: WorkerSpec | None = None
    hello: Hello | None = None
    lost: list[str] = []
    cancelled: list[str] = []
    stop: bool = False
    cancel: bool = False
    quiet: bool = False
    known: bool = False
    counted: dict[str, dict[str, str]] = {}
    told: Told | None = None
    bye: str = ""


_decoder = msgspec.json.Decoder(Message)


def line(message: Message) -> bytes:
    """A message as it is sent."""
    return msgspec.json.encode(message) + b"\n"


class Garbled(Exception):
    """A line that is no message."""


class Lines:
    """Bytes to messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete now. Raises Garbled."""
        *complete, self._rest = (self._rest + data).split(b"\n")
        try:
            return [_decoder.decode(text) for text in complete if text]
        except Exception as error:  # msgspec has more than its own: UnicodeDecodeError, RecursionError
            raise Garbled(f"{describe(complete)} is no message of a worker: {error}") from error


def send_hello(channel: socket.socket, hello: Hello, *fds: int) -> None:
    """Send the greeting together with the files of the lease table and the vitals, and the socket for questions."""
    socket.send_fds(channel, [line(Message(hello=hello))], list(fds))
