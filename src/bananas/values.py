"""Values as people write them: names, durations, sizes, lists, URLs; read, checked, shown, and masked where they hold a password.

A `Kind` knows one form of value. What is read names itself in its error ("JOB_TIMEOUT is '30 parsecs': give ..."), and every such error
is a ConfigError. The settings are made of kinds; arguments of the API and of the command line are read by the same ones.
"""

import binascii
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Generic, NamedTuple, TypeVar

from bananas.errors import ConfigError, InvalidName, describe

T = TypeVar("T")
N = TypeVar("N", int, float)

PRIORITIES = {"high": 100, "normal": 500, "low": 900}
MOST_SHARDS = 1_000
LONGEST_S = 50 * 365 * 86_400  # a server time plus this stays below 2^42 ms (the year 2109), where the scores of `ready` end

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_DURATION_PART = rf"({_NUMBER})(ns|us|µs|μs|ms|s|m|h|d)"
_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_UNITS_NS["d"] = 86_400 * 10**9
_UNITS_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "kib": 2**10, "mib": 2**20}
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_USER = r"(?:[^@/?#\x00-\x20]*@)?"
_NODES = r"(?:[\w.-]+|\[[0-9a-f:.]+\])(?::\d+)?"
_SERVER = rf"rediss?://{_USER}{_NODES}(?:/\d*)?"
_SEVERAL = (
    rf"rediss?\+(?:sentinel://{_USER}{_NODES}(?:,{_NODES})*/[^/?#\x00-\x20]+(?:/\d*)?|cluster://{_USER}{_NODES}(?:,{_NODES})*(?:/0?)?)"
)
_URL = rf"(?:{_SERVER}|{_SEVERAL}|unix://{_USER}/[^?#\x00-\x20]+)(?:\?[^#\x00-\x20]*)?"
_KEY = r"([A-Za-z0-9_-]{1,32}):([A-Za-z0-9+/_-]+)=*"
KEY_BYTES = 32
MAKE_KEY = "python -c 'import base64, os; print(\"k1:\" + base64.b64encode(os.urandom(32)).decode())'"
NO_SECRET = "k1:dGhpcy1rZXktaXMtbm8tc2VjcmV0LW1ha2UteW91cnM="  # an example of the form; decoded it says so itself
ROLES = ("viewer", "operator", "admin")
MAKE_TOKEN = "python -c 'import secrets; print(\"admin:\" + secrets.token_urlsafe(32))'"
_ORIGIN = r"https?://(?:[\w.-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?"
_SECRET_OPTION = r"(?i)([?&;][^=&;]*(?:pass|pwd|secret|token|%)[^=&;]*=)[^&]*"


def check_queue_name(name: str, what: str = "queue") -> str:
    """Return the name, or raise InvalidName: keys and public ids carry it, so it is 1 to 64 of A-Z a-z 0-9 _ -."""
    if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        return name
    raise InvalidName(f"{_shown(name)} is not a {what} name: use 1 to 64 letters (A-Z, a-z), digits, '_' or '-'.")


def check_namespace(name: str) -> str:
    """Return the name, or raise InvalidName: the same rule as for queues."""
    return check_queue_name(name, "namespace")


def check_task_name(name: str) -> str:
    """Return the name, or raise InvalidName: 1 to 200 printable characters (any script) without a space at either end."""
    if isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable() and name == name.strip():
        return name
    raise InvalidName(f"{_shown(name)} is not a task name: use 1 to 200 printable characters, no space at the ends.")


def mask_url(url: object) -> str:
    """The URL as it may be logged, passwords replaced by ***, also in the query. Takes anything; masks rather too much than too little."""
    whole = url if isinstance(url, str) else describe(url, 10_000)
    scheme, name, rest = re.findall(r"^([^:/?#\[\]@]+://)?(\[[0-9a-fA-F:.]*\]|[^:/?#@]*)(.*)", whole, re.DOTALL)[0]
    user = f"{name}:" if rest.startswith(":") else ""  # without a colon it may be a password in the wrong place
    head, at, tail = whole.rpartition("@")  # the last one: a password may hold @ and / as they are
    tail = re.sub(_SECRET_OPTION, r"\1***", tail)
    if at:
        return f"{scheme}***" if re.search(_SECRET_OPTION, head) else f"{scheme}{user}***@{tail}"
    is_port = name and re.match(r":\d{1,5}(?![^,/?#])", rest)
    return f"{scheme}{user}***" if user and not is_port else tail


