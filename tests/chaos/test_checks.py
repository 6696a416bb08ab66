"""The checks of a chaos run find what they are for: each is shown a journal that is wrong in one way."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import (
    ChordStarted,
    Event,
    TaskFailed,
    TaskIgnored,
    TaskReceived,
    TaskRejected,
    TaskRetried,
    TaskRevoked,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
)

from . import checks, record, truth

Append = Callable[..., None]

WORKER, MAIN, CHILD = "w1@chaos", 10, 11


@pytest.fixture
def append(connection: Connection, journal: Journal, emitter: Emitter) -> Append:
    """Appends facts of the task "t", run by the worker's child unless something else is given."""

    def append(*kinds: type[Event], stream: str = "t", **fields: Any) -> None:
        for kind in kinds:
            ran = {} if kind in {TaskSent, ChordStarted} else {"worker": WORKER, "pid": CHILD, "run": "r1"}
            journal.append(connection, emitter.emit(kind, stream, **{**ran, **fields}))

    return append


class Happened:
    """The diary of a run of one child process in which these things happened, one a second."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self._file, self._log, self._dsn, self._clock = folder / "1.jsonl", folder / "w1.log", dsn, 1000.0
        self._log.touch()

    def write(self, what: str, **facts: Any) -> Happened:
        """Write the line."""
        self._clock += 1
        line = {
            "what": what,
            "at": self._clock,
            "pid": CHILD,
            "id": "t",
            "name": "chaos.quick",
            "attempt": 0,
            "worker": WORKER,
            "member": WORKER,
            **facts,
        }
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return self

    def wait(self, seconds: float) -> Happened:
        """Let so many seconds pass."""
        self._clock += seconds
        return self

    def received(self, task_id: str = "t") -> Happened:
        """Log that the worker has received the task."""
        with self._log.open("a") as log:
            log.write(f"[2026-11-26 01:35:32,132: INFO/MainProcess] Task chaos.quick[{task_id}] received\n")
        return self

    def ran(self, state: str = "SUCCESS", outcome: str = "returned", **facts: Any) -> Happened:
        """Write that the task ran from its beginning to its end."""
        return self.write("begin", **facts).write("end", outcome=outcome).write("told", state=state)

    def violations(self, lost: dict[str, str] | None = None) -> list[str]:
        """Return what the checks say."""
        return checks.check(truth.read(self._file.parent, [self._log]), record.read(self._dsn), lost or {})

    def violation(self, lost: dict[str, str] | None = None) -> str:
        """Return the only thing that the checks say."""
        (violation,) = self.violations(lost)
        return violation


@pytest.fixture
def happened(tmp_path: Path, dsn: str) -> Happened:
    """A task was sent."""
    return Happened(tmp_path, dsn).write("sent").received()


def test_what_is_called_expired_without_having_been_is_found(append: Append, happened: Happened) -> None:
    """It has to be one that may expire, and nobody may have begun it."""
    append(TaskSent, TaskReceived)
    reason = {"t": f"received by {WORKER}, expired at 10:00, and nobody has said since what became of it"}
    assert "that is not so" in happened.violation(reason)

    happened.write("ordered", ids=["t"], kind="expire")
    assert happened.violations(reason) == []

    assert any("called lost, because received by" in violation for violation in happened.write("begin").violations(reason))


def test_what_is_called_unreceived_though_its_broadcast_was_not_lost_is_found(append: Append, happened: Happened) -> None:
    """Of whom only the broadcast tells, nobody knows what it did while the broker was away; but only then."""
    append(TaskSent)
    reason = {"t": "sent at 10:00 and never received, as far as foreign@chaos has broadcast"}
    happened.ran(worker="foreign@chaos")
    assert any("but it began" in violation for violation in happened.violations(reason))

    happened.write("broker", down=900.0, up=1100.0)

    assert happened.violations(reason) == []


def test_a_journal_that_says_what_happened_is_right(append: Append, happened: Happened) -> None:
    append(TaskSent, TaskReceived, TaskStarted, TaskSucceeded)

    assert happened.ran().violations() == []


def test_a_task_that_the_journal_has_never_heard_of_is_found(happened: Happened) -> None:
    assert "has never heard of it" in happened.violation()


def test_an_end_that_is_missing_is_found(append: Append, happened: Happened) -> None:
    """Whether or not somebody calls the task lost: the truth knows how it has ended."""
    append(TaskSent, TaskReceived, TaskStarted)
    happened.ran()

    assert "says STARTED and nothing more" in happened.violation()
    assert any(
        "says STARTED and nothing more" in violation for violation in happened.violations({"t": f"started by {WORKER}, which is gone"})
    )


def test_a_wrong_end_is_found(append: Append, happened: Happened) -> None:
    append(TaskSent, TaskReceived, TaskStarted, TaskFailed)

    assert "says FAILURE" in happened.ran().violation()


def test_an_end_that_nobody_came_to_is_found(append: Append, happened: Happened) -> None:
    append(TaskSent, TaskReceived, TaskSucceeded)

    assert "says SUCCESS" in happened.violation()


@pytest.mark.parametrize("kind", [TaskSent, TaskReceived, TaskStarted, TaskSucceeded])
def test_a_transition_told_twice_is_found(kind: type[Event], append: Append, happened: Happened) -> None:
    append(TaskSent, TaskReceived, TaskStarted, TaskSucceeded, kind)

    in_log, in_history = happened.ran().violations()

    assert "is in the log 2 times" in in_log
    assert "2 times" in in_history
    assert "its history has" in in_history


def test_a_message_that_was_revoked_twice_is_found_unless_it_was_delivered_twice(append: Append, happened: Happened) -> None:
    """As it is where its worker dies, or the broker goes, before it is acknowledged."""
    append(TaskSent)
    append(TaskRevoked, TaskRevoked, run=None)
    happened.write("revoked").write("ordered", ids=["t"], kind="revoke")

    in_log, in_history = happened.violations()

    assert "is in the log 2 times" in in_log
    assert "its history has" in in_history
    assert happened.write("killed", victim=MAIN).violations() == []


def test_a_task_that_was_rejected_is_lost_only_where_its_worker_died(append: Append, happened: Happened) -> None:
    """As a retry is that no broker takes: its worker's main process would have failed it."""
    append(TaskSent, TaskReceived, TaskStarted, TaskRejected)
    happened.ran("REJECTED", "Reject")
    reason = {"t": f"rejected by {WORKER}, which was gone before it said that it has failed"}

    assert "says REJECTED and nothing more" in happened.violations(reason)[0]
    assert happened.write("killed", victim=MAIN).violations(reason) == []
    assert "not called lost" in happened.violation()


