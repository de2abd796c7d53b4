"""`bananas top`: the loop that looks, listens to keys and draws; and one look for scripts.

Three things go on side by side: one asks the server, one waits for keys, one draws when either has news, and every second. So the view
shows how old its figures are while the server is away, and goes on when it is back.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import click

from bananas.errors import AuthenticationFailed, BrokerError, ConfigError
from bananas.terminal.options import open_app, run, target_options

if TYPE_CHECKING:
    from bananas.app import Bananas
    from bananas.terminal.top.view import Known

ERRORS_EVERY_S = 10.0
DRAWN_S, STALE_S = 1.0, 3.0
ONCE_WIDTH, ONCE_HEIGHT = 120, 60


@click.command("top")
@target_options
@click.option("--interval", default=1.0, show_default=True, metavar="SECONDS", type=click.FloatRange(0.2, 60), help="How often to look.")
@click.option("--once", is_flag=True, help="Look once, and write it down: for scripts, and where there is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="With --once: as one JSON object.")
def top_command(target: str | None, url: str | None, namespace: str | None, interval: float, once: bool, as_json: bool) -> None:
    """Queues, workers, rates and failures, live in the terminal.

    Keys: q ends, p stops and starts the view, s sorts by the next column, / filters by name, j and k scroll. While the server is away it
    says so, shows what it knows, and goes on by itself.
    """
    app = open_app(target, url, namespace)
    if as_json and not once:
        raise ConfigError("--json goes with --once")
    if once:
        run(app, lambda app: _once(app, as_json))
    elif not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("bananas top needs a terminal: elsewhere say --once, with --json for scripts")
    else:
        run(app, lambda app: _Live(app, interval).run())


async def _once(app: "Bananas", as_json: bool) -> None:
    from bananas import operate
    from bananas.terminal.output import to_json
    from bananas.terminal.top import frames
    from bananas.terminal.top.controls import Controls
    from bananas.terminal.top.view import Known, view

    frame, found, errors = await asyncio.gather(frames.take(app), operate.backlog(app), frames.failures(app))
    if as_json:
        by_queue = {each.queue: each for each in found}
        queues = [_fields(queue) | _recent(by_queue.get(queue.name)) for queue in frame.queues]
        server = {"used_bytes": frame.used_bytes, "max_bytes": frame.max_bytes}
        whole = {"namespace": frame.namespace, "queues": queues, "workers": frame.workers, "errors": errors.groups, "server": server}
        click.echo(to_json(whole))
        return
    rates = {each.queue: frames.Rates(None, each.rate_s, None, each.seconds) for each in found}
    width = shutil.get_terminal_size((ONCE_WIDTH, ONCE_HEIGHT)).columns
    rows = 8 + len(frame.queues) + len(frame.workers) + len(errors.groups)
    known = Known(str(app.client.address), frame, rates, errors.groups)
    lines = [line.plain.rstrip() for line in view(known, Controls(), max(80, width), rows)[:-1]]
    click.echo("\n".join(lines).rstrip())


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__struct_fields__}


def _recent(found: Any) -> dict[str, Any]:
    """What is known of the last five minutes of a queue."""
    return {"rate_s": found.rate_s if found else 0.0, "backlog_s": found.seconds if found else 0.0}


class _Live:
    """One view in a terminal, from its beginning to its end."""

    def __init__(self, app: "Bananas", interval: float) -> None:
        from bananas.terminal.top.controls import Controls
        from bananas.terminal.top.frames import Track

        self._app, self._interval = app, interval
        self._controls, self._track = Controls(), Track()
        self._errors: tuple[Any, ...] = ()
        self._trouble, self._news = "", asyncio.Event()
        self._began = time.monotonic()
        self._fatal: BrokerError | None = None

    async def run(self) -> None:
        """Show it until it is to end. Raises BrokerError where the server refuses this user before anything was shown."""
        from rich.console import Console
        from rich.live import Live

        from bananas.terminal.top.controls import Keyboard

        console = Console()
        if console.is_dumb_terminal:
            raise ConfigError("this terminal (TERM=dumb) cannot be drawn on: say --once")
        loop = asyncio.get_running_loop()
        with Keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
            loop.add_reader(keyboard.descriptor, lambda: self._press(keyboard.read()))
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, self._end)
            loop.add_signal_handler(signal.SIGWINCH, self._news.set)
            asking = [asyncio.ensure_future(work) for work in (self._look(), self._look_at_errors())]
            try:
                await self._show(live, asking)
            finally:
                loop.remove_reader(keyboard.descriptor)
                for task in asking:
                    task.cancel()
                await asyncio.gather(*asking, return_exceptions=True)
        if self._fatal is not None:
            raise self._fatal

    async def _show(self, live: Any, asking: "list[asyncio.Task[None]]") -> None:
        """Draw at every news, and every second."""
        while not self._controls.ending:
            self._draw(live)
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), DRAWN_S)
            for task in asking:
                if task.done():
                    task.result()  # they do not end but by a fault

    def _press(self, text: str) -> None:
        if text:
            self._controls.press(text)
        else:  # the terminal is gone
            self._controls.ending = True
        self._news.set()

    def _end(self) -> None:
        self._controls.ending = True
        self._news.set()

    async def _look(self) -> None:
        from bananas.terminal.top import frames

        while True:
            began = time.monotonic()
            if not self._controls.frozen:
                frame = await self._asked(frames.take(self._app))
                if frame is not None:
                    self._track.add(frame)
                self._news.set()
            await asyncio.sleep(max(0.05, began + self._interval - time.monotonic()))

    async def _look_at_errors(self) -> None:
        from bananas.terminal.top import frames

        while True:
            if not self._controls.frozen and self._track.last is not None and not self._trouble:
                with contextlib.suppress(BrokerError):  # `_look` tells of it
                    self._errors = (await frames.failures(self._app)).groups
                self._news.set()
                await asyncio.sleep(ERRORS_EVERY_S)
            else:
                await asyncio.sleep(self._interval)

    async def _asked(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What the server says, None where it says nothing; then it is asked again."""
        try:
            answer = await work
        except BrokerError as error:
            self._trouble = f"{type(error).__name__}: {error}"
            if isinstance(error, AuthenticationFailed) and self._track.last is None:
                self._fatal, self._controls.ending = error, True
            return None
        self._trouble = ""
        return answer

    def _draw(self, live: Any) -> None:
        from rich.console import ConsoleDimensions
        from rich.text import Text

        from bananas.terminal.top.view import view

        columns, rows = os.get_terminal_size(sys.stdout.fileno())  # not COLUMNS and LINES, which stay as they are when a window grows
        live.console.size = ConsoleDimensions(columns or 80, rows or 24)
        lines = view(self._known(), self._controls, *live.console.size)
        live.update(Text("\n", no_wrap=True, overflow="crop").join(lines), refresh=True)

    def _known(self) -> "Known":
        from bananas.terminal.top.view import Known

        last = self._track.last
        age_s = time.monotonic() - (last.taken_s if last is not None else self._began)
        late = age_s >= self._interval + STALE_S
        return Known(str(self._app.client.address), last, self._track.rates(), self._errors, age_s, late, self._trouble)
