"""What a client may take: requests by a token bucket per client, and seats, of which there are a number."""

import time
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager

from bananas.http.problems import Refused

MOST_CLIENTS = 10_000


class Rates:
    """A bucket per client that fills at `rate` a second and holds twice that; of more than `MOST_CLIENTS` the idlest is forgotten.

    Args:
        rate: requests per second; 0: no limit.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._size = rate, max(1.0, 2 * rate)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> what was left, when (monotonic)

    def take(self, client: str) -> None:
        """Take one. Raises Refused with the seconds after which there is one again."""
        if not self._rate:
            return
        now = time.monotonic()
        left, at = self._buckets.pop(client, (self._size, now))
        left = min(self._size, left + (now - at) * self._rate)
        self._buckets[client] = (left - 1 if left >= 1 else left), now
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        if left < 1:
            wait_s = max(1, round((1 - left) / self._rate + 0.5))
            raise Refused(429, "TooManyRequests", "Slow down: api_rate limits each client.", {"Retry-After": str(wait_s)})


class Seats:
    """A number of places for requests that stay."""

    def __init__(self, count: int, what: str) -> None:
        self._count, self._what, self.taken = count, what, 0

    @contextmanager
    def seat(self) -> Generator[None]:
        """Have one for a while. Raises Refused when all are taken."""
        if self.taken >= self._count:
            raise Refused(503, "NoSeat", f"There are {self._count} {self._what} already: try again later.", {"Retry-After": "5"})
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
