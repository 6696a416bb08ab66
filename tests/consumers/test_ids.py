"""Ids as people type them: whole, or their beginning where that is enough."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
import psycopg
import pytest
from click.testing import CliRunner, Result

from celery_journal import sql
from celery_journal.consumers.cli.ids import whole_id, whole_ids
from celery_journal.consumers.cli.main import main
from celery_journal.journal import Connection, migrate
from celery_journal.journal.events import (
    ChordStarted,
    GroupSaved,
    OperatorActed,
    TaskFailed,
    TaskForgotten,
    TaskSucceeded,
)
from celery_journal.journal.workers import WorkerOnline
from tests.conftest import new_database

from .commanding import Commands
from .lostscene import Log
from .scene import recorded
from .test_cli import as_url

ONE, OTHER = "5b24b0e6-0000-4000-8000-000000000001", "5b24b0e6-0000-4000-8000-000000000002"
ALONE = "9aeca01c-d9dc-4cf2-a392-e1ed8b5e7dab"


@pytest.fixture(scope="module")
def database(embedded_database: str) -> str:
    return embedded_database


@pytest.fixture
def log(connection: Connection) -> Log:
    """Two tasks whose ids begin alike, one that is alone, a saved group and a chord."""
    log = Log(connection)
    for task_id in (ONE, OTHER, ALONE):
        log.tell(TaskFailed, task_id, name="app.send", args=b"[1]", kwargs=b"{}")
    log.tell(GroupSaved, "group-one", members=(ONE,), result=b"[]")
    log.tell(ChordStarted, "chord-one", size=2, result=b"[]", task_id="body-one")
    return log


def run(dsn: str, *arguments: str) -> Result:
    """Run a command, where nobody is at a terminal."""
    return CliRunner().invoke(main, ["--dsn", as_url(dsn), *arguments])


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        pytest.param("9aec", ALONE, id="four-characters"),
        pytest.param(ALONE[:-1], ALONE, id="all-but-one"),
        pytest.param(ONE, ONE, id="whole"),
        pytest.param("group-", "group-one", id="group"),
        pytest.param("chord-o", "chord-one", id="chord"),
        pytest.param("body-one", "body-one", id="body"),
        pytest.param("9ae", "9ae", id="too-short"),
        pytest.param("nobody", "nobody", id="unknown"),
        pytest.param("9aec%", "9aec%", id="no-pattern"),
        pytest.param("9AEC", "9AEC", id="its-case"),
        pytest.param("nul\0", "nul\0", id="what-postgresql-cannot-hold"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_the_beginning_of_an_id_does(typed: str, found: str, log: Log) -> None:
    """Of at least four characters; what begins none is left as it was typed."""
    assert whole_id(log.connection, "celery_journal", typed) == found


def test_several_are_typed_at_once(log: Log) -> None:
    """In their order."""
    typed = ["nobody", "9aeca", ONE, "9aec"]

    assert whole_ids(log.connection, "celery_journal", typed) == ["nobody", ALONE, ONE, ALONE]


def test_what_begins_several_is_refused(log: Log) -> None:
    """With those that it begins, or the first few of them."""
    with pytest.raises(click.UsageError) as two:
        whole_id(log.connection, "celery_journal", "5b24b0e6")
    for number in range(8):
        log.tell(TaskSucceeded, f"many-{number}")
    with pytest.raises(click.UsageError) as many:
        whole_id(log.connection, "celery_journal", "many")

    assert two.value.message == f"5b24b0e6 begins two: {ONE}, {OTHER}"
    assert many.value.message == "many begins more than five: many-0, many-1, many-2, many-3, many-4"


@pytest.mark.parametrize("kind", [TaskSucceeded, TaskForgotten, WorkerOnline, GroupSaved])
def test_an_id_as_it_stands_wins(kind: Any, log: Log) -> None:
    """Also over those that it begins: of a task, a worker, a group, and of a task that has left the views."""
    if kind is TaskForgotten:
        log.tell(TaskSucceeded, "5b24")
    log.tell(kind, "5b24")

    assert whole_id(log.connection, "celery_journal", "5b24") == "5b24"


@pytest.mark.parametrize("command", ["show", "history", "graph", "explain"])
def test_a_command_takes_the_beginning_and_says_the_whole_id(command: str, dsn: str, log: Log) -> None:
    """And that it begins several is a wrong usage, in one sentence."""
    found, several = run(dsn, command, "9aeca01c", *(["--json"] if command == "history" else [])), run(dsn, command, "5b24b0e6")

    assert found.exit_code == 0
    assert ALONE in found.stdout or command == "history"
    assert "task-failed" in found.stdout or command != "history"
    assert (several.exit_code, several.stdout) == (2, "")
    assert f"5b24b0e6 begins two: {ONE}, {OTHER}" in several.stderr


@pytest.mark.parametrize("command", [["tail"], ["list"], ["stats"], ["export", "--format", "csv"]])
@pytest.mark.parametrize("word", ["id:9aeca01c", "-id:5b24b0e6-0000-4000-8000-000000000001,5b24b0e6-0000-4000-8000-000000000002"])
def test_query_words_take_the_beginning(command: list[str], word: str, dsn: str, log: Log) -> None:
    """Of whatever id they say; and one that begins several is refused there too."""
    found, several = run(dsn, *command, word), run(dsn, *command, "root:5b24b0e6")

    assert found.exit_code == 0
    assert ONE not in found.stdout
    assert ALONE in found.stdout or command == ["stats"]
    assert (several.exit_code, "5b24b0e6 begins two" in several.stderr) == (2, True)


def test_what_changes_something_takes_the_beginning(dsn: str, log: Log) -> None:
    """And records it for the whole id; of one that is not known it does nothing."""
    noted, unknown = run(dsn, "annotate", "9aeca01c", "--note", "x", "--yes"), run(dsn, "annotate", "nobody", "--note", "x", "--yes")
    dry = run(dsn, "replay", "9aeca01c", "--broker", "memory://", "--dry-run", "--json")
    found = run(dsn, "revoke", "--broker", "memory://", "9aeca01c", "--filter", "id:5b24b0e6-0000-4000-8000-000000000001", "--dry-run")

    assert (noted.exit_code, noted.stdout) == (0, "annotated 1 task\n")
    assert isinstance(recorded(dsn, ALONE)[-1].event, OperatorActed)
    assert (unknown.exit_code, unknown.stderr) == (1, "the journal knows no task nobody\n")
    assert [one["task_id"] for one in json.loads(dry.stdout)["refused"]] == [ALONE]
    assert f"{ALONE} has ended already" in found.stderr


@pytest.mark.parametrize("command", [["annotate", "--note", "x"], ["replay", "--broker", "memory://"]])
def test_the_question_names_the_whole_id(command: list[str], dsn: str, log: Log, commands: Commands) -> None:
    """So that whoever typed the beginning sees what would be changed."""
    asked = commands.run(*command, "9aeca01c", dsn=as_url(dsn), terminal=True, interrupt_at="[y/N]")

    assert f"{command[0]} 1 task: {ALONE}? [y/N]" in asked.text
    assert asked.code == 130


def test_a_beginning_is_a_range_of_the_keys(embedded_server: str) -> None:
    """Of 100,000 tasks, as of groups and chords: nothing is read but what begins so."""
    for dsn in new_database(embedded_server):
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
            connection.execute(
                """insert into celery_journal.task_result_row (task_id, date_created, date_updated, recorded_at, status, retries)
                   select md5(n::text), now(), now(), now(), 'SUCCESS', 0 from generate_series(1, 100000) n"""
            )
            connection.execute(
                """insert into celery_journal.group_result_row (group_id, date_created, saved_rank, saved_at)
                   select md5(n::text), now(), 0, now() from generate_series(1, 20000) n"""
            )
            connection.execute(
                """insert into celery_journal.chord_counter_row (group_id, date_created, started_rank, size_rank, size)
                   select md5(n::text), now(), 0, 0, 2 from generate_series(1, 20000) n"""
            )
            connection.execute("vacuum analyze")

            for name, parameters in (("beginning", {"beginning": "5b24b", "most": 6}), ("whole", {"ids": ["5b24b", "c4ca"]})):
                explain = b"explain (format json) " + sql.query("ids.sql", name)
                ((plan,),) = connection.execute(explain, parameters).fetchall()
                used = list(scans(plan[0]["Plan"]))

                assert {table for table, is_range in used if not is_range} <= {"worker_row", "chord_part_row"}
                assert "task_result_row" in {table for table, _ in used}


def scans(plan: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Yield the tables that are read, and whether only a range of an index is."""
    if "Relation Name" in plan:
        yield plan["Relation Name"], "Index Cond" in plan or plan["Node Type"] == "Bitmap Heap Scan"
    for child in plan.get("Plans", ()):
        yield from scans(child)
