"""Tasks that no live worker of their queue has registered: real workers tell what they have, and what they do not know ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from celery.exceptions import NotRegistered

from celery_journal.consumers.capture import workers
from celery_journal.consumers.explain import explain
from celery_journal.consumers.status import status_of
from celery_journal.projections import Worker as WorkerRow
from celery_journal.projections import verify

from .scene import kinds, row, until, url_of
from .workers import Worker, available, working

PATIENCE = 60


@pytest.fixture(scope="module")
def worker(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker that has the tasks of the tests, and tells of itself often."""
    broker, folder = "redis" if available("redis") else "filesystem", tmp_path_factory.mktemp("unregistered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELERY_JOURNAL_HEARTBEAT_INTERVAL", "1")
        with working(broker, url_of(embedded_database), embedded_database, folder, "-c", "1") as worker:
            until(lambda: own(worker) is not None)
            yield worker


def own(worker: Worker) -> WorkerRow | None:
    """Return what the journal shows of the worker."""
    with psycopg.connect(worker.dsn, autocommit=True) as connection:
        return next((one for one in WorkerRow.all(connection) if one.pid == worker.process.pid), None)


def told(worker: Worker, task_id: str) -> str:
    """Return the explanation of the task."""
    with psycopg.connect(worker.dsn, autocommit=True) as connection:
        return str(explain(connection, task_id))


def test_a_worker_tells_the_tasks_that_it_has_registered_once(worker: Worker) -> None:
    """Its own and Celery's; the heartbeats after that say nothing of them."""
    until(lambda: len(said(worker)) > 2)
    first, *later = said(worker)

    assert {"scene.add", "celery.chord", "celery.backend_cleanup"} <= set((own(worker) or WorkerRow(worker="")).tasks or ())
    assert "scene.unheard_of" not in ((own(worker) or WorkerRow(worker="")).tasks or ())
    assert (b'"tasks"' in first, [one for one in later if b'"tasks"' in one]) == (True, [])
    with psycopg.connect(worker.dsn, autocommit=True) as connection:
        assert verify(connection).differences == []


def said(worker: Worker) -> list[bytes]:
    """Return what the worker has said of itself, in the order of the log."""
    query = b"select meta from celery_journal.event where pid = %s and kind like 'worker-%%' order by position"
    with psycopg.connect(worker.dsn, autocommit=True) as connection:
        return [bytes(meta) for (meta,) in connection.execute(query, (worker.process.pid,)).fetchall()]


def test_a_task_that_waits_for_workers_that_do_not_know_it_says_so(worker: Worker) -> None:
    """While the worker has its hands full it has not failed yet; `status` counts it, and afterwards it has failed, and says the same."""
    running = [worker.send("sleep", 10) for _ in range(2)]  # one more than it runs is all that it takes from the broker
    until(lambda: running[0].state == "STARTED")
    result = worker.send("unheard_of")
    until(lambda: "task-sent" in kinds(worker.dsn, result.id))

    waiting = told(worker, result.id)
    with psycopg.connect(worker.dsn, autocommit=True) as connection:
        problems = status_of(connection).problems

    queue, name = worker.app.conf.task_default_queue, (own(worker) or WorkerRow(worker="")).worker
    nobody = f"No live worker that consumes `{queue}` has registered the task scene.unheard_of"
    lacks = f"{nobody}, and whichever receives it fails it: {name} has "
    assert f"on `{queue}`, 1 live worker consumes it" in waiting  # that it is busy its next heartbeat says
    assert lacks in waiting
    counted = f"1 task waits that no live worker of the queue has registered: scene.unheard_of in {queue}"
    assert counted in [one.partition(" (")[0] for one in problems]
    with pytest.raises(NotRegistered):
        result.get(timeout=PATIENCE)
    until(lambda: f"It has failed with NotRegistered: scene.unheard_of on {name} at " in told(worker, result.id))  # said after
    assert lacks in told(worker, result.id)


def test_an_attempt_that_the_worker_does_not_know_ends_the_task(worker: Worker) -> None:
    """A retry that reaches one with older code: Celery's failure does not say of which attempt it is."""
    result = worker.send("unheard_of", task_id=str(uuid4()), retries=2)

    with pytest.raises(NotRegistered):
        result.get(timeout=PATIENCE)
    until(lambda: "is not registered" in str(recorded_reasons(worker, result.id)))
    assert (result.state, row(worker.dsn, result.id).retries) == ("FAILURE", 2)


def recorded_reasons(worker: Worker, task_id: str) -> list[Any]:
    """Return the reasons in the log."""
    with psycopg.connect(worker.dsn, autocommit=True) as connection:
        return connection.execute(b"select reason from celery_journal.event where stream = %s", (task_id,)).fetchall()


def test_names_that_are_too_many_are_not_told_in_part(
    embedded_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: Worker
) -> None:
    """Then it is not known what the worker has, and nothing is said of it; the worker is known all the same."""
    monkeypatch.setenv("CELERY_JOURNAL_MAX_PAYLOAD_BYTES", "700")
    broker = "redis" if available("redis") else "filesystem"
    with working(broker, url_of(embedded_database), embedded_database, tmp_path) as many:
        until(lambda: own(many) is not None)
        known = own(many)

    assert known is not None
    assert (known.tasks, known.software) == (None, "celery")
    assert 350 < sum(len(name) for name in (own(worker) or known).tasks or ()) < workers.MOST_NAMES
