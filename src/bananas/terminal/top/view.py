"""A screen full of lines, from what is known and how large the screen is: no line is wider than that, and there are no more of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from bananas.inspector import WorkerInfo
from bananas.operate import ErrorGroup, QueueFigures
from bananas.operate.why import span
from bananas.terminal.output import clean
from bananas.terminal.top.controls import Controls
from bananas.terminal.top.frames import Frame, Rates

LATE_MS, MOST_ERRORS, LEAST_ROWS, NEARLY_FULL = 60_000, 3, 3, 0.8
KEYS = "q quit  p pause the view  s sort  / filter  j k scroll"


class Known(NamedTuple):
    """What is shown: the newest frame with its rates, the failures, how old the frame is, whether that is late, and why."""

    where: str
    frame: Frame | None
    rates: dict[str, Rates]
    errors: Sequence[ErrorGroup] = ()
    age_s: float = 0.0
    late: bool = False
    trouble: str = ""


class Column(NamedTuple):
    """A column: its width in cells (0: what is left), and its value with a style."""

    title: str
    width: int
    value: Callable[[Any], tuple[str, str]]
    left: bool = False


def view(known: Known, controls: Controls, width: int, height: int) -> list[Text]:
    """The lines of a screen, from the top: totals, queues, workers, failures, keys. A scroll beyond the end is taken back."""
    lines = [_head(known, controls, width)]
    if known.frame is None:
        lines += [Text(), Text(clean(known.trouble) or "asking the server ...")]
    else:
        lines += [_totals(known, known.frame), *_tables(known, known.frame, controls, width, height - 3)]
    lines = lines[: height - 1]
    lines += [Text()] * (height - 1 - len(lines))
    lines.append(_foot(controls))
    for line in lines:
        line.truncate(width)
    return lines


def _head(known: Known, controls: Controls, width: int) -> Text:
    line = Text.assemble(("bananas top", "bold"), f"  {clean(known.frame.namespace)}" if known.frame else "", "  ")
    if controls.frozen:
        line.append(f"paused, figures of {span(known.age_s * 1000)} ago", "bold yellow")
    elif known.late:
        since = f"figures of {span(known.age_s * 1000)} ago" if known.frame else f"nothing for {span(known.age_s * 1000)}"
        line.append(f"{since}: {clean(known.trouble or 'the server does not answer', width)}", "bold red")
    else:
        line.append(_means(known.frame)).append(clean(known.where))
    return line


def _means(frame: Frame | None) -> Text:
    """Slots and memory, red where they are short."""
    if frame is None:
        return Text()
    slots, busy = sum(worker.slots for worker in frame.workers), sum(len(worker.running) for worker in frame.workers)
    line = Text(f"slots {busy}/{slots}  ", "" if slots else "bold red")
    if frame.max_bytes:
        share = frame.used_bytes / frame.max_bytes
        line.append(f"memory {share:.0%}  ", "bold red" if share >= NEARLY_FULL else "")
    return line


def _totals(known: Known, frame: Frame) -> Text:
    total = {state: sum(getattr(queue, state) for queue in frame.queues) for state in ("ready", "scheduled", "running", "dead")}
    line = Text("  ".join(f"{state} {_short(count)}" for state, count in total.items()))
    for what, name in (("in", "in_s"), ("out", "out_s"), ("failing", "failed_s")):
        rates = [getattr(each, name) for each in known.rates.values()]
        if rates and None not in rates:
            line.append(f"  {what} {_rate(sum(rates))}", "red" if what == "failing" and sum(rates) else "")
    return line


def _foot(controls: Controls) -> Text:
    if controls.typing:
        return Text.assemble(("filter: ", "bold"), f"{clean(controls.filter)}_   (Enter keeps it, Esc clears it)")
    shown = f"   filter: {clean(controls.filter)}" if controls.filter else ""
    return Text(f"{KEYS}   by {controls.sort}{shown}", style="dim")


# --- tables -----------------------------------------------------------------------------------------------------------


def _tables(known: Known, frame: Frame, controls: Controls, width: int, height: int) -> list[Text]:
    """Queues and workers share the room, failures get a few lines of it."""
    queues = _sorted([queue for queue in frame.queues if controls.filter.lower() in queue.name.lower()], known.rates, controls.sort)
    hands = [worker for worker in frame.workers if _fits(worker, controls.filter.lower())]
    errors = list(known.errors[:MOST_ERRORS])
    room = height - 2 - (len(errors) + 1 if errors else 0)
    if room < LEAST_ROWS:
        errors, room = [], height - 2
    for_queues = min(len(queues), max(LEAST_ROWS, room - min(len(hands), room // 2)))
    controls.offset = max(0, min(controls.offset, len(queues) - for_queues))
    shown = queues[controls.offset : controls.offset + for_queues]
    lines = table(_queue_columns(known.rates, width), shown, width, _more("QUEUE", len(queues), controls.offset, len(shown)))
    seen = hands[: max(0, room - len(shown))]
    lines += table(_worker_columns(frame, width), seen, width, _more("WORKER", len(hands), 0, len(seen)))
    return lines + (table(_ERROR_COLUMNS, errors, width, "FAILS") if errors else [])


def _fits(worker: WorkerInfo, text: str) -> bool:
    return not text or any(text in name.lower() for name in (f"{worker.host}:{worker.pid}", *worker.queues, *worker.tasks))


def _sorted(queues: list[QueueFigures], rates: dict[str, Rates], sort: str) -> list[QueueFigures]:
    keys: dict[str, Callable[[QueueFigures], float]] = {
        "ready": lambda queue: queue.ready,
        "oldest": lambda queue: queue.oldest_ms or 0,
        "out": lambda queue: rates[queue.name].out_s if queue.name in rates else 0,
        "dead": lambda queue: queue.dead,
        "backlog": lambda queue: rates[queue.name].backlog_s if queue.name in rates else 0,
    }
    key = keys.get(sort)
    return sorted(queues, key=lambda queue: (-key(queue) if key else 0, queue.name))


def _more(title: str, total: int, offset: int, shown: int) -> str:
    return title if shown == total else f"{title} {offset + 1}-{offset + shown} of {total}" if shown else f"{title} ({total})"


def _queue_columns(rates: dict[str, Rates], width: int) -> list[Column]:
    def of(name: str) -> Callable[[QueueFigures], tuple[str, str]]:
        return lambda queue: ("-" if (rate := getattr(rates.get(queue.name), name, None)) is None else _rate(rate), "")

    columns = [
        Column("", 0, lambda queue: (queue.name, "yellow" if queue.paused else ""), left=True),
        Column("READY", 8, lambda queue: (_short(queue.ready), "")),
        Column("SCHED", 7, lambda queue: (_short(queue.scheduled), "")),
        Column("RUN", 5, lambda queue: (_short(queue.running), "")),
        Column("DEAD", 6, lambda queue: (_short(queue.dead), "red" if queue.dead else "")),
        Column("OLDEST", 8, _oldest),
        Column("IN/s", 6, of("in_s")),
        Column("OUT/s", 6, of("out_s")),
        Column("BACKLOG", 8, lambda queue: (_time(rates[queue.name].backlog_s * 1000), "") if queue.name in rates else ("-", "")),
    ]
    if width >= 100:
        columns += [Column("FAIL/s", 7, of("failed_s")), Column("BUSY", 9, lambda queue: (f"{queue.busy}/{queue.slots}", ""))]
    return columns


def _oldest(queue: QueueFigures) -> tuple[str, str]:
    if queue.paused:
        return "paused", "bold yellow"
    if queue.ready and not queue.workers:
        return "no hands", "bold red"
    return ("-", "") if queue.oldest_ms is None else (_time(queue.oldest_ms), "red" if queue.oldest_ms >= LATE_MS else "")


def _worker_columns(frame: Frame, width: int) -> list[Column]:
    return [
        Column("", 0, lambda worker: (f"{worker.host}:{worker.pid}", ""), left=True),
        Column("BUSY", 8, lambda worker: (f"{len(worker.running)}/{worker.slots}", "")),
        Column("CPU", 5, lambda worker: ("-" if worker.cpu_percent is None else f"{worker.cpu_percent:.0f}%", "")),
        Column("MEM", 7, lambda worker: ("-" if worker.memory_bytes is None else f"{worker.memory_bytes / 2**20:,.0f}M", "")),
        Column("STATE", 8, lambda worker: (worker.phase, "" if worker.phase == "working" else "yellow")),
        Column("LONGEST RUN", max(18, (width - 40) // 2), _longest, left=True),
    ]


def _longest(worker: WorkerInfo) -> tuple[str, str]:
    if not worker.runs:
        return "-", ""
    run = worker.runs[0]
    return run.task, "red" if run.overdue else ""


_ERROR_COLUMNS = [
    Column("", 7, lambda group: (f"{group.dead + group.retrying:,}", "red")),
    Column("ERROR", 20, lambda group: (group.type, ""), left=True),
    Column("WHERE AND WHAT", 0, lambda group: (f"{group.frame.rpartition('/')[2]} {group.message}", ""), left=True),
]


def table(columns: Sequence[Column], rows: Sequence[Any], width: int, title: str) -> list[Text]:
    """A line of titles, the first of which says what the table is about, and a line for each row."""
    fixed = sum(column.width for column in columns) + len(columns) - 1
    widths = [column.width or max(8, width - fixed) for column in columns]
    titles = [column.title or title for column in columns]
    head = Text(" ".join(_cell(text, size, column.left) for text, size, column in zip(titles, widths, columns, strict=True)), style="bold")
    lines = [head]
    for row in rows:
        line = Text()
        for index, (column, size) in enumerate(zip(columns, widths, strict=True)):
            text, style = column.value(row)
            line.append(" " * bool(index))
            line.append(_cell(clean(text), size, column.left), style)
        lines.append(line)
    return lines


def _cell(text: str, size: int, left: bool) -> str:
    if cell_len(text) > size:
        return set_cell_size(text, size - 1) + "…"
    padding = " " * (size - cell_len(text))
    return text + padding if left else padding + text


def _short(count: int) -> str:
    return f"{count:,}" if count < 100_000 else f"{count / 1e3:,.0f}k" if count < 10_000_000 else f"{count / 1e6:,.0f}M"


def _rate(per_s: float) -> str:
    return f"{per_s:.1f}" if per_s < 100 else _short(round(per_s))


def _time(ms: float) -> str:
    """A duration in one unit, short enough for a column."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if ms >= (2 if unit == "d" else 1) * size:
            return f"{ms / size:.1f} {unit}" if ms < 100 * size else f"{ms / size:,.0f} {unit}"
    return f"{ms:.0f} ms"
