"""The command line, as a process of its own, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys

import psycopg
import pytest

from celery_journal.journal import Connection, Emitter, Journal, wanted_version
from celery_journal.journal.events import ChordPartReturned, ChordStarted, GroupSaved, TaskStarted, TaskSucceeded
from celery_journal.sql import migrations


def command(*arguments: str, dsn: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `celery-journal` and return how it ended."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CELERY_JOURNAL_")}
    if dsn is not None:
        environment["CELERY_JOURNAL_DSN"] = dsn
    return subprocess.run(
        [sys.executable, "-m", "celery_journal.consumers.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def as_url(dsn: str) -> str:
    """Return the DSN as a user would write it."""
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    host = f"?host={parts['host']}&port={parts.get('port', 5432)}"
    return f"postgresql://{parts['user']}@/{parts['dbname']}{host}"


def fill(connection: Connection) -> None:
    """Put one task, one group and one chord into the journal."""
    emitter = Emitter()
    Journal().append(
        connection,
        emitter.emit(TaskStarted, "task-1", name="add", worker="w1"),
        emitter.emit(TaskSucceeded, "task-1", name="add", worker="w1", result=b"3", content_type="application/json"),
        emitter.emit(GroupSaved, "group-1", members=("task-1",)),
        emitter.emit(ChordStarted, "chord-1", size=2),
        emitter.emit(ChordPartReturned, "chord-1", task_id="task-1", group_index=0, state="SUCCESS"),
    )


def test_migrate_says_what_it_would_do_does_it_and_has_nothing_more_to_do(empty_database: str) -> None:
    """`migrate --dry-run` changes nothing; `migrate` applies; again, it says so."""
    url = as_url(empty_database)

    dry, first, second = (
        command("--dsn", url, "migrate", "--dry-run"),
        command("--dsn", url, "migrate"),
        command("--dsn", url, "migrate"),
    )

    names = [name for _, name, _ in migrations()]
    assert (dry.returncode, dry.stdout.splitlines()) == (0, [f"would apply {name}" for name in names])
    assert (first.returncode, first.stdout.splitlines()) == (0, [f"applied {name}" for name in names])
    assert second.returncode == 0
    assert f"at version {len(names)} already" in second.stdout


def test_version_tells_the_package_and_what_is_in_the_database(empty_database: str) -> None:
    """Without a database the versions wanted; with one, also the version found."""
    url = as_url(empty_database)

    alone, before = command("version"), command("--dsn", url, "version")
    command("--dsn", url, "migrate")
    after = command("--dsn", url, "version")

    assert alone.stdout.startswith("celery-journal 0.")
    assert f"schema version {wanted_version()}\n" in alone.stdout
    assert "in the database: none" in before.stdout
    assert f"in the database: version {wanted_version()}" in after.stdout


def test_the_printed_schema_creates_a_working_journal(empty_database: str) -> None:
    """`sql` prints what `migrate` would do, under the schema's name that was given."""
    printed = command("--schema", "history", "sql")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(printed.stdout.encode())
        Journal(schema="history").append(connection, Emitter().emit(TaskStarted, "task-1", name="add"))
        found = connection.execute(b"select status from history.task_result").fetchall()

    assert printed.returncode == 0
    assert found == [("STARTED",)]
    assert command("--dsn", as_url(empty_database), "--schema", "history", "version").stdout.endswith(f"version {wanted_version()}\n")


def test_verify_compares_every_row_and_ends_with_0(dsn: str, connection: Connection) -> None:
    """Where the views are what the log says, `projections verify` counts the rows and ends with 0."""
    fill(connection)

    result = command("projections", "verify", dsn=dsn)

    assert result.returncode == 0, result.stderr
    assert "compared 2 rows of task_result" in result.stdout  # the task, and its run
    assert result.stdout.endswith("5 rows compared, all identical\n")


def test_verify_names_what_differs_and_ends_with_1_until_a_rebuild(dsn: str, connection: Connection) -> None:
    """A row that was tampered with is named with its columns; `projections rebuild` puts it right."""
    fill(connection)
    connection.execute(b"update celery_journal.task_result_row set status = 'FAILURE', result = null")
    connection.execute(b"delete from celery_journal.group_result_row")

    tampered, rebuilt, repaired = (
        command("projections", "verify", dsn=dsn),
        command("projections", "rebuild", dsn=dsn),
        command("projections", "verify", dsn=dsn),
    )

    assert tampered.returncode == 1
    assert "task_result: task-1 differs in task_result_row: result, status" in tampered.stdout
    assert "group_result: group-1 is missing in group_result_row" in tampered.stdout
    assert "celery-journal projections rebuild" in tampered.stdout
    assert rebuilt.returncode == 0
    assert "rebuilt task_result from 5 events" in rebuilt.stdout
    assert repaired.returncode == 0


