"""What probes hear of workers that are well, blocked, stopped, quiet, cut off or gone."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.conftest import Site
from tests.support import ROOT, clean_environment, eventually, kill, wait_until

from bananas.server import PrivateServer, find_server_binary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.workers import WorkerProcess

LOCAL = {"worker_health_port": 0, "worker_health_host": "127.0.0.1", "worker_live_timeout": 1}


def port_of(log: str) -> int:
    found = re.search(r"health at http://127\.0\.0\.1:(\d+)/health", log)
    return int(found[1]) if found else 0


def send(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """A request as it is, and the answer to it: status, headers, body."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split(" ")[1]), dict(line.split(": ", 1) for line in lines), body


class Probe:
    """Asks one worker."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.port = wait_until(lambda: port_of(worker.log), "the port for probes")

    def get(self, path: str) -> tuple[int, Any]:
        status, headers, body = send(self.port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert int(headers["Content-Length"]) == len(body)
        return status, json.loads(body)

    def live(self) -> bool:
        status, told = self.get("/live")
        assert (status, told["live"]) == ((200, True) if not told["reasons"] else (503, False))
        return status == 200

    def ready(self) -> bool:
        status, told = self.get("/ready")
        assert (status, told["ready"]) == ((200, True) if not told["reasons"] else (503, False))
        return status == 200

    def why(self, path: str) -> str:
        return "; ".join(self.get(path)[1]["reasons"])

    def states(self) -> list[str]:
        return [process["state"] for process in self.get("/health")[1]["processes"]]


def probed(site: Site, **settings: Any) -> tuple[WorkerProcess, Probe]:
    """A worker that is ready, and its probe."""
    worker = site.worker(**LOCAL | settings)
    probe = Probe(worker)
    wait_until(probe.ready, "a worker that is ready")
    return worker, probe


@pytest.fixture
def own(tmp_path: Path, server_kind: str) -> Iterator[PrivateServer]:
    """A server of the test's own, that may be killed."""
    with PrivateServer(binary=find_server_binary(server_kind)) as server:
        yield server


# --- well -------------------------------------------------------------------------------------------------------------


async def test_a_worker_at_work_is_live_and_ready_and_tells_of_its_processes_and_queues(site: Site) -> None:
    worker, probe = probed(site, worker_processes=2)
    await eventually(lambda: probe.states() == ["working"] * 2)
    status, told = probe.get("/health")
    assert (status, told["live"], told["ready"], told["phase"]) == (200, True, True, "working")
    assert {process["pid"] for process in told["processes"]} == set(worker.children())
    assert all(process["accepting"] and process["connected"] for process in told["processes"])
    assert (told["pid"], told["queues"]) == (worker.pid, {"default": "open"})
    assert worker.stop() == 0


async def test_jobs_that_take_long_without_blocking_the_loop_are_no_fault(site: Site) -> None:
    """A slot each for a coroutine, a thread and a process that wait, for longer than the threshold: nothing is claimed meanwhile."""
    _, probe = probed(site, worker_concurrency=3)
    gate = site.gate()
    for task in ("follow", "follow_sync", "follow_isolated"):
        await site.running(str(gate), task=task)
    looks = 0
    async with asyncio.timeout(30):
        while looks < 40:
            assert probe.live(), probe.why("/live")
            assert probe.ready(), probe.why("/ready")
            looks += 1
            await asyncio.sleep(0.05)
    gate.touch()
    await site.assert_nothing_left()


async def test_requests_that_are_odd_are_refused_by_their_kind(site: Site) -> None:
    _, probe = probed(site)
    assert send(probe.port, b"GET /nowhere HTTP/1.1\r\n\r\n")[0] == 404
    assert send(probe.port, b"POST /live HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")[:2][0] == 405
    assert send(probe.port, b"POST /live HTTP/1.1\r\n\r\n")[1]["Allow"] == "GET, HEAD"
    assert send(probe.port, b"\x00\xff\r\n\r\n")[0] == 400
    assert send(probe.port, b"GET /live HTTP/1.1\r\nX: " + b"x" * 5000)[0] == 431
    assert send(probe.port, b"GET /live?verbose=1 HTTP/1.0\r\n\r\n")[0] == 200
    status, headers, body = send(probe.port, b"HEAD /health HTTP/1.1\r\n\r\n")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 100


