"""PgBouncer in transaction mode between us and PostgreSQL: each transaction may be in another session of the server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import Celery, chord, group
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from celery_journal.consumers.backend import JournalUnavailable
from celery_journal.consumers.lost import sweep_lost
from celery_journal.journal import Emitter, Journal, migrate
from celery_journal.journal import events as kinds_of
from celery_journal.projections import verify
from tests.conftest import empty, new_database, require

from .lostscene import GRACE, Log, pause
from .scene import ask, delivered, kinds, new_app, row, stored, until, url_of
from .servers import PGBOUNCER, Server, folder_of_servers, pgbouncer, postgresql, unused_port
from .workers import Worker, available, working

#: Seconds to wait for a result: only a test that fails waits so long.
PATIENCE = 60

BROKER = "redis" if available("redis") else "filesystem"

#: What the log says, once, where it is of no use to listen.
CANNOT_LISTEN = "results are polled, because this connection leads through a pooler: set listen_dsn to a direct connection"

NewApp = Callable[..., Celery]


@pytest.fixture(scope="module")
def direct(embedded_database: str) -> str:
    """The journal, past PgBouncer."""
    require("PgBouncer", PGBOUNCER is not None)
    return embedded_database


@pytest.fixture(scope="module")
def pooled(direct: str) -> Iterator[str]:
    """The same journal through a PgBouncer that has three sessions for everybody."""
    with folder_of_servers() as folder, pgbouncer(direct, folder) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def worker(direct: str, pooled: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker and an app that know no other way than through PgBouncer."""
    with working(
        BROKER, url_of(pooled), direct, tmp_path_factory.mktemp("worker"), result_backend_transport_options={"sweep_interval": 0.2}
    ) as worker:
        yield worker


@pytest.fixture
def dsn(direct: str) -> str:
    """The journal, empty."""
    with psycopg.connect(direct, autocommit=True) as connection:
        empty(connection)
    return direct


@pytest.fixture
def new(pooled: str, dsn: str) -> Iterator[NewApp]:
    """Makes an app on the empty journal, through PgBouncer."""
    apps: list[Celery] = []

    def make(**options: object) -> Celery:
        apps.append(new_app(url_of(pooled), result_expires=86400, result_backend_transport_options=options))
        return apps[-1]

    yield make
    for app in apps:
        app.backend.database.close()
        app.close()


# A worker and a producer


def test_results_come_back(worker: Worker) -> None:
    """Successes and failures, often enough that psycopg would prepare each statement."""
    results = [worker.send("add", 1, number) for number in range(20)]
    failed = worker.send("fail", "no")

    assert [result.get(timeout=PATIENCE) for result in results] == [1 + number for number in range(20)]
    with pytest.raises(ValueError, match="no"):
        failed.get(timeout=PATIENCE)

    assert stored(worker.dsn, results[-1].id) == ["task-started", "task-succeeded"]


def test_groups_and_chords_come_back(worker: Worker) -> None:
    """A chord's part and its claim are two transactions in one pipeline."""
    numbers = range(10)
    members = group([worker.signature("add", number, number) for number in numbers], app=worker.app).apply_async()
    gathered = [
        chord([worker.signature("add", number, number) for number in numbers], app=worker.app)(worker.signature("collect"))
        for _ in range(3)
    ]

    assert members.get(timeout=PATIENCE) == [2 * number for number in numbers]
    assert [result.get(timeout=PATIENCE) for result in gathered] == [[2 * number for number in numbers]] * 3

    members.save()
    assert worker.app.GroupResult.restore(members.id).get(timeout=PATIENCE) == [2 * number for number in numbers]


def test_the_sweep_of_a_worker_completes_a_chord(worker: Worker) -> None:
    """One whose last part was recorded by a process that then died."""
    backend, body = worker.app.backend, worker.signature("collect", task_id="swept-body")
    backend.apply_chord(("swept", [worker.app.AsyncResult("swept-part")]), body)
    part = delivered(worker.app, task_id="swept-part", group_id="swept", group_index=0)
    backend.append(
        backend.emitter.emit(kinds_of.ChordSizeSet, "swept", size=1),
        backend.emitter.emit(kinds_of.ChordPartReturned, "swept", task_id=part.id, group_index=0, state="SUCCESS", **backend._encoded(7)),
    )

    assert worker.app.AsyncResult("swept-body").get(timeout=PATIENCE) == [7]


