"""The roles of sql/roles.sql in a test: they belong to the whole server, so one test at a time has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from celery_journal.journal import role_name, roles_script

KINDS = ("owner", "writer", "reader", "auditor", "importer")

#: Of the advisory lock, in the database that every server has: locks are held by database.
LOCK = 0x726F6C6573


@contextmanager
def with_roles(dsn: str, **logins: str) -> Iterator[None]:
    """Give the journal its roles for as long as the block runs, and logins that are members: app_writer="writer"."""
    with (
        psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as server,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        server.execute(b"select pg_advisory_lock(%s)", (LOCK,))
        connection.execute(roles_script().encode())
        for login, kind in logins.items():
            connection.execute(SQL("create role {} login in role {}").format(Identifier(login), Identifier(role_name(connection, kind))))
        try:
            yield
        finally:
            for role in (*logins, *(role_name(connection, kind) for kind in KINDS)):
                leave = SQL("reassign owned by {0} to current_user; drop owned by {0}; drop role {0}")
                connection.execute(leave.format(Identifier(role)))
