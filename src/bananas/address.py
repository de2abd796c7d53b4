"""Where a server is and how to log in there, read from a URL."""

import ssl
from typing import Any

from msgspec import Struct

from bananas.errors import ConfigError

Command = tuple[Any, ...]


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

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What rich shows, in tracebacks with locals too."""
        return [("at", str(self))]

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"

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
    """Read `redis://`, `rediss://` or `unix://` URLs as the other clients do.

    Query: `db`, and for TLS `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs=none`.

    Raises:
        ConfigError: an unknown scheme, parameter or number. The message never contains the password.
    """
    from urllib.parse import parse_qsl, unquote, urlsplit

    accepted = "redis://[user:password@]host:port/db, rediss://… (TLS), or unix:///path/to/socket?db=0"
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        port = parts.port or 6379
        db = int(query.pop("db", "") or (parts.path.strip("/") if parts.scheme != "unix" else "") or 0)
    except ValueError:
        raise ConfigError(f"the Redis URL has a port or database that is no number; accepted: {accepted}") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ConfigError(f"the Redis URL has the scheme {parts.scheme!r}; accepted: {accepted}")
    options = {
        "tls_ca": query.pop("ssl_ca_certs", ""),
        "tls_cert": query.pop("ssl_certfile", ""),
        "tls_key": query.pop("ssl_keyfile", ""),
    }
    verify = query.pop("ssl_cert_reqs", "required") != "none"
    password = unquote(parts.password or query.pop("password", ""))
    username = unquote(parts.username or query.pop("username", ""))
    if query:
        raise ConfigError(f"the Redis URL has unknown parameters {sorted(query)}; accepted: {accepted}")
    if parts.scheme == "unix":
        return Address(path=unquote(parts.path), db=db, username=username, password=password)
    host = parts.hostname or "127.0.0.1"
    tls = parts.scheme == "rediss"
    return Address(host=host, port=port, db=db, username=username, password=password, tls=tls, tls_verify=verify, **options)
