"""Values as JSON that loses nothing.

What JSON has a form for is written in it. Anything else is an object with one name that says what it is:

    {"text": "[1, 2]"}               bytes that are UTF-8
    {"base64": "gAR9lC4="}           other bytes
    {"moment": "2026-01-31T08:00:00+00:00"}
    {"surrogates": "7bKA"}           text with lone surrogates: its UTF-8, those included, as base64
    {"integer": "-8000000000000001"} what 64 bits do not hold, in hexadecimal
    {"float": "7ff8000000000000"}    infinite, or no number: the 8 bytes of IEEE 754, in hexadecimal
    {"map": [[1, "one"]]}            an object whose names are not all texts, or that could be taken for one of these
"""

from __future__ import annotations

import math
import struct
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

_INT64 = range(-(2**63), 2**64)


def noted(value: object) -> object:
    """Return the value as JSON has it; raise TypeError for what there is no notation for."""
    match value:
        case None | bool():
            return value
        case str():
            return value if _is_unicode(value) else {"surrogates": _base64(value.encode("utf-8", "surrogatepass"))}
        case int():
            return value if value in _INT64 else {"integer": f"{value:x}"}
        case float():
            return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
        case bytes():
            return _noted_bytes(value)
        case datetime():
            return {"moment": value.astimezone(UTC).isoformat()}
        case list():
            return [noted(item) for item in value]
        case dict():
            return _noted_dict(value)
    raise TypeError(f"there is no notation for {type(value).__name__}")


def read(noted_value: object) -> Any:
    """Return the value of `noted`; raise ValueError or TypeError if it is none."""
    match noted_value:
        case list():
            return [read(item) for item in noted_value]
        case dict():
            if len(noted_value) == 1:
                ((name, content),) = noted_value.items()
                if name in _READERS:
                    return _READERS[name](content)
            return {name: read(item) for name, item in noted_value.items()}
        case _:
            return noted_value


def read_moment(text: Any) -> datetime:
    """Return the moment in UTC; raise ValueError if it has no zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"the moment {text} has no time zone")
    return moment.astimezone(UTC)


def _noted_bytes(value: bytes) -> object:
    try:
        return {"text": value.decode()}
    except UnicodeDecodeError:
        return {"base64": _base64(value)}


def _noted_dict(value: dict[Any, Any]) -> object:
    if all(isinstance(name, str) and _is_unicode(name) for name in value) and not (len(value) == 1 and next(iter(value)) in _READERS):
        return {name: noted(item) for name, item in value.items()}
    return {"map": [[noted(name), noted(item)] for name, item in value.items()]}


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _bytes(text: Any) -> bytes:
    return b64decode(text, validate=True)


def _float(text: Any) -> Any:
    (value,) = struct.unpack(">d", bytes.fromhex(text))
    return value


_READERS: dict[str, Callable[[Any], Any]] = {
    "text": lambda text: text.encode(),
    "base64": _bytes,
    "moment": read_moment,
    "surrogates": lambda text: _bytes(text).decode("utf-8", "surrogatepass"),
    "integer": lambda text: int(text, 16),
    "float": _float,
    "map": lambda items: {read(name): read(item) for name, item in items},
}
