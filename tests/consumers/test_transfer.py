"""Exports are lossless and the same every time, and an import gives the same views."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgpack
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_journal.consumers import search
from celery_journal.consumers.transfer.archive import BrokenFile, archive, rows_in
from celery_journal.consumers.transfer.forms import FORMS, JsonLines
from celery_journal.consumers.transfer.notation import noted, read
from celery_journal.consumers.transfer.restoring import Restored, restore
from celery_journal.consumers.transfer.settled import Settled
from celery_journal.journal import Connection, Emitter, Journal, migrate
from celery_journal.journal.codec import encode, pack, unpack
from celery_journal.journal.events import (
    ChordPartReturned,
    ChordStarted,
    ChordUnlocked,
    Event,
    GroupSaved,
    TaskFailed,
    TaskForgotten,
    TaskRetried,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
    UnknownEvent,
)
from celery_journal.journal.workers import WorkerHeartbeat, WorkerOnline
from celery_journal.projections import verify
from tests.conftest import empty, new_database
from tests.strategies import events, histories, payloads

VIEWS = ("task_result", "task_attempt", "group_result", "chord_counter", "worker")
EMITTER = Emitter("there")


@pytest.fixture
def there(embedded_database: str) -> Iterator[Connection]:
    """The journal that is exported."""
    with psycopg.connect(embedded_database, autocommit=True) as connection:
        empty(connection)
        yield connection


@pytest.fixture(scope="module")
def other_database(embedded_server: str) -> Iterator[str]:
    """A second database on the same server."""
    for dsn in new_database(embedded_server):
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
        yield dsn


@pytest.fixture
def here(other_database: str) -> Iterator[Connection]:
    """An empty journal into which it is imported."""
    with psycopg.connect(other_database, autocommit=True) as connection:
        empty(connection)
        yield connection


def exported(connection: Connection, form: str = "jsonl") -> bytes:
    return b"".join(archive(Settled.of(connection).rows(), FORMS[form]))


def imported(connection: Connection, export: bytes, *, dry_run: bool = False) -> Restored:
    for restored in restore(connection, Journal(), io.BytesIO(export), dry_run=dry_run):
        last = restored
    return last


def views(connection: Connection) -> dict[str, list[Any]]:
    """Return the rows of every view, but for whether a worker is alive at this moment."""
    queries = {view: f"select to_jsonb(v) - 'alive' from celery_journal.{view} v order by 1" for view in VIEWS}
    parts = "select to_jsonb(v) - 'position' from celery_journal.chord_part v order by 1"
    return {view: connection.execute(query.encode()).fetchall() for view, query in {**queries, "chord_part": parts}.items()}


def history() -> list[Event]:
    """A past with something of everything that is hard to keep."""
    emit = EMITTER.emit
    return [
        emit(WorkerOnline, "w1", pid=7, meta=b'{"software": "py-celery", "queues": ["a"]}', source="signal"),
        emit(TaskSent, "t", name="shop.\0add\udc80", args=b"[1]", kwargs=b"\x80}.", group_id="g", message={"headers": {1: b"\xff"}}),
        emit(TaskStarted, "t", worker="w1", pid=8, run="r1"),
        emit(TaskRetried, "t", worker="w1", run="r1", traceback="\x1b[2J", result=b"{}", eta=datetime(2026, 1, 31, 8, 30, tzinfo=UTC)),
        emit(TaskSucceeded, "t", attempt=1, worker="w1", result=b"\x00\xff", content_type="application/x", group_id="g"),
        emit(TaskFailed, "u", group_id="g", result=b'{"exc_type": "KeyError"}', traceback="Traceback \ud800\udc00"),
        emit(TaskSent, "gone", name="gone"),
        emit(TaskForgotten, "gone"),
        emit(GroupSaved, "g", members=("t", "u\0"), result=b"[]"),
        emit(ChordStarted, "c", size=2, task_id="body", result=b"[]"),
        emit(ChordPartReturned, "c", task_id="t", group_index=0, state="SUCCESS", result=b"1"),
        emit(ChordPartReturned, "c", task_id="u", group_index=1, state="FAILURE"),
        emit(ChordUnlocked, "c", task_id="body"),
        UnknownEvent.model_validate(_teleported()),
        emit(WorkerHeartbeat, "w1", pid=7),
    ]


def _teleported() -> dict[str, Any]:
    fields = {"event_id": uuid4(), "stream": "t", "kind": "task-teleported", "schema_version": 9, "occurred_at": datetime.now(UTC)}
    return {**fields, "to": {"place": [1.5, None, 2**70]}, "pid": "a text", "members": ["a"], "recorded_at": "never", "body": {1: 2}}


@pytest.mark.parametrize("form", FORMS)
def test_an_export_is_imported_into_an_empty_journal_and_exported_again_to_the_byte(there: Connection, here: Connection, form: str) -> None:
    """Every view is the same, whatever the log holds, and `verify` agrees."""
    Journal().append(there, *history())
    export = exported(there, form)

    restored = imported(here, export)

    assert (restored.new, restored.known, restored.conflicting) == (len(history()), 0, 0)
    assert views(here) == views(there)
    assert views(here)["worker"] != []
    assert verify(here).differences == []
    assert exported(here, form) == export
    assert exported(there, form) == export


def test_both_forms_hold_the_same(there: Connection, here: Connection) -> None:
    """What one form was imported from, the other is exported from alike."""
    Journal().append(there, *history())

    imported(here, exported(there, "jsonl"))

    assert exported(here, "msgpack") == exported(there, "msgpack")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(past=histories(min_size=1, max_size=12), strange=st.lists(events(), max_size=3, unique_by=lambda event: event.event_id))
def test_any_history_comes_through(there: Connection, here: Connection, past: list[Event], strange: list[Event]) -> None:
    """Whatever users put into events, of any kind, in any order."""
    for connection in (there, here):
        empty(connection)
    for event in past:
        Journal().append(there, event)
    Journal().append(there, *strange)
    exports = {form: exported(there, form) for form in FORMS}

    imported(here, exports["jsonl"])

    assert views(here) == views(there)
    assert {form: exported(here, form) for form in FORMS} == exports
    assert imported(here, exports["msgpack"]).new == 0


@given(event=events())
def test_any_event_is_a_line_of_its_fields(event: Event) -> None:
    """Which gives its row again; the form in columns is only for what is not ours."""
    row = {**encode(event), "recorded_at": datetime(2026, 1, 31, tzinfo=UTC)}

    record: Any = JsonLines().record_of(row)

    assert JsonLines().row_of(json.loads(JsonLines().written(record))) == row
    if not isinstance((event.model_extra or {}).get("members"), list):
        assert record["event"]["kind"] == noted(event.kind)


@given(value=payloads())
def test_any_value_has_a_notation(value: object) -> None:
    """In JSON that any parser reads; and nothing that users have can be taken for a notation."""
    for one in (value, {"text": value}, {"map": value}, {"moment": value, "text": value}):
        kept = unpack(pack(one))
        assert repr(read(json.loads(json.dumps(noted(kept))))) == repr(kept)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(msgpack.packb({"a": msgpack.ExtType(9, b"x")}), id="a type of somebody's own"),
        pytest.param(b"\xc1", id="no msgpack"),
        pytest.param(b"\x81\xa1a\xcd\x00\x01", id="not the shortest form"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_a_body_that_is_not_ours_is_kept_to_the_byte(form: str, body: bytes) -> None:
    """As another version, or somebody else, may have written it."""
    row = {**encode(EMITTER.emit(TaskForgotten, "t")), "body": body, "recorded_at": datetime(2026, 1, 31, tzinfo=UTC)}

    record: Any = FORMS[form].record_of(row)
    written = FORMS[form].written(record)
    ((again, data),) = FORMS[form].records(written[:1], io.BytesIO(written[1:]))

    assert FORMS[form].row_of(again) == row
    assert data == written


def test_once_more_changes_nothing(there: Connection, here: Connection) -> None:
    """Every event is known then; and the moments at which they were recorded stay."""
    Journal().append(there, *history())
    export = exported(there)
    imported(here, export)
    before = views(here)

    again = imported(here, export)

    assert (again.new, again.known, again.conflicting) == (0, len(history()), 0)
    assert views(here) == before


def test_another_journal_keeps_what_it_has(there: Connection, here: Connection) -> None:
    """Its own tasks stay, those of the export come, and what both know is one."""
    Journal().append(there, *history())
    own = Emitter("here").emit(TaskSucceeded, "own", result=b"1")
    both = history()[4]
    Journal().append(here, own, both)
    before = {row["task_id"]: row for (row,) in views(here)["task_result"]}

    imported(here, exported(there))

    after = {row["task_id"]: row for (row,) in views(here)["task_result"]}
    assert after["own"] == before["own"]
    assert set(after) == {"own", "t", "u"}
    assert verify(here).differences == []


def test_what_is_recorded_otherwise_stands_and_is_counted(there: Connection, here: Connection) -> None:
    """The same id with another content is nobody's to overwrite."""
    event = EMITTER.emit(TaskSucceeded, "t", result=b"1")
    Journal().append(there, event, EMITTER.emit(TaskSucceeded, "u"))
    Journal().append(here, event.model_copy(update={"result": b"2"}))

    dry, restored = imported(here, exported(there), dry_run=True), imported(here, exported(there))

    assert (restored.new, restored.known, restored.conflicting, restored.examples) == (1, 0, 1, [event.event_id])
    assert dry == restored
    assert here.execute(b"select result from celery_journal.task_result where task_id = 't'").fetchone() == (b"2",)


