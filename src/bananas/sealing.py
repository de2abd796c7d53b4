"""Jobs, results and errors whose contents are sealed (compressed, encrypted), while what a queue works by stays readable.

    version byte 2 | 2 bytes length of the head | head | sealed contents

    job      head: the Envelope without arguments and headers; contents: these three
    result   head: the Result without value, message and traceback; contents: these three
    error    a record of `tries`: its message and traceback, sealed, are the last field of the record itself
    notes    progress and log lines: the same, each with its text

So a worker that cannot open a job still knows its task, its expiry and its options, and an older library says which version it met.
A ciphertext is bound to its kind, namespace, queue, job id (and so its task and birth priority) and head: none of these can be changed, and
none can take another's place.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.msgpack import Decoder, Encoder

from bananas import codec
from bananas.codec import BIRTH_BYTES, SEALED, Undecodable
from bananas.errors import PayloadTooLarge
from bananas.job import Envelope, ErrorRecord, Result, Tagged
from bananas.keys import QueueKeys
from bananas.seals import AES, Choice, Seals, Unopened

Place = tuple[QueueKeys, str]  # a job's queue, and its id there
HIDDEN = Choice(compress=False, encrypt=True)  # how errors are sealed
HEAD_START = 3
EMPTY, NIL = Raw(b"\x90"), Raw(b"\xc0")


class _Contents(Struct, array_like=True, frozen=True):
    args: Raw
    kwargs: dict[str, Raw] | None
    headers: dict[str, str] | None


class _Told(Struct, array_like=True, frozen=True):
    value: Raw
    message: str
    traceback: str


_encoder = Encoder()
_envelopes: Decoder[Tagged[Raw]] = Decoder(Tagged[Raw])
_contents = Decoder(_Contents)
_results = Decoder(Result)
_told = Decoder(_Told)


def _binding(kind: str, place: Place, head: bytes) -> bytes:
    keys, job_id = place
    return f"{kind}\0{keys.namespace}\0{keys.queue}\0{job_id}\0".encode() + head


def _joined(head: bytes, sealed: bytes) -> bytes:
    return SEALED + len(head).to_bytes(2, "big") + head + sealed


def _parts(data: bytes) -> tuple[bytes, bytes]:
    """Head and sealed contents of what begins with its version byte."""
    end = HEAD_START + int.from_bytes(data[1:HEAD_START], "big")
    return data[HEAD_START:end], data[end:]


# --- jobs -------------------------------------------------------------------------------------------------------------


def pack_job(envelope: Envelope[Any], limit_bytes: int, seals: Seals, choice: Choice, place: Place) -> bytes:
    """Pack and seal a job; it is packed plainly where no encryption is chosen and compression does not pay.

    Raises:
        NotSerializable, PayloadTooLarge: as `codec.pack_envelope`; the limit is on its size before it is sealed.
    """
    contents = codec.pack_arguments(envelope.task, (envelope.args, envelope.kwargs, envelope.headers))
    head = _encoder.encode(msgspec.structs.replace(envelope, args=(), kwargs=None, headers=None))
    plain_bytes = len(head) + len(contents) - 3  # its version byte, and one array instead of two, without the three placeholders
    if plain_bytes > limit_bytes:
        raise PayloadTooLarge(plain_bytes, limit_bytes)
    sealed = seals.close(contents, _binding("job", place, head), choice)
    if not sealed or (not choice.encrypt and HEAD_START + len(head) + len(sealed) >= plain_bytes):
        return codec.pack_envelope(envelope, limit_bytes)
    return _joined(head, sealed)


def job_head(body: bytes) -> Tagged[Raw]:
    """What is readable of a sealed job, without arguments and headers. Raises Undecodable."""
    try:
        return _envelopes.decode(_parts(body[BIRTH_BYTES:])[0])
    except Exception as error:
        raise Undecodable(f"the job's body is no job: {error}") from error


def open_job(body: bytes, seals: Seals, place: Place) -> Tagged[Raw]:
    """The whole of a sealed job.

    Raises:
        Unopened: another process may be able to; Undecodable: none is.
    """
    shown = job_head(body)
    head, sealed = _parts(body[BIRTH_BYTES:])
    try:
        found = _contents.decode(seals.open(sealed, _binding("job", place, head)))
    except Unopened as error:
        raise Unopened(f"the job cannot be read here: {error}", error.key_id) from None
    except Undecodable as error:
        raise Undecodable(f"the job cannot be read: {error}") from None
    except Exception as error:
        raise Undecodable(f"the job's body is no job: {error}") from error
    return msgspec.structs.replace(shown, args=found.args, kwargs=found.kwargs, headers=found.headers)


def read_job(body: bytes, seals: Seals, place: Place) -> Tagged[Raw]:
    """A job, sealed or not. Raises as `open_job`."""
    return codec.unpack_body(body) or open_job(body, seals, place)


def is_encrypted(body: bytes) -> bool:
    """Whether a job's arguments are encrypted: then what comes of it is encrypted too."""
    if body[BIRTH_BYTES : BIRTH_BYTES + 1] != SEALED:
        return False
    _, sealed = _parts(body[BIRTH_BYTES:])
    return bool(sealed) and bool(sealed[0] & AES)


