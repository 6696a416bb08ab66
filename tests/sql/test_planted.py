"""What anybody may have planted in `public` is never called by what an operator runs."""

from __future__ import annotations

import psycopg
import pytest

from celery_journal.journal import Connection, Emitter, Journal, connect, migrate, roles_script, script
from celery_journal.journal.events import TaskFailed, TaskSent
from celery_journal.projections import rebuild, verify
from tests.consumers.test_cli import as_url, command

#: With the types that our SQL calls them with, where those of pg_catalog have others: an exact match would win.
FUNCTIONS = {
    "format": "text, text",
    "md5": "varchar",
    "octet_length": "varchar",
    "jsonb_array_length": "text",
    "to_regclass": "varchar",
    "hashtextextended": "text, integer",
    "convert_from": "bytea, text",
    "pg_backend_pid": "",
    "now": "",
    "clock_timestamp": "",
    "set_config": "text, text, boolean",
    "current_setting": "text",
    "pg_describe_object": "oid, oid, int4",
    "has_table_privilege": "name, oid, text",
    "quote_ident": "name",
}

OPERATORS = [
    ("=", "oid", "regclass"), ("=", "oid", "regnamespace"), ("<>", "oid", "regclass"), ("=", "name", "unknown"), ("=", "text", "varchar"),
    ("||", "text", "name"), ("||", "name", "text"), ("=", "text", "name"), ("=", "bigint", "oid"), ("~~", "name", "text"),
]  # fmt: skip


def plant(connection: Connection) -> None:
    """Make them, and let them come first for whoever does not say where to look."""
    for name, arguments in FUNCTIONS.items():
        connection.execute(
            f"create or replace function public.{name}({arguments}) returns text language plpgsql "
            f"as $$ begin raise exception 'planted {name} was called'; end $$".encode()
        )
    for number, (operator, left, right) in enumerate(OPERATORS):
        if "unknown" in (left, right):
            continue
        result = "text" if operator == "||" else "boolean"
        connection.execute(
            f"create or replace function public.planted_{number}({left}, {right}) returns {result} language plpgsql "
            f"as $$ begin raise exception 'planted operator {operator} was called'; end $$".encode()
        )
        connection.execute(
            f"create operator public.{operator} (leftarg = {left}, rightarg = {right}, function = public.planted_{number})".encode()
        )
    database = connection.info.dbname
    connection.execute(f'alter database "{database}" set search_path = public, pg_catalog'.encode())


@pytest.fixture(scope="module")
def planted(spare_database: str) -> str:
    """The DSN of a database with a journal, where every login looks into `public` first."""
    with psycopg.connect(spare_database, autocommit=True) as connection:
        migrate(connection)
        Journal().append(connection, Emitter().emit(TaskSent, "t", name="add"), Emitter().emit(TaskFailed, "t", name="add"))
        plant(connection)
    return spare_database


def test_what_is_planted_would_be_called(planted: str) -> None:
    """By a connection that does not say where to look: else the tests here would show nothing."""
    with psycopg.connect(planted, autocommit=True) as careless:
        for query in ("select now()", "select 1 from pg_class where oid = 'pg_class'::regclass", "select convert_from('x'::bytea, 'UTF8')"):
            with pytest.raises(psycopg.errors.RaiseException, match="planted"):
                careless.execute(query.encode())


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words.split(), id=words)
        for words in (
            "migrate --yes", "projections rebuild", "projections verify", "doctor --payloads", "list", "show t", "history t", "explain t",
            "graph t", "stats", "tail", "stale", "lost", "top --once", "export", "version", "annotate t --note x --yes", "spool",
        )
    ],
)  # fmt: skip
def test_no_command_calls_what_is_planted(planted: str, words: list[str]) -> None:
    """As a superuser, for whom it would be the most."""
    result = command(*words, dsn=as_url(planted))

    assert "planted" not in result.stdout + result.stderr
    assert result.returncode in {0, 1}, result.stderr


@pytest.mark.parametrize("text", [pytest.param(script, id="sql"), pytest.param(roles_script, id="roles")])
def test_no_script_calls_what_is_planted(planted: str, text: object) -> None:
    """Also from psql: it says where to look by itself. Roles are of the whole server, so none is left of them."""
    assert callable(text)
    with psycopg.connect(planted, autocommit=False) as careless:
        if text is script:
            careless.execute(b"drop schema celery_journal cascade")
        careless.execute(text().removeprefix("begin;").removesuffix("commit;\n").encode())
        careless.rollback()


def test_no_call_from_python_finds_what_is_planted(planted: str) -> None:
    """A connection of the caller's own is as it was afterwards."""
    with psycopg.connect(planted, autocommit=True) as careless:
        migrate(careless)
        rebuild(careless)
        assert verify(careless).differences == []
        assert careless.execute(b"show search_path").fetchone() == ("public, pg_catalog",)


def test_a_connection_of_ours_looks_into_pg_catalog_alone(planted: str) -> None:
    """Temporary tables come last."""
    with connect(planted) as connection:
        assert connection.execute(b"show search_path").fetchone() == ("pg_catalog,pg_temp",)