def test_the_views_are_what_the_log_folds_to(worker: Worker, pooled: str) -> None:
    """Verified through PgBouncer too: that is one transaction."""
    worker.send("add", 1, 1).get(timeout=PATIENCE)

    with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as connection:
        assert not verify(connection).differences


# Sessions that are lent


def test_statements_are_not_prepared_in_a_session_that_is_only_lent(new: NewApp, dsn: str) -> None:
    """Eight threads on three sessions: a statement that one session has prepared is unknown to the next."""
    app = new(pool_size=8)

    def work(thread: int) -> None:
        for turn in range(20):
            task_id = f"{thread}-{turn}"
            app.backend.store_result(task_id, turn, "SUCCESS", request=delivered(app, task_id=task_id))
            assert app.backend.get_task_meta(task_id)["result"] == turn

    with ThreadPoolExecutor(8) as pool:
        for working_thread in [pool.submit(work, thread) for thread in range(8)]:
            working_thread.result()

    assert ask(dsn, b"select count(*), count(distinct stream) from celery_journal.event") == [(160, 160)]


def test_past_a_pooler_statements_are_prepared(dsn: str) -> None:
    """Who connects directly pays nothing for those who do not."""
    app = new_app(url_of(dsn))

    threshold = app.backend.database.run(lambda connection: connection.prepare_threshold)

    assert threshold == 5
    app.backend.database.close()


def test_what_need_not_wait_for_the_disk_says_so_for_itself_only(dsn: str) -> None:
    """STARTED is stored with synchronous_commit off; whoever gets the session next is none the wiser."""
    with folder_of_servers() as folder, pgbouncer(dsn, folder, default_pool_size="1") as only:
        app = new_app(url_of(only))
        app.backend.store_result("a", None, "STARTED")
        app.backend.apply_chord(("g", [app.AsyncResult("m")]), app.signature("scene.collect", task_id="body"))
        app.backend.on_chord_part_return(delivered(app, task_id="m", group_id="g", group_index=0), "SUCCESS", 1)

        with psycopg.connect(only, autocommit=True) as connection:
            assert connection.execute("show synchronous_commit").fetchone() == ("on",)

        app.backend.database.close()


def test_results_expire(new: NewApp, dsn: str) -> None:
    """celery.backend_cleanup."""
    app = new()
    old = datetime.now(UTC) - timedelta(days=2)
    app.backend.append(*(app.backend.emitter.emit(kinds_of.TaskFailed, f"old{number}", occurred_at=old) for number in range(10)))

    for _ in range(7):
        app.backend.cleanup()

    assert kinds(dsn, "old0") == ["task-failed", "task-expired"]
    assert app.AsyncResult("old9").state == "PENDING"


def test_a_database_is_migrated(embedded_server: str, pooled: str) -> None:
    """The migration is one transaction, so one session."""
    for direct in new_database(embedded_server):
        dsn = make_conninfo(pooled, dbname=conninfo_to_dict(direct)["dbname"])
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
        app = new_app(url_of(dsn))
        app.backend.mark_as_done("a", 1)

        assert row(direct, "a").status == "SUCCESS"
        app.backend.database.close()


# Waiting for results


