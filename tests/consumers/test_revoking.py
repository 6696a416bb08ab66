"""Results of tasks on a real worker: revoking them, and hearing of them as they go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import group
from celery.exceptions import TaskRevokedError

from celery_journal.consumers import install

from .scene import stored, until, url_of, waiting
from .workers import Worker, available, working

#: Seconds to wait for what must come: only a test that fails waits so long.
PATIENCE = 60


@pytest.fixture(scope="module")
def worker(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker, and an app with our results that sends to it."""
    broker, folder = "redis" if available("redis") else "filesystem", tmp_path_factory.mktemp("revoking")
    with working(broker, url_of(embedded_database), embedded_database, folder) as worker:
        install(worker.app)
        yield worker


def sleeping(worker: Worker, **options: Any) -> Any:
    """The result of a task that runs, and would for ten minutes."""
    result = worker.send("sleep", 600, **options)
    until(lambda: result.state == "STARTED")
    return result


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL", None])
def test_a_task_that_runs_is_revoked(worker: Worker, signal: str | None) -> None:
    """R09: terminate ends the process that runs it, by the signal given; TaskRevokedError is what get() raises."""
    result = sleeping(worker)

    result.revoke(terminate=True, signal=signal)

    with pytest.raises(TaskRevokedError):
        result.get(timeout=PATIENCE)
    assert (result.state, result.history()[-1].worker) == ("REVOKED", result.worker)
    assert stored(worker.dsn, result.id)[0] == "task-started"


def test_who_revokes_can_wait_for_the_workers_answer(worker: Worker) -> None:
    """R09: connection, wait and timeout are what Celery hands on; of a task that runs, nothing changes without terminate."""
    result = worker.send("sleep", 3)
    until(lambda: result.state == "STARTED")

    with worker.app.connection_for_write() as connection:
        result.revoke(connection=connection, wait=True, timeout=2)

    assert result.get(timeout=PATIENCE) == 3
    assert result.state == "SUCCESS"


@pytest.mark.parametrize("kind", ["group", "set"])
def test_all_members_are_revoked(worker: Worker, kind: str) -> None:
    """R31, R41: with one call."""
    result = group([worker.signature("sleep", 600), worker.signature("sleep", 601)], app=worker.app).apply_async()
    members = result if kind == "group" else worker.app.ResultSet(list(result))
    until(lambda: {member.state for member in members} == {"STARTED"})

    members.revoke(terminate=True, signal="SIGKILL")

    errors = members.get(timeout=PATIENCE, propagate=False)
    assert [type(error) for error in errors] == [TaskRevokedError] * 2
    assert members.ready()
    assert not members.successful()


def test_tasks_are_revoked_by_their_stamps(worker: Worker) -> None:
    """R65 revoke_by_stamped_headers: the one that runs with such a stamp, and no other."""
    signature = worker.signature("sleep", 600)
    signature.stamp(customer="c7")
    result, other = signature.apply_async(), worker.send("sleep", 3)
    until(lambda: result.state == "STARTED")

    result.revoke_by_stamped_headers({"customer": ["c7"]}, terminate=True, signal="SIGKILL")

    assert isinstance(result.get(timeout=PATIENCE, propagate=False), TaskRevokedError)
    assert (result.state, other.get(timeout=PATIENCE)) == ("REVOKED", 3)


def test_a_waiter_hears_of_every_transition(worker: Worker) -> None:
    """R02 on_message: from STARTED by its progress to SUCCESS, as the worker stores them."""
    messages: list[dict[str, Any]] = []
    result = worker.send("progress", countdown=2)
    with waiting(result.get, on_message=messages.append) as waiter:
        assert waiter.result(PATIENCE) == "done"

    assert [meta["status"] for meta in messages] == ["STARTED", "PROGRESS", "PROGRESS", "SUCCESS"]
    assert {meta["task_id"] for meta in messages} == {result.id}


def test_then_is_called_for_a_task_on_a_worker(worker: Worker) -> None:
    """R65, R66 then: of a result and of a group, though nobody waits for them."""
    heard: list[Any] = []
    one = worker.send("add", 1, 2)
    several = group([worker.signature("add", number, number) for number in range(4)], app=worker.app).apply_async()

    one.then(lambda result: heard.append(result.result))
    several.then(lambda members: heard.append([member.result for member in members]))

    until(lambda: len(heard) == 2)
    assert sorted(heard, key=str) == [3, [0, 2, 4, 6]]


def test_values_come_as_the_tasks_end(worker: Worker) -> None:
    """R33, R42 iterate: the quick one first, wherever it stands."""
    result = group([worker.signature("sleep", 3), worker.signature("add", 1, 1)], app=worker.app).apply_async()

    assert list(result.iterate(timeout=PATIENCE)) == [2, 3]


def test_results_are_forgotten_after_the_last_word(worker: Worker) -> None:
    """R10: of a task that ran on a worker, the log keeps what happened."""
    result = worker.send("add", 1, 2)
    result.get(timeout=PATIENCE)

    result.forget()

    assert (result.state, result.exists()) == ("PENDING", False)
    assert [step.kind for step in result.history()] == ["task-sent", "task-received", "task-started", "task-succeeded", "task-forgotten"]
