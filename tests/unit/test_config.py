"""Settings: where they come from, what they accept, and how they refuse."""

import base64
import contextlib
import math
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import rich.pretty
from hypothesis import given
from hypothesis import strategies as st
from tests.support import clean_environment

from bananas import Bananas, config
from bananas.config import (
    ALIASES,
    BARE_NAMES,
    LONGEST_S,
    PRIORITIES,
    Secret,
    Settings,
    check_namespace,
    check_queue_name,
    check_task_name,
    load_settings,
    mask_url,
    parse_duration,
    parse_priority,
    parse_routing_key,
    parse_size,
    seconds,
    settings_table,
)
from bananas.errors import ConfigError, InvalidName, UnknownSetting
from bananas.values import parse_keys

ROOT = Path(__file__).resolve().parents[2]


def load(environ: dict[str, str] | None = None, /, start_dir: Path = Path("/"), **overrides: object) -> Settings:
    """The settings without this process's own variables and, by default, without files."""
    return load_settings(overrides, environ or {}, start_dir)


# --- variables ------------------------------------------------------------------------------------------------------------------------

KEY, OTHER_KEY = base64.b64encode(b"k" * 32).decode(), base64.urlsafe_b64encode(b"\xff" * 32).decode().rstrip("=")

ORIGINAL: dict[str, tuple[str, dict[str, Any]]] = {
    "REDIS_URL": ("redis://:pw@cache:6380/2", {"redis_url": "redis://:pw@cache:6380/2"}),
    "WORKER_MODE": ("thin", {"worker_mode": "thin", "slots": 5}),
    "WORKER_CONCURRENCY": ("32", {"worker_concurrency": 32, "slots": 32}),
    "WORKER_PRIORITIES": ("high, normal,7", {"worker_priorities": (100, 500, 7)}),
    "WORKER_JOB_TYPES": ("send_email, shop.resize", {"worker_job_types": ("send_email", "shop.resize")}),
    "WORKER_ROUTING_KEYS": ("email:3, default", {"worker_routing_keys": ("email:3", "default")}),
    "JOB_TIMEOUT": ("1m30s", {"job_timeout": 90.0}),
    "MAX_RETRIES": ("0", {"max_retries": 0}),
    "REDIS_POOL_SIZE": ("25", {"redis_pool_size": 25}),
    "SCHEDULER_INTERVAL": ("500ms", {"scheduler_interval": 0.5}),
    "ENABLE_SCHEDULER": ("false", {"enable_scheduler": False}),
    "CRON_SCHEDULER_ENABLED": ("0", {"cron_scheduler_enabled": False}),
    "RESULT_BACKEND_ENABLED": ("off", {"result_backend_enabled": False}),
    "RESULT_BACKEND_TTL_SUCCESS": ("2h", {"result_ttl_success": 7200.0}),
    "RESULT_BACKEND_TTL_FAILURE": ("7d", {"result_ttl_failure": 604_800.0}),
    "LOG_LEVEL": ("WARNING", {"log_level": "warning"}),
    "LOG_FORMAT": ("key-value", {"log_format": "logfmt"}),
}
OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "BANANAS_DURABILITY": ("replicated", {"durability": "replicated"}),
    "BANANAS_DURABILITY_REPLICAS": ("2", {"durability_replicas": 2}),
    "BANANAS_DURABILITY_TIMEOUT": ("500ms", {"durability_timeout": 0.5}),
    "BANANAS_QUEUE_SHARDS": ("email:8, default:4", {"queue_shards": ("email:8", "default:4")}),
    "BANANAS_NAMESPACE": ("shop", {"namespace": "shop"}),
    "BANANAS_EMBEDDED": ("yes", {"embedded": True}),
    "BANANAS_WORKER_PROCESSES": ("4", {"worker_processes": 4}),
    "BANANAS_LEASE": ("1s", {"lease": 1.0}),
    "BANANAS_MAX_PAYLOAD": ("512KB", {"max_payload_bytes": 512_000}),
    "BANANAS_MAX_PAYLOAD_BYTES": ("2MiB", {"max_payload_bytes": 2 * 2**20}),
    "BANANAS_COMPRESSION": ("ZSTD", {"compression": "zstd"}),
    "BANANAS_COMPRESSION_THRESHOLD": ("1KiB", {"compression_threshold": 1024}),
    "BANANAS_ENCRYPTION_KEYS": (f"new:{KEY}, old:{OTHER_KEY}", {"encryption_keys": Secret(f"new:{KEY}, old:{OTHER_KEY}")}),
    "BANANAS_ENCRYPTION_KEYS_FILE": ("/run/secrets/keys", {"encryption_keys_file": "/run/secrets/keys"}),
    "BANANAS_ENCRYPT": ("no", {"encrypt": False}),
    "BANANAS_CALL_TIMEOUT": ("250ms", {"call_timeout": 0.25}),
    "BANANAS_SHUTDOWN_TIMEOUT": ("0", {"shutdown_timeout": 0.0}),
    "BANANAS_MAX_JOBS": ("1000", {"max_jobs": 1000}),
    "BANANAS_MAX_MEMORY_MB": ("512", {"max_memory_mb": 512}),
    "BANANAS_DEAD_MAX_COUNT": ("5", {"dead_max_count": 5}),
    "BANANAS_DEAD_MAX_AGE": ("30d", {"dead_max_age": 2_592_000.0}),
    "BANANAS_UNKNOWN_TASK_TTL": ("10m", {"unknown_task_ttl": 600.0}),
    "BANANAS_WORKER_HEALTH_PORT": ("8080", {"worker_health_port": 8080}),
    "BANANAS_WORKER_HEALTH_HOST": ("::", {"worker_health_host": "::"}),
    "BANANAS_WORKER_HEARTBEAT_FILE": ("/run/a b/heartbeat", {"worker_heartbeat_file": "/run/a b/heartbeat"}),
    "BANANAS_WORKER_LIVE_TIMEOUT": ("2m", {"worker_live_timeout": 120.0}),
    "BANANAS_BLOCKED_LOOP_WARNING": ("250ms", {"blocked_loop_warning": 0.25}),
    "BANANAS_STATS_TTL": ("12h", {"stats_ttl": 43_200.0}),
    "BANANAS_SUBMIT_RATE": ("12.5", {"submit_rate": 12.5}),
    "BANANAS_REDACT": ("password, pay:number", {"redact": ("password", "pay:number")}),
    "BANANAS_API_PORT": ("0", {"api_port": 0}),
    "BANANAS_API_HOST": ("::1", {"api_host": "::1"}),
    "BANANAS_API_TOKENS": (
        f"viewer:{'v' * 16},admin:sha256:{'0a' * 32}",
        {"api_tokens": Secret(f"viewer:{'v' * 16},admin:sha256:{'0a' * 32}")},
    ),
    "BANANAS_API_TOKENS_FILE": ("/run/secrets/tokens", {"api_tokens_file": "/run/secrets/tokens"}),
    "BANANAS_API_CORS_ORIGINS": ("https://A.example, http://[::1]:80", {"api_cors_origins": ("https://a.example", "http://[::1]:80")}),
    "BANANAS_API_MAX_BODY_BYTES": ("2MiB", {"api_max_body_bytes": 2 * 2**20}),
    "BANANAS_API_RATE": ("0.5", {"api_rate": 0.5}),
    "BANANAS_API_TIMEOUT": ("1m", {"api_timeout": 60.0}),
    "BANANAS_API_MAX_STREAMS": ("0", {"api_max_streams": 0}),
    "BANANAS_API_TRACE_PAGE": (
        "https://t.example:443/trace/{trace_id}?a=1",
        {"api_trace_page": "https://t.example:443/trace/{trace_id}?a=1"},
    ),
    "BANANAS_RESULT_TTL_SUCCESS": ("5", {"result_ttl_success": 5.0}),
    "BANANAS_RESULT_TTL_FAILURE": ("6", {"result_ttl_failure": 6.0}),
}
# What a variable needs beside it, so that the settings do not contradict each other.
COMPANY = {"WORKER_PRIORITIES": {"WORKER_MODE": "specialized"}, "WORKER_JOB_TYPES": {"WORKER_MODE": "job-specialized"}}