def waiting_for(app: Celery, task_id: str) -> Iterator[Future[object]]:
    """Somebody who waits for the task, in a thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(app.AsyncResult(task_id).get, timeout=PATIENCE)


def test_without_a_direct_connection_results_are_polled_and_the_log_says_so_once(new: NewApp, caplog: pytest.LogCaptureFixture) -> None:
    """A LISTEN would succeed in a session that somebody else has a moment later, and nothing would ever arrive."""
    app, writer = new(reread_interval=3600), new()

    for task_id in ("a", "b"):
        for waiting in waiting_for(app, task_id):
            until(lambda: CANNOT_LISTEN in caplog.text)
            writer.backend.mark_as_done(task_id, 7)
            assert waiting.result() == 7

    assert caplog.text.count(CANNOT_LISTEN) == 1


def test_with_a_direct_connection_results_are_pushed(new: NewApp, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """listen_dsn leads past PgBouncer; everything else goes through it."""
    app, writer = new(listen_dsn=make_conninfo(dsn, application_name="direct"), reread_interval=3600), new()

    for waiting in waiting_for(app, "a"):
        until(lambda: listeners(dsn, "direct"))
        writer.backend.mark_as_done("a", 7)
        assert waiting.result() == 7

    assert "polled" not in caplog.text


def listeners(dsn: str, name: str) -> int:
    """Return how many sessions of that name hold the lock that says that somebody listens."""
    query = (
        b"select count(distinct pid) from pg_locks join pg_stat_activity using (pid) where locktype = 'advisory' and application_name = %s"
    )
    return int(ask(dsn, query, name)[0][0])


# Outages


def test_a_rebuild_is_refused(dsn: str, pooled: str) -> None:
    """It holds a lock of its session, which PgBouncer would lend to others; verifying is one transaction."""
    command = [sys.executable, "-m", "celery_journal.consumers.cli", "--dsn", pooled, "projections", "rebuild"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout) == (1, "")
    assert "name PostgreSQL itself, past the pooler" in done.stderr
    locks = b"select from pg_locks l join pg_database d on d.oid = l.database where locktype = 'advisory' and datname = current_database()"
    until(lambda: ask(dsn, locks) == [])  # the worker that sweeps beside this has one for a moment; one that is left stays


@pytest.fixture
def server() -> Iterator[tuple[Server, Path]]:
    """A server that a test may stop, and a folder for the PgBouncer before it."""
    require("PgBouncer", PGBOUNCER is not None)
    with folder_of_servers() as folder, postgresql(folder) as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            migrate(connection)
        yield server, folder


def test_a_server_that_is_down_behind_pgbouncer_is_an_outage(server: tuple[Server, Path]) -> None:
    """PgBouncer answers all the while: that is no reason to call the settings wrong, not even for a process that is new."""
    postgres, folder = server
    with pgbouncer(postgres.dsn, folder, server_login_retry="0.2", query_wait_timeout="1") as dsn:
        old, new = (new_app(url_of(dsn), result_backend_transport_options={"retry_budget": 0.5, "spool": ""}) for _ in range(2))
        old.backend.mark_as_done("before", 1)
        with postgres.stopped():
            for app in (old, new):
                with pytest.raises(JournalUnavailable) as failed:
                    app.backend.mark_as_done("meanwhile", 1)
                assert app.backend.exception_safe_to_retry(failed.value)

        for app in (old, new):
            until(lambda: is_stored(app, "after"))  # noqa: B023
            app.backend.database.close()


def is_stored(app: Celery, task_id: str) -> bool:
    try:
        app.backend.mark_as_done(task_id, 1)
    except JournalUnavailable:
        return False
    return True


def test_a_pgbouncer_that_is_restarted_loses_nothing(dsn: str) -> None:
    """Stores wait until it is back, within the budget."""
    with folder_of_servers() as folder:
        port = unused_port()
        with pgbouncer(dsn, folder, port=port) as through:
            app = new_app(url_of(through), result_backend_transport_options={"retry_budget": PATIENCE})
            app.backend.mark_as_done("before", 1)
        with ThreadPoolExecutor(1) as pool:
            storing = pool.submit(app.backend.mark_as_done, "meanwhile", 1)
            with pgbouncer(dsn, folder, port=port):
                storing.result()
                assert app.AsyncResult("meanwhile").state == "SUCCESS"
                app.backend.database.close()


def test_what_is_lost_is_marked_by_one_at_a_time(pooled: str, dsn: str) -> None:
    """F02: the lock belongs to the transaction, and ends with it, whichever session the next one gets."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        log = Log(connection)
        log.online()
        log.started()
        log.offline()
    pause()
    with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as connection:
        marked: list[Any] = []

        def swept() -> Any:
            marked.append(sweep_lost(connection, Journal(), Emitter(), GRACE))
            return marked[-1]

        until(swept)  # that of a worker may be at it
        swept()
        swept()
    with psycopg.connect(dsn, autocommit=True) as connection:
        mine = "database = (select oid from pg_database where datname = current_database())"
        locks = connection.execute(f"select count(*) from pg_locks where locktype = 'advisory' and {mine}".encode()).fetchone()

    assert [[lost.task_id for lost in one] for one in marked[-3:]] == [["t"], [], []]
    assert locks == (0,)
    assert kinds(dsn, "t") == ["task-started", "task-lost"]
