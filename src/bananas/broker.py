"""What can be asked of a server: one function per transition, each a `Request` that any connection can run.

The functions do no I/O. A request knows its script, keys, arguments, and how to read the reply; the client and the worker put several
into one write (`session.py`). Every one is safe to resend: submits, settles and acts by boot and number, the rest because doing it twice
changes nothing. The scripts' headers (lua/*.lua) say what each reads, writes and costs.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from bananas.errors import ScriptFailed
from bananas.keys import QueueKeys
from bananas.scripts import Script, script

T = TypeVar("T")

SUBMIT_BATCH = 1_000
LARGE_BODY = 4_096
SUBMIT_BYTES = 4 * 1024 * 1024
CLAIM_BYTES = 4 * 1024 * 1024
SETTLE_BATCH = 1_000


class Request(Generic[T]):
    """One command and how to read its reply.

    Attributes:
        script: the script it runs, or None for a plain command (then `args` is the whole command).
    """

    __slots__ = ("args", "keys", "parse", "script")

    def __init__(self, parse: Callable[[Any], T], script: Script | None, keys: Sequence[str], args: Sequence[Any]) -> None:
        self.parse, self.script, self.keys, self.args = parse, script, keys, args

    def command(self) -> tuple[Any, ...]:
        """The command as it is sent."""
        if self.script is None:
            return tuple(self.args)
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, "", *self.args)

    def read(self, reply: Any) -> T:
        """What the reply says. Raises ScriptFailed where it is none that this request can have."""
        try:
            return self.parse(reply)
        except Exception as error:
            raise failure(self, error) from error

    def at(self, now_ms: int) -> "Request[T]":
        """The same request under a clock of the caller's (tests only)."""
        return _At(self, now_ms)


class _At(Request[T]):
    __slots__ = ("now_ms",)

    def __init__(self, request: Request[T], now_ms: int) -> None:
        super().__init__(request.parse, request.script, request.keys, request.args)
        self.now_ms = now_ms

    def command(self) -> tuple[Any, ...]:
        assert self.script is not None, "a plain command has no clock"
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, self.now_ms, *self.args)


class Confirmation(Request[T]):
    """A plain command about what the requests before it have written: it is asked again when one of those is."""

    __slots__ = ()


def plain(parse: Callable[[Any], T], *command: Any) -> Request[T]:
    """A plain command."""
    return Request(parse, None, (), command)


def _same(reply: Any) -> Any:
    return reply


def _text(reply: bytes) -> str:
    return reply.decode()


# --- submit -----------------------------------------------------------------------------------------------------------


class NewJob(NamedTuple):
    """A packed job on its way to its queue. `delay_ms` 0: ready at once; `unique` "": no unique key."""

    job_id: str
    body: bytes
    delay_ms: int = 0
    unique: str = ""


def enqueue(keys: QueueKeys, boot: str, number: int, jobs: Sequence[NewJob]) -> Request[list[str] | None]:
    """Put at most `SUBMIT_BATCH` jobs into their queue.

    Returns:
        None when every job is new, else per job the id that stands for it: its own, or the holder's of its unique key.
    """
    args: list[Any] = [number, len(jobs)]
    for job in jobs:
        args += job if len(job.body) < LARGE_BODY else job._replace(body=_dated(job.body))
    return Request(_read_ids, script("enqueue"), (*keys.fixed, keys.seen(boot)), args)


def _dated(body: bytes) -> bytes:
    """A body with the time in front, so that the server need not copy it: see lua/enqueue.lua."""
    return int(time.time() * 1000).to_bytes(8, "big") + body


def _read_ids(reply: bytes) -> list[str] | None:
    text = reply.decode()
    return [text[i : i + 43] for i in range(0, len(text), 43)] or None


# --- claim ------------------------------------------------------------------------------------------------------------


