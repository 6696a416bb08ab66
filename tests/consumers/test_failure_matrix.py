"""The failure matrix: seven things that go wrong on a real prefork worker, in each of which some result backend gives no answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from billiard.exceptions import TimeLimitExceeded
from celery import chord, group
from celery.exceptions import ChordError, NotRegistered

from .scene import kinds, row, until, url_of
from .workers import Worker, available, working

#: Seconds to wait for a result: only a test that fails waits so long.
PATIENCE = 60


@pytest.fixture(scope="module")
def worker(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker whose sweep never comes: what ends here, ends by itself."""
    folder = tmp_path_factory.mktemp("worker")
    options = {"sweep_interval": 3600.0}
    # Not on files where there is a choice: with Celery before 5.7 a pool without an event loop stands still after a hard time limit.
    broker = next(name for name in ("redis", "rabbitmq", "filesystem") if available(name))
    with working(broker, url_of(embedded_database), embedded_database, folder, result_backend_transport_options=options) as worker:
        yield worker


def body_of(worker: Worker, *header: Any) -> Any:
    """Start the chord of these members; return the result of its body."""
    return chord(list(header), app=worker.app)(worker.signature("collect"))


def error_of(result: Any) -> ChordError:
    """The ChordError that the body ends with."""
    error = result.get(timeout=PATIENCE, propagate=False)
    assert result.state == "FAILURE"
    assert isinstance(error, ChordError)
    return error


def test_a_hard_time_limit_in_the_header_fails_the_body(worker: Worker) -> None:
    """Its sibling still runs when Celery tells of it, twice: the body neither hangs nor fires early."""
    result = body_of(worker, worker.signature("sleep", 600, time_limit=1), worker.signature("sleep", 2))

    error = error_of(result)

    late, sibling = result.parent.results
    assert str(error) == f"Dependency {late.id} raised {TimeLimitExceeded(1)!r}"
    assert (row(worker.dsn, late.id).status, row(worker.dsn, sibling.id).status) == ("FAILURE", "SUCCESS")
    assert kinds(worker.dsn, result.id) == ["task-failed"]


def test_an_ignored_result_in_the_header_is_passed_to_the_body(worker: Worker) -> None:
    """The value is in the part: the body has it, and nothing is stored of the member."""
    result = body_of(worker, worker.signature("add", 1, 1), worker.signature("quiet", "psst", ignore_result=True))

    assert result.get(timeout=PATIENCE) == [2, "psst"]
    assert result.state == "SUCCESS"
    assert "task-succeeded" not in kinds(worker.dsn, result.parent.results[1].id)


def test_an_unregistered_task_in_the_header_fails_the_body(worker: Worker) -> None:
    """The worker cannot run it, and does not know that it belongs to a chord."""
    result = body_of(worker, worker.signature("add", 1, 1), worker.signature("unheard_of"))

    error = error_of(result)

    unknown = result.parent.results[1]
    assert str(error) == f"Dependency {unknown.id} raised {NotRegistered('scene.unheard_of')!r}"
    assert isinstance(error.__cause__, (NotRegistered, type(None)))
    assert row(worker.dsn, unknown.id).status == "FAILURE"


def test_a_revoke_of_a_finished_task_keeps_its_success(worker: Worker) -> None:
    """However often it is told."""
    result = worker.send("add", 1, 2)
    result.get(timeout=PATIENCE)

    for _ in range(2):
        worker.app.control.revoke(result.id, reply=True, timeout=PATIENCE, limit=1)

    worker.app.backend.reload_task_result(result.id)
    assert (result.state, result.result) == ("SUCCESS", 3)


def test_a_revoke_of_a_running_task_changes_nothing(worker: Worker) -> None:
    """Without terminate it comes too late: STARTED while it runs, SUCCESS after."""
    result = worker.send("sleep", 2)
    until(lambda: result.state == "STARTED")

    worker.app.control.revoke(result.id, reply=True, timeout=PATIENCE, limit=1)

    seen = [result.state]
    while seen[-1] == "STARTED":
        seen.append(result.state)
        time.sleep(0.02)
    assert set(seen) == {"STARTED", "SUCCESS"}
    assert result.get(timeout=PATIENCE) == 2


def test_a_nul_in_the_traceback_is_stored(worker: Worker) -> None:
    """PostgreSQL's text has no NUL, and the failure comes back all the same, with its traceback."""
    result = worker.send("fail", "a\0b")

    with pytest.raises(ValueError, match="a\0b"):
        result.get(timeout=PATIENCE)

    assert result.state == "FAILURE"
    assert "ValueError: a\\x00b" in result.traceback  # as text in PostgreSQL can have it


def test_a_restored_group_gets_its_results_while_the_original_is_alive(worker: Worker) -> None:
    """Two objects wait for the same ids, and both are woken."""
    original = group([worker.signature("sleep", 1), worker.signature("add", 1, 1)], app=worker.app).apply_async()
    original.save()

    restored = worker.app.GroupResult.restore(original.id, app=worker.app, backend=worker.app.backend)

    assert restored.get(timeout=PATIENCE) == [1, 2]
    assert original.get(timeout=PATIENCE) == [1, 2]
