"""Events to rows of the log and back, losing nothing.

What has a column goes there; the rest is msgpack in `body`. Text columns cannot hold NUL and lone surrogates: there
they are escaped, and the exact text stands in the body, under `_EXACT`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgpack

from .errors import IdTooLong, PayloadTooLarge
from .events import KINDS, Event, UnknownEvent, WorkerEvent, known_event
from .upcasters import upcast

#: The columns of the log that an event fills, in the order of the statements in sql/journal.sql.
TEXT_COLUMNS = (
    "stream",
    "kind",
    "state",
    "name",
    "worker",
    "queue",
    "root_id",
    "parent_id",
    "group_id",
    "task_id",
    "periodic_task_name",
    "content_type",
    "content_encoding",
    "args_content_type",
    "traceback",
    "source",
    "run",
    "reason",
)
BINARY_COLUMNS = ("args", "kwargs", "result", "meta")
INTEGER_COLUMNS = ("pid", "group_index", "size")
MOMENT_COLUMNS = ("eta", "expires")
NULLABLE_COLUMNS = (*INTEGER_COLUMNS, *MOMENT_COLUMNS, "time_limit", "members", *TEXT_COLUMNS, *BINARY_COLUMNS)
COLUMNS = ("event_id", "occurred_at", "attempt", "schema_version", *NULLABLE_COLUMNS, "body")

DEFAULT_MAX_PAYLOAD_BYTES = 64 * 1024 * 1024

#: What an index can hold (2,704 bytes a row), with room for what stands beside an id.
MAX_ID_BYTES = 2500

_EXACT = "\0exact"
_BIG_INTEGER = 1
_INT32 = range(-(2**31), 2**31)
_EXACT_FLOAT = 2.0**53

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event with its place in the log."""

    event: Event
    #: Who wrote it; the order of the log is (transaction, position).
    transaction: int
    position: int
    #: The database's clock.
    recorded_at: datetime

    @property
    def place(self) -> tuple[int, int]:
        """Its place in the order of the log."""
        return self.transaction, self.position


def escape(text: str) -> str:
    r"""Return the text with what PostgreSQL cannot hold escaped: NUL as ``\x00``, lone surrogates as ``\udcXX``."""
    if text.isascii():
        return text.replace("\0", "\\x00")
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def encode(event: Event, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES, max_id_length: int = MAX_ID_BYTES) -> Row:
    """Return the row of the event; raise PayloadTooLarge or IdTooLong if its bytes or its id are above the limits."""
    unknown = event.model_extra or {}
    row = row_of({name: value for name, value in event if value is not None or name in unknown})
    size = sum(len(row[column]) for column in (*BINARY_COLUMNS, "body") if row[column] is not None)
    size += len((row["traceback"] or "").encode())
    if size > max_payload_bytes:
        raise PayloadTooLarge(event.stream, event.kind, size, max_payload_bytes)
    if (length := len(row["stream"].encode())) > MAX_ID_BYTES:
        raise IdTooLong(event.stream, f"{length:,} bytes", f"the log takes {MAX_ID_BYTES:,}")
    if len(event.stream) > max_id_length and not isinstance(event, WorkerEvent):
        raise IdTooLong(event.stream, f"{len(event.stream):,} characters", f"task_id_max_length is {max_id_length:,}")
    return row


def row_of(given: Mapping[str, Any]) -> Row:
    """Return the row that holds these fields of an event; one that is None is there and says so."""
    fields = dict(given)
    row: Row = dict.fromkeys(COLUMNS)
    exact: dict[str, Any] = {name: None for name, value in fields.items() if value is None and name in row}
    if _EXACT in fields:  # somebody's own field of that name
        exact[_EXACT] = fields.pop(_EXACT)
    for column in ("event_id", "occurred_at", "attempt", "schema_version"):
        row[column] = fields.pop(column)
    for column in NULLABLE_COLUMNS:
        if (value := fields.pop(column, None)) is not None:
            row[column] = held = _held(column, value)
            if held != (list(value) if isinstance(value, tuple) else value):
                exact[column] = value
    if exact:
        fields[_EXACT] = exact
    if fields:
        row["body"] = pack(fields)
    return row


