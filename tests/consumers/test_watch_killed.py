"""A watch that is killed, whatever it does, and started anew: nothing is missing, and at most what was under way is told twice."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from celery_journal.consumers.spool import packed, spool_of
from celery_journal.journal import Connection, Emitter
from celery_journal.journal.events import TaskFailed, TaskSucceeded
from tests.conftest import empty, require

from .commanding import Commands
from .lostscene import Log, ago
from .proxy import Proxy
from .receiving import Receiver, receiving
from .scene import until
from .servers import PGBOUNCER, folder_of_servers, pgbouncer
from .test_cli import as_url
from .test_lasting import line_of, running

#: Sessions that write failures, and how many each.
WRITERS, OF_EACH = 4, 50


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@contextmanager
def watching(receiver: Receiver, dsn: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A watch, which is killed at the end of the block."""
    with running("watch", "--webhook", receiver.url, "--every", "0.2", *more, dsn=dsn) as process:
        yield process


def begun(connection: Connection) -> bool:
    """Return whether the watch has a place in the log."""
    return connection.execute("select from celery_journal.subscription").rowcount == 1


def fail(log: Log, task_id: str) -> None:
    """Have a task fail."""
    log.tell(TaskFailed, task_id, worker="w1", run=f"run of {task_id}", traceback="ValueError: no")


def write(dsn: str, writer: int) -> None:
    """Record failures, each in a transaction of its own, half of which are open for a moment."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        log = Log(connection)
        for number in range(OF_EACH):
            if number % 2:
                with connection.transaction():
                    fail(log, f"{writer}-{number}")
                    connection.execute("select pg_sleep(0.01)")
            else:
                fail(log, f"{writer}-{number}")


def has_told(receiver: Receiver, number: int) -> bool:
    """Return whether so many have arrived, or all."""
    return len(receiver.told) >= number or len({one["id"] for one in receiver.told}) == WRITERS * OF_EACH


def test_each_of_two_hundred_failures_is_told_though_it_is_killed_again_and_again(
    log: Log, receiver: Receiver, embedded_database: str
) -> None:
    """Beside writers, and with what they write while it is dead: in the order of the log, and at most one doubled for each death."""
    dsn, deaths = as_url(embedded_database), 0
    with watching(receiver, dsn, "--on", "failure"):
        until(lambda: begun(log.connection))
    with ThreadPoolExecutor(WRITERS) as writers:
        written = [writers.submit(write, embedded_database, writer) for writer in range(WRITERS)]
        while len({one["id"] for one in receiver.told}) < WRITERS * OF_EACH:
            with watching(receiver, dsn, "--on", "failure"):
                until(partial(has_told, receiver, len(receiver.told) + 30))
            deaths += 1
        for one in written:
            one.result(60)

    recorded = [one.event for one in log.journal.read_all(log.connection)]
    first_told = list(dict.fromkeys(one["id"] for one in receiver.told))
    assert deaths > 3
    assert first_told == [str(event.event_id) for event in recorded]
    assert len(receiver.told) - len(first_told) <= deaths
    with watching(receiver, dsn, "--on", "failure"):
        fail(log, "last")
        until(lambda: receiver.told[-1]["task"]["task_id"] == "last")


@pytest.mark.parametrize("kind", ["failure", "queue-age"])
def test_what_was_under_way_is_told_again_with_its_id(kind: str, log: Log, receiver: Receiver, embedded_database: str) -> None:
    """Killed when the alert had arrived, and nobody had written that down."""
    dsn = as_url(embedded_database)
    with watching(receiver, dsn):
        until(lambda: begun(log.connection))
        receiver.may_answer.clear()
        fail(log, "t1") if kind == "failure" else log.sent("t1", occurred_at=ago(700))
        until(lambda: receiver.told)
    receiver.may_answer.set()
    with watching(receiver, dsn):
        until(lambda: len(receiver.told) == 2)
        fail(log, "t2")
        until(lambda: len(receiver.told) == 3)

    assert receiver.told[0] == receiver.told[1]
    assert [one["kind"] for one in receiver.told] == [kind, kind, "failure"]


def test_what_is_under_way_at_its_end_is_finished(log: Log, receiver: Receiver, embedded_database: str) -> None:
    """By SIGTERM or Ctrl-C: written down, and not told again."""
    dsn = as_url(embedded_database)
    for number, end in enumerate((signal.SIGTERM, signal.SIGINT), 1):
        with watching(receiver, dsn, "--on", "failure") as process:
            line_of(process.stderr)
            receiver.may_answer.clear()
            fail(log, f"t{number}")
            until(lambda: len(receiver.told) == number)  # noqa: B023  at once
            process.send_signal(end)
            receiver.may_answer.set()
            process.communicate(timeout=60)

            assert process.returncode == 0
    with watching(receiver, dsn, "--on", "failure"):
        fail(log, "last")
        until(lambda: receiver.told[-1]["task"]["task_id"] == "last")

    assert [one["task"]["task_id"] for one in receiver.told] == ["t1", "t2", "last"]


def test_an_episode_is_told_once_though_it_lasts_over_deaths(log: Log, receiver: Receiver, embedded_database: str) -> None:
    """Also where it ends while the process is dead; and another one of the same queue is another episode."""
    dsn = as_url(embedded_database)

    def look(events: int) -> None:
        """Watch until so many alerts have come, and then for long enough to tell what should not be told."""
        with watching(receiver, dsn, "--on", "queue-age,failure"):
            until(lambda: begun(log.connection) and len(receiver.of("queue-age")) >= events)
            for _ in range(2):  # between two of them it looks at the queues
                fail(log, marker := f"marker {len(receiver.told)}")
                until(lambda: any(one["task"]["task_id"] == marker for one in receiver.of("failure")))

    look(0)
    log.sent("first", occurred_at=ago(700))
    look(1)
    look(1)
    log.tell(TaskSucceeded, "first")
    look(2)
    look(2)
    log.sent("second", occurred_at=ago(700))
    look(3)

    told = receiver.of("queue-age")
    assert [one["event"] for one in told] == ["began", "resolved", "began"]
    assert told[0]["episode"] == told[1]["episode"] != told[2]["episode"]


def test_the_spool_is_told_once_though_it_is_killed_while_the_database_is_away(
    log: Log, receiver: Receiver, embedded_database: str, spool_folder: Path
) -> None:
    """And begins anew while that is still away: what it has told is on the disk of the machine."""
    proxy = Proxy(embedded_database)
    dsn, port = proxy.dsn, int(conninfo_to_dict(proxy.dsn)["port"] or 0)
    proxy.close()
    spool = spool_of(dsn, "celery_journal", spool_folder)
    spool.put(packed(Emitter().emit(TaskSucceeded, "t")))
    for _ in range(2):
        with watching(receiver, dsn) as process:
            line_of(process.stderr)
            until(lambda: receiver.told and not untold(spool_folder))
    spool.settle(spool.first(), {})
    proxy = Proxy(embedded_database, port)
    with watching(receiver, dsn):
        until(lambda: len(receiver.told) == 2 and begun(log.connection))
        fail(log, "t2")
        until(lambda: receiver.of("failure"))
    proxy.close()

    assert [(one["kind"], one["event"]) for one in receiver.of("spool")] == [("spool", "began"), ("spool", "resolved")]


def untold(folder: Path) -> bool:
    """Return whether something is written down that is to be told of the spool."""
    return any('"untold":[{' in file.read_text() for file in folder.glob("*.watch"))


def test_another_watch_of_the_name_waits_and_takes_over(log: Log, receiver: Receiver, embedded_database: str) -> None:
    """Where the first is killed; a pass of cron's does not wait, and tells nothing."""
    dsn = as_url(embedded_database)
    with receiving() as other, watching(receiver, dsn, "--on", "failure") as first:
        until(lambda: begun(log.connection))
        with watching(other, dsn, "--on", "failure") as second:
            assert "another process has the subscription watch; waiting for its end" in line_of(second.stderr)
            fail(log, "t1")
            until(lambda: receiver.told)
            first.kill()
            fail(log, "t2")
            until(lambda: any(one["task"]["task_id"] == "t2" for one in other.told))

            assert [one["task"]["task_id"] for one in receiver.told] == ["t1"]
            assert Counter(one["task"]["task_id"] for one in other.told) <= Counter(["t1", "t2"])


