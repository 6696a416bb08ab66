"""What a login with INSERT may bring into the log, and commands that are run in this process, for the tests that fuzz."""

from __future__ import annotations

import json
import os
import pickle
import traceback
import zlib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgpack
import psycopg
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from celery_journal.consumers.cli import main
from celery_journal.journal import Connection
from celery_journal.journal.codec import COLUMNS
from celery_journal.journal.constraints import STATE_OF_KIND
from celery_journal.journal.events import KINDS
from tests.strategies import TASK_IDS, payloads, texts

#: How many times as much is tried as in a quick run: CELERY_JOURNAL_FUZZ=20 takes an hour.
TIMES = int(os.environ.get("CELERY_JOURNAL_FUZZ", "1"))

#: Printed with what fails, so that it can be tried again.
FUZZ = settings(max_examples=12 * TIMES, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))

SUBJECTS = [*TASK_IDS, "group-1", "worker-1"]

JSON = [b"1", b"null", b"[]", b"{}", b"[[[1]]]", b'{"exc_type": 1}', b'{"exc_type": "E", "exc_message": {"a": 1}}', b'{"children": 3}']
HEADERS = [b'[[["task-1", null], null]]', b"[[]]", b"[1]", b'{"a": 1}', b'[[["task-1"]]]', b"[[[1, [2]], [[]]]]"]
MARKS = [
    b'{"resolved": true}',
    b'{"hidden": "x"}',
    b'{"queues": 3, "freq": "x"}',
    b'{"freq": 1e300, "loadavg": {}}',
    b'{"queues": [1, null]}',
]
#: Words that mean something in a payload of ours or of Celery's.
MEANT = [
    "exc_type",
    "exc_message",
    "exc_module",
    "children",
    "parent",
    "resolved",
    "hidden",
    "queues",
    "freq",
    "loadavg",
    "active",
    "pool",
    "__type__",
]

#: Any text that PostgreSQL holds.
WRITTEN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | texts() | st.sampled_from([*SUBJECTS, "pickle", 1e400, -1])
NESTED = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEANT) | texts(), inner, max_size=3), max_leaves=8
)

BYTES = (
    st.binary(max_size=12)
    | st.sampled_from([*JSON, *HEADERS, *MARKS, b"\x91" * 500, b"[" * 500, b"\x80\x04N.", b"9" * 5000])
    | NESTED.map(lambda value: json.dumps(value).encode())
    | NESTED.map(pickle.dumps)
    | NESTED.map(lambda value: zlib.compress(json.dumps(value).encode()))
)

#: What a body may say of what has no column.
OTHERS = [*sorted({name for model in KINDS.values() for name in model.model_fields} - set(COLUMNS)), "\0exact", "x"]
ODD: list[Any] = ["text", b"bytes", [], {}, {"sent_by": []}, {"sent_by": {"a": 1}}, {"state": "FAILURE", "pid": "x"}]
BODIES = st.dictionaries(st.sampled_from(OTHERS) | texts(), payloads() | NESTED | BYTES | st.sampled_from(ODD), max_size=3).map(
    lambda body: msgpack.packb(packable(body), datetime=True, unicode_errors="surrogatepass")
)

NAMES = st.none() | st.sampled_from([*SUBJECTS, "", "x" * 300, "\x1b[2J", "a\tb\nc", "\u202e"]) | WRITTEN
MOMENTS = st.sampled_from(
    [
        "1970-01-01 00:00:00+00",
        "2026-03-02 00:00:00+00",
        "9999-12-31 23:59:59.999999+00",
        *((datetime.now(UTC) - timedelta(hours=hours)).isoformat() for hours in (-1, 0, 2)),
    ]
) | st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
EDGES = st.sampled_from([0, 1, 2**31 - 1]) | st.integers(0, 2**31 - 1)

TYPES = ["application/json", "application/x-yaml", "application/data", "application/x-python-serialize", "application/x-msgpack", "x"]

