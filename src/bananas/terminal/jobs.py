"""`bananas jobs QUERY | job ID | dead`: find jobs, look at one, and act on what was found."""

import sys
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import click

from bananas.errors import ConfigError
from bananas.terminal.look import moment
from bananas.terminal.options import json_option, not_found, open_app, run, target_options
from bananas.terminal.output import clean, clean_lines, print_json, print_table, spoken, to_json

if TYPE_CHECKING:
    from bananas import JobInfo
    from bananas.app import Bananas
    from bananas.operate import Action, Outcome, Selection

PAGE = 1_000


@click.command("jobs")
@click.argument("query", nargs=-1)
@target_options
@json_option
@click.option("--limit", default=50, type=click.IntRange(0), help="Most jobs to show, 0 = all. Default: 50.")
@click.option("--newest", is_flag=True, help="Show the last of each queue first.")
@click.option("--cursor", default="", help="Go on where an earlier call stopped.")
@click.option("--export", is_flag=True, help="All of them, one JSON object per line: --json --limit 0.")
@click.option("--retry", is_flag=True, help="Make the dead ones ready again.")
@click.option("--cancel", is_flag=True, help="End the waiting ones, stop the running ones.")
@click.option("--delete", is_flag=True, help="Delete the dead ones for good.")
@click.option("--priority", metavar="P", help="Give them this priority: high, normal, low, or 0 to 1000.")
@click.option("--reschedule", metavar="TIME", help="Make the waiting ones ready so long from now, e.g. 10m; 0: now.")
@click.option("--move", metavar="QUEUE", help="Move the waiting ones to this queue.")
@click.option("--most", default=100_000, type=click.IntRange(1), help="Act on at most so many. Default: 100000.")
@click.option("--dry-run", is_flag=True, help="Only say how many jobs the act is for.")
@click.option("--yes", is_flag=True, help="Act without asking.")
def jobs_command(query: tuple[str, ...], target: str | None, url: str | None, namespace: str | None, **given: Any) -> None:
    """Find jobs: `task:send_email state:dead error:Timeout age>5m args.user_id:42`, or any text; `--` before a query that begins with -.

    With one of --retry, --cancel, --delete, --priority, --reschedule and --move, act on all that match: the number is shown, and at a
    terminal you are asked first; elsewhere say --yes.
    """
    from bananas.operate import parse

    asked, action = str(parse(" ".join(query))), _action(given)
    if given["export"]:
        if action is not None:
            raise ConfigError("--export shows jobs and does nothing to them: leave out the act; nothing was done")
        given |= {"as_json": True, "limit": 0}
    app = open_app(target, url, namespace)
    if action is None:
        run(app, lambda app: _list(app, asked, given))
    else:
        sys.exit(run(app, lambda app: _act(app, asked, action, given)))


@click.command("dead")
@click.argument("query", nargs=-1)
@target_options
@json_option
@click.option("--limit", default=50, type=click.IntRange(0), help="Most jobs to show, 0 = all. Default: 50.")
@click.option("--cursor", default="", help="Go on where an earlier call stopped.")
def dead_command(query: tuple[str, ...], target: str | None, url: str | None, namespace: str | None, **given: Any) -> None:
    """Dead jobs (that match QUERY), the newest of each queue first. `bananas jobs state:dead ... --retry` makes them ready again."""
    from bananas.operate import parse

    asked = str(parse(" ".join((*query, "state:dead"))))
    run(open_app(target, url, namespace), lambda app: _list(app, asked, given | {"newest": True}))


# --- showing ----------------------------------------------------------------------------------------------------------


async def _pages(app: "Bananas", query: str, given: dict[str, Any]) -> AsyncGenerator[list["JobInfo"], None]:
    """The jobs by pages; at the end, how much was looked at goes to standard error."""
    from bananas.operate import search

    cursor, left, scanned, total = given["cursor"], given["limit"] or sys.maxsize, 0, None
    while left > 0:
        page = await search(app, query, limit=min(left, PAGE), cursor=cursor, newest=given["newest"])
        scanned, total, cursor = scanned + page.scanned, page.total if total is None else total, page.cursor
        left -= len(page.jobs)
        yield list(page.jobs)
        if not cursor:
            break
    click.echo(f"scanned {scanned:,} of {total:,}" + (f"; go on with --cursor {cursor}" if cursor else ""), err=True)


async def _list(app: "Bananas", query: str, given: dict[str, Any]) -> None:
    shown = list[Any]()
    async for jobs in _pages(app, query, given):
        if given["as_json"]:
            print_json(jobs)
        else:
            shown += map(_row, jobs)
    if not given["as_json"]:
        print_table(("ID", "TASK", "STATE", "PRIORITY", "TRIES", "SINCE (UTC)", "ARGUMENTS", "ERROR"), shown)


def _row(info: "JobInfo") -> tuple[object, ...]:
    since = {"ready": info.ready_since_ms, "scheduled": info.due_ms, "dead": info.died_ms, "running": info.born_ms}.get(info.state)
    error = f"{info.errors[-1].type}: {info.errors[-1].message}" if info.errors else "-"
    where = (info.id, info.task or "-", info.state, info.priority, info.attempts, moment(since))
    return (*where, arguments(info)[:60], error[:80])


def arguments(info: "JobInfo") -> str:
    """The arguments as a call has them."""
    given = [*map(repr, info.args or ()), *(f"{name}={value!r}" for name, value in (info.kwargs or {}).items())]
    return f"({', '.join(given)})"


