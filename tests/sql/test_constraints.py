"""What makes no sense stays out of the log, whoever writes; what an older log holds all the same is kept and shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_journal import sql
from celery_journal.journal import Connection, Emitter, EventRefused, Journal, connect, migrate
from celery_journal.journal.codec import COLUMNS, decode, encode
from celery_journal.journal.constraints import CONSTRAINTS, STATE_OF_KIND, broken_by
from celery_journal.journal.events import KINDS, TaskSent, UnreadableEvent
from tests.conftest import migrate_to
from tests.journal.waiting import wait_until
from tests.strategies import texts

NOW = datetime(2026, 3, 2, tzinfo=UTC)

NONSENSE = [
    pytest.param("event_is_of_our_years", {"occurred_at": "infinity"}, id="infinite"),
    pytest.param("event_is_of_our_years", {"occurred_at": "-infinity"}, id="infinite past"),
    pytest.param("event_is_of_our_years", {"occurred_at": "0044-03-15 BC"}, id="before Christ"),
    pytest.param("event_is_of_our_years", {"occurred_at": "1969-12-31 23:59:59+00"}, id="before 1970"),
    pytest.param("event_is_of_our_years", {"occurred_at": "12000-01-01"}, id="year 12000"),
    pytest.param("event_moments_have_four_digits", {"eta": "infinity"}, id="infinite eta"),
    pytest.param("event_moments_have_four_digits", {"expires": "0001-01-01 BC"}, id="expired before Christ"),
    pytest.param("event_has_a_stream", {"stream": ""}, id="empty stream"),
    pytest.param("event_has_a_stream", {"stream": "x" * 2501}, id="long stream"),
    pytest.param("event_has_a_kind", {"kind": ""}, id="empty kind"),
    pytest.param("event_schema_version_counts_from_one", {"schema_version": -1}, id="version -1"),
    pytest.param("event_group_index_counts_from_zero", {"group_index": -1}, id="negative place"),
    pytest.param("event_attempt_counts_from_zero", {"attempt": -1}, id="attempt -1"),
    pytest.param("event_size_counts_from_zero", {"size": -1}, id="size -1"),
    pytest.param("event_pid_is_of_a_process", {"pid": 0}, id="pid 0"),
    pytest.param("event_time_limit_is_a_duration", {"time_limit": "nan"}, id="limit that is no number"),
    pytest.param("event_time_limit_is_a_duration", {"time_limit": "infinity"}, id="infinite limit"),
    pytest.param("event_time_limit_is_a_duration", {"time_limit": -1}, id="negative limit"),
    pytest.param("event_members_are_a_list", {"members": [["a"], ["b"]]}, id="members of members"),
    pytest.param("event_members_are_a_list", {"members": ["a", None]}, id="no member"),
    pytest.param("event_part_names_its_member", {"kind": "chord-part-returned", "state": "SUCCESS"}, id="part of nobody"),
    pytest.param("event_state_fits_its_kind", {"kind": "task-succeeded", "state": "FAILURE"}, id="failed success"),
    pytest.param("event_state_fits_its_kind", {"kind": "task-succeeded", "state": None}, id="success without a state"),
    pytest.param("event_state_fits_its_kind", {"kind": "task-progress", "state": "SUCCESS"}, id="progress that is an end"),
]


def write(connection: Connection, **columns: Any) -> None:
    """Insert a row as somebody would who has no use for this package."""
    row = {"event_id": uuid4(), "occurred_at": NOW, "stream": "s", "kind": "audit-noted", **columns}
    names, places = ", ".join(row), ", ".join(f"%({name})s" for name in row)
    connection.execute(f"insert into celery_journal.event ({names}) values ({places})".encode(), row)


@pytest.mark.parametrize(("constraint", "columns"), NONSENSE)
def test_nonsense_is_refused_by_the_name_of_a_constraint(constraint: str, columns: dict[str, Any], connection: Connection) -> None:
    """Nothing can be mended afterwards."""
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        write(connection, **columns)

    assert refused.value.diag.constraint_name == constraint


def copied(connection: Connection, table: str = "celery_journal.event") -> None:
    with connection.cursor().copy(f"copy {table} (event_id, occurred_at, stream, kind, pid) from stdin".encode()) as copy:
        copy.write_row((uuid4(), NOW, "s", "audit-noted", 0))


def replicated(connection: Connection) -> None:
    connection.execute("set session_replication_role = replica")
    write(connection, pid=0)


def under_a_planted_operator(connection: Connection) -> None:
    with connection.transaction():
        connection.execute("create schema planted; create function planted.never(integer, integer) returns boolean return false")
        connection.execute("create operator planted.< (leftarg = integer, rightarg = integer, function = planted.never)")
        connection.execute("set local search_path = planted, pg_catalog")
        write(connection, pid=0)


def restored(connection: Connection) -> None:
    columns = dict.fromkeys(COLUMNS) | {"event_id": uuid4(), "occurred_at": NOW, "stream": "s", "kind": "audit-noted"}
    values = {name: [value] for name, value in (columns | {"attempt": 0, "schema_version": 1, "pid": 0, "recorded_at": NOW}).items()}
    relaxed = {"relaxed": False, **values}
    connection.execute(sql.query("journal.sql", "restore many"), relaxed)


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(lambda connection: write(connection, pid=0), id="insert"),
        pytest.param(copied, id="copy"),
        pytest.param(lambda connection: copied(connection, "celery_journal.event_default"), id="copy into a partition"),
        pytest.param(replicated, id="a session that replicates"),
        pytest.param(under_a_planted_operator, id="planted operator"),
        pytest.param(restored, id="restore"),
    ],
)
def test_no_way_into_the_log_goes_past_the_rules(way: Callable[[Connection], None], connection: Connection) -> None:
    """Whoever writes, whatever the session is set to."""
    with pytest.raises(psycopg.errors.CheckViolation, match="the event breaks the rule event_pid_is_of_a_process") as refused:
        way(connection)

    assert (refused.value.diag.schema_name, refused.value.diag.constraint_name) == ("celery_journal", "event_pid_is_of_a_process")
    assert connection.execute("select count(*) from celery_journal.event").fetchone() == (0,)


def test_each_rule_of_the_database_has_words(connection: Connection) -> None:
    """In Python, under the same name; eta and expires are kept in the body where the column does not take them."""
    (source,) = connection.execute("select prosrc from pg_proc where proname = 'refuse_nonsense'").fetchone() or ("",)

    assert set(re.findall(r"'(event_\w+)'", source)) - set(CONSTRAINTS) == {"event_moments_have_four_digits"}
    assert set(CONSTRAINTS) <= set(re.findall(r"'(event_\w+)'", source))


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param({}, id="nothing that is not needed"),
        pytest.param({"state": "SUCCESS"}, id="unknown kind with a state"),
        pytest.param({"kind": "task-progress", "state": "HALF"}, id="custom state"),
        pytest.param({"kind": "task-progress", "state": "PENDING"}, id="set back"),
        pytest.param({"kind": "task-ignored", "state": "IGNORED"}, id="ignored"),
        pytest.param({"members": []}, id="no members"),
        pytest.param({"occurred_at": "1970-01-01+00", "eta": "0001-01-02+00", "expires": "9999-12-31+00"}, id="first and last moments"),
        pytest.param({"stream": "x" * 2500, "pid": 1, "group_index": 0, "time_limit": 0}, id="edges"),
    ],
)
def test_what_makes_sense_is_taken(columns: dict[str, Any], connection: Connection) -> None:
    """By the same constraints."""
    write(connection, **columns)

    assert connection.execute("select count(*) from celery_journal.event").fetchone() == (1,)


@pytest.mark.parametrize("kind", STATE_OF_KIND)
def test_the_state_of_a_kind_is_that_of_its_model(kind: str) -> None:
    """One table of states, though it is written twice."""
    assert KINDS[kind].model_fields["state"].default == STATE_OF_KIND[kind]


ROWS = st.fixed_dictionaries(
    {
        "occurred_at": st.sampled_from([NOW, datetime(1969, 12, 31, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)]),
        "stream": st.sampled_from(["s", "", "x" * 2500, "x" * 2501, "\u00e4" * 1251]),
        "kind": st.sampled_from(["", "audit-noted", "chord-part-returned", *KINDS]),
        "state": st.none() | st.sampled_from(["SUCCESS", "PENDING", "IGNORED", "HALF", "", *STATE_OF_KIND.values()]),
        "schema_version": st.integers(-1, 2),
        "attempt": st.integers(-1, 1),
        **dict.fromkeys(("pid", "group_index", "size"), st.none() | st.integers(-1, 1)),
        "time_limit": st.none() | st.sampled_from([0.0, -1.0, float("nan"), float("inf")]),
        "members": st.none() | st.lists(st.none() | st.just("m"), max_size=2),
        "task_id": st.none() | st.just("t"),
    }
)


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_python_and_the_database_refuse_the_same(row: dict[str, Any]) -> None:
    """Rows of an import are looked at before they are sent; those of a program are refused with words."""
    assert (broken_by({**dict.fromkeys(COLUMNS), **row}) is not None) == _is_refused(row)


_connection: list[Connection] = []


@pytest.fixture(autouse=True)
def _connected(connection: Connection) -> Any:
    _connection[:] = [connection]


def _is_refused(row: dict[str, Any]) -> bool:
    try:
        with _connection[0].transaction(force_rollback=True):
            write(_connection[0], **row)
    except psycopg.errors.CheckViolation:
        return True
    except psycopg.errors.NotNullViolation:  # a view needs what the log does not
        return False
    return False


def test_our_own_events_are_refused_with_words(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Before they are sent."""
    with pytest.raises(EventRefused, match="years 1970 to 9999; set the clock right"):
        journal.append(connection, emitter.emit(TaskSent, "early", occurred_at=datetime(1969, 12, 31, tzinfo=UTC)))


