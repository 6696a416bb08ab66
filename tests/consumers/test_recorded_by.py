"""Who acted: what a client says of itself, and beside it the login that the database knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from psycopg.conninfo import make_conninfo

from celery_journal.consumers.cli.main import main
from celery_journal.journal import Connection
from celery_journal.journal.events import TaskFailed
from tests.conftest import empty
from tests.roles import with_roles

from .lostscene import Log
from .test_cli import as_url

LOGIN = "recorded_by_app"


@pytest.fixture
def database(embedded_database: str) -> str:
    return embedded_database


def run(dsn: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--dsn", as_url(dsn), *arguments])


def test_a_client_may_call_itself_anything_and_the_login_stands_beside_it(
    dsn: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LOGNAME=ceo is a word; the login is from the database, wherever it is told who acted."""
    Log(connection).tell(TaskFailed, "a", name="app.send")
    monkeypatch.setenv("LOGNAME", "ceo")

    with with_roles(dsn, **{LOGIN: "writer"}):
        noted = run(make_conninfo(dsn, user=LOGIN), "annotate", "a", "--note", "paid", "--yes")

    assert noted.exit_code == 0, noted.output
    for command in ("history", "show", "tail"):
        told = run(dsn, *((command, "a") if command != "tail" else (command,))).stdout
        assert "by ceo@" in told
        assert f"(login {LOGIN})" in told, command
    assert json.loads(run(dsn, "history", "a", "--json").stdout)[-1]["recorded_by"] == LOGIN
    assert json.loads(run(dsn, "tail", "--json").stdout)[-1]["recorded_by"] == LOGIN
    assert json.loads(run(dsn, "show", "a", "--json").stdout)["actions"][0]["recorded_by"] == LOGIN


@pytest.mark.parametrize("form", ["jsonl", "msgpack"])
def test_an_export_says_who_recorded_and_an_import_is_recorded_by_who_brings_it(
    dsn: str, connection: Connection, tmp_path: Path, form: str
) -> None:
    """A file could say anything; so what it says of logins stays in the file. It is the same fact all the same."""
    Log(connection).tell(TaskFailed, "a", name="app.send")
    file = tmp_path / "export"
    assert run(dsn, "export", "--format", form, "-o", str(file)).exit_code == 0
    data = file.read_bytes()
    (login,) = connection.execute("select session_user::text").fetchone() or ("",)
    assert b"recorded_by" in data

    assert run(dsn, "import", str(file), "--yes").stdout.endswith("1 known already, 0 conflicting\n")
    empty(connection)
    assert run(dsn, "import", str(file), "--yes").stdout.startswith("imported 1 event")

    assert connection.execute("select recorded_by from celery_journal.event").fetchall() == [(login,)]
