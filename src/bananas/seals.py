"""Bytes made smaller by zstd and unreadable by AES-256-GCM, and back: first compressed, then encrypted.

    byte 0          method: 1 = zstd, 2 = AES-256-GCM, 3 = both
    where encrypted: 1 byte length of the key's id, the id, 12 bytes nonce
    the rest        a zstd frame, or the ciphertext (of a zstd frame) with its tag of 16 bytes

Nonces are random. What a ciphertext belongs to (`binding`) is authenticated with it, and so is what stands in front of the nonce: bytes
that were changed, or moved to another place, do not open. What is decompressed has a bound. Libraries are loaded when they are needed.
docs/design/009-sealing-payloads.md has the reasons.
"""

import os
import re
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from bananas.codec import Undecodable
from bananas.config import Compression, Settings
from bananas.errors import ConfigError
from bananas.values import MAKE_KEY, parse_keys

ZSTD, AES = 1, 2
NONCE_BYTES = 12
BOMB = 4  # so many times max_payload may come out of a compressed payload: who wrote it may have a higher limit
WINDOW_LOG = 23  # memory of 8 MiB: what every packer may count on


class Unopened(Undecodable):
    """Sealed bytes that this process cannot open, but another may: it lacks a key or a library.

    Attributes:
        key_id: the key that it lacks, or None.
    """

    def __init__(self, why: str, key_id: str | None = None) -> None:
        super().__init__(why)
        self.key_id = key_id


class Choice(NamedTuple):
    """What is done to the payloads of a task. No choice (None) where neither is."""

    compress: bool
    encrypt: bool


