"""Servers that Bananas starts by itself, with real processes: whose they are, when they end, and what outlives them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from tests.joined import Joined
from tests.support import ask_server as ask
from tests.support import children_of, is_gone, is_unlocked, wait_until

from bananas import watcher
from bananas.embedded import EmbeddedServer, join
from bananas.errors import BrokerUnavailable, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bananas.server import ServerBinary


@pytest.fixture
def programs() -> Iterator[Callable[..., Joined]]:
    """Starts programs; kills those that are left."""
    started: list[Joined] = []

    def start(*arguments: str, cwd: Path) -> Joined:
        started.append(Joined(*arguments, cwd=cwd))
        return started[-1]

    yield start
    for program in started:
        program.close()


def both_gone(hello: dict[str, Any] | EmbeddedServer) -> bool:
    pids = (hello["pid"], hello["watcher_pid"]) if isinstance(hello, dict) else (hello.pid, hello.watcher_pid)
    return all(map(is_gone, pids))


# --- sharing and ending ---------------------------------------------------------------------------------------------


def test_data_survive_a_restart_of_everything(project: Path, programs: Callable[..., Joined]) -> None:
    first = programs(str(project), cwd=project)
    before = first.hear()
    assert first.ask("SET fruit banana") == "+OK"
    first.exit()
    wait_until(lambda: both_gone(before))

    second = programs(str(project), cwd=project)
    after = second.hear()
    assert second.ask("GET fruit") == "banana"
    assert after["url"] == before["url"]
    assert {after["pid"], after["watcher_pid"]}.isdisjoint({before["pid"], before["watcher_pid"]})
    second.exit()


def test_programs_that_start_at_once_below_one_directory_share_its_server(project: Path, programs: Callable[..., Joined]) -> None:
    (project / ".bananas").mkdir(mode=0o700)
    below = project / "src" / "package"
    below.mkdir(parents=True)
    started = [programs(cwd=project), programs(cwd=below), programs(str(project), cwd=Path("/"))]
    hellos = [program.hear() for program in started]
    assert hellos[0] == hellos[1] == hellos[2]
    assert hellos[0]["directory"] == str(project / ".bananas")
    assert (project / ".bananas" / ".gitignore").read_text() == "*\n"
    assert started[0].ask("SET fruit banana") == "+OK"
    assert started[1].ask("GET fruit") == "banana"

    started[0].exit()
    assert started[1].ask("GET fruit") == "banana"
    started[1].exit()
    started[2].exit()
    wait_until(lambda: both_gone(hellos[0]))


def test_without_a_directory_above_it_is_created_in_the_working_directory(project: Path, programs: Callable[..., Joined]) -> None:
    if any((path / ".bananas").exists() for path in project.parents):
        pytest.skip("the temporary directory is below a .bananas")
    program = programs(cwd=project)
    assert program.hear()["directory"] == str(project / ".bananas")
    assert (project / ".bananas").stat().st_mode & 0o777 == 0o700
    program.exit()


def test_the_server_stops_with_the_last_use_and_not_before(project: Path) -> None:
    first, second = join(project), join(project)
    assert first.pid == second.pid
    assert ask(first.url, "PING") == "+PONG"
    first.close()
    first.close()
    assert not wait_true(lambda: both_gone(second), 1.0), "the server ended under its second user"
    assert ask(second.url, "PING") == "+PONG"
    second.close()
    wait_until(lambda: both_gone(second))


def wait_true(condition: Callable[[], bool], timeout: float) -> bool:
    """Whether it comes true within a time that is given to it."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_a_killed_crowd_leaves_no_orphan(project: Path, programs: Callable[..., Joined]) -> None:
    started = [programs(str(project), cwd=project) for _ in range(3)]
    [hello, *_] = [program.hear() for program in started]
    assert started[0].ask("SET fruit banana") == "+OK"
    for program in started:
        program.process.kill()
    wait_until(lambda: both_gone(hello))
    server = join(project)
    assert ask(server.url, "GET", "fruit") == "banana"
    server.close()


def test_a_forked_child_that_outlives_its_parent_is_no_user(project: Path, programs: Callable[..., Joined]) -> None:
    program = programs(str(project), cwd=project)
    hello = program.hear()
    child = program.ask("fork")
    try:
        program.process.kill()
        wait_until(lambda: both_gone(hello))
        assert not is_gone(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_client_that_never_joined_keeps_the_server(project: Path) -> None:
    server = join(project)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(urlsplit(server.url).path)
        client.sendall(b"PING\r\n")
        assert client.recv(16) == b"+PONG\r\n"
        server.close()
        assert not wait_true(lambda: both_gone(server), 1.2)
    wait_until(lambda: both_gone(server))


def test_a_join_while_the_server_stops_gets_a_live_one(project: Path) -> None:
    pids = set()
    for moment in range(8):
        server = join(project)
        assert ask(server.url, "INCR", "visits") == f":{moment + 1}"
        pids.add(server.pid)
        door = Path(watcher.read_record(str(project / ".bananas"))["watcher"])
        server.close()
        if moment % 2:  # just when nobody listens any more, and the server still ends
            wait_until(lambda: not door.exists(), pause=0.0002)  # noqa: B023
    assert len(pids) >= 4


def test_threads_that_join_and_leave_all_the_time_always_have_a_live_server(project: Path) -> None:
    errors: list[BaseException] = []
    until = time.monotonic() + 2.0

    def come_and_go(pause: float) -> None:
        try:
            while time.monotonic() < until:
                server = join(project)
                assert ask(server.url, "PING") == "+PONG"
                server.close()
                time.sleep(pause)  # around the moment at which the watcher leaves
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=come_and_go, args=(pause,)) for pause in (0.5, 0.52, 0.61)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