def test_a_run_that_has_ended_in_two_ways_is_found(append: Append, happened: Happened) -> None:
    """As where the broadcast tells of a success that the journal has as an end without a result."""
    append(TaskSent, TaskReceived, TaskStarted, TaskIgnored)
    append(TaskSucceeded, source="broadcast")

    assert "has ended twice: " in happened.ran(name="chaos.quiet").violation()


def test_two_runs_are_no_transition_told_twice(append: Append, happened: Happened) -> None:
    """A message that came again was run again, and the journal says so."""
    append(TaskSent, TaskReceived, TaskStarted, TaskSucceeded)
    append(TaskReceived, TaskStarted, TaskSucceeded, run="r2")

    assert happened.ran().received().ran().violations() == []


def test_two_runs_shown_as_one_are_found(append: Append, happened: Happened) -> None:
    append(TaskSent, TaskReceived, TaskStarted, TaskSucceeded)

    assert "was run 2 times, and the journal shows 1" in happened.ran().received().ran().violation()


def test_a_run_that_never_was_is_found(append: Append, happened: Happened) -> None:
    append(TaskSent, TaskReceived, TaskStarted, TaskSucceeded)
    append(TaskStarted, run="r2")

    assert "was run 1 times, and the journal shows 2" in happened.ran().received().violation()


def test_a_delivery_shown_as_two_runs_is_found(append: Append, happened: Happened) -> None:
    append(TaskSent, TaskReceived)
    append(TaskStarted, TaskSucceeded, run="r2")

    assert "was received 1 times, and the journal shows 2 runs" in happened.ran().violation()


def test_a_task_that_died_with_its_worker_has_to_be_called_lost(append: Append, happened: Happened) -> None:
    append(TaskSent, TaskReceived, TaskStarted)
    happened.write("begin").write("killed", victim=CHILD)

    assert "not called lost" in happened.violation()
    assert happened.violations({"t": f"started by {WORKER}, which is gone"}) == []


def test_a_task_that_died_with_its_worker_may_have_stored_its_end(append: Append, happened: Happened) -> None:
    """Between the return of its code and what Celery does afterwards nobody but the journal knows."""
    append(TaskSent, TaskReceived, TaskStarted, TaskSucceeded)

    assert happened.write("begin").write("end", outcome="returned").write("killed", victim=CHILD).violations() == []


