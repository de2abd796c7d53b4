"""Where the jobs of a queue are: its keys, or those of its shards."""

import itertools

from bananas.config import Settings
from bananas.keys import QueueKeys, shard_of
from bananas.values import parse_shards


class Shards:
    """The parts of one queue: each job goes to the next one, and one with a unique key to the part that all with this key go to."""

    def __init__(self, parts: tuple[QueueKeys, ...]) -> None:
        self.parts = parts
        self._turn = itertools.cycle(parts)

    def choose(self, unique: str) -> QueueKeys:
        """The part for a job."""
        return self.parts[shard_of(unique, len(self.parts))] if unique else next(self._turn)


class Places:
    """The queues of a namespace, as the settings divide them."""

    def __init__(self, settings: Settings) -> None:
        self._namespace = settings.namespace
        self._counts = {name: count for name, count in map(parse_shards, settings.queue_shards) if count > 1}
        self._keys: dict[str, QueueKeys] = {}
        self._shards: dict[str, Shards] = {}

    def keys(self, queue: str) -> QueueKeys:
        """The keys of a queue whose name was checked, or of a shard by its listed name, `queue.shard`."""
        found = self._keys.get(queue)
        if found is None:
            found = self._keys[queue] = QueueKeys.named(self._namespace, queue)
        return found

    def shards(self, queue: str) -> Shards | None:
        """The parts of a queue that has several, by the settings; else None."""
        found = self._shards.get(queue)
        if found is None and (count := self._counts.get(queue)):
            found = self._shards[queue] = Shards(tuple(self.keys(f"{queue}.{number}") for number in range(count)))
        return found

    def parts(self, queue: str) -> tuple[QueueKeys, ...]:
        """The keys of every part of a queue: one, where it has no shards."""
        shards = self.shards(queue)
        return (self.keys(queue),) if shards is None else shards.parts

    def of_unique(self, queue: str, unique: str) -> QueueKeys:
        """The part of a queue where everything of one unique key is; a cron entry too, by its name."""
        shards = self.shards(queue)
        return self.keys(queue) if shards is None else shards.choose(unique)
