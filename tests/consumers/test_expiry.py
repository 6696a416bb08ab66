"""`result_expires`: what is older leaves the views by an event, and the log keeps it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery

from celery_journal.consumers.backend import JournalBackend
from celery_journal.journal import events as kinds_of
from celery_journal.journal.workers import WorkerOnline
from celery_journal.projections import ChordCounter, GroupResult, expiry

from .scene import ask, delivered, kinds, until

NewApp = Callable[..., Celery]

LONG_AGO = datetime.now(UTC) - timedelta(days=2)

TABLES = ("task_result_row", "task_attempt_row", "group_result_row", "chord_counter_row", "chord_part_row", "worker_row")


def old(backend: JournalBackend, kind: type[kinds_of.Event], stream: str, **fields: Any) -> None:
    """Record a fact of two days ago."""
    backend.append(backend.emitter.emit(kind, stream, occurred_at=LONG_AGO, **fields))


def finished_chord(backend: JournalBackend, group_id: str) -> None:
    old(backend, kinds_of.ChordStarted, group_id, size=1)
    old(backend, kinds_of.ChordPartReturned, group_id, task_id="part", state="SUCCESS", result=b"1")
    old(backend, kinds_of.ChordUnlocked, group_id, task_id="body")


def silent_worker(backend: JournalBackend, dsn: str, name: str, silence: timedelta) -> None:
    """Record a worker that was last heard of so long ago, by the clock of the database."""
    backend.append(backend.emitter.emit(WorkerOnline, name))
    moment = f"now() - interval '{silence.total_seconds()} seconds'"
    ask(dsn, f"update celery_journal.worker_row set last_seen = {moment} where worker = '{name}' returning 1".encode())


def rows(dsn: str) -> dict[str, int]:
    return {table: ask(dsn, f"select count(*) from celery_journal.{table}".encode())[0][0] for table in TABLES}


@pytest.mark.parametrize("expires", [pytest.param(timedelta(days=1), id="timedelta"), pytest.param(86400, id="seconds")])
def test_an_old_result_expires_by_an_event(make_app: NewApp, dsn: str, expires: Any) -> None:
    """cleanup() is what beat's celery.backend_cleanup calls."""
    app = make_app(result_expires=expires)
    old(app.backend, kinds_of.TaskSucceeded, "old", result=b"1", content_type="application/json", content_encoding="utf-8")
    app.backend.mark_as_done("new", 1)

    app.backend.cleanup()

    assert (app.AsyncResult("old").state, app.AsyncResult("new").state) == ("PENDING", "SUCCESS")
    assert (kinds(dsn, "old"), kinds(dsn, "new")) == (["task-succeeded", "task-expired"], ["task-succeeded"])


@pytest.mark.parametrize("expires", [pytest.param(None, id="none"), pytest.param(0, id="zero")])
def test_without_expiry_everything_is_kept(make_app: NewApp, dsn: str, expires: Any) -> None:
    """None and 0 both mean never, as Celery documents."""
    app = make_app(result_expires=expires)
    old(app.backend, kinds_of.TaskSucceeded, "old", result=b"1", content_type="application/json", content_encoding="utf-8")

    app.backend.cleanup()

    assert app.AsyncResult("old").state == "SUCCESS"
    assert kinds(dsn, "old") == ["task-succeeded"]


def test_what_has_not_ended_does_not_expire(app: Celery, backend: JournalBackend) -> None:
    """A task that runs, or waits for its retry, is not old."""
    old(backend, kinds_of.TaskStarted, "running")
    old(backend, kinds_of.TaskRetried, "retrying")

    backend.cleanup()

    assert (app.AsyncResult("running").state, app.AsyncResult("retrying").state) == ("STARTED", "RETRY")


def test_groups_and_finished_chords_expire(backend: JournalBackend, dsn: str) -> None:
    """A saved group by its last save, a chord by its end."""
    old(backend, kinds_of.GroupSaved, "group", members=("a",))
    finished_chord(backend, "chord")

    backend.cleanup()

    assert (backend._rows(GroupResult, ["group"]), backend._rows(ChordCounter, ["chord"])) == ({}, {})
    assert kinds(dsn, "group") == ["group-saved", "group-expired"]
    assert kinds(dsn, "chord")[-1] == "group-expired"


