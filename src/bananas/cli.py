"""The command line: `bananas worker | scheduler | health | queues | jobs | job | replay | doctor | api | server | demo | ...`.

Start-up counts, so a command imports what it needs when it runs. Every error of ours is one message on stderr: exit code 2 when a setting,
a name or a module is wrong, 1 otherwise. Nobody sees a traceback for a misspelt option.

Options that stand for settings are read by the settings' own table (config.py), so they take the same forms as variables and files; what
the command line gives wins over both, and over the app's code.
"""

import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, cast

import click

from bananas.errors import BananasError, ConfigError

F = TypeVar("F", bound=Callable[..., Any])

EXAMPLES = """
\b
Examples:
  bananas worker shop.tasks:app                    run the app's queues
  bananas worker shop.tasks:app --queues email:3,default --concurrency 100
  bananas worker shop.tasks:app --burst            end when nothing is ready
  bananas scheduler shop.tasks:app                 upkeep and cron only
  bananas health --port 8080                       is a worker live and ready?
  bananas top                                      queues, workers, rates and failures, live
  bananas queues                                   what is where, who serves it
  bananas jobs state:dead task:send_email          find jobs, and act on them: --retry, --cancel, ...
  bananas job JOB_ID                               all of one job, and why it is not running
  bananas advise                                   what is short, stuck or set wrong, and what to do
  bananas replay shop.tasks:app JOB_ID             run a dead job again
  bananas doctor shop.tasks:app --audit            is the server fit, and every job in its place?
  bananas api shop.tasks:app                       an HTTP API, with a document at /openapi.json
  bananas server                                   a private server for this directory
  bananas demo                                     see it work
  bananas bench --quick                            measure it
  bananas plan --rate 10000 --duration 50ms        what a load needs
  bananas chaos --quick                            break it, and count what becomes of each job
"""

# field of the settings: (option, what stands for its value, help)
_SETTINGS = {
    "worker_routing_keys": (
        "--queues",
        "A,B",
        "Serve these queues, in this order; with weights: email:3,default:1. Default: all of the tasks.",
    ),
    "worker_concurrency": ("--concurrency", "N", "Jobs at once per process (slots)."),
    "worker_processes": ("--processes", "N", "Worker processes."),
    "max_jobs": ("--max-jobs", "N", "Replace a process after so many jobs."),
    "max_memory_mb": ("--max-memory", "MB", "Replace a process above this resident memory."),
    "worker_mode": ("--mode", "MODE", "default, thin, specialized, job-specialized or scheduler-only."),
    "worker_priorities": ("--priorities", "A,B", "Serve these priorities only: high,normal or numbers. Implies --mode specialized."),
    "worker_job_types": ("--tasks", "A,B", "Run these tasks only; others stay queued. Implies --mode job-specialized."),
    "shutdown_timeout": ("--shutdown-timeout", "TIME", "How long jobs may finish after SIGTERM, e.g. 25s."),
    "worker_health_port": ("--health-port", "PORT", "Answer probes here: GET /live, /ready, /health."),
    "worker_health_host": ("--health-host", "HOST", "Listen for probes at this address. Default: 0.0.0.0."),
    "worker_heartbeat_file": ("--heartbeat-file", "PATH", "Keep this file up to date, for `bananas health --file`."),
    "redis_url": ("--url", "URL", "The server, instead of the app's and REDIS_URL."),
    "log_level": ("--log-level", "LEVEL", "debug, info, warning or error."),
    "log_format": ("--log-format", "FORMAT", "console, logfmt or json."),
}
_IMPLIED_MODES = {"worker_priorities": "specialized", "worker_job_types": "job-specialized"}
_COMMON_SETTINGS = ("redis_url", "log_level", "log_format")
_PROBES = ("worker_health_port", "worker_health_host", "worker_heartbeat_file")