def test_a_task_whose_process_was_killed_before_its_code_began_may_have_failed(append: Append, happened: Happened) -> None:
    """The worker's main process saw its child die; where nothing died, nothing can have failed."""
    moment = datetime.fromtimestamp(1001.5, UTC)
    append(TaskSent, TaskReceived)
    append(TaskStarted, TaskFailed, occurred_at=moment)

    assert "says FAILURE" in happened.violations()[0]
    assert happened.write("killed", victim=CHILD).violations() == []


def test_a_task_whose_process_was_killed_before_it_told_of_its_start_may_have_failed(append: Append, happened: Happened) -> None:
    """With the database away a child waits before its code begins; that it had the task only the main process can say then."""
    result = json.dumps({"exc_type": "WorkerLostError", "exc_message": ["Worker exited prematurely"], "exc_module": "billiard"}).encode()
    append(TaskSent, TaskReceived)
    append(TaskFailed, pid=MAIN, occurred_at=datetime.fromtimestamp(1004.0, UTC), result=result)

    assert "says FAILURE" in happened.violation()
    assert happened.write("killed", victim=CHILD).violations() == []
    assert "says FAILURE" in happened.ran().violations()[0]


def test_an_attempt_whose_process_was_killed_before_its_code_began_may_have_failed(append: Append, happened: Happened) -> None:
    """The attempt before it had run."""
    append(TaskSent, TaskReceived, TaskStarted, TaskRetried)
    append(TaskSent, attempt=1)
    append(TaskReceived, attempt=1, run="r2")
    append(TaskStarted, TaskFailed, attempt=1, run="r2", occurred_at=datetime.fromtimestamp(1005.5, UTC))
    happened.ran("RETRY", "Retry").write("sent", attempt=1).received()

    assert "says FAILURE" in happened.violations()[0]
    assert happened.write("killed", victim=CHILD).violations() == []


def test_a_task_that_failed_long_after_a_death_is_found(append: Append, happened: Happened) -> None:
    append(TaskSent, TaskReceived)
    append(TaskFailed, pid=MAIN, occurred_at=datetime.fromtimestamp(1060.0, UTC), result=b'{"exc_type": "WorkerLostError"}')

    assert "says FAILURE" in happened.write("killed", victim=CHILD).violation()


def test_a_task_called_lost_though_nobody_killed_its_worker_is_found(append: Append, happened: Happened) -> None:
    append(TaskSent, TaskReceived, TaskStarted)

    assert f"but nothing of {WORKER} was killed" in happened.write("begin").violation({"t": f"started by {WORKER}, which is gone"})


def test_a_task_called_lost_though_it_has_ended_is_found(append: Append, happened: Happened) -> None:
    append(TaskSent, TaskReceived, TaskStarted, TaskSucceeded)

    assert "is called lost all the same" in happened.ran().violation({"t": f"started by {WORKER}, which is gone"})


def test_a_task_called_never_received_though_it_began_is_found(append: Append, happened: Happened) -> None:
    append(TaskSent)
    happened.write("begin").write("killed", victim=CHILD)

    assert any("never received; but it began" in violation for violation in happened.violations({"t": "sent and never received"}))


def test_a_retry_that_was_never_run_has_to_be_called_lost(append: Append, happened: Happened) -> None:
    append(TaskSent, TaskReceived, TaskStarted, TaskRetried)
    happened.ran("RETRY", "Retry")

    assert "not called lost" in happened.violation()
    assert happened.violations({"t": "sent again for attempt 1 and never received"}) == []


def test_an_end_that_a_killed_process_could_not_tell_any_more_is_no_violation(append: Append, happened: Happened) -> None:
    """Nobody waits for the end of a task whose result is ignored, so that its process may keep it for a moment."""
    append(TaskSent, TaskReceived, TaskStarted)
    happened.ran("IGNORED", "Ignore", name="chaos.ignore").wait(-0.5).write("killed", victim=CHILD)

    assert happened.violations({"t": f"started by {WORKER}, which is gone"}) == []


def test_an_end_that_a_killed_process_should_have_told_is_found(append: Append, happened: Happened) -> None:
    append(TaskSent, TaskReceived, TaskStarted)
    happened.ran("IGNORED", "Ignore", name="chaos.ignore").wait(60).write("killed", victim=CHILD)

    assert "says STARTED and nothing more" in happened.violation({"t": f"started by {WORKER}, which is gone"})


def test_a_chord_that_stays_open_is_found(append: Append, happened: Happened) -> None:
    append(TaskSent, TaskReceived, TaskStarted, TaskSucceeded)
    append(ChordStarted, stream="g", size=2, task_id="body")
    happened.ran()

    assert "chord g: is open" in happened.violation()
    assert happened.violations({"body": "body of chord g: it waits for 1 part, and these are lost: t"}) == []
