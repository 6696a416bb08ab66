"""Each hot query uses the index that was made for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

import psycopg
import pytest

from celery_journal import sql
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import ChordPartReturned, ChordStarted, Event, GroupSaved, TaskSent, TaskSucceeded
from tests.conftest import empty
from tests.journal.waiting import wait_until

TASKS = 3000


@pytest.fixture(scope="module")
def full(database: str) -> Iterator[Connection]:
    """A journal of a few thousand events, whose statistics are up to date."""
    emitter, journal = Emitter(), Journal()
    events: list[Event] = [emitter.emit(kind, f"task-{n}") for n in range(TASKS) for kind in (TaskSent, TaskSucceeded)]
    events += [emitter.emit(TaskSucceeded, f"task-{n}", worker="w", run="r") for n in range(TASKS)]
    events += [emitter.emit(ChordStarted, f"open-{n}", size=10, task_id=f"body-{n}") for n in range(2000)]
    for n in range(2000):
        events += [emitter.emit(GroupSaved, f"group-{n}", members=(f"task-{n}",)), emitter.emit(ChordStarted, f"group-{n}", size=10)]
        events += [emitter.emit(ChordPartReturned, f"group-{n}", task_id=f"task-{m}", state="SUCCESS") for m in range(2)]
    with psycopg.connect(database, autocommit=True) as connection:
        empty(connection)
        journal.append(connection, *events)
        connection.execute("analyze")
        wait_until(lambda: bool(journal.read_all(connection, limit=1)))  # the planner knows what the horizon hides
        yield connection
        empty(connection)


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def ways(connection: Connection, query: bytes, parameters: Mapping[str, object]) -> set[tuple[str, str]]:
    """Return how each table with events is read: the node, and the index, that of the whole log where it is one of a partition."""
    ((explained,),) = connection.execute(b"explain (format json, analyze) " + query, parameters).fetchall()
    return {
        (node["Node Type"], index_of_the_log(connection, node["Index Name"]) if "Index Name" in node else node["Relation Name"])
        for node in nodes(explained[0]["Plan"])
        if node["Node Type"] != "Bitmap Heap Scan"
        and ("Index Name" in node or ("Relation Name" in node and node["Actual Loops"] and holds_rows(connection, node["Relation Name"])))
    }


def index_of_the_log(connection: Connection, name: str) -> str:
    query = b"select inhparent::regclass::text from pg_inherits where inhrelid = to_regclass('celery_journal.' || quote_ident(%s))"
    (parent,) = connection.execute(query, (name,)).fetchone() or (name,)
    return str(parent).removeprefix("celery_journal.")


def holds_rows(connection: Connection, table: str) -> bool:
    return connection.execute(f"select exists (select from celery_journal.{table})".encode()).fetchone() == (True,)


def test_a_plan_without_an_index_would_be_noticed(full: Connection) -> None:
    """A query that has no index reads the whole table, and the tests here see it."""
    found = ways(full, b"select * from celery_journal.event where name = %(name)s", {"name": "add"})

    assert any(node == "Seq Scan" for node, _ in found)


def test_what_people_have_said_of_tasks_is_found_by_an_index(full: Connection) -> None:
    """Lists that leave out what is hidden read the few facts that say so, once, and no task's stream."""
    found = ways(full, b"select m.task_id from celery_journal.marked('hidden') as m (task_id)", {})

    assert {index for _, index in found} == {"event_marks"}


def test_what_was_sent_again_is_found_by_an_index(full: Connection) -> None:
    """Few facts tell, and nothing else of the log is read for them."""
    doubted = b"select e.stream, e.task_id from celery_journal.event e where e.kind = 'operator-acted' and e.task_id is not null"
    found = ways(full, b"select e.stream, e.task_id from celery_journal.event e where e.kind = 'task-replayed'", {}) | ways(
        full, doubted, {}
    )

    assert {index for _, index in found} == {"event_marks"}


def test_what_has_put_another_task_in_its_place_is_found_by_an_index(full: Connection) -> None:
    """The names that such tasks had: few facts tell, and nothing else of the log is read for them."""
    name = b"select r.stream from celery_journal.event r where r.kind = 'task-replaced' and r.name = %(name)s"
    found = ways(full, name, {"name": "add"}) | ways(full, sql.query("stats.sql", "replaced"), {})

    assert {index for _, index in found} == {"event_marks"}


def test_a_stream_is_read_by_its_index(full: Connection) -> None:
    """The history of one task does not cost a look at the others."""
    stretch = {"first_id": UUID(int=0), "last_id": UUID(int=2**128 - 1)}
    found = ways(full, sql.query("journal.sql", "read stream"), {"stream": "task-7", **stretch})

    assert found
    assert {index for _, index in found} == {"event_stream"}


@pytest.mark.parametrize("after", ["beginning", "middle", "end"])
def test_the_log_is_read_by_its_order(after: str, full: Connection) -> None:
    """A page of the log costs a page, wherever it begins, and what follows it is not sorted."""
    (middle, end) = full.execute("select max(position) / 2, max(position) from celery_journal.event").fetchone() or (0, 0)
    (transaction,) = full.execute("select min(transaction)::text::bigint from celery_journal.event").fetchone() or (0,)
    place = {"beginning": (0, 0), "middle": (transaction, middle), "end": (transaction + 100, end)}[after]
    parameters = {"transaction": place[0], "position": place[1], "limit": 50, "horizon": transaction + 200}

    found = ways(full, sql.query("journal.sql", "read all"), parameters)
    ((explained,),) = full.execute(b"explain (format json) " + sql.query("journal.sql", "read all"), parameters).fetchall()

    assert found
    assert found == {("Index Scan", "event_order")}
    assert after == "end" or not [node for node in nodes(explained[0]["Plan"]) if "Sort" in node["Node Type"]]


