"""What a running job tells of itself, as it is stored: its progress and the last lines of its log, one value per job with a TTL. Pure.

    fence number lines length | progress | lines        the first four as text, each with a space behind it

lua/jot.lua writes it: `fence` and `number` name the note that was written last, so that a resent one changes nothing; `length` is that of
the progress in bytes; each line has its length in four bytes in front. Where a job is encrypted, so are these texts, each bound to its job.
"""

from typing import Any

from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder

from bananas import sealing
from bananas.job import LogLine
from bananas.sealing import Place
from bananas.seals import Seals

MOST_LINES = 100
KEPT_MS = 7 * 86_400_000  # from the last note of a job that has not ended, or is dead


class Progress(Struct, array_like=True, frozen=True):
    """How far the run of a lease has come, 0 to 1."""

    fence: int
    fraction: float
    text: str
    sealed: bytes = b""


class _Line(Struct, array_like=True, frozen=True):
    at_ms: int
    attempt: int
    text: str
    sealed: bytes = b""


_encoder = Encoder()
_progress = Decoder(Progress)
_lines = Decoder(_Line)


def pack_progress(fence: int, fraction: float, text: str, seals: Seals | None, place: Place) -> bytes:
    """One progress; with `seals`, its text encrypted."""
    if seals is None:
        return _encoder.encode(Progress(fence, fraction, text))
    return _encoder.encode(Progress(fence, fraction, "", sealing.hide_text("progress", text, (fence, fraction), seals, place)))


def pack_line(at_ms: int, attempt: int, text: str, seals: Seals | None, place: Place) -> bytes:
    """One line of a log with its length in front; with `seals`, its text encrypted."""
    if seals is None:
        line = _encoder.encode(_Line(at_ms, attempt, text))
    else:
        line = _encoder.encode(_Line(at_ms, attempt, "", sealing.hide_text("line", text, (at_ms, attempt), seals, place)))
    return len(line).to_bytes(4, "big") + line


def read_notes(stored: bytes, seals: Seals, place: Place) -> tuple[Progress | None, tuple[LogLine, ...]]:
    """What is stored of a job's progress and log. What is damaged is left out: nothing depends on it."""
    try:
        _, _, _, length, rest = stored.split(b" ", 4)
        head, lines = rest[: int(length)], rest[int(length) :]
        progress = _shown(_progress.decode(head), seals, place) if head else None
        return progress, _read_lines(lines, seals, place)
    except Exception:  # msgspec has more than its own: UnicodeDecodeError, RecursionError
        return None, ()


def moved(stored: bytes, seals: Seals | None, old: Place, new: Place) -> bytes:
    """The log as it is stored of the same job in another queue, b"" where there is none; fences are others there, and it does not run yet.

    Args:
        seals: where the job is encrypted: its lines are bound to their place.
    """
    try:
        _, _, count, length, rest = stored.split(b" ", 4)
        lines = rest[int(length) :]
        if seals is not None:
            told = _read_lines(lines, seals, old)
            lines, count = b"".join(pack_line(line.at_ms, line.attempt, line.text, seals, new) for line in told), b"%d" % len(told)
    except Exception:  # as above
        return b""
    return b"0 0 %d 0 " % int(count) + lines if lines else b""


def _shown(progress: Progress, seals: Seals, place: Place) -> Progress:
    bound = progress.fence, progress.fraction
    return Progress(*bound, sealing.shown_text("progress", progress.text, progress.sealed, bound, (seals, place)))


def _read_lines(data: bytes, seals: Seals, place: Place) -> tuple[LogLine, ...]:
    found: list[LogLine] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        line: Any = _lines.decode(data[at + 4 : at + 4 + size])
        bound = line.at_ms, line.attempt
        found.append(LogLine(*bound, sealing.shown_text("line", line.text, line.sealed, bound, (seals, place))))
        at += 4 + size
    return tuple(found)
