"""What a real worker tells of its tasks besides their results: each transition once, whoever could have told it."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from celery import VERSION
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from celery_journal.consumers import install
from celery_journal.projections import verify
from tests.conftest import require

from .proxy import Proxy
from .scene import ask, kinds, recorded, row, stored, until, url_of
from .workers import Worker, available, working

PATIENCE = 60


@pytest.fixture(scope="module")
def worker(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker that broadcasts as well, and an app that sends to it."""
    broker, folder = "redis" if available("redis") else "filesystem", tmp_path_factory.mktemp("running")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELERY_JOURNAL_HEARTBEAT_INTERVAL", "0.5")
        with working(broker, url_of(embedded_database), embedded_database, folder, "-E") as worker:
            install(worker.app)
            yield worker


def facts(worker: Worker, task_id: str, last: str) -> dict[str, Any]:
    """Return the facts of a task by kind, as soon as the last one is there; no kind may be there twice."""
    until(lambda: last in kinds(worker.dsn, task_id), PATIENCE)
    time.sleep(0.05)  # what is told twice would be told by now
    events = [place.event for place in recorded(worker.dsn, task_id)]
    assert max(Counter((event.kind, event.attempt) for event in events).values()) == 1, events
    return {event.kind: event for event in events}


def runs(dsn: str, task_id: str) -> list[dict[str, Any]]:
    """Return the runs of a task as the view has them, by attempt and start."""
    query = "select * from celery_journal.task_attempt where task_id = %s order by attempt, date_started, date_received"
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        return connection.execute(query, (task_id,)).fetchall()


def test_each_transition_is_one_row_whoever_could_tell_it(worker: Worker) -> None:
    """The worker has the backend, the signals and the broadcast, and the sender the signals."""
    result = worker.send("add", 1, 2)
    assert result.get(timeout=PATIENCE) == 3

    told = facts(worker, result.id, "task-received")
    assert {kind: event.source for kind, event in told.items()} == {
        "task-sent": "signal",
        "task-received": "signal",
        "task-started": "backend",
        "task-succeeded": "backend",
    }
    assert len({told[kind].run for kind in ("task-received", "task-started", "task-succeeded")}) == 1
    assert told["task-received"].run
    (run,) = runs(worker.dsn, result.id)
    assert (run["status"], run["worker"], run["pid"]) == ("SUCCESS", result.worker, told["task-started"].pid)
    assert run["date_sent"] <= run["date_received"] <= run["date_started"] <= run["date_done"]
    assert run["queue_wait"].total_seconds() >= 0
    assert run["run_time"].total_seconds() > 0
    assert told["task-started"].pid != told["task-received"].pid  # the child that ran it, and the worker's main process


def test_what_a_task_ignores_is_told_without_its_value(worker: Worker) -> None:
    """F06: how it went is in the journal, what it returned is not."""
    result = worker.send("quiet", "the value", ignore_result=True)  # before Celery 5.7 who sends it without knowing the task has to say so

    told = facts(worker, result.id, "task-ignored")
    assert list(told) == ["task-sent", "task-received", "task-started", "task-ignored"] or set(told) == {
        "task-sent",
        "task-received",
        "task-started",
        "task-ignored",
    }
    assert told["task-ignored"].result is None
    assert told["task-started"].source == "signal"
    assert (row(worker.dsn, result.id).status, worker.app.AsyncResult(result.id).state) == ("IGNORED", "PENDING")  # as Celery has it
    assert (row(worker.dsn, result.id).worker or "").startswith("scene-")  # M07


def test_a_failure_is_told_though_results_are_ignored(worker: Worker) -> None:
    """F06: nobody wants a failure to be nowhere."""
    result = worker.send("fail", "for all to see", ignore_result=True)

    told = facts(worker, result.id, "task-failed")
    assert b"for all to see" in told["task-failed"].result
    assert "ValueError" in told["task-failed"].traceback


def test_a_retry_is_told_though_results_are_ignored(worker: Worker) -> None:
    """F06: with its cause, and each attempt is a row."""
    result = worker.send("persist", 2, ignore_result=True)
    # Before Celery 5.7 a retry does not know that its result is to be ignored.
    end = "IGNORED" if VERSION >= (5, 7) else "SUCCESS"
    until(lambda: f"task-{'ignored' if end == 'IGNORED' else 'succeeded'}" in kinds(worker.dsn, result.id), PATIENCE)
    until(lambda: len([kind for kind in kinds(worker.dsn, result.id) if kind == "task-retried"]) == 2, PATIENCE)

    assert [(run["attempt"], run["status"]) for run in runs(worker.dsn, result.id)] == [(0, "RETRY"), (1, "RETRY"), (2, end)]


