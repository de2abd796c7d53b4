"""The ledger: what producers, handlers and the driver of a trial write down, in files that survive kill -9.

One line per deed, appended with one write (O_APPEND), by a file per process:

    try name at                    before a submit; synced to the disk, so that no submit is unknown
    ack name id at                 after the server acknowledged it; synced too
    fail name error at             the submit failed: the job may exist or not, as the error says
    gone name id at                the driver cancelled, purged or discarded it, or it expired as was meant

    start name id attempt fence pid at valid more     a handler began
    mark  name id attempt fence pid at valid more     it goes on; `valid`: at that time the worker still trusted its lease
    end, cancelled, failed                            how it went out

`name` is the producer's own, and an argument of the job: it is there before an id is. Times are CLOCK_MONOTONIC in ns, one clock for all
processes of a machine. Settles that the server accepted are counted in SQLite (`Commits`), away from the server under fault.
"""

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

FOLDER = "CHAOS_LEDGER"
LOG = "CHAOS_AOF"  # the folder of the server's append-only file, where its size belongs to what is noted
_COLUMNS = "id TEXT, kind TEXT, fence INTEGER, pid INTEGER, at_ns INTEGER, log_bytes INTEGER"


class Submitted(NamedTuple):
    """A line of a producer or of the driver."""

    word: str
    name: str
    more: str
    at_ns: int


class Noted(NamedTuple):
    """A line of a handler."""

    word: str
    name: str
    id: str
    attempt: int
    fence: int
    pid: int
    at_ns: int
    valid: bool
    more: str


class Commit(NamedTuple):
    """A final settle that the server accepted, as the worker's hook was told; `log_bytes`: of the append-only file, where asked for."""

    id: str
    kind: str
    fence: int
    pid: int
    at_ns: int
    log_bytes: int = 0


class Book:
    """The ledger of one trial.

    Args:
        folder: where its files are, or are made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # --- writing ---

    def write(self, lines: Iterable[str], *, who: str, sync: bool = False) -> None:
        """Append lines to the file of `who` (and this process), in one write; `sync`: they are on the disk when it returns."""
        data = "".join(f"{line}\n" for line in lines).encode()
        fd = os.open(self.folder / f"{who}-{os.getpid()}.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, data)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)

    def trying(self, names: Iterable[str], who: str = "producer") -> None:
        """Before a submit."""
        now = time.monotonic_ns()
        self.write((f"try {name} {now}" for name in names), who=who, sync=True)

    def acked(self, pairs: Iterable[tuple[str, str]], who: str = "producer") -> None:
        """After an acknowledged submit: names and public ids."""
        now = time.monotonic_ns()
        self.write((f"ack {name} {public_id} {now}" for name, public_id in pairs), who=who, sync=True)

    def failed(self, names: Iterable[str], error: str, who: str = "producer") -> None:
        """After a submit that raised."""
        now = time.monotonic_ns()
        self.write((f"fail {name} {error} {now}" for name in names), who=who, sync=True)

    def ended_by_driver(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Names and public ids of jobs that the driver itself ended."""
        now = time.monotonic_ns()
        self.write((f"gone {name} {public_id} {now}" for name, public_id in pairs), who="driver")

    # --- reading ---

    def _lines(self, who: str) -> Iterator[list[str]]:
        for path in sorted(self.folder.glob(f"{who}-*.txt")):
            text = path.read_text(encoding="utf-8")
            for line in text[: text.rfind("\n") + 1].splitlines():
                yield line.split(" ")

    def submitted(self) -> list[Submitted]:
        """What producers and the driver wrote."""
        found = [parts for who in ("producer", "driver") for parts in self._lines(who)]
        return [Submitted(parts[0], parts[1], " ".join(parts[2:-1]), int(parts[-1])) for parts in found]

    def noted(self, word: str = "", name: str = "") -> list[Noted]:
        """What handlers wrote, in order of time: all of it, or the lines of a word, or of a job by its name."""
        found = []
        for parts in self._lines("runs"):
            if (not word or parts[0] == word) and (not name or parts[1] == name):
                attempt, fence, pid, at_ns = map(int, parts[3:7])
                found.append(Noted(parts[0], parts[1], parts[2], attempt, fence, pid, at_ns, parts[7] == "1", " ".join(parts[8:])))
        return sorted(found, key=lambda line: line.at_ns)

    def commits(self) -> list[Commit]:
        """The accepted settles."""
        path = self.folder / "commits.sqlite"
        if not path.exists():
            return []
        connection = sqlite3.connect(path, timeout=30)
        try:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'commits'").fetchall():
                return []  # the first to note a settle has made the file, and not yet the table
            rows = connection.execute("SELECT id, kind, fence, pid, at_ns, log_bytes FROM commits ORDER BY at_ns").fetchall()
        finally:
            connection.close()
        return [Commit(*row) for row in rows]


@cache
def _database(path: str, _pid: int) -> sqlite3.Connection:
    """One connection per process."""
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")  # what a killed process wrote stays; the machine itself is not under fault
    connection.execute(f"CREATE TABLE IF NOT EXISTS commits ({_COLUMNS})")
    return connection


def commit(folder: Path, public_id: str, kind: str, fence: int) -> None:
    """Note an accepted settle."""
    row = (public_id, kind, fence, os.getpid(), time.monotonic_ns(), log_bytes(Path(os.environ[LOG])) if LOG in os.environ else 0)
    _database(str(folder / "commits.sqlite"), os.getpid()).execute("INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?)", row)


def log_bytes(folder: Path) -> int:
    """The size of the part of an append-only file that grows."""
    return sum(path.stat().st_size for path in folder.glob("*.incr.aof"))
