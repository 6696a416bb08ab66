"""The id that `chain(...).apply_async()` returns is that of its last step, of which only the step before it knows until it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from billiard.exceptions import WorkerLostError
from celery import chain

from celery_journal.consumers import install
from celery_journal.consumers.explain import Explanation, explain
from celery_journal.consumers.failing import fail_lost
from celery_journal.consumers.lost import find_lost, mark_lost
from celery_journal.journal import Emitter, Journal

from .scene import ask, row, until, url_of
from .workers import Worker, available, working

PATIENCE = 60


@pytest.fixture(scope="module")
def worker(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker, and an app that sends to it."""
    broker = "redis" if available("redis") else "filesystem"
    with working(broker, url_of(embedded_database), embedded_database, tmp_path_factory.mktemp("unsent")) as worker:
        install(worker.app)
        yield worker


def state_of(dsn: str, task_id: str) -> str | None:
    """Return the state of a task, None where the journal has none."""
    return next((state for (state,) in ask(dsn, b"select status from celery_journal.task_result where task_id = %s", task_id)), None)


def explained(worker: Worker, task_id: str) -> Explanation:
    """Return why the task is where it is."""
    with psycopg.connect(worker.dsn, autocommit=True) as connection:
        return explain(connection, task_id)


def test_a_step_that_waits_for_one_that_runs(worker: Worker) -> None:
    """F05: it is known before it is sent, and what it waits for; then it is a task as any other."""
    result = chain(
        worker.signature("sleep", 600), worker.signature("add", 1, 1).set(immutable=True), worker.signature("add", 2, 2).set(immutable=True)
    ).apply_async()
    first = result.parent.parent
    until(lambda: state_of(worker.dsn, first.id) == "STARTED", PATIENCE)

    known, where = explained(worker, result.id), row(worker.dsn, first.id).worker
    assert known.kind == "unsent"
    assert str(known) == f"It is the third step of a chain, not sent yet: step 1 ({first.id}) is running on {where}."
    assert str(explained(worker, result.parent.id)).startswith("It is the second step of a chain, not sent yet: step 1")
    assert result.exists()

    first.revoke(terminate=True)
    until(lambda: state_of(worker.dsn, first.id) == "REVOKED", PATIENCE)

    told = str(explained(worker, result.id))
    assert told.startswith(f"It is the third step of a chain, and will never be sent: step 1 ({first.id}) was revoked or has expired")
    assert result.exists()


def test_a_step_behind_one_that_has_expired(worker: Worker) -> None:
    """F05: it will never be sent, and the expired one is named."""
    result = chain(
        worker.signature("add", 0, 0),
        worker.signature("add", 1, 1).set(immutable=True, expires=-5),
        worker.signature("add", 2, 2).set(immutable=True),
    ).apply_async()
    until(lambda: state_of(worker.dsn, result.parent.id) == "REVOKED", PATIENCE)

    told, second = str(explained(worker, result.id)), result.parent.id

    assert told.startswith(f"It is the third step of a chain, and will never be sent: step 2 ({second}) was revoked or has expired")


def test_an_id_that_only_stands_among_the_arguments_is_not_known(worker: Worker) -> None:
    """It is nobody's step."""
    named = str(uuid4())
    other = worker.send("sleep", 600, task_id=str(uuid4()), headers={"about": named})
    until(lambda: state_of(worker.dsn, other.id) == "STARTED", PATIENCE)

    assert not worker.app.AsyncResult(named).exists()
    assert explained(worker, named).kind == "unknown"
    other.revoke(terminate=True)


def test_a_chain_that_is_cut_off_is_lost_until_somebody_fails_it(worker: Worker) -> None:
    """F05: its id is among what will not go on by itself; marked as lost, and failed, whoever waits for it hears of that."""
    result = chain(worker.signature("add", 1, 1).set(expires=-5), worker.signature("add", 2, 2).set(immutable=True)).apply_async()
    until(lambda: state_of(worker.dsn, result.parent.id) == "REVOKED", PATIENCE)

    with psycopg.connect(worker.dsn, autocommit=True) as connection:
        (found,) = [one for one in find_lost(connection, 0) if one.task_id == result.id]
        assert (found.cause, found.name, found.after, found.marked) == ("never sent", "scene.add", result.parent.id, False)
        assert len(mark_lost(connection, [found], Journal(), Emitter())) == 1
        (marked,) = [one for one in find_lost(connection, 0) if one.task_id == result.id]
        assert (marked.marked, marked.reason) == (True, found.reason)

    told = str(explained(worker, result.id))
    assert told.startswith("It is the second step of a chain, and will never be sent: step 1")
    assert "It is lost: last step of a chain, which is never sent" in told
    assert fail_lost(worker.app.backend, marked)
    with pytest.raises(WorkerLostError, match="was revoked or has expired"):
        result.get(timeout=PATIENCE, propagate=True, follow_parents=False)
