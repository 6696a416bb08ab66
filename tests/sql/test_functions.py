"""The functions that people call from SQL."""

from __future__ import annotations

import psycopg
import pytest

from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import ChordStarted


@pytest.mark.parametrize(
    ("encoded", "shown"),
    [
        pytest.param(b'{"a": [1, null]}', {"a": [1, None]}, id="JSON"),
        pytest.param(b"null", None, id="null"),
        pytest.param(b"\x80\x05K\x01.", None, id="pickle"),
        pytest.param(b"{", None, id="half of JSON"),
        pytest.param(b'"\\u0000"', None, id="JSON with NUL"),
        pytest.param(b'"\xff"', None, id="not UTF-8"),
        pytest.param(b"", None, id="empty"),
        pytest.param(None, None, id="nothing"),
    ],
)
def test_json_is_shown_where_it_is_json(encoded: bytes | None, shown: object, connection: Connection) -> None:
    """Whatever the bytes are, looking at them does not fail."""
    assert connection.execute("select celery_journal.json_or_null(%s::bytea)", (encoded,)).fetchone() == (shown,)


def test_json_is_shown_by_parallel_workers(connection: Connection) -> None:
    """A large view is scanned by several processes, and the one bad result in it fails none of them."""
    setting = "debug_parallel_query" if connection.info.server_version >= 160000 else "force_parallel_mode"
    with connection.transaction():
        connection.execute("create table encoded (value bytea)")
        connection.execute("insert into encoded values ('1'), ('{')")
        connection.execute(f"set local {setting} = on".encode())
        shown = connection.execute("select celery_journal.json_or_null(value) from encoded").fetchall()
        connection.execute("drop table encoded")

    assert shown == [(1,), (None,)]


def test_one_strange_chord_does_not_hide_the_others(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """A header that is not UTF-8 is a chord without its list of tasks, not an end of the whole view."""
    journal.append(connection, emitter.emit(ChordStarted, "group-1", size=2, result=b"[]"))
    journal.append(connection, emitter.emit(ChordStarted, "group-2", size=2, result=b"\xff"))

    shown = connection.execute("select group_id, size, sub_tasks from celery_journal.chord_counter order by group_id").fetchall()

    assert [row[:2] for row in shown] == [("group-1", 2), ("group-2", 2)]


def test_the_sequence_of_positions_is_one(connection: Connection) -> None:
    """Partitions take their positions from the log's own sequence."""
    defaults = connection.execute(
        "select distinct column_default from information_schema.columns "
        "where table_schema = 'celery_journal' and table_name like 'event%' and column_name = 'position'"
    ).fetchall()

    assert defaults == [("nextval('celery_journal.event_position'::regclass)",)]


def test_a_function_cannot_be_led_astray(connection: Connection) -> None:
    """Every function that runs with its owner's rights says where it looks for names."""
    query = b"""
        select proname from pg_proc
         where pronamespace = 'celery_journal'::regnamespace and prosecdef
           and not coalesce(array_to_string(proconfig, ',') like '%search_path=pg_catalog, pg_temp%', false)"""

    assert connection.execute(query).fetchall() == []
    assert connection.execute(
        "select count(*) > 3 from pg_proc where pronamespace = 'celery_journal'::regnamespace and prosecdef"
    ).fetchone() == (True,)


def test_a_transaction_that_only_reads_can_read(connection: Connection, journal: Journal) -> None:
    """A read replica, where nothing can be written, serves the log and the views."""
    with psycopg.connect(connection.info.dsn) as replica:
        replica.read_only = True

        assert journal.read_stream(replica, "task-1") == []
        assert journal.read_all(replica) == []
        assert replica.execute("select * from celery_journal.task_result").fetchall() == []
