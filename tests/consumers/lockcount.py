"""Counts the locks on the log that each statement of the package holds at its end, with those that its transaction had before."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.sql import Composable

from celery_journal import sql

#: Files whose statements make others, or are for SQLite.
NOT_ASKED = {"fold.sql", "roles.sql", "spool.sql", "views.sql", "functions.sql"}

_COUNT = b"""
    select count(*)
      from pg_catalog.pg_locks l
           join pg_catalog.pg_class c on c.oid = l.relation
     where l.pid = pg_backend_pid() and l.locktype = 'relation' and c.relnamespace = 'celery_journal'::regnamespace::oid"""

_READS = re.compile(r"\b(?:from|join|into|update|table)\s+celery_journal\.event\b(?!_)")


def statements() -> dict[str, str]:
    """Return every named statement of the package, by its file and name."""
    return {f"{file}: {name}": text for file in _files() for name, text in sql.queries(file).items()}


def reading() -> set[str]:
    """Return those that look into the log, be it by a function."""
    created = r"create or replace function celery_journal\.(\w+)\((.*?)(?=\ncreate or replace function|\Z)"
    functions: dict[str, str] = dict(re.findall(created, sql.load("functions.sql"), re.DOTALL))
    looking = {name for name, body in functions.items() if _READS.search(body)}
    while more := {
        name for name, body in functions.items() if name not in looking and any(f"celery_journal.{one}(" in body for one in looking)
    }:
        looking |= more
    calls = re.compile(rf"celery_journal\.(?:{'|'.join(sorted(looking))})\(")
    return {name for name, text in statements().items() if _READS.search(text) or calls.search(text)}


def _files() -> list[str]:
    names = (file.name for file in resources.files(sql).iterdir())
    return sorted(name for name in names if name.endswith(".sql") and name not in NOT_ASKED)


@dataclass(slots=True)
class Counted:
    """The most locks that each statement was seen with."""

    most: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    names: dict[str, str] = field(default_factory=lambda: {text: name for name, text in statements().items()})

    def note(self, query: Any, connection: Any, locks: int) -> None:
        """Take in what was held at the end of a statement."""
        if isinstance(query, Composable):  # put together from the pieces of query.sql
            name: str | None = "query.sql: rows"
        else:
            name = self.names.get((query.decode() if isinstance(query, bytes) else str(query)).strip())
        if name is not None:
            self.most[name] = max(self.most[name], locks)


@contextmanager
def counting(monkeypatch: Any) -> Iterator[Counted]:
    """Count the locks of whatever is asked inside the block."""
    counted = Counted()
    execute = psycopg.Cursor.execute

    def own(connection: Any) -> bool:
        return bool(connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE)

    def counting(cursor: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        connection = cursor.connection
        if connection._pipeline is not None:
            return execute(cursor, query, *args, **kwargs)
        alone = own(connection)
        if alone:
            execute(psycopg.Cursor(connection), b"begin")
        try:
            execute(cursor, query, *args, **kwargs)
            (locks,) = execute(psycopg.Cursor(connection), _COUNT).fetchone()  # type: ignore[misc]
            counted.note(query, connection, locks)
        except BaseException:
            if alone and not connection.broken:
                execute(psycopg.Cursor(connection), b"rollback")
            raise
        if alone:
            execute(psycopg.Cursor(connection), b"commit")
        return cursor

    def streaming(cursor: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        counting(cursor, query, *args, prepare=False)
        yield from cursor

    monkeypatch.setattr(psycopg.Cursor, "execute", counting)
    monkeypatch.setattr(psycopg.Cursor, "stream", streaming)
    try:
        yield counted
    finally:
        monkeypatch.undo()
