"""Verify proves that the views are what the log says, or names the rows that are not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event as Signal
from typing import Any

import psycopg
import pytest

from celery_journal.journal import Connection, Journal
from celery_journal.journal.events import (
    ChordPartReturned,
    ChordStarted,
    ChordUnlocked,
    Event,
    GroupExpired,
    GroupSaved,
    TaskFailed,
    TaskForgotten,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
)
from celery_journal.journal.workers import WorkerOnline
from celery_journal.projections import rebuild, verify

from .oracle import differences
from .spec import at_once, checked, fact, read_views


@pytest.fixture
def told(connection: Connection, journal: Journal) -> Connection:
    """A journal of two tasks, a forgotten one, a group, a chord of two parts and a worker."""
    journal.append(
        connection,
        fact(TaskSent, "a", 0, name="add", args=b"[1]"),
        fact(TaskStarted, "a", 1, worker="w", pid=1, run="r"),
        fact(TaskSucceeded, "a", 2, result=b"1", run="r"),
        fact(TaskFailed, "b", 2, result=b"{}", traceback="tb"),
        fact(TaskSent, "gone", 2),
        fact(TaskForgotten, "gone", 3),
        fact(GroupSaved, "g", 2, members=("a", "b"), result=b"[]"),
        fact(ChordStarted, "c", 1, size=2),
        fact(ChordPartReturned, "c", 2, task_id="a", state="SUCCESS", group_index=0),
        fact(ChordPartReturned, "c", 3, task_id="b", state="FAILURE", group_index=1),
        fact(WorkerOnline, "w", 0, pid=1),
    )
    return connection


@contextmanager
def tampering(connection: Connection) -> Iterator[None]:
    """The rows of the views are only tables to a superuser."""
    connection.execute("set session_replication_role = replica")
    yield
    connection.execute("set session_replication_role = origin")


def test_views_that_nobody_touched_are_verified(told: Connection) -> None:
    """Every row is compared; what was forgotten counts as none."""
    found = verify(told)

    assert found.differences == []
    assert found.compared == {"task_result": 2 + 3, "group_result": 1, "chord_counter": 1 + 2, "worker": 1}
    assert found.rows == 10


def test_only_the_named_projections_are_verified(told: Connection) -> None:
    """A caller may name what matters."""
    assert verify(told, ["group_result"]).compared == {"group_result": 1}


def test_an_empty_journal_is_verified(connection: Connection) -> None:
    """Nothing is compared, and nothing differs."""
    assert (verify(connection).rows, verify(connection).differences) == (0, [])


TAMPERED = [
    pytest.param(
        "update celery_journal.task_result_row set status = 'SUCCESS', traceback = null where task_id = 'b'",
        ("task_result", ("b",), ("status", "traceback")),
        id="a-changed-task",
    ),
    pytest.param(
        "update celery_journal.task_result_row set result = '\\x00' where task_id = 'a'",
        ("task_result", ("a",), ("result",)),
        id="changed-bytes",
    ),
    pytest.param(
        "update celery_journal.task_result_row set outcome_position = 1 where task_id = 'a'",
        ("task_result", ("a",), ("outcome_position",)),
        id="a-changed-key",
    ),
    pytest.param("delete from celery_journal.task_result_row where task_id = 'a'", ("task_result", ("a",), None), id="a-missing-task"),
    pytest.param(
        "insert into celery_journal.task_result_row (task_id, date_created, status) values ('x', now(), 'SUCCESS')",
        ("task_result", ("x",), None),
        id="an-invented-task",
    ),
    pytest.param(
        "update celery_journal.task_result_row set date_created = now() where task_id = 'gone'",
        ("task_result", ("gone",), None),
        id="a-forgotten-task-brought-back",
    ),
    pytest.param(
        "update celery_journal.task_attempt_row set worker = 'x' where task_id = 'a' and run = 'r'",
        ("task_result", ("a", 0, "r"), ("worker",)),
        id="a-changed-run",
    ),
    pytest.param(
        "delete from celery_journal.task_attempt_row where task_id = 'b'", ("task_result", ("b", 0, ""), None), id="a-missing-run"
    ),
    pytest.param("update celery_journal.worker_row set pid = 2", ("worker", ("w",), ("pid",)), id="a-changed-worker"),
    pytest.param("delete from celery_journal.worker_row", ("worker", ("w",), None), id="a-missing-worker"),
    pytest.param(
        "update celery_journal.group_result_row set members = '{a}' where group_id = 'g'",
        ("group_result", ("g",), ("members",)),
        id="a-changed-group",
    ),
    pytest.param("delete from celery_journal.group_result_row", ("group_result", ("g",), None), id="a-missing-group"),
    pytest.param(
        "update celery_journal.chord_counter_row set size = 1 where group_id = 'c'",
        ("chord_counter", ("c",), ("size",)),
        id="a-changed-chord",
    ),
    pytest.param(
        "delete from celery_journal.chord_part_row where task_id = 'a'", ("chord_counter", ("c", "a", 0), None), id="a-missing-part"
    ),
    pytest.param(
        "update celery_journal.chord_part_row set status = 'SUCCESS' where task_id = 'b'",
        ("chord_counter", ("c", "b", 1), ("status",)),
        id="a-changed-part",
    ),
]


@pytest.mark.parametrize(("statement", "expected"), TAMPERED)
def test_tampering_is_found_and_repaired(told: Connection, statement: str, expected: tuple[str, tuple[Any, ...], Any]) -> None:
    """A row that a superuser changed, removed or invented is named, with its key and columns; a rebuild repairs it."""
    before = read_views(told)
    with tampering(told):
        told.execute(statement.encode())

    (found,) = verify(told).differences

    projection, key, columns = expected
    assert (found.projection, found.key) == (projection, key)
    assert columns is None or found.columns == columns
    assert str(key[0]) in str(found)
    rebuild(told)
    assert verify(told).differences == []
    assert differences(before, checked(told)) == []


def test_what_stands_on_both_sides_is_told(told: Connection) -> None:
    """A difference has the row of the view and the row that the log gives."""
    with tampering(told):
        told.execute("update celery_journal.task_result_row set status = 'SUCCESS' where task_id = 'b'")
        told.execute("delete from celery_journal.task_result_row where task_id = 'a'")

    missing, changed = verify(told).differences

    assert missing.live is None
    assert missing.folded is not None
    assert missing.folded["task_id"] == "a"
    assert changed.live is not None
    assert changed.folded is not None
    assert (changed.live["status"], changed.folded["status"]) == ("SUCCESS", "FAILURE")


def test_a_forgotten_row_that_was_removed_is_no_difference(told: Connection) -> None:
    """What purge_forgotten() removes is nothing that a view shows."""
    deadline = time.monotonic() + 120  # whoever writes anywhere in the cluster holds it up
    while told.execute("select celery_journal.purge_forgotten()").fetchone() != (1,):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    assert verify(told).differences == []


def test_verifying_leaves_no_trace(told: Connection) -> None:
    """The temporary tables are gone, the connection is as it was, and no row has changed."""
    before = read_views(told)
    isolation = told.isolation_level

    verify(told)

    assert told.execute("select count(*) from pg_class where relpersistence = 't'").fetchone() == (0,)
    assert (told.isolation_level, told.autocommit) == (isolation, True)
    assert told.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert differences(before, read_views(told)) == []


def test_writers_go_on_while_the_views_are_verified(dsn: str, connection: Connection) -> None:
    """Log and views are compared on one snapshot: no fact in flight looks like a difference."""
    over = Signal()

    def writer(number: int) -> Callable[[Connection], int]:
        chance = random.Random(number)

        def job(own: Connection) -> int:
            while not over.is_set():
                stream = f"t{chance.randrange(20)}"
                kinds: list[type[Event]] = [TaskStarted, TaskSucceeded, TaskForgotten]
                Journal().append(own, fact(chance.choice(kinds), stream, chance.randrange(100)))
                group = f"g{chance.randrange(5)}"
                ends: list[type[Event]] = [ChordStarted, ChordUnlocked, GroupExpired]
                part = fact(ChordPartReturned, group, task_id=stream, state="SUCCESS")
                Journal().append(own, part, fact(chance.choice(ends), group), fact(GroupSaved, group, chance.randrange(9)))
            return 0

        return job

    def verifier(own: Connection) -> int:
        try:
            found = [verify(own) for _ in range(15)]
        finally:
            over.set()
        assert [str(difference) for verification in found for difference in verification.differences] == []
        return found[-1].rows

    rows = at_once(dsn, [writer(0), writer(1), writer(2), verifier])[-1]

    assert rows > 0
    checked(connection)
