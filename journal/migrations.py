"""Bringing the schema of a database to the version of this package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from celery_journal import sql
from celery_journal.sql.fold import PROJECTIONS, Projection, trigger, trigger_function

from .errors import SchemaMissing, SchemaOutdated, SchemaTooNew

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step of the schema."""

    version: int
    name: str
    text: str

    @property
    def rebuild(self) -> tuple[str, ...]:
        """The projections of which only a rebuild fills what is new, as the first line of the text says."""
        head = self.text.partition("\n")[0]
        return tuple(head.removeprefix("-- rebuild: ").split(", ")) if head.startswith("-- rebuild: ") else ()


def migrations(schema: str = sql.DEFAULT_SCHEMA) -> list[Migration]:
    """Return every migration of this package, the oldest first."""
    return [Migration(*migration) for migration in sql.migrations(schema)]


def wanted_version() -> int:
    """Return the version of the schema that this package works with."""
    return migrations()[-1].version


def replaceable(schema: str = sql.DEFAULT_SCHEMA) -> Iterator[str]:
    """Yield the statements that create what every migration replaces as a whole: functions, the fold, the views."""
    projections = [Projection(name, schema) for name in PROJECTIONS]
    yield sql.load("functions.sql", schema)
    yield trigger_function(projections, schema)
    yield trigger(schema)
    yield from (projection.view for projection in projections)


def script(schema: str = sql.DEFAULT_SCHEMA) -> str:
    """Return the whole schema as one SQL script, as `migrate` would create it in an empty database."""
    statements = [_statement("create", schema).decode()]
    for migration in migrations(schema):
        record = _statement("record", schema).decode() % {"version": migration.version, "name": f"'{migration.name}'"}
        statements += [migration.text, record]
    statements += [*replaceable(schema), _statement("create partitions", schema).decode()]
    return "begin;\n\n" + "\n\n".join(statement.rstrip().rstrip(";") + ";" for statement in statements) + "\n\ncommit;\n"


def migrate(connection: Connection, schema: str = sql.DEFAULT_SCHEMA, target: int | None = None) -> list[Migration]:
    """Bring the schema to the newest version (or to `target`) in one transaction; return what was applied.

    Safe to call from many processes at once: they wait for each other. Raises SchemaTooNew, and changes nothing, if
    the database has a later version.
    """
    with connection.transaction():
        connection.execute(_statement("lock", schema))
        pending = pending_migrations(connection, schema, target)
        if pending and pending[0].version == 1:
            connection.execute(_statement("create", schema))
        for migration in pending:
            connection.execute(migration.text.encode())
            connection.execute(_statement("record", schema), {"version": migration.version, "name": migration.name})
        for statement in replaceable(schema):
            connection.execute(statement.encode())
        connection.execute(_statement("create partitions", schema))
    return pending


def pending_migrations(connection: Connection, schema: str = sql.DEFAULT_SCHEMA, target: int | None = None) -> list[Migration]:
    """Return what `migrate` would apply; raise SchemaTooNew if the database is ahead of this package."""
    found = schema_version(connection, schema) or 0
    if found > wanted_version():
        raise SchemaTooNew(schema, found, wanted_version())
    last = wanted_version() if target is None else target
    return [migration for migration in migrations(schema) if found < migration.version <= last]


def projections_to_rebuild(connection: Connection, applied: Iterable[Migration], schema: str = sql.DEFAULT_SCHEMA) -> list[str]:
    """Return the projections that lack what these migrations have brought, because events had been recorded before."""
    names = {name for migration in applied for name in migration.rebuild}
    if not names or connection.execute(_statement("has events", schema)).fetchone() != (True,):
        return []
    return [name for name in PROJECTIONS if name in names]


def schema_version(connection: Connection, schema: str = sql.DEFAULT_SCHEMA) -> int | None:
    """Return the version of the schema in the database, None if it has none that we may use."""
    if connection.execute(_statement("exists", schema)).fetchone() != (True,):
        return None
    (version,) = connection.execute(_statement("version", schema)).fetchone() or (None,)
    return version


def check_version(connection: Connection, schema: str = sql.DEFAULT_SCHEMA) -> None:
    """Raise SchemaMissing, SchemaOutdated or SchemaTooNew unless the schema is the one this package works with."""
    found, wanted = schema_version(connection, schema), wanted_version()
    if found is None:
        raise SchemaMissing(schema)
    if found < wanted:
        raise SchemaOutdated(schema, found, wanted)
    if found > wanted:
        raise SchemaTooNew(schema, found, wanted)


def _statement(name: str, schema: str) -> bytes:
    return sql.query("schema.sql", name, schema)