# --- results ----------------------------------------------------------------------------------------------------------


def pack_result(result: Result, seals: Seals, choice: Choice, place: Place) -> bytes:
    """Pack and seal an outcome whose value is packed already; plainly where no encryption is chosen and compression does not pay."""
    plain = codec.pack_result(result)
    contents = _encoder.encode(_Told(result.value, result.error_message, result.traceback))
    head = _encoder.encode(msgspec.structs.replace(result, value=NIL, error_message="", traceback=""))
    sealed = seals.close(contents, _binding("result", place, head), choice)
    if not sealed or (not choice.encrypt and HEAD_START + len(head) + len(sealed) >= len(plain)):
        return plain
    return _joined(head, sealed)


def result_head(data: bytes) -> Result:
    """What is readable of an outcome, sealed or not: how it ended and when. Raises Undecodable."""
    if data[:1] != SEALED:
        return codec.unpack_result(data)
    try:
        return _results.decode(_parts(data)[0])
    except Exception as error:
        raise Undecodable(f"the result is unreadable: {error}") from error


def read_result(data: bytes, seals: Seals, place: Place) -> Result:
    """An outcome, sealed or not. Raises as `open_job`."""
    shown = result_head(data)
    if data[:1] != SEALED:
        return shown
    head, sealed = _parts(data)
    try:
        told = _told.decode(seals.open(sealed, _binding("result", place, head)))
    except Unopened as error:
        raise Unopened(f"the result cannot be read here: {error}", error.key_id) from None
    except Undecodable as error:
        raise Undecodable(f"the result cannot be read: {error}") from None
    except Exception as error:
        raise Undecodable(f"the result is unreadable: {error}") from error
    return msgspec.structs.replace(shown, value=told.value, error_message=told.message, traceback=told.traceback)


# --- errors -----------------------------------------------------------------------------------------------------------


def _error_binding(record: ErrorRecord, place: Place) -> bytes:
    return _binding("error", place, _encoder.encode((record.at_ms, record.attempt, record.type, record.worker)))


def hide_text(kind: str, text: str, bound: tuple[float, ...], seals: Seals, place: Place) -> bytes:
    """A text of a job, encrypted; what it is, of what job, and the numbers beside it cannot be changed."""
    return seals.close(text.encode(), _binding(kind, place, _encoder.encode(bound)), HIDDEN)


def shown_text(kind: str, text: str, sealed: bytes, bound: tuple[float, ...], where: tuple[Seals, Place]) -> str:
    """A text as it was; where it cannot be opened, why."""
    if not sealed:
        return text
    seals, place = where
    try:
        return seals.open(sealed, _binding(kind, place, _encoder.encode(bound))).decode()
    except Undecodable as error:
        return f"<not shown: {error}>"


def hide_error(record: ErrorRecord, seals: Seals, place: Place) -> ErrorRecord:
    """The record with message and traceback encrypted; its type, time, attempt and worker stay readable."""
    sealed = seals.close(_encoder.encode((record.message, record.traceback)), _error_binding(record, place), HIDDEN)
    return msgspec.structs.replace(record, message="", traceback="", sealed=sealed)


def shown_error(record: ErrorRecord, seals: Seals, place: Place) -> ErrorRecord:
    """The record as it was; where it cannot be opened, its message says why."""
    if not record.sealed:
        return record
    try:
        message, traceback = codec.unpack(seals.open(record.sealed, _error_binding(record, place)), tuple[str, str])
    except Undecodable as error:
        message, traceback = f"<not shown: {error}>", ""
    return msgspec.structs.replace(record, message=message, traceback=traceback, sealed=b"")
