"""Sealed payloads: what comes back, what does not open, what is stored, and what it costs where nothing is sealed."""

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from tests.support import clean_environment

from bananas import Bananas, ConfigError, NotSerializable, PayloadTooLarge, sealing
from bananas.codec import BIRTH_BYTES, SEALED, VERSION, Undecodable, pack, pack_envelope, pack_result, unpack, unpack_body
from bananas.config import load_settings
from bananas.job import Envelope, ErrorRecord, Result, Tagged
from bananas.keys import QueueKeys, id_suffix, new_id
from bananas.seals import AES, BOMB, NONCE_BYTES, UNSEALED, ZSTD, Choice, Seals, Unopened

BIRTH = (1_700_000_000_000).to_bytes(BIRTH_BYTES, "big")
LIMIT = 2**20
BOTH, COMPRESSED, ENCRYPTED = Choice(True, True), Choice(True, False), Choice(False, True)
CHOICES = [BOTH, COMPRESSED, ENCRYPTED]
KEYS = {name: f"{name}:{base64.b64encode(name.encode() * 16).decode()}" for name in ("k1", "k2")}
PLACE: sealing.Place = (QueueKeys("shop", "email"), new_id(id_suffix("send", 500)))


def seals(*keys: str, **settings: Any) -> Seals:
    if keys:
        settings["encryption_keys"] = ",".join(KEYS[key] for key in keys)
    return Seals(load_settings({"compression_threshold": 64, **settings}, {}))


K1, K2, K2_K1 = seals("k1"), seals("k2"), seals("k2", "k1")


def job(*args: Any, **fields: Any) -> Envelope[Any]:
    return Envelope("send", args, {"name": "Ada"}, 5_000, 7, (1.0, 2.0, 60.0, True), 1, 2, 3, {"tenant": "acme"}, **fields)


def stored(choice: Choice = BOTH, *, by: Seals = K1, text: str = "secret " * 50) -> bytes:
    return BIRTH + sealing.pack_job(job(text), LIMIT, by, choice, PLACE)


# --- jobs -----------------------------------------------------------------------------------------------------------------------------

data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(
    st.lists(data),
    st.dictionaries(st.text(), data) | st.none(),
    st.dictionaries(st.text(), st.text()) | st.none(),
    st.sampled_from(CHOICES),
)
def test_every_job_comes_back_as_it_was(args: list[Any], kwargs: Any, headers: Any, choice: Choice) -> None:
    envelope: Envelope[Any] = Envelope("send", tuple(args), kwargs, 1, 2, None, 3, 4, 5, headers)
    body = BIRTH + sealing.pack_job(envelope, LIMIT, K1, choice, PLACE)
    opened = sealing.read_job(body, K1, PLACE)
    plain = unpack_body(BIRTH + pack_envelope(envelope, LIMIT))
    assert opened == plain
    assert unpack(opened.args) == args


@pytest.mark.parametrize("choice", CHOICES)
def test_task_and_times_stay_readable_and_arguments_and_headers_do_not(choice: Choice) -> None:
    body = stored(choice)
    shown = sealing.job_head(body)
    assert (shown.task, shown.timeout_ms, shown.max_retries, shown.expires_ms) == ("send", 5_000, 7, 3)
    assert (unpack(shown.args), shown.kwargs, shown.headers) == ([], None, None)
    assert b"secret secret" not in body
    assert not choice.encrypt or not any(word in body for word in (b"Ada", b"acme", b"secret"))
    assert sealing.is_encrypted(body) == choice.encrypt


@pytest.mark.parametrize("choice", CHOICES)
def test_tags_stay_readable_and_what_has_none_is_packed_as_before_there_were_any(choice: Choice) -> None:
    tagged: Envelope[Any] = Tagged("send", ("x" * 500,), headers={"h": "y"}, tags=("import", "vip"))
    body = BIRTH + sealing.pack_job(tagged, LIMIT, K1, choice, PLACE)
    assert sealing.job_head(body).tags == sealing.open_job(body, K1, PLACE).tags == ("import", "vip")
    assert sealing.open_job(body, K1, PLACE).headers == {"h": "y"}
    head = stored(choice)[BIRTH_BYTES + 3 :]
    assert head.startswith(b"\x9a\xa4send\x90\xc0")