def test_an_open_chord_never_expires(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """However old it is, its parts and its saved header stay, and it can still be completed."""
    old(backend, kinds_of.GroupSaved, "g", members=("a", "b"))
    old(backend, kinds_of.ChordStarted, "g", size=2)
    old(backend, kinds_of.ChordPartReturned, "g", task_id="a", state="SUCCESS", result=b"1")

    backend.cleanup()

    counter = backend._rows(ChordCounter, ["g"])["g"]
    assert (counter.state, counter.count, counter.done) == ("open", 1, 1)
    assert "group-expired" not in kinds(dsn, "g")


def test_expired_rows_leave_the_tables(backend: JournalBackend, dsn: str) -> None:
    """Once no transaction is left that began before, nothing of them takes up space; the log is whole."""
    for number in range(30):
        old(backend, kinds_of.TaskSucceeded, f"t{number}", result=b"1")
    old(backend, kinds_of.GroupSaved, "group", members=("a",))
    finished_chord(backend, "chord")
    silent_worker(backend, dsn, "celery@gone", timedelta(days=8))

    def left() -> int:
        backend.cleanup()
        return sum(rows(dsn).values())

    until(lambda: left() == 0)
    assert ask(dsn, b"select count(*) from celery_journal.event where kind = 'task-succeeded'") == [(30,)]


def test_a_worker_that_was_silent_for_a_week_is_forgotten(make_app: NewApp, dsn: str) -> None:
    """It leaves the view by an event, whatever results may expire; one that may be back after the weekend stays."""
    backend = make_app(result_expires=None).backend
    silent_worker(backend, dsn, "celery@gone", timedelta(days=7, minutes=1))
    silent_worker(backend, dsn, "celery@away", timedelta(days=6))

    backend.cleanup()

    assert ask(dsn, b"select worker from celery_journal.worker") == [("celery@away",)]
    assert kinds(dsn, "celery@gone") == ["worker-online", "worker-forgotten"]


def test_many_results_expire_batch_by_batch(backend: JournalBackend, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction is long, and none is left over."""
    monkeypatch.setattr(expiry, "BATCH", 7)
    for number in range(20):
        old(backend, kinds_of.TaskSucceeded, f"t{number}", result=b"1")

    backend.cleanup()

    assert ask(dsn, b"select count(*) from celery_journal.task_result") == [(0,)]
    assert ask(dsn, b"select count(*) from celery_journal.event where kind = 'task-expired'") == [(20,)]


def test_cleaning_up_twice_expires_once(backend: JournalBackend, dsn: str) -> None:
    """What is gone does not expire again."""
    old(backend, kinds_of.TaskSucceeded, "a", result=b"1")
    backend.cleanup()

    backend.cleanup()

    assert kinds(dsn, "a") == ["task-succeeded", "task-expired"]


def test_an_expired_task_that_runs_again_is_a_new_one(app: Celery, backend: JournalBackend) -> None:
    """As after forget()."""
    old(backend, kinds_of.TaskSucceeded, "a", result=b"1")
    backend.cleanup()

    backend.store_result("a", None, "STARTED", request=delivered(app, task_id="a"))

    assert app.AsyncResult("a").state == "STARTED"


def test_the_schedule_of_celery_calls_it(app: Celery, backend: JournalBackend) -> None:
    """Beat adds celery.backend_cleanup where a backend does not expire by itself, and that task is ours to serve."""
    old(backend, kinds_of.TaskSucceeded, "a", result=b"1")

    assert not backend.supports_autoexpire
    app.tasks["celery.backend_cleanup"]()

    assert app.AsyncResult("a").state == "PENDING"


@pytest.mark.parametrize(
    ("conf", "kept"),
    [
        pytest.param({"result_failure_expires": 7 * 86400}, {"failed", "fresh"}, id="failures longer"),
        pytest.param({"result_failure_expires": 3600}, {"fresh"}, id="failures shorter"),
        pytest.param({"result_expires": None, "result_failure_expires": 3600}, {"succeeded", "fresh"}, id="failures only"),
        pytest.param({"result_failure_expires": 0}, {"failed", "fresh"}, id="failures never"),
        pytest.param({"result_failure_expires": None}, {"fresh"}, id="as all others"),
    ],
)
def test_failures_have_an_expiry_of_their_own(make_app: NewApp, conf: dict[str, Any], kept: set[str]) -> None:
    """result_failure_expires, of Celery 5.7, beside a result_expires of a day."""
    app = make_app(**{"result_expires": 86400, **conf})
    value = {"content_type": "application/json", "content_encoding": "utf-8"}
    old(app.backend, kinds_of.TaskSucceeded, "succeeded", result=b"1", **value)
    old(app.backend, kinds_of.TaskFailed, "failed", result=b'{"exc_type": "E", "exc_message": [], "exc_module": null}', **value)
    app.backend.mark_as_failure("fresh", ValueError())

    app.backend.cleanup()

    assert {name for name in ("succeeded", "failed", "fresh") if app.AsyncResult(name).state != "PENDING"} == kept


def test_chords_that_have_ended_have_an_expiry_of_their_own(make_app: NewApp, dsn: str) -> None:
    """result_chord_expires, of Celery 5.7; without it, result_expires."""
    app = make_app(result_expires=86400, result_chord_expires=7 * 86400)
    finished_chord(app.backend, "chord")

    app.backend.cleanup()
    assert rows(dsn)["chord_counter_row"] == 1

    make_app(result_expires=86400).backend.cleanup()
    assert (kinds(dsn, "chord")[-1], rows(dsn)["chord_part_row"]) == ("group-expired", 0)


def test_a_group_that_was_given_a_size_and_is_no_chord_expires(make_app: NewApp, dsn: str) -> None:
    """Celery sets the size of a group that is the body of a chord, and nothing ever ends it."""
    app = make_app(result_expires=86400)
    old(app.backend, kinds_of.ChordSizeSet, "never", size=2)
    old(app.backend, kinds_of.ChordSizeSet, "open", size=2)
    old(app.backend, kinds_of.ChordStarted, "open")
    app.backend.set_chord_size("young", 2)

    app.backend.cleanup()

    assert {name for (name,) in ask(dsn, b"select group_id from celery_journal.chord_counter")} == {"open", "young"}


@pytest.mark.parametrize("year", [1970, 2150])
def test_what_a_clock_cannot_have_seen_expires_by_when_it_was_recorded(year: int, make_app: NewApp, dsn: str) -> None:
    """Neither at once nor never."""
    app = make_app(result_expires=timedelta(days=1))
    app.backend.append(app.backend.emitter.emit(kinds_of.TaskSucceeded, "odd", occurred_at=datetime(year, 1, 1, tzinfo=UTC)))
    app.backend.cleanup()
    kept = kinds(dsn, "odd")
    ask(dsn, b"update celery_journal.task_result_row set recorded_at = now() - interval '2 days' returning 1")

    app.backend.cleanup()

    assert kept == ["task-succeeded"]
    assert kinds(dsn, "odd") == ["task-succeeded", "task-expired"]


@pytest.mark.parametrize("year", [1970, 2150])
def test_groups_and_chords_of_an_impossible_clock_expire_by_when_they_were_recorded(year: int, make_app: NewApp, dsn: str) -> None:
    """A saved group, a chord that has ended, and a size of what never became a chord."""
    backend = make_app(result_expires=timedelta(days=1)).backend
    moment = datetime(year, 1, 1, tzinfo=UTC)
    for kind, stream, fields in (
        (kinds_of.GroupSaved, "group", {"members": ("a",)}),
        (kinds_of.ChordStarted, "chord", {"size": 0}),
        (kinds_of.ChordUnlocked, "chord", {"task_id": "body"}),
        (kinds_of.ChordSizeSet, "sized", {"size": 2}),
    ):
        backend.append(backend.emitter.emit(kind, stream, occurred_at=moment, **fields))
    backend.cleanup()
    kept = [kinds(dsn, name)[-1] for name in ("group", "chord", "sized")]
    for table in ("group_result_row", "chord_counter_row"):
        ask(dsn, f"update celery_journal.{table} set recorded_at = now() - interval '2 days' returning 1".encode())

    backend.cleanup()

    assert kept == ["group-saved", "chord-unlocked", "chord-size-set"]
    assert [kinds(dsn, name)[-1] for name in ("group", "chord", "sized")] == ["group-expired"] * 3