@pytest.mark.parametrize("lease", [1.0])
async def test_clients_that_are_slow_or_many_disturb_neither_the_beat_nor_a_probe(site: Site) -> None:
    _, probe = probed(site)
    gate = site.gate()
    job, first = await site.running(str(gate))
    with ExitStack() as stack:
        for number in range(100):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", probe.port), timeout=10))
            silent.sendall(b"GET /live"[: number % 10])
            if number % 10 == 0:
                assert probe.live()
    gate.touch()
    assert await job.result(timeout=10) == first.pid
    assert site.ledger.lines("untrusted") == []


# --- the server goes away ---------------------------------------------------------------------------------------------


async def test_without_its_server_a_worker_is_live_but_not_ready_and_is_ready_again_by_itself(own: PrivateServer, tmp_path: Path) -> None:
    site = Site(own.url, tmp_path, lease=2.0)
    try:
        _, probe = probed(site, worker_processes=2)
        await asyncio.to_thread(own.kill)
        await eventually(lambda: not probe.ready(), "word that the server is away", 8)
        assert "the server does not answer" in probe.why("/ready")
        for _ in range(30):
            assert probe.live(), probe.why("/live")
            assert not probe.ready()
            await asyncio.sleep(0.1)
        await asyncio.to_thread(own.restart)
        await eventually(probe.ready, "a worker that is ready again", 8)
        jobs = await site.submit_many(20, "work", 0.2)
        for job in jobs:
            assert await job.result(timeout=10) == "done"
        assert probe.live()
    finally:
        site.kill()
        await site.app.close()


async def test_a_server_that_is_there_but_silent_makes_a_worker_unready(own: PrivateServer, tmp_path: Path) -> None:
    site = Site(own.url, tmp_path, lease=1.0)
    assert own.pid is not None
    try:
        _, probe = probed(site)
        kill(own.pid, signal.SIGSTOP)
        await eventually(lambda: not probe.ready(), "word that the server is silent", 12)
        assert probe.live(), probe.why("/live")
        kill(own.pid, signal.SIGCONT)
        await eventually(probe.ready, "a worker that is ready again", 12)
        assert await (await site.app.submit("double", 2)).result(timeout=10) == 4
    finally:
        kill(own.pid, signal.SIGCONT)
        site.kill()
        await site.app.close()


# --- processes that do not get on -------------------------------------------------------------------------------------


async def test_a_process_that_is_stopped_is_not_live_until_it_goes_on(site: Site) -> None:
    worker, probe = probed(site, worker_processes=2)
    await eventually(lambda: len(worker.children()) == 2)
    victim = worker.children()[0]
    kill(victim, signal.SIGSTOP)
    await eventually(lambda: not probe.live(), "word of the stopped process")
    assert f"process {victim} is stopped" in probe.why("/live")
    assert sorted(probe.states()) == ["stopped", "working"]
    kill(victim, signal.SIGCONT)
    await eventually(probe.live, "a process that goes on")
    await eventually(probe.ready, "a worker that is ready again")


@pytest.mark.parametrize("task", ["block_loop", "hold_gil"])
async def test_a_loop_that_is_blocked_beyond_the_threshold_is_not_live(site: Site, task: str) -> None:
    _, probe = probed(site)
    job = await site.app.submit(task, 5.0)
    await eventually(lambda: not probe.live(), "word of the blocked loop")
    assert "its event loop has been blocked for" in probe.why("/live")
    await job.result(timeout=60)
    await eventually(probe.live, "a loop that turns again")


