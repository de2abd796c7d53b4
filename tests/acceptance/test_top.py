"""The live view in a terminal of 80 by 24: a real one, on a real server, with real keys; and the one look for scripts."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyte
import pytest
from tests.acceptance.conftest import Site
from tests.support import clean_environment, kill, wait_until

from bananas.server import PrivateServer, find_server_binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COLUMNS, LINES = 80, 24
ALTERNATE_OFF = b"\x1b[?1049l"


class Terminal:
    """A terminal with a program in it: pressed keys go in, and the screen is what an emulator makes of what comes out.

    Attributes:
        written: every byte that came.
    """

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.settings = termios.tcgetattr(self._slave)
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream, self.written = pyte.ByteStream(self._screen), b""
        self._lock, self._closing = threading.Lock(), False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bananas", *arguments],
            env=clean_environment(**environment, TERM="xterm-256color"),
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while not self._closing:
            if select.select([self._master], [], [], 0.05)[0]:
                data = os.read(self._master, 65_536)
                with self._lock:
                    self.written += data
                    self._stream.feed(data)

    @property
    def text(self) -> str:
        """What is on the screen."""
        with self._lock:
            return "\n".join(line.rstrip() for line in self._screen.display)

    def shows(self, pattern: str, timeout: float = 20.0) -> str:
        """Wait until the screen has a line that fits. Returns it."""

        def found() -> re.Match[str] | None:
            return re.search(f"^.*{pattern}.*$", self.text, re.MULTILINE)

        try:
            return wait_until(lambda: match[0] if (match := found()) else "", pattern, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text}") from None

    def resize(self, columns: int) -> None:
        with self._lock:
            self._screen.resize(LINES, columns)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
        kill(self.process.pid, signal.SIGWINCH)  # the terminal is not the one that controls it

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def ended(self) -> int:
        """Wait for its end. Returns the exit code; the terminal is as it was before."""
        code = self.process.wait(15)
        wait_until(lambda: ALTERNATE_OFF in self.written, "the screen of before is back")
        assert termios.tcgetattr(self._slave) == self.settings
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            kill(self.process.pid)
            self.process.wait(10)
        self._closing = True
        self._reader.join(10)
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def open_terminal(site: Site, *arguments: str) -> Terminal:
        environment = {name: value for name, value in site.environment.items() if name != "LEDGER"}
        made.append(Terminal(environment, "top", "--interval", "0.3", *arguments))
        return made[-1]

    yield open_terminal
    for each in made:
        each.close()


async def test_it_shows_what_is_there_and_what_changes_and_obeys_keys(site: Site, terminal: Callable[..., Terminal]) -> None:
    site.worker(worker_concurrency=1)
    await site.running(str(site.gate()))
    await site.submit_many(12, "double", 1)
    await site.app.submit("double", 1, options={"queue": "bulk"})
    top = terminal(site)
    top.shows(r"^default +12 +0 +1 ")
    top.shows(r"^bulk +1 .*no hands")
    top.shows(r"slots 1/1")
    top.shows(r":\d+ +1/1 .* working follow")
    assert top.text.startswith(f"bananas top  {site.namespace}")
    await site.submit_many(3, "double", 1)
    top.shows(r"^default +15 ")
    top.press("s")
    top.shows("by ready")
    assert top.text.index("\ndefault") < top.text.index("\nbulk")
    top.press("/bul\r")
    top.shows("filter: bul")
    wait_until(lambda: "\ndefault" not in top.text, "the filter hides the other queue")
    top.press("\x1b")
    top.shows(r"^default +15 ")
    top.press("p")
    top.shows("paused, figures of")
    await site.submit_many(1, "double", 1)
    top.press("p")
    top.shows(r"^default +16 ")
    site.gate().touch()
    top.shows(r"^default +0 +0 +0 +0 +- +\S+ +(?!0\.0 )\S+ ")  # what ran in the last seconds has a rate
    top.press("q")
    assert top.ended() == 0


async def test_failures_are_shown(site: Site, terminal: Callable[..., Terminal]) -> None:
    site.worker()
    await site.submit_many(2, "steers", "dead")
    wait_until(lambda: site.ledger.lines("start"), "they run")
    top = terminal(site)
    top.shows(r"FAILS +ERROR")
    top.press("q")
    assert top.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(site: Site, terminal: Callable[..., Terminal], number: int) -> None:
    await site.submit_many(1, "double", 1)
    top = terminal(site)
    top.shows(r"^default +1 ")
    kill(top.process.pid, number)
    assert top.ended() == 0


async def test_it_follows_the_size_of_the_terminal(site: Site, terminal: Callable[..., Terminal]) -> None:
    await site.submit_many(1, "double", 1)
    top = terminal(site)
    top.shows(r"^default +1 ")
    assert "FAIL/s" not in top.text
    top.resize(120)
    top.shows("FAIL/s")


async def test_a_server_that_goes_away_and_comes_back(server_kind: str, tmp_path: Path, terminal: Callable[..., Terminal]) -> None:
    with PrivateServer(binary=find_server_binary(server_kind)) as server:
        site = Site(server.url, tmp_path)
        await site.app.submit("double", 1)
        top = terminal(site)
        top.shows(r"^default +1 ")
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            line = top.shows("figures of .* ago", 30)
            assert line.startswith("bananas top")
            assert re.search(r"^default +1 ", top.text, re.MULTILINE)  # what was known is still there
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: "figures of" not in top.text, "it goes on", 30)
        await site.app.submit("double", 1)
        top.shows(r"^default +2 ")
        top.press("q")
        assert top.ended() == 0
        await site.app.close()


def test_without_a_server_it_says_so_and_tries_on(tmp_path: Path, terminal: Callable[..., Terminal]) -> None:
    nowhere = SimpleNamespace(environment={"REDIS_URL": f"unix://{tmp_path}/no.sock", "BANANAS_NAMESPACE": f"t{uuid.uuid4().hex[:8]}"})
    top = terminal(nowhere)
    top.shows("nothing for .*s: Broker", 30)
    top.press("q")
    assert top.ended() == 0


def once(site: Any, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(**{name: value for name, value in site.environment.items() if name != "LEDGER"} | variables)
    command = [sys.executable, "-m", "bananas", "top", *flags]
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)


async def test_one_look_for_scripts(site: Site) -> None:
    await site.submit_many(4, "double", 1)
    found = once(site, "--once", "--json")
    assert found.returncode == 0, found.stderr
    whole = json.loads(found.stdout)
    assert (whole["namespace"], whole["workers"], whole["errors"]) == (site.namespace, [], [])
    (queue,) = whole["queues"]
    assert (queue["name"], queue["ready"], queue["rate_s"]) == ("default", 4, 0.0)
    assert queue["backlog_s"] > 0
    assert whole["server"]["used_bytes"] > 0
    text = once(site, "--once")
    assert text.returncode == 0
    assert re.search(r"^default +4 ", text.stdout, re.MULTILINE)
    assert "\x1b" not in text.stdout


async def test_where_there_is_no_terminal_it_says_what_to_do(site: Site) -> None:
    for flags, says in (((), "say --once"), (("--json",), "--json goes with --once")):
        refused = once(site, *flags)
        assert (refused.returncode, says in refused.stderr) == (2, True), refused.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_completes_commands(shell: str) -> None:
    def asked(how: str, **variables: str) -> str:
        environment = clean_environment(_BANANAS_COMPLETE=f"{shell}_{how}", **variables)
        command = [sys.executable, "-c", "from bananas.cli import main; main()"]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert run.returncode == 0, run.stderr
        return run.stdout

    script = asked("source")
    assert f"_BANANAS_COMPLETE={shell}_complete" in script
    told = asked("complete", COMP_WORDS="bananas ad", COMP_CWORD="ad" if shell == "fish" else "1")
    assert "advise" in told
    flags = asked("complete", COMP_WORDS="bananas advise --st", COMP_CWORD="--st" if shell == "fish" else "2")
    assert "--strict" in flags
