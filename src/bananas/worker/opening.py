"""Opening the queues of a worker: may it work there, is the layout its own, can the server do what is asked of it.

One server is asked queue by queue, and must answer. Of a Cluster all servers are asked at once; the queues of one that does not answer are
opened when it does, and the others need not wait for it.
"""

import asyncio
from collections.abc import Callable

import structlog

from bananas import rights
from bananas.app import Bananas
from bananas.broker import plain
from bananas.config import parse_routing_key
from bananas.durability import level_of
from bananas.errors import BrokerUnavailable, ConfigError, QueueFull
from bananas.keys import queues_key
from bananas.session import answer, check_layout, note_layout, server_info
from bananas.worker.served import Served
from bananas.worker.table import MOST_QUEUES

AGAIN_S = 1.0
log = structlog.get_logger("bananas.worker")


async def open_queues(app: Bananas, boot: str) -> list[Served]:
    """The queues that a worker of this app serves by its settings, each noted on the server and checked to be of this layout.

    First the server is asked whether this worker may do all that it will do there.

    Raises:
        ConfigError: more than 255, or one of another layout.
        RightsMissing: the server's user may not do what a worker does.
        BrokerError: the server, or every one of a Cluster, does not answer, or refuses.
    """
    settings = app.settings
    named = [parse_routing_key(entry) for entry in settings.worker_routing_keys]
    wanted: list[tuple[str, int | None]] = named or [(queue, None) for queue in app.registry.queues() or ["default"]]
    names = {keys.name: weight or 0 for name, weight in wanted for keys in app.producer.places.parts(name)}
    if not app.client.address.clustered:
        await _check_rights(app, list(names))
    also = _also_served(await _listed(app), dict(wanted), everything=settings.worker_mode == "scheduler-only")
    others = {name: weight or 0 for name, weight in also.items() if name not in names}
    if not app.client.address.clustered:
        await _check_rights(app, list(others))
    names |= others
    if len(names) > MOST_QUEUES:
        raise ConfigError(f"this worker would serve {len(names)} queues; the most is {MOST_QUEUES}: name some with --queues")
    queues = [Served(index, app.producer.keys(name), boot, weight) for index, (name, weight) in enumerate(names.items())]
    if app.client.address.clustered:
        await _open_what_answers(app, queues)
        return queues
    await _check_levels(app, queues[0])
    for served in queues:
        await _check_queue(app, served)
    return queues


async def open_later(app: Bananas, served: Served, changed: Callable[[], None]) -> None:
    """Open a queue whose server was away, as soon as it answers, and serve it from then on. Raises as `open_queues` but for that."""
    while served.away:
        await asyncio.sleep(AGAIN_S)
        try:
            await _open_alone(app, served)
        except BrokerUnavailable:
            continue
        served.away = served.busy = False
        log.info("a queue whose server was away is served now", queue=served.keys.name)
        changed()


async def _open_what_answers(app: Bananas, queues: list[Served]) -> None:
    outcomes = await asyncio.gather(*(_open_alone(app, served) for served in queues), return_exceptions=True)
    for served, outcome in zip(queues, outcomes, strict=True):
        if isinstance(outcome, BrokerUnavailable):
            served.away = served.busy = True
            log.warning("the server of a queue does not answer; it is served once it does", queue=served.keys.name, reason=str(outcome))
        elif isinstance(outcome, BaseException):
            raise outcome
    if all(served.away for served in queues) and isinstance(outcomes[0], BaseException):
        raise outcomes[0]


async def _open_alone(app: Bananas, served: Served) -> None:
    await _check_rights(app, [served.keys.name])
    await _check_levels(app, served)
    await _check_queue(app, served)


async def _check_rights(app: Bananas, names: list[str]) -> None:
    await rights.check(app.client.here(), "worker", [app.producer.keys(name) for name in names], app.settings.call_timeout)


async def _listed(app: Bananas) -> list[str]:
    """The queues that are noted on the server; none where a Cluster's server of that list is away."""
    settings, lane = app.settings, app.client.here().lanes.home(app.settings.namespace)
    try:
        (reply,) = await lane.ask(None, [plain(list, "SMEMBERS", queues_key(settings.namespace))], settings.call_timeout, "reading queues")
    except BrokerUnavailable as error:
        if not app.client.address.clustered:
            raise
        log.warning("the list of queues cannot be read: shards of an earlier number of them are not served", reason=str(error))
        return []
    return [name.decode() for name in answer(reply)]


async def _check_queue(app: Bananas, served: Served) -> None:
    """Raises ServerUnsuitable where the queue has another layout; notes ours where it has none."""
    keys, lane = served.keys, app.client.here().lanes.of(served.keys)
    replies = await lane.ask(keys, note_layout(keys), app.settings.call_timeout, f"opening queue {keys.name!r}")
    for reply in replies:
        if not isinstance(reply, QueueFull):  # what is queued on a full server is run all the same
            answer(reply)
    check_layout(keys, replies[-1])


async def _check_levels(app: Bananas, served: Served) -> None:
    """Raises ServerUnsuitable where the server cannot make submits as durable as the app or one of its tasks wants them."""
    wanted = {task.defaults.durability for task in app.registry.tasks.values()}
    levels = [level for level in (level_of(app.settings, name) for name in {None, *wanted}) if level is not None]
    if levels:
        lane = app.client.here().lanes.of(served.keys)
        (info,) = await lane.ask(None, [server_info()], app.settings.call_timeout, "asking what the server can do")
        for level in levels:
            level.check(answer(info))


def _also_served(listed: list[str], wanted: dict[str, int | None], *, everything: bool) -> dict[str, int | None]:
    """Of the queues on the server: shards that an earlier number of them has left behind, with the weight of their queue; or all."""
    return {name: wanted.get(name.partition(".")[0]) for name in sorted(listed) if everything or name.partition(".")[0] in wanted}
