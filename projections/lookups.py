"""From a lookup such as `date_done__gte` to a condition of SQL, whose values are parameters."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg.sql import SQL, Composable, Composed, Identifier, Placeholder

from celery_journal import sql
from celery_journal.journal.codec import escape

from .fields import Field, FieldError, View

_WILDCARDS = {"*": "%", "?": "_"}

#: How kombu's JSON has the values that JSON has no form for: in an object that names the type. A datetime is a date too, and stands first.
_TYPES: tuple[tuple[type, str, Callable[[Any], object]], ...] = (
    (datetime, "datetime", datetime.isoformat),
    (date, "date", date.isoformat),
    (time, "time", time.isoformat),
    (Decimal, "decimal", str),
    (UUID, "uuid", lambda value: {"hex": value.hex}),
)


class Statement:
    """A statement in the making: its pieces are named in sql/query.sql, and its parameters collect here."""

    def __init__(self, view: View, schema: str) -> None:
        self.view = view
        self._pieces = sql.queries("query.sql", schema)
        self.parameters: dict[str, Any] = {}

    def piece(self, name: str, **parts: Composable) -> Composed:
        """Return a piece of SQL, with other pieces in its braces."""
        return SQL(self._pieces[name]).format(**parts)

    def value(self, value: object) -> Composable:
        """Return the place of a parameter."""
        name = f"value_{len(self.parameters)}"
        self.parameters[name] = value
        return Placeholder(name)

    def column(self, field: Field) -> Composable:
        """Return the column of a field."""
        own = f"column {field.column}"
        if (keys := self._keys(field)) is not None:
            return self.piece("among", keys=keys)
        return self.piece(own) if own in self._pieces else self.piece("column", label=Identifier(field.column))

    def _keys(self, field: Field) -> Composable | None:
        """Return what selects the few rows for which the field is true; None where it is no such field."""
        name = f"keys of {field.column}"
        return self.piece(name) if name in self._pieces else None

    def selected(self, names: Iterable[str]) -> Composable:
        """Return the columns of the fields, each under the name it was asked for by."""
        columns = []
        for name in names:
            field = self.view.field_of(name)
            column = self.column(field)
            if field.type == "json" and field.as_text:
                column = self.piece("as text", column=column)
            columns.append(self.piece("named", column=column, label=Identifier(name)))
        return SQL(", ").join(columns)

    def ordered(self, names: Iterable[str]) -> Composable:
        """Return the order by these fields."""
        return self._in_order((name, self.column(self.view.field_of(_bare(name)))) for name in names)

    def ordered_alone(self, names: Iterable[str], selected: Iterable[str]) -> Composable:
        """Return the same of rows that have only what is selected."""
        labels = {self.view.field_of(name): name for name in selected}
        return self._in_order((name, Identifier(labels[self.view.field_of(_bare(name))])) for name in names)

    def _in_order(self, columns: Iterable[tuple[str, Composable]]) -> Composable:
        return SQL(", ").join(self.piece("descending" if name.startswith("-") else "ascending", column=column) for name, column in columns)

    def condition(self, lookup: str, value: object) -> Composable:
        """Return the condition of one lookup; raise FieldError if there is no such thing, or not with this value."""
        field, asked = self.view.lookup(lookup)
        column = self.column(field)
        if asked == "isnull" or (asked == "exact" and value is None):
            if not isinstance(value, bool | None):
                raise FieldError(f"{lookup} is True or False, not {value!r}")
            return self.piece("is not null" if value is False else "is null", column=column)
        if value is True and (keys := self._keys(field)) is not None:
            return self.piece("only among", keys=keys)
        if asked == "path":
            return self._path(field, lookup, value)
        if asked not in field.lookups:
            return self._path(field, lookup, at(asked.split("__"), value))
        if f"any {field.column}" in self._pieces:
            each = self._compared(field, self.piece(f"each {field.column}"), lookup, asked, value)
            return self.piece(f"any {field.column}", condition=each)
        return self._compared(field, column, lookup, asked, value)

    def _compared(self, field: Field, column: Composable, lookup: str, asked: str, value: object) -> Composable:
        """Return how the column compares with the value."""
        if asked == "in":
            return self.piece("in", column=column, value=self.value([_checked(field, lookup, one) for one in _several(lookup, value)]))
        if asked == "glob":
            return self.piece("glob", column=column, value=self.value(like(str(_text(lookup, value)))))
        if asked in {"older_than", "within"}:
            if not isinstance(value, timedelta):
                raise FieldError(f"{lookup} takes a timedelta, not {value!r}")
            return self.piece(asked, column=column, value=self.value(value))
        special = [name for name in (f"{asked} of {field.column}", f"{asked} of {field.type}") if name in self._pieces]
        return self.piece((*special, asked)[0], column=column, value=self.value(_checked(field, lookup, value)))

    def _path(self, field: Field, lookup: str, value: object) -> Composable:
        column = self.column(field if field.type == "json" else self.view.field_of(f"{field.column}_json"))
        conditions = []
        for place, part in _places(value):
            value = self.value(as_json(lookup, part))
            if not place and _is_typed(part):
                conditions.append(self.piece("path of an object", column=column, value=value, item=self.value(as_json(lookup, [part]))))
            elif not place:
                conditions.append(self.piece("path", column=column, value=value))
            elif any(escape(step) != step for step in place):  # jsonb has no such key
                conditions.append(self.piece("nothing"))
            else:
                # A list contains a value that it has as an item, which is in another place.
                piece = "path in a place" if isinstance(part, dict | list) else "value in a place"
                conditions.append(self.piece(piece, column=column, place=self.value(list(place)), value=value))
        return SQL(" and ").join(conditions)


def at(steps: Sequence[str], value: object) -> Any:
    """Return the value inside objects and lists: `items`, `0` is the first of the list under `items`."""
    for step in reversed(steps):
        value = {int(step) if is_place(step) and str(int(step)) == step else step: value}
    return value


def is_place(step: str) -> bool:
    """Return whether the step is one into a list."""
    return step.isascii() and step.isdigit() and len(step) < 10


def _bare(name: str) -> str:
    """Return the name without the minus that makes an order descending."""
    return name.removeprefix("-")


def like(pattern: str) -> str:
    """Return what a shell pattern of `*` and `?` is to LIKE."""
    return re.sub(r"[\\%_*?]", lambda match: _WILDCARDS.get(match[0], f"\\{match[0]}"), pattern)


def _places(value: object, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield each part of the value with the place it has to be in: a number as a key is a place in a list."""
    if isinstance(value, dict) and _has_numbers(value):
        for key, part in value.items():
            yield from _places(part, (*place, str(key)))
    else:
        yield place, value