async def test_a_process_that_is_replaced_is_no_fault_and_one_that_does_not_come_back_is(tmp_path: Path, site: Site) -> None:
    gate = site.gate()
    gate.touch()
    site.environment["GATE"] = str(gate)
    worker = site.worker("tests.apps.slow_start:app", **LOCAL)
    probe = Probe(worker)
    await eventually(probe.ready)
    kill(worker.children()[0])
    await asyncio.to_thread(worker.ready, 2)
    await eventually(probe.ready, "its heir at work")
    gate.unlink()
    kill(worker.children()[0])
    await eventually(lambda: not probe.ready())
    assert probe.live(), "it may start yet"
    await eventually(lambda: not probe.live(), "word that it does not start", 30)
    assert "1 of its processes cannot be started" in probe.why("/live")
    gate.touch()
    await eventually(probe.ready, "its heir at last", 30)
    assert probe.live()


# --- those that take no jobs ------------------------------------------------------------------------------------------


async def test_a_quiet_worker_is_live_but_not_ready_and_so_is_one_that_drains(site: Site) -> None:
    worker, probe = probed(site)
    gate = site.gate()
    job, _ = await site.running(str(gate))
    worker.send(signal.SIGUSR1)
    await eventually(lambda: not probe.ready())
    assert "quiet" in probe.why("/ready")
    worker.send(signal.SIGTERM)
    await eventually(lambda: "draining" in probe.why("/ready"))
    assert probe.live()
    gate.touch()
    await job.result(timeout=10)
    assert worker.wait() == 0


async def test_a_worker_whose_queues_are_all_paused_is_not_ready(site: Site) -> None:
    _, probe = probed(site, worker_routing_keys="default,other")
    await site.app.queue("default").pause()
    await eventually(lambda: probe.get("/health")[1]["queues"] == {"default": "paused", "other": "open"})
    assert probe.ready()
    await site.app.queue("other").pause()
    await eventually(lambda: not probe.ready())
    assert probe.why("/ready") == "all queues are paused"
    assert probe.live()
    await site.app.queue("default").resume()
    await eventually(probe.ready)


async def test_a_scheduler_is_ready_though_it_takes_no_jobs(site: Site) -> None:
    worker, probe = probed(site, worker_mode="scheduler-only")
    status, told = probe.get("/health")
    assert (status, [process["accepting"] for process in told["processes"]]) == (200, [False])
    assert worker.stop() == 0


async def test_a_process_that_is_recycled_is_no_fault(site: Site) -> None:
    worker, probe = probed(site, max_jobs=5)
    jobs = await site.submit_many(40, "double", 1)
    while not await site.idle():
        assert probe.live(), probe.why("/live")
        await asyncio.sleep(0.02)
    assert [await job.result(timeout=5) for job in jobs] == [2] * 40
    await asyncio.to_thread(worker.ready, 2)
    await eventually(probe.ready, "the last process at work")


# --- the command, and the heartbeat file ------------------------------------------------------------------------------


