"""The command line: `bananas worker | scheduler | demo | server`.

Start-up counts, so a command imports what it needs when it runs. Every error of ours is one message on stderr: exit code 2 when a setting,
a name or a module is wrong, 1 otherwise. Nobody sees a traceback for a misspelt option.
"""

import os
import signal
import sys
from typing import Any

import click

from bananas.errors import BananasError, ConfigError

EXAMPLES = """
\b
Examples:
  bananas worker shop.tasks:app                    run the app's queues
  bananas worker shop.tasks:app --queues email:3,default --concurrency 100
  bananas worker shop.tasks:app --burst            end when nothing is ready
  bananas scheduler shop.tasks:app                 upkeep and cron only
  bananas server                                   a private server for this directory
  bananas demo                                     see it work
"""


@click.group(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="bananas-queue", prog_name="bananas")
def cli() -> None:
    """Bananas: a distributed task queue on Redis and Valkey."""


def _split(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


@cli.command()
@click.argument("target", metavar="MODULE:APP")
@click.argument("modules", nargs=-1)
@click.option(
    "--queues", metavar="A,B", help="Serve these queues, in this order; with weights: email:3,default:1. Default: all that tasks name."
)
@click.option("--concurrency", type=int, metavar="N", help="Jobs at once per process (slots).")
@click.option("--processes", type=int, metavar="N", help="Worker processes.")
@click.option("--burst", is_flag=True, help="End when nothing is ready or running.")
@click.option("--max-jobs", type=int, metavar="N", help="Replace a process after so many jobs.")
@click.option("--max-memory", type=int, metavar="MB", help="Replace a process above this resident memory.")
@click.option("--mode", metavar="MODE", help="default, thin, specialized, job-specialized or scheduler-only.")
@click.option("--priorities", metavar="A,B", help="The priorities that specialized mode serves: high,normal or numbers.")
@click.option("--tasks", metavar="A,B", help="The tasks that job-specialized mode runs.")
@click.option("--url", metavar="URL", help="The server, instead of the app's and REDIS_URL.")
@click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
@click.option("--log-format", metavar="FORMAT", help="console, logfmt or json.")
@click.option("--reload", is_flag=True, help="Restart when a .py file below this directory changes (development).")
def worker(target: str, modules: tuple[str, ...], burst: bool, reload: bool, **given: Any) -> None:
    """Run jobs of MODULE:APP and of further MODULES with tasks.

    SIGTERM or Ctrl-C: claim no more, let jobs finish, hand the rest back; a second one cancels. SIGUSR1: claim no more.
    """
    if reload:
        sys.exit(_run_reloading())
    names = {
        "queues": "worker_routing_keys",
        "concurrency": "worker_concurrency",
        "processes": "worker_processes",
        "max_jobs": "max_jobs",
        "max_memory": "max_memory_mb",
        "mode": "worker_mode",
        "priorities": "worker_priorities",
        "tasks": "worker_job_types",
        "url": "redis_url",
        "log_level": "log_level",
        "log_format": "log_format",
    }
    for name in ("queues", "priorities", "tasks"):
        given[name] = _split(given[name])
    _run_worker(target, modules, burst, {names[name]: value for name, value in given.items() if value is not None})


def _run_worker(target: str, modules: tuple[str, ...], burst: bool, settings: dict[str, Any]) -> None:
    from bananas.config import load_settings
    from bananas.worker.supervisor import WorkerSpec, run

    here = os.getcwd()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
    load_settings(settings)
    sys.exit(run(WorkerSpec(target=target, modules=modules, settings=settings, burst=burst)))


def _run_reloading() -> int:
    try:
        from watchfiles import PythonFilter, run_process
    except ImportError:
        raise ConfigError("--reload needs the extra: pip install 'bananas-queue[reload]'") from None
    arguments = [argument for argument in sys.argv[1:] if argument != "--reload"]
    command = " ".join([sys.executable, "-m", "bananas", *arguments])
    run_process(os.getcwd(), target=command, target_type="command", watch_filter=PythonFilter(), sigint_timeout=30)
    return 0


@cli.command()
@click.argument("target", metavar="MODULE:APP")
@click.argument("modules", nargs=-1)
def scheduler(target: str, modules: tuple[str, ...]) -> None:
    """Only upkeep: promote due jobs, take back leases, fire cron. Every worker does it too; useful where workers scale to zero."""
    _run_worker(target, modules, False, {"worker_mode": "scheduler-only", "worker_processes": 1})


@cli.command()
@click.argument("directory", required=False, metavar="[DIR]")
def demo(directory: str | None) -> None:
    """One job for every file below DIR (default: Python's standard library), on a private server and two worker processes."""
    from bananas.demo import run_demo

    sys.exit(run_demo(directory))


@cli.command()
def server() -> None:
    """Run or join the private server of this directory, print its URL, and stay until Ctrl-C."""
    from bananas.embedded import join

    use = join()
    click.echo(use.url)
    click.echo(f"serving {use.directory}; it stops with its last user. Ctrl-C to leave.", err=True)
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    signal.sigwait(signals)
    use.close()


def main() -> None:
    """The entry point of the `bananas` command."""
    try:
        cli()
    except BananasError as error:
        click.echo(f"bananas: {type(error).__name__}: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
