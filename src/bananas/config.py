"""The settings: one frozen struct whose fields are also the table of names, parsers and documentation.

Each field of `Settings` carries the `Kind` of value that it takes and what it does; loading, errors and docs/settings.md are made of
that, so a new setting is one line. Sources, the strongest first:

    arguments  >  BANANAS_<NAME>  >  the bare names (REDIS_URL, ...)  >  bananas.toml  >  [tool.bananas]  >  defaults

A setting is honoured or refused, never ignored: a misspelt name is an error with the nearest one, an unreadable value one with the form
that is accepted. Only the strongest value of a setting is read: where LOG_LEVEL belongs to another program, BANANAS_LOG_LEVEL is the
way out. What only some programs need (tomllib, difflib) is imported where it is used.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, get_args, get_type_hints

import msgspec

from bananas.errors import ConfigError, InvalidName, UnknownSetting, describe

T = TypeVar("T")
N = TypeVar("N", int, float)
WorkerMode = Literal["default", "thin", "specialized", "job-specialized", "scheduler-only"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "logfmt", "json"]

PRIORITIES = {"high": 100, "normal": 500, "low": 900}
LONGEST_S = 50 * 365 * 86_400  # a server time plus this stays below 2^42 ms (the year 2109), where the scores of `ready` end
PREFIX = "BANANAS_"
BARE_NAMES = """
    REDIS_URL REDIS_POOL_SIZE WORKER_MODE WORKER_CONCURRENCY WORKER_PRIORITIES WORKER_JOB_TYPES WORKER_ROUTING_KEYS JOB_TIMEOUT MAX_RETRIES
    SCHEDULER_INTERVAL ENABLE_SCHEDULER CRON_SCHEDULER_ENABLED RESULT_BACKEND_ENABLED RESULT_BACKEND_TTL_SUCCESS RESULT_BACKEND_TTL_FAILURE
    LOG_LEVEL LOG_FORMAT