def _has_numbers(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(key, int) or _has_numbers(part) for key, part in value.items())


def _several(lookup: str, value: object) -> Iterable[object]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise FieldError(f"{lookup} takes a list of values, not {value!r}")
    return value


def _checked(field: Field, lookup: str, value: object) -> object:
    """Return the value as a parameter; raise FieldError if the field cannot be compared with it."""
    match field.type, value:
        case "text" | "texts", _:
            return _text(lookup, value)
        case "bytes", str():
            return value.encode("utf-8", "surrogatepass")
        case "bytes", bytes() | bytearray() | memoryview():
            return bytes(value)
        case "json", _:
            return as_json(lookup, value)
        case "boolean", bool():
            return value
        case "integer", int() if not isinstance(value, bool):
            return int(value)
        case "moment", datetime() if value.tzinfo is not None:
            return value
        case "moment", datetime():
            raise FieldError(f"{lookup} needs to know the time zone of {value}; take an aware datetime, such as datetime.now(UTC)")
        case "interval", timedelta():
            return value
    wanted = {
        "integer": "a whole number",
        "boolean": "True or False",
        "moment": "an aware datetime",
        "interval": "a timedelta",
        "bytes": "bytes or text",
    }[field.type]
    raise FieldError(f"{lookup} is compared with {wanted}, not with {value!r}")


def _text(lookup: str, value: object) -> str:
    if not isinstance(value, str | UUID):
        raise FieldError(f"{lookup} is compared with text, not with {value!r}")
    return escape(str.__str__(value) if isinstance(value, str) else str(value))


def as_json(lookup: str, value: object) -> bytes:
    """Return the value as kombu's JSON has it; raise FieldError if it cannot."""
    try:
        return json.dumps(value, default=_typed).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise FieldError(f"{lookup} is compared with what JSON can hold: {exc}") from exc


def _is_typed(value: object) -> bool:
    return isinstance(value, bytes | date | time | Decimal | UUID)


def _typed(value: object) -> dict[str, object]:
    """Return a value of a type that JSON has not as kombu writes it, since 5.3; raise TypeError of one that it refuses too."""
    if isinstance(value, bytes):
        try:
            return {"__type__": "bytes", "__value__": value.decode()}
        except UnicodeDecodeError:
            return {"__type__": "base64", "__value__": base64.b64encode(value).decode()}
    for type_, name, form in _TYPES:
        if isinstance(value, type_):
            return {"__type__": name, "__value__": form(value)}
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
