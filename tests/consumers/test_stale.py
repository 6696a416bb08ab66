"""Tasks that were sent long ago and have not ended: the function and the command (F11, F12, F13, F23, F25)."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from celery_journal.consumers import stale
from celery_journal.consumers.stale import get_stale_tasks
from celery_journal.journal import Connection
from celery_journal.journal.events import (
    TaskFailed,
    TaskIgnored,
    TaskLost,
    TaskProgress,
    TaskReceived,
    TaskRetried,
    TaskRevoked,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
)

from .lostscene import Log, ago
from .test_cli import as_url, command

HOUR = timedelta(hours=1)


@pytest.fixture
def log(connection: Connection) -> Log:
    return Log(connection)


def ids(log: Log, *arguments: object, **options: object) -> list[str]:
    return [task.task_id for task in get_stale_tasks(log.connection, *arguments, **options)]  # type: ignore[arg-type]


def test_what_has_not_ended_for_longer_than_that_is_stale(log: Log) -> None:
    """F11, F10: in whatever state it waits, the oldest first; what is younger is not."""
    log.sent("queued", occurred_at=ago(7200))
    log.tell(TaskReceived, "received", occurred_at=ago(7300))
    log.tell(TaskStarted, "started", occurred_at=ago(7400))
    log.tell(TaskProgress, "progress", state="PROGRESS", occurred_at=ago(7500))
    log.tell(TaskRetried, "retry", occurred_at=ago(7600))
    log.sent("young", occurred_at=ago(3500))

    assert ids(log, HOUR) == ["retry", "progress", "started", "received", "queued"]
    assert ids(log, timedelta(minutes=124)) == ["retry", "progress"]
    (queued,) = [task for task in get_stale_tasks(log.connection, HOUR) if task.task_id == "queued"]
    assert queued.state == "PENDING"
    assert queued.name == "app.send"
    assert abs(queued.age - timedelta(seconds=7200)) < timedelta(seconds=60)


@pytest.mark.parametrize("kind", [TaskSucceeded, TaskFailed, TaskRevoked, TaskIgnored])
def test_what_has_ended_is_not_stale(log: Log, kind: type[TaskSucceeded]) -> None:
    """F11: success, failure, revoked and ignored are ends."""
    log.sent(occurred_at=ago(7200))
    log.tell(kind, "t")

    assert ids(log, HOUR) == []


def test_the_acceptable_states_are_the_callers(log: Log) -> None:
    """F11, F23: a state of the user's own may be an end, and a failure none."""
    log.tell(TaskFailed, "failed", occurred_at=ago(7200))
    log.tell(TaskProgress, "parked", state="PARKED", occurred_at=ago(7300))

    assert ids(log, HOUR) == ["parked"]
    assert ids(log, HOUR, ["SUCCESS", "FAILURE", "REVOKED", "IGNORED", "PARKED"]) == []
    assert ids(log, HOUR, ["SUCCESS"]) == ["parked", "failed"]
    assert ids(log, HOUR, acceptable_states=("SUCCESS", "PARKED")) == ["failed"]
    assert ids(log, HOUR, acceptable_states=()) == ["parked", "failed"]


def test_a_task_with_an_eta_counts_from_then_on(log: Log) -> None:
    """A task that is to run tomorrow is not stale today."""
    log.sent("future", occurred_at=ago(7200), eta=ago(-60))
    log.sent("due lately", occurred_at=ago(7200), eta=ago(60))
    log.sent("due long ago", occurred_at=ago(9000), eta=ago(7200))

    assert ids(log, HOUR) == ["due long ago"]


def test_scheduled_tasks_are_those_whose_eta_has_passed_without_a_start(log: Log) -> None:
    """F25: sent or received, and not begun since; a retry too whose next attempt did not begin."""
    for task_id, eta in (("future", -60), ("lately", 60), ("waits", 7200), ("is held", 7200), ("began", 7200), ("ended", 7200)):
        log.sent(task_id, eta=ago(eta))
    log.received("is held", eta=ago(7200))
    log.started("began")
    log.tell(TaskSucceeded, "ended")
    log.sent("no eta", occurred_at=ago(7200))
    log.started("again")
    log.tell(TaskRetried, "again", worker="w1", run="r1")
    log.tell(TaskSent, "again", attempt=1, eta=ago(7200))

    assert sorted(ids(log, HOUR, scheduled=True)) == ["again", "is held", "waits"]


