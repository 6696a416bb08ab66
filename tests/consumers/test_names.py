"""Names that people know: of tasks that put another one in their place, and of those that fail before they were ever sent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from celery import chain, chord, group

from celery_journal.consumers.chronicle import Chronicle
from celery_journal.consumers.dossier import Dossier
from celery_journal.consumers.replaced import first_names, under_first_names
from celery_journal.consumers.search import parse, split
from celery_journal.consumers.stats import Tally, snapshot, tallies
from celery_journal.journal import Connection
from celery_journal.journal.events import ChordFailed, ChordStarted, TaskFailed, TaskForgotten, TaskLost, TaskReplaced, TaskSucceeded
from celery_journal.projections import Q, TaskResult, verify

from .commanding import Commands
from .lostscene import Log
from .scene import kinds, row, until, url_of
from .test_cli import as_url
from .workers import Worker, available, working

PATIENCE = 60


@pytest.fixture(scope="module")
def worker(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker, and an app that sends to it."""
    broker = "redis" if available("redis") else "filesystem"
    with working(broker, url_of(embedded_database), embedded_database, tmp_path_factory.mktemp("names")) as worker:
        yield worker


@pytest.fixture
def looking(embedded_database: str) -> Iterator[Connection]:
    """A connection to the worker's journal."""
    with psycopg.connect(embedded_database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def log(connection: Connection) -> Log:
    """A log without workers of ours."""
    return Log(connection)


def found(connection: Connection, words: str) -> set[str]:
    """Return the ids of the tasks that the words find."""
    condition = parse(split(words), datetime.now(UTC))
    return {row["task_id"] for row in TaskResult.objects.using(connection).filter(condition).values("task_id")}


def stand_in(worker: Worker, kind: str) -> Any:
    """Return what takes the place of a task."""
    add = worker.signature("add", 1, 1)
    return {
        "task": add,
        "group": group([add, add.clone()], app=worker.app),
        "chain": chain(add, worker.signature("add", 1), app=worker.app),
        "chord": chord([add, add.clone()], worker.signature("collect"), app=worker.app),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "other"), [("task", "scene.add"), ("group", "celery.accumulate"), ("chain", "scene.add"), ("chord", "scene.collect")]
)
def test_a_task_that_puts_another_in_its_place_is_found_by_each_of_its_names(
    worker: Worker, looking: Connection, commands: Commands, kind: str, other: str
) -> None:
    """F09: and shown under the one that it was sent by, for nobody has ever called celery.accumulate."""
    result = worker.send("replace", dict(stand_in(worker, kind)))
    result.get(timeout=PATIENCE)
    until(lambda: "task-replaced" in kinds(worker.dsn, result.id), PATIENCE)
    until(lambda: kinds(worker.dsn, result.id).count("task-sent") == 2, PATIENCE)

    for word in ("name:scene.replace", f"name:{other}", "name:scene.repl*", "name:nobody,scene.replace", "replace", "*.replace"):
        assert found(looking, f"{word} id:{result.id}") == {result.id}, word
    assert found(looking, f"-name:scene.replace id:{result.id}") == set()
    assert found(looking, f"name:scene.fail id:{result.id}") == set()
    assert row(worker.dsn, result.id).task_name == other
    dsn = as_url(worker.dsn)
    assert commands.run("list", f"id:{result.id}", dsn=dsn).out.split("\t")[2] == "scene.replace"
    assert '"task_name": "scene.replace"' in commands.run("list", "--json", f"id:{result.id}", dsn=dsn).out
    assert "scene.replace" in commands.run("graph", result.id, dsn=dsn).out
    dossier = Dossier.of(looking, result.id)
    assert dossier.task is not None
    assert dossier.task.task_name == "scene.replace"
    condition = Q(task_id=result.id)
    (tally,) = tallies(looking, condition)
    assert (tally.name, tally.succeeded) == ("scene.replace", 1)
    assert "scene.replace" in {share.key for share in snapshot(looking, 3600).shares["name"]}
    planned = commands.run("replay", "--filter", f"name:scene.replace id:{result.id}", "--dry-run", "--broker", "memory://", dsn=dsn)
    assert "1 task" in planned.said, planned.said