""".split()
ALIASES = {f"result_ttl_{end}": f"result_backend_ttl_{end}" for end in ("success", "failure")} | {"max_payload_bytes": "max_payload"}
NO_SETTINGS = frozenset({"BANANAS_CONFIG"})  # variables with the prefix that some part of the project reads by itself

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_DURATION_PART = rf"({_NUMBER})(ns|us|µs|μs|ms|s|m|h|d)"
_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_UNITS_NS["d"] = 86_400 * 10**9
_UNITS_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "kib": 2**10, "mib": 2**20}
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_USER = r"(?:[^@/?#\x00-\x20]*@)?"
_SERVER = rf"rediss?://{_USER}(?:[\w.-]+|\[[0-9a-f:.]+\])(?::(?P<port>\d+))?(?:/\d*)?"
_URL = rf"(?:{_SERVER}|unix://{_USER}/[^?#\x00-\x20]+)(?:\?[^#\x00-\x20]*)?"
_SECRET_OPTION = r"(?i)([?&;][^=&;]*(?:pass|pwd|secret|token|%)[^=&;]*=)[^&]*"
# What Kubernetes injects into every pod for a service called "bananas" or "bananas-<something>", as the beginning of NAME=value.
_KUBERNETES = r"BANANAS(_\w+)?_(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=|PORT=(tcp|udp|sctp)://)"


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


class Kind(NamedTuple, Generic[T]):
    """A kind of value: `parse` raises ValueError on what `form` does not describe, `show` writes a value as a user would."""

    form: str
    example: str
    parse: Callable[[Any], T]
    show: Callable[[Any], str] = str
    secret: bool = False

    def read(self, value: object, what: str) -> T:
        """The parsed value; a ConfigError names `what`, the value (never a password), the accepted form and an example."""
        try:
            return self.parse(value.strip() if isinstance(value, str) else value)
        except InvalidName as error:
            raise InvalidName(f"{what}: {error}") from None
        except (ValueError, LookupError, AttributeError, OverflowError):
            raise ConfigError(f"{what} is {_shown(value, self.secret)}: give {self.form}, for example {self.example}.") from None


def _shown(value: object, secret: bool = False) -> str:
    return describe(mask_url(value) if secret or "://" in describe(value, 10_000) else value)


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
    found = _matched(_URL, value)
    _within(int(found["port"] or 6379), 1, 65_535)
    return found[0]


def _items(item: Callable[[Any], T]) -> Callable[[object], tuple[T, ...]]:
    def parse(value: object) -> tuple[T, ...]:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        return tuple(dict.fromkeys(item(part.strip() if isinstance(part, str) else part) for part in parts))

    return parse


def parse_routing_key(entry: str) -> tuple[str, int | None]:
    """Queue and weight of one of worker_routing_keys: "email" is ("email", None), "email:3" is ("email", 3)."""
    name, colon, weight = entry.partition(":")
    return check_queue_name(name), _within(_integer(weight), 1, 1000) if colon else None


def _routing_keys(value: object) -> tuple[str, ...]:
    keys = _items(parse_routing_key)(value)
    if len(dict(keys)) < len(keys):  # one queue, two weights
        raise ValueError
    return tuple(name if weight is None else f"{name}:{weight}" for name, weight in keys)


def _show_duration(value_s: float) -> str:
    value_ms = round(value_s * 1000)
    unit = next(unit for unit in ("d", "h", "m", "s", "ms") if value_ms * 10**6 % _UNITS_NS[unit] == 0)
    return f"{value_ms * 10**6 // _UNITS_NS[unit]}{unit}" if value_ms else "0"


def _whole(low: int, high: int, example: int) -> Kind[int]:
    return Kind(f"a whole number from {low} to {high}", str(example), lambda v: _within(_integer(v), low, high))


def _duration(low_s: float, high_s: float, example: str) -> Kind[float]:
    form = f"seconds or a duration like 500ms, 30s, 1h30m or 180d, from {_show_duration(low_s)} to {_show_duration(high_s)}"
    return Kind(form, example, lambda v: _within(_seconds(v), low_s, high_s), _show_duration)


def _choice(words: tuple[str, ...], **aliases: str) -> Kind[str]:
    known = {word: word for word in words} | {alias.replace("_", "-"): word for alias, word in aliases.items()}
    return Kind(f"one of {', '.join(known)}", words[0], lambda v: known[str(v).lower().replace("_", "-")])


_SECONDS_FORM = f"seconds as a number from 0 to {LONGEST_S}, or a timedelta"
_URL_FORM = (
    "redis://[[user]:password@]host[:port][/db], rediss://... (TLS) or unix://[[user]:password@]/path/to.sock[?db=0], "
    "with characters like @ : / ? # % in the password percent-encoded"
)
BOOLEAN = Kind("true or false (1/0, yes/no, on/off)", "true", lambda v: _WORDS[str(v).lower()], lambda v: str(v).lower())
DURATION = _duration(0, LONGEST_S, "30s")
FORMAT = _choice(get_args(LogFormat), text="console", key_value="logfmt")
LEVEL = _choice(get_args(LogLevel), warn="warning")
MODE = _choice(get_args(WorkerMode))
NAMESPACE = Kind("1 to 64 letters, digits, '_' or '-'", "shop", check_namespace)
PRIORITY = Kind("high (100), normal (500), low (900) or a whole number from 0 to 1000", "high", _priority)
RATE = Kind("a number from 0 to 1000000", "250", lambda v: _within(_number(v), 0, 10**6), "{:g}".format)
SECONDS = Kind(_SECONDS_FORM, "0.5 or timedelta(minutes=5)", lambda v: _within(_number(None if isinstance(v, str) else v), 0, LONGEST_S))
SIZE = Kind("bytes, plain or in KB, MB (1000s), KiB or MiB (1024s), from 1 to 256MiB", "1MiB", _bytes, lambda v: f"{v >> 20}MiB")
SOME_PRIORITIES = Kind(f"comma-separated priorities, each {PRIORITY.form}", "high,normal", _items(_priority))
SOME_QUEUES = Kind("comma-separated queues, each once, with a weight from 1 to 1000 or none", "email:3,default:1", _routing_keys)
SOME_TASKS = Kind("comma-separated task names", "send_email,shop.resize", _items(check_task_name))
URL = Kind(_URL_FORM, "redis://:password@localhost:6379/0", _url, secret=True)


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


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of an app and its workers; durations in seconds. Built by load_settings, which checks; the struct itself does not."""

    redis_url: Annotated[str | None, URL, "The server. Unset: the embedded one, where that is allowed."] = None
    namespace: Annotated[str, NAMESPACE, "Prefix of every key: apps with the same namespace on one server share their queues."] = "bananas"
    embedded: Annotated[bool | None, BOOLEAN, "Use the private server of this directory instead of `redis_url`."] = None
    worker_mode: Annotated[WorkerMode, MODE, "What a worker takes on: all jobs, some priorities, some tasks, or upkeep only."] = "default"
    worker_concurrency: Annotated[int | None, _whole(1, 10_000, 20), "Slots: jobs at once per process. Unset: 10, thin mode 5."] = None
    worker_priorities: Annotated[tuple[int, ...], SOME_PRIORITIES, "The priorities that `specialized` mode serves."] = ()
    worker_job_types: Annotated[tuple[str, ...], SOME_TASKS, "The tasks that `job-specialized` mode runs; others stay queued."] = ()
    worker_routing_keys: Annotated[tuple[str, ...], SOME_QUEUES, "The queues served, in this order or by weight. Unset: all."] = ()
    worker_processes: Annotated[int, _whole(1, 256, 4), "Processes that one `bananas worker` runs."] = 1
    job_timeout: Annotated[float, DURATION, "How long an attempt may run, 0 = no limit."] = 30.0
    max_retries: Annotated[int, _whole(0, 1_000_000, 5), "Retries after the first attempt, before a job is dead."] = 3
    redis_pool_size: Annotated[int, _whole(1, 1000, 20), "Connections of a synchronous client at most."] = 10
    scheduler_interval: Annotated[float | None, _duration(0.05, 3600, "2s"), "Time between upkeep rounds. Unset: lease / 4."] = None
    enable_scheduler: Annotated[bool, BOOLEAN, "Promotion of due jobs, reclaim and trims by this worker."] = True
    cron_scheduler_enabled: Annotated[bool, BOOLEAN, "Cron entries are fired by this worker."] = True
    result_backend_enabled: Annotated[bool, BOOLEAN, "Results are kept."] = True
    result_ttl_success: Annotated[float, DURATION, "How long the result of a success is kept, 0 = not at all."] = 3600.0
    result_ttl_failure: Annotated[float, DURATION, "How long the result of a failure is kept, 0 = not at all."] = 86_400.0
    log_level: Annotated[LogLevel, LEVEL, "The least severe messages that are logged."] = "info"
    log_format: Annotated[LogFormat, FORMAT, "How a log line is written."] = "console"
    lease: Annotated[float, _duration(0.5, 3600, "8s"), "A job is this worker's for so long; heartbeat lease / 4, grace lease / 2."] = 8.0
    max_payload_bytes: Annotated[int, SIZE, "Largest packed job; a larger one is refused with PayloadTooLarge."] = 2**20
    call_timeout: Annotated[float, _duration(0.001, 3600, "5s"), "Budget of one client call, reconnects included."] = 5.0
    shutdown_timeout: Annotated[float, _duration(0, 86_400, "25s"), "How long a stopping worker lets its jobs finish."] = 25.0
    max_jobs: Annotated[int, _whole(0, 10**9, 10_000), "A worker process is replaced after so many jobs, 0 = never."] = 0
    max_memory_mb: Annotated[int, _whole(0, 10**6, 512), "A worker process is replaced above this resident memory, 0 = never."] = 0
    dead_max_count: Annotated[int, _whole(1, 10**7, 10_000), "Dead jobs kept per queue."] = 10_000
    dead_max_age: Annotated[float, _duration(1, LONGEST_S, "30d"), "How long a dead job is kept."] = 180 * 86_400.0
    unknown_task_ttl: Annotated[float, DURATION, "A job of a task that no worker knows is dead after this time."] = 86_400.0
    submit_rate: Annotated[float, RATE, "Jobs per second that a client submits at most, 0 = no limit."] = 0.0

    @property
    def slots(self) -> int:
        """Jobs that one worker process runs at once."""
        return self.worker_concurrency or (5 if self.worker_mode == "thin" else 10)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        pairs = ((field, getattr(self, field)) for field in self.__struct_fields__)
        return [(field, mask_url(value) if field == "redis_url" and value else value) for field, value in pairs]

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{field}={value!r}' for field, value in self.__rich_repr__())})"


