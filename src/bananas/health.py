"""`bananas health`: asks a worker how it is, as a probe that is a command does. Exit code 0: well; 1: not, or nobody answers.

A probe starts this every few seconds, so it imports next to nothing. It is the worker's own judgement (worker/health.py) that it reads;
by itself it only judges how old that is.
"""

import json
import sys
import time
from typing import Any, NoReturn

import click

from bananas.errors import ConfigError

ANSWER_S = 3.0


@click.command("health")
@click.argument("what", type=click.Choice(["live", "ready"]), required=False)
@click.option("--file", "path", metavar="PATH", help="The worker's --heartbeat-file.")
@click.option("--port", type=click.IntRange(1, 65_535), metavar="PORT", help="The worker's --health-port.")
@click.option("--host", metavar="HOST", help="Where the worker is. Default: this machine.")
def health_command(what: str | None, path: str | None, port: int | None, host: str | None) -> None:
    """Ask the worker of this machine or container whether it is live, or ready; without either, both.

    Exit code 0: it is; 1: it is not, or nobody answers. Without --file and --port, the settings say where to ask.
    """
    if path and port:
        raise ConfigError("--file and --port ask in two places: leave out one of them")
    if not path and not port:
        path, port = _configured()
    try:
        report = _ask(host or "127.0.0.1", port) if port else _read(path or "")
    except (OSError, ValueError, LookupError, TypeError) as error:
        _end(f"no health of a worker at {f'port {port}' if port else path}: {error}", 1)
    reasons = report["not_live"] if what == "live" else report["not_ready"]
    _end("; ".join(reasons) or (what or "live and ready"), int(bool(reasons)))


def _end(text: str, code: int) -> NoReturn:
    click.echo(text, err=bool(code))
    sys.exit(code)


def _configured() -> tuple[str | None, int | None]:
    """The file, or else the port, that the settings name."""
    from bananas.config import load_settings

    settings = load_settings()
    if not settings.worker_heartbeat_file and not settings.worker_health_port:
        raise ConfigError("name where to ask: --file or --port, as the worker has --heartbeat-file or --health-port")
    return settings.worker_heartbeat_file, None if settings.worker_heartbeat_file else settings.worker_health_port


def _ask(host: str, port: int | None) -> Any:
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection(host, port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/health")
        return json.loads(connection.getresponse().read())
    except HTTPException as error:
        raise ValueError(f"that is no worker ({type(error).__name__})") from error
    finally:
        connection.close()


def _read(path: str) -> Any:
    with open(path, "rb") as file:
        report = json.load(file)
    age_s = time.monotonic() - report["at_monotonic"]  # the clock of the system: it begins anew when that does
    if not 0 <= age_s <= report["valid_s"]:
        raise ValueError(f"the file is of {report['at']}: its worker writes no more")
    return report
