"""Values to bytes and back: msgpack by msgspec, one version byte in front, never pickle.

What travels: None, bool, int (64 bits), float, str, bytes, list, tuple, set, dict, datetime, date, time, timedelta, UUID, Decimal, Enum,
dataclasses, msgspec Structs, TypedDict, NamedTuple, attrs, pathlib paths and pydantic models. On the way back the handler's annotations say
what to build; without an annotation plain data arrives (UUID and Decimal as text, a dataclass as a dict). Arguments are checked against
the annotations when a job is submitted, so that a wrong one fails there and not on the worker.
"""

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec
from msgspec import Raw
from msgspec.msgpack import Decoder, Encoder

from bananas.errors import InvalidArguments, NotSerializable, PayloadTooLarge, describe
from bananas.job import FRESH, Envelope, ErrorRecord, History, Result, Tagged, Tries

VERSION = b"\x01"
SEALED = b"\x02"  # compressed, encrypted or both: sealing.py
BIRTH_BYTES = 8


class Undecodable(Exception):
    """Stored bytes that are no job, or no result, of this version."""


def _encode_other(value: Any) -> Any:
    path = getattr(value, "__fspath__", None)
    if path is not None and not isinstance(value, type):
        return path()
    dump = getattr(value, "model_dump", None)
    if dump is not None and not isinstance(value, type):
        return dump(mode="python", by_alias=True, round_trip=True)
    raise NotSerializable(
        f"{describe(value)} is a {type(value).__module__}.{type(value).__qualname__}, which msgpack cannot carry; nothing was stored. "
        "Pass plain data, a dataclass, a msgspec Struct or a pydantic model."
    )


def _decode_other(kind: type, value: Any) -> Any:
    if isinstance(value, kind):
        return value
    if hasattr(kind, "__fspath__"):
        return kind(value)
    validate = getattr(kind, "model_validate", None)
    if validate is not None:
        return validate(value)
    raise NotImplementedError(f"no way to build {kind.__qualname__} from {describe(value)}")


_encoder = Encoder(enc_hook=_encode_other)
_envelopes: Decoder[Tagged[Raw]] = Decoder(Tagged[Raw])
_results = Decoder(Result)
_histories = Decoder(History)
_any: Decoder[Any] = Decoder()


def pack(value: Any) -> bytes:
    """Pack one value.

    Raises:
        NotSerializable: a part of it has a type that msgpack cannot carry.
    """
    try:
        return _encoder.encode(value)
    except NotSerializable:
        raise
    except Exception as error:
        raise NotSerializable(f"{describe(value)} cannot be packed as msgpack ({error}): nothing was stored") from error


def unpack(data: bytes | Raw, kind: Any = Any) -> Any:
    """Unpack one value, as `kind` where given. Raises Undecodable."""
    try:
        if kind is Any:
            return _any.decode(data)
        return msgspec.msgpack.decode(data, type=kind, dec_hook=_decode_other)
    except Exception as error:
        raise Undecodable(str(error)) from error


def pack_arguments(task: str, value: Any) -> bytes:
    """Pack what was given to a task. Raises NotSerializable."""
    try:
        return _encoder.encode(value)
    except NotSerializable:
        raise
    except Exception as error:
        raise _unfit(task, error) from error


def _unfit(task: str, error: Exception) -> NotSerializable:
    return NotSerializable(f"the arguments of task {task!r} cannot be packed as msgpack ({error}): nothing was stored")


def pack_envelope(envelope: Envelope[Any], limit_bytes: int) -> bytes:
    """Pack a job.

    Raises:
        NotSerializable: an argument cannot travel.
        PayloadTooLarge: the packed job has more than `limit_bytes`.
    """
    try:
        body = VERSION + _encoder.encode(envelope)
    except NotSerializable:
        raise
    except Exception as error:
        raise _unfit(envelope.task, error) from error
    if len(body) > limit_bytes:
        raise PayloadTooLarge(len(body), limit_bytes)
    return body


def unpack_body(body: bytes) -> Tagged[Raw] | None:
    """Read the envelope in what `jobs` holds; None where it is sealed: see `sealing.open_job`. Raises Undecodable."""
    if not body.startswith(VERSION, BIRTH_BYTES):
        if body.startswith(SEALED, BIRTH_BYTES):
            return None
        if len(body) <= BIRTH_BYTES:
            raise Undecodable("the job's body is missing")
        raise Undecodable(f"the job was packed as version {body[BIRTH_BYTES]}, this worker reads versions {VERSION[0]} and {SEALED[0]}")
    try:
        return _envelopes.decode(body[BIRTH_BYTES + 1 :])
    except Exception as error:
        raise Undecodable(f"the job's body is no job: {error}") from error


def birth_ms(body: bytes) -> int:
    """When a job was stored, by the server's clock: the head of what `jobs` holds."""
    return int.from_bytes(body[:BIRTH_BYTES], "big")


def pack_result(result: Result) -> bytes:
    """Pack an outcome whose value is packed already."""
    return VERSION + _encoder.encode(result)


def unpack_result(data: bytes) -> Result:
    """Read what `result:<id>` holds. Raises Undecodable."""
    if data[:1] != VERSION:
        raise Undecodable("the result was packed by another version")
    try:
        return _results.decode(data[1:])
    except Exception as error:
        raise Undecodable(f"the result is unreadable: {error}") from error


