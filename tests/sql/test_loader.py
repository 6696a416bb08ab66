"""Loading SQL from its files, for the schema that was asked for."""

from __future__ import annotations

import pytest

from celery_journal import sql
from celery_journal.journal import Connection, migrate


def test_a_file_is_loaded_as_it_is() -> None:
    """For the default schema nothing is changed, comments included."""
    text = sql.load("schema.sql")

    assert text.startswith("-- ")
    assert "create schema if not exists celery_journal\n" in text


def test_the_schema_is_put_where_the_file_says_celery_journal() -> None:
    """Also inside literals, and not in the middle of longer names."""
    text = sql.load("roles.sql", "audit_trail")

    assert "alter schema audit_trail owner to %I" in text
    assert "'audit_trail'::regnamespace" in text
    assert "celery_journal." not in text


@pytest.mark.parametrize("path", ["journal.sql", "schema.sql", "fold.sql", "projections/task_result.sql"])
def test_sections_come_without_their_comments(path: str) -> None:
    """A named statement is all of its section but the comment lines."""
    statements = sql.queries(path)

    assert statements
    for statement in statements.values():
        assert statement
        assert statement == statement.strip()
        assert not any(line.lstrip().startswith("--") for line in statement.splitlines())


def test_a_section_ends_where_the_next_begins() -> None:
    """A statement has nothing of its neighbours."""
    assert sql.query("schema.sql", "create") == b"create schema if not exists celery_journal"
    assert sql.query("schema.sql", "create", "audit_trail") == b"create schema if not exists audit_trail"


def test_a_statement_that_is_not_there_is_an_error() -> None:
    """A misspelled name does not run something else."""
    with pytest.raises(KeyError):
        sql.query("schema.sql", "creat")


def test_migrations_are_numbered_without_gaps() -> None:
    """The version of a migration is its place, beginning with 1."""
    versions = [version for version, _, _ in sql.migrations()]

    assert versions == list(range(1, len(versions) + 1))
    assert [name[:4] for _, name, _ in sql.migrations()] == [f"{version:04}" for version in versions]


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param("", id="empty"),
        pytest.param("Journal", id="capital letter"),
        pytest.param("audit-trail", id="hyphen"),
        pytest.param("audit trail", id="space"),
        pytest.param("1st", id="digit first"),
        pytest.param("pg_journal", id="reserved by PostgreSQL"),
        pytest.param("j" * 41, id="too long"),
        pytest.param("journal\n", id="line end"),
        pytest.param("jöurnal", id="umlaut"),
        pytest.param("a; drop table b", id="statement"),
        pytest.param('a"b', id="quote"),
    ],
)
def test_a_schema_name_that_needs_quoting_is_refused(schema: str) -> None:
    """The name goes into every statement, so it is checked before it gets there."""
    with pytest.raises(ValueError, match="not usable"):
        sql.load("schema.sql", schema)


def usable(schema: str) -> bool:
    try:
        sql.check_schema_name(schema)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("schema", ["j", "_journal", "journal_2", "j" * 40])
def test_a_plain_schema_name_is_taken(schema: str, bare: Connection) -> None:
    """Lower-case letters, digits and underscores, up to the longest, make a whole schema."""
    migrate(bare, schema)

    assert bare.execute("select to_regclass(%s) is not null", (f"{schema}.event",)).fetchone() == (True,)
