"""Three workers on one queue: what each of them says of the same task adds up to one truth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest

from tests.conftest import require

from .scene import kinds, row, until, url_of
from .workers import Worker, available, working


@pytest.fixture(scope="module")
def workers(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Worker]]:
    """Three workers with one child each, which share queue and control."""
    require("Redis", available("redis"))
    folder, token, url = tmp_path_factory.mktemp("workers"), f"scene-{uuid4().hex[:8]}", url_of(embedded_database)
    with ExitStack() as stack:
        yield [stack.enter_context(working("redis", url, embedded_database, folder, "-c", "1", token=token)) for _ in range(3)]


def revoked_by_all(workers: list[Worker], task_id: str) -> None:
    """Revoke the task, and wait until each worker has heard of it."""
    workers[0].app.control.revoke(task_id)
    until(lambda: all(f"Tasks flagged as revoked: {task_id}" in worker.said() for worker in workers))


def test_a_task_revoked_while_it_waits_is_revoked_once(workers: list[Worker]) -> None:
    """R09, R60: every worker is asked, one of them held it, and the journal shows one task that was revoked."""
    result = workers[0].send("add", 1, 2, countdown=3)
    until(lambda: any(result.id in worker.said() for worker in workers))

    revoked_by_all(workers, result.id)

    with pytest.raises(Exception, match="revoked"):
        result.get(timeout=60)
    assert (result.state, row(workers[0].dsn, result.id).status) == ("REVOKED", "REVOKED")
    assert "task-started" not in kinds(workers[0].dsn, result.id)


def test_revoking_a_running_task_changes_nothing_until_it_ends(workers: list[Worker]) -> None:
    """Without terminate it runs on, and its state says so, whatever the two others have to say."""
    result = workers[0].send("sleep", 3)
    until(lambda: result.state == "STARTED")

    revoked_by_all(workers, result.id)

    assert result.state == "STARTED"
    assert result.get(timeout=60) == 3
    assert result.state == "SUCCESS"


def test_revoking_a_finished_task_changes_nothing(workers: list[Worker]) -> None:
    """Celery's database backends made it REVOKED."""
    result = workers[0].send("add", 1, 2)
    assert result.get(timeout=60) == 3

    revoked_by_all(workers, result.id)

    assert workers[0].app.AsyncResult(result.id).state == "SUCCESS"


def test_retries_that_hop_between_workers_end_in_success(workers: list[Worker]) -> None:
    """R08: a storm of them, where the start of an attempt is often stored before the retry that caused it."""
    results = [workers[0].send("persist", 3) for _ in range(30)]

    assert [result.get(timeout=120) for result in results] == [3] * 30
    for result in results:
        found = kinds(workers[0].dsn, result.id)
        assert (found.count("task-started"), found.count("task-retried"), found.count("task-succeeded")) == (4, 3, 1)
        assert (result.state, row(workers[0].dsn, result.id).retries) == ("SUCCESS", 3)