def test_a_pass_of_cron_does_not_wait_for_another(log: Log, receiver: Receiver, commands: Commands, embedded_database: str) -> None:
    """It says so, with exit code 1."""
    dsn = as_url(embedded_database)
    with watching(receiver, dsn):
        until(lambda: begun(log.connection))

        ended = commands.run("watch", "--once", "--webhook", receiver.url, dsn=dsn)
        of_another_name = commands.run("watch", "--once", "--webhook", receiver.url, "--name", "another", dsn=dsn)

    assert (ended.code, of_another_name.code) == (1, 0)
    assert "another process has the subscription watch at the moment; nothing was told" in ended.err


def test_through_a_pooler_each_is_told_once(commands: Commands, embedded_database: str) -> None:
    """PgBouncer lends another session for each transaction, of which none may keep what is the watch's."""
    require("PgBouncer", PGBOUNCER is not None)
    with (
        psycopg.connect(embedded_database, autocommit=True) as connection,
        folder_of_servers() as folder,
        pgbouncer(embedded_database, folder) as dsn,
        receiving() as receiver,
    ):
        empty(connection)
        log = Log(connection)
        passes = [commands.run("watch", "--once", "--webhook", receiver.url, dsn=dsn)]
        for task_id in ("t1", "t2"):
            fail(log, task_id)
        until(lambda: len(log.journal.read_all(connection)) == 2)
        passes += [commands.run("watch", "--once", "--webhook", receiver.url, dsn=dsn) for _ in range(2)]

    assert [one.code for one in passes] == [0, 0, 0], passes
    assert [one["task"]["task_id"] for one in receiver.told] == ["t1", "t2"]


def test_no_transaction_is_open_while_something_is_delivered(log: Log, receiver: Receiver, embedded_database: str) -> None:
    """All who read the log in its order would wait for it."""
    with watching(receiver, as_url(embedded_database), "--on", "failure"):
        until(lambda: begun(log.connection))
        receiver.may_answer.clear()
        fail(log, "t1")
        until(lambda: receiver.told)
        fail(log, "t2")

        until(lambda: [one.event.stream for one in log.journal.read_all(log.connection)] == ["t1", "t2"])