# field -> (kind, what it does)
_TABLE: dict[str, tuple[Kind[Any], str]] = {f: hint.__metadata__ for f, hint in get_type_hints(Settings, include_extras=True).items()}
# how arguments, TOML files and (with the prefix, in capitals) variables spell a field
_SPELLINGS = {field: field for field in _TABLE} | {alias: field for field, alias in ALIASES.items()}


def _variable(field: str) -> str:
    name = ALIASES.get(field, field).upper()
    return name if name in BARE_NAMES else PREFIX + name


def settings_table() -> str:
    """The settings as a Markdown table, for docs/settings.md."""
    lines = ["| Setting | Variable | Default | Value | What it does |", "|---|---|---|---|---|"]
    for (field, (kind, doc)), default in zip(_TABLE.items(), Settings.__struct_defaults__, strict=True):
        shown = "unset" if default in (None, ()) else f"`{kind.show(default)}`"
        lines.append(f"| `{field}` | `{_variable(field)}` | {shown} | {kind.form}; `{kind.example}` | {doc} |")
    return "\n".join(lines) + "\n"


class _Given(NamedTuple):
    raw: object
    where: str  # as an error names it: JOB_TIMEOUT, or job_timeout in /srv/bananas.toml
    source: int  # 0 arguments, 1 environment, 2 and 3 files

    def read(self, field: str) -> Any:
        try:
            return _TABLE[field][0].read(self.raw, self.where)
        except ConfigError as error:
            way_out = f" If {self.where} is another program's, set {PREFIX}{self.where} too: it wins." if self.where in BARE_NAMES else ""
            raise type(error)(f"{error}{way_out}") from None


