"""The sweep: members of open chords that ended without returning their part are found by their results, and the body ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import Celery, group
from celery.exceptions import ChordError

from celery_journal.journal import Emitter, Journal
from celery_journal.journal.events import ChordPartReturned, ChordSizeSet, ChordStarted, Event, TaskSucceeded
from celery_journal.projections import verify
from tests.conftest import empty

from .scene import Mailbox, ask, delivered, kinds

NewApp = Callable[..., Celery]

#: The sweep takes for silent who has said nothing for so many seconds.
AT_ONCE = {"sweep_interval": 0.001}


@pytest.fixture
def app(make_app: NewApp, mailbox: Mailbox) -> Celery:
    """An app that sends to a folder, and sweeps at once."""
    return make_app(**mailbox.conf, result_backend_transport_options=AT_ONCE)


def begin(app: Celery, *results: Any, size: int | None = None) -> None:
    """Start the chord `g` of these results, of m0 and m1 unless given."""
    header = list(results) or [app.AsyncResult("m0"), app.AsyncResult("m1")]
    app.backend.apply_chord(("g", header), app.signature("scene.sum", task_id="body"))
    app.backend.set_chord_size("g", size or len(header))


def request_of(app: Celery, index: int, **options: Any) -> Any:
    """The request of member `m<index>`, as the worker has it."""
    callback = app.signature("scene.sum", task_id="body")
    return delivered(app, task_id=f"m{index}", group_id="g", group_index=index, chord=callback, **options)


def give_back(app: Celery, index: int, value: Any, state: str = "SUCCESS") -> None:
    app.backend.on_chord_part_return(request_of(app, index), state, value)


def values(mailbox: Mailbox) -> list[Any]:
    """What each body was sent with."""
    return [message.args[0] for message in mailbox.sent()]


@pytest.mark.parametrize("index", [0, 1])
def test_a_member_that_succeeded_without_a_part_gives_its_value(app: Celery, mailbox: Mailbox, dsn: str, index: int) -> None:
    """Its worker died between the result and the part: the value stands in its place."""
    begin(app)
    app.backend.store_result(f"m{index}", "stored", "SUCCESS", request=request_of(app, index))
    give_back(app, 1 - index, "told")
    assert mailbox.sent() == []

    assert app.backend.sweep_chords() == ["g"]

    assert values(mailbox) == [["stored", "told"] if index == 0 else ["told", "stored"]]
    assert kinds(dsn, "g")[-1] == "chord-unlocked"


@pytest.mark.parametrize("state", ["FAILURE", "REVOKED"])
def test_a_member_that_failed_without_a_part_fails_the_body(app: Celery, mailbox: Mailbox, state: str) -> None:
    """As its result says."""
    begin(app)
    app.backend.store_result("m0", ValueError("no"), state, request=request_of(app, 0))
    give_back(app, 1, "told")

    app.backend.sweep_chords()

    result = app.AsyncResult("body")
    assert (result.state, type(result.result)) == ("FAILURE", ChordError)
    assert str(result.result) == "Dependency m0 raised ValueError('no')"


@pytest.mark.parametrize("body", ["task", "group"])
def test_a_body_fails_once_though_its_failure_waits_in_the_spool(
    make_app: NewApp, mailbox: Mailbox, dsn: str, tmp_path: Path, body: str
) -> None:
    """What this process has just recorded while it believes that the database is away, no view shows yet."""
    app = make_app(**mailbox.conf, result_backend_transport_options={**AT_ONCE, "spool": str(tmp_path / "spool")})
    if body == "group":
        ends, errbacks = ["body0", "body1"], 0
        signature = group([app.signature("scene.sum", task_id=end) for end in ends], app=app)
    else:
        ends, errbacks = ["body"], 1
        signature = app.signature("scene.sum", task_id="body", link_error=[app.signature("scene.oops")])
    app.backend.apply_chord(("g", [app.AsyncResult("m0")]), signature)
    give_back(app, 0, ValueError("no"), "FAILURE")
    with psycopg.connect(dsn, autocommit=True) as connection:  # told by a process that died before it could end the chord
        Journal().append(connection, Emitter().emit(ChordSizeSet, "g", size=1))
    app.backend.outage._away_until = time.monotonic() + 60

    app.backend.sweep_chords()
    app.backend.outage._away_until = 0.0
    app.backend.outage.turn()

    assert [kinds(dsn, end).count("task-failed") for end in ends] == [1] * len(ends)
    assert len(mailbox.sent()) == errbacks


def test_a_member_without_a_request_takes_its_place_in_the_header(app: Celery, mailbox: Mailbox) -> None:
    """Somebody stored its result by hand."""
    begin(app)
    give_back(app, 1, "told")
    app.backend.store_result("m0", "by hand", "SUCCESS")

    app.backend.sweep_chords()

    assert values(mailbox) == [["by hand", "told"]]


def test_a_member_deep_in_the_header_is_found(app: Celery, mailbox: Mailbox) -> None:
    """In a group of a group: the body gets the structure of the header."""
    inner = app.GroupResult("inner", [app.AsyncResult("m1"), app.GroupResult("innermost", [app.AsyncResult("m2")])])
    begin(app, app.AsyncResult("m0"), inner, size=3)
    for index in range(3):
        app.backend.store_result(f"m{index}", index, "SUCCESS", request=request_of(app, index))

    app.backend.sweep_chords()

    assert values(mailbox) == [[0, [1, [2]]]]


@pytest.mark.parametrize("where", ["task", "group"])
def test_a_member_behind_a_task_that_failed_will_not_run(app: Celery, where: str) -> None:
    """The first of a chain has failed, and nobody told the chord; the member is its last task, or in its last group."""
    first = app.AsyncResult("first")
    member = app.AsyncResult("m0", parent=first) if where == "task" else app.GroupResult("last", [app.AsyncResult("m0")], parent=first)
    begin(app, member, app.AsyncResult("m1"), size=2)
    give_back(app, 1, "told")
    app.backend.store_result("first", ValueError("no"), "FAILURE")

    app.backend.sweep_chords()

    assert str(app.AsyncResult("body").result) == "Dependency m0 raised ValueError('no')"


@pytest.mark.parametrize("state", ["STARTED", "RETRY", "PROGRESS", "SUCCESS of the first", "started after a revoke"])
def test_a_member_that_may_still_return_is_waited_for(app: Celery, mailbox: Mailbox, dsn: str, state: str) -> None:
    """It runs, or will; a revoke that was asked for came too late."""
    begin(app, app.AsyncResult("m0", parent=app.AsyncResult("first")), app.AsyncResult("m1"))
    give_back(app, 1, "told")
    match state:
        case "SUCCESS of the first":
            app.backend.store_result("first", 1, "SUCCESS")
        case "started after a revoke":
            app.backend.mark_as_revoked("m0", "revoked")
            app.backend.store_result("m0", {}, "STARTED", request=request_of(app, 0))
        case _:
            app.backend.store_result("m0", ValueError("later") if state == "RETRY" else {}, state, request=request_of(app, 0))

    assert app.backend.sweep_chords() == []
    assert kinds(dsn, "g").count("chord-part-returned") == 1
    give_back(app, 0, "after all")
    assert values(mailbox) == [["after all", "told"]]


def test_a_member_that_was_asked_to_be_revoked_fails_the_body(app: Celery, mailbox: Mailbox) -> None:
    """While a worker holds it for its eta, or nobody reads its queue: its own result says REVOKED already."""
    begin(app)
    give_back(app, 1, "told")
    app.backend.mark_as_revoked("m0", "revoked")

    assert app.backend.sweep_chords() == ["g"]

    error = app.AsyncResult("body").get(propagate=False, timeout=10)
    assert (type(error), str(error)) == (ChordError, "Dependency m0 raised TaskRevokedError('revoked')")
    assert mailbox.sent() == []
    give_back(app, 0, "after all")
    assert mailbox.sent() == []


def test_a_member_gets_a_moment_to_tell_by_itself(make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """The part follows the result at once: the sweep looks at results that are older than its interval."""
    app = make_app(**mailbox.conf, result_backend_transport_options={"sweep_interval": 3600})
    begin(app)
    app.backend.store_result("m0", "a", "SUCCESS", request=request_of(app, 0))

    assert app.backend.sweep_chords() == []
    assert "chord-part-returned" not in kinds(dsn, "g")


def test_a_part_that_comes_after_the_sweep_counts_once(app: Celery, mailbox: Mailbox, dsn: str) -> None:
    """The worker was only slow; and what succeeds after all has succeeded."""
    begin(app)
    app.backend.store_result("m0", ValueError("lost"), "FAILURE", request=request_of(app, 0))
    assert app.backend.sweep_chords() == []
    assert kinds(dsn, "g").count("chord-part-returned") == 1

    give_back(app, 0, "after all")
    assert mailbox.sent() == []
    give_back(app, 1, "b")

    assert values(mailbox) == [["after all", "b"]]
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert verify(connection).differences == []


def test_a_member_told_lost_by_another_process_that_had_succeeded_has_succeeded(app: Celery, mailbox: Mailbox) -> None:
    """The worker's main process tells of a child that died after it had stored its result."""
    begin(app)
    app.backend.store_result("m0", "stored", "SUCCESS", request=request_of(app, 0))

    give_back(app, 0, RuntimeError("worker lost"), "FAILURE")
    give_back(app, 1, "b")

    assert values(mailbox) == [["stored", "b"]]


