"""What operators did: a bounded list in the namespace, the newest first."""

import os
import time

import msgspec
from msgspec import Struct

from bananas import broker
from bananas.app import Bananas
from bananas.keys import trail_key
from bananas.operate import requests

KEPT = 1_000


class Deed(Struct, frozen=True):
    """One act: when (ms, by the clock of who acted), who, what, on which filter, and what it came to."""

    at_ms: int
    who: str
    action: str
    query: str
    selected: int
    done: int


def operator() -> str:
    """Who acts: BANANAS_OPERATOR, or the user of this process as the system knows it."""
    given = os.environ.get("BANANAS_OPERATOR")
    if given:
        return given
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


async def note(app: Bananas, action: str, query: str, selected: int, done: int, who: str = "") -> None:
    """Write an act down; the oldest beyond `KEPT` are dropped."""
    deed = Deed(round(time.time() * 1000), who or operator(), action, query[:2_000], selected, done)
    key, namespace = trail_key(app.settings.namespace), app.settings.namespace
    await app.client.ask_home(namespace, requests.note(key, msgspec.json.encode(deed), KEPT), "noting an act")


async def trail(app: Bananas, limit: int = 50) -> list[Deed]:
    """The newest acts."""
    key, namespace = trail_key(app.settings.namespace), app.settings.namespace
    listed = await app.client.ask_home(namespace, broker.plain(list, "LRANGE", key, 0, max(0, limit - 1)), "reading the trail")
    return [msgspec.json.decode(item, type=Deed) for item in listed]
