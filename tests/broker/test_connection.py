"""The connection against a real server and against one that never answers: batches, deadlines, the login, what is closed when."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.pretty import pretty_repr
from tests.support import eventually

from bananas.address import Address, parse_url
from bananas.connection import Connection, ConnectionLost, ReplyError, SyncConnection
from bananas.errors import AuthenticationFailed, BrokerUnavailable, ConfigError, ServerUnsuitable
from bananas.server import PrivateServer
from bananas.session import open_checked_sync

GET_TIME = ("TIME",)
NEVER = ("BLPOP", "nothing", 0)


async def lost_after(connection: Connection, command: tuple[Any, ...], timeout: float) -> float:
    """Seconds until the command ended with ConnectionLost."""
    began = time.monotonic()
    with pytest.raises(ConnectionLost):
        await connection.execute([command], timeout)
    return time.monotonic() - began


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "silent"))
        listening.listen()
        yield listening


@pytest.fixture
def silent(listener: socket.socket) -> Address:
    """Where somebody listens and never answers."""
    return Address(path=listener.getsockname())


async def test_replies_come_in_order_and_an_error_stays_in_its_place(connection: Connection) -> None:
    replies = await connection.execute([("SET", "{a}:jobs", 1), ("HGET", "{a}:jobs", "x"), ("GET", "{a}:jobs"), ("DEL", "{a}:jobs")], 5)
    assert (replies[0], replies[2:]) == (b"OK", [b"1", 1])
    assert isinstance(replies[1], ReplyError)
    assert str(replies[1]).startswith("WRONGTYPE")


async def test_batches_that_are_under_way_together_get_their_own_replies(connection: Connection) -> None:
    batches = [[("ECHO", f"{batch}-{item}") for item in range(batch % 4 + 1)] for batch in range(50)]
    replies = await asyncio.gather(*(connection.execute(batch, 5) for batch in batches))
    assert replies == [[command[1].encode() for command in batch] for batch in batches]


async def test_an_empty_batch_is_answered_at_once_and_disturbs_nothing(connection: Connection) -> None:
    assert await connection.execute([], 5) == []
    assert await connection.execute([("ECHO", "a")], 5) == [b"a"]


async def test_a_reply_larger_than_the_buffer_arrives_whole(connection: Connection) -> None:
    large = bytes(range(256)) * 8_192
    assert await connection.execute([("ECHO", large)], 5) == [large]


async def test_a_deadline_is_kept_after_a_longer_one(connection: Connection) -> None:
    await connection.execute([GET_TIME], 30)
    assert await lost_after(connection, NEVER, 0.05) < 5
    assert connection.closed


async def test_a_deadline_is_kept_behind_a_batch_with_a_longer_one(connection: Connection) -> None:
    first = asyncio.ensure_future(connection.execute([NEVER], 30))
    await asyncio.sleep(0)  # it is sent first
    assert await lost_after(connection, GET_TIME, 0.05) < 5
    with pytest.raises(ConnectionLost):
        await first


async def test_a_caller_that_goes_away_leaves_the_connection_usable(connection: Connection) -> None:
    waiting = asyncio.ensure_future(connection.execute([("BLPOP", "nothing", 0.01)], 5))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await connection.execute([("ECHO", "next")], 5) == [b"next"]


async def test_a_connection_that_the_server_ends_says_so_to_every_batch(connection: Connection, server: PrivateServer) -> None:
    waiting = [asyncio.ensure_future(connection.execute([NEVER], 30)) for _ in range(3)]
    other = await Connection.open(parse_url(server.url))
    await other.execute([("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")], 5)
    other.close()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ConnectionLost] * 3
    assert connection.lost.done()
    with pytest.raises(ConnectionLost, match="closed"):
        await connection.execute([GET_TIME], 5)


async def test_opening_ends_in_time_when_nobody_answers(silent: Address) -> None:
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="no Redis or Valkey server answers"):
        await Connection.open(silent, timeout=0.05)
    with pytest.raises(BrokerUnavailable, match="no Redis or Valkey server answers"):
        SyncConnection(silent, timeout=0.05)
    assert time.monotonic() - began < 5


async def test_opening_that_is_cancelled_leaves_no_socket(silent: Address) -> None:
    opening = asyncio.ensure_future(Connection.open(silent, timeout=30))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening  # a socket left behind is a ResourceWarning, and so an error


async def test_nobody_there_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable, match="nowhere"):
        await Connection.open(Address(path=str(tmp_path / "nowhere")))
    with pytest.raises(BrokerUnavailable, match="nowhere"):
        SyncConnection(Address(path=str(tmp_path / "nowhere")))


async def test_a_refused_login_is_told_by_both_kinds_without_the_password(server: PrivateServer) -> None:
    url = parse_url(server.url)
    wrong = Address(path=url.path, username="somebody", password="a-secret")
    with pytest.raises(AuthenticationFailed, match="REDIS_URL") as caught:
        await Connection.open(wrong)
    with pytest.raises(AuthenticationFailed):
        SyncConnection(wrong)
    assert "a-secret" not in f"{caught.value} {wrong!r}"


async def test_the_connection_is_named_and_in_its_database(server: PrivateServer) -> None:
    url = parse_url(server.url)
    connection = await Connection.open(Address(path=url.path, db=3), "a-name")
    (told,) = await connection.execute([("CLIENT", "INFO")], 5)
    assert b" name=a-name " in told
    assert b" db=3 " in told
    connection.close()


async def test_messages_go_to_the_listener(server: PrivateServer, connection: Connection) -> None:
    heard: list[list[Any]] = []
    listening = await Connection.open(parse_url(server.url), on_message=heard.append)
    listening.post(("SUBSCRIBE", "news"))

    async def told() -> bool:
        await connection.execute([("PUBLISH", "news", "hello")], 5)
        return [b"message", b"news", b"hello"] in heard

    await eventually(told)
    listening.close()


def test_a_blocking_read_that_times_out_leaves_the_connection_usable(server: PrivateServer) -> None:
    connection = SyncConnection(parse_url(server.url))
    connection.execute([("SUBSCRIBE", "news")], 5)
    with pytest.raises(TimeoutError):
        connection.read(time.monotonic() + 0.01)
    assert connection.execute([("PING",)], 5) == [[b"pong", b""]]
    connection.close()
    with pytest.raises(ConnectionLost):
        connection.execute([GET_TIME], 5)


def test_a_blocking_batch_that_is_not_answered_in_time_closes_the_connection(server: PrivateServer) -> None:
    connection = SyncConnection(parse_url(server.url))
    with pytest.raises(ConnectionLost):
        connection.execute([NEVER], 0.05)
    assert connection.closed


def test_an_exception_of_a_signal_handler_leaves_no_reply_for_the_next_call(server: PrivateServer) -> None:
    connection = SyncConnection(parse_url(server.url))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR2, interrupt)
    try:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR2)).start()
        with pytest.raises(KeyboardInterrupt):
            connection.execute([("BLPOP", "nothing", 1)], 5)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert connection.closed, "its next caller would take the answer to BLPOP for its own"


def test_signals_that_come_all_the_time_do_not_prolong_a_call(server: PrivateServer) -> None:
    connection = SyncConnection(parse_url(server.url))
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        began = time.monotonic()
        with pytest.raises(ConnectionLost):
            connection.execute([("BLPOP", "nothing", 5)], 0.3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 3


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Address]:
    """Where somebody listens with TLS whose certificate nobody knows."""
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-subj", "/CN=stranger"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            for _ in range(2):
                taken, _ = listening.accept()
                with taken, contextlib.suppress(OSError):
                    context.wrap_socket(taken, server_side=True)

        greeting = threading.Thread(target=greet)
        greeting.start()
        yield Address(port=listening.getsockname()[1], tls=True)
        greeting.join()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
async def test_a_certificate_that_nobody_knows_is_not_tried_again(stranger: Address) -> None:
    with pytest.raises(ServerUnsuitable, match=r"certificate.*ssl_ca_certs"):
        await Connection.open(stranger)
    with pytest.raises(ServerUnsuitable, match=r"certificate.*ssl_ca_certs"):
        await asyncio.to_thread(SyncConnection, stranger)


def test_a_batch_that_is_read_slowly_ends_with_its_deadline(silent: Address, listener: socket.socket) -> None:
    over = threading.Event()

    def read_slowly() -> None:
        taken, _ = listener.accept()
        with taken:
            taken.recv(1_000)
            taken.sendall(b"+OK\r\n")
            while not over.wait(0.05) and taken.recv(10_000):
                pass

    reader = threading.Thread(target=read_slowly)
    reader.start()
    connection = SyncConnection(silent)
    began = time.monotonic()
    with pytest.raises(ConnectionLost):
        connection.execute([("SET", "key", "x" * 2_000_000)], 0.2)
    over.set()
    reader.join()
    assert time.monotonic() - began < 1.5


def test_a_connection_that_is_reset_is_lost(listener: socket.socket, silent: Address) -> None:
    def reset() -> None:
        taken, _ = listener.accept()
        with taken:
            taken.recv(1_000)
            taken.sendall(b"+OK\r\n")
            taken.recv(1)  # and leave the rest: then a close is a reset

    resetting = threading.Thread(target=reset)
    resetting.start()
    connection = SyncConnection(silent)
    connection._send(b"*1\r\n$4\r\nPING\r\n", time.monotonic() + 5)
    resetting.join()
    with pytest.raises(ConnectionLost):
        connection.read(time.monotonic() + 5)
    connection.close()


def test_opening_by_a_thread_has_its_time_once(listener: socket.socket, silent: Address) -> None:
    def answer_late() -> None:
        taken, _ = listener.accept()
        with taken:
            taken.recv(1_000)
            time.sleep(0.4)
            taken.sendall(b"+OK\r\n")
            taken.recv(1_000)
            taken.recv(1_000)  # until the client has gone

    answering = threading.Thread(target=answer_late)
    answering.start()
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        open_checked_sync(silent, "late", 0.6)
    answering.join()
    assert time.monotonic() - began < 0.9


async def test_a_command_that_cannot_be_packed_disturbs_nothing(connection: Connection) -> None:
    with pytest.raises(UnicodeEncodeError):
        await connection.execute([("GET", "\udcff")], 5)
    assert await connection.execute([("PING",)], 5) == [b"PONG"]


async def test_a_loop_is_kept_awake_once_however_many_batches_follow_each_other(
    server: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bananas.connection.SPIN_S", 60.0)
    connection = await Connection.open(parse_url(server.url), spins=True)
    loop, ended, awake = asyncio.get_running_loop(), asyncio.Event(), list[int]()

    def next_one(_: Any) -> None:
        awake.append(sum("_stay_awake" in repr(handle) for handle in loop._ready))  # type: ignore[attr-defined]
        if len(awake) < 50:
            connection.send([("PING",)], 5, next_one)
        else:
            ended.set()

    connection.send([("PING",)], 5, next_one)
    await ended.wait()
    connection.close()
    assert max(awake) == 1


def test_nothing_shows_the_password_of_an_address() -> None:
    address = parse_url("redis://user:secret@example.org")
    assert "secret" not in repr(address) + str(address) + pretty_repr(address)


@pytest.mark.parametrize("query", ["ssl_ca_certs=/nowhere.pem", "ssl_certfile=/nowhere.pem"])
async def test_tls_files_that_cannot_be_read_are_named(query: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as open_port:
        address = parse_url(f"rediss://127.0.0.1:{open_port.getsockname()[1]}?{query}")
        with pytest.raises(ConfigError, match=r"/nowhere\.pem"):
            await Connection.open(address)
        with pytest.raises(ConfigError, match=r"/nowhere\.pem"):
            SyncConnection(address)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", Address()),
        ("redis://:p%40ss@example.org:7000/2", Address("example.org", 7000, db=2, password="p@ss")),
        ("redis://user:pass@[::1]", Address("::1", username="user", password="pass")),
        ("redis://localhost?db=4", Address("localhost", db=4)),
        ("unix:///run/some%20where.sock?db=1", Address(path="/run/some where.sock", db=1)),
        ("rediss://localhost?ssl_cert_reqs=none", Address("localhost", tls=True, tls_verify=False)),
        ("rediss://localhost?ssl_ca_certs=/ca.pem", Address("localhost", tls=True, tls_ca="/ca.pem")),
    ],
)
def test_a_url_is_read(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url", ["http://localhost", "redis://localhost:port", "redis://localhost/first", "redis://:secret@localhost?dbb=1"]
)
def test_a_wrong_url_is_refused_with_the_accepted_form_and_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"redis://\[user:password@\]host") as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)
