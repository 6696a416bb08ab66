"""The commands about periodic tasks: what beat knows, run now."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.schedules import crontab
from click.testing import CliRunner, Result

from celery_journal.consumers.cli.app import journal
from celery_journal.consumers.cli.main import main
from celery_journal.consumers.cli.target import AppTarget
from celery_journal.journal.events import OperatorActed

from .scene import ROOT, new_app, recorded, row, url_of
from .test_cli import as_url
from .workers import Worker, available, working

#: Seconds to wait for a worker: only a test that fails waits so long.
PATIENCE = 60

SCHEDULE: dict[str, Any] = {
    "nightly report": {"task": "scene.add", "schedule": crontab(minute="0", hour="4"), "args": (1, 2), "options": {"priority": 3}},
    "quick": {"task": "scene.quiet", "schedule": 30.0, "options": {"queue": "elsewhere", "headers": {"periodic_task_name": "its own"}}},
}


@pytest.fixture(scope="module")
def worker(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    broker = next(name for name in ("rabbitmq", "redis", "filesystem") if available(name))
    with working(broker, url_of(embedded_database), embedded_database, tmp_path_factory.mktemp("worker")) as worker:
        worker.app.conf.beat_schedule = SCHEDULE
        yield worker


def periodic(app: Any, *arguments: str) -> Result:
    """Run the command for the app, where nobody is at a terminal."""
    return CliRunner().invoke(journal.commands["periodic"], list(arguments), obj=AppTarget(app))


def requests(worker: Worker, task_id: str) -> list[tuple[str | None, str | None]]:
    """Return what somebody did about the task, and why."""
    events = [place.event for place in recorded(worker.dsn, task_id)]
    return [(event.action, event.reason) for event in events if isinstance(event, OperatorActed)]


def test_a_periodic_task_is_run_now(worker: Worker) -> None:
    """F21, M04: with the arguments that beat sends it with; the view has its name, and the log who ran it and why."""
    ended = periodic(worker.app, "run", "nightly report", "--reason", "the disk was full", "--yes")

    assert ended.exit_code == 0, ended.output
    name, task, task_id = ended.stdout.strip().split("\t")
    assert (name, task, worker.app.AsyncResult(task_id).get(timeout=PATIENCE)) == ("nightly report", "scene.add", 3)
    assert row(worker.dsn, task_id).periodic_task_name == "nightly report"
    assert requests(worker, task_id) == [("run", "the disk was full")]


def test_its_options_are_those_of_beat(worker: Worker) -> None:
    """Its queue, and a name that its headers give it."""
    ended = periodic(worker.app, "run", "quick", "--yes", "--json")

    (sent,) = json.loads(ended.stdout)
    worker.app.backend.database.close()
    found = row(worker.dsn, sent["task_id"])
    assert (sent["name"], sent["queue"], found.queue, found.periodic_task_name) == ("quick", "elsewhere", "elsewhere", "its own")


def test_beat_keeps_its_schedule_to_itself(worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file in which Celery's scheduler remembers when it last sent what is neither read nor made."""
    monkeypatch.chdir(tmp_path)

    listed = periodic(worker.app, "list", "--jsonl")

    entries = {entry["name"]: entry for entry in map(json.loads, listed.stdout.splitlines())}
    assert entries["nightly report"]["schedule"] == "crontab: 0 4 * * * (m/h/dM/MY/d)"
    assert set(SCHEDULE) <= set(entries)
    assert list(tmp_path.iterdir()) == []


def test_it_asks_first_and_dry_run_only_says(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is nobody to ask nothing is sent."""
    monkeypatch.setattr(type(worker.app), "send_task", lambda *_args, **_kwargs: pytest.fail("it was sent"))

    asked, dry = periodic(worker.app, "run", "quick"), periodic(worker.app, "run", "quick", "--dry-run")

    assert (asked.exit_code, "say --yes or --dry-run" in asked.stderr) == (2, True)
    assert (dry.exit_code, dry.stdout) == (0, "quick\tscene.quiet\twould be sent\n")


def test_a_name_that_beat_does_not_know_is_told_with_those_that_it_does(worker: Worker) -> None:
    """And of several nothing is sent."""
    ended = periodic(worker.app, "run", "quick", "nightly", "--yes")

    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "beat knows no periodic task nightly; there are:" in ended.stderr
    assert "nightly report, quick" in ended.stderr


def test_a_scheduler_that_cannot_be_loaded_is_one_sentence(embedded_database: str) -> None:
    """With the setting that names it."""
    app = new_app(url_of(embedded_database), beat_scheduler="no.such:Scheduler")

    ended = periodic(app, "list")

    assert (ended.exit_code, "the app's beat_scheduler, no.such:Scheduler, cannot be used" in ended.stderr) == (2, True)


def test_without_an_app_there_are_no_periodic_tasks(embedded_database: str) -> None:
    """And it is said how to name one."""
    ended = CliRunner().invoke(main, ["--dsn", as_url(embedded_database), "periodic", "run", "quick"])

    assert (ended.exit_code, "celery -A proj journal periodic" in ended.stderr) == (2, True)


def test_no_broker_is_one_sentence(embedded_database: str) -> None:
    """Exit code 7, and nothing was sent."""
    app = new_app(url_of(embedded_database), broker_url="amqp://guest@127.0.0.1:1//", beat_schedule=SCHEDULE)

    ended = periodic(app, "run", "quick", "--yes")

    assert (ended.exit_code, ended.stdout, "no broker answers" in ended.stderr) == (7, "", True)


def test_the_tables_of_django_celery_beat_are_asked(embedded_database: str, tmp_path: Path) -> None:
    """F21: those that are enabled, and beat's own count of runs stays as it is."""
    command = [sys.executable, "-m", "tests.consumers.djangobeat", str(tmp_path / "beat.db"), embedded_database]

    ran = subprocess.run(
        [*command, "run", "nightly report", "--yes", "--json"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )

    assert ran.returncode == 0, ran.stderr
    (sent,) = json.loads(ran.stdout)
    found = row(embedded_database, sent["task_id"])
    assert (sent["name"], sent["task"], sent["queue"]) == ("nightly report", "scene.add", "reports")
    assert (found.task_name, found.queue, found.periodic_task_name) == ("scene.add", "reports", "nightly report")
