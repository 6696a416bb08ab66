"""The command that has workers revoke tasks."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import VERSION, chord
from click.testing import CliRunner, Result

from celery_journal.consumers.cli.app import journal
from celery_journal.consumers.cli.main import main
from celery_journal.consumers.cli.target import AppTarget
from celery_journal.journal.events import OperatorActed

from .scene import kinds, recorded, row, until, url_of
from .test_cli import as_url
from .workers import Worker, available, working

#: Seconds to wait for a worker: only a test that fails waits so long.
PATIENCE = 60


@pytest.fixture(scope="module")
def worker(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    broker = next(name for name in ("rabbitmq", "redis", "filesystem") if available(name))
    with working(broker, url_of(embedded_database), embedded_database, tmp_path_factory.mktemp("worker")) as worker:
        yield worker


def revoke(worker: Worker, *arguments: str) -> Result:
    """Run the command for the worker's app, where nobody is at a terminal."""
    return CliRunner().invoke(journal.commands["revoke"], list(arguments), obj=AppTarget(worker.app))


def requests(worker: Worker, task_id: str) -> list[dict[str, Any]]:
    """Return what somebody asked to be done with the task."""
    return [place.event.model_dump() for place in recorded(worker.dsn, task_id) if isinstance(place.event, OperatorActed)]


def test_a_task_that_waits_is_revoked_and_the_log_says_who_why(worker: Worker) -> None:
    """B13, R31: by its id."""
    waits = worker.send("add", 1, 1, countdown=3600)
    until(lambda: "task-received" in kinds(worker.dsn, waits.id), PATIENCE)

    ended = revoke(worker, waits.id, "--reason", "wrong prices", "--yes")

    until(lambda: f"Tasks flagged as revoked: {waits.id}" in worker.said(), PATIENCE)
    if VERSION >= (5, 6):  # before, Celery stores it only when the task would have run
        until(lambda: row(worker.dsn, waits.id).status == "REVOKED", PATIENCE)
    assert (ended.exit_code, ended.stdout.splitlines()) == (0, [waits.id, "revoked 1 task"])
    (asked,) = requests(worker, waits.id)
    assert (asked["action"], asked["reason"], "@" in asked["author"]) == ("revoke", "wrong prices", True)


def test_what_runs_is_terminated(worker: Worker) -> None:
    """`--terminate --signal`, of those that query words find; what has ended is left alone."""
    done = worker.send("sleep", 0)
    done.get(timeout=PATIENCE)
    runs = worker.send("sleep", 600)
    until(lambda: "task-started" in kinds(worker.dsn, runs.id), PATIENCE)

    ended = revoke(worker, "--filter", "name:scene.sleep", "--terminate", "--signal", signal.SIGKILL.name, "--json", "--yes")

    until(lambda: row(worker.dsn, runs.id).status == "REVOKED", PATIENCE)
    assert json.loads(ended.stdout) == {"action": "terminate", "dry_run": False, "done": True, "task_ids": [runs.id]}
    assert [asked["action"] for asked in requests(worker, runs.id)] == ["terminate"]


def test_it_asks_first_and_dry_run_only_says(worker: Worker) -> None:
    """Where there is nobody to ask nothing is revoked."""
    waits = worker.send("add", 1, 1, countdown=3600)
    until(lambda: "task-received" in kinds(worker.dsn, waits.id), PATIENCE)

    asked, dry = revoke(worker, waits.id), revoke(worker, waits.id, "--dry-run")

    assert (asked.exit_code, "say --yes or --dry-run" in asked.stderr) == (2, True)
    assert dry.stdout.splitlines() == [waits.id, "would revoke 1 task"]
    assert requests(worker, waits.id) == []
    worker.app.control.revoke(waits.id)


def test_nothing_is_told_where_no_broker_answers(worker: Worker, tmp_path: Path) -> None:
    """Exit code 7, and nothing is recorded of it."""
    nowhere = ["--dsn", as_url(worker.dsn), "revoke", "t", "--broker", "amqp://guest@127.0.0.1:1//", "--yes"]

    ended = CliRunner().invoke(main, nowhere)

    assert (ended.exit_code, "no broker answers" in ended.stderr) == (7, True)
    assert requests(worker, "t") == []


def test_a_group_is_those_of_its_tasks_that_have_not_ended(worker: Worker) -> None:
    """A chord too; its own id would be told to the workers in vain, and look revoked. What has ended, or is not known, is named."""
    done = worker.send("add", 1, 1)
    done.get(timeout=PATIENCE)
    header = [worker.signature("add", 1, number).set(countdown=3600) for number in range(2)]
    waiting = chord(header, app=worker.app)(worker.signature("collect"))
    members = [member.id for member in waiting.parent.results]
    until(lambda: all("task-received" in kinds(worker.dsn, member) for member in members), PATIENCE)

    ended = revoke(worker, waiting.parent.id, done.id, "nobody", "--dry-run")

    assert (ended.exit_code, sorted(ended.stdout.splitlines())) == (0, sorted([*members, "nobody", "would revoke 3 tasks"]))
    assert ended.stderr.splitlines() == [
        f"{done.id} has ended already: SUCCESS",
        "the journal knows no task nobody; the workers are told of it all the same",
    ]
    worker.app.control.revoke(members)
