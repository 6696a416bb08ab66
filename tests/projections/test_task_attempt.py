"""What the view task_attempt shows: a row for each run of a task."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from celery_journal.journal import Connection, Journal
from celery_journal.journal.events import (
    Event,
    TaskFailed,
    TaskForgotten,
    TaskProgress,
    TaskReceived,
    TaskRejected,
    TaskReplaced,
    TaskRetried,
    TaskRevoked,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
)
from celery_journal.projections import TaskAttempt, TaskResult, rebuild

from .spec import Spec, at, checked, fact

FIVE_MINUTES = 300.0


def runs(spec: Spec, event: Event) -> list[TaskAttempt]:
    """Append one more fact about a task, and return its runs."""
    views = spec.when(event)
    found = TaskAttempt.of(spec.connection, event.stream)
    assert len(found) == len(views.task_attempt)
    return found


def test_a_run_shows_all_that_is_known_of_it(spec: Spec) -> None:
    """Of the message, of the worker and of the end."""
    message: dict[str, Any] = {"queue": "mail", "eta": at(5), "expires": at(90), "time_limit": 30.0}
    run: dict[str, Any] = {"run": "r1", "worker": "celery@one", "pid": 7}
    spec.given(fact(TaskSent, "t", 0, name="add", **message), fact(TaskReceived, "t", 1, **run), fact(TaskStarted, "t", 6, **run))

    (row,) = runs(spec, fact(TaskSucceeded, "t", 9, result=b"4", **run))

    assert row == TaskAttempt(
        task_id="t",
        attempt=0,
        run="r1",
        worker="celery@one",
        pid=7,
        status="SUCCESS",
        date_sent=at(0),
        date_received=at(1),
        date_started=at(6),
        date_done=at(9),
        queue="mail",
        eta=at(5),
        expires=at(90),
        time_limit=30.0,
        queue_wait=timedelta(seconds=1),
        run_time=timedelta(seconds=3),
        recorded_at=row.recorded_at,
        sent_recorded_at=row.sent_recorded_at,
    )
    assert row.sent_recorded_at is not None
    assert row.recorded_at is not None
    assert row.recorded_at > row.sent_recorded_at


@pytest.mark.parametrize(
    ("told", "status"),
    [
        pytest.param([fact(TaskSent, "t", 0)], "PENDING", id="sent"),
        pytest.param([fact(TaskSent, "t", 0), fact(TaskReceived, "t", 1, run="r", worker="w")], "RECEIVED", id="received"),
        pytest.param([fact(TaskSent, "t", 0), fact(TaskStarted, "t", 2, run="r", worker="w")], "STARTED", id="started"),
    ],
)
def test_a_run_that_has_not_ended_says_how_far_it_is(told: list[Event], status: str, connection: Connection) -> None:
    """One row, whose sending is in it; nothing has ended and nothing was waited for to the end."""
    Journal().append(connection, *told)

    (row,) = TaskAttempt.of(connection, "t")

    assert (row.status, row.date_sent, row.date_done, row.run_time) == (status, at(0), None, None)
    checked(connection)


def test_a_redelivered_message_is_two_runs_of_one_attempt(spec: Spec) -> None:
    """The worker that died has a row, and the one that went on has another (M07)."""
    one: dict[str, Any] = {"run": "r1", "worker": "celery@1", "pid": 1}
    two: dict[str, Any] = {"run": "r2", "worker": "celery@2", "pid": 2}
    spec.given(fact(TaskSent, "t", 0), fact(TaskStarted, "t", 1, **one), fact(TaskStarted, "t", 60, **two))

    first, second = runs(spec, fact(TaskSucceeded, "t", 61, **two))

    assert [(row.attempt, row.run, row.worker, row.status) for row in (first, second)] == [
        (0, "r1", "celery@1", "STARTED"),
        (0, "r2", "celery@2", "SUCCESS"),
    ]
    assert (first.date_done, second.date_started, second.date_done) == (None, at(60), at(61))
    assert (first.date_sent, second.date_sent) == (at(0), at(0))


def test_each_attempt_keeps_its_worker_and_its_traceback(spec: Spec) -> None:
    """task_result shows the last worker; the history of workers, and why each gave up, is here (M07)."""
    for attempt in range(3):
        run: dict[str, Any] = {"attempt": attempt, "run": f"r{attempt}", "worker": f"celery@{attempt}"}
        spec.given(fact(TaskSent, "t", attempt * 10, attempt=attempt), fact(TaskStarted, "t", attempt * 10 + 1, **run))
        if attempt < 2:
            spec.given(fact(TaskRetried, "t", attempt * 10 + 2, traceback=f"why {attempt}", **run))

    found = runs(spec, fact(TaskFailed, "t", 23, attempt=2, run="r2", worker="celery@2", traceback="why 2"))

    assert [(row.attempt, row.worker, row.status, row.traceback) for row in found] == [
        (0, "celery@0", "RETRY", "why 0"),
        (1, "celery@1", "RETRY", "why 1"),
        (2, "celery@2", "FAILURE", "why 2"),
    ]
    assert [row.date_sent for row in found] == [at(0), at(10), at(20)]
    assert TaskResult.get(spec.connection, "t").worker == "celery@2"


def test_a_backend_alone_tells_a_run_without_a_name(spec: Spec) -> None:
    """Where no delivery is known, an attempt is one run."""
    spec.given(fact(TaskStarted, "t", 1, worker="w"))

    (row,) = runs(spec, fact(TaskSucceeded, "t", 2, worker="w"))

    assert (row.run, row.worker, row.status, row.run_time, row.queue_wait) == (None, "w", "SUCCESS", timedelta(seconds=1), None)


def test_what_is_asked_for_from_outside_is_no_run(spec: Spec) -> None:
    """A revoke that no worker has effected, and what a task tells of its progress, leave the run as it is."""
    spec.given(fact(TaskStarted, "t", 1, worker="w", run="r"), fact(TaskRevoked, "t", 2))

    (row,) = runs(spec, fact(TaskProgress, "t", 3, worker="w", run="r", state="HALF"))

    assert (row.status, row.date_done) == ("STARTED", None)


def test_a_rejected_run_has_ended_and_the_next_begins(spec: Spec) -> None:
    """A message that was put back is delivered again."""
    spec.given(fact(TaskStarted, "t", 1, worker="a", run="r1"), fact(TaskRejected, "t", 2, worker="a", run="r1"))

    first, second = runs(spec, fact(TaskStarted, "t", 3, worker="b", run="r2"))

    assert [(row.worker, row.status, row.date_done) for row in (first, second)] == [("a", "REJECTED", at(2)), ("b", "STARTED", None)]


def test_a_forgotten_task_has_no_runs(spec: Spec) -> None:
    """What was forgotten leaves this view as well, and what comes later is all there is."""
    spec.given(fact(TaskStarted, "t", 1, worker="a", run="r1"), fact(TaskForgotten, "t", 2))
    assert TaskAttempt.of(spec.connection, "t") == []

    (row,) = runs(spec, fact(TaskStarted, "t", 3, attempt=1, run="r2"))

    assert (row.attempt, row.run, row.worker, row.date_started) == (1, "r2", None, at(3))


def test_the_runs_of_a_task_of_any_name_are_found(connection: Connection) -> None:
    """An id that PostgreSQL cannot hold is looked up as it is shown."""
    Journal().append(connection, fact(TaskStarted, "t\0", 1, worker="w"))

    assert [row.worker for row in TaskAttempt.of(connection, "t\0")] == ["w"]


# The wait in the queue, and clocks


def record(connection: Connection, events: Mapping[Event, float]) -> None:
    """Append the events, each recorded in its second on the clock of the database."""
    Journal().append(connection, *events)
    with connection.transaction():
        connection.execute("set local celery_journal.maintenance = 'on'")
        for event, second in events.items():
            connection.execute(
                "update celery_journal.event set recorded_at = %s where event_id = %s and stream = %s",
                (at(second), event.event_id, event.stream),
            )
    rebuild(connection, ["task_result"])
    checked(connection)


@pytest.mark.parametrize(
    ("sender", "worker"),
    [
        pytest.param(0.0, 0.0, id="clocks agree"),
        pytest.param(0.0, FIVE_MINUTES, id="worker ahead"),
        pytest.param(0.0, -FIVE_MINUTES, id="worker behind"),
        pytest.param(FIVE_MINUTES, 0.0, id="sender ahead"),
        pytest.param(-FIVE_MINUTES, 0.0, id="sender behind"),
        pytest.param(FIVE_MINUTES, FIVE_MINUTES, id="database behind"),
        pytest.param(-FIVE_MINUTES, FIVE_MINUTES, id="ten minutes apart"),
    ],
)
@pytest.mark.parametrize("wait", [pytest.param(20.0, id="short"), pytest.param(2000.0, id="long")])
def test_the_wait_is_right_whatever_the_clocks_say(sender: float, worker: float, wait: float, connection: Connection) -> None:
    """Sent, then started so many seconds later, each recorded within milliseconds, with clocks that may be five minutes off."""
    sent = fact(TaskSent, "t", sender)
    started = fact(TaskStarted, "t", wait + worker, worker="w", run="r")

    record(connection, {sent: 0.01, started: wait + 0.02})

    (row,) = TaskAttempt.of(connection, "t")
    assert row.queue_wait is not None
    assert row.queue_wait.total_seconds() == pytest.approx(wait, abs=0.05)


def test_what_is_recorded_late_has_waited_no_less(connection: Connection) -> None:
    """After an hour in which nothing could be recorded, both are recorded at once; their own clocks tell the wait."""
    record(connection, {fact(TaskSent, "t", 0): 3600, fact(TaskStarted, "t", 20, worker="w", run="r"): 3600.1})

    (row,) = TaskAttempt.of(connection, "t")
    assert row.queue_wait == timedelta(seconds=20)


@pytest.mark.parametrize("worker", [0.0, FIVE_MINUTES, -FIVE_MINUTES])
def test_to_wait_for_an_eta_is_not_to_wait_in_the_queue(worker: float, connection: Connection) -> None:
    """The wait begins where it might have started."""
    sent = fact(TaskSent, "t", 0, eta=at(100))
    started = fact(TaskStarted, "t", 103 + worker, worker="w", run="r")

    record(connection, {sent: 0, started: 103})

    (row,) = TaskAttempt.of(connection, "t")
    assert row.queue_wait == timedelta(seconds=3)


def test_a_wait_and_a_run_are_never_shorter_than_nothing(spec: Spec) -> None:
    """A worker that starts a task a moment before its eta, and ends it by a clock that was set back, has not waited at all."""
    spec.given(fact(TaskSent, "t", 0, eta=at(10)), fact(TaskStarted, "t", 9.9, worker="w", run="r"))

    (row,) = runs(spec, fact(TaskSucceeded, "t", 9.5, worker="w", run="r"))

    assert (row.queue_wait, row.run_time) == (timedelta(0), timedelta(0))


def test_a_retry_waits_from_its_own_sending(spec: Spec) -> None:
    """Each attempt has a message of its own."""
    spec.given(
        fact(TaskSent, "t", 0),
        fact(TaskStarted, "t", 2, worker="w", run="r0"),
        fact(TaskRetried, "t", 3, worker="w", run="r0", eta=at(60)),
        fact(TaskSent, "t", 3, attempt=1, eta=at(60)),
    )

    first, second = runs(spec, fact(TaskStarted, "t", 67, attempt=1, worker="w", run="r1"))

    assert [row.queue_wait for row in (first, second)] == [timedelta(seconds=2), timedelta(seconds=7)]
    assert [row.eta for row in (first, second)] == [None, at(60)]


def test_a_run_of_an_id_that_was_sent_again_is_paired_with_the_newest_sending_before_it(spec: Spec) -> None:
    """It waited a moment, and not since the first sending; the run before it keeps its own."""
    one: dict[str, Any] = {"run": "r1", "worker": "w", "pid": 1}
    two: dict[str, Any] = {"run": "r2", "worker": "w", "pid": 2}
    spec.given(fact(TaskSent, "t", 0, eta=at(1)), fact(TaskReceived, "t", 1, eta=at(1), **one), fact(TaskStarted, "t", 2, **one))
    spec.given(fact(TaskFailed, "t", 3, **one), fact(TaskReceived, "t", 61, **two), fact(TaskStarted, "t", 62, **two))

    first, second = runs(spec, fact(TaskSent, "t", 60))

    assert [(row.run, row.date_sent, row.eta, row.queue_wait) for row in (first, second)] == [
        ("r1", at(0), at(1), timedelta(seconds=1)),
        ("r2", at(60), None, timedelta(seconds=2)),
    ]


def test_a_sending_after_which_no_run_began_is_a_row_that_waits(spec: Spec) -> None:
    """Of an id that was sent again, until a worker has it."""
    one: dict[str, Any] = {"run": "r1", "worker": "w", "pid": 1}
    spec.given(fact(TaskSent, "t", 0), fact(TaskStarted, "t", 1, **one), fact(TaskFailed, "t", 2, **one))

    waiting, ended = sorted(runs(spec, fact(TaskSent, "t", 60)), key=lambda row: row.run or "")

    assert (ended.run, ended.status, ended.date_sent) == ("r1", "FAILURE", at(0))
    assert (waiting.run, waiting.status, waiting.date_sent) == (None, "PENDING", at(60))

    (only, begun) = runs(spec, fact(TaskStarted, "t", 61, run="r2", worker="w"))
    assert [(row.run, row.date_sent) for row in (only, begun)] == [("r1", at(0)), ("r2", at(60))]


def test_a_run_that_put_another_task_in_its_place_has_ended(spec: Spec) -> None:
    """It is REPLACED, and not STARTED for ever; the task goes on."""
    one: dict[str, Any] = {"run": "r1", "worker": "w", "pid": 1}
    spec.given(fact(TaskSent, "t", 0), fact(TaskStarted, "t", 1, **one), fact(TaskSent, "t", 5), fact(TaskReplaced, "t", 6, **one))

    first, second = runs(spec, fact(TaskStarted, "t", 7, run="r2", worker="w", pid=2))

    assert (first.status, first.date_done, first.run_time) == ("REPLACED", at(6), timedelta(seconds=5))
    assert (second.status, second.date_sent, second.queue_wait) == ("STARTED", at(5), timedelta(seconds=2))
    row = TaskResult.get(spec.connection, "t")
    assert (row.status, row.date_done, row.date_started) == ("STARTED", None, at(7))