def test_a_dry_run_counts_and_records_nothing(there: Connection, here: Connection) -> None:
    """Not even a place in the log is used up."""
    Journal().append(there, *history())

    assert imported(here, exported(there), dry_run=True).new == len(history())
    assert views(here)["task_result"] == []
    assert here.execute(b"select is_called from celery_journal.event_position").fetchone() == (False,)


def test_the_order_of_the_views_and_not_of_the_transactions_is_kept(there: Connection, here: Connection, embedded_database: str) -> None:
    """A transaction that began early and wrote late: what it forgot is forgotten also where the log was imported."""
    with psycopg.connect(embedded_database) as early:
        Journal().append(early, EMITTER.emit(TaskSent, "other"))
        Journal().append(there, EMITTER.emit(TaskSucceeded, "t"))
        Journal().append(early, EMITTER.emit(TaskForgotten, "t"))
    assert [row["task_id"] for (row,) in views(there)["task_result"]] == ["other"]

    imported(here, exported(there))

    assert views(here) == views(there)


def test_what_an_open_transaction_may_still_precede_is_left_out_and_counted(there: Connection, embedded_database: str) -> None:
    """After the patience is over; when the transaction ends in time, it is in."""
    with psycopg.connect(embedded_database) as open_one:
        open_one.execute(b"select pg_current_xact_id()")
        Journal().append(there, EMITTER.emit(TaskSent, "t"))

        settled = Settled.of(there, patience=0.1)

        assert (list(settled.rows()), settled.left_out) == ([], 1)
    settled = Settled.of(there)
    assert ([row["stream"] for row in settled.rows()], settled.left_out) == (["t"], 0)