def test_the_cases_below_cover_every_bare_name_and_every_setting() -> None:
    assert set(ORIGINAL) == set(BARE_NAMES)
    covered = {field for _, expected in [*ORIGINAL.values(), *OWN.values()] for field in expected} - {"slots"}
    assert covered == set(Settings.__struct_fields__)


@pytest.mark.parametrize("prefix", ["", "BANANAS_"])
@pytest.mark.parametrize("name", ORIGINAL)
def test_every_name_of_the_original_is_honoured_bare_and_with_the_prefix(name: str, prefix: str) -> None:
    text, expected = ORIGINAL[name]
    settings = load({prefix + name: text, **COMPANY.get(name, {})})
    assert {field: getattr(settings, field) for field in expected} == expected


@pytest.mark.parametrize("name", OWN)
def test_every_name_of_bananas_alone_is_honoured_with_the_prefix_only(name: str) -> None:
    text, expected = OWN[name]
    settings = load({name: text})
    assert {field: getattr(settings, field) for field in expected} == expected
    assert load({name.removeprefix("BANANAS_"): text}) == Settings()


@pytest.mark.parametrize("mode", ["default", "thin", "Scheduler-Only", "scheduler_only"])
def test_worker_modes_are_accepted_in_any_case(mode: str) -> None:
    assert load({"WORKER_MODE": mode}).worker_mode == mode.lower().replace("_", "-")


