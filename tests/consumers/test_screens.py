"""What people see of one recorded night, at four widths; kept as text under screens/, to be looked at."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from celery_journal.consumers.transfer.restoring import restore
from celery_journal.journal import Journal, migrate
from tests.conftest import new_database

from .commanding import Commands
from .night import LOG, NOW, id_of, written
from .scene import ROOT
from .test_cli import as_url

#: Where they are kept; REWRITE_SCREENS=1 writes them anew.
SCREENS = Path(__file__).with_name("screens")

#: Of a database of its own: there it is the moment at which somebody looks, and stays so. Nothing else has ages stand still, for what a
#: session of ours calls is PostgreSQL's own clock wherever it is looked for.
STOPPED = (
    "create or replace function pg_catalog.clock_timestamp() returns timestamptz language sql volatile as $$ select timestamptz '{}' $$"
)

COMMANDS = {
    "status": ["status"],
    "queues": ["queues"],
    "workers": ["workers"],
    "list": ["list", "--limit", "12"],
    "list-failed": ["list", "state:FAILURE", "-name:shop.mail.*"],
    "errors": ["errors"],
    "stale": ["stale", "--minutes", "10"],
    "stale-few": ["stale", "--hours", "1"],
    "lost": ["lost"],
    "show-failed": ["show", id_of("charge 0")],
    "show-long": ["show", id_of("import")],
    "show-group": ["show", id_of("parcel")[:8]],
    "explain": ["explain", id_of("charge 2")],
    "explain-lost": ["explain", id_of("newsletter 3")],
    "history": ["history", id_of("charge 0")],
}

#: What docs/commands.md shows of them, on a terminal of 80.
SHOWN = ["lost", "list-failed", "show-group"]


@pytest.fixture(scope="module")
def recorded(embedded_server: str) -> Iterator[str]:
    """The journal of that night, at the moment at which somebody looks."""
    for dsn in new_database(embedded_server):
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(STOPPED.format(NOW.isoformat()).encode())
            migrate(connection)
            with LOG.open("rb") as file:
                (*_, restored) = restore(connection, Journal(), file)
        assert (restored.refused, restored.conflicting) == (0, 0), restored
        yield dsn


def test_the_night_is_as_it_is_written() -> None:
    """Otherwise run `python -m tests.consumers.night`. It was exported by an older version, and that is what a log of a night is."""
    kept, told = (log.splitlines()[1:-1] for log in (LOG.read_bytes(), written()))  # between the version and the checksum
    assert kept == told


@pytest.mark.parametrize("name", SHOWN)
def test_the_examples_of_the_docs_are_of_these_screens(name: str) -> None:
    """As they are kept: what has changed there has to be changed here."""
    screen = (SCREENS / f"{name}.80.txt").read_text(encoding="utf-8")

    assert f"```console\n$ celery-journal {shlex.join(COMMANDS[name])}\n{screen}```\n" in (ROOT / "docs/commands.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("width", [60, 80, 100, 160])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_screen_is_as_it_was_looked_at(name: str, width: int, recorded: str, commands: Commands) -> None:
    """Otherwise look at the difference, and if that is meant: REWRITE_SCREENS=1 python -m pytest tests/consumers/test_screens.py."""
    kept = SCREENS / f"{name}.{width}.txt"

    ended = commands.run(*COMMANDS[name], dsn=as_url(recorded), terminal=True, COLUMNS=str(width), LINES="40")
    told = "".join(f"{line.rstrip()}\n" for line in ended.text.splitlines())

    if os.environ.get("REWRITE_SCREENS"):
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(told, encoding="utf-8")
    assert told == kept.read_text(encoding="utf-8"), test_a_screen_is_as_it_was_looked_at.__doc__


@pytest.mark.parametrize("name", COMMANDS)
def test_a_terminal_of_three_columns_has_all_of_it(name: str, recorded: str, commands: Commands) -> None:
    """Whatever it looks like: nothing divides by what is left of it."""
    narrow, wide = (commands.run(*COMMANDS[name], dsn=as_url(recorded), terminal=True, COLUMNS=columns) for columns in ("3", "160"))

    assert narrow.code == wide.code
    assert narrow.text.count("Traceback") == wide.text.count("Traceback")
    assert len(narrow.text.splitlines()) >= len(wide.text.splitlines())
