"""Logical replication into the log, on real servers: what it brings is not folded, doctor says so, and a rebuild mends it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from celery_journal.journal import Emitter, Journal, migrate
from celery_journal.journal.events import TaskSucceeded
from celery_journal.projections import TaskResult, rebuild, verify

from .scene import until
from .servers import Server, folder_of_servers, make_folder, postgresql
from .test_cli import as_url, command


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    """One that publishes its log, and one with a journal of its own that subscribes to it."""
    with folder_of_servers() as folder:
        for name in ("one", "two"):
            make_folder(folder / name)
        with postgresql(folder / "one", wal_level="logical") as publisher, postgresql(folder / "two", wal_level="logical") as subscriber:
            for server in (publisher, subscriber):
                with psycopg.connect(server.dsn, autocommit=True) as connection:
                    migrate(connection)
            publisher.tell("create publication log for table celery_journal.event with (publish_via_partition_root = true)")
            yield publisher, subscriber


def findings(server: Server, check: str) -> list[str]:
    """Return what doctor finds wrong there."""
    ended = command("doctor", dsn=as_url(server.dsn))
    assert "Traceback" not in ended.stderr
    return [line for line in ended.stdout.splitlines() if line.split("\t")[1] == check and not line.startswith("ok")]


def test_what_a_subscription_brings_is_told_and_mended(servers: tuple[Server, Server]) -> None:
    """The guards hold for the apply worker too: a change of the publisher's log does not come over."""
    publisher, subscriber = servers
    assert findings(subscriber, "replication") == []
    source = sql.Literal(f"host=127.0.0.1 port={publisher.port} user=postgres dbname=postgres").as_string(None)
    subscriber.tell(f"create subscription log connection {source} publication log")
    try:
        with psycopg.connect(publisher.dsn, autocommit=True) as connection:
            Journal().append(connection, Emitter().emit(TaskSucceeded, "t", name="add"))
        until(lambda: subscriber.ask("select count(*) from celery_journal.event where stream = 't'"))

        (found,) = findings(subscriber, "replication")
        assert found.startswith("bad\treplication\ta logical replication subscription writes to celery_journal.event")
        with psycopg.connect(subscriber.dsn, autocommit=True) as connection:
            assert verify(connection).differences
            assert not TaskResult.objects.using(connection).filter(task_id="t").exists()

            rebuild(connection)

            assert verify(connection).differences == []
            assert TaskResult.objects.using(connection).get(task_id="t").status == "SUCCESS"

        publisher.tell("set celery_journal.maintenance = 'on'; delete from celery_journal.event where stream = 't'")
        until(
            lambda: (
                subscriber.ask("select count(*) from celery_journal.event where stream = 'maintenance'")
                or "append-only" in subscriber.said()
            )
        )
        assert subscriber.ask("select count(*) from celery_journal.event where stream = 't'") == 1
    finally:
        subscriber.tell("drop subscription log")
    assert findings(subscriber, "replication") == []