def test_a_plain_job_is_what_it_was_and_is_not_encrypted() -> None:
    body = BIRTH + pack_envelope(job("x"), LIMIT)
    assert body[BIRTH_BYTES : BIRTH_BYTES + 1] == VERSION == b"\x01"
    assert sealing.read_job(body, UNSEALED, PLACE) == unpack_body(body)
    assert not sealing.is_encrypted(body)


@pytest.mark.parametrize("text", ["x" * 50, "".join(map(chr, range(0x4E00, 0x4E00 + 200)))])
def test_what_is_small_or_does_not_shrink_is_stored_plainly(text: str) -> None:
    packed = sealing.pack_job(job(text), LIMIT, seals(compression_threshold=len(text.encode())), COMPRESSED, PLACE)
    assert len(packed) <= len(pack_envelope(job(text), LIMIT))
    small = sealing.pack_job(job("x" * 300), LIMIT, seals(compression_threshold=1000), COMPRESSED, PLACE)
    assert small == pack_envelope(job("x" * 300), LIMIT)


@given(st.binary(max_size=2_000), st.integers(0, 500))
def test_no_job_is_stored_larger_than_it_was(noise: bytes, zeros: int) -> None:
    envelope = job(noise + bytes(zeros))
    body = sealing.pack_job(envelope, LIMIT, K1, COMPRESSED, PLACE)
    assert len(body) <= len(pack_envelope(envelope, LIMIT))


@pytest.mark.parametrize("choice", CHOICES)
def test_the_limit_is_on_the_size_before_sealing(choice: Choice) -> None:
    size = len(pack_envelope(job("x" * 5_000), LIMIT))
    sealing.pack_job(job("x" * 5_000), size, K1, choice, PLACE)
    with pytest.raises(PayloadTooLarge) as caught:
        sealing.pack_job(job("x" * 5_000), size - 1, K1, choice, PLACE)
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (size, size - 1)


def test_what_cannot_travel_is_refused_as_in_a_plain_job() -> None:
    with pytest.raises(NotSerializable, match="nothing was stored"):
        sealing.pack_job(job(2**80), LIMIT, K1, BOTH, PLACE)


def test_two_jobs_with_the_same_arguments_look_different() -> None:
    assert stored(ENCRYPTED)[-40:] != stored(ENCRYPTED)[-40:]


# --- what does not open ---------------------------------------------------------------------------------------------------------------


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    old, new = stored(by=K1), stored(by=K2_K1)
    assert sealing.open_job(old, K2_K1, PLACE) == sealing.open_job(new, K2_K1, PLACE) == sealing.open_job(new, K2, PLACE)
    with pytest.raises(Unopened, match="'k2', which is not among encryption_keys here") as caught:
        sealing.open_job(new, K1, PLACE)
    assert caught.value.key_id == "k2"


@pytest.mark.parametrize(
    "place",
    [
        (QueueKeys("shop", "email"), new_id(id_suffix("send", 500))),
        (QueueKeys("shop", "other"), PLACE[1]),
        (QueueKeys("test", "email"), PLACE[1]),
    ],
    ids=["another job", "another queue", "another namespace"],
)
def test_a_body_does_not_open_in_the_place_of_another(place: sealing.Place) -> None:
    with pytest.raises(Undecodable, match="changed or moved") as caught:
        sealing.open_job(stored(ENCRYPTED), K1, place)
    assert not isinstance(caught.value, Unopened)


def test_the_readable_part_of_an_encrypted_job_cannot_be_changed() -> None:
    body = stored(ENCRYPTED)
    forged = body.replace(b"send", b"sent", 1)
    assert sealing.job_head(forged).task == "sent"
    with pytest.raises(Undecodable, match="changed or moved"):
        sealing.open_job(forged, K1, PLACE)


def test_a_result_does_not_pass_for_a_job() -> None:
    head, sealed = sealing._parts(sealing.pack_result(Result("success"), K1, ENCRYPTED, PLACE))
    with pytest.raises(Undecodable):
        K1.open(sealed, sealing._binding("job", PLACE, head))


def test_every_flipped_bit_of_an_encrypted_job_is_noticed() -> None:
    body = stored(BOTH)
    for place in range(BIRTH_BYTES, len(body)):
        forged = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        with pytest.raises(Undecodable):
            sealing.read_job(forged, K1, PLACE)