@click.command("job")
@click.argument("job_id", metavar="ID")
@target_options
@json_option
@click.option("--why", "explains", is_flag=True, help="Only why it is not running.")
@click.option("--stack", "tells_stack", is_flag=True, help="Only where its code is now, asked of the worker that runs it.")
def job_command(job_id: str, as_json: bool, explains: bool, tells_stack: bool, **where: str | None) -> None:
    """All that is known of job ID, and why it is not running."""
    from bananas.operate import stack, why

    app = open_app(**where)
    if tells_stack:
        text = run(app, lambda app: stack(app, job_id))
        click.echo(to_json({"id": job_id, "text": text}) if as_json else clean_lines(text.rstrip()))
        return
    found = run(app, lambda app: why(app, job_id))
    if as_json:
        click.echo(to_json(found.reasons if explains else found))
    elif explains or found.job.state == "unknown":
        for reason in found.reasons:
            click.echo(clean(reason.sentence))
    else:
        _describe(found.job)
        click.echo("why:")
        for reason in found.reasons:
            click.echo(f"  {clean(reason.sentence)}")
    if found.job.state == "unknown" and found.reasons[0].kind != "moved":
        not_found(f"there is no job {clean(job_id)}")


def _describe(info: "JobInfo") -> None:
    times = ("born_ms", "ready_since_ms", "due_ms", "lease_expires_ms", "died_ms", "started_ms", "finished_ms")
    lines: list[tuple[str, Any]] = [
        ("id", info.id),
        ("task", info.task),
        ("state", info.state),
        ("queue", info.queue),
        ("priority", info.priority),
    ]
    lines += [("arguments", arguments(info) if info.args is not None else None), ("headers", info.headers or None)]
    lines += [("tags", ", ".join(info.tags) or None), ("progress", _progress_of(info))]
    lines += [("attempts", info.attempts), ("crashes", info.crashes or None), ("worker", info.worker), ("ahead", info.place)]
    lines += [(name.removesuffix("_ms"), moment(getattr(info, name)) + " UTC") for name in times if getattr(info, name) is not None]
    lines += [("waited", spoken(info.waited_ms) if info.waited_ms is not None else None), ("run", info.run_ms and spoken(info.run_ms))]
    for name, value in lines:
        if value is not None:
            click.echo(f"{name + ':':<16}{clean(value)}")
    for error in info.errors:
        click.echo(f"attempt {error.attempt} failed at {moment(error.at_ms)} UTC on {clean(error.worker)}:")
        click.echo(clean_lines(f"{error.traceback or f'{error.type}: {error.message}'}".rstrip()))

    for line in info.log:
        click.echo(f"{moment(line.at_ms)} UTC, attempt {line.attempt}: {clean(line.text)}")


def _progress_of(info: "JobInfo") -> str | None:
    return None if info.progress is None else f"{info.progress:.0%} {info.progress_text}".rstrip()


# --- acting -----------------------------------------------------------------------------------------------------------


def _action(given: dict[str, Any]) -> "Action | None":
    """The one action that was asked for. Raises ConfigError for several, or for a value that cannot be."""
    from bananas.config import check_queue_name, parse_duration, parse_priority
    from bananas.operate import Cancel, Delete, Move, Reschedule, Retry, SetPriority

    actions: list[Action] = []
    actions += [kind() for name, kind in (("retry", Retry), ("cancel", Cancel), ("delete", Delete)) if given[name]]
    if given["priority"] is not None:
        actions.append(SetPriority(parse_priority(given["priority"])))
    if given["reschedule"] is not None:
        actions.append(Reschedule(parse_duration(given["reschedule"], "--reschedule")))
    if given["move"] is not None:
        actions.append(Move(check_queue_name(given["move"])))
    if len(actions) > 1:
        raise ConfigError("one act at a time: --retry, --cancel, --delete, --priority, --reschedule or --move; nothing was done")
    return actions[0] if actions else None


async def _act(app: "Bananas", query: str, action: "Action", given: dict[str, Any]) -> int:
    from bananas.operate import act, select

    selection = await select(app, query, most=given["most"])
    meant = len(selection.of(action))
    click.echo(_counted(selection, meant), err=True)
    if given["dry_run"]:
        if given["as_json"]:
            click.echo(to_json({"action": type(action).__name__.lower(), "selected": meant, "done": 0, "left": {}}))
        return 0
    if not given["yes"] and not sys.stdin.isatty():
        raise ConfigError(f"nothing was done to these {meant} job(s): say --yes, or --dry-run")
    if meant and not given["yes"] and not click.confirm(f"{type(action).__name__} {meant} job(s)?", err=True):
        click.echo("nothing was done", err=True)
        return 1
    outcome = await act(app, selection, action, progress=_progress if sys.stderr.isatty() else None)
    click.echo(to_json(outcome) if given["as_json"] else _told(outcome))
    return 0 if outcome.done or not meant else 1


def _counted(selection: "Selection", meant: int) -> str:
    others = selection.count - meant
    text = f"{meant:,} job(s) match" + (f" ({others:,} more do, in states that this cannot be done to)" if others else "")
    return text + ("" if selection.complete else f"; there may be more: --most is {selection.count:,}")


def _progress(handled: int, total: int) -> None:
    click.echo(f"\r{handled:,} of {total:,}", err=True, nl=handled == total)


def _told(outcome: "Outcome") -> str:
    left = ", ".join(f"{count:,} {why}" for why, count in sorted(outcome.left.items()))
    return f"{outcome.action}: {outcome.done:,} of {outcome.selected:,} done" + (f"; left: {left}" if left else "")
