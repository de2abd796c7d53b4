"""A server for the API: uvicorn, told what a server on a network needs to bear.

The socket is opened here, so that a port that is taken is one message, and a free one is known. At SIGTERM and SIGINT streams and long
waits end first; then uvicorn lets requests finish for `shutdown_timeout`.
"""

import asyncio
import signal
import socket
from types import FrameType

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from bananas.config import Settings
from bananas.errors import ConfigError
from bananas.http.access import is_loopback, tokens_of
from bananas.http.application import Api
from bananas.values import MAKE_TOKEN

log = structlog.get_logger("bananas.http")
MOST_CONNECTIONS, MOST_HEADER_BYTES, HEADERS_S, KEEP_ALIVE_S = 1_000, 16 * 1024, 10.0, 10


def check_exposure(settings: Settings) -> bool:
    """Whether the API is for this machine alone, without tokens. Raises ConfigError where it is for others, and would be too."""
    tokens, here = tokens_of(settings), is_loopback(settings.api_host)
    if not tokens and not here:
        raise ConfigError(
            f"api_host {settings.api_host} is reached from other machines, and without tokens by anybody. "
            f"Set api_tokens or api_tokens_file. Make a token: {MAKE_TOKEN}"
        )
    return not tokens


class _Protocol(H11Protocol):
    """Closes a connection that does not come to the point: its first request's headers have `HEADERS_S`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._first_cycle: object = self.cycle
        self._impatience = self.loop.call_later(HEADERS_S, self._close_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        self._impatience.cancel()
        super().connection_lost(exc)

    def _close_if_silent(self) -> None:
        if self.cycle is self._first_cycle:  # no request has begun
            self.transport.close()


class _Server(uvicorn.Server):
    """Tells the API first when it is to stop."""

    def __init__(self, config: uvicorn.Config, api: Api) -> None:
        super().__init__(config)
        self._api, self._loop = api, asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by a signal."""
        self._loop.call_soon_threadsafe(self._api.stop)
        super().handle_exit(sig, frame)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS, dualstack_ipv6=both)
    except OSError as error:
        raise ConfigError(f"nobody can listen at {host} port {port} ({error}): give another --port or --host.") from None


def serve(api: Api, settings: Settings) -> None:
    """Serve until a signal. Raises ConfigError when nobody may listen there."""
    listener = _listen(settings.api_host, settings.api_port)
    config = uvicorn.Config(
        api,
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # uvicorn raises them once more when it is done: by then they have done their work
    host, port = listener.getsockname()[:2]
    log.info("the HTTP API is ready", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def run() -> None:
        await _Server(config, api).serve([listener])

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(run())