@pytest.mark.parametrize("choice", CHOICES)
def test_a_job_that_is_cut_off_anywhere_is_undecodable(choice: Choice) -> None:
    body = stored(choice)
    for end in range(len(body)):
        with pytest.raises(Undecodable):
            sealing.read_job(body[:end], K1, PLACE)


# --- bombs ----------------------------------------------------------------------------------------------------------------------------


def bomb(size: int, *, declared: bool) -> bytes:
    from backports import zstd

    if declared:
        return zstd.compress(bytes(size))
    packer = zstd.ZstdCompressor()
    return packer.compress(bytes(1)) + packer.compress(bytes(size - 1)) + packer.flush()


@pytest.mark.parametrize("declared", [True, False])
def test_a_bomb_is_refused_with_the_bound(declared: bool) -> None:
    taken = seals(max_payload=100_000)
    assert len(taken.open(bytes([ZSTD]) + bomb(BOMB * 100_000, declared=declared), b"")) == 400_000
    with pytest.raises(Undecodable, match=r"400,000 are taken here: 4 times max_payload"):
        taken.open(bytes([ZSTD]) + bomb(400_001, declared=declared), b"")


BOUNDED = """
import resource, sys
from backports import zstd
from bananas.codec import Undecodable
from bananas.config import load_settings
from bananas.seals import Seals
frame = bytes([1]) + sys.stdin.buffer.read()
seals = Seals(load_settings({"max_payload": "1MiB"}, {}))
used = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (used + 64 * 2**20, -1))
try:
    seals.open(frame, b"")
except Undecodable as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit on memory is of Linux")
def test_a_bomb_takes_no_more_memory_than_the_bound() -> None:
    command, frame = [sys.executable, "-c", BOUNDED], bomb(2**28, declared=False)
    run = subprocess.run(command, input=frame, env=clean_environment(), capture_output=True, timeout=50, check=False)
    assert b"4,194,304 are taken here" in run.stdout, run.stderr.decode()


def test_a_frame_with_something_behind_it_is_refused() -> None:
    with pytest.raises(Undecodable, match="followed by more"):
        UNSEALED.open(bytes([ZSTD]) + bomb(10, declared=True) + b"x", b"")


# --- results and errors ---------------------------------------------------------------------------------------------------------------

RESULT = Result("dead", Raw(b"\xc0"), "ValueError", "of acme", "Traceback " * 30, 3, 10, 20, 1.5, "host:1")
RECORD = ErrorRecord(10, 2, "ValueError", "of acme", "Traceback", "host:1")


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("result", [RESULT, Result("success", Raw(pack(["acme " * 50])))])
def test_a_result_comes_back_and_only_how_it_ended_is_readable(result: Result, choice: Choice) -> None:
    data = sealing.pack_result(result, K1, choice, PLACE)
    assert data[:1] == SEALED
    assert sealing.read_result(data, K1, PLACE) == result
    shown = sealing.result_head(data)
    assert (shown.state, shown.error_type, shown.attempts, shown.run_ms) == (
        result.state,
        result.error_type,
        result.attempts,
        result.run_ms,
    )
    assert (shown.error_message, shown.traceback, unpack(shown.value)) == ("", "", None)
    assert b"acme acme" not in data
    assert not choice.encrypt or b"acme" not in data


def test_a_result_that_does_not_shrink_is_stored_plainly() -> None:
    assert sealing.pack_result(Result("success"), K1, COMPRESSED, PLACE) == pack_result(Result("success"))


def test_an_error_is_hidden_but_for_its_type_time_and_worker() -> None:
    hidden = sealing.hide_error(RECORD, K1, PLACE)
    assert (hidden.type, hidden.at_ms, hidden.attempt, hidden.worker) == ("ValueError", 10, 2, "host:1")
    assert (hidden.message, hidden.traceback) == ("", "")
    assert b"acme" not in hidden.sealed
    assert sealing.shown_error(hidden, K1, PLACE) == RECORD
    assert sealing.shown_error(RECORD, UNSEALED, PLACE) == RECORD


def test_an_error_that_cannot_be_opened_says_why() -> None:
    hidden = sealing.hide_error(RECORD, K1, PLACE)
    assert "'k1', which is not among" in sealing.shown_error(hidden, K2, PLACE).message
    moved = msgspec.structs.replace(hidden, attempt=3)
    assert "changed or moved" in sealing.shown_error(moved, K1, PLACE).message


# --- what it is made of ---------------------------------------------------------------------------------------------------------------


def test_the_form_is_the_one_of_the_design_page() -> None:
    body = stored(ENCRYPTED)[BIRTH_BYTES:]
    size = int.from_bytes(body[1:3], "big")
    assert body[:1] == b"\x02"
    assert unpack(body[3 : 3 + size])[0] == "send"
    sealed = body[3 + size :]
    assert sealed[:4] == bytes([AES, 2]) + b"k1"
    contents = pack((("secret " * 50,), {"name": "Ada"}, {"tenant": "acme"}))
    assert len(sealed) == 4 + NONCE_BYTES + len(contents) + 16


def test_seals_and_apps_show_no_key() -> None:
    secret = KEYS["k1"].partition(":")[2]
    app = Bananas("redis://h", encryption_keys=KEYS["k1"])
    assert not any(secret[:8] in repr(shown) for shown in (K1, app, app.settings, app.client.seals, vars(app.client.seals)))


def test_what_is_asked_for_and_missing_is_refused() -> None:
    with pytest.raises(ConfigError, match="encrypt=True needs a key"):
        Bananas("redis://h", encrypt=True)
    app = Bananas("redis://h")

    @app.task(encrypt=True)
    async def send(to: str) -> None: ...

    with pytest.raises(ConfigError, match=r"task 'send': encrypt=True needs a key: set BANANAS_ENCRYPTION_KEYS"):
        app.producer.pack(send.bind("a"))
    for wrong in ({"compression": "gzip"}, {"encrypt": 1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            app.task(**wrong)(print)  # type: ignore[call-overload]


def test_keys_come_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{KEYS['k2']}\n{KEYS['k1']}\n")
    assert sealing.open_job(stored(by=Bananas("redis://h", encryption_keys_file=path).client.seals), K2, PLACE).task == "send"
    for wrong, why in ((tmp_path, "cannot be read"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(ConfigError, match=f"encryption_keys_file .*{why}"):
            Bananas("redis://h", encryption_keys_file=wrong)
    with pytest.raises(ConfigError, match="both give keys"):
        Bananas("redis://h", encryption_keys_file=path, encryption_keys=KEYS["k1"])


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ({}, [None, ENCRYPTED, COMPRESSED]),
        ({"encrypt": False}, [None, ENCRYPTED, COMPRESSED]),
        ({"encrypt": True}, [ENCRYPTED, ENCRYPTED, BOTH]),
        ({"compression": "zstd", "encrypt": False}, [COMPRESSED, BOTH, COMPRESSED]),
    ],
)
def test_a_task_says_what_it_wants_and_the_app_says_the_rest(given: dict[str, Any], kinds: list[Choice | None]) -> None:
    app = Bananas("redis://h", **({"encryption_keys": KEYS["k1"], "encrypt": False} | given))
    choose = app.client.seals.choice
    assert [choose(None, None, ""), choose(None, True, ""), choose("zstd", None, "")] == kinds
    assert choose("none", False, "") is None


def test_keys_alone_encrypt_everything() -> None:
    assert K1.choice(None, None, "") == ENCRYPTED


WITHOUT = """
import sys
sys.modules.update({name: None for name in ("backports.zstd", "compression.zstd", "cryptography")})
from bananas import Bananas, ConfigError
for settings in ({"compression": "zstd"}, {"encryption_keys": %r}):
    try:
        Bananas("redis://h", **settings)
    except ConfigError as error:
        print(error)
"""


def test_a_missing_library_is_named_at_the_start() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT % KEYS["k1"]], env=clean_environment(), capture_output=True, text=True, timeout=30, check=True
    )
    first, second = run.stdout.splitlines()
    assert "pip install 'bananas-queue[zstd]'" in first
    assert "pip install 'bananas-queue[encryption]'" in second


def test_importing_bananas_loads_neither_library() -> None:
    code = "import sys, bananas; bananas.Bananas('redis://h'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True, timeout=30, check=True)
    assert "bananas.seals" in run.stdout.split()
    assert not {"backports.zstd", "compression.zstd", "cryptography"} & set(run.stdout.split())
