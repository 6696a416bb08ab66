"""The database goes away, or is not the one it should be: what is retried, and what the user reads."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured
from psycopg.conninfo import make_conninfo

from celery_journal.consumers.backend import JournalUnavailable
from celery_journal.journal import Connections, DatabaseUnreachable, migrate, wanted_version

from .proxy import Proxy
from .scene import ROOT, ask, delivered, kinds, new_app, start, until, url_of

NewApp = Callable[..., Celery]

SECRET = "s3cret"


def sentence(error: BaseException) -> bool:
    """Whether the text is one line, and without the password."""
    return "\n" not in str(error).strip() and SECRET not in str(error)


def terminate(dsn: str, name: str) -> int:
    """End every session of that name on the server, as its administrator does; return how many there were."""
    return len(ask(dsn, b"select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s", name))


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


# A database that cannot be used


@pytest.mark.parametrize("call", ["store", "get", "part of a chord"])
def test_an_unreachable_server_is_reported_when_the_budget_is_spent(unused_port: int, call: str) -> None:
    """One sentence that says where nobody answers; without a spool, also to whoever writes."""
    options = {"retry_budget": 0.3, "spool": ""}
    app = new_app(f"journal+postgresql://me:{SECRET}@127.0.0.1:{unused_port}/db", result_backend_transport_options=options)
    calls = {
        "store": lambda: app.backend.mark_as_done("a", 1),
        "get": lambda: app.AsyncResult("a").state,
        "part of a chord": lambda: app.backend.on_chord_part_return(delivered(app, group_id="g"), "SUCCESS", 1),
    }

    with pytest.raises(JournalUnavailable, match=f"^no PostgreSQL answers at me@127.0.0.1:{unused_port}/db; ") as failed:
        calls[call]()

    assert sentence(failed.value)
    assert app.backend.exception_safe_to_retry(failed.value)


def test_a_server_that_comes_back_within_the_budget_is_used(dsn: str, make_app: NewApp, unused_port: int) -> None:
    """Nothing is lost, and nobody need try again."""
    app = make_app(
        url_of(make_conninfo(dsn, host="127.0.0.1", port=unused_port), sslmode="disable"),
        result_backend_transport_options={"retry_budget": 60},
    )
    with ThreadPoolExecutor(1) as pool:
        storing = pool.submit(app.backend.mark_as_done, "a", 1)
        assert not storing.done()

        proxy = Proxy(dsn, port=unused_port)
        try:
            storing.result()
        finally:
            proxy.close()

    assert kinds(dsn, "a") == ["task-succeeded"]


def test_a_missing_database_is_named_with_the_command_that_makes_it(server: str) -> None:
    """Trying again would not help."""
    app = new_app(url_of(make_conninfo(server, dbname="nowhere")))

    with pytest.raises(ImproperlyConfigured, match="no database of that name; run: createdb nowhere") as failed:
        app.backend.mark_as_done("a", 1)

    assert sentence(failed.value)


def test_a_database_without_a_journal_names_the_command(empty_database: str) -> None:
    """A server of one's own is migrated on purpose, never by a backend."""
    app = new_app(url_of(empty_database))

    with pytest.raises(ImproperlyConfigured, match="no schema celery_journal; run: celery-journal migrate") as failed:
        app.backend.mark_as_done("a", 1)

    assert sentence(failed.value)
    assert ask(empty_database, b"select count(*) from pg_namespace where nspname = 'celery_journal'") == [(0,)]
    app.backend.database.close()


def test_a_journal_that_is_migrated_meanwhile_is_used(empty_database: str, make_app: NewApp) -> None:
    """The worker need not be restarted."""
    app = make_app(url_of(empty_database))
    with pytest.raises(ImproperlyConfigured):
        app.backend.mark_as_done("a", 1)

    with psycopg.connect(empty_database, autocommit=True) as connection:
        migrate(connection)

    app.backend.mark_as_done("a", 1)
    assert app.AsyncResult("a").state == "SUCCESS"
    app.backend.database.close()


