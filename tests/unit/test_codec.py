"""Values to bytes and back, and bytes that are no values."""

import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bananas import InvalidArguments, NotSerializable, PayloadTooLarge
from bananas.codec import (
    Signature,
    Undecodable,
    error_record,
    pack,
    pack_envelope,
    pack_result,
    pack_tries,
    unpack,
    unpack_body,
    unpack_result,
    unpack_tries,
)
from bananas.job import KEPT_ERRORS, Envelope, ErrorRecord, History, Result, Tagged, Tries

BIRTH = (1_800_000_000_000).to_bytes(8, "big")
LIMIT = 2**20


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    label: str | None = None


class Order(msgspec.Struct):
    number: int
    items: list[str]


class Mail(pydantic.BaseModel):
    to: str
    sent: datetime


class Parcel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    address: str = pydantic.Field(alias="shipTo")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def label(self) -> str:
        return self.address.upper()


def test_a_model_with_aliases_and_computed_fields_arrives_as_it_was() -> None:
    def handler(parcel: Parcel) -> None: ...

    (parcel,), _ = through(handler, Parcel(shipTo="Berlin"))
    assert (type(parcel), parcel.address, parcel.label) == (Parcel, "Berlin", "BERLIN")


def through(handler: Any, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments as a handler gets them after the way through the queue."""
    signature = Signature(handler)
    signature.check("task", args, kwargs)
    envelope = unpack_body(BIRTH + pack_envelope(Envelope("task", args, kwargs or None), LIMIT))
    return signature.build(envelope.args, envelope.kwargs)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain)
def test_plain_data_round_trips(value: Any) -> None:
    assert unpack(pack(value)) == value


@given(st.datetimes(timezones=st.just(UTC)), st.uuids(), st.decimals(allow_nan=False, allow_infinity=False), st.dates())
def test_annotated_values_round_trip(when: datetime, key: uuid.UUID, price: Decimal, day: date) -> None:
    def handler(when: datetime, key: uuid.UUID, price: Decimal, *, day: date) -> None: ...

    assert through(handler, when, key, price, day=day) == ((when, key, price), {"day": day})


def test_structures_are_built_from_their_annotations() -> None:
    def handler(point: Point, order: Order, mail: Mail, colour: Colour, path: Path, wait: timedelta, *tags: int) -> None: ...

    args = (Point(1, "a"), Order(7, ["x"]), Mail(to="a", sent=datetime.now(UTC)), Colour.RED, Path("/tmp"), timedelta(seconds=1.5), 1, 2)
    assert through(handler, *args) == (args, {})


def test_defaults_may_be_left_out_and_names_used() -> None:
    def handler(a: int, b: str = "b", *, c: int = 3) -> None: ...

    assert through(handler, 1) == ((1,), {})
    assert through(handler, b="x", a=1) == ((), {"a": 1, "b": "x"})
    assert through(handler, 1, "y", c=4) == ((1, "y"), {"c": 4})


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, 2, 3), {}), (("x",), {}), ((1,), {"z": 1}), ((1,), {"b": 2}), ((1,), {"a": 1})]
)
def test_wrong_arguments_are_refused_with_the_signature(args: Any, kwargs: Any) -> None:
    def handler(a: int, b: str = "b") -> None: ...

    with pytest.raises(InvalidArguments, match=r"task\(a: int, b: str = 'b'\)"):
        Signature(handler).check("task", args, kwargs)


def test_a_changed_signature_names_the_difference() -> None:
    def before(a: int) -> None: ...
    def after(a: int, b: int) -> None: ...

    envelope = unpack_body(BIRTH + pack_envelope(Envelope("task", (1,)), LIMIT))
    with pytest.raises(InvalidArguments, match="'b'"):
        Signature(after).build(envelope.args, envelope.kwargs)
    assert Signature(before).build(envelope.args, envelope.kwargs) == ((1,), {})


def test_a_job_without_tags_is_packed_as_it_was_before_there_were_tags() -> None:
    packed = pack_envelope(Envelope("task", (1,), {"a": 2}, headers={"h": "x"}), LIMIT)
    assert packed == b"\x01\x9a\xa4task\x91\x01\x81\xa1a\x02\xc0\xc0\xc0\xc0\xc0\x00\x81\xa1h\xa1x"
    assert unpack_body(BIRTH + packed).tags == ()


def test_a_library_from_before_tags_reads_a_job_with_tags() -> None:
    packed = pack_envelope(Tagged("task", (1,), headers={"h": "x"}, tags=("a", "b")), LIMIT)
    assert unpack_body(BIRTH + packed).tags == ("a", "b")
    read = msgspec.msgpack.decode(packed[1:], type=Envelope[msgspec.Raw])
    assert (read.task, unpack(read.args), read.headers) == ("task", [1], {"h": "x"})


def test_what_cannot_travel_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(NotSerializable, match="object"):
        pack_envelope(Envelope("task", (object(),)), LIMIT)
    with pytest.raises(NotSerializable):
        pack(2**70)
    with pytest.raises(PayloadTooLarge) as caught:
        pack_envelope(Envelope("task", (b"x" * 2_000,)), 1_000)
    assert (caught.value.limit_bytes, caught.value.size_bytes > 2_000) == (1_000, True)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_undecodable(data: bytes) -> None:
    for read in (unpack_body, unpack_result, unpack):
        try:
            read(data)
        except Undecodable:
            continue
    unpack_tries(data)


@given(st.binary(max_size=60))
def test_a_truncated_or_scribbled_body_is_a_job_or_undecodable(noise: bytes) -> None:
    body = BIRTH + pack_envelope(Envelope("task", (1, "two"), {"three": [3]}), LIMIT)
    for broken in (body[: len(noise)], body[:12] + noise, body[:9] + noise + body[9:]):
        try:
            unpack_body(broken)
        except Undecodable:
            continue


@given(st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 3), st.text(max_size=30))
def test_tries_round_trip(attempts: int, crashes: int, alone: int, message: str) -> None:
    history = History((ErrorRecord(1, 2, "ValueError", message, "trace", "host:1"),), 5, 6)
    tries = Tries(attempts, crashes, alone, 7, history)
    assert unpack_tries(pack_tries(tries)) == tries


def test_the_history_keeps_the_last_errors_bounded() -> None:
    history = History()
    for number in range(20):
        history = history.with_error(error_record(ValueError("x" * 10_000), number, number, "host:1"))
    assert [record.attempt for record in history.errors] == list(range(20 - KEPT_ERRORS, 20))
    assert all(len(record.message) <= 4_096 and len(record.traceback) <= 4_097 for record in history.errors)


def test_results_round_trip() -> None:
    result = Result("success", msgspec.Raw(pack({"a": 1})), attempts=2, worker="host:1")
    found = unpack_result(pack_result(result))
    assert (found.state, unpack(found.value), found.attempts, found.worker) == ("success", {"a": 1}, 2, "host:1")
