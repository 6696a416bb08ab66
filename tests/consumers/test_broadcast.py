"""Celery's broadcast into the log, with real brokers, real workers, and captures that end as they please."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from celery_journal.consumers.broadcast.capture import AFTERMATH
from celery_journal.consumers.timeline import timeline
from celery_journal.journal import Emitter, Journal, migrate
from celery_journal.journal.events import TaskReceived, TaskStarted, TaskSucceeded
from celery_journal.projections import verify
from tests.conftest import empty, require

from .broadcasting import Foreigner, Station, counted, twice
from .scene import ROOT, ask, kinds, recorded, until, url_of
from .servers import folder_of_servers, postgresql
from .workers import available, working

NewStation = Callable[[str], Station]

#: Real workers begin and end.
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def dsn(embedded_database: str) -> str:
    """The DSN of an empty journal, on one server only: what is tested here is the broker."""
    with psycopg.connect(embedded_database, autocommit=True) as connection:
        empty(connection)
    return embedded_database


@pytest.fixture
def new_station(dsn: str, tmp_path: Path) -> Iterator[NewStation]:
    """Makes an exchange and a queue of the test's own on that broker."""
    made: list[Station] = []

    def make(broker: str) -> Station:
        require(broker, available(broker))
        made.append(Station(broker, dsn, tmp_path))
        return made[-1]

    yield make
    for station in made:
        station.close()


@pytest.fixture
def station(new_station: NewStation) -> Station:
    """The same on RabbitMQ, with the queue there already."""
    station = new_station("rabbitmq")
    station.declare()
    return station


