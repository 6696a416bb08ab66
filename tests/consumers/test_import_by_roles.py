"""Who may import, and that an export has each fact once, whatever places somebody has forged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from celery_journal.journal import Emitter, Journal, role_name
from celery_journal.journal.events import TaskSent, TaskSucceeded
from celery_journal.projections import verify
from tests.conftest import empty
from tests.roles import with_roles

from .test_cli import as_url, command

LOGINS = {f"import_{kind}": kind for kind in ("writer", "reader", "auditor", "importer", "owner")}


@pytest.fixture
def exported(dsn: str, tmp_path: Path) -> Path:
    """The export of a journal, that is empty afterwards."""
    file = tmp_path / "log.jsonl"
    with psycopg.connect(dsn, autocommit=True) as connection:
        Journal().append(connection, Emitter().emit(TaskSent, "t", name="add"), Emitter().emit(TaskSucceeded, "t", name="add"))
        assert command("export", "-o", str(file), dsn=as_url(dsn)).returncode == 0
        empty(connection)
    return file


@pytest.fixture
def roles(dsn: str) -> Iterator[str]:
    """The DSN of a journal with a login for each role; that of the owner acts as the owner."""
    with with_roles(dsn, **LOGINS):
        with psycopg.connect(dsn, autocommit=True) as connection:
            owner = Identifier(role_name(connection, "owner"))
            connection.execute(SQL("alter role import_owner in database {} set role {}").format(Identifier(connection.info.dbname), owner))
        yield dsn


def test_only_the_importer_and_the_owner_import(roles: str, exported: Path) -> None:
    """What comes keeps the moment it was recorded at; the others are refused in one sentence, and change nothing."""
    rows = b"select count(*) from celery_journal.event"
    for login in ("import_writer", "import_reader", "import_auditor"):
        refused = command("import", str(exported), "--yes", dsn=as_url(make_conninfo(roles, user=login)))

        assert refused.returncode == 4, (login, refused.stderr)
        assert refused.stderr.count("\n") == 1
        assert "Traceback" not in refused.stderr
        with psycopg.connect(roles, autocommit=True) as connection:
            assert connection.execute(rows).fetchone() == (0,)

    for login in ("import_importer", "import_owner"):
        done = command("import", str(exported), "--yes", dsn=as_url(make_conninfo(roles, user=login)))

        assert (done.returncode, done.stderr) == (0, ""), login
        with psycopg.connect(roles, autocommit=True) as connection:
            assert connection.execute(rows).fetchone() == (2,)
            recorded = connection.execute("select recorded_at, recorded_by from celery_journal.event order by position").fetchall()
            facts = [json.loads(line) for line in exported.read_text().splitlines() if "recorded_at" in line]
            assert [moment.astimezone(UTC).isoformat() for moment, _ in recorded] == [fact["recorded_at"] for fact in facts]
            assert {by for _, by in recorded} == {login}
            assert verify(connection).differences == []
            empty(connection)


@pytest.mark.parametrize("login", ["import_writer", "import_importer"])
def test_a_place_cannot_be_chosen(roles: str, login: str) -> None:
    """Not even by who may record the past: that is done by a function, which gives places itself."""
    with psycopg.connect(make_conninfo(roles, user=login), autocommit=True) as connection:
        for column, value in (("position", "1"), ("transaction", "'1'"), ("recorded_at", "now()"), ("recorded_by", "'ceo'")):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(
                    f"insert into celery_journal.event (event_id, occurred_at, stream, kind, {column}) "
                    f"values (gen_random_uuid(), now(), 's', 'task-forgotten', {value})".encode()
                )


def test_a_forged_place_neither_doubles_a_fact_nor_hides_one(dsn: str, tmp_path: Path) -> None:
    """A superuser forges what stands at the very place of a true fact: an export has both, each once."""
    file = tmp_path / "log.jsonl"
    with psycopg.connect(dsn, autocommit=True) as connection:
        Journal().append(connection, *(Emitter().emit(TaskSent, f"true-{number}", name="add") for number in range(3)))
        connection.execute(
            "insert into celery_journal.event (transaction, position, event_id, occurred_at, recorded_at, stream, kind, state) "
            "select e.transaction, e.position, celery_journal.first_event_id(e.occurred_at), e.occurred_at, e.recorded_at, 'forged', "
            "'task-succeeded', 'SUCCESS' from celery_journal.event e where e.stream = 'true-1'"
        )

    assert command("export", "-o", str(file), dsn=as_url(dsn)).returncode == 0

    text = file.read_text()
    assert [text.count(f'"{stream}"') for stream in ("true-0", "true-1", "true-2", "forged")] == [1, 1, 1, 1]