def test_each_attempt_keeps_its_traceback(worker: Worker) -> None:
    """M10: the view has the last one's, the runs have every one's."""
    result = worker.send("persist", 1)
    assert result.get(timeout=PATIENCE) == 1
    until(lambda: len(runs(worker.dsn, result.id)) == 2)

    first, second = runs(worker.dsn, result.id)
    assert ("not yet" in first["traceback"], second["traceback"]) == (True, None)
    assert (first["status"], second["status"]) == ("RETRY", "SUCCESS")
    assert first["run"] != second["run"]


def test_a_message_that_is_rejected_is_told(worker: Worker) -> None:
    """By the task that rejects it; the failure that it is in the end is another fact."""
    result = worker.send("reject")

    told = facts(worker, result.id, "task-failed")
    assert told["task-rejected"].source == "signal"
    assert "not for me" in told["task-rejected"].reason
    assert told["task-rejected"].worker == told["task-failed"].worker


def test_a_task_that_a_worker_does_not_know_is_told_with_the_worker(worker: Worker) -> None:
    """Celery's own failure does not say who did not know it."""
    result = worker.send("nobody_knows_this")
    until(lambda: "task-rejected" in kinds(worker.dsn, result.id), PATIENCE)  # it is told when there is time

    told = facts(worker, result.id, "task-failed")
    assert told["task-rejected"].worker.startswith("scene-")
    assert "not registered" in told["task-rejected"].reason
    assert row(worker.dsn, result.id).status == "FAILURE"


def test_a_task_that_ends_without_a_result_is_told(worker: Worker) -> None:
    """It raises Ignore, and has said nothing itself."""
    result = worker.send("ignore")

    assert facts(worker, result.id, "task-ignored")["task-ignored"].source == "signal"


def test_the_state_that_a_task_has_given_itself_stands(worker: Worker) -> None:
    """It raises Ignore after it has stored a state: that is how Celery means it. It has ended all the same."""
    result = worker.send("ignore", "HALF")
    until(lambda: "task-ignored" in kinds(worker.dsn, result.id))

    assert result.state == "HALF"
    assert result.info == {"exc_type": "ValueError", "exc_message": ["by hand"], "exc_module": "builtins"}
    assert row(worker.dsn, result.id).date_done is not None


def test_an_end_that_a_task_has_given_itself_is_not_told_again(worker: Worker) -> None:
    """It stores a failure and raises Ignore."""
    result = worker.send("ignore", "FAILURE")
    until(lambda: result.state == "FAILURE")
    time.sleep(0.3)

    assert stored(worker.dsn, result.id) == ["task-started", "task-failed"]


def test_a_task_that_another_one_replaces_goes_on(worker: Worker) -> None:
    """Under the same id, and it does not end twice."""
    result = worker.send("replace", worker.signature("add", 1, 2))

    assert result.get(timeout=PATIENCE) == 3
    assert "task-ignored" not in kinds(worker.dsn, result.id)


def test_a_time_limit_is_known_before_it_is_reached(worker: Worker) -> None:
    """And who ran into it."""
    result = worker.send("sleep", 600, time_limit=1)
    with pytest.raises(Exception, match=r"TimeLimitExceeded|1"):
        result.get(timeout=PATIENCE)

    time.sleep(0.3)  # Celery says so again when the process is gone
    assert stored(worker.dsn, result.id) == ["task-started", "task-failed"]
    (run,) = runs(worker.dsn, result.id)
    assert (run["time_limit"], run["status"]) == (1, "FAILURE")
    assert run["run_time"].total_seconds() > 0.5  # the limit counts from the acceptance, which is a little earlier


def test_it_is_told_who_asks_to_revoke_and_who_does_it(worker: Worker) -> None:
    """R09: two facts, by two of them."""
    result = worker.send("sleep", 600)
    until(lambda: result.state == "STARTED")
    result.revoke(terminate=True, signal="SIGKILL")
    with pytest.raises(Exception, match="terminated"):
        result.get(timeout=PATIENCE)

    events = {place.event.kind: place.event for place in recorded(worker.dsn, result.id)}
    asked, done = events["operator-acted"], events["task-revoked"]
    assert getattr(asked, "action", None) == "terminate"
    assert "@" in (getattr(asked, "author", None) or "")
    assert getattr(done, "worker", None) == result.worker


