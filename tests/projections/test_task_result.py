"""What the view task_result shows of a task's history."""

from __future__ import annotations

from typing import Any

import pytest

from celery_journal.journal.events import (
    Event,
    OperatorActed,
    TaskErased,
    TaskExpired,
    TaskFailed,
    TaskForgotten,
    TaskIgnored,
    TaskLost,
    TaskProgress,
    TaskReceived,
    TaskRejected,
    TaskReplayed,
    TaskRetried,
    TaskRevoked,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
    TaskWitnessed,
    UnknownEvent,
)
from celery_journal.projections import rebuild

from .spec import Spec, at, checked, fact, read_log

JSON: dict[str, Any] = {"content_type": "application/json", "content_encoding": "utf-8"}


def shown(row: dict[str, object], *columns: str) -> tuple[object, ...]:
    return tuple(row[column] for column in columns)


def test_a_task_that_ran_shows_all_that_is_known_of_it(spec: Spec) -> None:
    """Every field is filled by the fact that knows it (M02-M16)."""
    asked: dict[str, Any] = {
        "name": "add",
        "args": b"[2, 2]",
        "kwargs": b'{"base": 10}',
        "args_content_type": "application/json",
        "queue": "celery",
    }
    kin: dict[str, Any] = {"root_id": "root", "parent_id": "parent", "group_id": "group", "periodic_task_name": "every-noon"}
    run: dict[str, Any] = {"worker": "celery@host", "pid": 77}
    spec.given(fact(TaskSent, "t", 0, **asked, **kin), fact(TaskReceived, "t", 1, **run), fact(TaskStarted, "t", 2, **run))

    row = spec.task(fact(TaskSucceeded, "t", 3, result=b"4", meta=b'{"children": []}', **run, **JSON))

    assert row == {
        "task_id": "t",
        "task_name": "add",
        "periodic_task_name": "every-noon",
        "status": "SUCCESS",
        "retries": 0,
        "worker": "celery@host",
        "pid": 77,
        "queue": "celery",
        "root_id": "root",
        "parent_id": "parent",
        "group_id": "group",
        "date_created": at(0),
        "date_started": at(2),
        "date_done": at(3),
        "date_updated": at(3),
        "args": b"[2, 2]",
        "kwargs": b'{"base": 10}',
        "args_content_type": "application/json",
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "result": b"4",
        "traceback": None,
        "meta": b'{"children": []}',
        "args_json": [2, 2],
        "kwargs_json": {"base": 10},
        "result_json": 4,
        "meta_json": {"children": []},
        "date_sent": at(0),
        "recorded_at": read_log(spec.connection)[-1].recorded_at,
        "lost_reason": None,
        "runs": 1,
        "overlap": False,
        "ran_again": False,
        "ran_long": False,
    }


def test_a_sent_task_is_pending(spec: Spec) -> None:
    """A task that was sent has a row, PENDING and not done (M08, M14, M16)."""
    row = spec.task(fact(TaskSent, "t", 5, name="add"))

    assert shown(row, "status", "date_created", "date_started", "date_done") == ("PENDING", at(5), None, None)


@pytest.mark.parametrize(
    ("late", "fields"),
    [
        pytest.param(TaskSent, {"attempt": 3}, id="sent"),
        pytest.param(TaskReceived, {"attempt": 3}, id="received"),
        pytest.param(TaskStarted, {"attempt": 3, "worker": "w"}, id="started"),
        pytest.param(TaskProgress, {"attempt": 3, "state": "PROGRESS"}, id="progress"),
        pytest.param(TaskRetried, {"attempt": 3, "result": b"1", "traceback": "tb"}, id="retried"),
        pytest.param(TaskRejected, {"attempt": 3}, id="rejected"),
        pytest.param(TaskRevoked, {"attempt": 3}, id="revoke-asked-for"),
        pytest.param(TaskRevoked, {"attempt": 3, "worker": "w"}, id="revoked-by-a-worker"),
        pytest.param(TaskIgnored, {"attempt": 3}, id="ignored"),
        pytest.param(TaskFailed, {"attempt": 3, "result": b"1", "traceback": "tb"}, id="failed"),
    ],
)
def test_success_is_never_undone(spec: Spec, late: type[Event], fields: dict[str, Any]) -> None:
    """No fact, of whatever attempt and however late, undoes SUCCESS (M08-M10)."""
    spec.given(fact(TaskStarted, "t", 1), fact(TaskSucceeded, "t", 2, result=b"4", **JSON))

    row = spec.task(fact(late, "t", 9, **fields))

    assert shown(row, "status", "result", "traceback", "retries", "date_done") == ("SUCCESS", b"4", None, 0, at(2))
    assert row["date_updated"] == at(9)


