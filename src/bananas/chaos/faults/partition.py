"""F18: one worker behind a network of its own, whose link goes down: silent, nothing is closed. Needs root, for a network namespace."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Generator, Sequence
from typing import NamedTuple

from bananas.chaos.ledger import Noted
from bananas.chaos.processes import eventually
from bananas.chaos.producer import Load
from bananas.chaos.site import Site
from bananas.chaos.trials import Fault, Skipped, Trial
from bananas.server import PrivateServer

HELD = 3


class _Net(NamedTuple):
    """A network namespace with one link to this machine."""

    name: str
    link: str
    here: str

    def down(self) -> None:
        _ip("link", "set", self.link, "down")

    def up(self) -> None:
        _ip("link", "set", self.link, "up")


def _ip(*words: str) -> None:
    """One command of ip. Raises Skipped: this machine does not allow it."""
    try:
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        raise Skipped("there is no command ip (Debian: apt-get install iproute2)") from None
    except subprocess.CalledProcessError as error:
        raise Skipped(f"network namespaces are not allowed here: ip {' '.join(words)}: {error.stderr.strip()}") from None


@contextlib.contextmanager
def _network(trial: Trial) -> Generator[_Net]:
    if shutil.which("ip") is None:
        raise Skipped("there is no command ip (Debian: apt-get install iproute2)")
    number = os.getpid() % 60_000
    subnet = f"10.{231 + number // 16_000}.{number // 64 % 250}"
    net = _Net(f"chaos{number}", f"chaos{number}a", f"{subnet}.{4 * (number % 60) + 1}")
    there, other = f"{subnet}.{4 * (number % 60) + 2}", f"chaos{number}b"
    _ip("netns", "add", net.name)
    try:
        _ip("link", "add", net.link, "type", "veth", "peer", "name", other, "netns", net.name)
        _ip("addr", "add", f"{net.here}/30", "dev", net.link)
        net.up()
        _ip("-n", net.name, "addr", "add", f"{there}/30", "dev", other)
        _ip("-n", net.name, "link", "set", other, "up")
        yield net
    finally:
        subprocess.run(["ip", "link", "del", net.link], check=False, capture_output=True, timeout=30)
        subprocess.run(["ip", "netns", "del", net.name], check=False, capture_output=True, timeout=30)


async def partitioned(trial: Trial) -> None:
    """F18."""
    net = trial.stack.enter_context(_network(trial))
    folder = trial.folder / "site"
    folder.mkdir()
    settings = {"bind": f"127.0.0.1 {net.here}", "protected-mode": "no"}
    server = PrivateServer(folder / "data", binary=trial.binary, port=0, settings=settings)
    site = await trial.enter(Site(folder, server, lease=trial.profile.lease))
    reached = {"REDIS_URL": server.url.replace("127.0.0.1", net.here)}
    victim = site.start_under(["ip", "netns", "exec", net.name], site.environment(worker_concurrency=10) | reached)
    await victim.ready()
    held = [await site.submit("hold", str(site.gate())) for _ in range(HELD)]
    firsts = [await site.started(name) for name, _ in held]
    (heir,) = await site.worker(worker_concurrency=1, worker_processes=HELD)
    producer = site.produce(Load(arguments=(0.02,), batch=4, pause_s=0.1))
    await eventually(lambda: len(_started_by(site, victim.children())) > HELD, "the worker that is to be cut off at work")
    net.down()
    cut_ns = time.monotonic_ns()
    for name, _ in held:
        second = await site.started(name, 2, trial.profile.back_s + 30)
        trial.recovered((second.at_ns - cut_ns) / 1e9, trial.profile.back_s + 1, "a cut off worker's job ran elsewhere: this")
        trial.check(second.pid in heir.children(), "the second run is not the other worker's")
    _check_distrust(trial, site, victim.children(), cut_ns)
    net.up()
    for first in firsts:
        await eventually(lambda first=first: _cancelled(site, first), "the handlers that lost their lease to be cancelled", 60)  # type: ignore[misc]
    site.gate().touch()
    for (name, job), first in zip(held, firsts, strict=True):
        fence = await job.result(timeout=30)
        trial.check(fence > first.fence, f"the result of {name} is the first run's")
    since_ns = time.monotonic_ns()
    await eventually(lambda: any(line.at_ns > since_ns for line in _started_by(site, victim.children())), "the worker back at work", 30)
    await site.stop_producing(producer)
    await trial.judge(site)


def _started_by(site: Site, pids: Sequence[int]) -> list[Noted]:
    return [line for line in site.book.noted("start") if line.pid in pids]


def _cancelled(site: Site, first: Noted) -> bool:
    return any(line.fence == first.fence for line in site.book.noted("cancelled", first.name))


def _check_distrust(trial: Trial, site: Site, pids: Sequence[int], cut_ns: int) -> None:
    """The cut off worker trusted no lease for longer than a lease, and started nothing after that."""
    mine = [line for line in site.book.noted() if line.pid in pids and line.at_ns > cut_ns]
    trusted_s = max((line.at_ns - cut_ns for line in mine if line.valid), default=0) / 1e9
    trial.check(trusted_s <= site.lease, f"a lease of {site.lease:g} s was trusted for {trusted_s:.2f} s after the cut")
    late = [line for line in mine if line.word == "start" and line.at_ns - cut_ns > site.lease * 1e9]
    trial.check(not late, f"the worker started {len(late)} jobs after its leases had ended")
    trial.check(any(not line.valid for line in mine), "no handler noticed that its lease is valid no more")
    trial.count("trusted for s after the cut", round(trusted_s, 2))


FAULTS: Sequence[Fault] = (
    Fault(
        "F18",
        "one worker partitioned",
        "a network namespace, its link down: silent",
        "before its lease ends it starts nothing more and job.lease_valid is False; others take over; late settles are refused",
        partitioned,
        needs=("root",),
        in_short=False,
    ),
)