# --- faults ---------------------------------------------------------------------------------------------------------


def test_a_killed_server_is_restarted_with_its_data_under_the_same_url(project: Path) -> None:
    server = join(project)
    assert ask(server.url, "SET", "fruit", "banana") == "+OK"
    wait_until(lambda: "aof_pending_bio_fsync:0" in ask(server.url, "INFO", "persistence"))
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: is_gone(server.pid) and answers(server.url))
    assert ask(server.url, "GET", "fruit") == "banana"
    again = join(project)
    assert (again.url, again.watcher_pid) == (server.url, server.watcher_pid)
    assert again.pid != server.pid
    server.close()
    again.close()


def answers(url: str) -> bool:
    try:
        return ask(url, "PING") == "+PONG"
    except OSError:
        return False


def test_the_server_ends_with_a_killed_watcher_and_the_next_join_starts_anew(project: Path) -> None:
    server = join(project)
    assert ask(server.url, "SET", "fruit", "banana") == "+OK"
    os.kill(server.watcher_pid, signal.SIGKILL)
    again = join(project)
    assert is_gone(server.pid)
    assert ask(again.url, "GET", "fruit") == "banana"
    server.close()
    again.close()


def test_an_orphan_whose_watcher_and_guard_were_killed_is_replaced(project: Path) -> None:
    server = join(project)
    ask(server.url, "SET", "fruit", "banana")
    guard = [pid for pid in children_of(server.watcher_pid) if pid != server.pid]
    assert guard
    for pid in (*guard, server.watcher_pid):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(server.watcher_pid))
    assert not is_gone(server.pid)
    again = join(project)
    assert is_gone(server.pid)
    assert ask(again.url, "GET", "fruit") == "banana"
    server.close()
    again.close()


def test_a_removed_directory_ends_its_server_and_starts_empty(project: Path) -> None:
    server = join(project)
    ask(server.url, "SET", "fruit", "banana")
    shutil.rmtree(project / ".bananas")
    again = join(project)
    wait_until(lambda: both_gone(server))
    assert ask(again.url, "DBSIZE") == ":0"
    server.close()
    again.close()


def test_a_copied_directory_gets_a_server_of_its_own(project: Path) -> None:
    server = join(project)
    ask(server.url, "SET", "fruit", "banana")
    copy = project / "copy"
    shutil.copytree(project / ".bananas", copy / ".bananas")
    other = join(copy)
    assert other.url != server.url
    assert ask(other.url, "SET", "fruit", "cherry") == "+OK"
    assert ask(server.url, "GET", "fruit") == "banana"
    server.close()
    other.close()
    wait_until(lambda: both_gone(server) and both_gone(other))


def test_a_server_that_cannot_start_is_quoted(project: Path) -> None:
    join(project).close()
    home = project / ".bananas"
    wait_until(lambda: is_unlocked(home / "lock"))
    [manifest] = (home / "appendonlydir").glob("*.manifest")
    manifest.write_text("this is no manifest\n")
    with pytest.raises(BrokerUnavailable, match=r"did not start: it ended by itself\. (?s:.*)manifest"):
        join(project)


def test_data_of_a_newer_server_are_refused_by_name_and_stay(project: Path) -> None:
    home = project / ".bananas"
    home.mkdir(mode=0o700)
    record = {"kind": "valkey", "version": "99.1.0"}
    watcher.write_record(str(home), record)
    with pytest.raises(ConfigError, match=r"written by valkey 99\.1\.0; .* cannot read them\. .*Install valkey 99\.1\.0 or a newer"):
        join(project)
    assert watcher.read_record(str(home)) == record
    assert not (home / "appendonlydir").exists()


def test_data_are_opened_by_the_kind_of_server_that_wrote_them(project: Path, binary: ServerBinary) -> None:
    home = project / ".bananas"
    home.mkdir(mode=0o700)
    watcher.write_record(str(home), {"kind": binary.kind, "version": "7.0.0"})
    server = join(project)
    assert watcher.read_record(str(home))["kind"] == binary.kind
    assert watcher.read_record(str(home))["version"] == ".".join(map(str, binary.version))
    info = ask(server.url, "INFO", "server")
    assert ("valkey_version" in info) == (binary.kind == "valkey")
    server.close()


# --- places -----------------------------------------------------------------------------------------------------------


def test_a_directory_with_a_long_path_and_spaces_works(tmp_path: Path) -> None:
    project = tmp_path / "a folder" / ("long" * 50) / ("longer" * 30)
    project.mkdir(parents=True)
    server = join(project)
    assert ask(server.url, "PING") == "+PONG"
    assert len(urlsplit(server.url).path) <= 100
    server.close()
    wait_until(lambda: both_gone(server))


def test_sockets_are_in_a_runtime_directory_of_this_user_alone(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        server = join(project)
        path = Path(urlsplit(server.url).path)
        assert path.parent.parent == Path(runtime)
        assert path.parent.stat().st_mode & 0o777 == 0o700
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        second = join(project)
        assert second.url == server.url  # the record tells where, not the second program's environment
        server.close()
        second.close()
        wait_until(lambda: both_gone(server))


def test_a_runtime_directory_open_to_others_is_not_used(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        shared = Path(runtime, f"bananas-{os.geteuid()}")
        shared.mkdir()
        shared.chmod(0o777)
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        server = join(project)
        assert not server.url.startswith(f"unix://{runtime}")
        server.close()
        wait_until(lambda: both_gone(server))


def test_a_directory_of_another_user_is_refused(project: Path) -> None:
    home = project / ".bananas"
    home.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(home, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        join(project)


def test_a_directory_that_cannot_be_created_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"keeps its data in .* and cannot"):
        join(tmp_path / "file")
