"""Numbers, addresses and rows that nobody sensible gives: one sentence, and never a traceback."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
import pytest

from celery_journal.consumers.options import InvalidOption, Options, locate
from celery_journal.journal import DsnUnreadable

from .commanding import Commands


@pytest.fixture(scope="module")
def database(embedded_database: str) -> str:
    """One server will do: it is what users give that is wrong."""
    return embedded_database


FLOATS = [name for name, field in Options.model_fields.items() if field.annotation is float]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999", "-1", float("inf"), 1e300, "x", None])
def test_seconds_are_numbers_that_a_machine_can_count(name: str, value: object) -> None:
    """Of every option."""
    with pytest.raises(InvalidOption, match=f"option '{name}'"):
        Options.read({name: value})


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://[::1",
        "postgresql://[::1]:x/a",
        "postgresql://u@h:99999999/x",
        "postgresql:///?connect_timeout=inf",
        "host",
        "\0",
        "http://x",
    ],
)
def test_an_address_that_cannot_be_read_is_one_sentence(dsn: str, commands: Commands) -> None:
    """Of whichever library it is that cannot read it."""
    ended = commands.run("--dsn", dsn, "list")

    assert ended.code in {2, 3}
    assert "Traceback" not in ended.err
    assert ended.err.splitlines()[-1].startswith("Error: ")


def test_an_ipv6_address_that_does_not_end_is_no_option() -> None:
    """In the URL of a result backend too."""
    with pytest.raises(DsnUnreadable, match="cannot be read"):
        locate("postgresql://[::1")


@pytest.mark.parametrize("number", ["nan", "inf", "-1", "1e999", "99999999999999999999", "x"])
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("tail", "-n"), id="tail"),
        pytest.param(("list", "--limit"), id="list"),
        pytest.param(("stale", "--older-than"), id="stale"),
        pytest.param(("stats", "--since"), id="stats"),
        pytest.param(("lost", "--grace"), id="lost"),
        pytest.param(("projections", "rebuild", "--chunk"), id="rebuild"),
    ],
)
def test_a_number_that_is_none_is_one_sentence(arguments: tuple[str, ...], number: str, dsn: str, commands: Commands) -> None:
    """Wherever one can be said."""
    ended = commands.run(*arguments, number, dsn=dsn)

    assert "Traceback" not in ended.err
    assert ended.code in {0, 1, 2}


@pytest.mark.parametrize("path", ["/", "/dev/full", "/nowhere/at/all", "/nowhere/\x01"])
def test_a_path_that_is_no_export_is_one_sentence(path: str, dsn: str, commands: Commands) -> None:
    """A folder, a device, nothing."""
    for arguments in (("import", path, "--yes"), ("export", "-o", path, "--yes"), ("spool", "--directory", path)):
        ended = commands.run(*arguments, dsn=dsn)

        assert "Traceback" not in ended.err, arguments
        assert ended.code in {0, 1, 2}


def test_what_a_server_that_only_reads_refuses_is_one_sentence(dsn: str, commands: Commands) -> None:
    """As a standby does."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"alter database {connection.info.dbname} set default_transaction_read_only = on".encode())
    try:
        told = [
            commands.run(*arguments, dsn=dsn) for arguments in (("projections", "verify"), ("projections", "rebuild"), ("spool", "drain"))
        ]
    finally:
        with psycopg.connect(dsn, autocommit=True, options="-c default_transaction_read_only=off") as connection:
            connection.execute(f"alter database {connection.info.dbname} reset all".encode())

    assert all("Traceback" not in ended.err for ended in told), told


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param("task_id text, status text, result blob, date_done text, traceback text", id="no id"),
        pytest.param("id integer primary key, status text", id="no task"),
        pytest.param("id integer primary key, task_id text, status text, result blob, date_done timestamp, traceback text", id="no values"),
    ],
)
def test_rows_of_celery_without_an_id_are_told(columns: str, tmp_path: Path, dsn: str, commands: Commands) -> None:
    """And the others are taken over."""
    pytest.importorskip("sqlalchemy")
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.execute(f"create table celery_taskmeta ({columns})")
        connection.execute("insert into celery_taskmeta default values")

    ended = commands.run("import", "--from", "sqlalchemy", f"sqlite:///{tmp_path / 'old.db'}", "--yes", dsn=dsn)

    assert "Traceback" not in ended.err, ended.err
    assert ended.code == 1
    assert "a row without an id" in ended.out