class Secret:
    """Text that may not be shown: its repr, and so logs, errors and tracebacks with local variables, have *** for it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class Kind(NamedTuple, Generic[T]):
    """A kind of value: `parse` raises ValueError on what `form` does not describe, `show` writes a value as a user would.

    `secret` writes a value that was refused, where it may hold a password.
    """

    form: str
    example: str
    parse: Callable[[Any], T]
    show: Callable[[Any], str] = str
    secret: Callable[[object], str] | None = None

    def read(self, value: object, what: str) -> T:
        """The parsed value; a ConfigError names `what`, the value (never a password), the accepted form and an example."""
        try:
            return self.parse(value.strip() if isinstance(value, str) else value)
        except ConfigError as error:
            raise type(error)(f"{what}: {error}") from None
        except (ValueError, LookupError, AttributeError, OverflowError):
            raise ConfigError(f"{what} is {_shown(value, self.secret)}: give {self.form}, for example {self.example}.") from None


def _shown(value: object, secret: Callable[[object], str] | None = None) -> str:
    if secret is None:
        return describe(mask_url(value) if "://" in describe(value, 10_000) else value)
    return describe(secret(value))


def _matched(pattern: str, value: object) -> re.Match[str]:
    """The match of the value's text: "True", "3.0" and "None" are no whole numbers, so types need no look of their own."""
    if not (found := re.fullmatch(pattern, str(value), re.ASCII | re.IGNORECASE)):
        raise ValueError
    return found


def _within(number: N, low: float, high: float) -> N:
    if not low <= number <= high:  # NaN is nowhere
        raise ValueError
    return number


def _integer(value: object) -> int:
    return int(_matched(r"\d+", value)[0])


def _number(value: object) -> float:
    value = value.total_seconds() if isinstance(value, timedelta) else value
    return value if isinstance(value, float) else float(_matched(_NUMBER, value)[0])


def _seconds(value: object) -> float:
    if isinstance(value, str) and re.fullmatch(f"(?:{_DURATION_PART})+", value, re.ASCII):
        return sum(float(number) * _UNITS_NS[unit] for number, unit in re.findall(_DURATION_PART, value, re.ASCII)) / 10**9
    return _number(value)


def _bytes(value: object) -> int:
    size = _matched(r"(\d+) ?([km]i?b|b|)", value)
    return _within(int(size[1]) * _UNITS_BYTES[size[2].lower()], 1, 2**28)


def _priority(value: object) -> int:
    name = str(value).lower()
    return PRIORITIES[name] if name in PRIORITIES else _within(_integer(value), 0, 1000)


def _url(value: object) -> str:
    url = _matched(_URL, value)[0]
    if not url.startswith("unix:"):
        for port in re.findall(r":(\d+)(?=[,/?]|$)", url.partition("://")[2].rpartition("@")[2].partition("?")[0]):
            _within(int(port), 1, 65_535)
    return url


def _items(item: Callable[[Any], T]) -> Callable[[object], tuple[T, ...]]:
    def parse(value: object) -> tuple[T, ...]:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        return tuple(dict.fromkeys(item(part.strip() if isinstance(part, str) else part) for part in parts))

    return parse


def parse_routing_key(entry: str) -> tuple[str, int | None]:
    """Queue and weight of one of worker_routing_keys: "email" is ("email", None), "email:3" is ("email", 3), "email.0" one shard."""
    name, colon, weight = entry.partition(":")
    queue, dot, shard = name.partition(".")
    if dot:
        _within(_integer(shard), 0, MOST_SHARDS - 1)
    check_queue_name(queue)
    return name, _within(_integer(weight), 1, 1000) if colon else None


def _routing_keys(value: object) -> tuple[str, ...]:
    keys = _items(parse_routing_key)(value)
    if len(dict(keys)) < len(keys):  # one queue, two weights
        raise ValueError
    return tuple(name if weight is None else f"{name}:{weight}" for name, weight in keys)


def parse_shards(entry: str) -> tuple[str, int]:
    """Queue and count of one of queue_shards: "email:8" is ("email", 8)."""
    name, _, count = entry.partition(":")
    return check_queue_name(name), _within(_integer(count), 1, MOST_SHARDS)


def _redacted(value: object) -> tuple[str, ...]:
    if isinstance(value, str) and value.lower() == "none":
        return ()
    return _items(lambda v: _matched(r"(?:[^,]{1,200}:)?[^\s,:]{1,100}", v)[0])(value)