# Who sweeps


def test_one_of_all_workers_sweeps(make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """Once in sweep_interval; when that one is gone, another takes over."""
    backends = [make_app(**mailbox.conf, result_backend_transport_options={"sweep_interval": 3600}).backend for _ in range(3)]

    asked = [backend.sweep_is_ours() for backend in backends]
    ask(dsn, b"update celery_journal.chord_lease set claimed_until = claimed_until - interval '1 day' returning 1")
    later = [backend.sweep_is_ours() for backend in reversed(backends)]

    assert (asked, later) == ([True, False, False], [True, False, False])


# What it costs


def test_a_sweep_over_thousands_of_open_chords_reads_no_table_as_a_whole(dsn: str) -> None:
    """It looks up the members that are missing, a thousand chords a sweep, by their keys."""
    emitter, journal = Emitter(), Journal()
    events: list[Event] = []
    for chord in range(3000):
        header = "[" + ",".join(f'[["{chord}-{member}", null], null]' for member in range(4)) + "]"
        events += [emitter.emit(ChordStarted, f"c{chord}", result=header.encode()), emitter.emit(ChordSizeSet, f"c{chord}", size=4)]
        events += [emitter.emit(TaskSucceeded, f"{chord}-{member}") for member in range(3)]
        events += [emitter.emit(ChordPartReturned, f"c{chord}", task_id=f"{chord}-{m}", group_index=m, state="SUCCESS") for m in range(3)]
    with psycopg.connect(dsn, autocommit=True) as connection:
        journal.append(connection, *events)
        connection.execute("analyze")
    # A session of its own, because one counts what it did before.
    with psycopg.connect(dsn) as connection:
        found = connection.execute("select * from celery_journal.stragglers('0', 1000)").fetchall()
        scanned = connection.execute(
            "select relname, seq_scan, seq_tup_read from pg_stat_xact_user_tables where schemaname = 'celery_journal' and seq_scan > 0"
        ).fetchall()
    with psycopg.connect(dsn, autocommit=True) as connection:
        empty(connection)

    assert found == []
    assert {table for table, *_ in scanned} <= {"chord_counter_row"}, scanned
