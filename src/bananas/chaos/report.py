"""The table of docs/guarantees.md: outcomes gathered by fault, as Markdown and as JSON. Times: nearest-rank percentiles."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from bananas.bench.environment import Environment
from bananas.bench.percentiles import percentile
from bananas.chaos.trials import Fault, Outcome
from bananas.errors import ConfigError

BEGIN, END = "<!-- chaos: begin -->", "<!-- chaos: end -->"
PAGE = "guarantees.md"
_COLUMNS = "fault|seeds|jobs acked|lost|ghost|overlap|double commits|stuck|duplicate runs|back in s, p50|max|audit|took|holds".split("|")


class Results(Struct, frozen=True):
    """What was run so far, and where.

    Attributes:
        commands: that made them, in order.
    """

    environment: Environment
    commands: tuple[str, ...]
    outcomes: tuple[Outcome, ...]


def read(path: Path) -> Results:
    """Results of an earlier run. Raises ConfigError when the file holds none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path} holds no results of bananas chaos ({error}): leave out --resume, or name another file.") from None


def write(results: Results, path: Path) -> None:
    """Write results whole, or not at all."""
    fresh = path.with_suffix(path.suffix + ".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    fresh.replace(path)


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(results: Results, faults: Mapping[str, Fault]) -> str:
    """The section between the markers."""
    lines: list[str] = []
    for name, value in results.environment.lines():
        if name not in ("Load", "Persistence"):
            lines.append(f"- {name}: {value}")
    lines += ["", "Commands:", "", "```sh", *results.commands, "```", ""]
    for profile in ("long", "short"):
        outcomes = [outcome for outcome in results.outcomes if outcome.profile == profile]
        if outcomes:
            lines += _table(profile, outcomes, faults)
    return "\n".join(lines).strip() + "\n"


def _table(profile: str, outcomes: Sequence[Outcome], faults: Mapping[str, Fault]) -> list[str]:
    by_fault: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_fault[outcome.fault].append(outcome)
    servers = ", ".join(sorted({outcome.server for outcome in outcomes}))
    lines = [f"**Profile {profile}** ({servers})", "", f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    notes: list[str] = []
    for key, fault in faults.items():
        ran = [outcome for outcome in by_fault[key] if not outcome.skipped]
        if ran:
            lines.append(_row(fault, ran))
        notes += sorted({f"{key} was skipped: {outcome.skipped}" for outcome in by_fault[key] if outcome.skipped})
        notes += [f"{key}, {text}" for text in _numbers(ran)]
    missing = [key for key in faults if not by_fault[key]]
    notes += [f"Not run in this profile: {', '.join(missing)}"] if missing else []
    return [*lines, "", *(f"- {note}" for note in notes), ""]


def _row(fault: Fault, ran: Sequence[Outcome]) -> str:
    times = sorted(round(seconds * 1000) for outcome in ran for seconds in outcome.recoveries)
    damage = [sum(getattr(outcome, name) for outcome in ran) for name in ("lost", "ghosts", "overlaps", "double_commits", "stuck")]
    broken = sorted({outcome.seed for outcome in ran if outcome.broken})
    cells = [
        f"{fault.key} {fault.title}",
        _seeds([outcome.seed for outcome in ran]),
        f"{sum(outcome.acked for outcome in ran):,}",
        *(f"{count:,}" for count in damage),
        f"{sum(outcome.duplicate_runs for outcome in ran):,}",
        f"{percentile(times, 50) / 1000:.2f}" if times else "",
        f"{times[-1] / 1000:.2f}" if times else "",
        "clean" if not any(outcome.findings for outcome in ran) else f"{sum(outcome.findings for outcome in ran)} findings",
        f"{sum(outcome.took_s for outcome in ran):,.0f} s",
        f"**no**: seed {', '.join(map(str, broken))}" if broken else "yes",
    ]
    return f"| {' | '.join(cells)} |"


def _seeds(seeds: Sequence[int]) -> str:
    ordered = sorted(set(seeds))
    if len(ordered) > 2 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{ordered[0]}–{ordered[-1]}"
    return ", ".join(map(str, ordered))


def _numbers(ran: Sequence[Outcome]) -> list[str]:
    """What else was counted, over all trials of a fault: the sum, and the most of one trial where that is another figure."""
    sums: dict[str, list[float]] = defaultdict(list)
    for outcome in ran:
        for name, value in outcome.numbers.items():
            sums[name].append(value)
    found = [
        f"{name}: {sum(values):,g}" + (f" (most in one trial {max(values):,g})" if len(values) > 1 else "") for name, values in sums.items()
    ]
    return ["; ".join(found)] if found else []


def put_into_page(section: str, folder: Path) -> Path:
    """Write the section into the page of that folder, between its markers; without such a page, as a page of its own."""
    path = folder / PAGE
    folder.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else f"# Faults injected\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise ConfigError(f"{path} has no lines {BEGIN} and {END}: the table goes between them.")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    path.write_text(f"{head}{BEGIN}\n{section}{END}{tail}", encoding="utf-8")
    return path