def test_query_words_choose_tasks_and_their_groups(there: Connection, here: Connection) -> None:
    """Their whole streams, each once, whatever else the log holds."""
    Journal().append(there, *history(), EMITTER.emit(ChordStarted, "g", size=2))
    condition = search.parse(["group:g"], datetime.now(UTC))

    rows = list(Settled.of(there).rows_of(condition))
    imported(here, b"".join(archive(rows, FORMS["jsonl"])))

    assert {row["stream"] for row in rows} == {"t", "u", "g"}
    assert len({row["event_id"] for row in rows}) == len(rows)
    kept = {view: [row for row in views(there)[view] if row[0].get("task_id") in {"t", "u"}] for view in ("task_result", "task_attempt")}
    assert {view: views(here)[view] for view in kept} == kept


@pytest.mark.parametrize("form", FORMS)
def test_memory_stays_flat(there: Connection, here: Connection, form: str) -> None:
    """An export holds one event at a time, however large its page; an import a batch of so many bytes."""
    Journal().append(there, *(EMITTER.emit(TaskSucceeded, f"t{number}", result=b"x" * 200_000) for number in range(200)))

    tracemalloc.start()
    sizes = [len(part) for part in archive(Settled.of(there).rows(), FORMS[form])]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    batches = [restored.new for restored in restore(here, Journal(), io.BytesIO(exported(there, form)))]

    assert sum(sizes) > 40_000_000
    assert most < 8_000_000
    assert len(batches) > 3


def _cut(export: bytes) -> bytes:
    return export[: export.rindex(b"\n", 0, -1) + 1]


def _listed(export: bytes) -> bytes:
    return export.replace(b'"event":{', b'"event":[{').replace(b"}}\n", b"}]}\n")


def _changed(export: bytes) -> bytes:
    return export.replace(b'"stream":"u"', b'"stream":"v"')