class Claim(NamedTuple):
    """What a turn at a queue gave. `next_due_ms` is from now on, -1 when nothing is scheduled; `fence` 0 when nothing was claimed."""

    now_ms: int
    fence: int
    left: int
    next_due_ms: int
    paused: bool
    cursor: int
    ids_and_scores: list[bytes]
    bodies: list[bytes]
    tries: list[bytes | None]
    cancelled: list[int]


class Filter(NamedTuple):
    """Which jobs a worker takes: priorities and task tags; both empty means every job."""

    priorities: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()


EVERYTHING = Filter()


def claim(
    keys: QueueKeys, boot: str, turn: int, most: int, lease_ms: int, *, wanted: Filter = EVERYTHING, cursor: int = 0
) -> Request[Claim]:
    """Lease at most `most` ready jobs (and 4 MiB of bodies, at least one job)."""
    args = (boot, turn, most, lease_ms, CLAIM_BYTES, lease_ms // 2, cursor, len(wanted.priorities), *wanted.priorities, *wanted.tags)
    return Request(_read_claim, script("claim"), (*keys.fixed, keys.seen(boot, "claim")), args)


def _read_claim(reply: list[Any]) -> Claim:
    return Claim._make(reply)


def recover(keys: QueueKeys, boot: str, turn: int, fence: int) -> Request[int]:
    """Undo the claim of `turn`, whose reply was lost: leases above `fence` go back, and the claim is void should it arrive late."""
    return Request(int, script("recover"), (*keys.fixed, keys.seen(boot, "claim")), (boot, turn, fence))


def promote(keys: QueueKeys, most: int = 1_000) -> Request[tuple[int, int]]:
    """Move due jobs to ready. Returns (moved, ms until the next one or -1)."""
    return Request(tuple, script("promote"), keys.fixed, (most,))


# --- settle -----------------------------------------------------------------------------------------------------------


class KeptResult(NamedTuple):
    """A packed result and how long it is kept."""

    ttl_ms: int
    packed: bytes


class Ending(NamedTuple):
    """A job that ends; `result` None: nobody is told."""

    member: bytes
    result: KeptResult | None = None


class Burial(NamedTuple):
    """A job that goes to the dead letter queue with its packed tries."""

    member: bytes
    tries: bytes
    result: KeptResult | None = None


class Comeback(NamedTuple):
    """A job that runs again after `delay_ms`, with its packed tries."""

    member: bytes
    delay_ms: int
    tries: bytes


def _flags(reply: bytes) -> list[bool]:
    return [flag == 49 for flag in reply]


def _result_parts(keys: QueueKeys, jobs: Sequence[Ending | Burial]) -> tuple[list[str], list[Any]]:
    names: list[str] = []
    args: list[Any] = []
    for index, job in enumerate(jobs, 1):
        if job.result is not None:
            names.append(keys.result(job.member[:43].decode()))
            args += (index, *job.result)
    return names, args


def complete(
    keys: QueueKeys, boot: str, turn: int, jobs: Sequence[Ending], *, full: bool, dropped: bytes, part: str = "complete"
) -> Request[list[bool]]:
    """End jobs for good. Returns per job whether its lease was still held (False: nothing was changed for it).

    Args:
        part: names the memory of this kind of batch, where a turn has more than one.
    """
    names, results = _result_parts(keys, jobs)
    args = (turn, len(jobs), int(full), dropped, *[job.member for job in jobs], *results)
    return Request(_flags, script("complete"), (*keys.fixed, keys.seen(boot, part), *names), args)


def bury(keys: QueueKeys, boot: str, turn: int, jobs: Sequence[Burial], *, full: bool, dropped: bytes) -> Request[list[bool]]:
    """Move failed jobs to the dead letter queue. Returns as `complete`."""
    names, results = _result_parts(keys, jobs)
    args: list[Any] = [turn, len(jobs), int(full), dropped]
    for job in jobs:
        args += (job.member, job.tries)
    return Request(_flags, script("bury"), (*keys.fixed, keys.seen(boot, "bury"), *names), [*args, *results])


def retry(keys: QueueKeys, boot: str, turn: int, jobs: Sequence[Comeback]) -> Request[list[bool]]:
    """Put leased jobs back for later. Returns as `complete`."""
    args: list[Any] = [turn, len(jobs)]
    for job in jobs:
        args += job
    return Request(_flags, script("retry"), (*keys.fixed, keys.seen(boot, "retry")), args)


def release(keys: QueueKeys, boot: str, turn: int, jobs: Sequence[tuple[bytes, bytes]]) -> Request[list[bool]]:
    """Hand leased jobs, each (member, score at claim), back unused. Returns as `complete`."""
    args: list[Any] = [turn, len(jobs)]
    for job in jobs:
        args += job
    return Request(_flags, script("release"), (*keys.fixed, keys.seen(boot, "release")), args)


class Tallied(NamedTuple):
    """What was counted of a queue: see `bananas.tally` for the fields; and some of the jobs that ended, (ms, packed)."""

    minute: int
    names: Mapping[str, str]
    grown: Mapping[str, int]
    ended: Sequence[tuple[int, bytes]] = ()


def tally(keys: QueueKeys, boot: str, number: int, kept_ms: int, counted: Tallied) -> Request[bool]:
    """Add what was counted to the figures of the queue, which keeps those of a minute, and of ten, for so long."""
    parts = [part for pairs in (counted.names.items(), counted.ended, counted.grown.items()) for pair in pairs for part in pair]
    named = (*keys.fixed, keys.seen(boot, "tally"), *keys.all_stats(counted.minute), keys.recent)
    return Request(bool, script("tally"), named, (number, kept_ms, len(counted.names), len(counted.ended), *parts))


# --- leases -----------------------------------------------------------------------------------------------------------


class Extension(NamedTuple):
    """Per lease: whether it is held, and whether somebody wants its job stopped."""

    now_ms: int
    held: list[bool]
    cancelled: list[bool]


def extend(keys: QueueKeys, lease_ms: int, members: Sequence[bytes]) -> Request[Extension]:
    """Renew at most 1,000 leases from now on."""
    return Request(_read_extension, script("extend"), keys.fixed, (lease_ms, lease_ms // 2, *members))


def _read_extension(reply: list[Any]) -> Extension:
    return Extension(reply[0], _flags(reply[1]), _flags(reply[2]))


def reclaim(keys: QueueKeys, lease_ms: int, members: Sequence[bytes] = ()) -> Request[int]:
    """Take back leases that expired half a lease ago, or `members` of a process that is known to be dead. Returns how many."""
    return Request(int, script("reclaim"), keys.fixed, (lease_ms // 2, lease_ms // 2, SETTLE_BATCH, *members))


def isolate(keys: QueueKeys, member: bytes) -> Request[bool]:
    """Note that a suspect starts now, alone. False: its lease is lost, do not start it."""
    return Request(bool, script("isolate"), keys.fixed, (member,))


def rearm(keys: QueueKeys) -> Request[bool]:
    """Give the queue's marker back, so that another worker wakes. Returns whether it is armed."""
    return Request(bool, script("rearm"), keys.fixed, ())


# --- one job, by name -------------------------------------------------------------------------------------------------


class Once(NamedTuple):
    """Who asks, and their how many-th act on this queue it is: a resend changes nothing and gets the first reply.

    `UNNUMBERED`, number 0: nothing is remembered, for who does not resend or does not mind the second reply.
    """

    boot: str
    number: int


UNNUMBERED = Once("", 0)


def cancel(keys: QueueKeys, ids: Sequence[str], result: KeptResult, *, running: bool, once: Once = UNNUMBERED) -> Request[str]:
    """End waiting jobs with `result` (ttl 0: none), and mark running ones where `running`.

    Returns:
        per job 'e' ended, 'm' marked, 'r' running and left, 'd' dead and left, '0' not found.
    """
    return _act("cancel", _text, keys, once, (*result, int(running), *ids), [keys.result(job_id) for job_id in ids])


def reprioritize(keys: QueueKeys, priority: int, ids: Sequence[str], *, once: Once = UNNUMBERED) -> Request[str]:
    """Change priorities. Returns per job 'r' ready, 's' scheduled, 'l' running, 'd' dead, '0' not found."""
    return _act("reprioritize", _text, keys, once, (priority, *ids))


def reschedule(keys: QueueKeys, delay_ms: int, ids: Sequence[str], *, once: Once = UNNUMBERED) -> Request[str]:
    """Change when waiting jobs become ready. Returns per job 'e' done, 'l' running, 'd' dead, '0' not found."""
    return _act("reschedule", _text, keys, once, (delay_ms, *ids))


def replay(keys: QueueKeys, ids: Sequence[str], *, once: Once = UNNUMBERED) -> Request[str]:
    """Bring dead jobs back. Returns per job 'e' ready, 'u' its unique key is held by another, '0' not dead."""
    return _act("replay", _text, keys, once, ids, [keys.result(job_id) for job_id in ids])


def discard(keys: QueueKeys, ids: Sequence[str], *, once: Once = UNNUMBERED) -> Request[int]:
    """Delete dead jobs. Returns how many."""
    return _act("discard", int, keys, once, ids, [keys.notes(job_id) for job_id in ids])


def _act(name: str, parse: Callable[[Any], T], keys: QueueKeys, once: Once, args: Sequence[Any], results: Sequence[str] = ()) -> Request[T]:
    return Request(parse, script(name), (*keys.fixed, keys.seen(once.boot, "act"), *results), (once.number, *args))


def info(keys: QueueKeys, job_id: str) -> Request[list[Any]]:
    """All that is known of one job, raw: see lua/info.lua and `inspector.job_info`."""
    return Request(_same, script("info"), (*keys.fixed, keys.result(job_id), keys.notes(job_id)), (job_id,))


# --- a queue ----------------------------------------------------------------------------------------------------------


def pause(keys: QueueKeys, paused: bool, *, once: Once = UNNUMBERED) -> Request[bool]:
    """Stop or resume claims. Returns whether that changed anything."""
    return _act("pause", _truth, keys, once, (int(paused),))


def _truth(reply: int | bytes) -> bool:
    return bool(int(reply))


def cron_register(keys: QueueKeys, entries: Sequence[tuple[str, bytes, int]]) -> Request[list[int]]:
    """Announce cron entries, each (name, packed schedule, first tick in ms).

    Returns the server's ms, then of each its next tick, and when an operator asked for a run (0: nobody did).
    """
    args = [part for entry in entries for part in entry]
    return Request(_same, script("cron_register"), (*keys.fixed, keys.cron), args)


def cron_fire(
    keys: QueueKeys, name: str, schedule: bytes, tick_ms: int, next_ms: int | None, jobs: Sequence[NewJob], missed: int = 0
) -> Request[tuple[bool, int]]:
    """Fire a tick, or (without a next one) the run that an operator asked for at `tick_ms`, and submit its jobs, once.

    Args:
        missed: ticks that were passed over.

    Returns (whether this call fired it, jobs submitted).
    """
    args: list[Any] = [name, schedule, tick_ms, "" if next_ms is None else next_ms, missed]
    for job in jobs:
        args += (job.job_id, job.body, job.unique)
    return Request(lambda reply: (bool(reply[0]), int(reply[1])), script("cron_fire"), (*keys.fixed, keys.cron), args)


def failure(request: Request[Any], reply: Exception) -> ScriptFailed:
    """The error for a reply that no rule of ours explains."""
    what = request.script.name if request.script else request.args[0]
    return ScriptFailed(f"the server failed in {what!r}: {reply}. Whether it took effect is unknown.")
