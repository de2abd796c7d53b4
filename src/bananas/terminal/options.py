"""What the commands for operators share: which app or server they are about, and how they run and end."""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bananas.errors import ConfigError

if TYPE_CHECKING:
    from bananas.app import Bananas

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def target_options(command: F) -> F:
    """--app, --url and --namespace."""
    text = "The app: its server, namespace and tasks. Default: the server and namespace of the settings, knowing no task."
    command = click.option("--namespace", metavar="NAME", help="The namespace, instead of the app's.")(command)
    command = click.option("--url", metavar="URL", help="The server, instead of the app's and REDIS_URL.")(command)
    return click.option("--app", "target", metavar="MODULE:APP", help=text)(command)


def json_option(command: F) -> F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object per line, as docs/operations.md tells.")(command)


def watch_option(command: F) -> F:
    """--watch."""
    return click.option("--watch", metavar="SECONDS", type=click.FloatRange(0.2, 3600), help="Show it again every so often.")(command)


def open_app(target: str | None, url: str | None, namespace: str | None) -> "Bananas":
    """The app that a command is about. Raises ConfigError."""
    given: dict[str, Any] = {"redis_url": url, "embedded": False} if url is not None else {}
    if namespace is not None:
        given["namespace"] = namespace
    if target is None:
        from bananas.app import Bananas

        return Bananas(**given)
    from bananas.worker.loading import load_app, override

    here = os.getcwd()
    if here not in sys.path[:1]:
        sys.path.insert(0, here)
    app = load_app(target)
    override(app, given)
    return app


def run(app: "Bananas", work: Callable[["Bananas"], Coroutine[Any, Any, T]]) -> T:
    """Run something with an app to its end, and close it."""

    async def whole() -> T:
        try:
            return await work(app)
        finally:
            await app.close()

    return asyncio.run(whole())


def shown(app: "Bananas", watch: float | None, show: Callable[["Bananas"], Coroutine[Any, Any, None]]) -> None:
    """Show something once, or again and again until Ctrl-C."""

    async def again(app: "Bananas") -> None:
        while True:
            if watch is not None:
                click.clear()
            began = time.monotonic()
            await show(app)
            if watch is None:
                return
            await asyncio.sleep(max(0.0, began + watch - time.monotonic()))

    run(app, again)


def not_found(message: str) -> None:
    """End with exit code 1."""
    click.echo(f"bananas: {message}", err=True)
    sys.exit(1)


def refuse(message: str) -> None:
    """End as for wrong use. Raises ConfigError."""
    raise ConfigError(message)
