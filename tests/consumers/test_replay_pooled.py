"""A replay through PgBouncer, which may lend another session of the server for each transaction."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from celery import Celery

from celery_journal.journal import Connection, connect
from tests.conftest import empty, require

from .lostscene import Log
from .replayscene import begun, failed, resumed
from .scene import Mailbox, new_app, url_of
from .servers import PGBOUNCER, folder_of_servers, pgbouncer


@pytest.fixture(scope="module")
def pooled(embedded_database: str) -> Iterator[str]:
    require("PgBouncer", PGBOUNCER is not None)
    with folder_of_servers() as folder, pgbouncer(embedded_database, folder) as dsn:
        yield dsn


@pytest.fixture
def connection(embedded_database: str, pooled: str) -> Iterator[Connection]:
    """A connection through PgBouncer, to an empty journal."""
    with psycopg.connect(embedded_database, autocommit=True) as direct:
        empty(direct)
    with connect(pooled) as connection:
        yield connection


@pytest.fixture
def app(pooled: str, mailbox: Mailbox) -> Iterator[Celery]:
    app = new_app(url_of(pooled), **mailbox.conf)
    yield app
    app.backend.database.close()
    app.close()


def test_it_sends_each_task_once_and_can_be_resumed(connection: Connection, app: Celery, mailbox: Mailbox) -> None:
    """Without a lock of the session."""
    log, tasks = Log(connection), [f"t{number}" for number in range(5)]
    log.journal.append(connection, *(fact for task_id in tasks for fact in failed(log.emitter, task_id, "work")))
    replay = begun(connection, app, tasks)
    stops = iter([False, False, True])
    replay.is_stopped = lambda: next(stops)

    stopped = replay.run()
    summary = resumed(connection, app).run()

    assert (len(stopped.sent), list(summary.sent)) == (2, tasks)
    assert sorted(message.headers["journal_replay_of"] for message in mailbox.sent()) == tasks