@given(texts())
@settings(max_examples=20)
def test_what_a_column_does_not_take_is_kept_in_the_body(text: str) -> None:
    """A pid that is none keeps no fact out of the log."""
    event = Emitter().emit(TaskSent, f"s{text}", pid=-1, group_index=-7, time_limit=-3.0)

    row = encode(event)
    assert (row["pid"], row["group_index"], row["time_limit"]) == (None, None, None)
    assert decode({**row, "transaction": 1, "position": 1, "recorded_at": NOW}).event == event


@pytest.fixture
def old_log(empty_database: str) -> str:
    """A log of version 4, with all that makes no sense in it."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        migrate_to(connection, 4)
        for number, case in enumerate(NONSENSE):
            columns = cast("dict[str, Any]", case.values[1])
            # These have always been refused.
            if columns.get("kind") != "chord-part-returned" and not {"attempt", "size"} & columns.keys():
                write(connection, **{"stream": f"old-{number}", **columns})
    return empty_database


def test_an_old_log_with_nonsense_migrates_and_is_read(old_log: str) -> None:
    """What stands there stays there, each fact is shown, and new nonsense is refused."""
    with connect(old_log) as connection:
        migrate(connection)

        (count,) = connection.execute("select count(*) from celery_journal.event").fetchone() or (0,)
        wait_until(lambda: len(Journal().read_all(connection, limit=100)) == count)  # others may hold the horizon up
        recorded = Journal().read_all(connection, limit=100)
        assert len(recorded) == count > 10
        assert any(isinstance(place.event, UnreadableEvent) for place in recorded)
        assert all(timedelta(0) <= place.event.occurred_at - datetime.min.replace(tzinfo=UTC) for place in recorded)
        with pytest.raises(psycopg.errors.CheckViolation):
            write(connection, occurred_at="infinity")
        for week in connection.execute("select celery_journal.create_partitions(12)").fetchall():
            assert week
