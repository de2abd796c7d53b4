"""Where a job's code is, as text: the frames of a thread, or of a coroutine that waits, without those of the worker around them.

Read from another thread while the code may go on: what is told was so at one moment, each frame for itself.
"""

import asyncio
import os
import sys
import traceback
from collections.abc import Iterator
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

MOST_FRAMES, MOST_CHARS = 60, 32_000
_DEEPEST = 500
_HERE = os.path.dirname(__file__)
_AROUND = (_HERE + os.sep, os.path.join(os.path.dirname(_HERE), "middleware."))  # by their files: the main module has no name of its own


def of_task(task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop, thread: int) -> tuple[str, list[FrameType]]:
    """Whether a task runs, on the thread of its loop, or waits, and its frames."""
    if asyncio.current_task(loop) is task:
        return "runs on the event loop", of_thread(sys._current_frames().get(thread))
    return "waits on the event loop", of_coroutine(task.get_coro())


def of_thread(innermost: FrameType | None) -> list[FrameType]:
    """The frames of a thread from the handler on, the outermost first."""
    found: list[FrameType] = []
    while innermost is not None and len(found) < _DEEPEST:
        if _is_around(innermost):
            break
        found.append(innermost)
        innermost = innermost.f_back
    return found[::-1]


def of_coroutine(waiting: Any) -> list[FrameType]:
    """The frames of a coroutine that waits, from the handler on, the outermost first."""
    found: list[FrameType] = []
    for frame in _inward(waiting):
        if _is_around(frame):
            found.clear()
        else:
            found.append(frame)
    return found


def _inward(waiting: Any) -> Iterator[FrameType]:
    for _ in range(_DEEPEST):
        frame, waiting = _step(waiting)
        if frame is None:
            return
        if _is_around(frame) and isinstance(steps := frame.f_locals.get("steps"), CoroutineType):
            waiting = steps  # a coroutine that the worker drives by hand
        yield frame


def _step(waiting: Any) -> tuple[FrameType | None, Any]:
    """The frame of something that waits, and what it waits for."""
    if isinstance(waiting, CoroutineType):
        return waiting.cr_frame, waiting.cr_await
    if isinstance(waiting, GeneratorType):
        return waiting.gi_frame, waiting.gi_yieldfrom
    if isinstance(waiting, AsyncGeneratorType):
        return waiting.ag_frame, waiting.ag_await
    return None, None


def _is_around(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_AROUND)


def as_text(frames: list[FrameType]) -> str:
    """The frames with their lines, the innermost last, as in a traceback; of very many the innermost."""
    if not frames:
        return "  (it is between two steps: no frame of the app's code)\n"
    summary = traceback.StackSummary.extract(((frame, frame.f_lineno) for frame in frames[-MOST_FRAMES:]), lookup_lines=True)
    return "".join(summary.format())[-MOST_CHARS:]
