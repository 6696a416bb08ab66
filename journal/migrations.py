"""Bringing the schema of a database to the version of this package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors
from psycopg.sql import SQL, Identifier

from celery_journal import sql
from celery_journal.sql.fold import PROJECTIONS, Projection, attached, trigger_function

from .epoch import count_on
from .errors import LocksHeld, RightsMissing, SchemaMissing, SchemaOutdated, SchemaTooNew, WrongEncoding
from .waiting import Say, Wait, holders

Connection = psycopg.Connection[Any]


#: What our own script says of itself; PostgreSQL warns with codes of its own.
_TOLD = {"00000", "01000"}


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
    yield from (projection.view for projection in projections)
    yield attached(schema)  # last, because writers wait from then on


def script(schema: str = sql.DEFAULT_SCHEMA) -> str:
    """Return the whole schema as one SQL script, as `migrate` would create it in an empty database."""
    statements = [_statement("create", schema).decode()]
    for migration in migrations(schema):
        record = _statement("record", schema).decode() % {"version": migration.version, "name": f"'{migration.name}'"}
        statements += [migration.text, record]
    statements += [*replaceable(schema), _statement("settle", schema).decode(), _statement("create partitions", schema).decode()]
    return _as_script(statements, schema)


def roles_script(schema: str = sql.DEFAULT_SCHEMA) -> str:
    """Return the SQL script that makes the roles of a journal."""
    return _as_script([sql.load("roles.sql", schema)], schema)


def _as_script(statements: Iterable[str], schema: str) -> str:
    """Return the statements as one transaction, which finds nothing of what anybody may have planted in other schemas."""
    given = [_statement("trusted path", schema).decode(), *statements]
    return "begin;\n\n" + "\n\n".join(statement.rstrip().rstrip(";") + ";" for statement in given) + "\n\ncommit;\n"


def migrate(
    connection: Connection,
    schema: str = sql.DEFAULT_SCHEMA,
    *,
    roles: bool = False,
    writers: Sequence[str] = (),
    say: Say | None = None,
) -> list[Migration]:
    """Bring the schema to the newest version in one transaction; return what was applied.

    With `roles`, also make the roles of the journal, and give the logins `writers` that of the writer. Safe to call from many
    processes at once: they wait for each other, and `say` is told whom for. Writers are held up for moments only. Raises
    SchemaTooNew, and changes nothing, if the database has a later version; LocksHeld if somebody does not let go;
    WrongEncoding if the database is not in UTF8; RightsMissing if the login may not make the roles.
    """
    if (encoding := connection.info.parameter_status("server_encoding") or "UTF8") != "UTF8":
        raise WrongEncoding(encoding)
    key = {"key": f"{schema}.migrate"}
    among_us = Wait("migrate", say, lambda: holders(connection, "holders of an advisory lock", schema, key))
    in_the_way = Wait("migrate", say, lambda: holders(connection, "holders of relations", schema, {}))
    while True:
        wait = among_us
        try:
            with connection.transaction():
                connection.execute(_statement("trusted path", schema))
                if connection.execute(_statement("lock", schema)).fetchone() == (True,):
                    wait = in_the_way
                    applied = _migrate(connection, schema, roles=roles, writers=writers, say=say)
                    break
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                raise  # in a transaction of the caller's own
        if not wait.pause():
            raise LocksHeld(f"nothing was changed, because of {wait.whom()}; end that, and run it again")
    count_on(connection, schema, thorough=True)
    return applied


def _migrate(connection: Connection, schema: str, *, roles: bool, writers: Sequence[str], say: Say | None) -> list[Migration]:
    connection.execute(_statement("lock timeout", schema))
    pending = pending_migrations(connection, schema)
    if pending and pending[0].version == 1:
        connection.execute(_statement("create", schema))
    for migration in pending:
        connection.execute(migration.text.encode())
        connection.execute(_statement("record", schema), {"version": migration.version, "name": migration.name})
    *replaced, attaching = replaceable(schema)
    for statement in replaced:
        connection.execute(statement.encode())
    connection.execute(_statement("settle", schema))
    connection.execute(_statement("create partitions", schema))
    if roles:
        _make_roles(connection, schema, writers, say)
    connection.execute(attaching.encode())
    return pending


def _make_roles(connection: Connection, schema: str, writers: Sequence[str], say: Say | None) -> None:
    def tell(told: psycopg.errors.Diagnostic) -> None:
        if say is not None and told.sqlstate in _TOLD and told.message_primary:
            say(told.message_primary)

    try:
        connection.add_notice_handler(tell)
        try:
            connection.execute(sql.load("roles.sql", schema).encode())
        finally:
            connection.remove_notice_handler(tell)
        for login in writers:
            role = role_name(connection, "writer", schema)
            connection.execute(SQL("grant {} to {}").format(Identifier(role), Identifier(login)))
    except errors.InsufficientPrivilege as exc:
        raise RightsMissing(
            f"{exc.diag.message_primary}; roles are made by a superuser, or by a login that may create roles and owns the schema"
        ) from exc


def role_name(connection: Connection, kind: str, schema: str = sql.DEFAULT_SCHEMA) -> str:
    """Return the name of the journal's role of that kind: owner, writer, reader, auditor or importer."""
    (name,) = connection.execute(_statement("role name", schema), {"kind": kind}).fetchone() or ("",)
    return str(name)


def pending_migrations(connection: Connection, schema: str = sql.DEFAULT_SCHEMA) -> list[Migration]:
    """Return what `migrate` would apply; raise SchemaTooNew if the database is ahead of this package."""
    found = schema_version(connection, schema) or 0
    if found > wanted_version():
        raise SchemaTooNew(schema, found, wanted_version())
    return [migration for migration in migrations(schema) if migration.version > found]


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
    count_on(connection, schema)


def _statement(name: str, schema: str) -> bytes:
    return sql.query("schema.sql", name, schema)
