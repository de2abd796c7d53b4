"""What is not shown of a job: arguments and headers by their names, whatever they hold. Pure.

A name of the setting `redact` fits an argument, a key within one, or a header that has it among its words: "token" fits `token`,
`access_token`, `accessToken` and `X-Token`, not `tokens` or `tokenize`. "charge:number" fits `number` in jobs of the task charge alone.
Positional arguments have names where the task's code is known. What is redacted is not found by a search either.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from bananas.job import JobInfo
from bananas.operate.matching import Parameters

REDACTED = "[redacted]"
_DEEPEST = 64


class Redaction:
    """What is to be left out.

    Args:
        names: of the setting `redact`.
        parameters: the names of a task's positional arguments.
    """

    def __init__(self, names: Sequence[str], parameters: Parameters) -> None:
        parts = [name.rpartition(":") for name in names]
        self._named = [(task, f"_{_words(name)}_") for task, _, name in parts]
        self._parameters = parameters

    def info(self, info: JobInfo) -> JobInfo:
        """What is known of a job, as it may be shown."""
        if not self._named or not (info.args or info.kwargs or info.headers):
            return info
        task = info.task or ""
        found: dict[str, Any] = {}
        if info.args and (args := self._arguments(task, info.args)) != info.args:
            found["args"] = args
        if info.kwargs and (kwargs := self._inside(task, info.kwargs)) is not info.kwargs:
            found["kwargs"] = kwargs
        if info.headers and (headers := self._inside(task, info.headers)) is not info.headers:
            found["headers"] = headers
        return msgspec.structs.replace(info, **found) if found else info

    def _arguments(self, task: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        names = self._parameters(task)
        named = zip([*names[: len(args)], *[""] * (len(args) - len(names))], args, strict=True)
        return tuple(REDACTED if self._fits(task, name) else self._inside(task, value) for name, value in named)

    def _inside(self, task: str, value: Any, depth: int = _DEEPEST) -> Any:
        """A value without what is redacted in it; the value itself where nothing is."""
        if not isinstance(value, dict | list | tuple):
            return value
        if depth == 0:
            return REDACTED
        if isinstance(value, dict):
            pairs = {key: REDACTED if self._fits(task, key) else self._inside(task, each, depth - 1) for key, each in value.items()}
            return pairs if any(pairs[key] is not each for key, each in value.items()) else value
        items = [self._inside(task, each, depth - 1) for each in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value

    def _fits(self, task: str, name: Any) -> bool:
        if not isinstance(name, str):
            return False
        words = f"_{_words(name[:200])}_"
        return any(wanted in words and only in ("", task) for only, wanted in self._named)


@lru_cache(4_096)
def _words(name: str) -> str:
    """A name as lower-case words with _ between: `accessToken2` is access_token_2."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])|[^A-Za-z0-9]+", "_", name)
    return apart.strip("_").lower()
