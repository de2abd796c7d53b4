"""What the tests of deploy/ share: the tools that judge its files, and whether a command line of one is one of ours."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml
from tests.support import ROOT

from bananas.config import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DEPLOY = ROOT / "deploy"
# What alerts and dashboard may read of the API.
METRICS = {
    *("bananas_jobs_total", "bananas_job_wait_seconds_bucket", "bananas_job_run_seconds_bucket"),
    *("bananas_queue_jobs", "bananas_queue_ready", "bananas_queue_oldest_seconds", "bananas_queue_backlog_seconds"),
    *("bananas_queue_paused", "bananas_queue_workers", "bananas_workers", "bananas_worker_slots", "bananas_worker_busy"),
    *("bananas_server_up", "bananas_server_memory_bytes", "bananas_server_memory_max_bytes"),
}
HELM = "helm has no package of its own in Debian or on PyPI: `make deploy-tools` brings it"
WHERE = {
    "helm": HELM,
    "promtool": "promtool is in Debian's package prometheus",
    "systemd-analyze": "systemd-analyze is in Debian's package systemd",
}


def tool(name: str) -> str:
    """The path of a program: beside this Python, or on the PATH. Skips the test, and says so, where it is not to be had."""
    found = os.environ.get(name.upper().replace("-", "_")) or shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"NOT CHECKED, {name} is missing: {WHERE.get(name, f'pip install what brings {name}: the extra dev')}")
    return found


def judged(*command: str, **given: Any) -> str:
    """Run a tool that must find nothing wrong. Returns what it said."""
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL, **given)
    assert run.returncode == 0, f"{' '.join(command)}:\n{run.stdout}{run.stderr}"
    return run.stdout + run.stderr


def documents(path: Path) -> list[Any]:
    """The documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def check_command(words: Sequence[str]) -> click.Context:
    """A command line as deploy/ has it, without the word bananas: the command is there, and takes these flags with these values."""
    group = importlib.import_module("bananas.cli").cli
    command = group.get_command(click.Context(group), words[0])
    assert command is not None, f"there is no command {words[0]}"
    return command.make_context(words[0], list(words[1:]))


def check_settings(environment: Mapping[str, str]) -> Any:
    """Variables as deploy/ sets them: all are settings, with values that can be read. Returns the settings."""
    return load_settings({}, environment, "/")


@pytest.fixture(scope="session")
def render() -> Callable[..., list[dict[str, Any]]]:
    """Render the chart with values."""
    helm = tool("helm")

    def made(*values: Path | str) -> list[dict[str, Any]]:
        flags = [word for each in values for word in (("--values", str(each)) if isinstance(each, Path) else ("--set", each))]
        run = subprocess.run(
            [helm, "template", "shop", str(DEPLOY / "helm/bananas"), *flags], capture_output=True, text=True, timeout=60, check=False
        )
        if run.returncode:
            raise ValueError(run.stderr)
        return [each for each in yaml.safe_load_all(run.stdout) if each]

    return made