def alike(dsn: str) -> bool:
    """Return whether the views are what the log says."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return not verify(connection).differences


@pytest.mark.parametrize("broker", ["rabbitmq", "redis", "filesystem"])
def test_a_worker_that_knows_nothing_of_us_is_recorded(broker: str, new_station: NewStation, dsn: str, tmp_path: Path) -> None:
    """A task that succeeds, one that fails, one that is retried: their runs, and the worker."""
    station = new_station(broker)
    with (
        working(broker, "disabled://", dsn, tmp_path, "-E", token=station.token, task_send_sent_event=True) as worker,
        station.capturing(),
    ):
        added, failed, persisted = worker.send("add", 1, 2), worker.send("fail", "boom"), worker.send("persist", 1)
        until(lambda: counted(dsn, "task-succeeded") == 2 and counted(dsn, "task-failed") == 1)
        until(lambda: counted(dsn, "worker-heartbeat") and counted(dsn, "task-sent") == 4)

    # In no certain order: who sends a task says so when it is sent.
    assert sorted(kinds(dsn, added.id)) == ["task-received", "task-sent", "task-started", "task-succeeded"]
    assert sorted(kinds(dsn, failed.id)) == ["task-failed", "task-received", "task-sent", "task-started"]
    retried = [(one.event.kind, one.event.attempt) for one in recorded(dsn, persisted.id)]
    life = ["task-received", "task-started"]
    assert sorted(retried) == sorted(
        [("task-sent", 0), ("task-sent", 1), *[(kind, n) for kind in life for n in (0, 1)], ("task-retried", 0), ("task-succeeded", 1)]
    )
    rows = ask(dsn, b"select task_name, status, result, args_json #>> '{}' from celery_journal.task_result where task_id = %s", added.id)
    assert rows == [("scene.add", "SUCCESS", b'"3"', "(1, 2)")]
    ((status, error, traceback),) = ask(
        dsn, b"select status, result_json ->> 'exc_type', traceback from celery_journal.task_result where task_id = %s", failed.id
    )
    assert (status, error) == ("FAILURE", "ValueError")
    assert "raise ValueError(text)" in traceback
    runs = ask(
        dsn, b"select attempt, status, worker is not null from celery_journal.task_attempt where task_id = %s order by 1", persisted.id
    )
    assert runs == [(0, "RETRY", True), (1, "SUCCESS", True)]
    assert ask(dsn, b"select source, software, freq is not null from celery_journal.worker") == [("broadcast", "py-celery", True)]
    assert not twice(dsn)
    assert alike(dsn)


def test_nothing_is_lost_while_no_capture_runs(station: Station, dsn: str) -> None:
    """RabbitMQ keeps what was broadcast."""
    station.publish(Foreigner().lives(700), group=24)

    station.capture(once=True).run()

    assert (counted(dsn), station.waiting()) == (2100, 0)


def test_folders_keep_what_is_broadcast_while_no_capture_runs(new_station: NewStation, dsn: str) -> None:
    """The filesystem transport has queues as well."""
    station = new_station("filesystem")
    station.declare()
    station.publish(Foreigner().lives(30), group=7)

    station.capture(once=True).run()

    assert counted(dsn) == 90


def test_two_captures_on_redis_record_each_fact_once(new_station: NewStation, dsn: str) -> None:
    """Both are told everything."""
    station = new_station("redis")
    with station.capturing(), station.capturing():
        time.sleep(0.5)
        station.publish(Foreigner().lives(200), group=10)
        until(lambda: counted(dsn) == 600)

    assert counted(dsn) == 600
    assert not twice(dsn)


def test_a_capture_says_that_it_is_there_and_that_it_goes(station: Station, dsn: str) -> None:
    """Without one, the silence of those whom only the broadcast tells of means nothing."""
    query = b"select alive, offline from celery_journal.worker where software = 'celery-journal capture'"
    process = station.start()
    try:
        until(lambda: ask(dsn, query) == [(True, False)])
    finally:
        process.terminate()
        process.communicate(timeout=30)

    assert ask(dsn, query) == [(False, True)]


def test_two_captures_share_the_work(station: Station, dsn: str) -> None:
    """Each has a part of it, and what follows what the other has received is of the same run."""
    with station.capturing(batch=200) as first, station.capturing(batch=200) as second:
        until(lambda: first.recorder.shared and second.recorder.shared)
        for _ in range(10):
            station.publish(Foreigner(f"celery@{_}").lives(50))
            time.sleep(0.1)
        until(lambda: counted(dsn) == 1500)

    assert min(first.recorder.tally.events, second.recorder.tally.events) > 300
    assert ask(dsn, b"select distinct kind, count(*) from celery_journal.event group by kind order by 1") == [
        ("task-received", 500),
        ("task-started", 500),
        ("task-succeeded", 500),
    ]
    assert ask(dsn, b"select count(*) from celery_journal.task_attempt where status = 'SUCCESS' and date_started is not null") == [(500,)]
    assert not twice(dsn)


def test_attempts_are_right_when_two_captures_share_them(station: Station, dsn: str) -> None:
    """Every other event goes to the other capture, which learns the attempt from the log."""
    worker = Foreigner()
    events: list[dict[str, Any]] = []
    for number in range(20):
        for attempt in range(3):
            events += [worker.received(f"t{number}", retries=attempt), worker.says("task-started", f"t{number}")]
            events.append(worker.says("task-retried" if attempt < 2 else "task-succeeded", f"t{number}"))
    with station.capturing() as first, station.capturing() as second:
        until(lambda: first.recorder.shared and second.recorder.shared)
        station.publish(events)
        until(lambda: counted(dsn) == len(events))

    assert min(first.recorder.tally.events, second.recorder.tally.events) > 20
    found = ask(dsn, b"select attempt, status, count(*) from celery_journal.task_attempt group by 1, 2 order by 1")
    assert found == [(0, "RETRY", 20), (1, "RETRY", 20), (2, "SUCCESS", 20)]
    assert not twice(dsn)


def test_a_capture_that_is_killed_is_followed_by_another(station: Station, dsn: str) -> None:
    """In the middle of a flood, again and again: each fact is recorded, and recorded once."""
    station.publish(Foreigner().lives(4000))
    for _ in range(3):
        before = counted(dsn)
        process = station.start("--batch", "200")
        until(lambda: counted(dsn) > before or process.poll() is not None)  # noqa: B023
        process.kill()
        process.communicate()
        assert counted(dsn) < 12_000

    station.capture(once=True).run()

    assert counted(dsn) == 12_000
    assert not twice(dsn)
    assert alike(dsn)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_a_capture_when_all_is_recorded(number: signal.Signals, station: Station, dsn: str) -> None:
    """What it has read is recorded and acknowledged, and its exit code is 0."""
    process = station.start("--linger", "2")
    until(lambda: consumers(station))
    station.publish(Foreigner().lives(20), group=10)
    until(lambda: station.waiting() == 0)
    recorded_before = counted(dsn)

    process.send_signal(number)
    said, _ = process.communicate(timeout=20)

    assert (process.returncode, recorded_before) == (0, 0), said
    assert (counted(dsn), station.waiting()) == (60, 0)
    assert "60 events, 60 recorded" in said


def consumers(station: Station) -> int:
    """Return how many consume from the queue."""
    with station.app.connection_for_read() as connection:
        return int(connection.default_channel.queue_declare(station.queue, passive=True).consumer_count)


def record_first_hand(dsn: str, task: str) -> None:
    """Record the life of a task as its worker does that journals."""
    emitter = Emitter()
    facts = [emitter.emit(kind, task, worker="celery@foreign") for kind in (TaskReceived, TaskStarted, TaskSucceeded)]
    with psycopg.connect(dsn, autocommit=True) as connection:
        Journal().append(connection, *facts)


def test_a_capture_outlives_the_database(new_station: NewStation) -> None:
    """It says so, takes no more than it holds, and goes on where it was."""
    station = new_station("rabbitmq")
    with folder_of_servers() as folder, postgresql(folder) as server:
        station.dsn = server.dsn
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            migrate(connection)
        with station.capturing(prefetch=100, batch=50) as capture:
            station.publish(Foreigner("celery@before").lives(100))
            until(lambda: capture.recorder.tally.events > 100)
            with server.stopped():
                station.publish(Foreigner("celery@while").lives(400))
                until(lambda: capture.trouble and capture.backlog)
                held = len(capture.broker.arrived) + capture.recorder.waiting
                time.sleep(2)
            until(lambda: capture.recorder.tally.events == 1500)
        assert counted(server.dsn) == 1500
        assert not twice(server.dsn)
    assert held <= 150
    assert [text.partition(":")[0] for text in station.said] == ["waiting for the database", "the database is back"]


def test_after_an_outage_those_who_journal_have_the_time_to_say_what_they_have_kept(new_station: NewStation) -> None:
    """They look every second whether the database is back, and have their facts in a spool: also those of just after."""
    station = new_station("rabbitmq")
    with folder_of_servers() as folder, postgresql(folder) as server:
        station.dsn = server.dsn
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            migrate(connection)
        with station.capturing() as capture:
            with server.stopped():
                station.publish(Foreigner().life("while"))
                until(lambda: capture.trouble)
            for task, wait in (("while", 1.5), ("after", 1.0)):
                if task == "after":
                    until(lambda: not capture.trouble)
                    station.publish(Foreigner().life(task))
                time.sleep(wait)
                record_first_hand(server.dsn, task)
            until(lambda: capture.recorder.tally.events == 6)
        told = {task: kinds(server.dsn, task) for task in ("while", "after")}
    assert told == {task: ["task-received", "task-started", "task-succeeded", *3 * ["task-witnessed"]] for task in told}


def test_a_capture_that_begins_just_after_an_outage_gives_them_that_time_too(new_station: NewStation) -> None:
    """It was killed while the database was away, say, and has not seen the outage itself."""
    station = new_station("rabbitmq")
    with folder_of_servers() as folder, postgresql(folder) as server:
        station.dsn = server.dsn
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            migrate(connection)
        with server.stopped():
            pass
        with station.capturing() as capture:
            station.publish(Foreigner().life("t"))
            time.sleep(1.5)
            record_first_hand(server.dsn, "t")
            until(lambda: capture.recorder.tally.events == 3)
        assert kinds(server.dsn, "t") == ["task-received", "task-started", "task-succeeded", *3 * ["task-witnessed"]]


def test_a_stop_after_an_outage_does_not_wait_for_them(new_station: NewStation) -> None:
    """What is read is recorded."""
    station = new_station("rabbitmq")
    with folder_of_servers() as folder, postgresql(folder) as server:
        station.dsn = server.dsn
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            migrate(connection)
        with station.capturing() as capture:
            with server.stopped():
                station.publish(Foreigner().life("t"))
                until(lambda: capture.trouble)
            until(lambda: capture._connection)
            began = time.monotonic()
        took = time.monotonic() - began
        assert kinds(server.dsn, "t") == ["task-received", "task-started", "task-succeeded"]
    assert took < AFTERMATH - 0.5


def test_a_stop_while_the_database_is_away_leaves_the_events_to_the_broker(new_station: NewStation) -> None:
    """It ends all the same, and who comes next has them."""
    station = new_station("rabbitmq")
    with folder_of_servers() as folder, postgresql(folder) as server:
        station.dsn = server.dsn
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            migrate(connection)
        with station.capturing() as capture, server.stopped():
            station.publish(Foreigner().lives(10))
            until(lambda: capture.trouble)
            capture.stop()
            capture.stop()
            until(lambda: not consumers(station))

        station.capture(once=True).run()

        assert counted(server.dsn) == 30
    assert station.said[1] == "the database is away; what is not recorded stays with the broker"


def test_a_capture_outlives_its_connection_to_the_broker(station: Station, dsn: str) -> None:
    """RabbitMQ closes it, for maintenance or by a firewall, in the middle of a flood."""
    with station.capturing(batch=100, prefetch=200) as capture:
        station.publish(Foreigner("celery@before").lives(500))
        until(lambda: capture.recorder.tally.events > 100)
        capture.broker._connection.connection.transport.sock.shutdown(2)
        station.publish(Foreigner("celery@after").lives(500))
        until(lambda: counted(dsn) == 3000)

    assert station.said[-1] == "the broker is back"
    assert not twice(dsn)


def test_a_worker_that_journals_is_told_once(new_station: NewStation, dsn: str, tmp_path: Path) -> None:
    """Its own word is the fact, and the broadcast confirms each transition."""
    station = new_station("rabbitmq")
    with (
        working("rabbitmq", url_of(dsn), dsn, tmp_path, "-E", token=station.token, task_send_sent_event=True) as worker,
        station.capturing(linger=0.5),
    ):
        results = [worker.send("add", n, n) for n in range(20)] + [worker.send("persist", 1)]
        for result in results:
            result.get(timeout=60)
        until(lambda: counted(dsn, "task-witnessed") >= 21 * 4)
        time.sleep(1)

    assert ask(dsn, b"select count(*) from celery_journal.event where source = 'broadcast' and kind <> 'task-witnessed'") == [(0,)]
    assert counted(dsn, "task-witnessed") == 20 * 4 + 8
    assert not twice(dsn)
    history = timeline(recorded(dsn, results[0].id))
    assert [transition.kind for transition in history] == ["task-sent", "task-received", "task-started", "task-succeeded"]
    assert all("broadcast" in transition.witnesses for transition in history)


def test_a_task_that_was_redelivered_and_ran_twice_is_two_runs(new_station: NewStation, dsn: str, tmp_path: Path) -> None:
    """The worker dies with it, and the message, not acknowledged, comes again."""
    station = new_station("rabbitmq")
    conf: dict[str, Any] = {"task_acks_late": True, "token": station.token}
    with station.capturing(), working("rabbitmq", "disabled://", dsn, tmp_path, "-E", **conf) as first:
        result = first.send("sleep", 3)
        until(lambda: "task-started" in kinds(dsn, result.id))
        for child in psutil.Process(first.process.pid).children(recursive=True):
            child.kill()
        first.process.kill()
        with working("rabbitmq", "disabled://", dsn, tmp_path, "-E", **conf):
            until(lambda: "task-succeeded" in kinds(dsn, result.id))

    assert kinds(dsn, result.id) == ["task-received", "task-started", "task-received", "task-started", "task-succeeded"]
    runs = ask(dsn, b"select attempt, status, run from celery_journal.task_attempt where task_id = %s order by date_received", result.id)
    assert [(attempt, status) for attempt, status, _ in runs] == [(0, "STARTED"), (0, "SUCCESS")]
    assert len({run for _, _, run in runs}) == 2


def test_a_flood_with_the_database_away_stays_in_memory_and_is_caught_up_with(new_station: NewStation) -> None:
    """A few seconds of what `python -m tests.chaos.flood` does for a minute."""
    station = new_station("rabbitmq")
    station.declare()
    with folder_of_servers() as folder, postgresql(folder) as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            migrate(connection)
        process = station.start(dsn=server.dsn)
        try:
            until(lambda: consumers(station))
            peak = 0
            for second in range(6):
                station.publish(Foreigner(f"celery@{second}").lives(600))
                if second == 2:
                    server.stop()
                if second == 4:
                    server.start()
                peak = max(peak, psutil.Process(process.pid).memory_info().rss)
            until(lambda: counted(server.dsn) == 6 * 1800)
        finally:
            process.terminate()
            said, _ = process.communicate(timeout=30)
        assert process.returncode == 0, said
        assert peak < 200 << 20
        assert not twice(server.dsn)


def run(station: Station, *arguments: str, dsn: str | None = None, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; return what it said."""
    process = station.start(*arguments, dsn=dsn)
    said, _ = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, said)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        pytest.param(["--once", "--broker", "amqp://guest:guest@127.0.0.1:1//"], 7, "no broker answers", id="no broker"),
        pytest.param(["--broker", "amqp://guest:wrong@127.0.0.1:5672//"], 7, "refuses the login", id="wrong password"),
        pytest.param(["--broker", "carrier-pigeon://coop"], 2, "cannot be used", id="no such transport"),
        pytest.param(["--quorum"], 2, "of another type", id="another type of queue"),
        pytest.param(["--batch", "0"], 2, "Invalid value", id="no batch"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(arguments: list[str], code: int, sentence: str, station: Station) -> None:
    """With an exit code, and without a traceback or a password."""
    ended = run(station, *arguments)

    assert ended.returncode == code, ended.stdout
    assert sentence in ended.stdout
    assert "Traceback" not in ended.stdout
    assert "wrong" not in ended.stdout


@pytest.mark.parametrize(
    ("name", "code"), [pytest.param("port=1", 3, id="unreachable"), pytest.param("dbname=nowhere", 5, id="no such database")]
)
def test_a_database_that_cannot_be_used_is_said_in_a_sentence(name: str, code: int, station: Station, dsn: str) -> None:
    """One that is not there at all is no matter of waiting; with --once one that does not answer is neither."""
    key, value = name.split("=")

    ended = run(station, "--once", dsn=psycopg.conninfo.make_conninfo(dsn, **{key: value}))

    assert ended.returncode == code, ended.stdout
    assert "Traceback" not in ended.stdout


def test_a_capture_says_what_its_broker_guarantees_and_how_it_goes(station: Station) -> None:
    """In lines, where there is no terminal."""
    station.publish(Foreigner().lives(10))

    ended = run(station, "--once")

    assert "keeps every event until it is recorded" in ended.stdout
    assert "30 events, 30 recorded, 0 witnesses" in ended.stdout


@pytest.mark.parametrize("broker", ["redis", "filesystem"])
def test_the_app_says_which_broker_it_is(broker: str, new_station: NewStation, dsn: str) -> None:
    """As a command of Celery's, with everything that the app has set, and what that broker guarantees is said."""
    station = new_station(broker)
    conf = {**station.conf, "result_backend": url_of(dsn)}
    command = [sys.executable, "-m", "celery", "-A", "tests.consumers.tasks", "journal", "capture", "--queue", station.queue]
    environment = {**os.environ, "SCENE_CONF": json.dumps(conf)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        until(lambda: counted(dsn) or station.publish(Foreigner().lives(1)) or time.sleep(0.3))  # type: ignore[func-returns-value]
    finally:
        process.terminate()
        rest, _ = process.communicate(timeout=30)

    assert {"redis": "Redis keeps nothing", "filesystem": "the queue is a folder"}[broker] in said
    assert process.returncode == 0, said + rest
    assert counted(dsn)  # on Redis not of the first task, if that was told before anybody heard
