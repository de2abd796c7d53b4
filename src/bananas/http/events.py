"""Server-sent events: the ends of jobs, and the counts of queues every second.

A stream ends when its client goes, when the process is to stop, or after `LONGEST_S`: an EventSource comes back by itself. It takes a seat,
of which there are `api_max_streams`. Snapshots are made for each stream on its own, one at a time: a slow client gets fewer of them.
Source: the section "Server-sent events" of the HTML standard.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from starlette.responses import StreamingResponse

from bananas import operate
from bananas.errors import BananasError
from bananas.handle import Job
from bananas.http.jobs import ending_of
from bananas.http.problems import Refused, problem_of
from bananas.http.routes import Site
from bananas.http.values import encode
from bananas.result import Waiter, wanted

HEARTBEAT_S, EVERY_S, LONGEST_S = 15.0, 1.0, 3600.0
Events = AsyncGenerator[bytes, None]


def event(name: str, value: Any) -> bytes:
    """One event; its data are JSON, which has no line ends of its own."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode(value))


def problem_event(error: BaseException) -> bytes:
    """An event that says what is wrong."""
    return event("problem", problem_of(error)[0])


async def job_events(site: Site, jobs: list[Job[Any]]) -> Events:
    """`job` as each job ends, then `end`."""
    app = site.app
    places = wanted([job.place for job in jobs])
    by_channel = {keys.result(job_id): Job[Any](app.client, keys, job_id) for keys, job_id in places.values()}
    try:
        outcomes = Waiter.of(app.client.here()).outcomes(places, None, app.settings.call_timeout)
        async with contextlib.aclosing(outcomes):
            async for channel, outcome in outcomes:
                yield await _end_of(by_channel[channel].ended(outcome))
    except BananasError as error:
        yield problem_event(error)
        return
    yield event("end", {"jobs": len(by_channel)})


async def _end_of(job: Job[Any]) -> bytes:
    try:
        return event("job", await ending_of(job, None))
    except BananasError as error:
        return event("job", {"id": job.id, "state": "unknown", "ended": True, "problem": problem_of(error)[0]})


async def queue_events(site: Site, names: list[str]) -> Events:
    """`queues` every second: the figures of these queues, or of all."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            yield event("queues", await operate.queues(site.app, names or None))
        except BananasError as error:
            yield problem_event(error)
        await asyncio.sleep(max(0.05, EVERY_S - (loop.time() - began)))


class EventStream(StreamingResponse):
    """The response that sends events, with heartbeats between them, until it is time to end.

    Args:
        ended: called at the end, however it comes.
    """

    head, heartbeat, farewell, longest_s = b"retry: 2000\n\n", b": still here\n\n", b"", LONGEST_S

    def __init__(
        self,
        site: Site,
        events: Events,
        *,
        media: str = "text/event-stream",
        headers: Mapping[str, str] | None = None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._site, self._events, self._ended = site, events, ended
        self._seat = site.streams.seat()
        self._seat.__enter__()
        given = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"} | dict(headers or {})
        super().__init__(self._chunks(), headers=given, media_type=media)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()
            self._seat.__exit__(None, None, None)

    async def _chunks(self) -> Events:
        if self.head:
            yield self.head
        loop = asyncio.get_running_loop()
        until = loop.time() + self.longest_s
        stop: asyncio.Future[Any] = asyncio.ensure_future(self._site.stopping.wait())
        coming: asyncio.Future[Any] = asyncio.ensure_future(anext(self._events))
        try:
            while loop.time() < until and not stop.done():
                await asyncio.wait((coming, stop), timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
                if coming.done() and not stop.done():
                    yield coming.result()
                    coming = asyncio.ensure_future(anext(self._events))
                elif self.heartbeat and not stop.done():
                    yield self.heartbeat
            if self.farewell:
                yield self.farewell
        except StopAsyncIteration:
            return
        finally:
            for task in (stop, coming):
                task.cancel()
            await asyncio.gather(stop, coming, return_exceptions=True)
            await self._events.aclose()


class LineStream(EventStream):
    """The response that sends lines of JSON until there are no more; one that the end of this process cuts off says so in its last line."""

    head, heartbeat, longest_s = b"", b"", float("inf")
    farewell = encode({"problem": problem_of(Refused(503, "Stopping", "The API stops; there are more."))[0]}) + b"\n"

    def __init__(self, site: Site, lines: Events, name: str) -> None:
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        super().__init__(site, lines, media="application/x-ndjson", headers=disposition)