def test_a_failure_of_a_later_attempt_does_not_come_before_a_success(spec: Spec) -> None:
    """SUCCESS that is stored last wins over every later attempt (M08)."""
    spec.given(fact(TaskFailed, "t", 9, attempt=4, result=b"{}", traceback="tb"))

    row = spec.task(fact(TaskSucceeded, "t", 2, attempt=1, result=b"4"))

    assert shown(row, "status", "result", "traceback", "retries", "date_done") == ("SUCCESS", b"4", None, 1, at(2))


def test_a_late_started_does_not_undo_a_failure(spec: Spec) -> None:
    """The start that is stored after the failure fills in the run and leaves the outcome (M07, M08, M10, M15)."""
    spec.given(fact(TaskFailed, "t", 3, result=b'{"exc_type": "ValueError"}', traceback="tb"))

    row = spec.task(fact(TaskStarted, "t", 4, worker="w", pid=5))

    assert shown(row, "status", "traceback", "date_done", "date_started", "worker", "pid") == ("FAILURE", "tb", at(3), at(4), "w", 5)


def test_a_retry_stored_after_the_next_start_does_not_hide_it(spec: Spec) -> None:
    """RETRY of attempt 0, stored after STARTED of attempt 1, leaves STARTED (M08, M15)."""
    spec.given(fact(TaskStarted, "t", 1), fact(TaskStarted, "t", 3, attempt=1))

    row = spec.task(fact(TaskRetried, "t", 2, result=b"{}", traceback="tb"))

    assert shown(row, "status", "retries", "traceback", "date_started") == ("STARTED", 1, None, at(3))


def test_a_retry_with_a_clock_ahead_does_not_hide_the_next_start(spec: Spec) -> None:
    """The attempt counts, not the clocks of two workers (M08)."""
    spec.given(fact(TaskStarted, "t", 1), fact(TaskStarted, "t", 2, attempt=1))

    row = spec.task(fact(TaskRetried, "t", 100))

    assert shown(row, "status", "retries", "date_updated") == ("STARTED", 1, at(100))


def test_a_new_attempt_supersedes_a_retry(spec: Spec) -> None:
    """STARTED of attempt 1 is what follows RETRY of attempt 0; the old traceback is gone from the row (M08, M10, M15)."""
    spec.given(fact(TaskStarted, "t", 1), fact(TaskRetried, "t", 2, result=b"{}", traceback="tb"))

    row = spec.task(fact(TaskStarted, "t", 3, attempt=1, worker="w"))

    assert shown(row, "status", "retries", "traceback", "result", "date_started", "worker") == ("STARTED", 1, None, None, at(3), "w")


@pytest.mark.parametrize("kind", [pytest.param(TaskSent, id="sent"), pytest.param(TaskReceived, id="received")])
def test_to_be_sent_again_does_not_hide_a_retry(spec: Spec, kind: type[Event]) -> None:
    """A retry's own task-sent and task-received say less than RETRY, which says why (M08, M09, M10)."""
    spec.given(fact(TaskSent, "t", 0, name="add"), fact(TaskRetried, "t", 2, result=b"{}", traceback="tb"))

    row = spec.task(fact(kind, "t", 3, attempt=1))

    assert shown(row, "status", "retries", "result", "traceback") == ("RETRY", 0, b"{}", "tb")


def test_to_be_sent_again_is_shown_where_nothing_else_is_known(spec: Spec) -> None:
    """A task whose first attempts nobody recorded is PENDING, and in its attempt (M08)."""
    row = spec.task(fact(TaskSent, "t", 3, attempt=2, name="add"))

    assert shown(row, "status", "retries", "task_name") == ("PENDING", 2, "add")