def test_a_rebuild_takes_names(dsn: str, connection: Connection) -> None:
    """Only what is named is rebuilt."""
    fill(connection)

    result = command("projections", "rebuild", "chord_counter", dsn=dsn)

    assert "rebuilt chord_counter" in result.stdout
    assert "task_result" not in result.stdout


PASSWORD = "hush-hush"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        pytest.param(["migrate"], 2, "no database is named", id="no database named"),
        pytest.param(["--dsn", "mysql://x/y", "migrate"], 2, "knows no mysql:// URL", id="another database's URL"),
        pytest.param(["--dsn", "embedded://relative", "migrate"], 2, "absolute path", id="relative embedded path"),
        pytest.param(["--schema", "Bad Name", "migrate"], 2, "lower-case letters", id="bad schema name"),
        pytest.param(["projections", "verify", "nonsense"], 2, "'nonsense' is not one of", id="unknown projection"),
        pytest.param(
            ["--dsn", f"postgresql://me:{PASSWORD}@127.0.0.1:1/app", "migrate"],
            3,
            "no PostgreSQL answers at me@127.0.0.1:1/app",
            id="unreachable",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_an_exit_code(arguments: list[str], exit_code: int, sentence: str) -> None:
    """No traceback, nothing on standard output, and never the password."""
    result = command(*arguments)

    assert result.returncode == exit_code
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert PASSWORD not in result.stderr
    assert result.stdout == ""


def test_a_missing_database_and_a_missing_schema_have_exit_codes_of_their_own(empty_database: str) -> None:
    """5 where the server has no such database, 6 where the database has no journal; each says what to run."""
    url = as_url(empty_database)
    name = psycopg.conninfo.conninfo_to_dict(empty_database)["dbname"]

    no_database = command("--dsn", url.replace(f"/{name}?", "/nowhere?"), "migrate")
    no_schema = command("--dsn", url, "projections", "verify")

    assert (no_database.returncode, no_schema.returncode) == (5, 6)
    assert "createdb nowhere" in no_database.stderr
    assert f"run: celery-journal --dsn '{url}' migrate" in no_schema.stderr


def test_a_refused_login_has_an_exit_code_of_its_own(empty_database: str) -> None:
    """4 where the server answers and does not let the user in."""
    url = as_url(empty_database)
    stranger = "postgresql://stranger@" + url.partition("@")[2]

    result = command("--dsn", stranger, "migrate")

    assert result.returncode == 4
    assert 'knows no such login (role "stranger" does not exist)' in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("version", "advice"), [pytest.param(0, "migrate", id="older"), pytest.param(99, "pip install", id="newer")])
def test_another_version_of_the_schema_says_which_command_to_run(empty_database: str, version: int, advice: str) -> None:
    """6 where the schema is older or newer than the package."""
    url = as_url(empty_database)
    command("--dsn", url, "migrate")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(b"delete from celery_journal.migration where version > 1")
        connection.execute(b"update celery_journal.migration set version = %s", (version,))

    result = command("--dsn", url, "projections", "verify")

    assert result.returncode == 6
    assert advice in result.stderr


def test_who_may_not_rebuild_is_told_so(dsn: str, connection: Connection) -> None:
    """A user without the rights gets one sentence, and the live views stay as they are."""
    fill(connection)
    connection.execute(b"create role looker login")
    try:
        connection.execute(b"grant usage on schema celery_journal to looker")
        connection.execute(b"grant select on all tables in schema celery_journal to looker")
        connection.execute(b"grant execute on all functions in schema celery_journal to looker")

        result = command("--dsn", "postgresql://looker@" + as_url(dsn).partition("@")[2], "projections", "rebuild")

        assert result.returncode == 4
        assert "run this as the owner" in result.stderr
        assert "Traceback" not in result.stderr
        assert connection.execute(b"select count(*) from celery_journal.task_result").fetchone() == (1,)
    finally:
        connection.execute(b"drop owned by looker; drop role looker")


def test_every_command_has_help_with_an_example() -> None:
    """`--help` of each shows how it is typed."""
    for path in ([], ["migrate"], ["sql"], ["roles"], ["version"], ["demo"], ["projections", "rebuild"], ["projections", "verify"]):
        result = command(*path, "--help")

        assert result.returncode == 0
        assert "\n  celery-journal " in result.stdout, path