def _shards(value: object) -> tuple[str, ...]:
    entries = [f"{name}:{count}" for name, count in value.items()] if isinstance(value, Mapping) else value
    counts = _items(parse_shards)(entries)
    if len(dict(counts)) < len(counts):  # one queue, two counts
        raise ValueError
    return tuple(f"{name}:{count}" for name, count in counts)


def parse_keys(text: str) -> dict[str, bytes]:
    """The keys by id, in order, of "k2:base64,k1:base64"; line ends separate them too. Raises ConfigError, which shows no key."""
    keys: dict[str, bytes] = {}
    for place, entry in enumerate(re.findall(r"[^\s,]+", text), 1):
        if not (found := re.fullmatch(_KEY, entry, re.ASCII)):
            form = "the id 1 to 32 letters, digits, '_' or '-', the key in base64"
            raise ConfigError(f"entry {place} is not id:key, {form}. Make one: {MAKE_KEY}")
        key_id, digits = found[1], found[2].translate(str.maketrans("-_", "+/"))
        try:
            key = binascii.a2b_base64(digits + "=" * (-len(digits) % 4))
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise ConfigError(f"the key {key_id!r} has {len(key)} bytes, AES-256 needs {KEY_BYTES}, in base64. Make one: {MAKE_KEY}")
        if keys.setdefault(key_id, key) != key:
            raise ConfigError(f"two different keys have the id {key_id!r}: a job names its key by the id, so give each its own")
    if not keys:
        raise ConfigError(f"there is no key in it. Make one: {MAKE_KEY}")
    return keys


def _secret_keys(value: object) -> Secret:
    reveal = getattr(value, "get_secret_value", None) or getattr(value, "reveal", None)
    value = value if reveal is None else reveal()
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
    if not isinstance(text, str):
        raise ValueError
    parse_keys(text)
    return Secret(text)


def parse_tokens(text: str) -> list[tuple[str, str]]:
    """Role and token, in order, of "admin:token,viewer:sha256:hex", or of lines. Raises ConfigError, which shows no token."""
    found: list[tuple[str, str]] = []
    for place, entry in enumerate(re.findall(r"[^\s,]+", re.sub(r"(?m)#.*$", "", text)), 1):
        role, _, token = entry.partition(":")
        if role not in ROLES or not re.fullmatch(r"sha256:[0-9a-f]{64}|(?!sha256:)[\x21-\x7e]{16,200}", token):
            raise ConfigError(
                f"entry {place} is not role:token: a role is one of {', '.join(ROLES)}; a token has 16 to 200 printable ASCII characters, "
                f"or is sha256: and the hex digest of one. Make one: {MAKE_TOKEN}"
            )
        found.append((role, token))
    if not found:
        raise ConfigError(f"there is no token in it. Make one: {MAKE_TOKEN}")
    return found


def _tokens(value: object) -> Secret:
    reveal = getattr(value, "get_secret_value", None) or getattr(value, "reveal", None)
    value = value if reveal is None else reveal()
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
    if not isinstance(text, str):
        raise ValueError
    parse_tokens(text)
    return Secret(text)


def _show_size(value: int) -> str:
    return f"{value >> 20}MiB" if not value % 2**20 else f"{value >> 10}KiB" if not value % 2**10 else str(value)


def _show_duration(value_s: float) -> str:
    value_ms = round(value_s * 1000)
    unit = next(unit for unit in ("d", "h", "m", "s", "ms") if value_ms * 10**6 % _UNITS_NS[unit] == 0)
    return f"{value_ms * 10**6 // _UNITS_NS[unit]}{unit}" if value_ms else "0"


def whole(low: int, high: int, example: int) -> Kind[int]:
    """Whole numbers from `low` to `high`."""
    return Kind(f"a whole number from {low} to {high}", str(example), lambda v: _within(_integer(v), low, high))


def duration(low_s: float, high_s: float, example: str) -> Kind[float]:
    """Seconds from `low_s` to `high_s`, as a number, a timedelta or text like 1h30m."""
    form = f"seconds or a duration like 500ms, 30s, 1h30m or 180d, from {_show_duration(low_s)} to {_show_duration(high_s)}"
    return Kind(form, example, lambda v: _within(_seconds(v), low_s, high_s), _show_duration)


def choice(words: tuple[str, ...], **aliases: str) -> Kind[str]:
    """One of `words`, the first as the example; an alias, with '_' for '-', stands for the word that it names."""
    known = {word: word for word in words} | {alias.replace("_", "-"): word for alias, word in aliases.items()}
    return Kind(f"one of {', '.join(known)}", words[0], lambda v: known[str(v).lower().replace("_", "-")])