def test_a_revoke_asked_for_by_three_workers_does_not_undo_success(spec: Spec) -> None:
    """Each of three workers stores REVOKED on the broadcast; the result stands (M08, M09, M16)."""
    spec.given(fact(TaskSucceeded, "t", 2, result=b"4"), fact(TaskRevoked, "t", 3), fact(TaskRevoked, "t", 3))

    row = spec.task(fact(TaskRevoked, "t", 4))

    assert shown(row, "status", "result", "date_done") == ("SUCCESS", b"4", at(2))


def test_a_revoke_asked_for_by_three_workers_does_not_hide_a_running_task(spec: Spec) -> None:
    """A task that somebody runs is not revoked by those who do not have it (M08, M16)."""
    spec.given(fact(TaskStarted, "t", 2, worker="w"), fact(TaskRevoked, "t", 3), fact(TaskRevoked, "t", 3))

    row = spec.task(fact(TaskRevoked, "t", 4))

    assert shown(row, "status", "date_done", "worker") == ("STARTED", None, "w")


def test_a_revoke_asked_for_by_three_workers_ends_a_pending_task(spec: Spec) -> None:
    """A task that nobody runs is REVOKED, at the moment of the last who says so (M08, M16)."""
    spec.given(fact(TaskSent, "t", 1), fact(TaskReceived, "t", 2), fact(TaskRevoked, "t", 3), fact(TaskRevoked, "t", 4))

    row = spec.task(fact(TaskRevoked, "t", 5))

    assert shown(row, "status", "date_done") == ("REVOKED", at(5))


def test_a_task_revoked_by_its_worker_is_revoked(spec: Spec) -> None:
    """The worker that terminated a running task knows (M08, M16)."""
    spec.given(fact(TaskStarted, "t", 2, worker="w"))

    row = spec.task(fact(TaskRevoked, "t", 3, worker="w"))

    assert shown(row, "status", "date_done") == ("REVOKED", at(3))


def test_a_task_that_starts_after_a_revoke_was_asked_for_runs(spec: Spec) -> None:
    """Whoever started the task did not know of the revoke, whatever the clocks say (M08, M16)."""
    spec.given(fact(TaskSent, "t", 1), fact(TaskRevoked, "t", 50))

    row = spec.task(fact(TaskStarted, "t", 3, worker="w"))

    assert shown(row, "status", "date_done") == ("STARTED", None)


def test_a_failure_told_twice_shows_the_later(spec: Spec) -> None:
    """One hard time limit calls mark_as_failure in the parent twice: one row, one outcome, the later (M09, M10, M16)."""
    spec.given(fact(TaskStarted, "t", 1), fact(TaskFailed, "t", 3, result=b'{"n": 1}', traceback="first"))

    row = spec.task(fact(TaskFailed, "t", 4, result=b'{"n": 2}', traceback="second"))

    assert shown(row, "status", "result_json", "traceback", "date_done") == ("FAILURE", {"n": 2}, "second", at(4))


def test_of_two_failures_at_the_same_moment_the_later_in_the_log_is_shown(spec: Spec) -> None:
    """The position decides where the clocks do not (M09)."""
    spec.given(fact(TaskFailed, "t", 3, result=b"1"))

    row = spec.task(fact(TaskFailed, "t", 3, result=b"2"))

    assert row["result"] == b"2"


def test_a_custom_state_passes_through(spec: Spec) -> None:
    """update_state() shows its state and its meta, and ends nothing (M08, M09, M16)."""
    spec.given(fact(TaskStarted, "t", 1, worker="w"), fact(TaskProgress, "t", 2, state="PROGRESS", result=b'{"current": 1}'))

    row = spec.task(fact(TaskProgress, "t", 3, state="UPLOADING", result=b'{"current": 2}'))

    assert shown(row, "status", "result_json", "date_done", "worker") == ("UPLOADING", {"current": 2}, None, "w")