@pytest.mark.parametrize(
    ("by", "command"),
    [
        pytest.param(-1, "celery-journal migrate", id="older"),
        pytest.param(+1, "pip install --upgrade celery-journal", id="newer"),
    ],
)
def test_another_version_of_the_schema_names_the_command(empty_database: str, by: int, command: str) -> None:
    """An older one is migrated, for a newer one the package is upgraded."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        migrate(connection)
        connection.execute("update celery_journal.migration set version = version + %s", (by * 1000,))
    app = new_app(url_of(empty_database))

    with pytest.raises(ImproperlyConfigured, match=f"is at version {wanted_version() + by * 1000} .* run: {command}") as failed:
        app.backend.mark_as_done("a", 1)

    assert sentence(failed.value)
    app.backend.database.close()


# Connections that break


def test_sessions_ended_between_calls_are_replaced(dsn: str, make_app: NewApp) -> None:
    """The next store succeeds by itself, and records its event once."""
    app = make_app(url_of(dsn, application_name="between"))
    for turn in range(3):
        app.backend.mark_as_done(f"t{turn}", turn)
        assert terminate(dsn, "between") > 0

    app.backend.mark_as_done("a", 1)

    assert [kinds(dsn, task_id) for task_id in ("t0", "t1", "t2", "a")] == [["task-succeeded"]] * 4
    assert app.AsyncResult("a").result == 1


def test_sessions_ended_between_the_parts_of_a_chord_are_replaced(dsn: str, make_app: NewApp) -> None:
    """Part and claim are retried together, and the part counts once."""
    app = make_app(url_of(dsn, application_name="parts"))
    app.backend.apply_chord(("g", [app.AsyncResult("m0"), app.AsyncResult("m1")]), app.signature("scene.sum", task_id="body"))
    app.backend.set_chord_size("g", 2)
    terminate(dsn, "parts")

    app.backend.on_chord_part_return(delivered(app, task_id="m0", group_id="g", group_index=0), "SUCCESS", 1)

    assert kinds(dsn, "g") == ["chord-started", "chord-size-set", "chord-part-returned"]
    assert app.backend.sweep_chords() == []


def test_sessions_ended_during_calls_lose_and_double_nothing(dsn: str, make_app: NewApp) -> None:
    """Four threads store while every session is ended again and again."""
    app = make_app(url_of(dsn, application_name="during"), result_backend_transport_options={"retry_budget": 120})

    def recorded_events() -> int:
        ((events,),) = ask(dsn, b"select count(*) from celery_journal.event")
        return int(events)

    def work(thread: int) -> None:
        for turn in range(40):
            app.backend.store_result(f"{thread}-{turn}", turn, "SUCCESS", request=delivered(app, task_id=f"{thread}-{turn}"))

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work, thread) for thread in range(4)]
        ended = 0
        for events in range(10, 150, 20):
            until(lambda: recorded_events() >= events)  # noqa: B023
            ended += terminate(dsn, "during")
        for worker in workers:
            worker.result()

    assert ended > 0
    assert ask(dsn, b"select count(*), count(distinct stream) from celery_journal.event") == [(160, 160)]


def test_connections_cut_during_calls_lose_and_double_nothing(dsn: str, make_app: NewApp, proxy: Proxy) -> None:
    """A connection that breaks after the commit, before its answer: the event is recorded once all the same."""
    app = make_app(url_of(proxy.dsn), result_backend_transport_options={"retry_budget": 120})

    def work(thread: int) -> None:
        for turn in range(40):
            app.backend.store_result(f"{thread}-{turn}", turn, "SUCCESS", request=delivered(app, task_id=f"{thread}-{turn}"))

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work, thread) for thread in range(4)]
        while not all(worker.done() for worker in workers):
            done = sum(worker.done() for worker in workers)
            before = proxy.round_trips
            until(lambda: proxy.round_trips > before + 15 or sum(worker.done() for worker in workers) > done)  # noqa: B023
            proxy.cut()
        for worker in workers:
            worker.result()

    assert ask(dsn, b"select count(*), count(distinct stream) from celery_journal.event") == [(160, 160)]


def test_a_pool_that_met_an_outage_is_not_waited_for(dsn: str) -> None:
    """It would pause longer and longer between its own tries, and so miss the end of the outage by minutes."""
    proxy = Proxy(dsn)
    connections = Connections(proxy.dsn, timeout=3600)
    with connections.connection() as connection:
        connection.execute("select 1")
    proxy.close()
    with pytest.raises(psycopg.OperationalError), connections.connection() as connection:
        connection.execute("select 1")

    with pytest.raises(DatabaseUnreachable), connections.connection():
        pass  # at once, and not after an hour

    connections.close()


def test_an_error_in_the_data_is_not_tried_again(make_app: NewApp, dsn: str) -> None:
    """What fails for its own sake fails at once, and is no outage."""
    app = make_app(result_backend_transport_options={"retry_budget": 3600})

    with pytest.raises(psycopg.errors.UndefinedTable) as failed:
        app.backend.database.run(lambda connection: connection.execute("select * from nowhere"))

    assert not app.backend.exception_safe_to_retry(failed.value)


# An embedded server


#: Stores and reads, once for each line it is given, and says which state it read.
USER = """
import sys
from tests.consumers.scene import new_app
app = new_app(sys.argv[1], result_backend_transport_options={"retry_budget": 20})
for number, line in enumerate(sys.stdin):
    app.backend.mark_as_done(f"t{number}", number)
    print(app.AsyncResult("t0").state, flush=True)
app.backend.database.close()
"""


@pytest.fixture
def user(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", USER, f"journal+embedded://{tmp_path / 'journal'}"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def turn(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_an_embedded_server_that_stops_is_started_again(user: subprocess.Popen[str], tmp_path: Path) -> None:
    """It is there when the backend first asks, and again after somebody has stopped it, with everything in it."""
    assert turn(user) == "SUCCESS"
    postmaster = int((tmp_path / "journal" / "data" / "postmaster.pid").read_text().split()[0])

    os.kill(postmaster, signal.SIGINT)
    until(lambda: not (tmp_path / "journal" / "data" / "postmaster.pid").exists())

    assert turn(user) == "SUCCESS"


def test_a_program_that_cannot_reach_the_journal_ends(dsn: str, unused_port: int) -> None:
    """Threads of the pool that try to connect do not keep a process alive."""
    with start("forking", f"journal+postgresql://me@127.0.0.1:{unused_port}/db", "os.fork", CELERY_JOURNAL_RETRY_BUDGET="0.1") as process:
        _, _ = process.communicate()

    assert process.returncode == 1
