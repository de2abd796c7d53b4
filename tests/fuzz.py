"""Every reader of bytes and text that come from outside, with samples of what is right: for the tests that feed them what is not.

A `Reader` gives a value or raises one of its documented errors, whatever it reads. `check` says whether it did.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import hiredis
import msgspec
from msgspec import Raw

from bananas import ConfigError, InvalidArguments, InvalidName, JobUndecodable, ResultsDisabled, TaskError, broker, codec, sealing
from bananas.address import Address, parse_url
from bananas.codec import Signature, Undecodable, pack
from bananas.config import load_settings
from bananas.connection import ReplyError
from bananas.discovery import search
from bananas.errors import BrokerUnavailable, ScriptFailed, ServerUnsuitable
from bananas.info import job_info, with_worker
from bananas.inspector import worker_info
from bananas.job import Envelope, ErrorRecord, History, Result, Tagged, Tries
from bananas.keys import QueueKeys, id_suffix, new_id, parse_public_id
from bananas.notes import pack_line, pack_progress
from bananas.operate.crons import read_entry
from bananas.operate.servers import figures
from bananas.orders import Answer, Order, read_answer, read_order
from bananas.result import value_of
from bananas.schedule import next_ms, parse
from bananas.seals import Choice, Seals
from bananas.session import server_info
from bananas.worker import table as tables
from bananas.worker.control import Garbled, Lines, Message, WorkerSpec, line
from bananas.worker.notes import Entry, jot

KEY = f"k1:{base64.b64encode(bytes(32)).decode()}"
SEALS = Seals(load_settings({"encryption_keys": KEY, "compression_threshold": 64, "max_payload": "100KB"}, {}))
KEYS = QueueKeys("shop", "email")
PLACE: sealing.Place = (KEYS, new_id(id_suffix("send", 500)))
BIRTH = (1_800_000_000_000).to_bytes(8, "big")
CHOICES = [Choice(True, True), Choice(True, False), Choice(False, True)]
LIMIT = 2**20


class Reader(NamedTuple):
    """What reads, what it may raise, and inputs that it takes."""

    read: Callable[[bytes], Any]
    errors: tuple[type[Exception], ...]
    samples: list[bytes]


def check(reader: Reader, data: bytes) -> Any:
    """What the reader made of it; None where it raised a documented error. Every other error passes."""
    try:
        return reader.read(data)
    except reader.errors:
        return None


# --- jobs, results, errors ------------------------------------------------------------------------------------------------------------

JOB: Envelope[Any] = Tagged("send", ("a" * 100, 1), {"x": [None]}, 5, 3, (1.0, 2.0, 60.0, True), 1, 2, 3, {"tenant": "acme"}, ("vip",))
RESULTS = [
    Result("success", Raw(pack(["x" * 100]))),
    Result("dead", Raw(b"\xc0"), "ValueError", "why", "Traceback " * 20, 3, 1, 2, 0.5, "h:1"),
]
RECORD = ErrorRecord(1, 2, "ValueError", "why", "Traceback", "host:1")
HIDDEN = sealing.hide_error(RECORD, SEALS, PLACE)
BODIES = [BIRTH + codec.pack_envelope(JOB, LIMIT), *[BIRTH + sealing.pack_job(JOB, LIMIT, SEALS, choice, PLACE) for choice in CHOICES]]
PACKED_RESULTS = [
    packed
    for result in RESULTS
    for packed in [codec.pack_result(result), *[sealing.pack_result(result, SEALS, choice, PLACE) for choice in CHOICES]]
]
RECORDS = [b"0 0 0 1 - ", codec.pack_tries(Tries(1, 2, 1, 5, History((RECORD, HIDDEN), 7, 2)))]
INFO = [1, b"dead", b"5", 0, 500, *BODIES[:1], RECORDS[1], b"", 0, PACKED_RESULTS[0], 0]


def info_of_body(data: bytes) -> Any:
    return job_info(KEYS, PLACE[1], [1, b"ready", b"5", 0, 500, data, RECORDS[1], b"", 0, b"", 0, b""], SEALS)


def info_of_tries(data: bytes) -> Any:
    return job_info(KEYS, PLACE[1], [1, b"dead", b"5", 0, 500, BODIES[0], data, b"", 0, b"", 0, b""], SEALS)


def info_of_result(data: bytes) -> Any:
    return job_info(KEYS, PLACE[1], [1, b"done", b"", b"", 500, b"", b"", b"", 0, data, 0, b""], SEALS)


def info_of_notes(data: bytes) -> Any:
    return job_info(KEYS, PLACE[1], [1, b"leased", b"5", 0, 500, BODIES[0], b"", b"boot:0000000001", 0, b"", 0, data], SEALS)


def stored_notes(seals: Seals | None) -> bytes:
    progress = pack_progress(1, 0.5, "page 1 of 2", seals, PLACE)
    return b"0000000001 2 2 %d " % len(progress) + progress + 2 * pack_line(1_800_000_000_000, 1, "a line", seals, PLACE)


def info_of_worker(data: bytes) -> Any:
    info = job_info(KEYS, PLACE[1], [1, b"leased", b"5", 0, 500, BODIES[0], b"", b"boot:1", 0, b"", 0, b""], SEALS)
    return with_worker(info, data)


WORKER = {"host": "h", "pid": 1, "supervisor": 1, "queues": ["a"], "tasks": [], "slots": 1, "running": [], "overdue": [], "started_ms": 1}


def sealed_alone(data: bytes) -> bytes:
    return SEALS.open(data, b"binding")


# --- arguments ------------------------------------------------------------------------------------------------------------------------


@dataclass
class Point:
    x: int
    label: str | None = None


class Parcel(msgspec.Struct):
    number: int
    items: list[Point]


def handler(parcel: Parcel, when: datetime, price: Decimal, key: uuid.UUID, wait: timedelta, *tags: set[str], deep: Any = None) -> None: ...


SIGNATURE = Signature(handler)
ARGS = (Parcel(1, [Point(2)]), datetime(2026, 1, 1, tzinfo=UTC), Decimal(1), uuid.UUID(int=1), timedelta(1), {"a"})


def arguments(data: bytes) -> Any:
    return SIGNATURE.build(Raw(pack(ARGS)), {"deep": Raw(data)}), SIGNATURE.build(Raw(data), None)


# --- replies of the server ------------------------------------------------------------------------------------------------------------

NAMES = [new_id(id_suffix("send", 500)) for _ in range(2)]
RESULT = broker.KeptResult(1, b"x")
REQUESTS: list[broker.Request[Any]] = [
    broker.enqueue(KEYS, "boot", 1, [broker.NewJob(NAMES[0], b"x")]),
    broker.claim(KEYS, "boot", 1, 10, 8_000),
    broker.recover(KEYS, "boot", 1, 1),
    broker.promote(KEYS),
    broker.complete(KEYS, "boot", 1, [broker.Ending(b"m", None)], full=False, dropped=b""),
    broker.extend(KEYS, 8_000, [b"m"]),
    broker.reclaim(KEYS, 8_000),
    broker.isolate(KEYS, b"m"),
    broker.rearm(KEYS),
    broker.cancel(KEYS, NAMES, RESULT, running=True),
    broker.discard(KEYS, NAMES),
    jot(KEYS, [Entry(b"m", 1, 1, b"", 0, b"")]),
    broker.pause(KEYS, True),
    broker.cron_fire(KEYS, "sweep", b"1", 1, 2, []),
    server_info(),
]
CLAIM = b"*10\r\n:1\r\n:2\r\n:3\r\n:-1\r\n:0\r\n:0\r\n*2\r\n$1\r\na\r\n$1\r\n5\r\n*1\r\n$1\r\nb\r\n*1\r\n$-1\r\n*0\r\n"
REPLIES = [
    CLAIM,
    b"*3\r\n:1\r\n$2\r\n10\r\n$2\r\n01\r\n",
    b"*2\r\n:1\r\n:2\r\n",
    b"$3\r\nabc\r\n",
    b":1\r\n",
    b"$-1\r\n",
    b"+OK\r\n",
    b"-ERR no\r\n",
]


def replies(data: bytes) -> Any:
    """What each request makes of the first reply in these bytes."""
    protocol = hiredis.Reader()
    protocol.feed(data)
    reply = protocol.gets()
    if reply is False or isinstance(reply, hiredis.ReplyError):
        return None
    made: list[Any] = []
    for request in REQUESTS:
        try:
            made.append(request.read(reply))
        except ScriptFailed as error:
            made.append(error)
    return made


SENTINEL, CLUSTER = parse_url("redis+sentinel://a/main"), parse_url("redis+cluster://a")
SLOTS = b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$1\r\nh\r\n:6379\r\n$2\r\nid\r\n"


def server_named(address: Address) -> Callable[[bytes], Any]:
    """The server that an address leads to, when the first node that is asked answers this."""

    def read(data: bytes) -> Any:
        protocol = hiredis.Reader(replyError=ReplyError)
        protocol.feed(data)
        if (reply := protocol.gets()) is False:
            return None
        steps = search(address, 7)
        next(steps)
        try:
            steps.send(reply)
        except StopIteration as end:
            return end.value

    return read


# --- what people and processes write --------------------------------------------------------------------------------------------------


def text(read: Callable[[str], Any]) -> Callable[[bytes], Any]:
    return lambda data: read(data.decode("utf-8", "surrogateescape"))


def schedule_of(expression: str) -> Any:
    return next_ms(parse(expression), 1_800_000_000_000)


def setting(name: str) -> Reader:
    samples = {"REDIS_URL": b"redis://:pw@host:6380/2", "JOB_TIMEOUT": b"1h30m", "BANANAS_ENCRYPTION_KEYS": KEY.encode()}
    samples |= {"BANANAS_MAX_PAYLOAD": b"512KB", "WORKER_PRIORITIES": b"high,7", "WORKER_ROUTING_KEYS": b"email:3,default"}
    mode = {"WORKER_PRIORITIES": "specialized", "WORKER_JOB_TYPES": "job-specialized"}.get(name, "default")
    root = Path("/")
    return Reader(text(lambda value: load_settings({"worker_mode": mode}, {name: value}, root)), (ConfigError,), [samples.get(name, b"1")])


def lines(data: bytes) -> Any:
    reader, half = Lines(), len(data) // 2
    return [*reader.feed(data[:half]), *reader.feed(data[half:])]


def lease_table(data: bytes) -> Any:
    table = tables.private(4)
    try:
        size = tables.size_of(4)
        table._memory[:] = data[:size].ljust(size, b"\0")
        return table.held(), table.beaten, table.server_full, table.lost(3, b"member")
    finally:
        table.close()


def cron_entry(stored: str) -> Any:
    record, _, state = stored.partition("|")
    return read_entry(KEYS, "nightly", record, state, 7)


def server_figures(info: str) -> Any:
    return figures(dict(line.split(":", 1) for line in info.splitlines() if ":" in line), "standalone", 0.0)


READERS: dict[str, Reader] = {
    "unpack": Reader(codec.unpack, (Undecodable,), [pack([1, "a", None, {"b": b"c"}])]),
    "unpack as": Reader(lambda data: codec.unpack(data, Parcel), (Undecodable,), [pack(Parcel(1, [Point(2)]))]),
    "body": Reader(codec.unpack_body, (Undecodable,), BODIES),
    "job": Reader(lambda data: sealing.read_job(data, SEALS, PLACE), (Undecodable,), BODIES),
    "head of a job": Reader(sealing.job_head, (Undecodable,), BODIES[1:]),
    "is encrypted": Reader(sealing.is_encrypted, (), BODIES),
    "birth": Reader(codec.birth_ms, (), BODIES),
    "plain result": Reader(codec.unpack_result, (Undecodable,), PACKED_RESULTS),
    "result": Reader(lambda data: sealing.read_result(data, SEALS, PLACE), (Undecodable,), PACKED_RESULTS),
    "value": Reader(
        lambda data: value_of(data, PLACE, SEALS, list[str], True), (JobUndecodable, TaskError, ResultsDisabled), PACKED_RESULTS
    ),
    "sealed": Reader(sealed_alone, (Undecodable,), [SEALS.close(b"abc" * 50, b"binding", choice) for choice in CHOICES]),
    "sealed error": Reader(
        lambda data: sealing.shown_error(msgspec.structs.replace(HIDDEN, sealed=data), SEALS, PLACE), (), [HIDDEN.sealed]
    ),
    "tries": Reader(codec.unpack_tries, (), RECORDS),
    "info, body": Reader(info_of_body, (), BODIES),
    "info, tries": Reader(info_of_tries, (), RECORDS),
    "info, result": Reader(info_of_result, (), PACKED_RESULTS),
    "info, notes": Reader(info_of_notes, (), [stored_notes(None), stored_notes(SEALS)]),
    "info, worker": Reader(info_of_worker, (), [bytes(8) + pack({"host": "h", "pid": 1, "overdue": []})]),
    "worker": Reader(lambda data: worker_info(data[:4], data), (), [bytes(8) + pack(WORKER)]),
    "order": Reader(read_order, (), [msgspec.msgpack.encode(Order("0" * 16, "stack", "q.1"))]),
    "answer": Reader(read_answer, (), [msgspec.msgpack.encode(Answer(True, "text"))]),
    "cron entry": Reader(text(cron_entry), (ValueError,), [b"5 6 0 once UTC 0 3 * * *|0 9 1 2 3 4 id", b"5 6 1000 once UTC |"]),
    "figures of a server": Reader(text(server_figures), (), [b"redis_version:7.0.15\r\nmaxmemory:1\r\nslave0:ip=::1,lag=3\r\n"]),
    "arguments": Reader(arguments, (InvalidArguments,), [pack(ARGS)]),
    "replies": Reader(replies, (hiredis.ProtocolError,), REPLIES),
    "sentinel": Reader(
        server_named(SENTINEL), (BrokerUnavailable, ServerUnsuitable, hiredis.ProtocolError), [b"*2\r\n$1\r\nh\r\n$4\r\n6379\r\n"]
    ),
    "slots": Reader(server_named(CLUSTER), (BrokerUnavailable, ServerUnsuitable, hiredis.ProtocolError), [SLOTS]),
    "public id": Reader(text(parse_public_id), (InvalidName,), [KEYS.public(NAMES[0]).encode(), f"email.3.{NAMES[1]}".encode()]),
    "url": Reader(
        text(parse_url),
        (ConfigError,),
        [
            b"rediss://u:p%40@[::1]:6380/2?ssl_cert_reqs=none",
            b"unix:///tmp/s.sock?db=1",
            b"redis+sentinel://u:p@a:1,[::1]/main/2",
            b"rediss+cluster://a,b:2",
        ],
    ),
    "schedule": Reader(text(schedule_of), (ConfigError,), [b"*/5 1-3 * * mon", b"0 0 0 29 2 *", b"@hourly"]),
    "lines": Reader(lines, (Garbled,), [line(Message(lost=["a"])) + line(Message(start=WorkerSpec(target="shop:app")))]),
    "lease table": Reader(lease_table, (), [bytes(range(256)) * 4]),
    **{f"setting {name}": setting(name) for name in ("REDIS_URL", "JOB_TIMEOUT", "BANANAS_MAX_PAYLOAD", "WORKER_PRIORITIES")},
    **{
        f"setting {name}": setting(name)
        for name in ("WORKER_ROUTING_KEYS", "WORKER_JOB_TYPES", "BANANAS_ENCRYPTION_KEYS", "BANANAS_SUBMIT_RATE")
    },
}