@pytest.mark.parametrize(
    ("breaking", "sentence"),
    [
        pytest.param(lambda _: b"", "the file is empty", id="empty"),
        pytest.param(lambda _: b"PK\x03\x04", "that is no export of celery-journal", id="something else"),
        pytest.param(lambda _: b'{"a": 1}\n', "that is no export of celery-journal", id="other json"),
        pytest.param(lambda _: b'{"celery-journal": 99, "schema_version": 1}\n', "a newer celery-journal; run: pip install", id="newer"),
        pytest.param(_cut, "the file ends after line 16, before the end of the export; it was cut", id="cut"),
        pytest.param(lambda export: export[:2000], r"line \d+ cannot be read", id="cut in a line"),
        pytest.param(_changed, "the file was changed after the export", id="changed"),
        pytest.param(lambda export: export * 2, "line 18 stands behind the end of the export", id="twice"),
        pytest.param(lambda export: export.replace(b'"kind":"task-failed",', b""), "line 7 is no event: 'kind' is missing", id="no kind"),
        pytest.param(lambda export: export.replace(b'"stream":"u"', b'"stream":7'), "line 7 is no event: .*stream: ", id="no text"),
        pytest.param(
            lambda export: export.replace(b'"event":{', b'"event":[{').replace(b"}}\n", b"}]}\n"), "line 2 is no event: an", id="list"
        ),
    ],
)
def test_a_broken_file_is_told_with_its_place(there: Connection, breaking: Any, sentence: str) -> None:
    """In one sentence; and a digest at the end notices what no line shows."""
    Journal().append(there, *history())

    with pytest.raises(BrokenFile, match=sentence) as caught:
        list(rows_in(io.BytesIO(breaking(exported(there)))))

    assert "\n" not in str(caught.value)


def test_a_batch_with_a_broken_line_is_not_recorded(there: Connection, here: Connection) -> None:
    """The batches before it are, and all of it once the file is whole."""
    Journal().append(there, *(EMITTER.emit(TaskSent, f"t{number}") for number in range(700)))
    export = exported(there)
    lines = export.splitlines(keepends=True)
    broken = b"".join([*lines[:650], b"nonsense\n", *lines[650:]])

    with pytest.raises(BrokenFile, match="line 651 cannot be read"):
        imported(here, broken)

    assert len(views(here)["task_result"]) == 500
    assert imported(here, export).new == 200


@pytest.mark.parametrize(
    ("column", "value"),
    [
        pytest.param("pid", 2**40, id="large"),
        pytest.param("pid", "1", id="text"),
        pytest.param("attempt", None, id="nothing"),
        pytest.param("members", "abc", id="no list"),
        pytest.param("members", [[1]], id="no ids"),
        pytest.param("result", "text", id="no bytes"),
        pytest.param("result", 7, id="number for bytes"),
        pytest.param("name", "a\0b", id="NUL"),
        pytest.param("occurred_at", "now", id="no moment"),
    ],
)
def test_a_column_of_another_type_is_told_with_its_place(there: Connection, here: Connection, column: str, value: object) -> None:
    """A record in columns that no version of ours wrote."""
    row = next(iter(_rows(there)))
    lines = b"".join(archive([{**row, column: value}], FORMS["msgpack"]))

    with pytest.raises(BrokenFile, match=f"record 2 is no event: {column} is of another type"):
        imported(here, lines)


def test_what_makes_no_sense_is_counted_and_the_rest_is_taken(there: Connection, here: Connection) -> None:
    """As an older log may hold it; the file is whole, and cannot be mended."""
    good = next(iter(_rows(there)))
    bad = {**good, "event_id": uuid4(), "pid": -1}

    restored = imported(here, b"".join(archive([bad, good], FORMS["msgpack"])))

    assert (restored.new, restored.refused) == (1, 1)
    assert restored.reasons == [f"{bad['event_id']} is not taken: its pid is below 1"]


def test_what_the_database_refuses_is_told_with_its_place(there: Connection, here: Connection) -> None:
    """A part of a chord without a state, which the view has no place for."""
    row = {**next(iter(_rows(there))), "kind": "chord-part-returned", "task_id": "t", "state": None}
    lines = b"".join(archive([row], FORMS["msgpack"]))

    with pytest.raises(BrokenFile, match="the database refuses what stands between record 2 and record 2"):
        imported(here, lines)


def _rows(connection: Connection) -> Iterator[dict[str, Any]]:
    Journal().append(connection, EMITTER.emit(TaskForgotten, "t"))
    return Settled.of(connection).rows()


def test_a_line_shows_people_what_happened(there: Connection) -> None:
    """The fields by their names; bytes as text where they are one; nothing of this cluster."""
    moment = datetime(2026, 1, 31, 8, tzinfo=UTC)
    Journal().append(there, Emitter().emit(TaskSucceeded, "t", occurred_at=moment + timedelta(microseconds=5), name="add", result=b"3"))

    header, line, end = map(json.loads, exported(there).splitlines())

    assert header["celery-journal"] == 1
    assert end["events"] == 1
    assert set(line) == {"recorded_at", "recorded_by", "event"}
    assert line["event"].pop("event_id")
    assert line["event"] == {
        "stream": "t",
        "kind": "task-succeeded",
        "occurred_at": "2026-01-31T08:00:00.000005+00:00",
        "attempt": 0,
        "schema_version": 1,
        "state": "SUCCESS",
        "name": "add",
        "result": {"text": "3"},
    }