def test_nothing_given_means_the_defaults() -> None:
    assert load() == Settings()
    assert Settings().slots == 10


def test_an_empty_variable_counts_as_not_given() -> None:
    assert load({"REDIS_URL": "", "BANANAS_LEASE": " ", "BANANAS_NO_SUCH": "", "BANANAS_CONFIG": ""}) == Settings()


def test_space_around_a_value_is_ignored() -> None:
    assert load({"REDIS_URL": " redis://h\n", "MAX_RETRIES": " 7 "}).max_retries == 7


@pytest.mark.parametrize(("alias", "level"), [("warn", "warning"), ("Error", "error"), ("debug", "debug")])
def test_log_levels_are_accepted_in_any_case_and_warn_is_warning(alias: str, level: str) -> None:
    assert load({"LOG_LEVEL": alias}).log_level == level


def test_the_log_format_text_is_console() -> None:
    assert load({"LOG_FORMAT": "text"}).log_format == "console"


# --- refusals -------------------------------------------------------------------------------------------------------------------------

REFUSED = {
    "REDIS_URL": [
        "localhost:6379",
        "http://h",
        "redis://",
        "redis://:pw@/0",
        "redis://h:0",
        "redis://h:65536",
        "redis://h/x",
        "redis://a b",
    ],
    "BANANAS_NAMESPACE": ["a b", "a:b", "ä", "x" * 65, "{x}"],
    "BANANAS_EMBEDDED": ["maybe", "2"],
    "WORKER_MODE": ["fat"],
    "WORKER_CONCURRENCY": ["0", "10001", "-1", "ten", "1.5", "1_0", "٣", "9" * 5000],
    "WORKER_PRIORITIES": ["high,,low", "urgent", "1001", "-1"],
    "WORKER_JOB_TYPES": ["a,", "a\x00b"],
    "WORKER_ROUTING_KEYS": ["a b", "a:0", "a:x", "a:1001", "a:1,a:2", "a:1:2", ":3"],
    "JOB_TIMEOUT": ["-1s", "30 parsecs", "1h 30m", "30S", "1e3", "nan", "inf", "s", "18251d", "9" * 400],
    "MAX_RETRIES": ["-1", "many"],
    "REDIS_POOL_SIZE": ["0"],
    "SCHEDULER_INTERVAL": ["0", "2h"],
    "ENABLE_SCHEDULER": ["ja"],
    "LOG_LEVEL": ["notice"],
    "LOG_FORMAT": ["xml"],
    "BANANAS_LEASE": ["499ms", "3601"],
    "BANANAS_MAX_PAYLOAD": ["0", "1.5MB", "-1", "1XB", "257MiB"],
    "BANANAS_COMPRESSION": ["gzip", "true"],
    "BANANAS_COMPRESSION_THRESHOLD": ["0"],
    "BANANAS_ENCRYPTION_KEYS": [KEY, "k1:", f"k 1:{KEY}", f"k1:{KEY[:-4]}", f"k1:{KEY}AAAA", ",", "k1:ä", f"k1:{KEY},k1:{OTHER_KEY}"],
    "BANANAS_ENCRYPTION_KEYS_FILE": ["a\x00b"],
    "BANANAS_ENCRYPT": ["always"],
    "BANANAS_CALL_TIMEOUT": ["0"],
    "BANANAS_DEAD_MAX_COUNT": ["0"],
    "BANANAS_DEAD_MAX_AGE": ["0"],
    "BANANAS_WORKER_HEALTH_PORT": ["65536", "-1", "http"],
    "BANANAS_WORKER_HEALTH_HOST": ["http://localhost", "a b"],
    "BANANAS_WORKER_LIVE_TIMEOUT": ["0"],
    "BANANAS_SUBMIT_RATE": ["-1", "fast", "inf"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in REFUSED.items() for text in texts])