def run_health(*arguments: str, **variables: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "bananas", "health", *arguments]
    done = subprocess.run(command, env=clean_environment(**variables), capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout + done.stderr


async def test_a_command_asks_at_the_port_or_the_file_that_it_is_given_or_the_settings_name(site: Site) -> None:
    path = site.folder / "heartbeat"
    worker, probe = probed(site, worker_heartbeat_file=str(path))
    ways = ({"--port": str(probe.port)}, {"--file": str(path)})
    for way in ways:
        (arguments,) = way.items()
        assert await asyncio.to_thread(run_health, *arguments) == (0, "live and ready\n")
        assert await asyncio.to_thread(run_health, "live", *arguments) == (0, "live\n")
    assert (await asyncio.to_thread(run_health, BANANAS_WORKER_HEALTH_PORT=str(probe.port)))[0] == 0
    assert (await asyncio.to_thread(run_health, BANANAS_WORKER_HEARTBEAT_FILE=str(path)))[0] == 0
    worker.send(signal.SIGUSR1)
    await eventually(lambda: not json.loads(path.read_bytes())["ready"], "the file says that it is quiet")
    for way in ways:
        (arguments,) = way.items()
        code, said = await asyncio.to_thread(run_health, *arguments)
        assert (code, "quiet" in said) == (1, True)
        assert (await asyncio.to_thread(run_health, "live", *arguments))[0] == 0
        assert (await asyncio.to_thread(run_health, "ready", *arguments))[0] == 1
    assert worker.stop() == 0
    assert not path.exists()
    for way in ways:
        (arguments,) = way.items()
        code, said = await asyncio.to_thread(run_health, *arguments)
        assert (code, "no health of a worker at" in said, "Traceback" in said) == (1, True, False)


async def test_a_heartbeat_file_that_nobody_renews_says_nothing(site: Site) -> None:
    path = site.folder / "heartbeat"
    worker = site.worker(worker_heartbeat_file=str(path))
    wait_until(path.exists)
    assert "health at" not in worker.log, "no port was asked for"
    worker.kill_tree()
    assert path.exists()
    report = json.loads(path.read_bytes())
    report["at_monotonic"] -= report["valid_s"]
    path.write_text(json.dumps(report))
    code, said = await asyncio.to_thread(run_health, "--file", str(path))
    assert (code, "its worker writes no more" in said) == (1, True)
    path.write_text("[]")
    assert (await asyncio.to_thread(run_health, "--file", str(path)))[0] == 1


async def test_a_file_that_cannot_be_written_is_told_once_and_the_worker_goes_on(site: Site) -> None:
    worker, probe = probed(site, worker_heartbeat_file=str(site.folder / "missing" / "heartbeat"))
    await eventually(lambda: "the heartbeat file cannot be written" in worker.log)
    assert await (await site.app.submit("double", 2)).result(timeout=10) == 4
    assert probe.live()
    assert worker.log.count("cannot be written") == 1


def test_a_question_without_a_place_is_refused() -> None:
    code, said = run_health()
    assert (code, "--file or --port" in said) == (2, True)
    code, said = run_health("--file", "a", "--port", "1")
    assert (code, "leave out one" in said) == (2, True)


# --- start and end ----------------------------------------------------------------------------------------------------


def test_from_its_start_a_worker_answers_and_is_ready_when_its_first_process_has_greeted(site: Site) -> None:
    gate, log = site.gate(), site.folder / "log"
    command = [sys.executable, "-m", "bananas", "worker", "tests.apps.slow_start:app", "--health-port", "0", "--health-host", "127.0.0.1"]
    with open(log, "wb") as file:
        environment = clean_environment(**site.environment, GATE=str(gate))
        worker = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        probe = object.__new__(Probe)
        probe.port = wait_until(lambda: port_of(log.read_text()), "the port for probes")
        assert (probe.live(), probe.ready()) == (True, False)
        assert probe.why("/ready") == "no process has greeted yet"
        gate.touch()
        wait_until(probe.ready)
        assert log.read_text().count("health at") == 1
    finally:
        worker.terminate()
        assert worker.wait(20) == 0


async def test_a_burst_is_live_to_its_end(site: Site) -> None:
    gate = site.gate()
    job = await site.app.submit("follow", str(gate))
    worker = site.start(burst=True, worker_processes=2, **LOCAL)
    probe = Probe(worker)
    await site.started(job)
    await eventually(lambda: len(worker.children()) == 1, "the process without a job has ended")
    for _ in range(30):
        assert probe.live(), probe.why("/live")
        await asyncio.sleep(0.05)
    gate.touch()
    assert worker.wait() == 0


def test_a_port_that_is_taken_ends_the_worker_with_the_reason(site: Site) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        worker = site.start(worker_health_port=port, worker_health_host="127.0.0.1")
        assert worker.wait(30) == 2
        assert "give another --health-port" in worker.log
        command = [sys.executable, "-m", "bananas", "worker", "tests.apps.basic:app", "--health-port", str(port)]
        environment = clean_environment(**site.environment, BANANAS_WORKER_HEALTH_HOST="127.0.0.1")
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, "nobody can listen for probes" in done.stderr, "Traceback" in done.stderr) == (2, True, False)
