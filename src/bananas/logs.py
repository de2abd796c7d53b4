"""Logging of the processes that Bananas owns (workers, servers, the demo): structlog to stderr, as key-value or JSON.

Inside a handler every line carries the job's id and attempt, read when a line is written, so that a job that logs nothing pays nothing.
A library logs through its caller's configuration: only the command line calls `configure`.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from bananas.config import Settings, mask_url
from bananas.context import running


def _add_job(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    current = running.get(None)
    if current is not None:
        job = current()
        event.setdefault("job", job.id)
        event.setdefault("attempt", job.attempt)
    return event


def _mask(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str) and "://" in value:
            event[name] = re.sub(r"\S*://\S*", lambda found: mask_url(found[0]), value)
    return event


def configure(settings: Settings) -> None:
    """Set up structlog and the standard library's logging, which handlers may use."""
    level = getattr(logging, settings.log_level.upper())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_job,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,  # before the mask: an error's text may hold a URL
        _mask,
    ]
    renderer: Any = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    if settings.log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    elif settings.log_format == "logfmt":
        renderer = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"])
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[_drop_meta, renderer]))
    logging.basicConfig(handlers=[handler], level=level, force=True)


def _drop_meta(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return structlog.stdlib.ProcessorFormatter.remove_processors_meta(logger, name, event)
