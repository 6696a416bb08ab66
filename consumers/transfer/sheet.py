"""A view as CSV (RFC 4180), for spreadsheets: no cell can start a formula."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from psycopg.abc import Buffer
from psycopg.adapt import Loader

from celery_journal import sql
from celery_journal.consumers.contents import MOST
from celery_journal.journal import Connection
from celery_journal.projections import Q
from celery_journal.projections.task_result import text_of

from .settled import pages_of_tasks, stream

View = Literal["task_result", "task_attempt", "group_result", "chord_counter", "chord_part", "worker"]

#: Keys whose rows are asked for in one statement.
PAGE = 500

#: What spreadsheets take for the beginning of a formula, also as East Asian keyboards write it; at the beginning of a cell, and where one
#: begins for a spreadsheet of a country that separates cells by semicolons or tabs, to which our quotation marks are no help.
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")  # noqa: RUF001
_FORMULA_BEHIND = re.compile(r"[;\t\r\n](?=[=+\-@＝＋－＠])")  # noqa: RUF001


#: Control characters but for tabs and the ends of lines, and lone surrogates.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class _BoundedJson(Loader):
    """Loads JSON; what Python cannot read, such as a number of 5,000 digits, as text, and of too much of it only how much it is."""

    def load(self, data: Buffer) -> object:
        text = bytes(data).decode()
        if len(text) > MOST:
            return f"(json, {len(text):,} characters)"
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text


def sheet(connection: Connection, schema: str, view: View, condition: Q | None = None) -> Generator[bytes]:
    """Yield the lines of the view: its columns, and its rows by their keys, of the tasks for which the condition holds and their groups.

    Text in a cell that a spreadsheet would calculate has an apostrophe before it. Bytes are text, and base64 where they are no UTF-8;
    what no sheet can hold (NUL, other control characters, lone surrogates) is escaped; moments are in UTC, spans in seconds. The
    lines hold the connection until they are at their end, or closed.
    """
    query = sql.query("transfer.sql", f"sheet of {view}", schema)
    with connection.cursor() as cursor:
        cursor.adapters.register_loader("jsonb", _BoundedJson)
        cursor.execute(query, {"keys": []})
        yield _line([column.name for column in cursor.description or ()])
        for keys in _keys(connection, schema, view, condition):
            for row in stream(cursor, query, {"keys": keys}):
                yield _line([_cell(value) for value in row])


def _keys(connection: Connection, schema: str, view: View, condition: Q | None) -> Iterator[list[str]]:
    if condition is not None:
        yield from _chosen(connection, schema, view, condition)
        return
    query = sql.query("transfer.sql", f"keys of {'task_result' if view == 'task_attempt' else view}", schema)
    after = ""
    while keys := [key for (key,) in connection.execute(query, {"after": after, "limit": PAGE})]:
        yield keys
        after = keys[-1]


def _chosen(connection: Connection, schema: str, view: View, condition: Q) -> Iterator[list[str]]:
    groups: set[str] = set()
    for tasks in pages_of_tasks(connection, schema, condition):
        if view in {"task_result", "task_attempt"}:
            yield [task["task_id"] for task in tasks]
        else:
            new = {task["group_id"] for task in tasks if task["group_id"]} - groups
            groups |= new
            yield sorted(new)


def _line(cells: Sequence[object]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int() | float():
            return value
        case datetime():
            return value.astimezone(UTC).isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return _safe(text_of(value) or "")
        case str():
            return _safe(value)
        case _:
            return _safe(json.dumps(value))


def _safe(text: str) -> str:
    if not text.isprintable():
        text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    text = _FORMULA_BEHIND.sub(lambda found: f"{found[0]}'", text)
    return f"'{text}" if _FORMULA.match(text) else text