def test_a_history_says_what_was_sent_where_that_was_not_always_the_same(log: Log) -> None:
    """By its name and its arguments, which are nowhere else."""
    log.sent(name="app.workflow", args=b"[7]", kwargs=b"{}")
    log.started(name="app.workflow")
    log.tell(TaskReplaced, "t", worker="w1", run="r1", name="app.workflow")
    log.sent(name="celery.accumulate", args=b"[1]", kwargs=b'{"index": 0}')
    log.sent("once", name="app.send", args=b"[7]", kwargs=b"{}")

    sendings = [line.remark for line in Chronicle.of(log.connection, "t").lines if line.transition.kind == "task-sent"]
    (once,) = (line.remark for line in Chronicle.of(log.connection, "once").lines)

    assert sendings == ["app.workflow(7) to mail", "celery.accumulate(1, index=0) to mail"]
    assert once == "to mail"


def test_one_that_puts_others_in_its_place_again_and_again_has_its_first_name(log: Log) -> None:
    """And is found by all of them, each once."""
    for number, name in enumerate(["app.first", "app.second", "app.third"]):
        log.sent(name=name)
        log.tell(TaskReplaced, "t", worker="w1", run=f"r{number}", name=name)
    log.sent(name="app.last")
    log.sent("other", name="app.second")

    assert first_names(log.connection, ["t", "other", "nobody"]) == {"t": "app.first"}
    assert [task.task_name for task in under_first_names(log.connection, TaskResult.objects.using(log.connection).order_by("task_id"))] == [
        "app.second",
        "app.first",
    ]
    assert (
        found(log.connection, "name:app.first")
        == found(log.connection, "name:app.third")
        == found(log.connection, "name:app.last")
        == {"t"}
    )
    assert found(log.connection, "name:app.second") == {"t", "other"}
    replaced = TaskResult.objects.using(log.connection)
    assert [task["replaced_name"] for task in replaced.order_by("replaced_name").values("replaced_name")] == ["app.first", None]
    assert replaced.filter(replaced_name__isnull=True).get().task_id == "other"
    assert replaced.filter(replaced_name__in=["app.third"]).get().task_id == "t"


def test_a_task_of_which_nothing_is_left_in_the_views_is_not_found(log: Log) -> None:
    """By none of its names."""
    log.sent(name="app.first")
    log.tell(TaskReplaced, "t", worker="w1", run="r1", name="app.first")
    log.tell(TaskForgotten, "t")

    assert found(log.connection, "name:app.first") == set()


# What fails before it was ever sent


def test_the_body_of_a_chord_that_fails_has_its_name(worker: Worker, looking: Connection) -> None:
    """Nothing but its failure was ever stored, and the chord knows what its body is."""
    result = chord([worker.signature("fail", "no"), worker.signature("add", 1, 1)], worker.signature("collect"), app=worker.app)()
    result.get(timeout=PATIENCE, propagate=False)

    assert row(worker.dsn, result.id).task_name == "scene.collect"
    assert found(looking, f"name:scene.collect state:FAILURE id:{result.id}") == {result.id}
    assert rates(looking, "scene.collect", result.id) == [(1, 0, 1, None)]
    assert verify(looking).differences == []


