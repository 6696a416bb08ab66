"""Waiting for what must happen, with an end."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

from celery_journal.journal import Connection


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return once the condition holds; fail if it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {seconds:g} s"
        time.sleep(0.01)


def blocked_backends(connection: Connection) -> int:
    """Return how many sessions of this database wait for a lock."""
    query = b"select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    (blocked,) = connection.execute(query).fetchone() or (0,)
    return int(blocked)


def other(connection: Connection) -> psycopg.Connection[tuple[object, ...]]:
    """Return another connection to the same database, in autocommit mode."""
    return psycopg.connect(connection.info.dsn, autocommit=True)
