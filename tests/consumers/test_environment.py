"""Variables of the environment that begin as ours do and set nothing."""

from __future__ import annotations

import logging
import os

import pytest
from click.testing import CliRunner

from celery_journal.consumers.cli import main
from celery_journal.consumers.environment import unknown_variables
from celery_journal.consumers.options import Options

from .scene import new_app

#: What options, commands and the demo are set by.
READ = "POOL_SIZE DSN SCHEMA BROKER DEMO LOST_GRACE LOST_SETTLED SPOOL_DIRECTORY PERIODIC_RUN_YES IMPORT_DRY_RUN WATCH_EXEC WATCH_WEBHOOK"

#: What our tests have, what `watch --exec` tells a command, and Kubernetes where a service is called celery-journal.
OF_OTHERS = "TEST_EFFORT FUZZ ALERT_TASK_ID SERVICE_HOST SERVICE_PORT SERVICE_PORT_HTTP PORT PORT_5432_TCP PORT_5432_TCP_ADDR"


@pytest.fixture(autouse=True)
def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("CELERY_JOURNAL_")]:
        monkeypatch.delenv(name)


def told() -> list[str]:
    return unknown_variables(Options.names())


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        pytest.param("CELERY_JOURNAL_POOLSIZE", "CELERY_JOURNAL_POOL_SIZE", id="an option"),
        pytest.param("CELERY_JOURNAL_SPOOL_MAX_BITES", "CELERY_JOURNAL_SPOOL_MAX_BYTES", id="one that begins as a command"),
        pytest.param("CELERY_JOURNAL_DNS", "CELERY_JOURNAL_DSN", id="the database"),
        pytest.param("CELERY_JOURNAL_SCHEMA_NAME", "CELERY_JOURNAL_SCHEMA", id="the schema"),
    ],
)
def test_a_mistyped_variable_is_named_with_the_nearest(mistyped: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be ignored, and nobody would know."""
    monkeypatch.setenv(mistyped, "7")

    assert told() == [f"{mistyped} in the environment sets nothing; did you mean {meant}?"]


def test_a_variable_like_none_of_ours_is_named_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to propose."""
    monkeypatch.setenv("CELERY_JOURNAL_XYZZY", "7")

    assert told() == ["CELERY_JOURNAL_XYZZY in the environment sets nothing; the journal has no option of that name"]


@pytest.mark.parametrize("name", [*READ.split(), *OF_OTHERS.split()])
def test_a_variable_that_is_read_or_of_others_is_not_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sets something, or it is known whose it is."""
    monkeypatch.setenv(f"CELERY_JOURNAL_{name}", "x")

    assert told() == []


def test_a_worker_warns_and_starts(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The prefix may be a stranger's, for whose variable no worker should stay away; the options that are right hold."""
    monkeypatch.setenv("CELERY_JOURNAL_POOLSIZE", "7")
    monkeypatch.setenv("CELERY_JOURNAL_CHORD_LEASE", "5")

    with caplog.at_level(logging.WARNING):
        options = new_app("journal+postgresql://host/db").backend.options

    assert (options.pool_size, options.chord_lease) == (4, 5)
    assert caplog.messages == ["CELERY_JOURNAL_POOLSIZE in the environment sets nothing; did you mean CELERY_JOURNAL_POOL_SIZE?"]


def test_a_command_says_so_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """On standard error, before what it says itself, though it reads the options as well."""
    monkeypatch.setenv("CELERY_JOURNAL_DNS", "postgresql://me@host/db")

    ended = CliRunner().invoke(main, ["doctor"])

    warning, *_, error = ended.stderr.splitlines()
    assert warning == "Warning: CELERY_JOURNAL_DNS in the environment sets nothing; did you mean CELERY_JOURNAL_DSN?"
    assert error == "Error: no database is named; give --dsn postgresql://user@host/db, or set CELERY_JOURNAL_DSN"
    assert caplog.messages == []
    assert ended.exit_code == 2