@pytest.mark.parametrize("kind", ["group", "chain", "chord"])
def test_what_a_body_consists_of_has_its_names(worker: Worker, looking: Connection, kind: str) -> None:
    """A group, a chain or another chord: whoever waits for one of its tasks finds that."""
    body = {
        "group": group([worker.signature("collect"), worker.signature("mirror")], app=worker.app),
        "chain": chain(worker.signature("collect"), worker.signature("mirror"), app=worker.app),
        "chord": chord([worker.signature("collect")], worker.signature("mirror"), app=worker.app),
    }[kind]
    result = chord([worker.signature("fail", "no"), worker.signature("add", 1, 1)], body, app=worker.app)()
    ids = [member.id for member in result.results] if kind == "group" else [result.id]
    until(lambda: all(row(worker.dsn, task_id).status == "FAILURE" for task_id in ids if kinds(worker.dsn, task_id)), PATIENCE)
    until(lambda: all(kinds(worker.dsn, task_id) for task_id in ids), PATIENCE)

    names = ["scene.collect", "scene.mirror"] if kind == "group" else ["scene.mirror"]
    assert [row(worker.dsn, task_id).task_name for task_id in ids] == names


@pytest.mark.parametrize("kind", ["task", "group", "chord"])
def test_a_step_that_failed_with_the_one_before_it_is_in_no_rate(worker: Worker, looking: Connection, kind: str) -> None:
    """It failed under its own name, and never ran."""
    behind = {
        "task": worker.signature("collect"),
        "group": group([worker.signature("collect"), worker.signature("collect")], app=worker.app),
        "chord": chord([worker.signature("add", 1)], worker.signature("collect"), app=worker.app),
    }[kind]
    result = chain(worker.signature("fail", "first"), behind, app=worker.app).apply_async()
    ids = [member.id for member in result.results] if kind == "group" else [result.id]
    until(lambda: all("task-failed" in kinds(worker.dsn, task_id) for task_id in ids), PATIENCE)

    for task_id in ids:
        assert rates(looking, "scene.collect", task_id) == [(1, 0, 1, None)]


def test_what_was_never_sent_does_not_end_in_top(log: Log) -> None:
    """Neither as ended nor as failed: that is what workers do."""
    log.tell(TaskFailed, "ran", name="app.send", worker="w1", run="r1", source="backend")
    log.tell(TaskFailed, "step", name="app.send", root_id="ran", source="backend")
    log.tell(ChordStarted, "g", size=1, task_id="body")
    log.tell(TaskFailed, "body", name="app.send", source="backend")
    log.tell(ChordFailed, "g", task_id="body")
    log.tell(TaskLost, "cut off", name="app.send", reason="the step before it was revoked")
    log.tell(TaskFailed, "cut off", name="app.send", source="backend")

    (share,) = snapshot(log.connection, 3600).shares["name"]
    (tally,) = tallies(log.connection, Q())

    assert (share.ended, share.failed) == (1, 1)
    assert (tally.tasks, tally.failed, tally.never_sent, tally.failure_rate) == (4, 1, 3, 1.0)


def test_a_failure_of_what_may_have_run_counts(log: Log) -> None:
    """What was imported, what a worker of others ran, and what was sent, as far as is known."""
    log.tell(TaskFailed, "imported", name="app.send", root_id="root", source="redis")
    log.tell(TaskFailed, "broadcast", name="app.send", root_id="root", source="broadcast")
    log.tell(TaskFailed, "by hand", name="app.send", source="backend")
    log.sent("sent", root_id="root")
    log.tell(TaskFailed, "sent", name="app.send", root_id="root", source="backend")
    log.tell(TaskSucceeded, "done", name="app.send", root_id="root", source="backend")

    (tally,) = tallies(log.connection, Q())

    assert (tally.failed, tally.succeeded, tally.never_sent) == (4, 1, 0)
    assert snapshot(log.connection, 3600).everything.failed == 4


def rates(connection: Connection, name: str, task_id: str) -> list[tuple[int, int, int, float | None]]:
    """Return how many tasks there are, how many of them failed and were never sent, and the rate of failures, of that name alone."""
    found: list[Tally] = tallies(connection, parse([f"name:{name}", f"id:{task_id}"], datetime.now(UTC)))
    return [(tally.tasks, tally.failed, tally.never_sent, tally.failure_rate) for tally in found]
