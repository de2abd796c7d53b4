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
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec

from bananas.errors import ConfigError, UnknownSetting
from bananas.values import (
    BOOLEAN,
    DURATION,
    HOST,
    KEYS,
    LONGEST_S,
    NAMESPACE,
    ORIGINS,
    PATH,
    PORT,
    PRIORITIES,
    RATE,
    SIZE,
    SOME_NAMES,
    SOME_PRIORITIES,
    SOME_QUEUES,
    SOME_SHARDS,
    SOME_TASKS,
    TOKENS,
    TRACE_PAGE,
    URL,
    Kind,
    Secret,
    check_namespace,
    check_queue_name,
    check_task_name,
    choice,
    duration,
    mask_url,
    parse_duration,
    parse_priority,
    parse_routing_key,
    parse_size,
    seconds,
    whole,
)

__all__ = [  # the names of `values` that programs know from here, too
    "ALIASES",
    "BARE_NAMES",
    "LONGEST_S",
    "PREFIX",
    "PRIORITIES",
    "Compression",
    "Kind",
    "LogFormat",
    "LogLevel",
    "Settings",
    "WorkerMode",
    "check_namespace",
    "check_queue_name",
    "check_task_name",
    "load_settings",
    "mask_url",
    "parse_duration",
    "parse_priority",
    "parse_routing_key",
    "parse_size",
    "seconds",
    "settings_table",
]

WorkerMode = Literal["default", "thin", "specialized", "job-specialized", "scheduler-only"]
Durability = Literal["default", "replicated", "fsynced"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "logfmt", "json"]
Compression = Literal["none", "zstd"]

PREFIX = "BANANAS_"
BARE_NAMES = """
    REDIS_URL REDIS_POOL_SIZE WORKER_MODE WORKER_CONCURRENCY WORKER_PRIORITIES WORKER_JOB_TYPES WORKER_ROUTING_KEYS JOB_TIMEOUT MAX_RETRIES
    SCHEDULER_INTERVAL ENABLE_SCHEDULER CRON_SCHEDULER_ENABLED RESULT_BACKEND_ENABLED RESULT_BACKEND_TTL_SUCCESS RESULT_BACKEND_TTL_FAILURE
    LOG_LEVEL LOG_FORMAT
""".split()
ALIASES = {f"result_ttl_{end}": f"result_backend_ttl_{end}" for end in ("success", "failure")} | {"max_payload_bytes": "max_payload"}
NO_SETTINGS = frozenset({"BANANAS_CONFIG", "BANANAS_OPERATOR"})  # variables with the prefix that some part of the project reads by itself

# What Kubernetes injects into every pod for a service called "bananas" or "bananas-<something>", as the beginning of NAME=value.
_KUBERNETES = r"BANANAS(_\w+)?_(SERVICE_HOST=|SERVICE_PORT(_\w+)?=|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?=|PORT=(tcp|udp|sctp)://)"

COMPRESSION = choice(get_args(Compression), off="none")
FORMAT = choice(get_args(LogFormat), text="console", key_value="logfmt")
LEVEL = choice(get_args(LogLevel), warn="warning")
MODE = choice(get_args(WorkerMode))