def fields_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the event that a row of the log holds, in the version in which it was written."""
    fields = {column: row[column] for column in COLUMNS if column != "body" and row[column] is not None}
    if row["body"] is not None:
        fields.update(unpack(row["body"]))
    fields.update(fields.pop(_EXACT, {}))
    return fields


def decode(row: Mapping[str, Any]) -> RecordedEvent:
    """Return the event of a row of the log, old versions brought up to date."""
    return RecordedEvent(build(upcast(fields_of(row))), row["transaction"], row["position"], row["recorded_at"])


def build(fields: Mapping[str, Any]) -> Event:
    """Return the event with these fields, an UnknownEvent if its kind is not one of ours."""
    if fields["kind"] in KINDS:
        return known_event.validate_python(fields)
    return UnknownEvent.model_validate(fields)


def pack(value: object) -> bytes:
    """Return the value as msgpack. What msgpack has no type for becomes its nearest plain value, at last its repr."""
    packed: bytes = msgpack.packb(plain(value), datetime=True, unicode_errors="surrogatepass")
    return packed


def unpack(packed: bytes) -> Any:
    """Return the value of `pack`."""
    return msgpack.unpackb(packed, timestamp=3, unicode_errors="surrogatepass", strict_map_key=False, ext_hook=_from_extension)


def plain(value: object, depth: int = 64) -> object:
    """Return the value made of what msgpack can hold: user data must never keep a fact out of the log."""
    match value:
        case None | bool() | bytes() | float():
            return value
        case str():
            return str.__str__(value)  # str() of an enum of texts is its name
        case int():
            return _plain_integer(value)
        case _ if depth == 0:
            return _repr(value)
        case dict():
            return {_plain_key(key): plain(item, depth - 1) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item, depth - 1) for item in value]
        case datetime() if value.tzinfo is not None:
            return _in_utc(value)
        case date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytearray() | memoryview():
            return bytes(value)
        case _:
            return _repr(value)


def _plain_key(key: object) -> object:
    if isinstance(key, float) and math.isnan(key):
        return "nan"
    if isinstance(key, int) and not isinstance(key, bool):
        return _plain_integer(key)
    return key if key is None or isinstance(key, bool | float | str | bytes) else _repr(key)


def _plain_integer(value: int) -> object:
    # In hexadecimal: Python refuses to convert more than 4300 decimal digits.
    return int(value) if -(2**63) <= value < 2**64 else msgpack.ExtType(_BIG_INTEGER, b"%x" % value)


def _in_utc(moment: datetime) -> object:
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # the first and the last hours that datetime knows
        return moment.isoformat()


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  a __repr__ may raise anything
        return f"<unrepresentable {type(value).__name__}>"


def _from_extension(code: int, data: bytes) -> object:
    return int(data, 16) if code == _BIG_INTEGER else msgpack.ExtType(code, data)


def _held(column: str, value: object) -> object:
    """Return what the column can hold of the value: escaped text, or nothing where the type is another."""
    match value:
        case str() if column in TEXT_COLUMNS:
            return escape(value)
        case bytes() if column in BINARY_COLUMNS:
            return value
        case bool():
            return None
        case int() if column in INTEGER_COLUMNS:
            return value if value in _INT32 and (column != "size" or value >= 0) else None
        case int() | float() if column == "time_limit":
            return float(value) if abs(value) < _EXACT_FLOAT else None
        case datetime() if column in MOMENT_COLUMNS and value.tzinfo is not None:
            moment = _in_utc(value)
            return moment if isinstance(moment, datetime) else None
        case tuple() if column == "members" and all(isinstance(member, str) for member in value):
            return [escape(member) for member in value]
        case _:
            return None
