"""One server process and how it ends; and the process that owns the embedded server of one directory.

The watcher runs this file as a plain script (`python -I -S watcher.py ORDER`): it imports a few modules of the standard library and nothing
else, so it takes 12 MB. One directory has at most one watcher, the holder of the lock:

USERS are connections to the watcher's unix socket. The kernel closes them when a process ends, by SIGKILL too. (A shared flock per user
would do the same, but a forked child keeps it; a connection the child can close.) A user is admitted by a line that names the server.
Admitting and leaving are decided by one thread: a connection that comes too late ends without that line, and `join` begins again.

LEAVING. When the last user is gone for LINGER_S and the server has no other client either (a forked child, redis-cli), the watcher stops
listening, ends the server, and unlocks, in this order: whoever gets the lock next finds the data at rest.

LOCK. A flock, taken by the process that starts the watcher, inherited by the watcher and by the server: no second server can open the data
while a first one lives, even if the watcher was killed.

ENDS. The server restarts when it crashes, at most RESTARTS times a minute. It ends with the watcher, however that ends: see
ServerProcess. When the directory or the watcher's socket was removed or moved, nobody can join any more: the watcher leaves at once.
"""

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

LINGER_S = 0.5  # between the last user and the end: commands that follow one another share a server
FIRST_USER_S = 5.0  # how long a new watcher waits for the user who started it
RESTARTS, RESTARTS_WINDOW_S = 3, 60.0
LOG_LIMIT_BYTES = 1 << 20

DEFAULTS = {
    "port": "0",
    "bind": "127.0.0.1",
    "protected-mode": "yes",
    "unixsocketperm": "700",
    "save": "",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
}
# Survives the end of every process but a SIGKILL of the server while the disk is slow: then it may have answered up to 2 s before it wrote.
DURABLE = {"appendonly": "yes", "appendfsync": "everysec"}

# $1 signal, $2 folder to remove or nothing. First line: the server's pid. Second line: the server has ended. End of file: we have.
_GUARD = 'read -r pid || exit 0; read -r _ && exit 0; kill -s "$1" "$pid"; [ -z "$2" ] || rm -rf -- "$2"'


def request(socket_path: str, *words: str, timeout: float = 1.0) -> bytes:
    """One command over a connection of its own.

    Returns:
        the first line of the reply with its type sign, or the whole value of a bulk string; b"" if the server closed instead.

    Raises:
        OSError: nobody listens, or no answer within `timeout` seconds.
    """
    command = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in (word.encode() for word in words))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(socket_path)
        connection.sendall(b"*%d\r\n%s" % (len(words), command))
        with connection.makefile("rb") as reply:
            line = reply.readline().rstrip()
            return reply.read(int(line[1:])) if line.startswith(b"$") and line != b"$-1" else line


def last_lines(path: str, count: int = 8) -> str:
    """The end of a log, for messages; "" if there is none."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - 8192))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(line for line in lines[-count:] if line.strip())


def identity(path: str | int) -> str:
    """What tells a file from its copy or successor: device and inode. "" if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return ""
    return f"{found.st_dev}:{found.st_ino}"


def read_record(directory: str) -> dict[str, str]:
    """What server.json says: kind and version of the server that last wrote the data, and where its watcher listens. {} if nothing."""
    try:
        with open(os.path.join(directory, "server.json"), encoding="utf-8") as file:
            record = json.load(file)
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(directory: str, record: Mapping[str, str]) -> None:
    """Replace server.json in one step."""
    path = os.path.join(directory, "server.json")
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
    os.replace(f"{path}.new", path)


