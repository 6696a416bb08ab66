"""What payloads hold, opened within bounds: a few bytes that somebody has stored must not become all the memory of who reads them."""

from __future__ import annotations

import base64
import bz2
import lzma
import re
import zlib
from collections.abc import Callable, Container
from typing import Any

from kombu import compression
from kombu.exceptions import DecodeError
from kombu.serialization import loads, registry

from celery_journal.journal.errors import JournalError

try:
    from celery.backends.base import COMPRESSED_PAYLOAD_MAGIC
except ImportError:  # Celery before 5.7 compresses no results
    COMPRESSED_PAYLOAD_MAGIC = b"\0celery-compressed\0"

#: What a compressed payload begins with.
MARK: bytes = COMPRESSED_PAYLOAD_MAGIC

#: The encodings of texts. Python has others, under the same roof, that unpack archives, or take the square of the time.
_OF_TEXT = re.compile(
    r"binary|(us[-_]?)?ascii|ascii-8bit|utf[-_]?(8|16|32)([-_]?[bl]e)?|latin[-_]?1|iso[-_]?8859[-_]\d+|cp\d+|windows[-_]\d+", re.IGNORECASE
)

#: What an archive of xz may ask for besides, for its dictionary.
_DICTIONARY = 256 << 20

#: Bytes of brotli that are opened at a time.
_PIECE = 64


class TooLarge(JournalError, DecodeError):
    """What was compressed is larger than the limit."""


def opened(payload: Any, content_type: str | None, content_encoding: str | None, accept: Container[str], most: int) -> Any:
    """Return the value of a payload, as Celery's serializers and `result_compression` made it; raise what kombu raises if it is none.

    Raises TooLarge if it was compressed and takes more than `most` bytes.
    """
    if registry.type_to_name.get(content_type) in {None, "raw"} and not _OF_TEXT.fullmatch(content_encoding or "binary"):
        raise DecodeError(f"the encoding {content_encoding!r} is not one of texts")
    return loads(decompressed(payload, most), content_type=content_type, content_encoding=content_encoding, accept=accept)


def bytes_of(content: str | bytes, content_encoding: str | None) -> str | bytes:
    """Return what django-celery-results keeps as text: of binary content that is base64."""
    return base64.b64decode(content) if isinstance(content, str) and content_encoding == "binary" else content


def decompressed(payload: Any, most: int) -> Any:
    """Return the payload as it was before `result_compression`; raise TooLarge if that is more than `most` bytes."""
    if not isinstance(payload, bytes) or not payload.startswith(MARK):
        return payload
    content_type, _, body = payload.removeprefix(MARK).partition(b"\0")
    method = content_type.decode("ascii", "replace")
    try:
        found = _METHODS[method](body, most + 1) if method in _METHODS else compression.decompress(body, method)
    except Exception as exc:
        raise DecodeError(f"the payload cannot be decompressed: {type(exc).__name__}: {exc}") from exc
    if len(found) > most:
        raise TooLarge(f"a payload of {len(payload):,} bytes takes more than {most:,} when it is decompressed; raise max_payload_bytes")
    return found


def _whole(opener: Any, body: bytes, most: int) -> bytes:
    """Return what the opener finds, `most` bytes of it at most."""
    found: bytes = opener.decompress(body, most)
    if not opener.eof and len(found) < most:
        raise ValueError("it is cut")
    return found


def _zstd(body: bytes, most: int) -> bytes:
    return _whole(_of_kombu("zstd").ZstdDecompressor(), body, most)


def _brotli(body: bytes, most: int) -> bytes:
    """Return the same of a format whose library knows a limit only in its newest versions: piece by piece."""
    opener, found = _of_kombu("brotli").Decompressor(), bytearray()
    for start in range(0, len(body), _PIECE):
        found += opener.process(body[start : start + _PIECE])
        if len(found) > most:
            break
    return bytes(found[:most])


def _of_kombu(library: str) -> Any:
    """Return the library that kombu has found for a method which Python has not by itself."""
    if (found := getattr(compression, library, None)) is None:
        raise ValueError(f"{library} is not installed")
    return found


#: By what kombu calls a method; one that is not here is somebody's own, and does as it does.
_METHODS: dict[str, Callable[[bytes, int], bytes]] = {
    "application/x-gzip": lambda body, most: _whole(zlib.decompressobj(), body, most),
    "application/x-bz2": lambda body, most: _whole(bz2.BZ2Decompressor(), body, most),
    "application/x-lzma": lambda body, most: _whole(lzma.LZMADecompressor(memlimit=_DICTIONARY), body, most),
    "application/zstd": _zstd,
    "application/x-brotli": _brotli,
}