def load_settings(
    overrides: Mapping[str, object] = {}, environ: Mapping[str, str] | None = None, start_dir: os.PathLike[str] | None = None
) -> Settings:
    """The settings that hold here, from all sources; None in `overrides` and an empty variable mean "not given".

    Args:
        overrides: by field name; environ: instead of os.environ.
        start_dir: where the search for the files starts, upwards; the working directory by default.

    Raises:
        ConfigError: an unknown name, an unreadable value or file, or settings that contradict each other.
    """
    given: dict[str, _Given] = {}
    for source in _sources(overrides, os.environ if environ is None else environ, os.path.abspath(start_dir or os.curdir)):
        given = source | given
    values = {field: found.read(field) for field, found in given.items()}
    _check_together(values, given)
    return Settings(**values)


def _sources(overrides: Mapping[str, object], environ: Mapping[str, str], start: str) -> Iterator[dict[str, _Given]]:
    """What each source gives, by field, the strongest first."""
    yield _by_field(0, ((name, name, value) for name, value in overrides.items() if value is not None), str)
    present = {name: text for name, text in sorted(environ.items()) if text.strip()}
    own = (name for name, text in present.items() if name.startswith(PREFIX) and not re.match(_KUBERNETES, f"{name}={text}"))
    keys = ((name, name.removeprefix(PREFIX).lower() if name.isupper() else name, present[name]) for name in own if name not in NO_SETTINGS)
    yield _by_field(1, keys, lambda spelling: PREFIX + spelling.upper())
    yield _by_field(1, ((name, name.lower(), present[name]) for name in BARE_NAMES if name in present), str.upper)
    named = present.get("BANANAS_CONFIG")
    paths = [os.path.join(start, named.strip())] if named else [_nearest("bananas.toml", start), _nearest("pyproject.toml", start)]
    for number, path in enumerate(filter(None, paths), 2):
        yield _by_field(number, ((f"{key} in {path}", key, value) for key, value in _read_toml(path).items()), str)


