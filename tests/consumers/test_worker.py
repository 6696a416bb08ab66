"""Real prefork workers: what tasks do is in the log, in order, and whoever waits gets the result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import VERSION, chain, chord, group
from celery.exceptions import ChordError, NotRegistered, TaskRevokedError

from celery_journal.projections import TaskResult, verify
from tests.conftest import require

from .scene import recorded, row, stored, until, url_of
from .workers import Worker, available, working

SECRET = "hunter2"

#: Seconds to wait for a result: only a test that fails waits so long.
PATIENCE = 60

NAMES = {"filesystem": "filesystem", "redis": "Redis", "rabbitmq": "RabbitMQ"}

WorkerOf = Callable[[str], Worker]


@pytest.fixture(scope="module")
def worker_of(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerOf]:
    """Gives the one worker on each broker; at the end nothing of them is left running."""
    folder, workers = tmp_path_factory.mktemp("workers"), dict[str, Worker]()
    with ExitStack() as stack:

        def of(broker: str) -> Worker:
            if broker not in workers:
                require(NAMES[broker], available(broker))
                url = url_of(embedded_database, password=SECRET)
                workers[broker] = stack.enter_context(working(broker, url, embedded_database, folder))
            return workers[broker]

        yield of


@pytest.fixture(params=list(NAMES))
def each(request: pytest.FixtureRequest, worker_of: WorkerOf) -> Worker:
    """A worker on each broker in turn."""
    return worker_of(request.param)


@pytest.fixture
def worker(worker_of: WorkerOf) -> Worker:
    """A worker on Redis, or on the filesystem where there is none."""
    return worker_of("redis" if available("redis") else "filesystem")


def by_attempt(dsn: str, task_id: str) -> dict[int, list[str]]:
    """The kinds of a task's events, by attempt: RETRY is stored when the next attempt may have begun."""
    found = defaultdict(list)
    for place in recorded(dsn, task_id):
        if place.event.kind not in {"task-sent", "task-received"}:  # recorded when there is time
            found[place.event.attempt].append(place.event.kind)
    return dict(found)


def failure_of(result: Any) -> Any:
    """The exception that the task ended with."""
    return result.get(timeout=PATIENCE, propagate=False)


# On every broker


def test_a_result_comes_back(each: Worker) -> None:
    """delay().get(), and who ran it on what."""
    result = each.send("add", 2, 3)

    assert result.get(timeout=PATIENCE) == 5

    assert stored(each.dsn, result.id) == ["task-started", "task-succeeded"]
    shown = row(each.dsn, result.id)
    assert (shown.task_name, shown.task_args, shown.queue) == ("scene.add", "[2, 3]", each.app.conf.task_default_queue)
    assert shown.worker is not None
    assert shown.worker.startswith("scene-")
    assert shown.date_started is not None
    assert shown.date_done is not None
    assert shown.pid not in {None, each.process.pid}


def test_a_failure_comes_back(each: Worker) -> None:
    """The exception by its class, with its traceback."""
    result = each.send("fail", "no\0")

    with pytest.raises(ValueError, match="no"):
        result.get(timeout=PATIENCE)

    assert result.state == "FAILURE"
    assert "raise ValueError(text)" in result.traceback
    assert stored(each.dsn, result.id) == ["task-started", "task-failed"]


def test_a_task_that_is_tried_again_succeeds(each: Worker) -> None:
    """Every attempt is in the log, each with its own events."""
    result = each.send("persist", 2)

    assert result.get(timeout=PATIENCE) == 2

    # A retry is stored after its message was sent: the next attempt may have ended on another process by then.
    until(lambda: all("task-retried" in by_attempt(each.dsn, result.id)[attempt] for attempt in (0, 1)), PATIENCE)
    assert by_attempt(each.dsn, result.id) == {
        0: ["task-started", "task-retried"],
        1: ["task-started", "task-retried"],
        2: ["task-started", "task-succeeded"],
    }
    assert row(each.dsn, result.id).retries == 2


def test_a_chain_knows_its_parents(each: Worker) -> None:
    """Each task's result goes to the next, and the row says where it came from."""
    result = chain(each.signature("add", 1, 1), each.signature("add", 10), each.signature("add", 100), app=each.app).apply_async()

    assert result.get(timeout=PATIENCE) == 112

    first, second, third = (row(each.dsn, task_id) for task_id in (result.parent.parent.id, result.parent.id, result.id))
    assert (second.parent_id, third.parent_id) == (first.task_id, second.task_id)
    assert {first.root_id, second.root_id, third.root_id} == {first.task_id}
    assert [child.id for child in each.app.AsyncResult(first.task_id).children] == [second.task_id]