def _checked(_: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The value of an option as it was given, checked by the rule of the setting that the option stands for."""
    if value is not None:
        from typing import get_type_hints

        from bananas.config import Settings

        kind = get_type_hints(Settings, include_extras=True)[str(param.name)].__metadata__[0]
        kind.read(value, param.opts[0])
    return value


def _setting_options(*fields: str) -> Callable[[F], F]:
    """Give a command options for these settings."""

    def add(command: F) -> F:
        for field in reversed(fields):
            flag, metavar, text = _SETTINGS[field]
            command = click.option(flag, field, callback=_checked, metavar=metavar, help=text)(command)
        return command

    return add


def _app_arguments(command: F) -> F:
    modules = click.argument("modules", nargs=-1, metavar="[MODULES]...")
    return click.argument("target", metavar="MODULE:APP")(modules(command))


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from bananas import __version__

        click.echo(f"bananas {__version__}")
        ctx.exit()


class _Commands(click.Group):
    """Commands of other modules are imported when they are named."""

    ELSEWHERE: ClassVar = {
        "api": "bananas.api_command:api_command",
        "bench": "bananas.bench.command:bench_command",
        "chaos": "bananas.chaos.command:chaos_command",
        "cron": "bananas.terminal.cron:cron_command",
        "doctor": "bananas.doctor_command:doctor_command",
        "health": "bananas.health:health_command",
        "plan": "bananas.bench.plan:plan_command",
        "top": "bananas.terminal.top.command:top_command",
        "advise": "bananas.terminal.advise:advise_command",
        **{name: f"bananas.terminal.look:{name}_command" for name in ("errors", "queues", "trail", "workers")},
        **{name: f"bananas.terminal.jobs:{name}_command" for name in ("dead", "job", "jobs")},
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, _, command = self.ELSEWHERE[cmd_name].partition(":")
        return cast(click.Command, getattr(importlib.import_module(module), command))


@click.group(cls=_Commands, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version and exit.")
def cli() -> None:
    """Bananas: a distributed task queue on Redis and Valkey. `bananas COMMAND --help` tells more."""


@cli.command()
@_app_arguments
@_setting_options(*_SETTINGS)
@click.option("--burst", is_flag=True, help="End when nothing is ready or running.")
@click.option("--reload", is_flag=True, help="Restart when a .py file below this directory changes (development).")
def worker(target: str, modules: tuple[str, ...], burst: bool, reload: bool, **given: str | None) -> None:
    """Run the jobs of MODULE:APP, and of further MODULES with tasks.

    SIGTERM or Ctrl-C: claim no more, let jobs finish, hand the rest back; a second one cancels. SIGUSR1: claim no more.
    """
    _prepare_imports()
    if reload:
        sys.exit(_run_reloading())
    settings = {field: value for field, value in given.items() if value is not None}
    for field, mode in _IMPLIED_MODES.items():
        if field in settings and settings.setdefault("worker_mode", mode) != mode:
            raise ConfigError(
                f"{_SETTINGS[field][0]} is for --mode {mode}: leave out one of {_SETTINGS[field][0]} and what asks for another mode"
            )
    _run_worker(target, modules, burst, settings)


@cli.command()
@_app_arguments
@_setting_options(*_PROBES, *_COMMON_SETTINGS)
def scheduler(target: str, modules: tuple[str, ...], **given: str | None) -> None:
    """Upkeep only: promote due jobs, take back leases, fire cron. Every worker does it too; for where workers scale to zero."""
    _prepare_imports()
    settings = {field: value for field, value in given.items() if value is not None}
    _run_worker(target, modules, False, settings | {"worker_mode": "scheduler-only", "worker_processes": 1})


@cli.command()
@click.argument("target", metavar="MODULE:APP")
@click.argument("job_id")
@_setting_options("redis_url")
def replay(target: str, job_id: str, redis_url: str | None) -> None:
    """Take the dead job JOB_ID out of the dead letter queue and make it ready again, with fresh attempts."""
    import asyncio

    from bananas.keys import parse_public_id
    from bananas.worker.loading import load_app, override

    _prepare_imports()
    found = parse_public_id(job_id)
    app = load_app(target)
    override(app, _server_named({} if redis_url is None else {"redis_url": redis_url}))

    async def run() -> None:
        try:
            await app.queue(found.queue).dead.replay(job_id)
        finally:
            await app.close()

    asyncio.run(run())
    click.echo(f"{job_id} is ready again")


@cli.command()
def server() -> None:
    """Run or join the private server of this directory, print its URL, and stay until Ctrl-C or SIGTERM."""
    from bananas.config import load_settings
    from bananas.embedded import join

    load_settings()  # none of them changes this server, but a misspelt one is told here as elsewhere
    use, stop = join(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    click.echo(use.url)
    click.echo(f"serving {use.directory}; it stops with its last user. Ctrl-C to leave.", err=True)
    stop.wait()
    use.close()


@cli.command()
@click.argument("directory", required=False, metavar="[DIR]")
@click.option(
    "--keep", is_flag=True, help="Use the server of this directory (.bananas) and leave the outcomes there, to look at and to replay."
)
def demo(directory: str | None, keep: bool) -> None:
    """One job for every file below DIR (default: Python's standard library), on a private server and two worker processes."""
    from bananas.demo import run_demo

    sys.exit(run_demo(directory, keep))


# --- what the commands share --------------------------------------------------------------------------------------------


def _prepare_imports() -> None:
    """Find modules from the working directory, here and in every process started from here."""
    here = os.getcwd()
    if here not in sys.path[:1]:
        sys.path.insert(0, here)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *(path for path in paths if path not in ("", here))])


def _server_named(settings: dict[str, Any]) -> dict[str, Any]:
    """A URL on the command line wins over an app, or an environment, that asks for the embedded server."""
    return settings | {"embedded": False} if "redis_url" in settings else settings


def _run_worker(target: str, modules: tuple[str, ...], burst: bool, settings: dict[str, Any]) -> None:
    from bananas.config import load_settings
    from bananas.worker.supervisor import Probing, WorkerSpec, run

    settings = _server_named(settings)
    probing = Probing.of(load_settings(settings))  # what is wrong in them is told before a process is started
    sys.exit(run(WorkerSpec(target=target, modules=modules, settings=settings, burst=burst, probing=probing)))


def _run_reloading() -> int:
    """The worker as a process below this one, started anew when a file changes. Returns the exit code of the last one."""
    try:
        from watchfiles import PythonFilter, watch
    except ImportError:
        raise ConfigError("--reload needs the extra: pip install 'bananas-queue[reload]'") from None
    command = [sys.executable, "-m", "bananas", *(argument for argument in sys.argv[1:] if argument != "--reload")]
    stop = threading.Event()

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command, process_group=0)  # a Ctrl-C reaches it through us alone, once

    def on_signal(*_: object) -> None:
        if stop.is_set():
            running.terminate()
        stop.set()

    running = start()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        for changes in watch(os.getcwd(), watch_filter=PythonFilter(), stop_event=stop, debounce=400, raise_interrupt=False):
            names = ", ".join(sorted({os.path.relpath(path) for _, path in changes})[:3])
            click.echo(f"bananas worker: {names} changed, starting anew", err=True)
            running.terminate()
            running.wait()
            if stop.is_set():  # told so while it drained
                break
            running = start()
    finally:
        running.terminate()
        code = running.wait()
    return 0 if code == -signal.SIGTERM else code  # ours, before it could listen


def main() -> None:
    """The entry point of the `bananas` command."""
    try:
        cli(prog_name="bananas")
    except BananasError as error:
        click.echo(f"bananas: {type(error).__name__}: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
