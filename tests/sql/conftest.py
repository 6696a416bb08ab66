"""A database that a test may do anything to: the next one gets it bare again."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from celery_journal.journal import Connection
from tests.conftest import new_database


@pytest.fixture(scope="module")
def spare_database(server: str) -> Iterator[str]:
    """A database for the tests of a module; creating one for each would take longer than the tests."""
    yield from new_database(server)


@pytest.fixture
def bare(spare_database: str) -> Iterator[Connection]:
    """A connection to a database with nothing in it."""
    with psycopg.connect(spare_database, autocommit=True) as connection:
        strip(connection)
        yield connection


def strip(connection: Connection) -> None:
    """Remove every schema but those that a database always has."""
    found = connection.execute("select nspname from pg_namespace where nspname !~ '^pg_|^public$|^information_schema$'").fetchall()
    for (schema,) in found:
        connection.execute(f"drop schema {schema} cascade".encode())