@pytest.mark.parametrize("state", ["PENDING", "QUEUED"])
def test_a_state_that_is_stored_before_a_task_starts_does_not_hide_the_start(spec: Spec, state: str) -> None:
    """A sender stores it, without a worker; whichever is recorded first. Being received does not hide it, as in Celery."""
    spec.given(fact(TaskProgress, "t", 1, state=state, result=b'{"by": "me"}'), fact(TaskSent, "t", 2, name="add"))

    received = spec.task(fact(TaskReceived, "t", 3, worker="w"))
    started = spec.task(fact(TaskStarted, "t", 4, worker="w"))

    assert shown(received, "status", "result_json", "worker") == (state, {"by": "me"}, "w")
    assert shown(started, "status", "result_json", "worker") == ("STARTED", None, "w")


def test_a_state_of_before_the_start_that_is_recorded_late_hides_nothing(spec: Spec) -> None:
    """By the clocks it was before."""
    spec.given(fact(TaskStarted, "t", 4, worker="w"))

    row = spec.task(fact(TaskProgress, "t", 1, state="QUEUED"))

    assert row["status"] == "STARTED"


@pytest.mark.parametrize("worker", [None, "w"], ids=["from outside", "by its worker"])
def test_what_a_running_task_says_is_shown_while_it_runs(spec: Spec, worker: str | None) -> None:
    """Also where whoever stores it tells no request; what its worker has told, a start that another clock puts after it does not hide."""
    spec.given(fact(TaskProgress, "t", 1, state="QUEUED"), fact(TaskStarted, "t", 2, worker="w"))

    row = spec.task(fact(TaskProgress, "t", 3, state="HALF", worker=worker))
    behind = spec.task(fact(TaskStarted, "t", 5 if worker else 2.5, worker="w"))

    assert row["status"] == behind["status"] == "HALF"


def test_an_ignored_task_is_done(spec: Spec) -> None:
    """IGNORED ends a task, without a value (M08, M09, M16)."""
    spec.given(fact(TaskStarted, "t", 1))

    row = spec.task(fact(TaskIgnored, "t", 2))

    assert shown(row, "status", "result", "date_done") == ("IGNORED", None, at(2))


def test_a_rejected_task_is_not_done(spec: Spec) -> None:
    """A rejected message may be delivered again: REJECTED is shown, and ends nothing (M08, M16)."""
    spec.given(fact(TaskStarted, "t", 1))

    row = spec.task(fact(TaskRejected, "t", 2))

    assert shown(row, "status", "date_done") == ("REJECTED", None)


def test_arguments_survive_a_fact_that_does_not_know_them(spec: Spec) -> None:
    """What was asked comes from the fullest account, not from the last (M03-M06)."""
    spec.given(fact(TaskSent, "t", 0, name="add", args=b"[1]", kwargs=b"{}", queue="q"), fact(TaskStarted, "t", 1, name="add"))

    row = spec.task(fact(TaskSucceeded, "t", 2, attempt=1, result=b"1"))

    assert shown(row, "task_name", "args", "kwargs", "queue") == ("add", b"[1]", b"{}", "q")


def test_a_queue_that_the_sender_does_not_know_is_the_one_that_the_worker_has_it_from(spec: Spec) -> None:
    """Who sends by an exchange may not know; what the sender does know comes first."""
    sent: dict[str, Any] = {"name": "add", "args": b"[1]"}
    spec.given(fact(TaskSent, "t", 0, **sent), fact(TaskReceived, "t", 1, worker="w", queue="mail"))
    assert spec.task(fact(TaskStarted, "t", 2, worker="w", name="add"))["queue"] == "mail"
    spec.given(fact(TaskSent, "u", 0, **sent, queue="known"))

    assert spec.task(fact(TaskReceived, "u", 1, worker="w", queue="zz"))["queue"] == "known"


def test_the_arguments_of_the_newest_attempt_are_shown(spec: Spec) -> None:
    """A retry may change the arguments: those of the last attempt count (M05, M06)."""
    spec.given(fact(TaskSent, "t", 5, attempt=1, name="add", args=b"[2]"))

    row = spec.task(fact(TaskSent, "t", 9, name="add", args=b"[1]"))

    assert row["args_json"] == [2]