def test_an_unreadable_value_is_refused_by_the_name_of_its_variable(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({name: text})
    assert name in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_refusal_names_the_value_the_accepted_form_and_an_example() -> None:
    with pytest.raises(ConfigError, match=r"^JOB_TIMEOUT is '30 parsecs': give seconds or a duration like .*, for example 30s\."):
        load({"JOB_TIMEOUT": "30 parsecs"})


def test_the_refusal_of_a_bare_name_says_how_to_keep_it_for_another_program() -> None:
    with pytest.raises(ConfigError, match=r"set BANANAS_LOG_LEVEL too"):
        load({"LOG_LEVEL": "notice"})
    assert load({"LOG_LEVEL": "notice", "BANANAS_LOG_LEVEL": "error"}).log_level == "error"


@pytest.mark.parametrize(
    "url", ["redis://u:hunter2@h:x", "redis://:hunter2", "redis://h/x?password=hunter2", "u:hunter2@h", "http://:hun/ter2:hunter2@h"]
)
def test_no_refusal_shows_the_password(url: str) -> None:
    for arguments in ({"redis_url": url}, {"namespace": url}, {"redis_url": [url]}, {"redis_url": {"password": "hunter2"}}):
        if "://" not in url and "namespace" in arguments:
            continue  # nothing tells that it is a URL
        with pytest.raises(ConfigError) as caught:
            load(**arguments)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [f"k1:{KEY[:-4]}", f"k1:{KEY}AAAA", f"k1:{KEY},k1:{OTHER_KEY}", f"nö:{KEY}", KEY, {"k1": KEY}, [KEY, 1], f"k1:{KEY[:-1]}!="]
)
def test_no_refusal_shows_a_key(value: Any) -> None:
    for hidden in (value, Secret(value)):
        with pytest.raises(ConfigError, match="encryption_keys") as caught:
            load(encryption_keys=hidden)
        assert not any(part in str(caught.value) for part in (KEY[:10], OTHER_KEY[:10]))


@pytest.mark.parametrize("value", ["", f"k1:{KEY[:-4]}", f"k1:{KEY}AAAA", KEY])
def test_a_refused_key_comes_with_the_command_that_makes_one(value: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(value)
    with pytest.raises(ConfigError, match="keys") as caught:
        Bananas("redis://h", encryption_keys_file=tmp_path / "keys")
    command = str(caught.value).partition("Make one: ")[2]
    made = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=30, check=True)
    assert list(parse_keys(made.stdout)) == ["k1"]


@pytest.mark.parametrize("show", [repr, str, "{}".format, lambda settings: rich.pretty.pretty_repr(settings)])
def test_settings_show_no_key(show: Any) -> None:
    shown = show(load(encryption_keys=f"k1:{KEY}"))
    assert "***" in shown
    assert KEY[:10] not in shown


SHOWN = """
import io, rich.console, bananas
output = io.StringIO()
try:
    bananas.Bananas()
except bananas.ConfigError:
    rich.console.Console(file=output, width=400).print_exception(show_locals=True)
print(output.getvalue())
"""


def test_a_traceback_with_local_variables_shows_no_key() -> None:
    environ = clean_environment(BANANAS_ENCRYPTION_KEYS=f"k1:{KEY[:-4]}")
    run = subprocess.run([sys.executable, "-c", SHOWN], env=environ, capture_output=True, text=True, timeout=30, check=True)
    assert "the key 'k1' has 30 bytes" in run.stdout
    assert KEY[:10] not in run.stdout


def test_keys_come_as_a_list_or_from_what_hides_them() -> None:
    class SecretStr:  # as pydantic has one
        def get_secret_value(self) -> str:
            return f"k1:{KEY}"

    assert load(encryption_keys=SecretStr()).encryption_keys == Secret(f"k1:{KEY}")
    assert load(encryption_keys=[f"a:{KEY}", f"b:{OTHER_KEY}"]).encryption_keys == Secret(f"a:{KEY},b:{OTHER_KEY}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_retries", True),
        ("max_retries", 3.0),
        ("max_retries", [3]),
        ("job_timeout", False),
        ("job_timeout", [30]),
        ("job_timeout", math.nan),
        ("job_timeout", 10**400),
        ("embedded", 1.0),
        ("worker_mode", 1),
        ("worker_job_types", [1]),
        ("worker_routing_keys", [1]),
        ("worker_priorities", [None]),
        ("worker_priorities", [True]),
        ("namespace", 5),
        ("redis_url", 6379),
    ],
)
def test_an_argument_of_another_type_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        load(**{field: value})


# --- names that do not exist ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("BANANAS_REDIS_ULR", "BANANAS_REDIS_URL"),
        ("BANANAS_WORKER_CONCURENCY", "BANANAS_WORKER_CONCURRENCY"),
        ("BANANAS_RESULT_BACKEND_TTL_SUCESS", "BANANAS_RESULT_BACKEND_TTL_SUCCESS"),
        ("BANANAS_LEASES", "BANANAS_LEASE"),
        ("BANANAS_redis_url", "BANANAS_REDIS_URL"),
        ("BANANAS_SERVICE_HOSTS", None),
        ("BANANAS_PORT", None),
        ("BANANAS_", None),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_that_exists(name: str, nearest: str | None) -> None:
    with pytest.raises(UnknownSetting) as caught:
        load({name: "1"})
    assert str(caught.value).startswith(f"{name} is not a setting of Bananas: ")
    assert nearest is None or f"did you mean {nearest}?" in str(caught.value)


