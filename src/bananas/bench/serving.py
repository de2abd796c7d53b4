"""The server of a benchmark: its own, of the kind asked for, with what it costs and does to be read off.

A private server is reached by TCP on the loopback and by a unix socket at once; the embedded one by its unix socket alone.
"""

import contextlib
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from bananas.address import parse_url
from bananas.connection import ReplyError, SyncConnection
from bananas.errors import BrokerUnavailable, ConfigError
from bananas.server import PrivateServer, ServerBinary, find_server_binary, unix_url

KINDS = ("redis", "valkey", "embedded")
TIMEOUT_S = 60.0
BUFFERS = ("mem_clients_normal", "mem_aof_buffer")  # of connections and of the append-only file: they come and go


class Usage(Struct, frozen=True):
    """What a server has done so far; two of them give what it did in between.

    Attributes:
        calls: per command how often it ran, those inside of scripts too.
        reads: how often the server read from a client: the round trips of clients that wait for each reply.
    """

    cpu_s: float
    memory_bytes: int
    calls: dict[str, int]
    reads: int
    bytes_in: int
    bytes_out: int

    def since(self, before: "Usage") -> "Usage":
        """What happened after `before`; memory as the difference."""
        calls = {name: count - before.calls.get(name, 0) for name, count in self.calls.items()}
        return Usage(
            self.cpu_s - before.cpu_s,
            self.memory_bytes - before.memory_bytes,
            {name: count for name, count in calls.items() if count},
            self.reads - before.reads,
            self.bytes_in - before.bytes_in,
            self.bytes_out - before.bytes_out,
        )


class Serving:
    """A running server.

    Attributes:
        urls: by transport, "TCP" and "unix", the first the usual one.
        name: kind and version, in words.
        pid: of the server.
        directory: of an embedded one: programs that work there use it.
    """

    def __init__(self, urls: Mapping[str, str], name: str, pid: int, directory: Path | None = None) -> None:
        self.urls, self.name, self.pid, self.directory = dict(urls), name, pid, directory
        self._connection = SyncConnection(parse_url(next(reversed(self.urls.values()))), "bench", TIMEOUT_S)

    @property
    def url(self) -> str:
        """The usual one."""
        return next(iter(self.urls.values()))

    def ask(self, *command: Any) -> Any:
        """One command. Raises what it comes to."""
        (reply,) = self._connection.execute([command], TIMEOUT_S)
        if isinstance(reply, ReplyError):
            raise BrokerUnavailable(f"the benchmark's server refused {command[0]}: {reply}")
        return reply

    def info(self, section: str) -> dict[str, str]:
        """A section of INFO."""
        lines = self.ask("INFO", section).decode(errors="replace").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def usage(self) -> Usage:
        """What it has done so far, this question left out of `calls`."""
        cpu, memory, stats = self.info("cpu"), self.info("memory"), self.info("stats")
        calls = {name[8:]: int(text.split(",")[0][6:]) for name, text in self.info("commandstats").items()}
        return Usage(
            float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"]),
            int(memory["used_memory"]) - sum(int(memory.get(name, 0)) for name in BUFFERS),
            {name: count for name, count in calls.items() if name != "info"},
            int(stats.get("total_reads_processed", 0)),
            int(stats["total_net_input_bytes"]),
            int(stats["total_net_output_bytes"]),
        )

    def settings(self, names: Iterable[str]) -> dict[str, str]:
        """Some of its configuration."""
        found = {}
        for name in names:
            pair = self.ask("CONFIG", "GET", name)
            if pair:
                found[name] = pair[1].decode()
        return found

    def empty(self) -> None:
        """Delete every key, and give their memory back before this returns; scripts stay loaded."""
        self.ask("FLUSHALL", "SYNC")

    def close(self) -> None:
        """Close the connection; the server goes on."""
        self._connection.close()


def is_installed(kind: str) -> bool:
    """Whether there is a server program for a kind."""
    try:
        binary_of(kind)
    except ConfigError:
        return False
    return True


def binary_of(kind: str) -> ServerBinary:
    """The server program for a kind. Raises ConfigError when there is none."""
    return find_server_binary(None if kind == "embedded" else kind)


@contextlib.contextmanager
def serve(kind: str, folder: Path, *, durable: bool = False) -> Generator[Serving]:
    """Run a server of a kind; it is gone afterwards.

    Args:
        folder: an empty one; its data and log go there.
        durable: append-only file, everysec; the embedded server always has it.
    """
    if kind == "embedded":
        yield from _serve_embedded(folder)
        return
    binary = binary_of(kind)
    with PrivateServer(folder, binary=binary, port=0, appendonly=durable) as server:
        serving = serving_of(server, binary)
        try:
            yield serving
        finally:
            serving.close()


def serving_of(server: PrivateServer, binary: ServerBinary) -> Serving:
    """A private server that runs, to be read off."""
    assert server.pid is not None
    return Serving({"TCP": server.url, "unix": unix_url(str(server.socket_path))}, _name(binary), server.pid)


def _serve_embedded(folder: Path) -> Generator[Serving]:
    from bananas.embedded import join

    use = join(folder)
    serving = Serving({"unix": use.url}, f"embedded: {_name(binary_of('embedded'))}", use.pid, folder)
    try:
        yield serving
    finally:
        serving.close()
        use.close()


def _name(binary: ServerBinary) -> str:
    return f"{binary.kind.capitalize()} {'.'.join(map(str, binary.version))}"
