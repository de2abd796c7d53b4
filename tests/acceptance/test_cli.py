"""The command line as people use it: real processes, what they print, and the exit code that they end with."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support import ask_server, clean_environment, is_gone, wait_until

from bananas import Bananas
from bananas.cli import main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from bananas.server import PrivateServer

    Here = Callable[..., subprocess.CompletedProcess[str]]

APP = """
from pathlib import Path
from bananas import Bananas, Retry

app = Bananas()

@app.task
def write(name: str, text: str = "done") -> str:
    Path(name).write_text(text)
    return text

@app.task
def other(name: str) -> str:
    return write(name)

@app.task(max_retries=0)
def fail_until(name: str) -> str:
    return Path(name).read_text()
"""
MORE = """
from shop import app

@app.task
def elsewhere() -> str:
    return "elsewhere"
"""


class Folder:
    """A user's project: a folder with an app, in which commands are run with a clean environment."""

    def __init__(self, path: Path, url: str) -> None:
        self.path = path
        self.namespace = f"t{uuid.uuid4().hex[:12]}"
        self.variables = {"REDIS_URL": url, "BANANAS_NAMESPACE": self.namespace, "BANANAS_CALL_TIMEOUT": "2s", "BANANAS_LEASE": "1s"}
        self.app = Bananas(url, namespace=self.namespace)
        self.started: list[subprocess.Popen[str]] = []
        (path / "shop.py").write_text(APP)
        (path / "more.py").write_text(MORE)

    def environment(self, variables: dict[str, str]) -> dict[str, str]:
        return clean_environment(**self.variables | variables)

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return self._run(["-m", "bananas", *arguments], variables)

    def run_code(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run the command line behind some code that sets the stage."""
        return self._run(["-c", f"{code}\nfrom bananas.cli import main; main()"], {})

    def _run(self, arguments: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command, environment = [sys.executable, *arguments], self.environment(variables)
        return subprocess.run(
            command, cwd=self.path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command; what it prints goes to the file `log`, but a pipe for standard output."""
        with open(self.path / "log", "w") as log:
            command = [sys.executable, "-m", "bananas", *arguments]
            process = subprocess.Popen(
                command, cwd=self.path, env=self.environment({}), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.started.append(process)
        return process

    @property
    def log(self) -> str:
        return (self.path / "log").read_text()

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.terminate()
                process.wait(20)
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
async def folder(place: PrivateServer, tmp_path: Path) -> AsyncIterator[Folder]:
    folder = Folder(tmp_path, place.url)
    yield folder
    folder.close()
    await folder.app.close()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Run the command line in this process: for what it says before it starts anything."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["bananas", *arguments])
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setenv("PYTHONPATH", "")
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(arguments, ended.value.code, *capsys.readouterr())

    return run


def assert_refused(run: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert run.returncode == code, run.stdout + run.stderr
    for word in words:
        assert word in run.stderr
    assert "Traceback" not in run.stderr


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_names_every_command_with_examples_and_loads_little(folder: Folder) -> None:
    began = time.monotonic()
    run = folder.run("--help")
    assert time.monotonic() - began < 5
    assert run.returncode == 0
    for text in ("worker", "scheduler", "replay", "server", "demo", "bananas worker shop.tasks:app --queues email:3,default"):
        assert text in run.stdout
    code = (
        "import atexit, sys; sys.argv.append('-h'); atexit.register(lambda: print({'rich', 'structlog', 'watchfiles'} & set(sys.modules)))"
    )
    assert folder.run_code(code).stdout.endswith("set()\n")


@pytest.mark.parametrize("command", ["worker", "scheduler", "health", "replay", "server", "demo"])
def test_each_command_says_what_it_does(here: Here, command: str) -> None:
    run = here(command, "--help")
    assert run.returncode == 0
    assert run.stdout.startswith(f"Usage: bananas {command}")


def test_version_is_the_packages_own_also_where_it_is_not_installed(folder: Folder) -> None:
    import bananas

    assert folder.run("--version").stdout == f"bananas {bananas.__version__}\n"


# --- what is refused --------------------------------------------------------------------------------------------------


def test_an_unknown_command_is_refused(here: Here) -> None:
    assert_refused(here("wroker"), 2, "wroker")


def test_a_worker_without_an_app_is_refused(here: Here) -> None:
    assert_refused(here("worker"), 2, "MODULE:APP")


@pytest.mark.parametrize("command", ["worker", "scheduler"])
def test_an_unknown_module_is_refused_with_the_form_to_use(folder: Folder, command: str) -> None:
    assert_refused(folder.run(command, "shpo:app"), 2, "no module 'shpo'", "module:app")


def test_a_module_without_the_app_is_refused_with_the_app_that_there_is(folder: Folder) -> None:
    assert_refused(folder.run("worker", "shop:application"), 2, "'application'", "shop:app")


def test_a_further_module_that_does_not_exist_is_refused(folder: Folder) -> None:
    assert_refused(folder.run("worker", "shop:app", "mroe"), 2, "mroe")


@pytest.mark.parametrize(
    ("option", "value", "form"),
    [
        ("--concurrency", "0", "a whole number from 1"),
        ("--concurrency", "many", "a whole number from 1"),
        ("--processes", "-1", "a whole number from 1"),
        ("--max-memory", "1GB", "a whole number from 0"),
        ("--queues", "e mail", "not a queue name"),
        ("--queues", "email:0", "comma-separated queues"),
        ("--priorities", "urgent", "high (100)"),
        ("--mode", "quick", "thin"),
        ("--url", "http://localhost", "redis://"),
        ("--log-level", "loud", "debug"),
        ("--log-format", "xml", "json"),
        ("--shutdown-timeout", "soon", "30s"),
    ],
)
def test_a_bad_value_is_refused_with_the_option_and_the_form(here: Here, option: str, value: str, form: str) -> None:
    assert_refused(here("worker", "shop:app", option, value), 2, option, form)


def test_a_password_in_a_bad_url_is_not_shown(here: Here) -> None:
    run = here("worker", "shop:app", "--url", "http://:hunter2@localhost")
    assert_refused(run, 2, "--url")
    assert "hunter2" not in run.stdout + run.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--priorities", "high", "--tasks", "write"),
        ("--priorities", "high", "--mode", "thin"),
        ("--tasks", "write", "--mode", "specialized"),
    ],
)
def test_options_of_two_modes_are_refused(here: Here, options: tuple[str, ...]) -> None:
    assert_refused(here("worker", "shop:app", *options), 2, "--mode")


@pytest.mark.parametrize("command", [("worker", "shop:app"), ("server",)], ids=" ".join)
def test_a_misspelt_setting_in_the_environment_is_refused_with_the_nearest(folder: Folder, command: tuple[str, ...]) -> None:
    run = folder.run(*command, BANANAS_WORKER_CONCURENCY="5")
    assert_refused(run, 2, "BANANAS_WORKER_CONCURENCY", "BANANAS_WORKER_CONCURRENCY")


def test_a_burst_of_a_worker_that_runs_no_jobs_is_refused(folder: Folder) -> None:
    assert_refused(folder.run("worker", "shop:app", "--burst", "--mode", "scheduler-only"), 2, "--burst", "scheduler-only")
    assert_refused(folder.run("worker", "shop:app", "--burst", WORKER_MODE="scheduler-only"), 2, "--burst", "scheduler-only")
    (folder.path / "upkeep.py").write_text('from bananas import Bananas\n\napp = Bananas(worker_mode="scheduler-only")\n')
    assert_refused(folder.run("worker", "upkeep:app", "--burst"), 2, "--burst", "scheduler-only")


def test_an_app_without_tasks_is_warned_of(folder: Folder) -> None:
    (folder.path / "empty.py").write_text("from bananas import Bananas\n\napp = Bananas()\n")
    run = folder.run("worker", "empty:app", "--burst")
    assert (run.returncode, "declares no task" in run.stderr) == (0, True)


def test_a_task_that_no_module_declares_is_refused(folder: Folder) -> None:
    assert_refused(folder.run("worker", "shop:app", "--tasks", "wirte"), 2, "wirte", "write")


def test_an_unreachable_server_is_told_and_exits_with_1(folder: Folder) -> None:
    assert_refused(folder.run("worker", "shop:app", "--url", "redis://127.0.0.1:1", BANANAS_CALL_TIMEOUT="300ms"), 1, "127.0.0.1:1")


def test_reload_without_watchfiles_names_the_extra(folder: Folder) -> None:
    run = folder.run_code("import sys; sys.modules['watchfiles'] = None; sys.argv[1:] = ['worker', 'shop:app', '--reload']")
    assert_refused(run, 2, "bananas-queue[reload]")


# --- what works -------------------------------------------------------------------------------------------------------


async def test_a_burst_runs_what_is_there_with_an_app_of_the_working_directory(folder: Folder) -> None:
    jobs = [await folder.app.submit("write", f"file{number}") for number in range(20)]
    run = folder.run("worker", "shop:app", "--burst", "--processes", "2", "--concurrency", "5", "--log-level", "error")
    assert run.returncode == 0, run.stderr
    assert [await job.result(timeout=1) for job in jobs] == ["done"] * 20
    assert (folder.path / "file19").exists()


async def test_tasks_option_takes_tasks_of_further_modules_and_leaves_other_jobs_queued(folder: Folder) -> None:
    ours, others, further = [await folder.app.submit(*call) for call in (("write", "ours"), ("other", "others"), ("elsewhere",))]
    run = folder.run("worker", "shop:app", "more", "--tasks", "write,elsewhere", "--burst")
    assert run.returncode == 0, run.stderr
    assert [await job.result(timeout=1) for job in (ours, further)] == ["done", "elsewhere"]
    assert (await others.info()).state == "ready"


async def test_priorities_option_leaves_other_jobs_queued(folder: Folder) -> None:
    high = await folder.app.submit("write", "high", options={"priority": "high"})
    low = await folder.app.submit("write", "low", options={"priority": "low"})
    run = folder.run("worker", "shop:app", "--priorities", "high", "--burst")
    assert run.returncode == 0, run.stderr
    assert await high.result(timeout=1) == "done"
    assert (await low.info()).state == "ready"


async def test_url_option_wins_over_every_other_way_to_name_a_server(folder: Folder, place: PrivateServer) -> None:
    job = await folder.app.submit("write", "file")
    run = folder.run("worker", "shop:app", "--burst", "--url", place.url, REDIS_URL="", BANANAS_EMBEDDED="1")
    assert run.returncode == 0, run.stderr
    assert await job.result(timeout=1) == "done"
    assert not (folder.path / ".bananas").exists()


async def test_replay_makes_a_dead_job_ready_again(folder: Folder) -> None:
    job = await folder.app.submit("fail_until", "given")
    assert folder.run("worker", "shop:app", "--burst", "--log-level", "error").returncode == 0
    assert (await job.info()).state == "dead"
    (folder.path / "given").write_text("now it works")
    run = folder.run("replay", "shop:app", job.id)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{job.id} is ready again\n"
    assert folder.run("worker", "shop:app", "--burst").returncode == 0
    assert await job.result(timeout=1) == "now it works"


async def test_replay_of_what_is_not_dead_says_so(folder: Folder) -> None:
    job = await folder.app.submit("write", "file")
    assert_refused(folder.run("replay", "shop:app", job.id), 1, job.id)
    assert_refused(folder.run("replay", "shop:app", "nonsense"), 2, "nonsense")
    assert (await job.info()).state == "ready"


def test_a_scheduler_runs_until_it_is_told_to_stop(folder: Folder) -> None:
    process = folder.start("scheduler", "shop:app", "--log-level", "info")
    wait_until(lambda: "worker process started" in folder.log, "a scheduler")
    assert "scheduler-only" in folder.log
    process.terminate()
    assert process.wait(15) == 0, folder.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_server_prints_a_url_that_answers_and_ends_on_a_signal(folder: Folder, number: signal.Signals) -> None:
    process = folder.start("server")
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 20)[0], folder.log
    url = process.stdout.readline().strip()
    assert ask_server(url, "PING") == "+PONG"
    assert (folder.path / ".bananas").is_dir()
    [pid] = [int(line.partition(":")[2]) for line in ask_server(url, "INFO", "server").splitlines() if line.startswith("process_id:")]
    process.send_signal(number)
    assert process.wait(10) == 0, folder.log
    wait_until(lambda: is_gone(pid), "the end of the server")