def test_an_unknown_argument_is_refused_with_the_nearest_that_exists() -> None:
    with pytest.raises(UnknownSetting, match=r"did you mean worker_concurrency\?"):
        load(worker_concurency=3)


def test_where_nothing_is_near_all_names_are_listed() -> None:
    with pytest.raises(UnknownSetting, match=r"there are redis_url, namespace, .*submit_rate"):
        load(zzz=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (f"BANANAS_{service}{name}", value)
        for service in ("", "API_", "REDIS_MASTER_")
        for name, value in [
            ("SERVICE_HOST", "10.0.0.11"),
            ("SERVICE_PORT", "6379"),
            ("SERVICE_PORT_HTTP_METRICS", "9090"),
            ("PORT", "tcp://10.0.0.11:6379"),
            ("PORT", "udp://10.0.0.11:53"),
            ("PORT_6379_TCP", "tcp://10.0.0.11:6379"),
            ("PORT_6379_TCP_PROTO", "tcp"),
            ("PORT_6379_TCP_PORT", "6379"),
            ("PORT_6379_TCP_ADDR", "10.0.0.11"),
        ]
    ],
)
def test_what_kubernetes_injects_for_a_service_of_this_name_is_let_be(name: str, value: str) -> None:
    assert load({name: value}) == Settings()


# --- files and precedence -------------------------------------------------------------------------------------------------------------


def test_a_stronger_source_wins_and_the_others_still_count(tmp_path: Path) -> None:
    below = tmp_path / "src" / "shop"
    below.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(
        "[tool.bananas]\nmax_retries = 1\nmax_jobs = 1\nlease = 1\nnamespace = 'one'\nmax_payload = 1\n"
    )
    (tmp_path / "src" / "bananas.toml").write_text('max_retries = 2\nmax_jobs = 2\nlease = "2s"\nnamespace = "two"\n')
    environ = {"MAX_RETRIES": "3", "BANANAS_MAX_JOBS": "4", "BANANAS_LEASE": "4"}
    settings = load({**environ, "BANANAS_MAX_RETRIES": "4"}, start_dir=below, lease=5, namespace=None)
    assert (settings.lease, settings.max_retries, settings.max_jobs, settings.namespace, settings.max_payload_bytes) == (5, 4, 4, "two", 1)
    assert load(environ, start_dir=below).max_retries == 3
    assert load(start_dir=below).max_retries == 2


def test_toml_takes_the_native_types(tmp_path: Path) -> None:
    (tmp_path / "bananas.toml").write_text(
        'worker_mode = "specialized"\nworker_priorities = ["high", 7]\nworker_routing_keys = ["email:3", "default"]\n'
        "enable_scheduler = false\nresult_backend_ttl_success = 60\njob_timeout = 1.5\nmax_payload = 1_000\n"
    )
    settings = load(start_dir=tmp_path)
    assert (settings.worker_priorities, settings.worker_routing_keys) == ((100, 7), ("email:3", "default"))
    assert (settings.enable_scheduler, settings.result_ttl_success, settings.job_timeout) == (False, 60.0, 1.5)
    assert settings.max_payload_bytes == 1000


@pytest.mark.parametrize("text", ["[project]\nname = 'x'\n", "[tool.other]\nlease = 1\n", "[tool.bananas]\n"])
def test_a_project_without_settings_gives_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert load(start_dir=tmp_path) == Settings()


@pytest.mark.parametrize("text", ["lease = ", "= 1", "\xff", "tool = 1"])
@pytest.mark.parametrize("name", ["bananas.toml", "pyproject.toml"])
def test_a_broken_file_is_refused_by_its_path(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=name):
        load(start_dir=tmp_path)


@pytest.mark.parametrize(("text", "nearest"), [("leese = 1", "lease"), ("redis-url = 'redis://h'", "redis_url"), ("LEASE = 1", "lease")])
def test_an_unknown_key_of_a_file_is_refused_with_the_nearest_that_exists(tmp_path: Path, text: str, nearest: str) -> None:
    (tmp_path / "bananas.toml").write_text(text)
    with pytest.raises(UnknownSetting, match=rf"bananas\.toml is not a setting of Bananas: did you mean {nearest}\?"):
        load(start_dir=tmp_path)