REDACTED = (
    *("password", "passwords", "passwd", "secret", "secrets", "token", "authorization", "credential", "credentials"),
    *("api_key", "apikey", "access_key", "private_key", "card_number", "cvv", "cvc"),
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of an app and its workers; durations in seconds. Built by load_settings, which checks; the struct itself does not."""

    redis_url: Annotated[str | None, URL, "The server. Unset: the embedded one, where that is allowed."] = None
    namespace: Annotated[str, NAMESPACE, "Prefix of every key: apps with the same namespace on one server share their queues."] = "bananas"
    embedded: Annotated[bool | None, BOOLEAN, "Use the private server of this directory instead of `redis_url`."] = None
    worker_mode: Annotated[WorkerMode, MODE, "What a worker takes on: all jobs, some priorities, some tasks, or upkeep only."] = "default"
    worker_concurrency: Annotated[int | None, whole(1, 10_000, 20), "Slots: jobs at once per process. Unset: 10, thin mode 5."] = None
    worker_priorities: Annotated[tuple[int, ...], SOME_PRIORITIES, "The priorities that `specialized` mode serves."] = ()
    worker_job_types: Annotated[tuple[str, ...], SOME_TASKS, "The tasks that `job-specialized` mode runs; others stay queued."] = ()
    worker_routing_keys: Annotated[tuple[str, ...], SOME_QUEUES, "The queues served, in this order or by weight. Unset: all."] = ()
    queue_shards: Annotated[tuple[str, ...], SOME_SHARDS, "Queues in several parts, which a Cluster spreads over its servers."] = ()
    worker_processes: Annotated[int, whole(1, 256, 4), "Processes that one `bananas worker` runs."] = 1
    job_timeout: Annotated[float, DURATION, "How long an attempt may run, 0 = no limit."] = 30.0
    max_retries: Annotated[int, whole(0, 1_000_000, 5), "Retries after the first attempt, before a job is dead."] = 3
    redis_pool_size: Annotated[int, whole(1, 1000, 20), "Connections of a synchronous client at most."] = 10
    scheduler_interval: Annotated[float | None, duration(0.05, 3600, "2s"), "Time between upkeep rounds. Unset: lease / 4."] = None
    enable_scheduler: Annotated[bool, BOOLEAN, "Promotion of due jobs, reclaim and trims by this worker."] = True
    cron_scheduler_enabled: Annotated[bool, BOOLEAN, "Cron entries are fired by this worker."] = True
    result_backend_enabled: Annotated[bool, BOOLEAN, "Results are kept."] = True
    result_ttl_success: Annotated[float, DURATION, "How long the result of a success is kept, 0 = not at all."] = 3600.0
    result_ttl_failure: Annotated[float, DURATION, "How long the result of a failure is kept, 0 = not at all."] = 86_400.0
    log_level: Annotated[LogLevel, LEVEL, "The least severe messages that are logged."] = "info"
    log_format: Annotated[LogFormat, FORMAT, "How a log line is written."] = "console"
    lease: Annotated[float, duration(0.5, 3600, "8s"), "A job is this worker's for so long; heartbeat lease / 4, grace lease / 2."] = 8.0
    max_payload_bytes: Annotated[int, SIZE, "Largest packed job; a larger one is refused with PayloadTooLarge."] = 2**20
    compression: Annotated[Compression, COMPRESSION, "How large arguments and results are stored (zstd: extra `zstd`)."] = "none"
    compression_threshold: Annotated[int, SIZE, "From this packed size on they are compressed."] = 4096
    encryption_keys: Annotated[Secret | None, KEYS, "AES-256 keys: the first encrypts, all decrypt (extra `encryption`)."] = None
    encryption_keys_file: Annotated[str | None, PATH, "A file with the same, commas or line ends between the keys."] = None
    encrypt: Annotated[bool | None, BOOLEAN, "Encrypt arguments, headers, results and errors. Unset: where there are keys."] = None
    call_timeout: Annotated[float, duration(0.001, 3600, "5s"), "Budget of one client call, reconnects included."] = 5.0
    shutdown_timeout: Annotated[float, duration(0, 86_400, "25s"), "How long a stopping worker lets its jobs finish."] = 25.0
    max_jobs: Annotated[int, whole(0, 10**9, 10_000), "A worker process is replaced after so many jobs, 0 = never."] = 0
    max_memory_mb: Annotated[int, whole(0, 10**6, 512), "A worker process is replaced above this resident memory, 0 = never."] = 0
    dead_max_count: Annotated[int, whole(1, 10**7, 10_000), "Dead jobs kept per queue."] = 10_000
    dead_max_age: Annotated[float, duration(1, LONGEST_S, "30d"), "How long a dead job is kept."] = 180 * 86_400.0
    unknown_task_ttl: Annotated[float, DURATION, "A job of a task that no worker knows is dead after this time."] = 86_400.0
    worker_health_port: Annotated[
        int | None, PORT, "`bananas worker` answers probes here: /live, /ready and /health. Unset: not at all."
    ] = None
    worker_health_host: Annotated[str, HOST, "Where it listens for probes; they come from outside of a container."] = "0.0.0.0"
    worker_heartbeat_file: Annotated[str | None, PATH, "A file that `bananas worker` keeps up to date, for probes without a port."] = None
    worker_live_timeout: Annotated[float, duration(1, 86_400, "60s"), "A process whose loops stand still for so long is not live."] = 60.0
    blocked_loop_warning: Annotated[
        float, duration(0, 3600, "1s"), "Who blocks a worker's event loop for so long is logged, 0 = nobody."
    ] = 1.0
    stats_ttl: Annotated[
        float, duration(0, 90 * 86_400, "12h"), "How long the figures of each minute are kept on the server, 0 = nothing is counted."
    ] = 2 * 86_400.0
    durability: Annotated[Durability, choice(get_args(Durability)), "How safe a submit is when it returns: docs/guarantees.md."] = "default"
    durability_replicas: Annotated[int, whole(1, 10, 2), "Replicas that `replicated` waits for."] = 1
    durability_timeout: Annotated[float, duration(0.01, 60, "500ms"), "How long `replicated` and `fsynced` wait at most."] = 2.0
    submit_rate: Annotated[float, RATE, "Jobs per second that a client submits at most, 0 = no limit."] = 0.0
    redact: Annotated[tuple[str, ...], SOME_NAMES, "Arguments that the HTTP API and the terminal do not show: docs/security.md."] = REDACTED
    api_port: Annotated[int, PORT, "`bananas api` listens at this port."] = 8080
    api_host: Annotated[str, HOST, "Where it listens; beyond this machine only with tokens."] = "127.0.0.1"
    api_tokens: Annotated[Secret | None, TOKENS, "Who may use the HTTP API, and as what: docs/http.md."] = None
    api_tokens_file: Annotated[str | None, PATH, "A file with the same, commas or line ends between them."] = None
    api_cors_origins: Annotated[tuple[str, ...], ORIGINS, "Other sites whose pages may use the API."] = ()
    api_max_body_bytes: Annotated[int, SIZE, "The largest request body."] = 8 * 2**20
    api_rate: Annotated[float, RATE, "Requests per second of one client, in bursts of twice as many, 0 = no limit."] = 500.0
    api_timeout: Annotated[float, duration(0.1, 3600, "30s"), "How long a request may take, besides what it asks to wait."] = 30.0
    api_trace_page: Annotated[str | None, TRACE_PAGE, "Where the dashboard's link to the trace of a job leads. Unset: there is none."] = (
        None
    )
    api_max_streams: Annotated[int, whole(0, 10_000, 100), "Event streams that are open at once."] = 100

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


class _Given:
    """A value as it was given. Its repr has none of it: a traceback with local variables may show this, and the value may be a key.

    Attributes:
        where: as an error names it: JOB_TIMEOUT, or job_timeout in /srv/bananas.toml.
        source: 0 arguments, 1 environment, 2 and 3 files.
    """

    __slots__ = ("raw", "source", "where")

    def __init__(self, raw: object, where: str, source: int) -> None:
        self.raw, self.where, self.source = raw, where, source

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
