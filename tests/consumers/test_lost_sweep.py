"""What is lost is marked by whatever process of ours lives long, one of all at a time (F02)."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from celery_journal.consumers.lost import find_lost
from celery_journal.consumers.options import Options
from celery_journal.consumers.sweeping import LostSweep, sweeping
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import (
    ChordPartReturned,
    ChordSizeSet,
    ChordStarted,
    Event,
    TaskReceived,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
)
from tests.conftest import empty, require

from .lostscene import GRACE, Log, pause
from .scene import ask, kinds, row, until, url_of
from .test_cli import as_url, command
from .workers import Worker, available, working

QUICK = {"sweep_interval": 0.2, "lost_grace": 1.0, "heartbeat_interval": 0.2}


@pytest.fixture
def log(connection: Connection) -> Log:
    return Log(connection)


def begin(log: Log) -> None:
    log.online()
    log.started()
    log.offline()
    pause()


def sweep_of(dsn: str, **options: Any) -> LostSweep:
    def run(work: Any) -> Any:
        with psycopg.connect(dsn, autocommit=True) as connection:
            return work(connection)

    return LostSweep(run, Journal(), Emitter(), **{"interval": 0.01, "grace": GRACE, **options})


def turned(sweep: LostSweep) -> bool:
    sweep.try_turn()
    return True


def test_one_of_all_processes_searches_once_in_a_while(log: Log, dsn: str) -> None:
    """F02: whoever has the turn; the others, and the same one again, wait for the next."""
    begin(log)
    first, second = sweep_of(dsn, interval=1.0), sweep_of(dsn, interval=1.0)

    first.try_turn()
    log.started(run="r2")
    log.offline()
    pause()
    second.try_turn()
    first.try_turn()
    assert kinds(dsn, "t").count("task-lost") == 1

    until(lambda: turned(second) and kinds(dsn, "t").count("task-lost") == 2, 10)


def test_a_sweep_marks_and_does_not_fail(log: Log, dsn: str) -> None:
    """The state stays as it is."""
    begin(log)

    sweep_of(dsn).try_turn()

    assert row(dsn, "t").status == "STARTED"
    assert kinds(dsn, "t") == ["task-started", "task-lost"]


def test_after_an_outage_silence_means_nothing_for_a_while(log: Log, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """F02: nobody could be heard. The sweep does not raise, and rests for as long as a worker has to be silent."""
    begin(log)
    away = True

    def run(work: Any) -> Any:
        if away:
            raise psycopg.OperationalError("the database is away\nand more")
        with psycopg.connect(dsn, autocommit=True) as connection:
            return work(connection)

    sweep = LostSweep(run, Journal(), Emitter(), interval=0.01, grace=0.5)
    sweep.try_turn()
    away = False
    sweep.try_turn()
    assert kinds(dsn, "t") == ["task-started"]
    assert "the search for lost tasks must wait: the database is away" in caplog.messages

    until(lambda: turned(sweep) and "task-lost" in kinds(dsn, "t"), 10)


@pytest.mark.parametrize("on", [True, False])
def test_a_process_without_a_sweep_of_its_own_has_one_for_a_block(log: Log, dsn: str, on: bool) -> None:
    """The capture, for one; the option mark_lost turns it off."""
    begin(log)
    options = Options(sweep_interval=0.05, lost_grace=GRACE, mark_lost=on)

    with sweeping(lambda: psycopg.connect(dsn, autocommit=True), Journal(), options):
        if on:
            until(lambda: "task-lost" in kinds(dsn, "t"), 10)
        else:
            pause(0.5)

    assert ("task-lost" in kinds(dsn, "t")) is on
    assert ask(dsn, b"select distinct source from celery_journal.event where kind = 'task-lost'") == ([("sweep",)] if on else [])


# With real workers


def kill(worker: Worker) -> None:
    """Kill a worker with all its processes, as a machine that fails does."""
    everyone = [*psutil.Process(worker.process.pid).children(recursive=True), psutil.Process(worker.process.pid)]
    for process in everyone:
        with suppress(psutil.NoSuchProcess):
            os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs(everyone, 10)


@pytest.fixture
def url(dsn: str) -> str:
    return url_of(dsn)


def test_what_a_killed_worker_had_is_marked_by_another_and_can_be_failed(url: str, dsn: str, tmp_path: Path) -> None:
    """F02: started and killed with -9: the other worker's sweep says so; then --fail ends it, and the waiting get() hears of it."""
    conf: dict[str, Any] = {"result_backend_transport_options": QUICK, "task_time_limit": 900}
    with working("filesystem", url, dsn, tmp_path, **conf) as doomed, working("filesystem", url, dsn, tmp_path, **conf) as other:
        result = doomed.send("sleep", 600)
        until(lambda: result.state == "STARTED")
        kill(doomed)
        until(lambda: "task-lost" in kinds(dsn, result.id), 30)
        name = row(dsn, result.id).worker
        explained = command("explain", result.id, dsn=as_url(dsn))

        failed = command("lost", "--fail", "--yes", "--grace", "1", dsn=as_url(dsn))

        assert ", with a time limit of 15 min" in explained.stdout  # the worker's own
        assert f". {name} has not been heard of since" in explained.stdout
        assert f"\n  It is lost: started by {name}, which has not been heard of since" in explained.stdout
        assert "failed 1 task" in failed.stdout, failed.stdout + failed.stderr
        assert result.state == "FAILURE"
        assert "WorkerLostError" in repr(result.result)
        assert other.send("add", 2, 2).get(timeout=60) == 4
        assert find_lost_now(dsn) == []