def test_an_unreadable_value_of_a_file_is_refused_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "bananas.toml").write_text("lease = true")
    with pytest.raises(ConfigError, match=r"^lease in .*bananas\.toml is True: give seconds"):
        load(start_dir=tmp_path)


def test_bananas_config_replaces_the_search(tmp_path: Path) -> None:
    (tmp_path / "bananas.toml").write_text("max_jobs = 1")
    (tmp_path / "pyproject.toml").write_text("[tool.bananas]\nmax_retries = 1")
    (tmp_path / "other.toml").write_text("lease = 3")
    for path in ("other.toml", str(tmp_path / "other.toml")):
        assert load({"BANANAS_CONFIG": path}, start_dir=tmp_path) == Settings(lease=3.0)
    assert load({"BANANAS_CONFIG": "pyproject.toml"}, start_dir=tmp_path) == Settings(max_retries=1)
    with pytest.raises(ConfigError, match=r"missing\.toml cannot be read"):
        load({"BANANAS_CONFIG": "missing.toml"}, start_dir=tmp_path)


def test_the_process_and_its_directory_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bananas.toml").write_text("max_jobs = 7")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BANANAS_LEASE", "3")
    assert (load_settings().max_jobs, load_settings().lease) == (7, 3.0)


# --- settings that go together --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "needed"), [("specialized", "WORKER_PRIORITIES=high,normal"), ("job-specialized", "WORKER_JOB_TYPES=send_email,shop.resize")]
)
def test_a_mode_without_what_it_needs_is_refused_with_what_to_set(mode: str, needed: str) -> None:
    with pytest.raises(ConfigError, match=needed):
        load({"WORKER_MODE": mode})


def test_a_filter_that_the_mode_would_ignore_is_refused() -> None:
    for environ in ({"WORKER_PRIORITIES": "high"}, {"WORKER_PRIORITIES": "high", "WORKER_MODE": "thin"}):
        with pytest.raises(ConfigError, match=r"WORKER_PRIORITIES is set, .* set WORKER_MODE=specialized or remove it"):
            load(environ)
    with pytest.raises(ConfigError, match="WORKER_JOB_TYPES is set"):
        load({"WORKER_MODE": "specialized", "WORKER_PRIORITIES": "high", "WORKER_JOB_TYPES": "a"})


def test_a_scheduler_may_share_the_variables_of_the_workers_beside_it() -> None:
    assert load({"WORKER_MODE": "specialized", "WORKER_PRIORITIES": "high"}, worker_mode="scheduler-only").worker_priorities == (100,)


def test_a_scheduler_with_nothing_to_do_is_refused() -> None:
    environ = {"WORKER_MODE": "scheduler-only", "ENABLE_SCHEDULER": "no"}
    assert load(environ).cron_scheduler_enabled
    with pytest.raises(ConfigError, match="nothing to do"):
        load({**environ, "CRON_SCHEDULER_ENABLED": "no"})


def test_two_names_of_one_setting_may_agree_but_not_differ() -> None:
    names = ("BANANAS_RESULT_TTL_SUCCESS", "BANANAS_RESULT_BACKEND_TTL_SUCCESS")
    assert load({names[0]: "1h", names[1]: "3600"}).result_ttl_success == 3600.0
    with pytest.raises(ConfigError, match=f"{names[1]} and {names[0]} are one setting with two different values"):
        load({names[0]: "1h", names[1]: "2h"})


def test_a_url_and_the_embedded_server_from_one_source_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="REDIS_URL names a server, and BANANAS_EMBEDDED asks for the embedded one"):
        load({"REDIS_URL": "redis://h", "BANANAS_EMBEDDED": "1"})
    with pytest.raises(ConfigError):
        load(redis_url="redis://h", embedded=True)
    assert load({"REDIS_URL": "redis://h", "BANANAS_EMBEDDED": "0"}).redis_url == "redis://h"


def test_of_a_url_and_the_embedded_server_the_stronger_source_wins(tmp_path: Path) -> None:
    assert load({"REDIS_URL": "redis://h"}, embedded=True) == Settings(embedded=True)
    assert load({"BANANAS_EMBEDDED": "1"}, redis_url="redis://h") == Settings(redis_url="redis://h")
    (tmp_path / "bananas.toml").write_text("redis_url = 'redis://production'")
    assert load({"BANANAS_EMBEDDED": "1"}, start_dir=tmp_path) == Settings(embedded=True)


# --- values ---------------------------------------------------------------------------------------------------------------------------