@cache
def _zstd() -> Any:
    """The module that has zstd: part of Python from 3.14 on, before that of the extra `zstd`; None where it is missing."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


def compresses() -> bool:
    """Whether zstd is here."""
    return _zstd() is not None


def _ciphers(keys: dict[str, bytes]) -> dict[str, Any]:
    """One AESGCM per key, which may be used from any thread. Raises ConfigError where the library is missing."""
    if not keys:
        return {}
    try:
        aead = import_module("cryptography.hazmat.primitives.ciphers.aead")
    except ImportError as error:
        raise ConfigError(f"encryption_keys needs the extra `encryption`: pip install 'bananas-queue[encryption]' ({error})") from error
    return {key_id: aead.AESGCM(key) for key_id, key in keys.items()}


def _keys(settings: Settings) -> dict[str, bytes]:
    given, path = settings.encryption_keys, settings.encryption_keys_file
    if given is not None and path is not None:
        raise ConfigError("encryption_keys and encryption_keys_file both give keys: remove one of them")
    if path is None:
        return {} if given is None else parse_keys(given.reveal())
    try:
        with open(path, encoding="utf-8") as file:
            return parse_keys(file.read())
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"encryption_keys_file {path} cannot be read ({type(error).__name__}): give a file with id:key lines") from None
    except ConfigError as error:
        raise ConfigError(f"encryption_keys_file {path}: {error}") from None


class Seals:
    """What an app seals and opens payloads with.

    Raises:
        ConfigError: keys that cannot be read, or a library that the settings ask for is missing.

    Attributes:
        keyed: whether there are keys.
    """

    def __init__(self, settings: Settings) -> None:
        self._ciphers = _ciphers(_keys(settings))
        self.keyed = bool(self._ciphers)
        self._first = next(iter(self._ciphers), "")
        self._threshold, self._limit = settings.compression_threshold, BOMB * settings.max_payload_bytes
        self._compression: Compression = settings.compression
        self._encrypt = self.keyed if settings.encrypt is None else settings.encrypt
        self.choice(None, None, "the settings")

    def choice(self, compression: Compression | None, encrypt: bool | None, what: str) -> Choice | None:
        """What is done to payloads where a task says this (None: as the app's settings say).

        Raises:
            ConfigError: the library or the key for it is missing; names `what`.
        """
        choice = Choice((compression or self._compression) == "zstd", self._encrypt if encrypt is None else encrypt)
        if choice.compress and _zstd() is None:
            raise ConfigError(f"{what}: compression by zstd needs the extra `zstd`: pip install 'bananas-queue[zstd]'")
        if choice.encrypt and not self.keyed:
            raise ConfigError(f"{what}: encrypt=True needs a key: set BANANAS_ENCRYPTION_KEYS. Make one: {MAKE_KEY}")
        return choice if choice.compress or choice.encrypt else None

    def close(self, data: bytes, binding: bytes, choice: Choice) -> bytes:
        """The sealed bytes; b"" where they need not be sealed: no encryption is chosen, and compression does not pay."""
        method = 0
        if choice.compress and len(data) >= self._threshold:
            smaller: bytes = _zstd().compress(data)
            if len(smaller) < len(data):
                data, method = smaller, ZSTD
        if not choice.encrypt:
            return bytes((method,)) + data if method else b""
        key_id = self._first.encode()
        head, nonce = bytes((method | AES, len(key_id))) + key_id, os.urandom(NONCE_BYTES)
        sealed: bytes = self._ciphers[self._first].encrypt(nonce, data, head + binding)
        return head + nonce + sealed

    def open(self, sealed: bytes, binding: bytes) -> bytes:
        """What was sealed.

        Raises:
            Unopened: the key or the library is not here.
            Undecodable: changed, moved from another place, cut off, or a bomb.
        """
        method, data = sealed[:1], sealed[1:]
        if method not in (b"\1", b"\2", b"\3"):
            raise Undecodable("it is sealed by a method that this version does not know")
        if method[0] & AES:
            data = self._decrypted(sealed, binding)
        return self._decompressed(data) if method[0] & ZSTD else data

    def _decrypted(self, sealed: bytes, binding: bytes) -> bytes:
        end = 2 + sum(sealed[1:2])
        key_id = sealed[2:end].decode("ascii", "replace")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", key_id):
            raise Undecodable("it is sealed, and cut off or damaged")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise Unopened(f"it is encrypted with the key {key_id!r}, which is not among encryption_keys here", key_id)
        try:
            opened: bytes = cipher.decrypt(sealed[end : end + NONCE_BYTES], sealed[end + NONCE_BYTES :], sealed[:end] + binding)
        except Exception:  # of a library whose errors say nothing: the tag does not fit, or there is none
            why = f"it does not open with the key {key_id!r}: it was changed or moved, or encrypted with another key of this id"
            raise Undecodable(why) from None
        return opened

    def _decompressed(self, data: bytes) -> bytes:
        zstd = _zstd()
        if zstd is None:
            raise Unopened("it is compressed with zstd, which is not installed here: pip install 'bananas-queue[zstd]'")
        limit = self._limit
        try:
            declared = zstd.get_frame_info(data).decompressed_size
            if declared is not None and declared > limit:
                raise Undecodable(_too_large(declared, limit))
            window = {zstd.DecompressionParameter.window_log_max: max(WINDOW_LOG, min(30, limit.bit_length()))}
            frame = zstd.ZstdDecompressor(options=window)
            opened: bytes = frame.decompress(data, max_length=limit + 1)
        except zstd.ZstdError as error:
            raise Undecodable(f"it is compressed, and damaged: {error}") from None
        if len(opened) > limit:
            raise Undecodable(_too_large(len(opened), limit))
        if not frame.eof or frame.unused_data:
            raise Undecodable("it is compressed, and cut off or followed by more")
        return opened

    def __repr__(self) -> str:
        return f"<seals with keys {list(self._ciphers)}>"


def _too_large(size: int, limit: int) -> str:
    return f"it would have {size:,} bytes or more when decompressed, and {limit:,} are taken here: {BOMB} times max_payload"


UNSEALED = Seals(Settings())
