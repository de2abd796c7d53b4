"""Orders to workers: claim no more (drain), stop, and tell the stack of a job that runs.

    await drain(app, boot)          # as SIGUSR1 to its supervisor: what runs ends, then it stays idle
    await stop(app, boot)           # as SIGTERM: what runs may end within shutdown_timeout, then it is gone
    print(await stack(app, job_id)) # where the code of a running job is now

A worker gets its orders with its beats, so it obeys within half a lease, whether or not its event loop is blocked and the server is full.
`inspector.workers` shows by `phase` that it does.
"""

import asyncio
import re
import secrets
import time

from bananas import broker
from bananas.app import Bananas
from bananas.errors import JobConflict, JobNotFound, NoAnswer, WorkerNotFound, describe
from bananas.info import job_info
from bananas.keys import answer_key
from bananas.operate.namespace import Namespace, keys_of
from bananas.operate.trail import note
from bananas.orders import HOLDS_MS, Order, order, read_answer

LOOK_S = 0.1


async def drain(app: Bananas, boot: str, *, who: str = "") -> None:
    """Let a worker claim no more: all processes of the supervisor to which this one belongs. It stays until it is stopped.

    Raises:
        WorkerNotFound: no such worker is alive.
        BrokerError: the server did not answer, or refused.
    """
    await _give(app, boot, Order(secrets.token_hex(8), "drain"))
    await note(app, "drain", f"worker:{boot}", 1, 1, who)


async def stop(app: Bananas, boot: str, *, who: str = "") -> None:
    """Stop a worker, as SIGTERM to the supervisor to which this process belongs. Whoever keeps it running may start another.

    Raises as `drain`.
    """
    await _give(app, boot, Order(secrets.token_hex(8), "stop"))
    await note(app, "stop", f"worker:{boot}", 1, 1, who)


async def stack(app: Bananas, job_id: str, *, timeout: float | None = None) -> str:
    """Where the code of a running job is: the frames of its coroutine, its thread, or its process, as in a traceback.

    Args:
        timeout: how long to wait, in seconds; by default 10, longer where the app's lease makes beats rare.

    Raises:
        InvalidName, JobNotFound, JobConflict: the text is no id; there is no such job; it does not run.
        NoAnswer: its worker did not tell within `timeout` seconds.
        BrokerError: the server did not answer, or refused.
    """
    keys, own = keys_of(app, job_id)
    (reply,) = await Namespace(app).ask(keys, [broker.info(keys, own)], f"looking at job {job_id}")
    info = job_info(keys, own, reply, app.client.seals)
    if info.state == "unknown":
        raise JobNotFound(f"there is no job {info.id}: it has ended, was cancelled, or never was")
    if info.state != "running" or info.worker is None:
        raise JobConflict(f"job {info.id} is {info.state}: only a job that runs has a stack")
    seconds = max(10.0, app.settings.lease / 2) if timeout is None else timeout
    asked, until = Order(secrets.token_hex(8), "stack", info.id), time.monotonic() + seconds
    try:
        await _give(app, info.worker, asked)
    except WorkerNotFound as error:
        raise NoAnswer(f"job {info.id} has no stack to show: its worker {info.worker} is gone, and it will be taken back") from error
    key, namespace = answer_key(app.settings.namespace, asked.id), app.settings.namespace
    while time.monotonic() < until:
        answer = await app.client.ask_home(namespace, broker.plain(read_answer, "GET", key), "reading a worker's answer")
        if answer is not None and answer.found:
            return answer.text
        if answer is not None:
            raise JobConflict(f"job {info.id} has no stack: {answer.text}")
        await asyncio.sleep(LOOK_S)
    raise NoAnswer(
        f"worker {info.worker} has not told the stack of job {info.id} within {seconds:g} s: its machine is away or slow, or the handler "
        "holds the interpreter in C; then the worker's own log has the stack (blocked_loop_warning)"
    )


async def _give(app: Bananas, boot: str, given: Order) -> None:
    if not re.fullmatch(r"[0-9a-f]{16}", boot):
        raise WorkerNotFound(f"{describe(boot, 100)} is no worker: give its boot id, 16 hex digits, as the list of workers shows it")
    namespace = app.settings.namespace
    code = await app.client.ask_home(namespace, order(namespace, boot, given), f"giving an order to worker {boot}")
    if code == "n":
        raise WorkerNotFound(f"there is no worker {boot}: it has stopped, or its machine is away. Nothing was done")
    if code == "f":
        raise NoAnswer(f"worker {boot} has not fetched earlier orders: this one was not given. They are void after {HOLDS_MS // 1000} s")
