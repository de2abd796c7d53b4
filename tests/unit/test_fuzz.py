"""Any bytes, and right ones with faults: every reader gives a value or its documented error, in bounded time and memory."""

import tracemalloc
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fuzz import READERS, Reader, check

from bananas.codec import pack

GENEROUS = settings(
    deadline=timedelta(seconds=5), max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
MOST_MEMORY = 4 * 2**20  # beside what is read: the bound on decompressed data, 400 KB, and what libraries take

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 100), inner),
    max_leaves=10,
)
PREFIXES = [
    b"",
    b"\x01",
    b"\x02",
    bytes(8) + b"\x01",
    bytes(8) + b"\x02",
    bytes(8) + b"\x02\x00\x05",
    b"\x02\x00\x05",
    b"0 0 0 1 - ",
    b"1 1 1 1 - \x93",
]
# Not "*2147483647\r\n": hiredis makes room for as many elements as a reply of the server says, which is trusted with that.
HOSTILE = [
    *[
        head + body
        for head in PREFIXES
        for body in (b"\x91" * 50_000, b"\x81\xa1a" * 30_000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff")
    ],
    b"[" * 50_000,
    b"9" * 50_000,
    b"*1\r\n" * 50_000,
    b"$9223372036854775807\r\n",
    b"\n" * 50_000,
    b"x" * 200_000,
    "\u0660".encode() * 5_000,
    b"\xff\xfe\xed\xa0\x80\x00",
]
faults = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "double", "drop"]), st.floats(0, 1), st.integers(0, 255), st.binary(max_size=8)),
    min_size=1,
    max_size=6,
)


def with_faults(data: bytes, wrong: list[tuple[str, float, int, bytes]]) -> bytes:
    for kind, where, number, more in wrong:
        at = int(where * len(data))
        if kind == "flip":
            data = data[:at] + bytes([data[at] ^ (1 << number % 8)]) + data[at + 1 :] if at < len(data) else data
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + more + data[at:]
        elif kind == "double":
            data = data[:at] + data[at : at + number] * 2 + data[at + number :]
        else:
            data = data[:at] + data[at + number % 16 :]
    return data


each = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)


@each
def test_what_is_right_is_read(reader: Reader) -> None:
    assert reader.read(reader.samples[0]) is not None
    for sample in reader.samples:
        check(reader, sample)


@each
@GENEROUS
@given(data=st.binary(max_size=300))
def test_any_bytes(reader: Reader, data: bytes) -> None:
    check(reader, data)


@each
@GENEROUS
@given(prefix=st.sampled_from(PREFIXES), value=anything)
def test_any_value_that_is_packed_well(reader: Reader, prefix: bytes, value: Any) -> None:
    check(reader, prefix + pack(value))


@each
@GENEROUS
@given(data=st.data(), wrong=faults)
def test_right_bytes_with_faults(reader: Reader, data: st.DataObject, wrong: list[tuple[str, float, int, bytes]]) -> None:
    check(reader, with_faults(data.draw(st.sampled_from(reader.samples)), wrong))


@each
def test_right_bytes_with_each_bit_flipped_and_cut_off_everywhere(reader: Reader) -> None:
    for sample in reader.samples:
        for place in range(min(len(sample), 120)):
            check(reader, sample[:place])
            for bit in range(8):
                check(reader, sample[:place] + bytes([sample[place] ^ (1 << bit)]) + sample[place + 1 :])


@each
def test_what_claims_to_be_huge_or_deep_takes_bounded_memory(reader: Reader) -> None:
    for data in HOSTILE:
        tracemalloc.start()
        check(reader, data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MOST_MEMORY + 20 * len(data), f"{data[:20]!r} took {peak:,} bytes"


def test_the_check_lets_no_other_error_pass() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        check(Reader(int, (KeyError,), []), b"x")
    assert check(Reader(int, (ValueError,), []), b"x") is None