def pack_tries(tries: Tries) -> bytes:
    """The record that scripts can read too: `attempts crashes alone since owner history`."""
    history = _encoder.encode(tries.history) if tries.history != History() else b""
    return f"{tries.attempts} {tries.crashes} {tries.alone} {tries.since_ms} - ".encode() + history


def unpack_tries(record: bytes | None) -> Tries:
    """Read a record of `tries`; a broken history is dropped, the counts stay."""
    if not record:
        return FRESH
    try:
        attempts, crashes, alone, since_ms, _, history = record.split(b" ", 5)
        counts = (int(attempts), int(crashes), int(alone), int(since_ms))
    except ValueError:
        return FRESH
    try:
        return Tries(*counts, _histories.decode(history) if history else History())
    except Exception:  # msgspec has more than its own: UnicodeDecodeError, RecursionError
        return Tries(*counts)


def error_record(error: BaseException, at_ms: int, attempt: int, worker: str, limit: int = 4096) -> ErrorRecord:
    """A failure for the history: message and traceback bounded to `limit` characters each, the traceback's end kept."""
    import traceback

    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    message = _encodable(lambda: str(error))
    text = _encodable(lambda: "".join(traceback.format_exception(error)))
    if len(text) > limit:
        text = f"…{text[-limit:]}"
    return ErrorRecord(at_ms, attempt, name, message[:limit], text, worker)


def _encodable(make: Callable[[], str]) -> str:
    """Text as it can be stored: file names from the system may hold lone surrogates, and an exception's own code may fail."""
    try:
        return make().encode("utf-8", "backslashreplace").decode()
    except BaseException:
        return "<the exception's text fails>"


class Signature:
    """A handler's parameters: checks arguments when they are submitted, builds them when they arrive.

    Parameters whose annotation cannot be resolved or is of no type that msgspec knows take whatever plain data arrives.
    """

    def __init__(self, handler: Callable[..., Any]) -> None:
        self._signature = inspect.signature(handler)
        hints = _hints(handler)
        self.returns = _usable(hints.get("return", Any))
        self._positional: list[Any] = []
        self._named: dict[str, Any] = {}
        self._rest: Any = None
        self._others: Any = Any
        self._required = 0
        self._named_only = False
        for name, parameter in self._signature.parameters.items():
            kind = _usable(hints.get(name, Any))
            if parameter.kind is parameter.VAR_POSITIONAL:
                self._rest = kind
            elif parameter.kind is parameter.VAR_KEYWORD:
                self._others = kind
            else:
                self._named[name] = kind
                needed = parameter.default is parameter.empty
                if parameter.kind is parameter.KEYWORD_ONLY:
                    self._named_only |= needed
                else:
                    self._positional.append(kind)
                    self._required += needed
        self._tuples: dict[int, Any] = {}
        self._usual: Decoder[Any] = Decoder(self._tuple(len(self._positional)), dec_hook=_decode_other)

    def check(self, task: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises InvalidArguments when the handler could not be called with these."""
        count = len(args)
        try:
            if kwargs or self._named_only or count < self._required or (count > len(self._positional) and self._rest is None):
                self._signature.bind(*args, **kwargs)
                for name, value in kwargs.items():
                    msgspec.convert(value, self._named.get(name, self._others), dec_hook=_decode_other)
            if args:
                msgspec.convert(args, self._tuple(count), dec_hook=_decode_other)
        except (TypeError, NotImplementedError, msgspec.ValidationError) as error:
            raise InvalidArguments(
                f"task {task!r} does not take {describe(args)} {describe(kwargs) if kwargs else ''}: {error}. Nothing was stored. "
                f"Its signature is {task}{self._signature}."
            ) from error

    def build(self, args: Raw, kwargs: dict[str, Raw] | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as the handler's annotations want them.

        Raises:
            InvalidArguments: they do not fit (the code changed since the job was submitted); the difference is named.
        """
        try:
            try:
                values = self._usual.decode(args)
            except msgspec.ValidationError:
                self._usual = Decoder(self._tuple(len(_any.decode(args))), dec_hook=_decode_other)
                values = self._usual.decode(args)
            if kwargs is None and self._required <= len(values) and not self._named_only:
                return values, {}
            named = {name: unpack(value, self._named.get(name, self._others)) for name, value in (kwargs or {}).items()}
            self._signature.bind(*values, **named)
            return values, named
        except Exception as error:  # of types that build themselves too
            raise InvalidArguments(f"the stored arguments do not fit the handler's signature {self._signature}: {error}") from error

    def _tuple(self, count: int) -> Any:
        kind = self._tuples.get(count)
        if kind is None:
            if count > len(self._positional) and self._rest is None:
                raise TypeError(f"it takes at most {len(self._positional)} positional arguments, not {count}")
            kinds = self._positional[:count] + [self._rest] * (count - len(self._positional))
            kind = self._tuples[count] = tuple[tuple(kinds)]  # type: ignore[misc]
        return kind


def _hints(handler: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(handler, include_extras=True)
    except Exception:
        found: dict[str, Any] = {}
        for name, hint in getattr(handler, "__annotations__", {}).items():
            try:
                found[name] = eval(hint, getattr(handler, "__globals__", {})) if isinstance(hint, str) else hint
            except Exception:
                found[name] = Any
        return found


def _usable(kind: Any) -> Any:
    if kind is None:
        return None
    try:
        Decoder(kind, dec_hook=_decode_other)
    except Exception:
        return Any
    return kind
