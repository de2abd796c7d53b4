"""An environment of its own for each peer, made when it is first asked for and kept below the user's cache.

uv makes it where it is installed, else venv and pip; npm where the peer is on Node. The folder's name has a digest of what was installed
and of the interpreter, so that another version is another folder; `installed.json`, written last, says that it is whole.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from bananas.bench.environment import package_versions
from bananas.bench.peers._declared import Declared
from bananas.errors import BananasError

INSTALL_TIMEOUT_S = 600
NEWEST_MINOR = 14
_VERSIONS = """
import json, platform, sys
from importlib.metadata import PackageNotFoundError, version
found = {"Python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
json.dump(found, sys.stdout)
"""


class PeerUnavailable(BananasError):
    """A peer cannot be installed or started here; the message says why."""


class Installed(Struct, frozen=True):
    """Where a peer runs. `versions`: of what it declares. `modules`: Node's folder of packages."""

    interpreter: str
    bin: str
    versions: dict[str, str]
    modules: Path | None = None

    @property
    def versions_text(self) -> str:
        """The versions in words."""
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


def cache_folder() -> Path:
    """Where environments are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "bananas-bench")


def install(peer: Declared, cache: Path | None = None) -> Installed:
    """The peer's environment, made now if there is none yet.

    Raises:
        PeerUnavailable: what it needs is not on this machine, or cannot be installed.
    """
    if peer.runtime == "here":
        versions = {"Python": platform.python_version()} | package_versions(("bananas-queue", "hiredis", "uvloop"))
        return Installed(sys.executable, str(Path(sys.executable).parent), versions)
    base = interpreter(peer.python) if peer.runtime == "python" else _program("node")
    digest = hashlib.sha256(repr((peer.install, base)).encode()).hexdigest()[:10]
    folder = (cache or cache_folder()) / f"{peer.name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed.json").exists():
            shutil.rmtree(folder)
            folder.mkdir()
            make = _make_python if peer.runtime == "python" else _make_node
            (folder / "installed.json").write_text(json.dumps(make(peer, base, folder)), encoding="utf-8")
        versions = json.loads((folder / "installed.json").read_text(encoding="utf-8"))
    if peer.runtime == "python":
        return Installed(str(folder / "venv/bin/python"), str(folder / "venv/bin"), versions)
    return Installed(base, str(Path(base).parent), versions, folder / "node_modules")


def interpreter(least: tuple[int, int]) -> str:
    """A Python of at least this version: the running one if it is, else the oldest on the PATH or among pyenv's that will do.

    Raises:
        PeerUnavailable: there is none.
    """
    if sys.version_info[:2] >= least:
        return sys.executable
    kept = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    for minor in range(least[1], NEWEST_MINOR + 1):
        found = [shutil.which(f"python3.{minor}"), *sorted(kept.glob(f"3.{minor}.*/bin/python"))]
        for path in (str(path) for path in found if path):
            if _is_python(path, least):
                return path
    wanted, have = ".".join(map(str, least)), ".".join(map(str, sys.version_info[:2]))
    raise PeerUnavailable(f"needs Python {wanted} or newer; this is {have}, and no newer one is on the PATH")


def _is_python(path: str, least: tuple[int, int]) -> bool:
    """Whether it starts and is what its name says: pyenv's shims may refuse to."""
    command = [path, "-c", f"import sys; sys.exit(sys.version_info[:2] < {least!r})"]
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise PeerUnavailable(f"needs {name}, which is not on the PATH")
    return found


def _make_python(peer: Declared, base: str, folder: Path) -> dict[str, str]:
    python, uv = str(folder / "venv/bin/python"), shutil.which("uv")
    if uv:
        _run([uv, "venv", "--quiet", "--python", base, str(folder / "venv")])
        _run([uv, "pip", "install", "--quiet", "--python", python, *peer.install])
    else:
        _run([base, "-m", "venv", str(folder / "venv")])
        _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.install])
    names = [_package(spec) for spec in peer.install]
    found: dict[str, str] = json.loads(_run([python, "-c", _VERSIONS, *names]))
    return found


def _make_node(peer: Declared, node: str, folder: Path) -> dict[str, str]:
    _run([_program("npm"), "install", "--prefix", str(folder), "--no-fund", "--no-audit", "--silent", *peer.install])
    names = [spec.rpartition("@")[0] for spec in peer.install]
    packages = {name: json.loads((folder / "node_modules" / name / "package.json").read_text("utf-8")) for name in names}
    return {"Node": _run([node, "--version"]).strip()} | {name: package["version"] for name, package in packages.items()}


def _package(spec: str) -> str:
    """The name in a requirement: "rq" of "rq>=2,<3", "celery" of "celery[redis]"."""
    end = next((index for index, letter in enumerate(spec) if letter in "[<>=!~ ;"), len(spec))
    return spec[:end]


def _run(command: Sequence[str]) -> str:
    """The command's output. Raises PeerUnavailable with the last lines of what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailable(f"cannot be installed: {error}") from None
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        raise PeerUnavailable(f"cannot be installed: {Path(command[0]).name}: {' '.join(lines[-3:])[-300:]}")
    return done.stdout
