"""`celery -A proj journal ...`: the same commands, about the journal to which the app's results go (F12)."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from typing import Any

import pytest

from celery_journal.consumers.cli.app import beginning_of
from celery_journal.consumers.cli.app import journal as group
from celery_journal.consumers.cli.main import main
from celery_journal.journal import Connection
from celery_journal.journal.events import TaskFailed

from .commanding import drawn_by
from .lostscene import Log, ago
from .scene import ROOT, url_of


def celery(*arguments: str, **conf: Any) -> subprocess.CompletedProcess[str]:
    """Run `celery -A proj journal ...` for an app with these settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CELERY_JOURNAL_D")}
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tests.consumers.tasks", "journal", *arguments],
        cwd=ROOT,
        env={**environment, "SCENE_CONF": json.dumps({"broker_url": "memory://", **conf})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_it_offers_what_celery_journal_offers() -> None:
    """The very same command objects."""
    assert set(group.commands) == set(main.commands)
    assert all(group.commands[name] is main.commands[name] for name in main.commands)
    assert {"stale", "lost", "explain", "migrate", "projections", "spool"} <= set(group.commands)


def test_the_database_is_that_of_the_result_backend(connection: Connection, dsn: str) -> None:
    """F12: `celery -A proj journal stale --hours 1`, with the exit code of the command."""
    log = Log(connection)
    log.sent(occurred_at=ago(7200))

    stale = celery("stale", "--hours", "1", result_backend=url_of(dsn))
    explained = celery("explain", "t", result_backend=url_of(dsn))
    verified = celery("projections", "verify", result_backend=url_of(dsn))

    assert stale.stdout.startswith("Stale tasks:\n  "), stale.stderr
    assert (stale.returncode, explained.returncode, verified.returncode) == (1, 0, 0)
    assert "queued" in explained.stdout


def test_the_schema_is_that_of_the_apps_options(empty_database: str) -> None:
    """And `migrate` works there too."""
    conf = {"result_backend": url_of(empty_database), "result_backend_transport_options": {"schema": "history"}}

    migrated, stale = celery("migrate", **conf), celery("stale", **conf)

    assert migrated.returncode == 0, migrated.stderr
    assert (stale.returncode, stale.stdout) == (0, "no task is stale: none has waited for longer than 1 h\n")


@pytest.mark.parametrize(
    ("conf", "code", "sentence"),
    [
        pytest.param({}, 2, "the results of this app go to DisabledBackend, not to a journal", id="no backend"),
        pytest.param({"result_backend": "cache+memory://"}, 2, "go to CacheBackend, not to a journal", id="another backend"),
        pytest.param(
            {"result_backend": "journal+postgresql://me@127.0.0.1:1/app"}, 3, "no PostgreSQL answers at me@127.0.0.1:1/app", id="away"
        ),
        pytest.param(
            {"result_backend": "journal+postgresql://x/y", "result_backend_transport_options": {"shema": "a"}},
            2,
            "has no option 'shema'; did you mean 'schema'?",
            id="bad option",
        ),
    ],
)
@pytest.mark.parametrize("name", ["stale", "lost", "explain"])
def test_what_is_wrong_is_one_sentence(name: str, conf: dict[str, Any], code: int, sentence: str) -> None:
    """No traceback."""
    result = celery(name, *(["some-id"] if name == "explain" else []), **conf)

    assert (result.returncode, result.stdout) == (code, "")
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_help_needs_no_journal() -> None:
    """Of the group and of each command, in its long and its short form."""
    for arguments in (["--help"], ["-h"], ["stale", "--help"], ["lost", "-h"]):
        result = celery(*arguments)
        assert (result.returncode, result.stderr) == (0, ""), arguments
        assert "Usage: " in result.stdout


def test_celerys_no_color_is_heeded(connection: Connection, dsn: str) -> None:
    """As NO_COLOR is: on a terminal, where there would be colours else."""
    Log(connection).tell(TaskFailed, "t")

    def drawn(*options: str) -> str:
        environment = {"SCENE_CONF": json.dumps({"broker_url": "memory://", "result_backend": url_of(dsn)})}
        command = [sys.executable, "-m", "celery", *options, "-A", "tests.consumers.tasks", "journal", "list"]
        return drawn_by(command, environment).decode()

    assert "\x1b[1;31mFAILURE" in drawn()
    assert "\x1b[1mFAILURE" in drawn("--no-color")


@pytest.mark.parametrize(
    ("typed", "beginning"),
    [
        pytest.param("/usr/bin/celery -A proj journal lost", "celery -A proj journal", id="as most do"),
        pytest.param("celery --app=proj.celery -q journal spool journal", "celery --app=proj.celery -q journal", id="with options"),
        pytest.param("celery -A journal journal lost", "celery -A journal journal", id="an app called journal"),
        pytest.param("/venv/celery/__main__.py -A proj journal show x", "python -m celery -A proj journal", id="as a module"),
        pytest.param("celery -b amqp://me:s3cret@host// journal lost", "celery -b amqp://... journal", id="with a password"),
        pytest.param("celery --workdir '/my shop' -A proj journal lost", "celery --workdir '/my shop' -A proj journal", id="with a space"),
        pytest.param("pytest", "celery -A proj journal", id="from Python"),
    ],
)
def test_how_the_command_was_begun(typed: str, beginning: str) -> None:
    """As it can be typed again."""
    assert beginning_of(shlex.split(typed)) == beginning


def test_hints_begin_as_the_command_did(connection: Connection, dsn: str, empty_database: str) -> None:
    """Those of commands, of errors, and of what explains: with `celery-journal` there would be no database, and no broker."""
    log = Log(connection)
    log.sent(occurred_at=ago(7200))
    log.online()
    log.started()
    log.offline()

    doctor = celery("doctor", "--json", result_backend=url_of(dsn), result_backend_transport_options={"lost_grace": 0.01})
    unmigrated = celery("list", result_backend=url_of(empty_database))
    forgotten = celery("show", "t", result_backend=url_of(dsn))

    begun = "celery -A tests.consumers.tasks journal"
    advice = {finding["check"]: finding["advice"] for finding in json.loads(doctor.stdout)}
    assert advice["lost tasks"].endswith(f"{begun} lost")
    assert unmigrated.stderr.endswith(f"run: python -m {begun} migrate\n") or unmigrated.stderr.endswith(f"run: {begun} migrate\n")
    assert "celery-journal" not in forgotten.stdout + unmigrated.stderr
