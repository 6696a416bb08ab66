"""The command that has workers revoke tasks."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import VERSION, chain, chord
from click.testing import CliRunner, Result

from celery_journal.consumers.cli.app import journal
from celery_journal.consumers.cli.main import main
from celery_journal.consumers.cli.target import AppTarget
from celery_journal.journal import Emitter, Journal
from celery_journal.journal.events import GroupSaved, OperatorActed, TaskRevoked
from celery_journal.journal.workers import WorkerHeartbeat

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
    """Run the command for the worker's app, where nobody is at a terminal; workers on a busy machine have more than a second to answer."""
    patient = () if "--timeout" in arguments else ("--timeout", "3")
    return CliRunner().invoke(journal.commands["revoke"], [*arguments, *patient], obj=AppTarget(worker.app))


def requests(worker: Worker, task_id: str) -> list[dict[str, Any]]:
    """Return what somebody asked to be done with the task."""
    return [place.event.model_dump() for place in recorded(worker.dsn, task_id) if isinstance(place.event, OperatorActed)]


def name_of(worker: Worker) -> str:
    """The name under which it is known."""
    return f"{worker.log.stem}@{socket.gethostname()}"


def test_a_task_that_waits_is_revoked_and_the_log_says_who_why(worker: Worker) -> None:
    """B13, R31: by its id."""
    waits = worker.send("add", 1, 1, countdown=3600)
    until(lambda: "task-received" in kinds(worker.dsn, waits.id), PATIENCE)

    ended = revoke(worker, waits.id, "--reason", "wrong prices", "--yes")

    until(lambda: f"Tasks flagged as revoked: {waits.id}" in worker.said(), PATIENCE)
    if VERSION >= (5, 6):  # before, Celery stores it only when the task would have run
        until(lambda: row(worker.dsn, waits.id).status == "REVOKED", PATIENCE)
    waiting = f"{waits.id} waits on {name_of(worker)}: it will not run"
    assert (ended.exit_code, ended.stdout.splitlines()) == (0, [waits.id, waiting, f"revoked 1 task: 1 worker answered, {name_of(worker)}"])
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
    held = [{"task_id": runs.id, "worker": name_of(worker), "state": "active"}]
    answers = {"workers": {name_of(worker): None}, "silent": [], "held": held, "going_on": {}}
    assert json.loads(ended.stdout) == {"action": "terminate", "dry_run": False, "done": True, "task_ids": [runs.id], **answers}
    assert [asked["action"] for asked in requests(worker, runs.id)] == ["terminate"]


def test_it_asks_first_and_dry_run_only_says(worker: Worker) -> None:
    """Where there is nobody to ask nothing is revoked."""
    waits = worker.send("add", 1, 1, countdown=3600)
    until(lambda: "task-received" in kinds(worker.dsn, waits.id), PATIENCE)

    asked, dry = revoke(worker, waits.id), revoke(worker, waits.id, "--dry-run")

    assert (asked.exit_code, "say --yes or --dry-run" in asked.stderr) == (2, True)
    assert dry.stdout.splitlines()[:2] == [waits.id, "would revoke 1 task"]
    assert requests(worker, waits.id) == []
    worker.app.control.revoke(waits.id)


def test_nothing_is_told_where_no_broker_answers(worker: Worker, tmp_path: Path) -> None:
    """Exit code 7, and nothing is recorded of it."""
    nowhere = ["--dsn", as_url(worker.dsn), "revoke", "t", "--unknown", "--broker", "amqp://guest@127.0.0.1:1//", "--yes"]

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

    ended = revoke(worker, waiting.parent.id, done.id, "nobody", "--unknown", "--dry-run")

    assert (ended.exit_code, sorted(ended.stdout.splitlines()[:4])) == (0, sorted([*members, "nobody", "would revoke 3 tasks"]))
    assert ended.stderr.splitlines() == [
        f"{done.id} has ended already: SUCCESS",
        "the view has no task nobody; the workers are told of it all the same",
    ]
    worker.app.control.revoke(members)


def test_nothing_is_revoked_where_an_id_is_not_known(worker: Worker) -> None:
    """Neither that one nor the others, and nothing of it is recorded: all or nothing. The beginning of an id is one."""
    waits = worker.send("add", 1, 1, countdown=3600)
    until(lambda: "task-received" in kinds(worker.dsn, waits.id), PATIENCE)

    ended = revoke(worker, waits.id[:30], "nope", "--yes")
    begun = revoke(worker, waits.id[:30], "--dry-run")

    assert (ended.exit_code, ended.stdout) == (1, "")
    assert begun.stdout.splitlines()[:2] == [waits.id, "would revoke 1 task"]
    assert isinstance(ended.exception, SystemExit)
    assert "the journal knows no task nope; nothing is revoked" in ended.stderr
    assert [requests(worker, one) for one in (waits.id, "nope")] == [[], []]
    worker.app.control.revoke(waits.id)


def test_an_unknown_task_is_revoked_where_that_is_said(worker: Worker) -> None:
    """--unknown: another journal may have it, or nobody tracks what is sent."""
    ended = revoke(worker, "of-another-journal", "--unknown", "--yes")

    assert (ended.exit_code, ended.stdout.splitlines()) == (
        0,
        ["of-another-journal", f"revoked 1 task: 1 worker answered, {name_of(worker)}"],
    )
    assert [asked["action"] for asked in requests(worker, "of-another-journal")] == ["revoke"]