def test_a_worker_stays_known_after_a_fact_of_nobody(spec: Spec) -> None:
    """The worker is that of the newest attempt that one is known for (M07)."""
    spec.given(fact(TaskStarted, "t", 1, worker="one", pid=1), fact(TaskStarted, "t", 3, attempt=1, worker="two", pid=2))

    row = spec.task(fact(TaskFailed, "t", 4, attempt=2))

    assert shown(row, "status", "worker", "pid") == ("FAILURE", "two", 2)


def test_a_task_has_started_when_its_last_attempt_first_did(spec: Spec) -> None:
    """Of two accounts of one start the earlier is the moment, by the clock (M15)."""
    spec.given(fact(TaskStarted, "t", 1), fact(TaskStarted, "t", 8, attempt=1))

    row = spec.task(fact(TaskStarted, "t", 6, attempt=1))

    assert row["date_started"] == at(6)


def test_a_task_is_as_old_as_its_earliest_fact(spec: Spec) -> None:
    """date_created is the earliest moment and date_updated the latest, in whatever order they come (M14, M16)."""
    spec.given(fact(TaskStarted, "t", 5), fact(TaskSucceeded, "t", 7))

    row = spec.task(fact(TaskSent, "t", 2))

    assert shown(row, "date_created", "date_updated", "date_done") == (at(2), at(7), at(7))


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b'"a\\u0000b"', id="nul"),
        pytest.param(b"NaN", id="nan"),
        pytest.param(b"\x80\x04K\x01.", id="pickle"),
        pytest.param(b'"\\ud800"', id="lone-surrogate"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="deep"),
    ],
)
def test_a_result_that_is_no_json_for_postgresql_is_kept_exactly(spec: Spec, payload: bytes) -> None:
    """The bytes stand; only the JSON for people is missing (M05, M06, M09, M11)."""
    row = spec.task(fact(TaskSucceeded, "t", 2, result=payload, args=payload, kwargs=payload, meta=payload))

    assert shown(row, "result", "args", "kwargs", "meta") == (payload,) * 4
    assert shown(row, "result_json", "args_json", "kwargs_json", "meta_json") == (None,) * 4


FORGETTING = [pytest.param(TaskForgotten, id="forgotten"), pytest.param(TaskExpired, id="expired"), pytest.param(TaskErased, id="erased")]


@pytest.mark.parametrize("forgetting", FORGETTING)
def test_a_forgotten_task_has_no_row_and_is_still_in_the_log(spec: Spec, forgetting: type[Event]) -> None:
    """forget() touches the view; every fact is still in the log (M55, B13)."""
    history = [fact(TaskSent, "t", 0), fact(TaskStarted, "t", 1), fact(TaskSucceeded, "t", 2, result=b"4")]
    spec.given(*history)

    views = spec.when(forgotten := fact(forgetting, "t", 3))

    assert views.task_result == {}
    assert [recorded.event for recorded in read_log(spec.connection)][:4] == [*history, forgotten]


@pytest.mark.parametrize("forgetting", FORGETTING)
def test_a_task_that_runs_after_it_was_forgotten_has_a_new_row(spec: Spec, forgetting: type[Event]) -> None:
    """Nothing of the time before shines through: not the arguments, not the dates, not SUCCESS (M03-M16)."""
    before = fact(TaskSucceeded, "t", 9, name="add", args=b"[1]", worker="w", pid=1, result=b"4", attempt=3)
    spec.given(fact(TaskStarted, "t", 0, attempt=3), before, fact(forgetting, "t", 10))

    row = spec.task(fact(TaskStarted, "t", 5))

    assert shown(row, "status", "retries", "task_name", "args", "worker", "pid", "result") == ("STARTED", 0, None, None, None, None, None)
    assert shown(row, "date_created", "date_started", "date_updated", "date_done") == (at(5), at(5), at(5), None)


def test_a_task_forgotten_between_two_facts_of_one_statement_shows_the_second(spec: Spec) -> None:
    """Within one append the order of the log decides (B13)."""
    started, forgotten, failed = fact(TaskStarted, "t", 1, worker="w"), fact(TaskForgotten, "t", 2), fact(TaskFailed, "t", 3)
    spec.journal.append(spec.connection, started, forgotten, failed)

    row = spec.task(fact(TaskReceived, "t", 0))

    assert shown(row, "status", "worker", "date_started", "date_created") == ("FAILURE", None, None, at(0))