def _by_field(source: int, entries: Iterable[tuple[str, str, object]], spell: Callable[[str], str]) -> dict[str, _Given]:
    """The entries (where, spelling, raw value) of one source by field; `spell` writes a spelling as this source does."""
    found: dict[str, _Given] = {}
    for where, spelling, raw in entries:
        if (field := _SPELLINGS.get(spelling)) is None:
            from difflib import get_close_matches

            near = get_close_matches(spelling.lower(), _SPELLINGS, 1, 0.5)
            hint = f"did you mean {spell(near[0])}?" if near else f"there are {', '.join(map(spell, _TABLE))}."
            raise UnknownSetting(f"{where} is not a setting of Bananas: {hint}")
        this = _Given(raw, where, source)
        first = found.setdefault(field, this)
        if first is not this and first.read(field) != this.read(field):
            raise ConfigError(f"{first.where} and {where} are one setting with two different values: remove one of them.")
    return found


def _nearest(name: str, folder: str) -> str | None:
    path, above = os.path.join(folder, name), os.path.dirname(folder)
    return path if os.path.isfile(path) else _nearest(name, above) if above != folder else None


def _read_toml(path: str) -> Mapping[str, object]:
    """The settings in a TOML file; of a pyproject.toml those below [tool.bananas], if any."""
    import tomllib

    try:
        with open(path, "rb") as file:
            table: dict[str, Any] = tomllib.load(file)
        if os.path.basename(path) == "pyproject.toml":
            table = dict(table.get("tool", {}).get("bananas", {}))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): mend it, or name another TOML file in BANANAS_CONFIG.") from None
    return table


def _check_together(values: dict[str, Any], given: Mapping[str, _Given]) -> None:
    """Raise where settings contradict each other. Of two ways to name the server the one from the stronger source stays."""
    mode = values.get("worker_mode", "default")
    for needing, field in (("specialized", "worker_priorities"), ("job-specialized", "worker_job_types")):
        name, example = _variable(field), _TABLE[field][0].example
        if mode == needing and not values.get(field):
            raise ConfigError(f"The worker mode {mode} needs {field}: set {name}, for example {name}={example}.")
        if values.get(field) and mode not in (needing, "scheduler-only"):  # which takes no jobs at all
            raise ConfigError(f"{given[field].where} is set, but worker mode {mode} ignores it: set WORKER_MODE={needing} or remove it.")
    if mode == "scheduler-only" and not (values.get("enable_scheduler", True) or values.get("cron_scheduler_enabled", True)):
        raise ConfigError("A scheduler-only worker has nothing to do: set ENABLE_SCHEDULER or CRON_SCHEDULER_ENABLED to true.")
    if values.get("embedded") and "redis_url" in values:
        url, embedded = given["redis_url"], given["embedded"]
        if url.source == embedded.source:
            raise ConfigError(f"{url.where} names a server, and {embedded.where} asks for the embedded one: remove one of them.")
        del values["redis_url" if url.source > embedded.source else "embedded"]
