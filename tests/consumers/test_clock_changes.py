"""A day has 24 hours, also where the clock of the session's time zone was changed in between."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from celery_journal import sql
from celery_journal.consumers.stale import get_stale_tasks
from celery_journal.journal import Connection
from celery_journal.journal.events import TaskSucceeded
from celery_journal.journal.workers import WorkerOnline
from celery_journal.projections import TaskResult

from .lostscene import Log

BERLIN = ZoneInfo("Europe/Berlin")


def days_until_a_change() -> timedelta:
    """Return so many days that then, that long ago, the clock in Berlin was an hour off from what it is now."""
    now = datetime.now(UTC)
    spans = (timedelta(days=days) for days in range(1, 366))
    return next(span for span in spans if (now - span).astimezone(BERLIN).utcoffset() != now.astimezone(BERLIN).utcoffset())


@pytest.fixture
def span() -> timedelta:
    return days_until_a_change()


@pytest.fixture
def log(connection: Connection, span: timedelta) -> Log:
    """Tasks, some of which have ended, and workers: of half an hour before and after that."""
    log = Log(connection)
    for name, moment in {
        "older": datetime.now(UTC) - span - timedelta(minutes=30),
        "younger": datetime.now(UTC) - span + timedelta(minutes=30),
    }.items():
        log.sent(f"{name} open", occurred_at=moment)
        log.tell(TaskSucceeded, f"{name} done", occurred_at=moment)
        log.tell(WorkerOnline, f"{name} worker", occurred_at=moment)
        connection.execute("update celery_journal.worker_row set last_seen = %s where worker = %s", (moment, f"{name} worker"))
    connection.execute(b"set time zone 'Europe/Berlin'")
    return log


def test_what_is_stale(log: Log, span: timedelta) -> None:
    """`stale 30d`, and the manager's."""
    assert [task.task_id for task in get_stale_tasks(log.connection, span)] == ["older open"]
    assert [task.task_id for task in TaskResult.objects.using(log.connection).get_stale_tasks(span)] == ["older open"]


def test_what_has_expired(log: Log, span: timedelta) -> None:
    """`result_expires`, and the manager's."""
    (limit,) = log.connection.execute(sql.query("expiry.sql", "moment"), {"age": span}).fetchone() or (None,)

    assert isinstance(limit, datetime)
    assert abs(datetime.now(UTC) - span - limit) < timedelta(minutes=10)
    assert [task.task_id for task in TaskResult.objects.using(log.connection).get_all_expired(span)] == ["older done"]


def test_which_workers_are_silent(log: Log, span: timedelta) -> None:
    """They are forgotten after so long."""
    query, limits = sql.query("expiry.sql", "silent workers"), {"silence": span, "limit": 10}

    assert log.connection.execute(query, limits).fetchall() == [("older worker",)]


def test_what_was_lately(log: Log, span: timedelta) -> None:
    """`date_done__within`, `date_created__older_than`."""
    tasks = TaskResult.objects.using(log.connection)

    assert [task.task_id for task in tasks.filter(date_done__within=span)] == ["younger done"]
    assert [task.task_id for task in tasks.filter(date_done__older_than=span)] == ["older done"]
