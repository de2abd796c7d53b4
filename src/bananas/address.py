"""Where the server is and how to log in there, read from a URL: one server, the primary that sentinels name, or a Cluster.

An `Address` says what the URL says; which server that is at the moment, discovery.py finds out for each new connection.
"""

import ssl
from typing import Any, Literal
from urllib.parse import SplitResult

import msgspec
from msgspec import Struct

from bananas.errors import ConfigError

Command = tuple[Any, ...]
Kind = Literal["server", "sentinel", "cluster"]
ACCEPTED = (
    "redis://[user:password@]host:port/db, rediss://… (TLS), unix:///path/to/socket?db=0, "
    "redis+sentinel://[user:password@]host:port,host:port/primary/db, or redis+cluster://[user:password@]host:port,host:port"
)
_SENTINEL_PORT = 26379


class Address(Struct, frozen=True):
    """Where a server is, and how to log in there; made from a URL by `parse_url`."""

    host: str = "127.0.0.1"
    port: int = 6379
    path: str = ""
    db: int = 0
    username: str = ""
    password: str = ""
    tls: bool = False
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_verify: bool = True
    kind: Kind = "server"
    nodes: tuple[tuple[str, int], ...] = ()  # the sentinels, or some nodes of the Cluster
    primary: str = ""  # what the sentinels call it
    sentinel_username: str = ""
    sentinel_password: str = ""

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich shows, in tracebacks with locals too."""
        return [("at", str(self))]

    def __str__(self) -> str:
        if self.kind == "server":
            return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"
        nodes = ", ".join(f"{host}:{port}" for host, port in self.nodes)
        return f"{self.primary!r} of the sentinels {nodes}" if self.kind == "sentinel" else f"the Cluster of {nodes}"

    @property
    def clustered(self) -> bool:
        """Whether each slot of keys has a server of its own."""
        return self.kind == "cluster"

    def server(self, host: str, port: int) -> "Address":
        """One server that this address has led to: the same login and TLS."""
        return msgspec.structs.replace(self, kind="server", host=host, port=port, nodes=(), primary="")

    def sentinel(self, host: str, port: int) -> "Address":
        """One of the sentinels, with the login for sentinels."""
        login = {"username": self.sentinel_username, "password": self.sentinel_password}
        return msgspec.structs.replace(self.server(host, port), db=0, **login)

    def tls_context(self) -> ssl.SSLContext | None:
        """The TLS settings of this address, or None. Raises ConfigError where a file of theirs cannot be read."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca or None)
            if self.tls_cert:
                context.load_cert_chain(self.tls_cert, self.tls_key or None)
        except OSError as error:
            files = ", ".join(file for file in (self.tls_ca, self.tls_cert, self.tls_key) if file)
            raise ConfigError(f"the Redis URL names TLS files that cannot be read ({files}): {error}. Nothing was sent.") from error
        if not self.tls_verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def handshake(self, name: str) -> list[Command]:
        """The first commands on a new socket."""
        commands: list[Command] = []
        if self.password:
            commands.append(("AUTH", self.username, self.password) if self.username else ("AUTH", self.password))
        if self.db:
            commands.append(("SELECT", self.db))
        commands.append(("CLIENT", "SETNAME", name))
        return commands


def parse_url(url: str) -> Address:
    """Read a URL: `redis://`, `rediss://` and `unix://` as the other clients do, `+sentinel` and `+cluster` for more than one server.

    Query: `db`, and for TLS `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs=none`; for sentinels that want a login of their
    own, `sentinel_username` and `sentinel_password`.

    Raises:
        ConfigError: an unknown scheme, parameter or number. The message never contains the password.
    """
    from urllib.parse import parse_qsl, unquote, urlsplit

    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigError(f"the Redis URL has brackets that do not match, or hold no address; accepted: {ACCEPTED}") from None
    query = dict(parse_qsl(parts.query))
    scheme, _, kind = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss", "unix") or kind not in ("", "sentinel", "cluster") or (scheme == "unix" and kind):
        raise ConfigError(f"the Redis URL has the scheme {parts.scheme!r}; accepted: {ACCEPTED}")
    user, _, hosts = parts.netloc.rpartition("@")
    username, _, password = user.partition(":")
    fields: dict[str, Any] = {
        "username": unquote(username or query.pop("username", "")),
        "password": unquote(password or query.pop("password", "")),
        "tls": scheme == "rediss",
        "tls_ca": query.pop("ssl_ca_certs", ""),
        "tls_cert": query.pop("ssl_certfile", ""),
        "tls_key": query.pop("ssl_keyfile", ""),
        "tls_verify": query.pop("ssl_cert_reqs", "required") != "none",
    }
    try:
        if scheme == "unix":
            fields |= {"path": unquote(parts.path), "db": int(query.pop("db", "") or 0)}
        elif kind:
            fields |= _several(kind, hosts, parts, query)
        else:
            host, port = (parts.hostname or "127.0.0.1"), parts.port or 6379
            fields |= {"host": host, "port": port, "db": int(query.pop("db", "") or parts.path.strip("/") or 0)}
    except ValueError:
        raise ConfigError(f"the Redis URL has a port or database that is no number; accepted: {ACCEPTED}") from None
    if query:
        raise ConfigError(f"the Redis URL has unknown parameters {sorted(query)}; accepted: {ACCEPTED}")
    return Address(**fields)


def _several(kind: str, hosts: str, parts: SplitResult, query: dict[str, str]) -> dict[str, Any]:
    """What names more than one server. Raises ValueError for a number that is none, ConfigError."""
    from urllib.parse import unquote

    nodes = tuple(_node(text, _SENTINEL_PORT if kind == "sentinel" else 6379) for text in hosts.split(",") if text)
    if not nodes:
        raise ConfigError(f"the Redis URL names no server; accepted: {ACCEPTED}")
    primary, _, database = parts.path.strip("/").partition("/")
    if kind == "cluster":
        if int(query.pop("db", "") or primary or 0):
            raise ConfigError("the Redis URL names a database, but a Cluster has only number 0: leave it out, and separate by `namespace`")
        return {"kind": kind, "nodes": nodes}
    if not primary:
        raise ConfigError(f"the Redis URL does not say what the sentinels call the primary (often mymaster); accepted: {ACCEPTED}")
    login = {name: query.pop(name, "") for name in ("sentinel_username", "sentinel_password")}
    return {"kind": kind, "nodes": nodes, "primary": unquote(primary), "db": int(query.pop("db", "") or database or 0)} | login


def _node(text: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text.strip("[]"), default_port
    return host.strip("[]"), int(port)
