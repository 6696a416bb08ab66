"""What tasks may do to a worker, and how the running workers are set, is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from celery import Celery

from celery_journal.consumers.doctor import Finding, Subject, examine
from celery_journal.consumers.options import Options

from .conftest import NewApp
from .scene import new_app, url_of
from .workers import available, settings, working

Look = Callable[[str, Celery], list[Finding]]


def task() -> None:
    """What it does does not matter."""


@pytest.fixture(scope="module")
def database(embedded_database: str) -> str:
    """One server will do: the settings are the apps'."""
    return embedded_database


@pytest.fixture
def look(dsn: str, tmp_path: Path) -> Look:
    """What a check says of the settings of an app."""

    def found(check: str, app: Celery) -> list[Finding]:
        options = Options.read({"spool": str(tmp_path / "spool")})
        with psycopg.connect(dsn, autocommit=True) as connection:
            return [one for one in examine(Subject(connection, dsn, options, options.schema_name, app)) if one.check == check]

    return found


@pytest.fixture
def app(make_app: NewApp) -> Celery:
    """An app; tasks that other tests share with all apps are without fault."""
    app = make_app()
    for other in app.tasks.values():
        other.acks_late, other.time_limit = False, 60
    return app


def test_late_acknowledgement_that_gives_nothing_back_is_told(look: Look, app: Celery) -> None:
    """Celery drops the message of a process that was killed, unless the task says otherwise."""
    app.task(name="shop.charge", shared=False, acks_late=True)(task)
    app.task(name="shop.mail", shared=False, acks_late=True, reject_on_worker_lost=True)(task)

    (finding,) = look("late acknowledgement", app)

    assert (finding.status, finding.found.rpartition(": ")[2]) == ("warn", "shop.charge")
    app.tasks["shop.charge"].reject_on_worker_lost = True
    assert [one.status for one in look("late acknowledgement", app)] == ["ok"]


def test_tasks_without_a_time_limit_are_told(look: Look, app: Celery) -> None:
    """One limit for all is enough, and so is one of each."""
    app.task(name="shop.charge", shared=False)(task)
    app.task(name="shop.mail", shared=False, soft_time_limit=60)(task)

    (finding,) = look("time limits", app)

    assert (finding.status, finding.found.rpartition(": ")[2]) == ("warn", "shop.charge")
    app.conf.task_time_limit = 3600
    assert [one.status for one in look("time limits", app)] == ["ok"]


def test_workers_that_run_with_other_settings_are_named(look: Look, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that differs, with both values; those that agree are counted."""
    monkeypatch.setattr("celery_journal.consumers.doctor.running.PATIENCE", 5)  # a busy machine answers late
    broker = next(name for name in ("rabbitmq", "redis", "filesystem") if available(name))
    with working(broker, url_of(dsn), dsn, tmp_path, task_time_limit=30) as worker:
        same = look("workers' settings", worker.app)
        token = worker.app.conf.task_default_queue
        conf = settings(broker, tmp_path / token, token)
        other = new_app(url_of(dsn), task_track_started=True, task_time_limit=60, **conf)
        differing = look("workers' settings", other)
        other.close()

    assert [(one.status, one.found) for one in same] == [("ok", "1 worker answered, with the settings of this app")]
    (finding,) = differing
    assert finding.status == "warn"
    assert finding.found.startswith("task_time_limit is 30 there, and 60 here: scene-")


def test_a_broker_that_is_away_keeps_no_other_check_from_looking(look: Look, make_app: NewApp) -> None:
    """The port of nobody."""
    (finding,) = look("workers' settings", make_app(broker_url="pyamqp://guest:guest@127.0.0.1:1//"))

    assert (finding.status, finding.found.partition(":")[0]) == ("warn", "no worker could be asked")
