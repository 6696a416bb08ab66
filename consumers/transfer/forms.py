"""The two forms of an export: JSON lines for people and other programs, MessagePack for speed and size. Both lose nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, Protocol
from uuid import UUID

import msgpack

from celery_journal.journal.codec import COLUMNS, Row, event_of, fields_of, row_of

from .notation import noted, read, read_moment

READ_BYTES = 1 << 16

#: What a line begins with; the rest follows in the order of the columns and of the body.
_FIRST = ("event_id", "stream", "kind", "occurred_at")


class Form(Protocol):
    """How records are written.

    With them goes who recorded each, for those who read the file. It is not taken from there: what comes in is recorded by whoever
    brings it, and a file could say anything.
    """

    @property
    def unit(self) -> str:
        """What people call one of them, to find it by its number."""
        ...

    def written(self, record: object) -> bytes:
        """Return the record as bytes, always the same."""
        ...

    def records(self, beginning: bytes, file: BinaryIO) -> Iterator[tuple[Any, bytes]]:
        """Yield each record of the file, of which the beginning is read, with its bytes; raise ValueError where there is none."""
        ...

    def record_of(self, row: Row) -> object:
        """Return the record of a row of the log."""
        ...

    def row_of(self, record: Any) -> Row:
        """Return the row of a record; raise ValueError, TypeError or KeyError if it is none."""
        ...


@dataclass(frozen=True, slots=True)
class JsonLines:
    """An event a line, its fields by name.

    A row that these fields would not give again, as one of another version may be, or that cannot be read, is written column by column.
    """

    unit: str = "line"

    def written(self, record: object) -> bytes:
        """Return the record as a line."""
        return json.dumps(record, separators=(",", ":")).encode() + b"\n"

    def records(self, beginning: bytes, file: BinaryIO) -> Iterator[tuple[Any, bytes]]:
        """Yield what the lines hold."""
        for line in chain([beginning + file.readline()], file):
            yield json.loads(line), line

    def record_of(self, row: Row) -> object:
        """Return the fields of the event, or the columns of the row."""
        recorded = {"recorded_at": row["recorded_at"].isoformat(), "recorded_by": row.get("recorded_by")}
        with suppress(Exception):  # a body that is not ours, whatever goes wrong with it
            fields = fields_of(row)
            event = {name: fields[name] for name in _FIRST} | fields
            record = {**recorded, "event": _noted(event)}
            told = {name: value for name, value in row.items() if name != "recorded_by"}  # which no import takes over
            if self.row_of(json.loads(self.written(record))) == told:
                return record
        return {**recorded, "row": _noted({column: row[column] for column in COLUMNS if row[column] is not None})}

    def row_of(self, record: Any) -> Row:
        """Return the row of the fields or of the columns."""
        recorded_at = read_moment(record["recorded_at"])
        if "row" in record:
            return {**_only_columns(_read(record["row"])), "recorded_at": recorded_at}
        fields = _read(record["event"])
        if isinstance(fields.get("members"), list):  # as the column has it; in a body it would be a list
            fields["members"] = tuple(fields["members"])
        row = {**row_of(fields), "recorded_at": recorded_at}
        event_of(row)  # what is no event was written column by column
        return row


@dataclass(frozen=True, slots=True)
class MessagePack:
    """An event a map: the columns of the log that it fills, as they are."""

    unit: str = "record"

    def written(self, record: object) -> bytes:
        """Return the record as MessagePack."""
        packed: bytes = msgpack.packb(record, datetime=True)
        return packed

    def records(self, beginning: bytes, file: BinaryIO) -> Iterator[tuple[Any, bytes]]:
        """Yield the records. There is one way to write each, so that its bytes need not be kept."""
        unpacker, part = msgpack.Unpacker(timestamp=3, max_buffer_size=0), beginning
        while part:
            unpacker.feed(part)
            for record in unpacker:
                yield record, self.written(record)
            part = file.read(READ_BYTES)

    def record_of(self, row: Row) -> object:
        """Return the columns that are filled."""
        filled = {column: value for column, value in row.items() if value is not None}
        return {**filled, "event_id": row["event_id"].bytes}

    def row_of(self, record: Any) -> Row:
        """Return the row."""
        recorded_at = record["recorded_at"]
        columns = {name: value for name, value in record.items() if name not in {"recorded_at", "recorded_by"}}
        return {**_only_columns({**columns, "event_id": UUID(bytes=record["event_id"])}), "recorded_at": recorded_at}


FORMS: Mapping[str, Form] = {"jsonl": JsonLines(), "msgpack": MessagePack()}


def _noted(fields: Mapping[str, Any]) -> dict[str, object]:
    """Return the fields in JSON. The two that every event has, and always of the same type, are plain texts."""
    plain = {"event_id": str(fields["event_id"]), "occurred_at": fields["occurred_at"].isoformat()}
    return {name: plain[name] if name in plain else noted(value) for name, value in fields.items()}


def _read(event: Any) -> dict[str, Any]:
    if not isinstance(event, dict):
        raise TypeError("an event is an object")
    fields: dict[str, Any] = {name: read(value) for name, value in event.items()}
    return {**fields, "event_id": UUID(event["event_id"]), "occurred_at": read_moment(event["occurred_at"])}


def _only_columns(found: Mapping[str, Any]) -> Row:
    if unknown := sorted(map(str, found.keys() - set(COLUMNS))):
        raise ValueError(f"the log has no column {unknown[0]}")
    return {**dict.fromkeys(COLUMNS), **found}