GO_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30", 30.0),
        (30, 30.0),
        ("30s", 30.0),
        ("500ms", 0.5),
        ("2m", 120.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("1us", 1e-6),
        ("1µs", 1e-6),
        ("1μs", 1e-6),
        ("250ns", 2.5e-7),
        ("0", 0.0),
        ("180d", 15_552_000.0),
        (timedelta(minutes=2), 120.0),
    ],
)
def test_durations_are_read_as_go_writes_them(text: object, expected: float) -> None:
    assert parse_duration(text, "timeout") == expected


@given(st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(sorted(GO_UNITS_MS))), min_size=1, max_size=5))
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    expected_ms = sum(number * GO_UNITS_MS[unit] for number, unit in parts)
    text = "".join(f"{number}{unit}" for number, unit in parts)
    if expected_ms <= LONGEST_S * 1000:
        assert math.isclose(parse_duration(text, "timeout"), expected_ms / 1000, rel_tol=1e-12)


@given(st.integers(0, LONGEST_S * 1000))
def test_a_duration_shown_in_the_table_is_read_back_as_itself(value_ms: int) -> None:
    assert math.isclose(parse_duration(config.DURATION.show(value_ms / 1000), "timeout"), value_ms / 1000, rel_tol=1e-12)


@given(st.integers(1, 2**28), st.sampled_from(["", "B", "b", " B"]))
def test_a_size_in_bytes_is_read_as_itself(size_bytes: int, unit: str) -> None:
    assert parse_size(f"{size_bytes}{unit}", "size") == parse_size(size_bytes, "size") == size_bytes


@given(st.integers(1, 256), st.sampled_from([("KB", 1000), ("kb", 1000), ("MB", 10**6), ("KiB", 1024), ("MiB", 2**20), ("mib", 2**20)]))
def test_a_size_with_a_unit_is_multiplied(number: int, unit: tuple[str, int]) -> None:
    assert parse_size(f"{number}{unit[0]}", "size") == number * unit[1]


@given(st.text(max_size=20) | st.integers() | st.floats() | st.none() | st.booleans() | st.binary(max_size=5))
def test_whatever_is_given_is_read_within_bounds_or_a_config_error(value: Any) -> None:
    for parse, low, high in ((parse_duration, 0, LONGEST_S), (parse_size, 1, 2**28), (seconds, 0, LONGEST_S)):
        with contextlib.suppress(ConfigError):
            assert low <= parse(value, "x") <= high
    with contextlib.suppress(ConfigError):
        assert 0 <= parse_priority(value) <= 1000


@given(st.integers(0, 1000))
def test_a_priority_is_a_name_or_a_number(number: int) -> None:
    assert parse_priority(number) == parse_priority(str(number)) == number
    assert {name: parse_priority(name.upper()) for name in PRIORITIES} == PRIORITIES == {"high": 100, "normal": 500, "low": 900}


@pytest.mark.parametrize("value", [-1, 1001, True, 5.0, "urgent", "", None])
def test_another_priority_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^priority is .*: give high \(100\), normal \(500\), low \(900\) or a whole number"):
        parse_priority(value)


@pytest.mark.parametrize(("value", "expected"), [(0, 0.0), (1.5, 1.5), (timedelta(milliseconds=1), 0.001)])
def test_seconds_of_an_argument_are_a_number_or_a_timedelta(value: Any, expected: float) -> None:
    assert seconds(value, "delay") == expected
    assert isinstance(seconds(value, "delay"), float)


@pytest.mark.parametrize("value", [-1, -0.1, math.nan, math.inf, timedelta(seconds=-1), timedelta.max, True, "30", "30s", None, 10**400])
def test_other_seconds_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^delay is .*: give seconds as a number .* or a timedelta"):
        seconds(value, "delay")


def test_a_routing_key_is_a_queue_with_or_without_a_weight() -> None:
    assert (parse_routing_key("email"), parse_routing_key("email:3")) == (("email", None), ("email", 3))


# --- names ----------------------------------------------------------------------------------------------------------------------------