def test_rows_come_page_by_page(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """F11: lazily, none twice and none left out, though many were sent at the same moment."""
    moment = ago(7200)
    events = [log.emitter.emit(TaskSent, f"t{number:02}", occurred_at=moment) for number in range(25)]
    log.journal.append(log.connection, *events)
    monkeypatch.setattr(stale, "PAGE", 10)

    tasks = get_stale_tasks(log.connection, HOUR)
    first = [task.task_id for task in islice(tasks, 12)]
    log.tell(TaskSucceeded, "t24")

    assert [*first, *(task.task_id for task in tasks)] == [f"t{number:02}" for number in range(24)]


# The command


def test_the_plain_output_is_the_seeds(log: Log, dsn: str) -> None:
    """F12, F13: `stale --hours 1` prints a heading and two-space-indented lines of date, id and name; exit code 1."""
    sent_at = datetime(2015, 5, 27, 14, 17, 37, 96366, tzinfo=UTC)
    task_id = "cf738350-afe8-44f8-9eac-34721581eb61"
    log.sent(task_id, name="email_workers.tasks.send_email", occurred_at=sent_at)

    result = command("stale", "--hours", "1", dsn=as_url(dsn))

    assert result.stdout == f"Stale tasks:\n  2015-05-27 14:17:37.096366+00:00 - {task_id}: email_workers.tasks.send_email\n"
    assert result.returncode == 1


def test_nothing_stale_is_said_and_exit_code_0(log: Log, dsn: str) -> None:
    """F12: also in an empty journal; the default is an hour."""
    empty, empty_json = command("stale", dsn=as_url(dsn)), command("stale", "--json", dsn=as_url(dsn))
    log.sent(occurred_at=ago(3000))
    young = command("stale", dsn=as_url(dsn))
    log.sent("old", occurred_at=ago(4000))
    old = command("stale", dsn=as_url(dsn))

    assert (empty.returncode, empty.stdout) == (0, "no task is stale: none has waited for longer than 1 h\n")
    assert (empty_json.returncode, json.loads(empty_json.stdout)) == (0, [])
    assert young.returncode == 0
    assert old.returncode == 1
    assert old.stdout.count("\n") == 2


def test_the_units_are_added_up(log: Log, dsn: str) -> None:
    """F23: weeks, days, hours, minutes, seconds and microseconds; --terminal-state as often as wanted."""
    span = timedelta(weeks=1, days=1, hours=1, minutes=1, seconds=1, microseconds=1)
    arguments = ["--weeks", "1", "--days", "1", "--hours", "1", "--minutes", "1", "--seconds", "1", "--microseconds", "1"]
    log.tell(TaskProgress, "older", state="PARKED", occurred_at=ago(span.total_seconds() + 60))
    log.sent("younger", occurred_at=ago(span.total_seconds() - 600))

    found = command("stale", *arguments, "--json", dsn=as_url(dsn))
    accepted = command("stale", "--seconds", "1", "--terminal-state", "PARKED", "--terminal-state", "PENDING", dsn=as_url(dsn))

    assert [task["task_id"] for task in json.loads(found.stdout)] == ["older"]
    assert accepted.returncode == 0


def test_scheduled_tasks_by_command(log: Log, dsn: str) -> None:
    """F25: `stale --scheduled`."""
    log.sent("late", eta=ago(7200))
    log.sent("not scheduled", occurred_at=ago(7200))

    result = command("stale", "--scheduled", dsn=as_url(dsn))

    assert result.stdout.startswith("Stale scheduled tasks:\n  ")
    assert result.stdout.endswith(" - late: app.send\n")
    assert result.returncode == 1


def test_json_tells_state_age_worker_and_reason(log: Log, dsn: str) -> None:
    """F13: what the plain output has no room for."""
    log.started("t", occurred_at=ago(7200))
    log.tell(TaskLost, "t", reason="started by w1, which is gone")

    ((task,), code) = (json.loads((result := command("stale", "--json", dsn=as_url(dsn))).stdout), result.returncode)

    assert code == 1
    assert 7190 < task.pop("age_seconds") < 7300
    assert task.pop("date_created").endswith("+00:00")
    assert task == {
        "task_id": "t",
        "name": "app.send",
        "state": "STARTED",
        "eta": None,
        "worker": "w1",
        "worker_alive": None,
        "queue": "mail",
        "lost": True,
        "reason": "lost: started by w1, which is gone",
    }


def test_on_a_terminal_it_is_a_table_that_no_name_can_write_to(log: Log, dsn: str) -> None:
    """F13: with state, age, worker and reason; an escape sequence in a name is shown and not obeyed, nor is markup."""
    log.started("t", name="evil\x1b]0;title\x07[bold]name", occurred_at=ago(7200))
    ours, theirs = pty.openpty()
    environment = {**os.environ, "CELERY_JOURNAL_DSN": as_url(dsn), "COLUMNS": "200", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-m", "celery_journal.consumers.cli", "stale"], env=environment, stdout=theirs)
    os.close(theirs)
    printed = b""
    while chunk := _read(ours):
        printed += chunk
    os.close(ours)

    assert process.wait(60) == 1
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed.decode())
    assert "\x1b" not in text
    assert re.search(r"t +evil\\x1b\]0;title\\x07\[bold\]name +STARTED +2 h +w1 +with w1", text), text


def test_plain_output_does_not_obey_names_either(log: Log, dsn: str) -> None:
    """A line break in a name would make two lines of it."""
    log.sent("t\n  2015", name="a\x1b[2Jb", occurred_at=ago(7200))

    result = command("stale", dsn=as_url(dsn))

    assert result.stdout.endswith(" - t\\n  2015: a\\x1b[2Jb\n")
    assert result.stdout.count("\n") == 2


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        pytest.param(["--hours", "-1"], 2, "-1 is not in the range", id="negative"),
        pytest.param(["--hours", "soon"], 2, "'soon' is not a valid integer", id="no number"),
        pytest.param(["--weeks", "999999999999"], 2, "longer than time is reckoned", id="too long"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], code: int, sentence: str, dsn: str) -> None:
    """And exit code 2."""
    result = command("stale", *arguments, dsn=as_url(dsn))

    assert (result.returncode, result.stdout) == (code, "")
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["stale", "lost", "explain"])
def test_no_database_is_one_sentence_and_exit_code_3(name: str) -> None:
    """Of each of these commands."""
    result = command("--dsn", "postgresql://me@127.0.0.1:1/app", name, *(["some-id"] if name == "explain" else []))

    assert (result.returncode, result.stdout) == (3, "")
    assert "no PostgreSQL answers at me@127.0.0.1:1/app" in result.stderr


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""