class ServerProcess:
    """A server that listens on a unix socket, and ends with the process that started it.

    For the latter a guard, a shell of 1 MB, waits on a pipe from us: when it closes we are gone, however that happened. (PDEATHSIG fires
    already when the thread that started the server ends, and only Linux has it.) Both run in sessions of their own: Ctrl-C is for us.
    """

    def __init__(
        self,
        binary: str,
        directory: str,
        socket_path: str,
        settings: Mapping[str, str],
        *,
        orphan_signal: str = "TERM",
        orphan_removes: str = "",
        inherits: Sequence[int] = (),
        arguments: Sequence[str] = (),
    ) -> None:
        """Start it in `directory`, where it also writes server.log; `answers` tells when it is ready.

        Args:
            settings: any of the server's configuration; added to DEFAULTS.
            orphan_signal: what the server gets when we are gone.
            orphan_removes: a folder to remove then.
            inherits: descriptors that stay open in the server.
            arguments: what comes first on its command line, e.g. a configuration file.
        """
        self.socket_path, self.log_path = socket_path, os.path.join(directory, "server.log")
        command = [binary, *arguments]
        for name, value in (DEFAULTS | {"unixsocket": socket_path} | dict(settings)).items():
            command += [f"--{name}", value]
        guard = ["/bin/sh", "-c", _GUARD, "bananas-guard", orphan_signal, orphan_removes]
        nowhere = subprocess.DEVNULL
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, cwd="/", start_new_session=True)
        try:
            with open(self.log_path, "ab") as log:
                self._process = subprocess.Popen(
                    command, stdin=nowhere, stdout=log, stderr=log, cwd=directory, start_new_session=True, pass_fds=inherits
                )
        except BaseException:
            self._dismiss_guard(b"")
            raise
        self.pid = self._process.pid
        self._tell_guard(b"%d\n" % self.pid)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def answers(self) -> bool:
        """Whether it is ready: it listens and has loaded its data."""
        try:
            return request(self.socket_path, "PING").startswith((b"+PONG", b"-NOAUTH", b"-NOPERM"))
        except OSError:
            return False

    def wait_until_ready(self, timeout: float) -> bool:
        """Whether it answers within `timeout` seconds; returns at once when it ends."""
        deadline = time.monotonic() + timeout
        while self.is_alive and time.monotonic() < deadline:
            if self.answers():
                return True
            time.sleep(0.005)
        return False

    def end(self, timeout: float = 10.0) -> None:
        """SHUTDOWN, then SIGTERM, after `timeout` seconds SIGKILL. Returns when it is gone; harmless when it was."""
        if self.is_alive:
            self._process.send_signal(signal.SIGCONT)  # a stopped one obeys nothing but SIGKILL
            with contextlib.suppress(OSError):
                request(self.socket_path, "SHUTDOWN", timeout=0.5)
            try:
                self._process.wait(0.2)
            except subprocess.TimeoutExpired:
                self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                pass
        self.kill()

    def kill(self) -> None:
        """SIGKILL. Returns when it is gone; harmless when it was."""
        self._process.kill()
        self._process.wait()
        self._dismiss_guard(b"\n")

    def _tell_guard(self, line: bytes) -> None:
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # somebody killed the guard: nothing depends on it yet
            self._guard.stdin.write(line)
            self._guard.stdin.flush()

    def _dismiss_guard(self, line: bytes) -> None:
        assert self._guard.stdin is not None
        if not self._guard.stdin.closed:
            self._tell_guard(line)
            with contextlib.suppress(BrokenPipeError):
                self._guard.stdin.close()
        self._guard.wait()


