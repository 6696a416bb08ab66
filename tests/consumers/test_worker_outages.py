"""A real worker whose database is killed, stays away, and comes back; and one that is killed before it does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from celery import chord

from celery_journal.consumers.spool import spool_of
from celery_journal.journal import migrate

from .scene import ask, kinds, stored, until, url_of
from .servers import Server, folder_of_servers, postgresql
from .workers import Worker, working

#: The budget is short, and so is the pause between two sweeps.
OPTIONS = {"retry_budget": 0.5, "sweep_interval": 1.0}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of these tests' own, with a journal, which outlives a power cut."""
    with folder_of_servers() as folder, postgresql(folder, fsync="on") as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            migrate(connection)
        yield server


@pytest.fixture
def running(server: Server) -> Iterator[Server]:
    """The server, which runs before the test and after it."""
    yield server
    bring_back(server)


def bring_back(server: Server) -> None:
    """Start the server if it is down. After a kill, its children may need a moment to notice."""
    if not server.answers():
        for _ in range(20):
            with suppress(AssertionError):
                server.start()
                return
        server.start()


def waiting(server: Server, folder: Path) -> int:
    """Return how many facts are in the spool."""
    return spool_of(server.dsn, "celery_journal", folder).status().waiting


def succeeded(worker: Worker) -> int:
    """Return how many tasks the worker says it has done."""
    return worker.said().count(" succeeded in ")


def start_worker(server: Server, folder: Path, **conf: Any) -> Any:
    """Return the block of a worker that has the server for its journal."""
    return working("filesystem", url_of(server.dsn), server.dsn, folder, result_backend_transport_options=OPTIONS, **conf)


def test_what_a_worker_stores_while_the_database_is_away_is_there_afterwards(
    running: Server, tmp_path: Path, spool_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """B37: killed with -9, away for longer than the budget: the worker goes on, and every result is recorded, in order, once."""
    with start_worker(running, tmp_path) as worker:
        before = [worker.send("add", number, 1) for number in range(4)]
        assert [result.get(timeout=60) for result in before] == [1, 2, 3, 4]

        running.kill()
        during = [worker.send("add", number, 10) for number in range(20)]
        until(lambda: succeeded(worker) == 24)
        assert waiting(running, spool_folder) >= 20
        bring_back(running)

        until(lambda: waiting(running, spool_folder) == 0)
        assert [result.get(timeout=60) for result in during] == [number + 10 for number in range(20)]
        after = worker.send("add", 1, 1)
        assert after.get(timeout=60) == 2
        said = worker.said()

    for result in (*before, *during, after):
        assert stored(running.dsn, result.id) == ["task-started", "task-succeeded"]
    disorder = b"""
        select count(*) from (select position, pid, occurred_at, lag(occurred_at) over (partition by pid order by position) as previous
                                from celery_journal.event where source = 'backend') as event
         where occurred_at < previous"""  # what signals tell is recorded when there is time
    assert ask(running.dsn, disorder) == [(0,)]
    assert "Traceback" not in said
    assert "left the spool and 0 were refused" in said + caplog.text  # who sends shares the spool, and may be the first to find it back


def test_what_a_killed_worker_left_in_the_spool_is_drained_by_the_next(running: Server, tmp_path: Path, spool_folder: Path) -> None:
    """B37: all its processes killed with -9 while the database is away: the results are on disk, and nobody has to ask for them."""
    with start_worker(running, tmp_path) as worker:
        assert worker.send("add", 1, 1).get(timeout=60) == 2
        running.kill()
        results = [worker.send("add", number, 10) for number in range(6)]
        until(lambda: succeeded(worker) == 7)
        left = waiting(running, spool_folder)
        main = psutil.Process(worker.process.pid)
        main.suspend()  # or it starts another child meanwhile
        for process in (*main.children(recursive=True), main):
            process.kill()
        worker.process.wait()
    assert left >= 6
    bring_back(running)

    with start_worker(running, tmp_path):
        until(lambda: waiting(running, spool_folder) == 0)

    assert [stored(running.dsn, result.id)[-1] for result in results] == ["task-succeeded"] * 6


def test_a_chord_whose_parts_were_spooled_sends_its_body(running: Server, tmp_path: Path, spool_folder: Path) -> None:
    """Nobody could count them when they returned; the sweep does when they are in the log."""
    with start_worker(running, tmp_path) as worker:
        assert worker.send("sleep", 0).get(timeout=60) == 0
        header = [worker.signature("sleep", seconds) for seconds in (1, 1.2)]
        body = chord(header, app=worker.app)(worker.signature("collect"))
        until(lambda: worker.said().count("scene.sleep") >= 3)
        running.kill()
        until(lambda: succeeded(worker) == 3)
        assert waiting(running, spool_folder) >= 2
        bring_back(running)

        assert body.get(timeout=60) == [1, 1.2]

    assert sorted(kinds(running.dsn, body.parent.id))[:2] == ["chord-part-returned"] * 2


def test_ending_every_session_during_load_loses_nothing(running: Server, tmp_path: Path, spool_folder: Path) -> None:
    """pg_terminate_backend on all connections, again and again, as a careless administrator does."""
    end = b"select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and backend_type = 'client backend'"
    with start_worker(running, tmp_path) as worker:
        results = [worker.send("add", number, 1) for number in range(40)]
        ended = 0
        for done in range(5, 40, 5):
            until(lambda: succeeded(worker) >= done)  # noqa: B023
            ended += len(ask(running.dsn, end))
        until(lambda: succeeded(worker) == 40)
        until(lambda: waiting(running, spool_folder) == 0)

    assert ended > 0
    assert [stored(running.dsn, result.id) for result in results] == [["task-started", "task-succeeded"]] * 40


def test_a_workers_main_process_answers_during_an_outage(running: Server, tmp_path: Path) -> None:
    """B24: with endless retries of Celery's, a revocation that cannot be read or stored must not hang the whole worker."""
    endless = {"result_backend_always_retry": True, "result_backend_base_sleep_between_retries_ms": 10}
    with start_worker(running, tmp_path, **endless) as worker:
        assert worker.send("add", 1, 1).get(timeout=60) == 2
        running.kill()

        worker.app.control.revoke("somebody")

        until(lambda: worker.app.control.ping(timeout=2.0))
        bring_back(running)
        assert worker.send("add", 2, 2).get(timeout=60) == 4
