"""Events to rows of the log and back, losing nothing.

What has a column goes there; the rest is msgpack in `body`. Text columns cannot hold NUL and lone surrogates: there
they are escaped, and the exact text stands in the body, under `_EXACT`. A body adds to the columns, or refines what one
holds; where it contradicts one, the column stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import msgpack
from pydantic import ValidationError

from .constraints import MAX_ID_BYTES, broken_by
from .errors import EventRefused, IdTooLong, PayloadTooLarge
from .events import KINDS, Event, UnknownEvent, UnreadableEvent, known_event
from .upcasters import newest_version, upcast
from .workers import WorkerEvent

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
MOMENT_COLUMNS = ("eta", "expires", "ordered_at")
NULLABLE_COLUMNS = (*INTEGER_COLUMNS, *MOMENT_COLUMNS, "time_limit", "members", *TEXT_COLUMNS, *BINARY_COLUMNS)
COLUMNS = ("event_id", "occurred_at", "attempt", "schema_version", *NULLABLE_COLUMNS, "body")

DEFAULT_MAX_PAYLOAD_BYTES = 64 * 1024 * 1024

#: The names of columns that are no field of anybody's in a body.
_HELD = frozenset(COLUMNS) - {"body"}

#: Characters of the reason that an event cannot be read.
_LONGEST_WHY = 200

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
    #: The login by which it was recorded, as the database knows it; None where that is not known.
    recorded_by: str | None = None

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
    """Return the row of the event; raise EventRefused if the log would not take it: above a limit, or without sense."""
    unknown = event.model_extra or {}
    row = row_of({name: value for name, value in event if value is not None or name in unknown})
    size = sum(len(row[column]) for column in (*BINARY_COLUMNS, "body") if row[column] is not None)
    size += len((row["traceback"] or "").encode())
    if size > max_payload_bytes:
        raise PayloadTooLarge(event.stream, event.kind, size, max_payload_bytes)
    check_length(event.stream, MAX_ID_BYTES if isinstance(event, WorkerEvent) else max_id_length)
    if (why := broken_by(row)) is not None:
        raise EventRefused(f"{row['kind']} of {row['stream']} at {event.occurred_at.isoformat()} is not recorded: {why}")
    return row


def check_length(stream: str, max_id_length: int = MAX_ID_BYTES) -> None:
    """Raise IdTooLong if the log cannot take the stream, or if it is longer than this many characters."""
    if (length := len(escape(stream).encode())) > MAX_ID_BYTES:
        raise IdTooLong(stream, f"{length:,} bytes", f"the log takes {MAX_ID_BYTES:,}")
    if len(stream) > max_id_length:
        raise IdTooLong(stream, f"{len(stream):,} characters", f"task_id_max_length is {max_id_length:,}")


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
    """Return the fields of the event that a row of the log holds, in the version in which it was written.

    Raises ValueError or TypeError where the body is not one of ours.
    """
    fields = {column: row[column] for column in COLUMNS if column != "body" and row[column] is not None}
    if row["body"] is not None:
        told = unpack(row["body"])
        exact = told.pop(_EXACT, {}) if isinstance(told, dict) else None
        if not isinstance(exact, dict):
            raise TypeError("its body is no mapping")
        fields.update({name: value for name, value in told.items() if name not in _HELD})
        fields.update({name: value for name, value in exact.items() if _refines(name, value, row)})
    return fields


def _refines(name: object, value: object, row: Mapping[str, Any]) -> bool:
    """Return whether that is what the column holds, said exactly."""
    if name not in _HELD:
        return name in {_EXACT, "body"}  # somebody's own fields of these names
    if name not in NULLABLE_COLUMNS:
        return False
    try:
        typed = _typed(name, value) if row["kind"] in KINDS and name in KINDS[row["kind"]].model_fields else value
    except ValueError:
        return False
    return bool((None if typed is None else _held(name, typed)) == row[name])


def _typed(column: str, value: object) -> object:
    """Return the value as a model that has the field takes it; raise ValueError for what was never one of its values."""
    match value:
        case None:
            return None
        case str() if column in TEXT_COLUMNS:
            return value
        case bool():
            pass
        case int() if column in INTEGER_COLUMNS:
            return value
        case int() | float() if column == "time_limit":
            return value
        case datetime() if column in MOMENT_COLUMNS:
            return value
        case str() if column in MOMENT_COLUMNS:  # the first and the last hours that datetime knows
            return datetime.fromisoformat(value)
        case list() if column == "members":
            return tuple(value)
    raise ValueError(f"no {column} is a {type(value).__name__}")


def check_types(row: Mapping[str, Any]) -> None:
    """Raise TypeError where a column holds what is not of its type, as in a file that somebody has written."""
    for column in COLUMNS:
        value, is_right = row[column], _TYPES.get(column, _is_bytes)
        if not (is_right(value) or (value is None and column in _NULLABLE)):
            raise TypeError(f"{column} is of another type")


def _is_bytes(value: object) -> bool:
    return isinstance(value, bytes)


def _is_integer(value: object, bits: int = 32) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << (bits - 1)) <= value < 1 << (bits - 1)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and escape(value) == value


def _is_moment(value: object) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None


#: Whether a value is of the column's type; bytes, unless said.
_TYPES: dict[str, Callable[[object], bool]] = {
    "event_id": lambda value: isinstance(value, UUID),
    "occurred_at": _is_moment,
    "attempt": _is_integer,
    "schema_version": lambda value: _is_integer(value, 16),
    "time_limit": lambda value: isinstance(value, float),
    "members": lambda value: isinstance(value, list) and all(member is None or _is_text(member) for member in value),
    **dict.fromkeys(TEXT_COLUMNS, _is_text),
    **dict.fromkeys(INTEGER_COLUMNS, _is_integer),
    **dict.fromkeys(MOMENT_COLUMNS, _is_moment),
}
_NULLABLE = frozenset({*NULLABLE_COLUMNS, "body"}) - {"stream", "kind"}


def event_of(row: Mapping[str, Any]) -> Event:
    """Return the event of a row, old versions brought up to date; raise whatever goes wrong where it cannot be read."""
    return build(upcast(fields_of(row)))


def decode(row: Mapping[str, Any]) -> RecordedEvent:
    """Return the event of a row of the log, an UnreadableEvent where it cannot be read: no row keeps the others from being shown."""
    try:
        event = event_of(row)
    except Exception as exc:  # noqa: BLE001  whatever somebody has written there
        event = _unreadable(row, exc)
    return RecordedEvent(event, row["transaction"], row["position"], row["recorded_at"], row.get("recorded_by"))


def _unreadable(row: Mapping[str, Any], exc: Exception) -> UnreadableEvent:
    columns = {column: row[column] for column in COLUMNS if column != "body" and row[column] is not None}
    return UnreadableEvent.model_construct(**columns, unreadable=_why_unreadable(row, exc))


def _why_unreadable(row: Mapping[str, Any], exc: Exception) -> str:
    version, newest = row["schema_version"], newest_version(row["kind"])
    if row["kind"] in KINDS and version > newest:
        return f"it is of version {version}, and this package knows {newest}"
    if isinstance(exc, ValidationError):
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"] if part != row["kind"])
        return escape(f"{place}: {first['msg']}")[:_LONGEST_WHY]
    return escape(str(exc).partition("\n")[0] or type(exc).__name__)[:_LONGEST_WHY]


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
            return value if value in _INT32 and value >= (1 if column == "pid" else 0) else None
        case int() | float() if column == "time_limit":
            return float(value) if 0 <= value < _EXACT_FLOAT else None
        case datetime() if column in MOMENT_COLUMNS and value.tzinfo is not None:
            moment = _in_utc(value)
            return moment if isinstance(moment, datetime) else None
        case tuple() if column == "members" and all(isinstance(member, str) for member in value):
            return [escape(member) for member in value]
        case _:
            return None
