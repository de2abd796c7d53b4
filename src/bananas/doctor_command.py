"""`bananas doctor`: the checks, one line each, and an exit code for CI."""

import sys
from typing import TYPE_CHECKING, Any, cast

import click

from bananas.errors import ConfigError

if TYPE_CHECKING:
    from bananas.rights import Role

STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}
SHOWN = 100  # findings and remedies that are listed; --json has all


@click.command("doctor")
@click.argument("target", required=False, metavar="[MODULE:APP]")
@click.option("--url", "redis_url", metavar="URL", help="The server, instead of the app's and REDIS_URL.")
@click.option("--audit", "audits", is_flag=True, help="Look at every job: is each in one place, with a body?")
@click.option("--repair", "repairs", is_flag=True, help="Say how what the audit finds would be mended; with --yes do it.")
@click.option("--yes", is_flag=True, help="Of --repair: change the server.")
@click.option("--role", type=click.Choice(["client", "worker", "viewer", "operator"]), help="The user must have the rights of this role.")
@click.option("--strict", is_flag=True, help="Exit code 1 where there is a warning.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor_command(target: str | None, redis_url: str | None, strict: bool, as_json: bool, yes: bool, **asked: Any) -> None:
    """Look at the server and the namespace of MODULE:APP (or of the settings alone), and say what to set.

    Exit code: 0 fine, or notes and warnings; 1 warnings with --strict; 2 errors.
    """
    import asyncio

    import msgspec

    from bananas.app import Bananas
    from bananas.doctor import Diagnosis, diagnose
    from bananas.worker.loading import load_app, override

    if yes and not asked["repairs"]:
        raise ConfigError("--yes belongs to --repair: give both, or neither")
    app = Bananas() if target is None else load_app(target)
    override(app, {} if redis_url is None else {"redis_url": redis_url, "embedded": False})

    async def run() -> Diagnosis:
        try:
            role = cast("Role | None", asked["role"])
            return await diagnose(app, role=role, audits=asked["audits"], repairs=asked["repairs"], act=yes)
        finally:
            await app.close()

    diagnosis = asyncio.run(run())
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(diagnosis)).decode())
    else:
        _show(diagnosis)
    sys.exit(diagnosis.exit_code(strict=strict))


def _show(diagnosis: Any) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    width = max(len(check.name) for check in diagnosis.checks)
    for check in diagnosis.checks:
        line = Text(f"{check.level:<7}", STYLES[check.level]) + Text(f"  {check.name:<{width}}  {check.found}")
        line += Text(f"; should be: {check.should}" if check.should else "") + Text(f"; to do: {check.remedy}" if check.remedy else "")
        console.print(line)
    if diagnosis.repairs is not None:
        verb = "mended" if diagnosis.repairs.acted else "would be mended (--yes does it)"
        for remedy in diagnosis.repairs.remedies[:SHOWN]:
            done = verb if remedy.mended else "left"
            console.print(Text(f"{remedy.finding.queue}: {remedy.finding.kind}: {remedy.finding.id}: {done}: {remedy.remedy}"))
    elif diagnosis.audit is not None:
        for finding in diagnosis.audit.findings[:SHOWN]:
            console.print(Text(f"{finding.queue}: {finding.kind}: {finding.id} in {finding.place}: {finding.detail}"))
    console.print(f"{diagnosis.server}, namespace {diagnosis.namespace}: {diagnosis.worst}")