def test_an_expired_task_is_revoked_by_whom_it_reaches(worker: Worker) -> None:
    """It is never received, as Celery has it."""
    result = worker.send("add", 1, 2, expires=-10)

    told = facts(worker, result.id, "task-revoked")
    assert told["task-revoked"].worker.startswith("scene-")
    assert told["task-sent"].expires is not None
    assert "task-received" not in told


def test_a_message_that_comes_twice_and_runs_twice_is_two_runs(worker: Worker) -> None:
    """As brokers redeliver: the same task, the same attempt, and everything of it happens again."""
    task_id = str(uuid4())
    for _ in range(2):
        worker.send("add", 1, 2, task_id=task_id)
        until(lambda: worker.app.AsyncResult(task_id).state == "SUCCESS")
    until(lambda: len([kind for kind in kinds(worker.dsn, task_id) if kind == "task-succeeded"]) == 2)
    until(lambda: len([kind for kind in kinds(worker.dsn, task_id) if kind == "task-received"]) == 2)

    both = runs(worker.dsn, task_id)
    assert [(run["attempt"], run["status"]) for run in both] == [(0, "SUCCESS"), (0, "SUCCESS")]
    assert both[0]["run"] != both[1]["run"]
    history = worker.app.AsyncResult(task_id).history()
    assert Counter(fact.kind for fact in history)["task-started"] == 2
    assert len({fact.run for fact in history if fact.run}) == 2


def test_a_redelivered_message_is_said_to_be_one(embedded_database: str, tmp_path: Path) -> None:
    """On RabbitMQ: the worker that has it is killed with its children, and the next one gets it again."""
    require("RabbitMQ", available("rabbitmq"))
    token, url = f"scene-{uuid4().hex[:8]}", url_of(embedded_database)
    with ExitStack() as stack:
        first = stack.enter_context(working("rabbitmq", url, embedded_database, tmp_path, token=token, task_acks_late=True))
        result = first.send("sleep", 3)
        until(lambda: {"task-received", "task-started"} <= set(kinds(first.dsn, result.id)))
        for child in ask_children(first):
            os.kill(child, signal.SIGKILL)
        second = stack.enter_context(working("rabbitmq", url, embedded_database, tmp_path, token=token, task_acks_late=True))
        assert result.get(timeout=PATIENCE) == 3
        until(lambda: len(runs(second.dsn, result.id)) == 2)

        killed, done = runs(second.dsn, result.id)
        assert (killed["status"], done["status"]) == ("STARTED", "SUCCESS")
        assert killed["worker"] != done["worker"]
        received: list[Any] = [place.event for place in recorded(second.dsn, result.id) if place.event.kind == "task-received"]
        redelivered = [event.request["delivery_info"].get("redelivered") for event in received]
        assert redelivered == [False, True]


def ask_children(worker: Worker) -> list[int]:
    """Return the processes of a worker, the main one first."""
    import psutil

    process = psutil.Process(worker.process.pid)
    return [process.pid, *(child.pid for child in process.children(recursive=True))]


def test_every_worker_is_asked_to_revoke_and_it_is_one_fact(embedded_database: str, tmp_path: Path) -> None:
    """Celery tells all of them, and since 5.6 each stores it."""
    broker, token, url = "redis" if available("redis") else "filesystem", f"scene-{uuid4().hex[:8]}", url_of(embedded_database)
    with ExitStack() as stack:
        several = [stack.enter_context(working(broker, url, embedded_database, tmp_path, token=token)) for _ in range(3)]
        task_id = str(uuid4())
        install(several[0].app).control.revoke(task_id)
        until(lambda: sum("flagged as revoked" in one.said() for one in several) == 3)
        time.sleep(1)

        assert sorted(kinds(embedded_database, task_id)) in (
            ["operator-acted"],
            ["operator-acted", "task-revoked"],
        )  # before 5.6 none stores it


def test_a_worker_is_known_while_it_lives(worker: Worker) -> None:
    """Its software, its pool, its queues, and that it is alive."""
    until(lambda: ask(worker.dsn, b"select from celery_journal.worker where worker like 'scene-%%' and processed > 0"))
    name = next(name for (name,) in ask(worker.dsn, b"select worker from celery_journal.worker where alive") if name)
    with psycopg.connect(worker.dsn, row_factory=dict_row) as connection:
        one: Any = connection.execute("select * from celery_journal.worker where worker = %s", (name,)).fetchone()

    assert (one["alive"], one["offline"], one["pool"], one["concurrency"]) == (True, False, "prefork", 2)
    assert one["queues"] == [worker.app.conf.task_default_queue]
    assert one["software"] == "celery"
    assert one["pid"] == worker.process.pid
    assert abs(one["clock_offset"].total_seconds()) < 1


