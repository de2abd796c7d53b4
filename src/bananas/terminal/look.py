"""`bananas queues | workers | errors | cron | trail`: what there is, at one moment or again and again."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from bananas.terminal.options import json_option, open_app, refuse, run, shown, target_options, watch_option
from bananas.terminal.output import print_json, print_table, spoken

if TYPE_CHECKING:
    from bananas.app import Bananas


def moment(ms: int | None) -> str:
    """A time, "-" for none."""
    return "-" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


@click.group("queues", invoke_without_command=True)
@target_options
@json_option
@watch_option
@click.pass_context
def queues_command(ctx: click.Context, /, as_json: bool, watch: float | None, **where: str | None) -> None:
    """Every queue: jobs by state, oldest, next due, who serves it. `pause`, `resume` and `purge` take the NAME of one."""
    ctx.obj = open_app(**where)
    if ctx.invoked_subcommand is None:
        shown(ctx.obj, watch, lambda app: _show_queues(app, as_json))


async def _show_queues(app: "Bananas", as_json: bool) -> None:
    from bananas.operate import queues

    found = await queues(app)
    if as_json:
        print_json(found)
        return
    names = ("QUEUE", "READY", "SCHEDULED", "RUNNING", "DEAD", "OLDEST", "NEXT DUE", "WORKERS", "BUSY", "PAUSED")
    rows = [
        (
            *(each.name, each.ready, each.scheduled, each.running, each.dead, spoken(each.oldest_ms), spoken(each.next_due_ms)),
            *(each.workers, f"{each.busy}/{each.slots}", "paused" if each.paused else "-"),
        )
        for each in found
    ]
    print_table(names, rows)


@queues_command.command("pause")
@click.argument("name")
@click.pass_obj
def pause_command(app: "Bananas", name: str) -> None:
    """Let no worker take jobs from queue NAME; running ones go on."""

    async def work(app: "Bananas") -> bool:
        return bool(await _noted(app, "pause", name, await app.queue(name).pause()))

    click.echo(f"queue {name} is paused" if run(app, work) else f"queue {name} was paused already")


@queues_command.command("resume")
@click.argument("name")
@click.pass_obj
def resume_command(app: "Bananas", name: str) -> None:
    """Let workers take jobs from queue NAME again."""

    async def work(app: "Bananas") -> bool:
        return bool(await _noted(app, "resume", name, await app.queue(name).resume()))

    click.echo(f"queue {name} is resumed" if run(app, work) else f"queue {name} was not paused")


@queues_command.command("purge")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def purge_command(app: "Bananas", name: str, yes: bool) -> None:
    """End every waiting job of queue NAME as purged; running and dead ones stay."""
    import sys

    if not yes and not sys.stdin.isatty():
        refuse(f"nothing was purged: say --yes to end every waiting job of queue {name}")
    if not yes:
        click.confirm(f"End every waiting job of queue {name}?", abort=True)

    async def work(app: "Bananas") -> int:
        return int(await _noted(app, "purge", name, await app.queue(name).purge()))

    click.echo(f"{run(app, work)} job(s) of queue {name} are purged")


async def _noted(app: "Bananas", action: str, name: str, done: Any) -> Any:
    from bananas.operate.trail import note

    await note(app, action, f"queue:{name}", int(done), int(done))
    return done


@click.group("workers", invoke_without_command=True)
@target_options
@json_option
@watch_option
@click.pass_context
def workers_command(ctx: click.Context, /, as_json: bool, watch: float | None, **where: str | None) -> None:
    """Every live worker process: what it serves and runs, what it uses. `drain` and `stop` take the BOOT id of one."""
    ctx.obj = open_app(**where)
    if ctx.invoked_subcommand is None:
        shown(ctx.obj, watch, lambda app: _show_workers(app, as_json))


@workers_command.command("drain")
@click.argument("boot")
@click.pass_obj
def drain_command(app: "Bananas", boot: str) -> None:
    """Let the worker of process BOOT claim no more, as SIGUSR1 does: what runs ends, then it stays idle."""
    from bananas.operate import drain

    run(app, lambda app: drain(app, boot))
    click.echo(f"worker {boot} claims no more as soon as it hears of it: within half a lease")


@workers_command.command("stop")
@click.argument("boot")
@click.pass_obj
def stop_command(app: "Bananas", boot: str) -> None:
    """Stop the worker of process BOOT, as SIGTERM does: what runs may end within shutdown_timeout."""
    from bananas.operate import stop

    run(app, lambda app: stop(app, boot))
    click.echo(f"worker {boot} stops as soon as it hears of it: within half a lease")


async def _show_workers(app: "Bananas", as_json: bool) -> None:
    from bananas.inspector import workers

    found = sorted(await workers(app), key=lambda worker: (worker.host, worker.pid))
    if as_json:
        print_json(found)
        return
    now_ms = time.time() * 1000
    rows = [
        (
            *(f"{each.host}:{each.pid}", each.boot, ",".join(each.queues), len(each.tasks), f"{len(each.running)}/{each.slots}"),
            *(len(each.overdue), spoken(now_ms - each.runs[0].started_ms) if each.runs else "-", spoken(now_ms - each.started_ms)),
            *(
                _megabytes(each.memory_bytes),
                "-" if each.cpu_percent is None else f"{each.cpu_percent:.0f}%",
                each.version or "-",
                each.phase,
            ),
        )
        for each in found
    ]
    print_table(("WORKER", "BOOT", "QUEUES", "TASKS", "BUSY", "OVERDUE", "LONGEST", "UP", "MEMORY", "CPU", "VERSION", "PHASE"), rows)


def _megabytes(number: int | None) -> str:
    return "-" if number is None else f"{number / 2**20:,.0f} MiB"


@click.command("errors")
@click.argument("query", nargs=-1)
@target_options
@json_option
def errors_command(query: tuple[str, ...], target: str | None, url: str | None, namespace: str | None, as_json: bool) -> None:
    """Dead and retrying jobs (that match QUERY) grouped by their last error and where it was raised."""
    from bananas.operate import errors, parse

    asked = parse(" ".join(query))
    found = run(open_app(target, url, namespace), lambda app: errors(app, asked))
    if as_json:
        print_json(found.groups)
        return
    rows = [
        (
            *(group.dead, group.retrying, group.type, group.frame or "-", ",".join(group.tasks), moment(group.first_ms)),
            *(moment(group.last_ms), group.message[:80], group.samples[0]),
        )
        for group in found.groups
    ]
    print_table(("DEAD", "RETRYING", "ERROR", "WHERE", "TASKS", "FIRST", "LAST", "MESSAGE", "NEWEST"), rows)
    click.echo(f"scanned {found.scanned:,} of {found.total:,}", err=True)


@click.command("trail")
@target_options
@json_option
@click.option("--limit", default=50, type=click.IntRange(1, 1_000), help="Most acts.")
def trail_command(target: str | None, url: str | None, namespace: str | None, as_json: bool, limit: int) -> None:
    """What operators did: who, when, what, on which jobs, and how many."""
    from bananas.operate import trail

    found = run(open_app(target, url, namespace), lambda app: trail(app, limit))
    if as_json:
        print_json(found)
        return
    rows = [(moment(deed.at_ms), deed.who, deed.action, deed.query or "(all)", deed.selected, deed.done) for deed in found]
    print_table(("WHEN (UTC)", "WHO", "ACT", "JOBS", "SELECTED", "DONE"), rows)
