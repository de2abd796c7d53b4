"""Who may do what: tokens with roles, or on loopback without tokens whoever is on this machine.

A token comes as `Authorization: Bearer ...` and is compared by its SHA-256, with all tokens and in constant time. Roles: a viewer looks, an
operator acts on jobs and queues, an admin may also delete them.

Without tokens a request must come from this machine, through no proxy, and name this machine in its Host header: a page of another site
whose name was made to lead here (DNS rebinding) names itself there. A request of a browser that changes something must come from a page of
this server, by its Sec-Fetch-Site or Origin header, or from an origin of `api_cors_origins`.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Sequence
from enum import IntEnum
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from bananas.config import Settings
from bananas.errors import ConfigError
from bananas.http.problems import Refused
from bananas.values import MAKE_TOKEN, TOKENS, parse_tokens

SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
FORWARDING = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_EXAMPLE = TOKENS.example.partition(":")[2]


class Role(IntEnum):
    """What somebody may do, each more than the one before."""

    viewer = 1
    operator = 2
    admin = 3


RoleOf = Callable[[HTTPConnection], "Role | str | None"]


def tokens_of(settings: Settings) -> list[tuple[Role, bytes]]:
    """The roles and digests of the tokens that the settings name. Raises ConfigError."""
    given, path = settings.api_tokens, settings.api_tokens_file
    if given is not None and path is not None:
        raise ConfigError("api_tokens and api_tokens_file both give tokens: remove one of them")
    if path is not None:
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"api_tokens_file {path} cannot be read ({type(error).__name__}): give a file with role:token lines"
            ) from None
    else:
        text = "" if given is None else given.reveal()
    entries = parse_tokens(text) if text or path else []
    if any(token == _EXAMPLE for _, token in entries):
        raise ConfigError(f"the token of the documentation is none: everybody knows it. Make one: {MAKE_TOKEN}")
    return [(Role[role], _digest(token)) for role, token in entries]


def _digest(token: str) -> bytes:
    if token.startswith("sha256:"):
        return bytes.fromhex(token.removeprefix("sha256:"))
    return hashlib.sha256(token.encode("latin-1", "replace")).digest()


def is_loopback(host: str) -> bool:
    """Whether an address, or a name as it stands in a Host header, is this machine's own."""
    name = host.strip("[]").lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


class Access:
    """The rules of one API.

    Args:
        tokens: as `tokens_of` gives them.
        role_of: asked first, where given: an app that knows its users says what each may do; None: nothing.
        local: whether who is on this machine is an admin; where there are tokens it has none without one.
        origins: of other sites whose pages may use the API.
    """

    def __init__(
        self, tokens: Sequence[tuple[Role, bytes]], role_of: RoleOf | None = None, *, local: bool = False, origins: Sequence[str] = ()
    ) -> None:
        self._tokens, self._role_of, self._local, self.origins = tokens, role_of, local, frozenset(origins)
        if not tokens and role_of is None and not local:
            raise ConfigError(
                "nobody could use the HTTP API, or everybody: set api_tokens or api_tokens_file, or pass role_of= to api(). "
                f"Make a token: {MAKE_TOKEN}"
            )

    def role(self, request: HTTPConnection) -> tuple[Role | None, str]:
        """What the sender may do, and who it is for the rate limit: a token's digest, or an address. Raises Refused."""
        address = request.client.host if request.client is not None else "?"
        if self._role_of is not None:
            given = self._role_of(request)
            return (Role[given] if isinstance(given, str) else given), address
        if self._tokens:
            return self._role_of_token(request, address)
        self._check_local(request, address)
        return Role.admin, address

    def _role_of_token(self, request: HTTPConnection, address: str) -> tuple[Role | None, str]:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None, address
        digest = hashlib.sha256(token.strip().encode("latin-1", "replace")).digest()
        found = [role for role, known in self._tokens if hmac.compare_digest(known, digest)]
        return (max(found), digest.hex()) if found else (None, address)

    def _check_local(self, request: HTTPConnection, address: str) -> None:
        host = request.headers.get("host", "")
        name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if not is_loopback(name):
            raise Refused(403, "WrongHost", "Without tokens this API answers to localhost, 127.0.0.1 and [::1] alone: set api_tokens.")
        if not is_loopback(address) or any(name in request.headers for name in FORWARDING):
            raise Refused(
                403, "NotLocal", "Without tokens this API is for programs on its own machine alone, not through a proxy: set api_tokens."
            )

    def check_origin(self, request: HTTPConnection, method: str) -> None:
        """Raises Refused where a page of another site is behind a request that changes something."""
        if method in SAFE_METHODS:
            return
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
        if origin is not None and origin.lower() in self.origins:
            return
        if site is not None:
            good = site in ("same-origin", "none")
        else:
            good = origin is None or urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower() != ""
        if not good:
            raise Refused(403, "CrossSite", "A page of another site may change nothing here: api_cors_origins names those that may.")


def require(role: Role | None, needed: Role | None) -> None:
    """Raises Refused where the role is less than what is needed (None: nothing)."""
    if needed is None:
        return
    if role is None:
        raise Refused(401, "Unauthorized", "Send a token that is valid: Authorization: Bearer TOKEN.", {"WWW-Authenticate": "Bearer"})
    if role < needed:
        raise Refused(403, "Forbidden", f"The role {role.name} may not do this: it takes the role {needed.name}.")