def test_a_worker_that_ends_says_so_and_one_that_is_killed_is_missed(embedded_database: str, tmp_path: Path) -> None:
    """M07: offline at once, or not alive after four heartbeats that did not come."""
    broker, url = "redis" if available("redis") else "filesystem", url_of(embedded_database)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELERY_JOURNAL_HEARTBEAT_INTERVAL", "0.3")
        with working(broker, url, embedded_database, tmp_path) as ended, working(broker, url, embedded_database, tmp_path) as killed:
            for one in (ended, killed):
                until(lambda one=one: state_of(one) == (True, False))  # type: ignore[misc]
            ended.process.terminate()
            ended.process.wait(30)
            assert state_of(ended) == (False, True)
            for process in ask_children(killed):
                os.kill(process, signal.SIGKILL)
            until(lambda: state_of(killed) == (False, False), 20)


def state_of(worker: Worker) -> tuple[bool, bool] | None:
    """Return whether the worker is alive, and whether it said that it went."""
    found = ask(worker.dsn, b"select alive, offline from celery_journal.worker where pid = %s", worker.process.pid)
    return found[0] if found else None


@pytest.mark.parametrize("ahead", [300, -300])
def test_clocks_of_worker_and_sender_may_be_five_minutes_apart(embedded_database: str, tmp_path: Path, ahead: int) -> None:
    """The view is right, the order is right, and it is said that the clocks disagree."""
    broker, url = "redis" if available("redis") else "filesystem", url_of(embedded_database)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCENE_CLOCK", str(ahead))
        patch.setenv("CELERY_JOURNAL_HEARTBEAT_INTERVAL", "0.5")
        with working(broker, url, embedded_database, tmp_path) as worker:
            install(worker.app)
            result = worker.send("persist", 1)
            assert result.get(timeout=PATIENCE) == 1
            until(lambda: len([kind for kind in kinds(worker.dsn, result.id) if kind == "task-received"]) == 2)
            (offset,) = ask(worker.dsn, b"select clock_offset from celery_journal.worker where alive and pid = %s", worker.process.pid)[0]

    assert (result.state, result.retries, result.worker is not None) == ("SUCCESS", 1, True)
    assert abs(offset.total_seconds() - ahead) < 1
    history = result.history()
    first = [fact.kind for fact in history if fact.attempt == 0]
    assert first == ["task-sent", "task-received", "task-started", "task-retried"]
    assert history[-1].kind == "task-succeeded"
    assert {round(fact.clock_offset.total_seconds(), -1) for fact in history if fact.worker} == {ahead}
    assert {fact.clock_offset.total_seconds() for fact in history[:1]} == {0}
    for run in runs(worker.dsn, result.id):
        assert 0 <= run["queue_wait"].total_seconds() < 60
        assert 0 <= run["run_time"].total_seconds() < 60


def test_the_views_are_what_the_log_says(worker: Worker) -> None:
    """After all of the above."""
    with psycopg.connect(worker.dsn, autocommit=True) as connection:
        assert [str(difference) for difference in verify(connection).differences] == []


def test_a_task_that_is_cancelled_when_the_broker_is_lost_is_told_and_runs_again(embedded_database: str, tmp_path: Path) -> None:
    """`worker_cancel_long_running_tasks_on_connection_loss`: the run is given up, and the message comes again."""
    require("RabbitMQ", available("rabbitmq"))
    broker, token = Proxy("host=127.0.0.1 port=5672"), f"scene-{uuid4().hex[:8]}"
    address = conninfo_to_dict(broker.dsn)
    conf: dict[str, Any] = {"task_acks_late": True, "worker_cancel_long_running_tasks_on_connection_loss": True}
    conf["broker_url"] = f"pyamqp://guest:guest@127.0.0.1:{address['port']}//"
    try:
        with working("rabbitmq", url_of(embedded_database), embedded_database, tmp_path, token=token, **conf) as worker:
            result = worker.send("sleep", 3)
            until(lambda: result.state == "STARTED")
            broker.cut()
            until(lambda: "task-retried" in kinds(worker.dsn, result.id), PATIENCE)
            assert result.get(timeout=PATIENCE) == 3
            until(lambda: len(runs(worker.dsn, result.id)) == 2)

            given_up, done = runs(worker.dsn, result.id)
            assert (given_up["status"], done["status"]) == ("RETRY", "SUCCESS")
            cancelled = next(place.event for place in recorded(worker.dsn, result.id) if place.event.kind == "task-retried")
            assert getattr(cancelled, "reason", None) == "cancelled by Celery"
    finally:
        broker.close()