def test_a_forgetting_of_what_nobody_knows_hides_only_what_came_before(spec: Spec) -> None:
    """The forgetting has a place in the log, not a moment on the clock (B13)."""
    spec.given(fact(TaskForgotten, "t", 100))

    row = spec.task(fact(TaskSucceeded, "t", 1, result=b"4"))

    assert shown(row, "status", "date_done") == ("SUCCESS", at(1))


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(fact(TaskWitnessed, "t", 9, state="SUCCESS", worker="w"), id="witnessed"),
        pytest.param(fact(TaskReplayed, "t", 9, task_id="u"), id="replayed"),
        pytest.param(fact(OperatorActed, "t", 9, reason="looked"), id="operator-acted"),
    ],
)
def test_a_fact_that_does_not_fold_changes_nothing(spec: Spec, event: Event) -> None:
    """A task that was heard of again, replayed or commented on is what it was (M08, M16)."""
    spec.given(fact(TaskStarted, "t", 1))

    row = spec.task(event)

    assert shown(row, "status", "date_updated") == ("STARTED", at(1))


def test_a_lost_task_says_why_and_keeps_its_state(spec: Spec) -> None:
    """Lost is what somebody concluded, beside the state, the worker and the arguments, none of which it changes (M07, M08, M16)."""
    spec.given(fact(TaskSent, "t", 0, name="add", args=b"[1]"), fact(TaskStarted, "t", 1, worker="one", pid=1))

    row = spec.task(fact(TaskLost, "t", 9, worker="two", reason="worker one has not been heard of since noon"))

    assert shown(row, "status", "date_done", "worker", "pid", "args") == ("STARTED", None, "one", 1, b"[1]")
    assert row["lost_reason"] == "worker one has not been heard of since noon"


def test_a_task_that_goes_on_after_all_is_not_lost(spec: Spec) -> None:
    """Whatever is heard of it later, by whatever clock, proves the opposite (M08)."""
    spec.given(fact(TaskStarted, "t", 1), fact(TaskLost, "t", 9, reason="silence"))

    row = spec.task(fact(TaskProgress, "t", 2, state="HALF"))

    assert shown(row, "status", "lost_reason") == ("HALF", None)


def test_a_task_that_has_ended_is_not_lost(spec: Spec) -> None:
    """Who concludes it too late is wrong (M08, M16)."""
    spec.given(fact(TaskSucceeded, "t", 1, result=b"1"))

    row = spec.task(fact(TaskLost, "t", 9, reason="silence"))

    assert shown(row, "status", "date_done", "lost_reason") == ("SUCCESS", at(1), None)


def test_a_task_that_is_lost_for_no_known_reason_is_lost(spec: Spec) -> None:
    """Lost for a reason that nobody told is not the same as not lost."""
    spec.given(fact(TaskStarted, "t", 1))

    assert spec.task(fact(TaskLost, "t", 9))["lost_reason"] == ""


def test_the_name_is_known_without_the_extended_results(spec: Spec) -> None:
    """A name that comes without arguments, as where result_extended is off, fills task_name, and nothing later empties it (M03)."""
    spec.given(fact(TaskStarted, "t", 1, name="add", worker="w"))

    row = spec.task(fact(TaskFailed, "t", 2, result=b"{}"))

    assert shown(row, "task_name", "args") == ("add", None)


def test_the_periodic_task_is_known_whoever_tells_it(spec: Spec) -> None:
    """The header that the scheduler set is in task-sent, or in what the worker tells where the sending is not recorded (M04)."""
    spec.given(fact(TaskStarted, "t", 1, name="clean", periodic_task_name="nightly"))

    assert spec.task(fact(TaskSucceeded, "t", 2, name="clean", periodic_task_name="nightly"))["periodic_task_name"] == "nightly"


def test_a_task_is_created_when_it_is_published(spec: Spec) -> None:
    """date_created is the time of the sending, not that of the recording, and the same after a rebuild (M14)."""
    spec.given(fact(TaskStarted, "t", 3, worker="w"))

    row = spec.task(fact(TaskSent, "t", 1, name="add"))

    rebuild(spec.connection, ["task_result"])
    assert shown(row, "date_created", "date_sent", "date_started") == (at(1), at(1), at(3))
    assert checked(spec.connection).task_result["t"] == row


