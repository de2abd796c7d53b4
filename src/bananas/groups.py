"""Groups of private servers, for tests, fault injection and benchmarks: a Cluster, and a primary with replicas and sentinels.

Each server is a PrivateServer: it ends with us, whatever happens, and its port stays the same when it is killed and started again.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bananas.address import parse_url
from bananas.connection import ConnectionLost, ReplyError, SyncConnection
from bananas.errors import BrokerError, BrokerUnavailable
from bananas.server import PrivateServer, ServerBinary, free_port, unix_url

READY_S = 30.0
PRIMARY_NAME = "bananas"


def ask(server: PrivateServer, *command: Any, timeout: float = 5.0) -> Any:
    """What one server answers. Raises ReplyError, ConnectionLost, BrokerUnavailable."""
    connection = SyncConnection(parse_url(unix_url(str(server.socket_path))), "bananas:groups", timeout)
    try:
        (reply,) = connection.execute([command], timeout)
    finally:
        connection.close()
    if isinstance(reply, ReplyError):
        raise reply
    return reply


def _until(condition: Callable[[], bool], what: str, timeout: float = READY_S) -> None:
    deadline = time.monotonic() + timeout
    while not _holds(condition):
        if time.monotonic() > deadline:
            raise BrokerUnavailable(f"not within {timeout:g} s: {what}")
        time.sleep(0.02)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except (ReplyError, ConnectionLost, BrokerError):
        return False


class _Group:
    """Servers that start and stop together."""

    def __init__(self) -> None:
        self.servers: list[PrivateServer] = []

    def start(self) -> None:
        """Start all, and wait until they know each other."""
        raise NotImplementedError

    def stop(self) -> None:
        """End all, and remove what they stored."""
        for server in reversed(self.servers):
            server.stop()

    def _start_all(self, servers: Sequence[PrivateServer]) -> None:
        try:
            for server in servers:
                server.start()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Cluster(_Group):
    """A Cluster of `primaries`, each with so many replicas; slots are spread evenly.

    Attributes:
        servers: the primaries, then the replicas of the first primary, of the second, and so on.
    """

    def __init__(
        self,
        primaries: int = 3,
        replicas: int = 0,
        *,
        binary: ServerBinary | None = None,
        appendonly: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._primaries, self._replicas = primaries, replicas
        clustered = {"cluster-enabled": "yes", "cluster-node-timeout": "1000", "cluster-replica-validity-factor": "0"} | dict(
            settings or {}
        )
        for _ in range(primaries * (1 + replicas)):
            own = clustered | {"cluster-port": str(free_port())}
            self.servers.append(PrivateServer(binary=binary, port=0, appendonly=appendonly, settings=own))

    @property
    def url(self) -> str:
        """What a client connects to: it names all nodes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def start(self) -> None:
        """Start all nodes, and wait until every one finds the Cluster well."""
        self._start_all(self.servers)
        first, *others = self.servers
        for index, server in enumerate(self.servers[: self._primaries]):
            ask(server, "CLUSTER", "ADDSLOTSRANGE", *_share(index, self._primaries))
        for server in others:
            bus = ask(server, "CONFIG", "GET", "cluster-port")[1].decode()
            ask(first, "CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        names = {ask(server, "CLUSTER", "MYID").decode() for server in self.servers}
        for server in self.servers:
            _until(lambda server=server: names <= set(_names(server)), "the nodes know each other")  # type: ignore[misc]
        for index, server in enumerate(self.servers[self._primaries :]):
            primary = self.servers[index // self._replicas]
            ask(server, "CLUSTER", "REPLICATE", ask(primary, "CLUSTER", "MYID").decode())
        for server in self.servers:
            _until(lambda server=server: "cluster_state:ok" in ask(server, "CLUSTER", "INFO").decode(), "the Cluster is well")  # type: ignore[misc]
        for server in self.servers[self._primaries :]:
            _until(lambda server=server: "master_link_status:up" in ask(server, "INFO", "replication").decode(), "replicas are in step")  # type: ignore[misc]

    @property
    def primaries(self) -> list[PrivateServer]:
        """The servers that are primaries now."""
        return [server for server in self.servers if server.pid is not None and ask(server, "ROLE")[0] == b"master"]

    def serving(self, slot: int) -> PrivateServer:
        """The primary that serves a slot, as the first node that answers sees it."""
        for server in self.servers:
            if server.pid is not None:
                port = _owner(server, slot)
                return next(each for each in self.servers if each.port == port)
        raise BrokerUnavailable("no node of the Cluster runs")

    def move(self, slot: int, to: PrivateServer) -> float:
        """Move a slot with its keys to another primary, as `redis-cli --cluster reshard` does. Returns how long it took, in seconds."""
        began, source = time.monotonic(), self.serving(slot)
        if source is to:
            return 0.0
        here, there = (ask(server, "CLUSTER", "MYID").decode() for server in (source, to))
        ask(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", here)
        ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", there)
        while names := ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 10):
            ask(source, "MIGRATE", "127.0.0.1", to.port, "", 0, 5_000, "KEYS", *names, timeout=10)
        for server in (to, source, *self.primaries):
            ask(server, "CLUSTER", "SETSLOT", slot, "NODE", there)
        took = time.monotonic() - began
        # The next move of this slot must not overtake the news of this one, or nodes disagree for ever about who has it.
        running = [server for server in self.servers if server.pid is not None]
        _until(lambda: all(_owner(server, slot) == to.port for server in running), "all nodes know where the slot is")
        return took


def _owner(server: PrivateServer, slot: int) -> int | None:
    """The port of the primary of a slot, as one node sees it."""
    return next((entry[2][1] for entry in ask(server, "CLUSTER", "SLOTS") if entry[0] <= slot <= entry[1]), None)


def _share(index: int, of: int) -> tuple[int, int]:
    """The slots of a primary: first and last."""
    return 16_384 * index // of, 16_384 * (index + 1) // of - 1


def _names(server: PrivateServer) -> list[str]:
    return [line.split(" ", 1)[0] for line in ask(server, "CLUSTER", "NODES").decode().splitlines() if "handshake" not in line]


class Replicated(_Group):
    """A primary, its replicas, and sentinels that watch over them.

    Args:
        down_after_ms: how long a primary is silent before the sentinels hold it for dead.

    Attributes:
        data: the primary and the replicas; `primary` says which one is it now.
        sentinels: the sentinels.
    """

    def __init__(
        self,
        replicas: int = 1,
        sentinels: int = 3,
        *,
        binary: ServerBinary | None = None,
        appendonly: bool = False,
        settings: Mapping[str, str] | None = None,
        down_after_ms: int = 1_000,
    ) -> None:
        super().__init__()
        self.data = [
            PrivateServer(binary=binary, port=0, appendonly=appendonly, settings={"repl-diskless-sync-delay": "0"} | dict(settings or {}))
            for _ in range(1 + replicas)
        ]
        self.sentinels: list[PrivateServer] = []
        self._count, self._binary, self._down_after_ms = sentinels, binary, down_after_ms

    @property
    def url(self) -> str:
        """What a client connects to: the sentinels, or the first server where there are none."""
        if not self.sentinels:
            return self.data[0].url
        nodes = ",".join(f"127.0.0.1:{server.port}" for server in self.sentinels)
        return f"redis+sentinel://{nodes}/{PRIMARY_NAME}"

    @property
    def primary(self) -> PrivateServer:
        """The server that says that it is the primary; the first of them in a split."""
        for server in self.data:
            if server.pid is not None and ask(server, "ROLE")[0] == b"master":
                return server
        raise BrokerUnavailable("none of the servers is a primary")

    def start(self) -> None:
        """Start all, and wait until the replicas are in step and the sentinels know each other."""
        self.servers = list(self.data)
        self._start_all(self.data)
        first, *replicas = self.data
        for server in replicas:
            ask(server, "REPLICAOF", "127.0.0.1", first.port)
            _until(lambda server=server: "master_link_status:up" in ask(server, "INFO", "replication").decode(), "a replica is in step")  # type: ignore[misc]
        _until(lambda: _acknowledged(first) == len(replicas), "the primary hears of its replicas")
        self.sentinels = [PrivateServer(binary=self._binary, port=0, **self._as_sentinel(first)) for _ in range(self._count)]
        self.servers += self.sentinels
        self._start_all(self.sentinels)
        for sentinel in self.sentinels:
            _until(lambda sentinel=sentinel: self._knows_all(sentinel), "the sentinels know each other and the replicas")  # type: ignore[misc]

    def _as_sentinel(self, primary: PrivateServer) -> dict[str, Any]:
        lines = [
            f"sentinel monitor {PRIMARY_NAME} 127.0.0.1 {primary.port} {self._count // 2 + 1}",
            f"sentinel down-after-milliseconds {PRIMARY_NAME} {self._down_after_ms}",
            f"sentinel failover-timeout {PRIMARY_NAME} 5000",
            f"sentinel parallel-syncs {PRIMARY_NAME} 1",
        ]
        return {"files": {"sentinel.conf": "\n".join(lines) + "\n"}, "arguments": ("sentinel.conf", "--sentinel")}

    def _knows_all(self, sentinel: PrivateServer) -> bool:
        (flat,) = [ask(sentinel, "SENTINEL", "MASTER", PRIMARY_NAME)]
        known = dict(zip(flat[::2], flat[1::2], strict=True))
        return int(known[b"num-other-sentinels"]) == self._count - 1 and int(known[b"num-slaves"]) == len(self.data) - 1


def _acknowledged(primary: PrivateServer) -> int:
    """How many replicas have told their primary that they have all it wrote; before their first word WAIT waits up to a second for it."""
    told = ask(primary, "INFO", "replication").decode()
    offset = next(line.partition(":")[2] for line in told.splitlines() if line.startswith("master_repl_offset:"))
    return sum(f"state=online,offset={offset}," in line for line in told.splitlines())


__all__ = ["PRIMARY_NAME", "Cluster", "Replicated", "ask"]
