"""Whatever a writer may insert, broadcast or hand over: no command ends in a traceback, and verify finds the views right."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_journal.consumers.broadcast.translator import Malformed, translate
from celery_journal.consumers.transfer.archive import BrokenFile, archive, rows_in
from celery_journal.consumers.transfer.forms import FORMS
from celery_journal.journal import Connection, connect
from celery_journal.projections import verify
from tests.conftest import empty
from tests.strategies import payloads

from .fuzzing import FUZZ, ROWS, SUBJECTS, TIMES, plain, run, write


@pytest.fixture(scope="module")
def log(database: str) -> Iterator[Connection]:
    """A connection to a journal that only this module writes to."""
    with connect(database) as connection:
        yield connection


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("CELERY_JOURNAL_SPOOL", str(tmp_path_factory.mktemp("spool")))


def commands_of(folder: Path, subject: str = "task-1", form: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return every command that reads: those about one subject, those about all, and those that write what others read."""
    return [
        *((command, *form, subject) for command in ("show", "history", "explain", "graph")),
        *((command, *form) for command in ("list", "stats", "lost", "stale", "doctor")),
        ("tail", "-n", "50", *form),
        ("doctor", "--payloads"),
        *(("export", "--format", form, "-o", str(folder / f"log.{form}"), "--yes") for form in ("jsonl", "msgpack")),
        *(("export", "--format", "csv", "--view", view, "-o", str(folder / "x.csv"), "--yes") for view in VIEWS),
        ("projections", "verify"),
    ]


VIEWS = ("task_result", "task_attempt", "group_result", "chord_counter", "chord_part", "worker")


def test_no_row_keeps_a_command_from_its_end(log: Connection, tmp_path: Path) -> None:
    """Nor an export from being read again, a sweep from finding what is lost, or the views from being verified."""

    @FUZZ
    @given(st.lists(ROWS, min_size=1, max_size=12), st.sampled_from(SUBJECTS), st.sampled_from([(), ("--json",)]))
    def goes_on(rows: list[dict[str, Any]], subject: str, form: tuple[str, ...]) -> None:
        empty(log)
        write(log, rows)

        for arguments in commands_of(tmp_path, subject, form):
            result = run(log.info.dsn, *arguments)
            assert result.exit_code in {0, 1, 2}, (arguments, result.output)
        for written in ("log.jsonl", "log.msgpack"):
            assert run(log.info.dsn, "import", str(tmp_path / written), "--yes").exit_code == 0
        assert not verify(log).differences

    goes_on()


TOLD = [
    "type",
    "uuid",
    "hostname",
    "timestamp",
    "clock",
    "pid",
    "retries",
    "name",
    "args",
    "kwargs",
    "eta",
    "expires",
    "result",
    "exception",
    "runtime",
    "queue",
    "routing_key",
    "sw_ident",
    "freq",
    "active",
    "processed",
    "loadavg",
    "root_id",
    "parent_id",
    "traceback",
]
SAID: list[Any] = ["task-sent", "worker-heartbeat", "task-1", "w@h", 1e9, -1.0, 1e18, float("nan"), "E('x')"]
MESSAGES = st.dictionaries(st.sampled_from(TOLD), payloads() | st.sampled_from(SAID))


@settings(FUZZ, max_examples=200 * TIMES)
@given(MESSAGES, st.sampled_from(["task-sent", "task-received", "task-failed", "task-revoked", "worker-online", "worker-heartbeat"]))
def test_any_broadcast_is_a_testimony_or_malformed(message: dict[str, Any], name: str) -> None:
    """Anybody can publish to the exchange."""
    for event in (message, {"type": name, "uuid": "task-1", "hostname": "w@h", "timestamp": 1e9, "pid": 1, **message}):
        with suppress(Malformed):
            translate(event)


@settings(FUZZ, max_examples=200 * TIMES)
@given(st.data())
def test_any_export_is_read_or_broken_with_a_sentence(data: st.DataObject) -> None:
    """Bytes that were changed, lines that somebody wrote, anything."""
    row = {
        "event_id": uuid4(),
        "stream": "s",
        "kind": "k",
        "occurred_at": datetime(2026, 1, 1, tzinfo=UTC),
        "attempt": 0,
        "schema_version": 1,
    }
    columns = data.draw(
        st.dictionaries(st.sampled_from(["pid", "members", "body", "eta", "name", "result", "attempt", "stream"]), payloads())
    )
    form = FORMS[data.draw(st.sampled_from(["jsonl", "msgpack"]))]
    header, end = list(archive([], form))
    fields = {"recorded_at": "2026-01-01T00:00:00+00:00", data.draw(st.sampled_from(["event", "row"])): plain({**row, **columns})}
    written = form.written(fields if form is FORMS["jsonl"] else plain({**row, **columns}))
    file = bytearray(header + written + end)
    for _ in range(data.draw(st.integers(0, 3))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))

    with suppress(BrokenFile):
        list(rows_in(io.BytesIO(bytes(file))))