ROWS = st.fixed_dictionaries(
    {
        "stream": st.sampled_from([*SUBJECTS, *TASK_IDS]) | st.sampled_from([*SUBJECTS, *TASK_IDS]) | WRITTEN | st.just("\u00e4" * 1250),
        "kind": st.sampled_from([*KINDS, *KINDS]) | st.sampled_from(["task-teleported", "x\ty"]) | WRITTEN,
        "occurred_at": MOMENTS,
        "attempt": st.sampled_from([0, 0, 1]) | EDGES,
        "schema_version": st.sampled_from([1, 1, 1, 32767]) | st.integers(1, 32767),
    },
    optional={
        "state": st.sampled_from(["", "HALF", "SUCCESS", "STARTED", "REVOKED", "PENDING", "x" * 300]) | WRITTEN,
        "pid": EDGES.filter(bool),
        **dict.fromkeys(("group_index", "size"), EDGES),
        **dict.fromkeys(("eta", "expires"), MOMENTS | st.just("0001-01-01 00:00:00+00")),
        "time_limit": st.sampled_from([0.0, 1.5, 1e300]) | st.floats(0, allow_infinity=False),
        "members": st.lists(st.sampled_from(["", *TASK_IDS, "x" * 300]) | WRITTEN, max_size=3),
        **dict.fromkeys(("name", "worker", "queue", "root_id", "parent_id", "group_id", "task_id", "periodic_task_name"), NAMES),
        **dict.fromkeys(("source", "run", "reason", "traceback"), NAMES | st.sampled_from(["backend", "broadcast", "signal", "sweep"])),
        **dict.fromkeys(("content_type", "args_content_type"), st.sampled_from(TYPES) | WRITTEN),
        "content_encoding": st.sampled_from(["utf-8", "binary", "bz2", "punycode", "no-such"]) | WRITTEN,
        **dict.fromkeys(("args", "kwargs", "result", "meta"), BYTES),
        "body": BYTES | BODIES,
    },
)


def packable(value: Any) -> Any:
    """Return the value without integers that msgpack has not."""
    match value:
        case dict():
            return {packable(key): packable(item) for key, item in value.items()}
        case list():
            return [packable(item) for item in value]
        case int() if not -(2**63) <= value < 2**64:
            return 2**63
        case _:
            return value


def plain(value: Any) -> Any:
    """Return what JSON and msgpack can hold of the value."""
    match value:
        case dict():
            return {str(key).encode("ascii", "replace").decode(): plain(item) for key, item in value.items()}
        case list():
            return [plain(item) for item in value]
        case None | bool() | float():
            return value
        case int():
            return packable(value)
        case _:
            return str(value).encode("ascii", "replace").decode()


def row_of(drawn: dict[str, Any]) -> dict[str, Any]:
    """Return the row with an id, and with the state that its kind has."""
    row = {"event_id": uuid4(), **drawn}
    if row["kind"] in STATE_OF_KIND:
        row["state"] = STATE_OF_KIND[row["kind"]]
    return row


def write(log: Connection, rows: list[dict[str, Any]], *, by_copy: bool = False) -> None:
    """Insert the rows as a login with INSERT would; what the table or a view refuses never was."""
    for row in map(row_of, rows):
        names, places = ", ".join(row), ", ".join(f"%({name})s" for name in row)
        with suppress(psycopg.IntegrityError, psycopg.DataError, psycopg.errors.ProgramLimitExceeded):
            if by_copy:
                with log.cursor().copy(f"copy celery_journal.event ({names}) from stdin".encode()) as copy:
                    copy.write_row(list(row.values()))
            else:
                log.execute(f"insert into celery_journal.event ({names}) values ({places})".encode(), row)


def run(dsn: str, *arguments: str, given: bytes | None = None) -> Result:
    """Run the command in this process; it must end as a command does."""
    result = CliRunner().invoke(main, ["--dsn", dsn, *arguments], input=given, catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        told = "".join(traceback.format_exception(result.exception))
        pytest.fail(f"celery-journal {' '.join(arguments)}\n{told}", pytrace=False)
    return result