def test_a_group_comes_back_in_its_order(each: Worker) -> None:
    """Ten members on two processes."""
    result = group([each.signature("add", number, number) for number in range(10)], app=each.app).apply_async()

    assert result.get(timeout=PATIENCE) == [2 * number for number in range(10)]

    assert {row(each.dsn, member.id).group_id for member in result.results} == {result.id}


def test_a_chord_gathers_its_parts(each: Worker) -> None:
    """Ten parts, and the body once, with no polling task."""
    header = [each.signature("add", number, number) for number in range(10)]
    result = chord(header, app=each.app)(each.signature("collect"))

    assert result.get(timeout=PATIENCE) == [2 * number for number in range(10)]

    told = stored(each.dsn, result.parent.id)
    assert (told[0], told.count("chord-part-returned"), told[-1]) == ("chord-started", 10, "chord-unlocked")
    assert stored(each.dsn, result.id) == ["task-started", "task-succeeded"]
    with psycopg.connect(each.dsn) as connection:
        polled = connection.execute("select count(*) from celery_journal.event where name = 'celery.chord_unlock'").fetchone()
    assert polled == (0,)


def test_the_name_of_a_periodic_task_comes_along(each: Worker) -> None:
    """As a header, it is carried by every broker."""
    result = each.send("add", 1, 1, headers={"periodic_task_name": "nightly"})
    result.get(timeout=PATIENCE)

    assert row(each.dsn, result.id).periodic_task_name == "nightly"


# Tasks


def test_progress_is_in_the_log(worker: Worker) -> None:
    """Custom states are events too."""
    result = worker.send("progress")

    assert result.get(timeout=PATIENCE) == "done"

    events = [place.event for place in recorded(worker.dsn, result.id) if place.event.kind not in {"task-sent", "task-received"}]
    assert [event.kind for event in events] == ["task-started", "task-progress", "task-progress", "task-succeeded"]
    assert [getattr(event, "result", None) for event in events[1:3]] == [b'{"done": 1}', b'{"done": 2}']


def test_a_result_that_cannot_be_stored_fails_the_task(worker: Worker) -> None:
    """Whoever waits hears why."""
    result = worker.send("unstorable")

    assert type(failure_of(result)).__name__ == "EncodeError"
    assert stored(worker.dsn, result.id) == ["task-started", "task-failed"]


def test_an_unregistered_task_fails(worker: Worker) -> None:
    """The worker does not know it, and the journal does."""
    result = worker.send("unheard_of")

    assert isinstance(failure_of(result), NotRegistered)
    assert row(worker.dsn, result.id).task_name == "scene.unheard_of"


def test_a_task_whose_process_is_killed_fails(worker: Worker) -> None:
    """Stored by the main process, since the one that ran it is gone; the others go on."""
    result = worker.send("die")

    assert isinstance(failure_of(result), WorkerLostError)

    assert stored(worker.dsn, result.id)[-1] == "task-failed"
    assert [worker.send("add", 1, number).get(timeout=PATIENCE) for number in range(4)] == [1, 2, 3, 4]


def test_hidden_arguments_stay_hidden_through_a_retry(worker: Worker) -> None:
    """A retry is a new message, for which Celery makes the repr anew: the caller's still counts."""
    result = worker.send("persist", 1, SECRET, argsrepr="(1, '***')")

    assert result.get(timeout=PATIENCE) == 1

    assert SECRET not in repr(recorded(worker.dsn, result.id))
    assert worker.app.AsyncResult(result.id).args == "(1, '***')"


def test_a_revoke_of_a_finished_task_keeps_its_result(worker: Worker) -> None:
    """However often it is told."""
    result = worker.send("add", 1, 2)
    result.get(timeout=PATIENCE)

    worker.app.control.revoke(result.id, reply=True, timeout=PATIENCE, limit=1)

    worker.app.backend.reload_task_result(result.id)
    assert (worker.app.AsyncResult(result.id).state, worker.app.AsyncResult(result.id).result) == ("SUCCESS", 3)


@pytest.mark.skipif(VERSION < (5, 6), reason="Celery before 5.6 stores it only when the task would have run")
def test_a_revoke_of_a_waiting_task_revokes_it(worker: Worker) -> None:
    """One that is not to run yet never will."""
    result = worker.send("add", 1, 2, countdown=3600)

    worker.app.control.revoke(result.id)

    assert isinstance(failure_of(result), TaskRevokedError)
    assert result.state == "REVOKED"
    assert set(stored(worker.dsn, result.id)) == {"task-revoked"}