def test_the_body_of_a_chord_that_waits_is_known(worker: Worker) -> None:
    """Though the log has no fact of it yet."""
    waiting = chord([worker.signature("add", 1, 1).set(countdown=3600)], app=worker.app)(worker.signature("collect"))

    ended = revoke(worker, waiting.id, "--dry-run")

    assert (ended.exit_code, ended.stdout.splitlines()[:2]) == (0, [waiting.id, "would revoke 1 task"])
    worker.app.control.revoke(waiting.parent.results[0].id)


@pytest.mark.parametrize("what", ["worker", "group"])
def test_what_is_no_task_is_not_revoked(what: str, worker: Worker) -> None:
    """The journal knows it, and yet it is as unknown as a mistyped id: there would be a fact about nothing, and `revoked 1 task`."""
    with psycopg.connect(worker.dsn, autocommit=True) as connection:
        Journal().append(connection, Emitter().emit(*((WorkerHeartbeat, "mail@host") if what == "worker" else (GroupSaved, "g"))))

    ended = revoke(worker, "mail@host" if what == "worker" else "g", "--yes")

    assert ended.exit_code == 1
    assert "the journal knows no task" in ended.stderr


def test_no_worker_is_told_of_an_id_that_cannot_be_recorded(worker: Worker) -> None:
    """M75: it is refused before."""
    ended = revoke(worker, "x" * 2501, "--unknown", "--yes")

    assert ended.exit_code != 0
    assert "longer than 2,500 bytes; correct it" in ended.stderr
    assert "xxx" not in worker.said()


def test_what_runs_goes_on_and_that_is_said(worker: Worker) -> None:
    """Without --terminate, as Celery has it."""
    runs = worker.send("sleep", 3)
    until(lambda: "task-started" in kinds(worker.dsn, runs.id), PATIENCE)

    ended = revoke(worker, runs.id, "--yes")

    assert ended.exit_code == 0
    assert f"{runs.id} runs on {name_of(worker)}, which lets it end: --terminate stops it" in ended.stdout
    assert runs.get(timeout=PATIENCE) == 3


def test_where_no_worker_answers_that_is_said(embedded_database: str, tmp_path: Path) -> None:
    """F04: one in a warm shutdown hears nothing any more, and runs its task to the end; the exit code is 1."""
    broker = next(name for name in ("rabbitmq", "redis", "filesystem") if available(name))
    with working(broker, url_of(embedded_database), embedded_database, tmp_path) as leaving:
        runs = leaving.send("sleep", 12)
        until(lambda: "task-started" in kinds(leaving.dsn, runs.id), PATIENCE)
        leaving.process.terminate()
        until(lambda: "Warm shutdown" in leaving.said(), PATIENCE)

        ended = revoke(leaving, runs.id, "--terminate", "--yes", "--timeout", "0.5")

        later = "one that starts later with this journal discards what waits"
        assert f"terminate 1 task: asked for, but 0 workers answered; {later}" in ended.stdout
        assert ended.exit_code == 1
        assert [asked["action"] for asked in requests(leaving, runs.id)] == ["terminate"]
        assert runs.get(timeout=PATIENCE) == 12


def test_all_of_a_chord_is_stopped_from_the_id_of_its_body(worker: Worker) -> None:
    """F04: with --workflow; apply_async() returns no other id."""
    body = chord([worker.signature("sleep", 600 + number) for number in range(2)], app=worker.app)(worker.signature("collect"))
    members = [member.id for member in body.parent.results]
    until(lambda: all("task-started" in kinds(worker.dsn, member) for member in members), PATIENCE)

    ended = revoke(worker, body.id, "--workflow", "--terminate", "--signal", signal.SIGKILL.name, "--yes")

    assert (ended.exit_code, set(ended.stdout.splitlines()) >= {*members, body.id}) == (0, True)
    until(lambda: [row(worker.dsn, member).status for member in members] == ["REVOKED"] * 2, PATIENCE)
    until(lambda: body.state in {"FAILURE", "REVOKED"}, PATIENCE)


def test_all_of_a_chain_is_stopped_from_any_of_its_steps(worker: Worker) -> None:
    """Also what was not sent yet: the step that runs would send the next."""
    last = chain(*(worker.app.signature("scene.sleep", args=(8,), immutable=True) for _ in range(3)), app=worker.app).apply_async()
    first = last.parent.parent
    until(lambda: "task-started" in kinds(worker.dsn, first.id), PATIENCE)

    ended = revoke(worker, last.id, "--workflow", "--yes")

    assert (ended.exit_code, set(ended.stdout.splitlines()) >= {first.id, last.parent.id, last.id}) == (0, True)
    assert first.get(timeout=PATIENCE) == 8
    until(lambda: last.parent.state == "REVOKED", PATIENCE)
    until(lambda: any(isinstance(one.event, TaskRevoked) and one.event.worker for one in recorded(worker.dsn, last.parent.id)), PATIENCE)
    assert "task-sent" not in kinds(worker.dsn, last.id)


def test_what_is_no_part_of_a_canvas_is_not_revoked(worker: Worker) -> None:
    """As an unknown id."""
    ended = revoke(worker, "nothing-of-ours", "--workflow", "--yes")

    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "the journal knows no canvas that nothing-of-ours is a part of; nothing is revoked" in ended.stderr
