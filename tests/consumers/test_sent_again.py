"""An id that was sent more than once, by a replay, by a task that replaces itself, by the application: each run is of its own sending."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from celery_journal.consumers import install
from celery_journal.consumers.explain import explain
from celery_journal.consumers.lost import find_lost
from celery_journal.journal import Connection
from celery_journal.journal.events import TaskReplaced, TaskSucceeded
from celery_journal.projections import verify

from .lostscene import GRACE, Log, ago, pause
from .scene import kinds, row, until, url_of
from .test_running import runs
from .workers import Worker, available, working

PATIENCE = 60


@pytest.fixture(scope="module")
def worker(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker, and an app that sends to it."""
    broker = "redis" if available("redis") else "filesystem"
    with working(broker, url_of(embedded_database), embedded_database, tmp_path_factory.mktemp("again")) as worker:
        install(worker.app)
        yield worker


def told(worker: Worker, task_id: str) -> str:
    """Return why the task is where it is."""
    with psycopg.connect(worker.dsn, autocommit=True) as connection:
        assert verify(connection).differences == []
        return str(explain(connection, task_id))


def ended(worker: Worker, task_id: str) -> list[str]:
    """Return how the runs of the task have ended, as the log tells it."""
    return [kind for kind in kinds(worker.dsn, task_id) if kind in {"task-succeeded", "task-failed"}]


def by_start(worker: Worker, task_id: str) -> list[dict[str, Any]]:
    """Return the runs of the task, the first first."""
    return sorted(runs(worker.dsn, task_id), key=lambda run: run["date_started"])


def test_a_task_that_replaces_itself_has_run_twice(worker: Worker) -> None:
    """F02: the first run has ended, the second waited for its own message, and the task took as long as that."""
    result = worker.send("replace", dict(worker.signature("add", 1, 2)))
    assert result.get(timeout=PATIENCE) == 3
    until(lambda: "task-replaced" in kinds(worker.dsn, result.id), PATIENCE)
    until(lambda: kinds(worker.dsn, result.id).count("task-sent") == 2, PATIENCE)

    first, second = by_start(worker, result.id)
    assert [run["status"] for run in (first, second)] == ["REPLACED", "SUCCESS"]
    assert first["date_done"] is not None
    assert first["date_started"] < second["date_sent"] <= second["date_started"]
    assert second["queue_wait"] < second["date_started"] - first["date_started"]
    assert row(worker.dsn, result.id).date_started == second["date_started"]
    assert "delivered more than once" not in told(worker, result.id)
    assert "It has put another task in its place, which goes on under its id." in told(worker, result.id)


def test_a_task_that_is_replayed_under_its_id_has_run_twice(worker: Worker, tmp_path: Path) -> None:
    """F02: `replay --same-id` of a task that failed."""
    result = worker.send("fail", "once")
    with pytest.raises(Exception, match="once"):
        result.get(timeout=PATIENCE)
    until(lambda: "task-failed" in kinds(worker.dsn, result.id), PATIENCE)

    install(worker.app).AsyncResult(result.id).replay(same_id=True)
    until(lambda: kinds(worker.dsn, result.id).count("task-failed") == 2, PATIENCE)
    until(lambda: kinds(worker.dsn, result.id).count("task-sent") == 2, PATIENCE)

    first, second = by_start(worker, result.id)
    assert first["date_sent"] < first["date_done"] < second["date_sent"] <= second["date_started"]
    found = row(worker.dsn, result.id)
    assert (found.date_started, found.date_done, found.pid) == (second["date_started"], second["date_done"], second["pid"])
    assert "delivered more than once" not in told(worker, result.id)
    assert "It was sent 2 times under this id, and started 2 times." in told(worker, result.id)


def test_the_arguments_are_of_the_run_whose_result_is_shown(worker: Worker) -> None:
    """F02: an application sends three tasks under one id, and the third fails."""
    task_id = f"again-{uuid4().hex}"
    for number, arguments in enumerate([(1, 1), (2, 2), (3, "no number")], 1):
        worker.send("add", *arguments, task_id=task_id)
        until(lambda: len(ended(worker, task_id)) == number, PATIENCE)  # noqa: B023  asked before the next one
    until(lambda: kinds(worker.dsn, task_id).count("task-sent") == 3, PATIENCE)

    found = row(worker.dsn, task_id)
    assert (found.status, found.result, found.task_args) == ("SUCCESS", b"4", "[2, 2]")
    second = by_start(worker, task_id)[1]
    assert (found.date_started, found.pid) == (second["date_started"], second["pid"])


def test_one_that_was_sent_again_waits_though_it_has_ended(log: Log) -> None:
    """Its end is told, and where its newest message is."""
    log.online()
    log.sent(occurred_at=ago(60))
    log.started(occurred_at=ago(59))
    log.tell(TaskSucceeded, "t", worker="w1", run="r1", pid=1, result=b"1", occurred_at=ago(58))
    log.sent()

    text = str(explain(log.connection, "t"))

    assert "It was sent again under its id since." in text
    assert "on `mail`, 1 live worker consumes it" in text


def test_one_that_has_put_a_workflow_in_its_place_is_not_lost(log: Log) -> None:
    """The last step of what is in its place has its id, and is sent when the others have ended."""
    log.online()
    log.beat()
    log.sent()
    log.started()
    log.tell(TaskReplaced, "t", worker="w1", run="r1", pid=1)
    pause(2 * GRACE)

    assert find_lost(log.connection, GRACE) == []
    assert "What w1 has put in its place ends under its id" in str(explain(log.connection, "t"))


@pytest.fixture
def log(connection: Connection) -> Log:
    """A log without workers of ours."""
    return Log(connection)
