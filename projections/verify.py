"""Proving that the views are what the log says: fold it again, and compare row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import IsolationLevel, errors

from celery_journal.journal import JournalError
from celery_journal.journal.command import command
from celery_journal.sql import DEFAULT_SCHEMA, query
from celery_journal.sql.fold import Projection

from ._statements import statement
from .projection import PROJECTIONS, Connection


class VerifyRefused(JournalError):
    """The login may not see what the views are made of, or make temporary tables."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not what the log says."""

    projection: str
    table: str
    key: tuple[Any, ...]
    #: The row in the view's table, and the row folded from the log; None where there is none.
    live: dict[str, Any] | None
    folded: dict[str, Any] | None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that differ; all of them where one row is missing."""
        live, folded = self.live or {}, self.folded or {}
        return tuple(sorted(name for name in (live or folded) if live.get(name) != folded.get(name)))

    def __str__(self) -> str:
        key = ", ".join(map(str, self.key))
        if self.live is None:
            return f"{self.projection}: {key} is missing in {self.table}"
        if self.folded is None:
            return f"{self.projection}: {key} is in {self.table}, and the log knows nothing of it"
        return f"{self.projection}: {key} differs in {self.table}: {', '.join(self.columns)}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found."""

    #: Rows compared, by projection.
    compared: dict[str, int]
    differences: list[Difference]

    @property
    def rows(self) -> int:
        """All rows compared."""
        return sum(self.compared.values())


def verify(connection: Connection, names: Sequence[str] = PROJECTIONS, schema: str = DEFAULT_SCHEMA) -> Verification:
    """Fold the log into temporary tables and compare them with the live ones, on one snapshot, while writers go on.

    The connection must be in autocommit mode, and its user see the tables, as the auditor does; raises VerifyRefused if not.
    """
    compared: dict[str, int] = {}
    differences: list[Difference] = []
    before = connection.isolation_level
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    try:
        with connection.transaction():
            connection.execute(query("schema.sql", "trusted path", schema))
            connection.execute(statement("plan for many", schema))
            for name in names:
                compared[name] = _verify(connection, name, schema, differences)
    except errors.InsufficientPrivilege as exc:
        raise VerifyRefused(
            f"{exc.diag.message_primary}; verify folds into temporary tables what it compares with the views' own: "
            f"use a login that has the role of the auditor, as {command('roles')} makes it"
        ) from exc
    finally:
        connection.isolation_level = before
    return Verification(compared, differences)


def _verify(connection: Connection, name: str, schema: str, differences: list[Difference]) -> int:
    live, folded = Projection(name, schema), Projection(name, schema, table_prefix="pg_temp.")
    for table in live.table_names:
        connection.execute(statement("temporary", schema, name=table, live=live.table(table)))
    for text in folded.history(""):
        connection.execute(text)
    _refold_forgotten(connection, folded)
    rows = 0
    for table in live.table_names:
        names = connection.execute(statement("columns", schema), {"table": live.table(table)}).fetchall()
        columns, key = [column for column, _ in names], [column for column, in_key in names if in_key]
        tables = {
            "live": live.table(table),
            "temporary": folded.table(table),
            "live_alive": live.alive(table),
            "folded_alive": folded.alive(table),
            "key": ", ".join(key),
            "columns": ", ".join(columns),
            "live_columns": ", ".join(f"live.{column}" for column in columns),
            "folded_columns": ", ".join(f"folded.{column}" for column in columns),
        }
        (count,) = connection.execute(statement("count", schema, **tables)).fetchone() or (0,)
        rows += count
        for live_row, folded_row in connection.execute(statement("differences", schema, **tables)):
            row = live_row or folded_row
            differences.append(Difference(name, table, tuple(row[column] for column in key), live_row, folded_row))
    return rows


def _refold_forgotten(connection: Connection, folded: Projection) -> None:
    rows = connection.execute(folded.lock_forgotten(), {"after": "", "limit": None}).fetchall()
    for text in folded.refold() if rows else ():
        connection.execute(text, {"ids": [key for (key,) in rows]})
