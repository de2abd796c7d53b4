"""How probes learn of a worker's health: over HTTP, and from a file that lives as long as its news.

One thread of the supervisor looks at the processes every LOOK_S, answers, and writes. It is not the thread that beats: neither a client
that is slow or hostile, nor a disk that hangs, holds up a beat. A request has 4 KiB, a connection 2 s and one answer, and of more than
MOST_CLIENTS the oldest goes: one that asks at once is always answered.
"""

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from bananas.errors import ConfigError
from bananas.exposition import CONTENT_TYPE
from bananas.worker.control import Probing
from bananas.worker.health import Health, Observer, Shift

LOOK_S = 0.25
WRITE_S = 1.0
MOST_CLIENTS, MOST_BYTES, PATIENCE_S = 16, 4096, 2.0
_PHRASES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
    503: "Service Unavailable",
}
_PATHS = ("/live", "/ready", "/health", "/metrics")


class Probes:
    """Tells whoever asks how a worker is.

    Args:
        shift: asked for what is so now; called on another thread.
        say: told what the operator should know.
        figures: asked for what Prometheus reads; called on another thread.
    """

    def __init__(self, shift: Callable[[], Shift], say: Callable[[str], None], figures: Callable[[Health], bytes]) -> None:
        self._shift, self._say, self._figures = shift, say, figures
        self._probing = Probing()
        self._observer = Observer()
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._ending = threading.Event()

    def use(self, probing: Probing) -> None:
        """Answer and write as these settings say, from now on.

        Raises:
            ConfigError: nobody may listen there.
        """
        with self._lock:
            if self._listener is None or (probing.host, probing.port) != (self._probing.host, self._probing.port):
                listener = None if probing.port is None else _listen(probing.host, probing.port)
                self._listener, old = listener, self._listener
                if old is not None:
                    old.close()
                if listener is not None:
                    host, port = listener.getsockname()[:2]
                    self._say(f"health at http://{f'[{host}]' if ':' in host else host}:{port}/health")
            self._probing = probing
        if self._thread is None and (probing.port is not None or probing.file or probing.blocked_warning):
            self._thread = threading.Thread(target=self._run, name="bananas-health", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Answer no more; the file goes."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(PATIENCE_S)
        if self._listener is not None:
            self._listener.close()
        if self._probing.file and self._thread is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._probing.file)

    # --- the thread ---

    def _run(self) -> None:
        door, news = _Door(), _News(self._say)
        next_look = 0.0
        health = self._look()
        while not self._ending.is_set():
            with self._lock:
                listener, probing = self._listener, self._probing
            if time.monotonic() >= next_look:
                health, next_look = self._look(), time.monotonic() + LOOK_S
                news.tell(health, probing.file)
            door.serve(listener, Told(health, self._figures), max(0.0, next_look - time.monotonic()))
        door.close()

    def _look(self) -> Health:
        shift = self._shift()
        health = self._observer.look(shift, self._probing.live_timeout)
        for child, seconds in self._observer.mute(shift, self._probing.blocked_warning) if self._probing.blocked_warning else ():
            self._say(f"process {child.pid}: no Python code has run for {seconds:.1f} s, the GIL is held in C. Its stack:")
            child.dump()
        return health


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server((host, port), family=family, backlog=MOST_CLIENTS, dualstack_ipv6=both)
    except OSError as error:
        raise ConfigError(f"nobody can listen for probes at {host} port {port} ({error}): give another --health-port.") from None
    listener.setblocking(False)
    return listener


class Told(NamedTuple):
    """What may be asked for: how the worker is, and what tells its figures."""

    health: Health
    figures: Callable[[Health], bytes]


class _News:
    """The heartbeat file."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._next, self._last, self._failed = 0.0, (False, False), False

    def tell(self, health: Health, path: str) -> None:
        """Write the file now and then, and at once when the verdict is another: a new one takes the place of the old in one step."""
        verdict = (health.live, health.ready)
        if not path or (health.at_monotonic < self._next and verdict == self._last):
            return
        self._next, self._last = health.at_monotonic + WRITE_S, verdict
        health.valid_s = 10 * WRITE_S
        try:
            with open(f"{path}.new", "wb") as file:
                file.write(msgspec.json.encode(health))
            os.replace(f"{path}.new", path)
            self._failed = False
        except OSError as error:
            if not self._failed:
                self._say(f"the heartbeat file cannot be written, trying on: {error}")
            self._failed = True


class _Client:
    """One connection: what it sent, and what is still to be sent."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket, self.until = connection, time.monotonic() + PATIENCE_S
        self.request, self.answer = b"", b""
        self.answered = False

    def go_on(self, told: Told) -> bool:
        """Read, answer, and see it off. Returns whether it stays."""
        try:
            if not self.answer:
                data = self.socket.recv(MOST_BYTES)
                if self.answered or not data:
                    return bool(data)  # what comes after the answer is let go
                self.request += data
                self.answer = respond(self.request, told)
            if self.answer:
                self.answer = self.answer[self.socket.send(self.answer) :]
                self.answered = True
                if not self.answer:
                    self.socket.shutdown(socket.SHUT_WR)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        return True


