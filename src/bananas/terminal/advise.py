"""`bananas advise`: what is short, stuck or set wrong, and what to do."""

import sys

import click

from bananas.terminal.options import json_option, open_app, run, target_options
from bananas.terminal.output import at_terminal, clean, print_json

_STYLES = {"error": "red", "warning": "yellow", "hint": "cyan"}


@click.command("advise")
@target_options
@json_option
@click.option("--strict", is_flag=True, help="Exit code 1 where there is an error or a warning.")
def advise_command(target: str | None, url: str | None, namespace: str | None, as_json: bool, strict: bool) -> None:
    """What is short, stuck or set wrong, with the figures that say so and what to do; the most pressing first.

    It looks for a second, at what happened in the last half hour, and changes nothing.
    """
    from bananas.operate import advise

    found = run(open_app(target, url, namespace), advise)
    if as_json:
        print_json(found)
    elif not found:
        click.echo("nothing to advise: all is well, as far as the figures tell")
    for each in found if not as_json else ():
        label = click.style(f"{each.level:<8}", fg=_STYLES[each.level], bold=True) if at_terminal() else f"{each.level:<8}"
        click.echo(f"{label}{clean(each.title)}\n        {clean(each.why)}\n        -> {clean(each.action)}")
    if strict and any(each.level != "hint" for each in found):
        sys.exit(1)
