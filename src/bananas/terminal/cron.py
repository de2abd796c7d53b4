"""`bananas cron`: the cron entries; pause, resume, and run one now."""

from typing import TYPE_CHECKING, Any

import click

from bananas.terminal.look import moment
from bananas.terminal.options import json_option, not_found, open_app, refuse, run
from bananas.terminal.output import clean, print_json, print_table, to_json

if TYPE_CHECKING:
    from bananas.app import Bananas
    from bananas.operate import CronState


class _Group(click.Group):
    """A group whose one argument may be left out also where a subcommand follows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        takes = {name for option in self.params if isinstance(option, click.Option) and not option.is_flag for name in option.opts}
        at = 0
        while at < len(args) and args[at].startswith("-"):
            at += 2 if args[at] in takes else 1
        if at < len(args) and args[at] in self.commands:
            args = [*args[:at], "", *args[at:]]
        return super().parse_args(ctx, args)


@click.group("cron", cls=_Group, invoke_without_command=True)
@click.argument("target", required=False, metavar="[MODULE:APP]")
@click.option("--url", metavar="URL", help="The server, instead of the app's and REDIS_URL.")
@click.option("--namespace", metavar="NAME", help="The namespace, instead of the app's.")
@json_option
@click.pass_context
def cron_command(ctx: click.Context, /, target: str | None, url: str | None, namespace: str | None, as_json: bool) -> None:
    """Every cron entry: its next tick, its last run; with MODULE:APP also those that no worker has announced yet.

    `pause`, `resume` and `run` take the NAME of one.
    """
    ctx.obj = open_app(target or None, url, namespace)
    if ctx.invoked_subcommand is None:
        _show(ctx.obj, as_json)


def _show(app: "Bananas", as_json: bool) -> None:
    from bananas.operate import cron_entries

    found = run(app, cron_entries)
    if as_json:
        print_json(found)
        return
    names = ("ENTRY", "QUEUE", "SCHEDULE", "TIMEZONE", "MISSED", "NEXT (UTC)", "ANNOUNCED", "LAST (UTC)", "LAST JOB", "TICKS MISSED")
    rows = [
        (
            *(each.name, each.queue, each.schedule, each.timezone, each.missed, "paused" if each.paused else moment(each.next_ms)),
            *("yes" if each.announced else "no", moment(each.last_ms), each.last_id or "-", each.missed_ticks),
        )
        for each in found
    ]
    print_table(names, rows)


async def _entry(app: "Bananas", name: str, queue: str | None) -> "CronState":
    """The one entry of that name, or that of a queue. Ends the program where there is none, or several."""
    from bananas.operate import cron_entries

    found = [each for each in await cron_entries(app) if each.name == name and queue in (None, each.queue)]
    found = [each for each in found if each.announced] or found
    if not found:
        not_found(f"there is no cron entry {clean(name)}")
    if len(found) > 1:
        refuse(f"{name} is in the queues {', '.join(each.queue for each in found)}: say which with --queue; nothing was done")
    return found[0]


_name = click.argument("name")
_queue = click.option("--queue", metavar="QUEUE", help="The entry's queue, where several have one of this name.")


@cron_command.command("pause")
@_name
@_queue
@click.pass_obj
def pause_command(app: "Bananas", name: str, queue: str | None) -> None:
    """Let cron entry NAME have no ticks until it is resumed; what passes meanwhile is not made up for."""
    from bananas.operate import pause_cron

    async def work(app: "Bananas") -> bool:
        return await pause_cron(app, (await _entry(app, name, queue)).queue, name)

    click.echo(f"cron entry {clean(name)} " + ("is paused" if run(app, work) else "was paused already"))


@cron_command.command("resume")
@_name
@_queue
@click.pass_obj
def resume_command(app: "Bananas", name: str, queue: str | None) -> None:
    """Let cron entry NAME have its ticks again, from the next one on."""
    from bananas.operate import resume_cron

    async def work(app: "Bananas") -> bool:
        return await resume_cron(app, (await _entry(app, name, queue)).queue, name)

    click.echo(f"cron entry {clean(name)} " + ("is resumed" if run(app, work) else "was not paused"))


@cron_command.command("run")
@_name
@_queue
@json_option
@click.pass_obj
def run_command(app: "Bananas", name: str, queue: str | None, as_json: bool) -> None:
    """Run cron entry NAME now, besides its ticks, also while it is paused."""
    from bananas.operate import run_cron

    async def work(app: "Bananas") -> str:
        return await run_cron(app, (await _entry(app, name, queue)).queue, name)

    public: Any = run(app, work)
    if as_json:
        click.echo(to_json({"id": public}))
    else:
        click.echo(f"job {public}" if public else "no worker has begun it yet: it runs as soon as one does")