def test_a_task_that_is_redelivered_is_not_lost(url: str, dsn: str, tmp_path: Path) -> None:
    """F02: RabbitMQ gives what a killed worker had to the other, which runs it; nobody has marked it meanwhile."""
    require("RabbitMQ", available("rabbitmq"))
    token = f"scene-redelivered-{os.urandom(3).hex()}"
    conf: dict[str, Any] = {
        "result_backend_transport_options": {**QUICK, "lost_grace": 5.0},
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
    }
    with (
        working("rabbitmq", url, dsn, tmp_path, token=token, **conf) as one,
        working("rabbitmq", url, dsn, tmp_path, token=token, **conf) as other,
    ):
        result = one.send("sleep", 4)
        until(lambda: result.state == "STARTED")
        first = row(dsn, result.id).worker
        kill(one if f"{one.log.stem}@" in str(first) else other)

        assert result.get(timeout=60) == 4
        assert row(dsn, result.id).worker != first
        assert "task-lost" not in kinds(dsn, result.id)
        runs = ask(dsn, b"select worker, status from celery_journal.task_attempt where task_id = %s order by date_started", result.id)
        assert [status for _, status in runs] == ["STARTED", "SUCCESS"]


def find_lost_now(dsn: str) -> list[str | None]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return [one.task_id for one in find_lost(connection, 1.0)]


def test_the_search_reads_what_has_not_ended_and_not_the_rest(dsn: str) -> None:
    """F02: by the index of open tasks, and of those that have ended only the latest, however many there ever were."""
    emitter, journal = Emitter(), Journal()
    events: list[Event] = []
    for number in range(5000):
        fields: dict[str, Any] = {"queue": f"q{number % 4}", "name": "add"}
        ran: dict[str, Any] = {"worker": "w1", "run": "r", **fields}
        events += [emitter.emit(TaskSent, f"t{number}", **fields), emitter.emit(TaskReceived, f"t{number}", **ran)]
        events.append(emitter.emit(TaskStarted, f"t{number}", **ran))  # what was only received is given back, and not lost
        if number % 20:
            events.append(emitter.emit(TaskSucceeded, f"t{number}", worker="w1", run="r", **fields))
    with psycopg.connect(dsn, autocommit=True) as connection:
        journal.append(connection, *events)
        Log(connection).online(freq=0.01)
        connection.execute("analyze")
    pause()
    # A session of its own, because one counts what it did before.
    with psycopg.connect(dsn) as connection:
        found = find_lost(connection, GRACE)
        scanned = connection.execute(
            "select relname, seq_tup_read from pg_stat_xact_user_tables where schemaname = 'celery_journal' and seq_tup_read > 100"
        ).fetchall()
        (fetched,) = connection.execute(
            "select idx_tup_fetch from pg_stat_xact_user_tables where relname = 'task_result_row'"
        ).fetchone() or (0,)
    with psycopg.connect(dsn, autocommit=True) as connection:
        empty(connection)

    assert len(found) == 250
    assert scanned == []
    assert fetched < 4000


def test_chords_by_thousands_are_searched_by_their_index(dsn: str) -> None:
    """F02: those that have ended are not looked at."""
    emitter, journal = Emitter(), Journal()
    events: list[Event] = []
    for number in range(1000):
        events += [
            emitter.emit(ChordStarted, f"c{number}", result=b"[]", size=1, task_id=f"b{number}"),
            emitter.emit(ChordSizeSet, f"c{number}", size=1),
        ]
    events += [emitter.emit(ChordPartReturned, "c7", task_id="m", group_index=0, state="SUCCESS")]
    with psycopg.connect(dsn, autocommit=True) as connection:
        journal.append(connection, *events)
        connection.execute("analyze")
        pause()
        found = find_lost(connection, GRACE)
        empty(connection)

    assert [one.task_id for one in found] == ["b7"]
