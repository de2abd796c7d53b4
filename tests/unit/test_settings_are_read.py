"""Every setting is honoured: each is read by the code that it is for, and reaches it when it is given to a worker."""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import bananas
from bananas import Bananas, BrokerUnavailable
from bananas.config import Settings
from bananas.values import NO_SECRET
from bananas.worker.loading import override

PACKAGE = Path(bananas.__file__).parent
HOLDERS = ("settings", "_settings", "changed")  # what the code calls a Settings

# A value for each setting that is not its default, together with what it needs.
GIVEN: dict[str, dict[str, Any]] = {
    "redis_url": {"redis_url": "redis://elsewhere:1/2"},
    "namespace": {"namespace": "shop"},
    "embedded": {"embedded": False},
    "worker_mode": {"worker_mode": "thin"},
    "worker_concurrency": {"worker_concurrency": 7},
    "worker_priorities": {"worker_priorities": "high", "worker_mode": "specialized"},
    "worker_job_types": {"worker_job_types": "a,b", "worker_mode": "job-specialized"},
    "worker_routing_keys": {"worker_routing_keys": "email:3,default"},
    "queue_shards": {"queue_shards": {"email": 8}},
    "worker_processes": {"worker_processes": 3},
    "job_timeout": {"job_timeout": 7},
    "max_retries": {"max_retries": 7},
    "redis_pool_size": {"redis_pool_size": 1},
    "scheduler_interval": {"scheduler_interval": 7},
    "enable_scheduler": {"enable_scheduler": False},
    "cron_scheduler_enabled": {"cron_scheduler_enabled": False},
    "result_backend_enabled": {"result_backend_enabled": False},
    "result_ttl_success": {"result_ttl_success": 7},
    "result_ttl_failure": {"result_ttl_failure": 7},
    "log_level": {"log_level": "error"},
    "log_format": {"log_format": "json"},
    "lease": {"lease": 7},
    "max_payload_bytes": {"max_payload_bytes": 7},
    "compression": {"compression": "zstd"},
    "compression_threshold": {"compression_threshold": 7},
    "encryption_keys": {"encryption_keys": NO_SECRET},
    "encryption_keys_file": {"encryption_keys_file": "keys.txt"},
    "encrypt": {"encrypt": False},
    "call_timeout": {"call_timeout": 0.125},
    "shutdown_timeout": {"shutdown_timeout": 7},
    "max_jobs": {"max_jobs": 7},
    "max_memory_mb": {"max_memory_mb": 700},
    "dead_max_count": {"dead_max_count": 7},
    "dead_max_age": {"dead_max_age": 7},
    "unknown_task_ttl": {"unknown_task_ttl": 7},
    "worker_health_port": {"worker_health_port": 0},
    "worker_health_host": {"worker_health_host": "127.0.0.1"},
    "worker_heartbeat_file": {"worker_heartbeat_file": "/tmp/heartbeat"},
    "worker_live_timeout": {"worker_live_timeout": 7},
    "blocked_loop_warning": {"blocked_loop_warning": 7},
    "stats_ttl": {"stats_ttl": 7},
    "durability": {"durability": "replicated"},
    "durability_replicas": {"durability_replicas": 2},
    "durability_timeout": {"durability_timeout": 0.5},
    "submit_rate": {"submit_rate": 7},
    "redact": {"redact": "iban"},
    "api_port": {"api_port": 0},
    "api_host": {"api_host": "::1"},
    "api_tokens": {"api_tokens": "viewer:0123456789abcdef"},
    "api_tokens_file": {"api_tokens_file": "tokens.txt"},
    "api_cors_origins": {"api_cors_origins": "https://ops.example.org"},
    "api_max_body_bytes": {"api_max_body_bytes": 7},
    "api_rate": {"api_rate": 7},
    "api_timeout": {"api_timeout": 7},
    "api_trace_page": {"api_trace_page": "https://t.example/{trace_id}"},
    "api_max_streams": {"api_max_streams": 7},
}


@cache
def readers() -> dict[str, set[str]]:
    """Attributes of what is called a Settings -> the modules that read them; config.py, which only makes settings, is none of them."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        if path.name == "config.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                holder = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
                if holder in HOLDERS:
                    found[node.attr].add(str(path.relative_to(PACKAGE)))
    return found


def derived() -> dict[str, set[str]]:
    """Properties of Settings -> the fields that they stand for."""
    (made,) = [
        node
        for node in ast.parse((PACKAGE / "config.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == "Settings"
    ]
    return {
        function.name: {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
        for function in made.body
        if isinstance(function, ast.FunctionDef) and not function.name.startswith("__")
    }


@pytest.mark.parametrize("field", Settings.__struct_fields__)
def test_a_setting_is_read_by_the_code_that_it_is_for(field: str) -> None:
    found = readers()
    where = found[field].union(*(found[name] for name, fields in derived().items() if field in fields))
    assert where, f"nobody reads settings.{field}: it would be ignored"


def test_every_setting_has_a_value_here() -> None:
    assert list(GIVEN) == list(Settings.__struct_fields__)


@pytest.mark.parametrize("field", GIVEN)
def test_a_setting_that_a_worker_is_given_wins_over_the_apps_own(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys.txt").write_text(NO_SECRET)
    monkeypatch.chdir(tmp_path)
    app = Bananas("redis://here:1/0")
    before = getattr(app.settings, field)
    override(app, GIVEN[field])
    assert getattr(app.settings, field) == getattr(app.producer.settings, field) != before


def test_the_limits_of_the_client_are_those_that_a_worker_is_given() -> None:
    app = Bananas("redis://here:1/0")
    first = app.client.pool
    override(app, {"redis_pool_size": 1, "call_timeout": 0.125, "redis_url": "redis://elsewhere:1/2"})
    assert app.client.budget == 0.125
    assert app.client.pool is not first
    assert str(app.client.pool.address) == str(app.client.address) == "elsewhere:1"
    with pytest.raises(BrokerUnavailable, match="REDIS_POOL_SIZE"):
        app.client.pool.use(lambda _: app.client.pool.use(lambda _: None, 0.01), 1)