class _Door:
    """The connections of the HTTP server."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._clients: dict[int, _Client] = {}  # the oldest first

    def serve(self, listener: socket.socket | None, told: Told, seconds: float) -> None:
        """Let in and answer who comes within this time, or the first of them."""
        if listener is not self._listener:
            self._move(listener)
        for key, _ in self._selector.select(seconds):
            if isinstance(key.data, _Client):
                self._go_on(key.data, told)
            else:
                self._let_in()
        for client in [client for client in self._clients.values() if client.until < time.monotonic()]:
            self._show_out(client)

    def close(self) -> None:
        """See everybody off."""
        for client in list(self._clients.values()):
            self._show_out(client)
        self._selector.close()

    def _move(self, listener: socket.socket | None) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
        self._listener = listener
        if listener is not None:
            self._selector.register(listener, selectors.EVENT_READ)

    def _let_in(self) -> None:
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        if len(self._clients) >= MOST_CLIENTS:
            self._show_out(next(iter(self._clients.values())))
        client = self._clients[connection.fileno()] = _Client(connection)
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _go_on(self, client: _Client, told: Told) -> None:
        if self._clients.get(client.socket.fileno()) is not client:
            return  # it was shown out in this same round
        if not client.go_on(told):
            self._show_out(client)
        elif client.socket.fileno() >= 0:
            self._selector.modify(client.socket, selectors.EVENT_WRITE if client.answer else selectors.EVENT_READ, client)

    def _show_out(self, client: _Client) -> None:
        self._clients.pop(client.socket.fileno(), None)
        self._selector.unregister(client.socket)
        client.socket.close()


def respond(request: bytes, told: Told) -> bytes:
    """The answer to a request, b"" while it is not complete."""
    head, complete, _ = request.partition(b"\r\n\r\n")
    if not complete:
        return _answer(431, {"error": f"a request has {MOST_BYTES} bytes at most"}) if len(request) >= MOST_BYTES else b""
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return _answer(400, {"error": "this is no HTTP/1.1 request"})
    method, path = words[0], words[1].partition("?")[0]
    if path not in _PATHS:
        return _answer(404, {"error": f"there is {', '.join(_PATHS)}"})
    if method not in ("GET", "HEAD"):
        return _answer(405, {"error": "GET or HEAD"})
    health = told.health
    if path == "/metrics":
        return _metrics(told, with_body=method == "GET")
    if path == "/live":
        good, body = health.live, {"live": health.live, "reasons": health.not_live}
    elif path == "/ready":
        good, body = health.ready, {"ready": health.ready, "reasons": health.not_ready}
    else:
        good, body = health.ready, msgspec.to_builtins(health)
    return _answer(200 if good else 503, body, with_body=method == "GET")


def _metrics(told: Told, *, with_body: bool) -> bytes:
    try:
        text = told.figures(told.health)
    except ImportError:
        return _answer(501, {"error": "prometheus-client is not installed here: pip install 'bananas-queue[prometheus]'"})
    return _reply(200, text, CONTENT_TYPE, with_body=with_body)


def _answer(status: int, body: Any, *, with_body: bool = True) -> bytes:
    return _reply(status, msgspec.json.encode(body) + b"\n", "application/json", with_body=with_body)


def _reply(status: int, data: bytes, media: str, *, with_body: bool) -> bytes:
    lines = [f"HTTP/1.1 {status} {_PHRASES[status]}", f"Content-Type: {media}", f"Content-Length: {len(data)}"]
    lines += ["Cache-Control: no-store", "Connection: close", *(["Allow: GET, HEAD"] if status == 405 else []), "", ""]
    return "\r\n".join(lines).encode() + (data if with_body else b"")