def test_a_kind_of_a_newer_version_changes_nothing(spec: Spec) -> None:
    """An unknown kind is kept in the log and folded by nobody (M08)."""
    spec.given(fact(TaskStarted, "t", 1))
    known = fact(TaskStarted, "t", 9)
    unknown = UnknownEvent.model_validate({**known.model_dump(), "kind": "task-daydreamed", "state": "DREAM"})

    row = spec.task(unknown)

    assert shown(row, "status", "date_updated") == ("STARTED", at(1))


def test_text_that_postgresql_cannot_hold_is_shown_escaped(spec: Spec) -> None:
    r"""NUL and lone surrogates are shown as \x00 and \udcXX, and are exact in the log (M02, M03, M10)."""
    views = spec.when(event := fact(TaskFailed, "t\0", 1, name="n\0", traceback="at \udcff\0"))

    row = views.task_result["t\\x00"]
    assert shown(row, "task_name", "traceback") == ("n\\x00", "at \\udcff\\x00")
    assert read_log(spec.connection)[0].event == event


def test_a_row_is_of_the_run_that_ended_it(spec: Spec) -> None:
    """An id that was sent three times, of which the third run failed: SUCCESS is final, and nothing beside it is of another run."""
    for number, second in ((1, 0), (2, 10), (3, 20)):
        run: dict[str, Any] = {"run": f"r{number}", "worker": f"w{number}", "pid": number}
        spec.given(fact(TaskSent, "t", second, args=f"[{number}]".encode(), kwargs=b"{}"), fact(TaskStarted, "t", second + 1, **run))
        if number == 2:
            spec.given(fact(TaskSucceeded, "t", second + 2, result=b"2", **run))
        if number == 1:
            spec.given(fact(TaskFailed, "t", second + 2, result=b"{}", **run))

    row = spec.task(fact(TaskFailed, "t", 23, result=b"{}", run="r3", worker="w3", pid=3))

    assert (row["status"], row["result"], row["args"], row["kwargs"]) == ("SUCCESS", b"2", b"[2]", b"{}")
    assert (row["worker"], row["pid"], row["date_started"], row["date_done"]) == ("w2", 2, at(11), at(12))


def test_an_id_that_is_sent_again_after_a_retry_took_as_long_as_its_last_run(spec: Spec) -> None:
    """The message that was sent first counts no retries: the run is of an earlier attempt, and later all the same."""
    one: dict[str, Any] = {"run": "r1", "worker": "w", "pid": 1}
    two: dict[str, Any] = {"run": "r2", "worker": "w", "pid": 2, "attempt": 1}
    three: dict[str, Any] = {"run": "r3", "worker": "v", "pid": 3}
    spec.given(fact(TaskSent, "t", 0, args=b"[0]"), fact(TaskStarted, "t", 1, **one), fact(TaskRetried, "t", 2, **one))
    spec.given(fact(TaskSent, "t", 2, args=b"[1]", attempt=1), fact(TaskStarted, "t", 3, **two), fact(TaskFailed, "t", 4, **two))
    spec.given(fact(TaskSent, "t", 60, args=b"[2]"), fact(TaskStarted, "t", 61, **three))

    row = spec.task(fact(TaskSucceeded, "t", 62, **three))

    assert (row["status"], row["args"], row["worker"], row["date_started"]) == ("SUCCESS", b"[2]", "v", at(61))


def test_a_redelivered_task_took_as_long_as_the_run_that_ended_it(spec: Spec) -> None:
    """The worker of the first is gone, and what it had begun is no part of it."""
    spec.given(fact(TaskSent, "t", 0), fact(TaskStarted, "t", 1, run="r1", worker="w", pid=1))
    spec.given(fact(TaskStarted, "t", 61, run="r2", worker="v", pid=2))

    row = spec.task(fact(TaskSucceeded, "t", 62, run="r2", worker="v", pid=2))

    assert (row["worker"], row["date_started"], row["date_done"]) == ("v", at(61), at(62))