# Chords that do not go well


def test_a_chord_with_a_member_whose_result_is_ignored_gets_its_value(worker: Worker) -> None:
    """Backends that read the members' results wait for it for ever."""
    result = chord([worker.signature("add", 1, 1), worker.signature("quiet", "psst", ignore_result=True)], app=worker.app)(
        worker.signature("collect")
    )

    assert result.get(timeout=PATIENCE) == [2, "psst"]
    assert "task-succeeded" not in stored(worker.dsn, result.parent.results[1].id)


def test_a_chord_with_a_failed_member_fails(worker: Worker) -> None:
    """The body does not run, and says whose fault it is."""
    result = chord([worker.signature("add", 1, 1), worker.signature("fail", "no")], app=worker.app)(worker.signature("collect"))

    error = failure_of(result)

    assert isinstance(error, ChordError)
    assert str(error) == f"Dependency {result.parent.results[1].id} raised ValueError('no')"
    assert stored(worker.dsn, result.id) == ["task-failed"]


def test_a_chord_with_a_member_over_its_time_limit_fails(worker: Worker) -> None:
    """Celery tells of it twice while a sibling still runs: the body neither hangs nor fires early."""
    header = [worker.signature("sleep", 600, time_limit=1), worker.signature("sleep", 2)]
    result = chord(header, app=worker.app)(worker.signature("collect"))

    error = failure_of(result)

    late, sibling = result.parent.results
    assert str(error) == f"Dependency {late.id} raised {TimeLimitExceeded(1)!r}"
    assert row(worker.dsn, late.id).status == "FAILURE"
    assert row(worker.dsn, sibling.id).status == "SUCCESS"
    assert stored(worker.dsn, result.id) == ["task-failed"]


def test_a_chord_with_a_member_that_is_terminated_fails(worker: Worker) -> None:
    """revoke(terminate=True) ends the process that runs it."""
    result = chord([worker.signature("sleep", 600), worker.signature("add", 1, 1)], app=worker.app)(worker.signature("collect"))
    sleeping = result.parent.results[0]
    until(lambda: sleeping.state == "STARTED")

    sleeping.revoke(terminate=True)

    assert str(failure_of(result)) == f"Dependency {sleeping.id} raised {TaskRevokedError('terminated')!r}"
    assert sleeping.state == "REVOKED"


def test_a_chord_of_chords_and_chains_keeps_its_order(worker: Worker) -> None:
    """A chord in the header counts by its body, a chain by its last task."""
    inner = chord([worker.signature("add", 2, 2), worker.signature("add", 3, 3)], worker.signature("collect"), app=worker.app)
    line = chain(worker.signature("add", 4, 4), worker.signature("add", 4), app=worker.app)

    result = chord([worker.signature("add", 1, 1), inner, line], app=worker.app)(worker.signature("collect"))

    assert result.get(timeout=PATIENCE) == [2, [4, 6], 12]


# The worker


def test_the_worker_shows_where_its_results_go_without_the_password(worker: Worker) -> None:
    """Banner and log."""
    assert "results:     journal+postgresql://postgres@" in worker.said()
    assert SECRET not in worker.said()


def test_a_process_for_each_task_works(embedded_database: str, tmp_path: Path) -> None:
    """--max-tasks-per-child=1: every task has a new process, which opens a connection of its own and gives it back."""
    url = url_of(embedded_database, application_name="one-each")
    with working("filesystem", url, embedded_database, tmp_path, "--max-tasks-per-child=1") as worker:
        results = [worker.send("pid") for _ in range(4)]

        processes = [result.get(timeout=PATIENCE) for result in results]

        assert len(set(processes)) == 4
        assert [row(worker.dsn, result.id).pid for result in results] == processes


def test_the_views_are_what_the_log_folds_to(worker: Worker) -> None:
    """After all that was done here, by three brokers, a rebuild would change nothing."""
    with psycopg.connect(worker.dsn, autocommit=True) as connection:
        verification = verify(connection)
        statuses = {row.status for row in TaskResult.get_many(connection, _all_ids(connection)).values()}

    assert not verification.differences
    assert "SUCCESS" in statuses


def _all_ids(connection: psycopg.Connection[Any]) -> list[str]:
    return [task_id for (task_id,) in connection.execute("select task_id from celery_journal.task_result")]
