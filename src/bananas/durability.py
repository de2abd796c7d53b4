"""How safe a submit is when it returns: acknowledged, on replicas, or on disk.

default      the server has it in memory, and in its AOF as `appendfsync` says
replicated   so many replicas have it too (WAIT)
fsynced      the server's AOF has it on disk (WAITAOF: Redis since 7.2, Valkey)

WAIT counts what was written over its own connection, and stalls it: submits above the default have lanes of their own. It would count
nothing for a resend, which writes nothing; so each batch touches its `seen` key, a write that the replicas and the AOF get after the jobs.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from bananas.broker import Confirmation, Request
from bananas.config import Durability, Settings
from bananas.errors import ServerUnsuitable
from bananas.keys import QueueKeys

SEEN_MS = 3_600_000
_LEAST_S = 0.01
_REPLY_S = 0.2  # what a reply takes beyond the time that the server was asked to wait


class Level(NamedTuple):
    """What a submit waits for, and for how long at most."""

    name: Durability
    replicas: int
    timeout_s: float

    def confirmation(self, keys: QueueKeys, boot: str, left_s: float) -> list[Request[Any]]:
        """What follows a batch of submits over the same connection; the last reply tells how far the batch has come."""
        wait_ms = round(max(_LEAST_S, min(self.timeout_s, left_s - _REPLY_S)) * 1000)
        touch = Confirmation(int, None, (), ("PEXPIRE", keys.seen(boot), SEEN_MS))
        if self.name == "replicated":
            return [touch, Confirmation(int, None, (), ("WAIT", self.replicas, wait_ms))]
        return [touch, Confirmation(_on_disk, None, (), ("WAITAOF", 1, 0, wait_ms))]

    def shortfall(self, replies: Sequence[Any]) -> str:
        """Why the replies to `confirmation` do not confirm the batch, or ""."""
        reply = replies[-1]
        if isinstance(reply, Exception):
            return str(reply)
        if self.name == "replicated":
            return "" if reply >= self.replicas else f"{reply} of {self.replicas} replica(s) had it within {self.timeout_s:g} s"
        return "" if reply else f"it was not on disk within {self.timeout_s:g} s"

    def check(self, info: dict[str, str]) -> None:
        """Raises ServerUnsuitable where the server, by its INFO, cannot do this."""
        if self.name != "fsynced":
            return
        version = tuple(int(part) for part in info.get("redis_version", "0").split(".")[:2])
        if version < (7, 2):
            raise ServerUnsuitable(
                f"durability 'fsynced' needs WAITAOF (Redis 7.2 or Valkey 8, or newer); the server is {info.get('redis_version')}. "
                "Nothing was sent. Use 'replicated', or another server."
            )
        if info.get("aof_enabled") != "1":
            raise ServerUnsuitable(
                "durability 'fsynced' needs the server's AOF, which is off. Nothing was sent. "
                "Switch it on: CONFIG SET appendonly yes, and in its configuration file."
            )


def _on_disk(reply: list[int]) -> bool:
    return reply[0] >= 1


def level_of(settings: Settings, given: Durability | None) -> Level | None:
    """The level of a submit: what it says, else the app's; None for the default."""
    name = given or settings.durability
    return None if name == "default" else Level(name, settings.durability_replicas, settings.durability_timeout)
