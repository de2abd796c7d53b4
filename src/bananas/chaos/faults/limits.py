"""What a server or the API refuses: F22 (full), F23 (evicting), F25 (garbage), F26 (names), F28 (sizes)."""

import time
from collections.abc import Sequence
from typing import Any

from bananas.app import Bananas
from bananas.chaos.processes import eventually
from bananas.chaos.site import Site
from bananas.chaos.tasks import NAMESPACE
from bananas.chaos.trials import Fault, Trial
from bananas.codec import pack
from bananas.errors import BananasError, InvalidName, PayloadTooLarge, QueueFull, ServerUnsuitable, TaskError
from bananas.keys import id_suffix, new_id

STEP = 2**42


async def _expect(trial: Trial, error: type[BananasError], what: str, call: Any) -> BananasError | None:
    """Await a call that must raise this error; returns it."""
    try:
        await call
    except error as expected:
        return expected
    except Exception as other:
        trial.check(False, f"{what} raised {type(other).__name__}: {other}, not {error.__name__}")
    else:
        trial.check(False, f"{what} was accepted, where {error.__name__} was to be raised")
    return None


# --- F22, F23 ---------------------------------------------------------------------------------------------------------


async def full(trial: Trial) -> None:
    """F22: full with jobs waiting that succeed with results, and that are retried."""
    site = await trial.site()
    pairs = await site.submit_many(trial.pick(300, 3_000), "work", 0.0)
    pairs += await site.submit_many(trial.pick(50, 500), "fails", 2)
    pairs += await site.submit_many(20, "work", 0.0, options={"delay": 1.0})
    used = int(site.host.info("memory")["used_memory"])
    site.ask("CONFIG", "SET", "maxmemory", used * 9 // 10)
    await _expect(trial, QueueFull, "a submit to a full server", site.submit("work", 0.0))
    await site.worker(2, worker_concurrency=10)
    began = time.monotonic()
    drained = await site.rest(trial.pick(60, 120))
    trial.check(drained, f"the queue of a full server did not drain: {site.counts()}")
    trial.count("drained in s", round(time.monotonic() - began, 1))
    site.ask("CONFIG", "SET", "maxmemory", 0)
    await site.submit("work", 0.0)
    verdict = await trial.judge(site)
    trial.check(verdict.acked == len(pairs) + 1, "a submit that raised was acknowledged")
    trial.check(verdict.duplicate_runs == 0, f"{verdict.duplicate_runs} duplicate runs")


async def evicting(trial: Trial) -> None:
    """F23: every policy that evicts."""
    site = await trial.site()
    policies = ["allkeys-lru", "allkeys-random", "volatile-ttl", "allkeys-lfu", "volatile-lru", "volatile-random", "volatile-lfu"]
    for policy in policies[: trial.pick(2, 7)]:
        site.ask("CONFIG", "SET", "maxmemory-policy", policy)
        app = Bananas(site.url, namespace=NAMESPACE)
        error = await _expect(trial, ServerUnsuitable, f"a submit under {policy}", app.submit("work", "never", 0.0))
        trial.check(error is None or policy in str(error), f"the refusal does not name {policy}: {error}")
        await app.close()
        worker = site.start()
        code = await worker.ended(60)
        trial.check(code == 2 and policy in worker.log, f"a worker under {policy} ended with {code}:\n{worker.log[-500:]}")
        trial.count("policies refused")
    site.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await trial.judge(site)


# --- F25 --------------------------------------------------------------------------------------------------------------


def _garbage(trial: Trial, good: bytes) -> dict[str, bytes]:
    """Bodies that no version of ours has written: behind the eight bytes of the birth."""
    birth, body = good[:8], good[8:]
    nested = pack(1)
    for _ in range(2_000):
        nested = b"\x91" + nested
    return {
        "random": birth + trial.dice.randbytes(trial.dice.randint(1, 400)),
        "truncated": birth + body[: trial.dice.randrange(1, len(body))],
        "wrong types": birth + body[:1] + pack([{"a": 1}, [2], "three", None, 5.5]),
        "deep": birth + body[:1] + nested,
        "empty": birth,
        "nothing": b"",
        "one byte": b"\xc1",
        "huge length": birth + body[:1] + b"\xdd\xff\xff\xff\xff",
    }


async def garbage(trial: Trial) -> None:
    """F25: bodies written past the API, between good jobs."""
    site = await trial.site()
    await site.submit_many(20, "work", 0.0)
    _, pattern = await site.submit("work", 0.0)
    good: bytes = site.ask("HGET", site.keys.jobs, pattern.place[1])
    broken: dict[str, str] = {}
    now_ms = int(time.time() * 1000)
    for _ in range(trial.pick(1, 10)):
        for what, body in _garbage(trial, good).items():
            job_id = new_id(id_suffix("work", 500))
            site.ask("HSET", site.keys.jobs, job_id, body)
            site.ask("ZADD", site.keys.ready, 500 * STEP + now_ms, job_id)
            broken[job_id] = what
    await site.submit_many(20, "work", 0.0)
    (worker,) = await site.worker(worker_concurrency=5)
    await eventually(lambda: site.counts()["dead"] + site.counts()["ready"] > 0 and site.at_rest(), "the end of all jobs", 60)
    for job_id, what in broken.items():
        info = await site.app.job(site.keys.public(job_id)).info()
        trial.check(info.state == "dead" and info.errors, f"a job whose body is {what} is {info.state} with {info.errors}")
    trial.count("bodies of garbage", len(broken))
    trial.check(worker.children() and "died with exit code" not in worker.log, "a worker process died of garbage")
    await site.submit("work", 0.0)  # the loop goes on
    await site.app.queue("default").dead.purge()
    await trial.judge(site)


# --- F26, F28 ---------------------------------------------------------------------------------------------------------

HOSTILE = (
    *("", " ", "a b", "{", "}", "{x}", "a{b}", "a}b", ":", "a:b", "*", "a*", "?", "[a]", "\0", "a\0b", "a\n"),
    *("é", "日本", "\ud800", "a.b", "..", "/", "x" * 65, "x" * 10_240),
)
INNER = ("ready", "jobs", "leases", "meta", "wake", "workers", "queues", "seen", "result", "cron", "unique", "-", "_", "0", "x" * 64)


async def hostile_names(trial: Trial) -> None:
    """F26: names that would break keys, and names that are those of our own keys."""
    site = await trial.site()
    before = set(site.ask("KEYS", "*"))
    for name in HOSTILE:
        await _expect(trial, InvalidName, f"the queue {name[:20]!r}", site.app.submit("work", "never", 0.0, options={"queue": name}))
        try:
            Bananas(site.url, namespace=name)
        except BananasError:
            pass
        else:
            trial.check(name.strip().isalnum() or not name.strip(), f"the namespace {name[:20]!r} was accepted")
    for name in ("", " a", "a ", "a\0b", "a\nb", "x" * 201):
        await _expect(trial, InvalidName, f"the task {name[:20]!r}", site.app.submit(name))
    written = {bytes(key) for key in site.ask("KEYS", "*")} - before
    trial.check(not written, f"refused names left keys behind: {written}")
    await _inner_names(trial, site)
    trial.count("names refused", 2 * len(HOSTILE) + 6)


async def _inner_names(trial: Trial, site: Site) -> None:
    """Queues and unique keys called like our own keys, all of them at work at once, with tasks of any name."""
    await site.worker(worker_routing_keys=",".join(INNER), worker_concurrency=20)
    jobs = []
    for name in INNER:
        (label, job) = await site.submit("work", 0.0, options={"queue": name, "unique": f"={{{name}}}:*\0é"})
        jobs.append((label, job))
    for _, job in jobs:
        await job.result(timeout=30)
    for name in INNER:
        unknown = await site.app.submit(f"{{{name}}}:ready*é", options={"queue": name, "delay": 3_600})
        await unknown.cancel()
    await site.rest(10)
    audit = await site.audit()
    trial.findings += len(audit.findings)
    trial.check(audit.clean and set(INNER) <= set(audit.queues), f"the audit finds {audit.findings} in {audit.queues}")
    await trial.judge(site)


async def sizes(trial: Trial) -> None:
    """F28: payloads and results on both sides of the limit."""
    site = await trial.site()
    limit = 1 << 20
    await site.worker(worker_concurrency=2)
    for size in (1, 1_000, 100_000, limit - 2_000):
        _, job = await site.submit("answer", size)
        trial.check(len(await job.result(timeout=30)) == size, f"a result of {size} bytes came back with another size")
        _, job = await site.submit("work", 0.0, options={"headers": {"x": "y" * size}})
        await job.result(timeout=30)
        trial.count("sizes accepted", 2)
    for size in trial.pick((limit, 64 << 20), (limit, 2 << 20, 8 << 20, 64 << 20)):
        before = site.counts(), site.ask("HLEN", site.keys.jobs)
        call = site.app.submit("work", "never", "x" * size)
        error = await _expect(trial, PayloadTooLarge, f"a payload of {size} bytes", call)
        if isinstance(error, PayloadTooLarge):
            trial.check(
                error.size_bytes > size and error.limit_bytes == limit, f"the error says {error.size_bytes} and {error.limit_bytes}"
            )
        trial.check((site.counts(), site.ask("HLEN", site.keys.jobs)) == before, "a refused payload left something behind")
        _, job = await site.submit("answer", size)
        refusal = await _expect(trial, TaskError, f"a result of {size} bytes", job.result(timeout=60))
        text = str(refusal)
        trial.check(refusal is None or ("limit" in text and f"{limit:,}" in text), f"the refused result says: {text[:300]}")
        trial.count("sizes refused", 2)
    await trial.judge(site)


FAULTS: Sequence[Fault] = (
    Fault(
        "F22",
        "server full",
        "maxmemory below what is used, noeviction",
        "submit raises QueueFull; claim, settle and retry go on; the queue drains to zero",
        full,
    ),
    Fault("F23", "evicting policy", "maxmemory-policy allkeys-lru and its like", "clients and workers refuse, with the reason", evicting),
    Fault(
        "F25",
        "garbage in a body",
        "random bytes, truncated msgpack, wrong types, deep nesting",
        "that job is dead with the reason; loop and reclaim go on",
        garbage,
    ),
    Fault(
        "F26",
        "hostile names",
        "of queues, tasks, namespaces: {}, :, *, NUL, Unicode, 10 KB; queues called like our own keys",
        "refused at the API, nothing is written; no collision with internal keys",
        hostile_names,
    ),
    Fault(
        "F28",
        "oversized payload or result",
        "1 B to 64 MB",
        "a typed error with size and limit; no partial job",
        sizes,
    ),
)