def test_a_watch_reads_a_page_of_the_log_by_its_order(full: Connection) -> None:
    """Whatever it looks for, and however rare that is: no more than the page is read."""
    (horizon,) = full.execute("select max(transaction)::text::bigint + 1 from celery_journal.event").fetchone() or (0,)
    page = {"transaction": 0, "position": 0, "horizon": horizon, "limit": 50, "kinds": ["task-lost"]}

    found = ways(full, sql.query("alerts.sql", "page"), page)
    rows = full.execute(sql.query("alerts.sql", "page"), page).fetchall()

    assert found == {("Index Scan", "event_order")}
    assert [(is_told, position, read) for _, _, is_told, _, position, read in rows] == [(False, 50, 50)]


def test_an_export_reads_the_log_by_its_order(full: Connection) -> None:
    """Page by page: the places, and then the rows that stand there, none of them by reading all of the log."""
    query = b"select transaction::text::bigint, position, event_id, stream from celery_journal.event order by position desc limit 500"
    transactions, positions, event_ids, streams = zip(*full.execute(query).fetchall(), strict=True)
    page = {"transaction": transactions[-1], "position": positions[-1], "horizon": transactions[0] + 1, "limit": 500}
    keys = {"event_ids": list(event_ids), "streams": list(streams), "first_id": min(event_ids), "last_id": max(event_ids)}
    asked = {"horizon": transactions[0] + 1, "asked": transactions[0] + 2}

    found = {
        name: {index for _, index in ways(full, sql.query("transfer.sql", name), parameters)}
        for name, parameters in {"places": page, "rows": keys, "left out": asked}.items()
    }

    assert found == {"places": {"event_order"}, "rows": {"event_pkey"}, "left out": {"event_order"}}


def test_an_export_reads_chosen_streams_by_their_index(full: Connection) -> None:
    """What is exported of a few tasks costs no look at the others."""
    stretch = {"first_id": UUID(int=0), "last_id": UUID(int=2**128 - 1)}
    parameters = {"streams": [f"task-{n}" for n in range(5)], "horizon": 2**62, **stretch}

    assert {index for _, index in ways(full, sql.query("transfer.sql", "places of streams"), parameters)} == {"event_stream"}


def test_what_is_recorded_under_an_id_is_found_by_the_primary_key(full: Connection) -> None:
    """Looking whether a fact is the same costs as much as the fact, in one partition."""
    (event_id,) = full.execute("select event_id from celery_journal.event where stream = 'task-7' limit 1").fetchone() or (None,)

    found = ways(full, sql.query("journal.sql", "recorded"), {"event_ids": [event_id]})

    assert {index for _, index in found} == {"event_pkey"}


@pytest.mark.parametrize(
    ("view", "key", "indexes"),
    [
        pytest.param("task_result", "task-7", {"task_result_row_pkey"}, id="task"),
        pytest.param("group_result", "group-7", {"group_result_row_pkey", "task_result_row_pkey"}, id="group"),
        pytest.param("chord_counter", "group-7", {"chord_counter_row_pkey", "chord_part_row_pkey"}, id="chord"),
    ],
)
@pytest.mark.parametrize("many", [pytest.param(False, id="one"), pytest.param(True, id="several")])
def test_a_view_is_read_by_its_primary_key(many: bool, view: str, key: str, indexes: set[str], full: Connection) -> None:
    """The current state of a task, a group or a chord costs the same however many there are."""
    keys = [key, f"{key}1", f"{key}2"] if many else [key]

    found = ways(full, sql.query("views.sql", view), {"keys": keys})

    assert {index for _, index in found} == indexes


def test_the_runs_of_a_task_are_read_by_their_primary_key(full: Connection) -> None:
    """What a task went through costs as much as it went through, in each of the places where the view looks."""
    found = ways(full, sql.query("views.sql", "task_attempts"), {"task_id": "task-7"})

    assert {index for _, index in found} == {"task_attempt_row_pkey"}


def test_tasks_that_have_not_ended_are_found_by_an_index(full: Connection) -> None:
    """The sweep for what is lost does not look at what has ended."""
    found = ways(full, b"select task_id from celery_journal.task_result where date_done is null and date_created < now()", {})

    assert {index for _, index in found} == {"task_result_row_open"}


def test_the_open_chord_of_a_body_is_found_by_an_index(full: Connection) -> None:
    """Whoever waits for a chord's result finds the chord by the task that it waits for."""
    query = b"select group_id from celery_journal.chord_counter_row where asked_body_task_id = %(body)s and ended_rank < 0"

    found = ways(full, query, {"body": "body-7"})

    assert {index for _, index in found} == {"chord_counter_row_body"}


def test_the_parts_of_a_chord_are_read_by_their_primary_key(full: Connection) -> None:
    """The results for a chord's body cost as much as the chord is wide."""
    found = ways(full, sql.query("views.sql", "parts"), {"group_id": "group-7"})

    assert {index for _, index in found} >= {"chord_part_row_pkey"}
    assert not [node for node, _ in found if node == "Seq Scan"]


def test_the_view_of_the_runs_looks_for_a_sending_once_a_row(connection: Connection) -> None:
    """And not once for each column that depends on it: that is longer to plan than to run, and takes seconds where plans are compiled."""
    plan = connection.execute("explain select * from celery_journal.task_attempt").fetchall()

    assert sum("generate_subscripts" in line for (line,) in plan) == 1
