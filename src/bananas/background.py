"""An event loop on a thread of its own, for what threads wait for: one subscription to results serves them all.

A daemon: a program that ends without closing its app is not held up. What is under way when it is closed goes on to its end.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from bananas.errors import BrokerUnavailable

T = TypeVar("T")


class Background:
    """Runs coroutines for threads.

    Args:
        leave: what its loop does last, when it was closed and nothing is under way any more.
    """

    def __init__(self, leave: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._leave = leave
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._under_way, self._closed = 0, False
        self._thread = threading.Thread(target=self._loop.run_forever, name="bananas-results", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns or raises; it is cancelled when this thread is interrupted. Raises BrokerUnavailable after `close`."""
        with self._lock:
            if self._closed:
                coroutine.close()
                raise BrokerUnavailable("the app was closed just now; nothing was asked. Call again: it opens new connections")
            self._under_way += 1
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
        finally:
            with self._lock:
                self._under_way -= 1
                last = self._closed and not self._under_way
            if last:
                self._end()

    def close(self) -> None:
        """End the loop now, or with the last call that is under way."""
        with self._lock:
            last, self._closed = not self._closed and not self._under_way, True
        if last:
            self._end()

    def _end(self) -> None:
        asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