@given(st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z"))
def test_queue_and_namespace_names_pass_unchanged(name: str) -> None:
    assert check_queue_name(name) == check_namespace(name) == name


@pytest.mark.parametrize("name", ["", "a.b", "a b", "a\n", "ä", "x" * 65, "{a}", None, 5])
def test_other_queue_and_namespace_names_are_refused(name: Any) -> None:
    with pytest.raises(InvalidName, match=r"is not a queue name: use 1 to 64"):
        check_queue_name(name)
    with pytest.raises(InvalidName, match=r"is not a namespace name: use 1 to 64"):
        check_namespace(name)


@pytest.mark.parametrize("name", ["a", "shop.tasks:send/email", "größe", "送信", "send email", "x" * 200])
def test_task_names_are_printable_text(name: str) -> None:
    assert check_task_name(name) == name


@pytest.mark.parametrize("name", ["", " a", "a ", "a\n", "a\x00b", "a\u200bb", "a\u2028b", "\ud800", "x" * 201, None, 5])
def test_other_task_names_are_refused(name: Any) -> None:
    with pytest.raises(InvalidName, match="is not a task name: use 1 to 200 printable characters"):
        check_task_name(name)


# --- passwords ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        ("redis://a:1,b:2/0", "redis://a:1,b:2/0"),
        ("localhost:6379", "localhost:6379"),
        ("", ""),
        ("redis://:secret@h", "redis://:***@h"),
        ("rediss://user:secret@h:6379/0", "rediss://user:***@h:6379/0"),
        ("redis://:s@e/c#r?e:t@h/0", "redis://:***@h/0"),
        ("redis://secret@h", "redis://***@h"),
        ("unix://u:secret@/run/redis.sock", "unix://u:***@/run/redis.sock"),
        ("redis://h/0?password=secret&db=1", "redis://h/0?password=***&db=1"),
        ("redis://h/0?db=1&PassWord=secret", "redis://h/0?db=1&PassWord=***"),
        ("redis://h/0?db=1&password=s@cret", "redis://***"),
        ("redis://user:s@cret;%=@h", "redis://***"),
        ("redis://h/0?pass%77ord=secret", "redis://h/0?pass%77ord=***"),
        ("redis://:secret", "redis://:***"),
        ("redis://user:secret", "redis://user:***"),
        ("user:secret@h", "user:***@h"),
        (None, "None"),
    ],
)
def test_passwords_are_masked_and_the_rest_is_kept(url: Any, masked: str) -> None:
    assert mask_url(url) == masked


@given(st.text(min_size=4), st.sampled_from(["redis://user:{}@host:6379/0", "rediss://:{}@[::1]/0", "unix://:{}@/run/s"]))
def test_no_password_survives_the_mask(password: str, url: str) -> None:
    assert password in url.replace("{}", "***") or password not in mask_url(url.format(password))


@given(
    st.text(min_size=4).filter(lambda text: "&" not in text),
    st.sampled_from(["redis://host/0?password={}", "unix:///s?db=1&password={}&x=1"]),
)
def test_no_password_of_the_query_survives_the_mask(password: str, url: str) -> None:
    assert password in url.replace("{}", "***") or password not in mask_url(url.format(password))


@given(st.text() | st.binary() | st.integers() | st.none())
def test_the_mask_never_raises(value: Any) -> None:
    assert isinstance(mask_url(value), str)
    assert isinstance(mask_url(10**5000), str)


def test_the_settings_are_shown_without_the_password() -> None:
    settings = load(redis_url="redis://:hunter2@h")
    assert settings.redis_url == "redis://:hunter2@h"
    assert "hunter2" not in f"{settings!r}{settings}{settings.__rich_repr__()}"
    assert "redis_url='redis://:***@h', namespace='bananas'" in repr(settings)


# --- the module -----------------------------------------------------------------------------------------------------------------------


def test_every_default_is_a_value_that_its_own_kind_accepts() -> None:
    for (field, (kind, doc)), default in zip(config._TABLE.items(), Settings.__struct_defaults__, strict=True):
        assert doc.endswith(".")
        assert default in (None, ()) or kind.read(default, field) == default
        assert default in (None, ()) or kind.read(kind.show(default), field) == default


def test_every_example_is_a_value_that_its_own_kind_accepts() -> None:
    for field, (kind, _) in config._TABLE.items():
        kind.read(kind.example, field)


def test_the_aliases_are_names_of_settings_and_of_nothing_else() -> None:
    assert set(ALIASES) <= set(Settings.__struct_fields__)
    assert not set(ALIASES.values()) & set(Settings.__struct_fields__)


def test_the_table_in_the_documentation_is_the_one_of_the_code() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert settings_table() in text, "paste the output of: python -c 'import bananas.config as c; print(c.settings_table(), end=\"\")'"


def test_importing_the_settings_loads_nothing_that_only_some_programs_need() -> None:
    code = """
import sys, types, msgspec
sys.modules["bananas"] = package = types.ModuleType("bananas")  # in its place, so that only this module and the errors are measured
package.__path__ = [sys.argv[1]]
before = set(sys.modules)
import bananas.config
print(*(set(sys.modules) - before))
"""
    command = [sys.executable, "-c", code, str(Path(config.__file__).parent)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    loaded = set(run.stdout.split())
    assert "bananas.config" in loaded
    assert not loaded & {"tomllib", "difflib", "urllib.parse", "pathlib", "asyncio", "redis", "hiredis"}