_SECONDS_FORM = f"seconds as a number from 0 to {LONGEST_S}, or a timedelta"
_URL_FORM = (
    "redis://[[user]:password@]host[:port][/db], rediss://... (TLS), unix://[[user]:password@]/path/to.sock[?db=0], "
    "redis+sentinel://[[user]:password@]host[:port],.../primary[/db] or redis+cluster://[[user]:password@]host[:port],..., "
    "with characters like @ : / ? # % in the password percent-encoded"
)
BOOLEAN = Kind("true or false (1/0, yes/no, on/off)", "true", lambda v: _WORDS[str(v).lower()], lambda v: str(v).lower())
DURATION = duration(0, LONGEST_S, "30s")
KEYS = Kind("comma-separated id:key pairs, each key 32 bytes in base64", NO_SECRET, _secret_keys, str, secret=lambda _: "***")
NAMESPACE = Kind("1 to 64 letters, digits, '_' or '-'", "shop", check_namespace)
HOST = Kind("an address or name of this machine, :: for all of IPv6 and IPv4", "127.0.0.1", lambda v: _matched(r"[\w.:%-]{1,255}", v)[0])
ORIGINS = Kind(
    "comma-separated origins, http(s)://host[:port]", "https://ops.example.org", _items(lambda v: _matched(_ORIGIN, v)[0].lower())
)
PATH = Kind("a path", "/run/bananas/heartbeat", lambda v: _matched(r"[^\x00]{1,4000}", v)[0])
PORT = Kind("a port from 1 to 65535, or 0 for a free one, which is logged", "8080", lambda v: _within(_integer(v), 0, 65_535))
PRIORITY = Kind("high (100), normal (500), low (900) or a whole number from 0 to 1000", "high", _priority)
RATE = Kind("a number from 0 to 1000000", "250", lambda v: _within(_number(v), 0, 10**6), "{:g}".format)
SECONDS = Kind(_SECONDS_FORM, "0.5 or timedelta(minutes=5)", lambda v: _within(_number(None if isinstance(v, str) else v), 0, LONGEST_S))
SIZE = Kind("bytes, plain or in KB, MB (1000s), KiB or MiB (1024s), from 1 to 256MiB", "1MiB", _bytes, _show_size)
SOME_PRIORITIES = Kind(f"comma-separated priorities, each {PRIORITY.form}", "high,normal", _items(_priority))
SOME_NAMES = Kind("comma-separated names, each alone or as task:name, or none", "password,charge_card:number", _redacted, ",".join)
SOME_QUEUES = Kind("comma-separated queues, each once, with a weight from 1 to 1000 or none", "email:3,default:1", _routing_keys)
SOME_SHARDS = Kind(f"comma-separated queues with their shards, 1 to {MOST_SHARDS}", "email:8,default:4", _shards)
SOME_TASKS = Kind("comma-separated task names", "send_email,shop.resize", _items(check_task_name))
TRACE_PAGE = Kind(
    "an http(s) address with {trace_id} where the id of a trace goes",
    "https://jaeger.example.org/trace/{trace_id}",
    lambda v: _matched(rf"(?i:{_ORIGIN})/[^\s{{}}]*\{{trace_id\}}[^\s{{}}]*", v)[0],
)
TOKENS = Kind(
    "comma-separated role:token pairs, the roles viewer, operator and admin", "admin:make-your-own-token", _tokens, str, lambda _: "***"
)
URL = Kind(_URL_FORM, "redis://:password@localhost:6379/0", _url, secret=mask_url)


def parse_duration(value: object, what: str) -> float:
    """Seconds (0 to 50 years) of 30, "30", "30s", "500ms", "1h30m", "180d" or a timedelta; a ConfigError names `what`."""
    return DURATION.read(value, what)


def parse_size(value: object, what: str) -> int:
    """Bytes of 1048576, "1048576", "1MB" (1000s) or "1MiB" (1024s), in any case; a ConfigError names `what`."""
    return SIZE.read(value, what)


def parse_priority(value: str | int) -> int:
    """0 to 1000 of "high", "normal", "low", an integer or its text; ConfigError otherwise."""
    return PRIORITY.read(value, "priority")


def seconds(value: float | int | timedelta, what: str) -> float:
    """Seconds of a number or a timedelta that a user passes: finite, 0 to 50 years; a ConfigError names `what`."""
    return SECONDS.read(value, what)
