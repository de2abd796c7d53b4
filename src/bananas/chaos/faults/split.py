"""F14, a split brain: the primary is cut off from its replica and from the sentinels, which elect another; its clients stay with it."""

import asyncio
import time
from collections.abc import Sequence

from bananas.chaos.faults.several import LOST_WITH_IT
from bananas.chaos.processes import eventually
from bananas.chaos.producer import Load
from bananas.chaos.proxy import REPLICA, Proxy
from bananas.chaos.site import Host, Site
from bananas.chaos.trials import Fault, Trial
from bananas.errors import BananasError
from bananas.groups import PRIMARY_NAME, ask
from bananas.server import PrivateServer, ServerBinary

SENTINELS = 3
SAFE = "safe"  # how the names of jobs begin that were submitted with durability="replicated"
DOWN_AFTER_S, MAX_LAG_S, CUT_S = 1.0, 2, 8.0
COUNTED_S = MAX_LAG_S + 2.0  # the server looks at the lag once a second, and a replica reports once a second


class _Split:
    """A primary behind a proxy, through which the replica, the sentinels and all clients reach it; each has its own way to the replica."""

    def __init__(self, binary: ServerBinary) -> None:
        self._binary = binary
        settings = {"repl-diskless-sync-delay": "0"}
        self.primary, self.replica = [PrivateServer(binary=binary, port=0, settings=settings) for _ in range(2)]
        self.servers = [self.primary, self.replica]
        self.proxy: Proxy | None = None

    @property
    def url(self) -> str:
        nodes = ",".join(f"127.0.0.1:{server.port}" for server in self.servers[2:])
        return f"redis+sentinel://{nodes}/{PRIMARY_NAME}"

    @property
    def current(self) -> PrivateServer:
        """The primary, and from the moment on that it is one, the other one."""
        return self.replica if ask(self.replica, "ROLE")[0] == b"master" else self.primary

    def start(self) -> None:
        for server in self.servers:
            server.start()
        self.proxy = Proxy(self.primary.url).__enter__()
        ask(self.replica, "REPLICAOF", "127.0.0.1", self.proxy.port)
        for _ in range(SENTINELS):
            sentinel = PrivateServer(
                binary=self._binary, port=0, files={"sentinel.conf": self._lines()}, arguments=("sentinel.conf", "--sentinel")
            )
            self.servers.append(sentinel)
            sentinel.start()

    def _lines(self) -> str:
        assert self.proxy is not None
        lines = [
            f"sentinel monitor {PRIMARY_NAME} 127.0.0.1 {self.proxy.port} {SENTINELS // 2 + 1}",
            f"sentinel down-after-milliseconds {PRIMARY_NAME} {DOWN_AFTER_S * 1000:.0f}",
            f"sentinel failover-timeout {PRIMARY_NAME} 5000",
        ]
        return "\n".join(lines) + "\n"

    def is_whole(self) -> bool:
        """Whether the replica is in step, and each sentinel knows all others and the replica."""
        try:
            if b"master_link_status:up" not in ask(self.replica, "INFO", "replication"):
                return False
            for sentinel in self.servers[2:]:
                flat = ask(sentinel, "SENTINEL", "MASTER", PRIMARY_NAME)
                known = dict(zip(flat[::2], flat[1::2], strict=True))
                if (int(known[b"num-other-sentinels"]), int(known[b"num-slaves"])) != (SENTINELS - 1, 1):
                    return False
        except BananasError:
            return False
        return True

    def stop(self) -> None:
        if self.proxy is not None:
            self.proxy.__exit__()
        for server in reversed(self.servers):
            server.stop()


async def split_brain(trial: Trial) -> None:
    """F14, with min-replicas-to-write 1: what the cut off primary acknowledges is bounded by the lag that it allows."""
    group = _Split(trial.binary)
    folder = trial.folder / "site"
    folder.mkdir()
    site = await trial.enter(Site(folder, Host(group, lambda: group.current), lease=trial.profile.lease, budget_s=60.0))
    await eventually(group.is_whole, "the sentinels to know each other and the replica", 60)
    ask(group.primary, "CONFIG", "SET", "min-replicas-to-write", 1)
    ask(group.primary, "CONFIG", "SET", "min-replicas-max-lag", MAX_LAG_S)
    await site.worker(2, worker_concurrency=10)
    producer = site.produce(Load(arguments=(0.02,), batch=10, pause_s=0.05))
    delayed = site.produce(Load(prefix="late", arguments=(0.02,), batch=4, pause_s=0.1, options={"delay": CUT_S}))
    safe = site.produce(Load(prefix=SAFE, arguments=(0.02,), batch=2, pause_s=0.1, options={"delay": CUT_S, "durability": "replicated"}))
    await eventually(lambda: len(site.book.noted("end")) > 50, "load")
    assert group.proxy is not None
    cut_ns = time.monotonic_ns()
    group.proxy.silence("sentinel", REPLICA)
    await eventually(lambda: group.current is group.replica, "the sentinels to elect the replica", 60)
    trial.count("elected after s", round((time.monotonic_ns() - cut_ns) / 1e9, 2))
    await asyncio.sleep(max(0.0, CUT_S - (time.monotonic_ns() - cut_ns) / 1e9))
    group.proxy.speak()
    healed_ns = time.monotonic_ns()
    await eventually(lambda: any(line.at_ns > healed_ns for line in site.book.noted("start")), "a job behind the split", 120)
    first_ns = min(line.at_ns for line in site.book.noted("start") if line.at_ns > healed_ns)
    trial.recovered((first_ns - healed_ns) / 1e9, 30 + trial.profile.slack_s, "a job started after the split: this")
    await asyncio.sleep(1.0)
    await eventually(lambda: ask(group.primary, "ROLE")[0] == b"slave", "the old primary to follow", 120)
    for each in (producer, delayed, safe):
        await site.stop_producing(each)
    verdict = await trial.judge(site, 120.0)
    acked = {line.name: (line.at_ns - cut_ns) / 1e9 for line in site.book.submitted() if line.word == "ack"}
    outside = {name: acked[name] for name in verdict.lost if not -1 <= acked[name] <= COUNTED_S}
    unsafe = [name for name in verdict.lost if name.startswith(SAFE)]
    trial.check(not unsafe, f"{len(unsafe)} jobs are lost that a replica had confirmed: {unsafe[:3]}")
    trial.count("confirmed by a replica", sum(name.startswith(SAFE) for name in acked))
    trial.check(not outside, f"{len(outside)} lost jobs were acknowledged outside of the lag that is allowed: {list(outside.items())[:3]}")
    trial.count("acknowledged by the cut off primary", sum(0 <= at_s <= CUT_S for at_s in acked.values()))


FAULTS: Sequence[Fault] = (
    Fault(
        "F14",
        "split brain",
        "a proxy cuts the primary from replica and sentinels for 8 s, its clients stay with it; min-replicas-to-write 1",
        'lost is at most what was acknowledged within the lag that is allowed, and counted; with durability="replicated" nothing',
        split_brain,
        needs=("sentinel",),
        allowed=LOST_WITH_IT,
        in_short=False,
    ),
)