class Watcher:
    """1. listens for users  2. starts the server and admits them  3. restarts it when it crashes  4. leaves after the last user."""

    def __init__(self, order: Mapping[str, str]) -> None:
        """The order: directory, binary, kind, version, socket and watcher (paths to listen on), lock_fd (the held lock)."""
        self._order, self._directory, self._path = order, order["directory"], order["watcher"]
        self._lock_fd = int(order["lock_fd"])
        self._lock_path = os.path.join(self._directory, "lock")
        self._listener = socket.socket(socket.AF_UNIX)
        self._users: set[socket.socket] = set()
        self._waiting: set[socket.socket] = set()  # users who do not know yet that the server is up
        self._is_up = False
        self._stay_until = time.monotonic() + FIRST_USER_S
        self._restarts: list[float] = []

    def listen(self) -> None:
        """From here on users can connect; they are admitted when the server is up."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._listener.bind(self._path)
        self._listener.listen(512)
        self._listener.setblocking(False)
        self._socket_identity = identity(self._path)
        places = {"socket": self._order["socket"], "watcher": self._path, "lock": identity(self._lock_fd)}
        write_record(self._directory, read_record(self._directory) | places)

    def run(self) -> None:
        """Returns when the server has ended and the directory is unlocked."""
        self._selector = selectors.DefaultSelector()  # only here: a kqueue does not survive the fork
        self._selector.register(self._listener, selectors.EVENT_READ)
        log_path = os.path.join(self._directory, "server.log")
        if os.path.exists(log_path) and os.path.getsize(log_path) > LOG_LIMIT_BYTES:
            os.unlink(log_path)
        try:
            self._start_server()
        except OSError as error:
            self._give_up(str(error))
            return
        try:
            while self._tick():
                pass
        except OSError as error:  # a full disk, for example
            self._give_up(str(error))
        self._leave()

    def _start_server(self) -> None:
        self._is_up = False
        order = self._order
        self._server = ServerProcess(order["binary"], self._directory, order["socket"], DURABLE, inherits=[self._lock_fd])

    def _tick(self) -> bool:
        """One round, half a second at most; False when it is time to leave."""
        self._hear(0.01 if not self._is_up else 0.5 if self._users else 0.1)
        if self._is_lost():
            return False
        if not self._server.is_alive:
            return self._recover()
        if not self._is_up and self._server.answers():
            self._admit_waiting()
        return self._is_wanted()

    def _hear(self, timeout: float) -> None:
        """Take in who connects, drop who is gone."""
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._listener:
                with contextlib.suppress(OSError):  # gone before it was accepted
                    self._welcome(self._listener.accept()[0])
                continue
            user = key.fileobj
            assert isinstance(user, socket.socket)
            try:
                is_gone = not user.recv(64)
            except OSError as error:
                is_gone = not isinstance(error, BlockingIOError)
            if is_gone:
                self._drop(user)

    def _welcome(self, user: socket.socket) -> None:
        user.setblocking(False)
        self._selector.register(user, selectors.EVENT_READ)
        self._users.add(user)
        self._waiting.add(user)
        if self._is_up:
            self._tell_waiting(self._address())

    def _drop(self, user: socket.socket) -> None:
        self._selector.unregister(user)
        self._users.discard(user)
        self._waiting.discard(user)
        user.close()
        if not self._users:
            self._stay_until = time.monotonic() + LINGER_S

    def _address(self) -> dict[str, str | int]:
        return {"socket": self._order["socket"], "pid": self._server.pid, "watcher_pid": os.getpid()}

    def _tell_waiting(self, message: Mapping[str, str | int]) -> None:
        line = json.dumps(message).encode() + b"\n"
        for user in self._waiting:
            with contextlib.suppress(OSError):  # it is gone, as the next round will see
                user.sendall(line)
        self._waiting.clear()

    def _admit_waiting(self) -> None:
        self._is_up = True
        served_by = {name: self._order[name] for name in ("kind", "version")}
        write_record(self._directory, read_record(self._directory) | served_by)
        self._tell_waiting(self._address())

    def _recover(self) -> bool:
        """The server has ended by itself: restart it if it had been up and does not do so all the time."""
        self._server.kill()  # it is dead; this dismisses its guard
        now = time.monotonic()
        self._restarts = [moment for moment in self._restarts if moment > now - RESTARTS_WINDOW_S]
        may_restart = self._is_up and len(self._restarts) < RESTARTS
        if may_restart:
            _note(f"the server {self._server.pid} ended by itself, and is restarted")
            self._restarts.append(now)
            self._start_server()
            return True
        log_path = self._server.log_path
        self._give_up(f"it ended by itself. The end of {log_path}:\n{last_lines(log_path)}")
        return False

    def _give_up(self, reason: str) -> None:
        """Tell whoever started this watcher, and is about to connect."""
        _note(f"giving up: {reason}")
        deadline = time.monotonic() + FIRST_USER_S
        while not self._users and time.monotonic() < deadline:
            self._hear(0.1)
        self._tell_waiting({"error": reason})

    def _is_lost(self) -> bool:
        """Whether the directory or our socket was removed or moved: nobody finds us any more."""
        lock_lost = identity(self._lock_path) != identity(self._lock_fd)
        socket_lost = identity(self._path) != self._socket_identity
        if lock_lost and socket_lost:
            self._server.kill()  # a successor may have its socket where ours was: a SHUTDOWN would remove it
        return lock_lost or socket_lost

    def _is_wanted(self) -> bool:
        now = time.monotonic()
        if self._users or now < self._stay_until:
            return True
        if self._is_up and self._has_clients():
            self._stay_until = now + LINGER_S
            return True
        return False

    def _has_clients(self) -> bool:
        """Whether others than this very request are connected: programs that never joined, or children of one that did."""
        try:
            lines = request(self._order["socket"], "INFO", "clients").splitlines()
        except OSError:
            return False
        return any(int(line.partition(b":")[2]) > 1 for line in lines if line.startswith(b"connected_clients:"))

    def _leave(self) -> None:
        if identity(self._path) == self._socket_identity:
            os.unlink(self._path)
        self._selector.close()
        self._listener.close()
        for user in self._users:
            user.close()
        self._server.end()
        fcntl.flock(self._lock_fd, fcntl.LOCK_UN)


def _note(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")  # watcher.log
    sys.stderr.flush()


def main() -> None:
    watcher = Watcher(json.loads(sys.argv[1]))
    watcher.listen()
    if os.fork():
        os._exit(0)  # it listens: whoever started it may connect, and has no child to reap later
    watcher.run()


if __name__ == "__main__":
    main()
