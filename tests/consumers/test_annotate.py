"""The command by which people note something about tasks (M76, F28)."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from celery_journal.consumers.cli.main import main
from celery_journal.journal import Connection
from celery_journal.journal.events import ChordStarted, OperatorActed, TaskFailed, TaskSucceeded
from celery_journal.projections import FieldError, TaskResult, verify

from .lostscene import Log
from .scene import recorded, row
from .test_cli import as_url


@pytest.fixture
def database(embedded_database: str) -> str:
    return embedded_database


@pytest.fixture
def log(connection: Connection) -> Log:
    """Two tasks that failed, and one that did not."""
    log = Log(connection)
    for task_id, kind in (("a", TaskFailed), ("b", TaskFailed), ("c", TaskSucceeded)):
        log.tell(kind, task_id, name="app.send")
    return log


def annotate(dsn: str, *arguments: str) -> Result:
    """Run the command, where nobody is at a terminal."""
    return CliRunner().invoke(main, ["--dsn", as_url(dsn), "annotate", *arguments])


def notes(dsn: str, task_id: str) -> list[dict[str, Any]]:
    """Return what was noted about the task."""
    wanted = ("action", "reason", "label")
    events = [place.event for place in recorded(dsn, task_id) if isinstance(place.event, OperatorActed)]
    told = ((event.model_dump(include=set(wanted), exclude_none=True), event.marks) for event in events)
    return [said | marks for said, marks in told]


def test_a_note_is_a_fact_in_the_log(dsn: str, log: Log) -> None:
    """M76, F28: with who said so; the task stays what it is."""
    before = row(dsn, "a")

    ended = annotate(dsn, "a", "--note", "the bank was down", "--label", "bank", "--resolved", "--hidden", "--yes")

    assert (ended.exit_code, ended.stdout) == (0, "annotated 1 task\n")
    assert notes(dsn, "a") == [{"action": "annotate", "reason": "the bank was down", "label": "bank", "resolved": True, "hidden": True}]
    assert "@" in str(recorded(dsn, "a")[-1].event.model_dump()["author"])
    assert row(dsn, "a") == before
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert not verify(connection).differences


def test_what_query_words_find_is_annotated(dsn: str, log: Log) -> None:
    """And can be taken back."""
    first = annotate(dsn, "--filter", "state:FAILURE", "--hidden", "--yes", "--json")
    annotate(dsn, "a", "--shown", "--unresolved", "--yes")

    assert sorted(json.loads(first.stdout)["task_ids"]) == ["a", "b"]
    assert notes(dsn, "a") == [{"action": "annotate", "hidden": True}, {"action": "annotate", "hidden": False, "resolved": False}]
    assert notes(dsn, "c") == []


def listed(dsn: str, *words: str) -> set[str]:
    """Return the tasks that `list` shows."""
    ended = CliRunner().invoke(main, ["--dsn", as_url(dsn), "list", *words, "--jsonl"])
    return {json.loads(line)["task_id"] for line in ended.stdout.splitlines()}


def test_what_is_resolved_need_not_be_found_again(dsn: str, log: Log) -> None:
    """M76: whatever was said last counts."""
    annotate(dsn, "a", "b", "--resolved", "--yes")
    annotate(dsn, "b", "--unresolved", "--note", "it came back", "--yes")
    annotate(dsn, "a", "--note", "see the post-mortem", "--yes")

    assert listed(dsn, "state:FAILURE", "resolved:no") == {"b"}
    assert listed(dsn, "resolved:yes") == {"a"} == listed(dsn, "-resolved:no")
    assert listed(dsn, "state:FAILURE") == {"a", "b"}


def test_what_is_hidden_is_not_listed_unless_it_is_asked_for(dsn: str, log: Log) -> None:
    """F28: the archived flag, as a field of queries."""
    annotate(dsn, "a", "--hidden", "--yes")

    assert listed(dsn) == {"b", "c"} == listed(dsn, "hidden:no")
    assert listed(dsn, "hidden:yes") == {"a"} == listed(dsn, "-hidden:no")
    with psycopg.connect(dsn, autocommit=True) as connection:
        tasks = TaskResult.objects.using(connection)
        assert [task.task_id for task in tasks.filter(hidden=True)] == ["a"]
        assert {row["task_id"]: row["hidden"] for row in tasks.values("task_id", "hidden")} == {"a": True, "b": False, "c": False}
    annotate(dsn, "a", "--shown", "--yes")
    assert listed(dsn) == {"a", "b", "c"}


def test_a_mark_is_yes_or_no(dsn: str) -> None:
    """And a program says True or False."""
    ended = CliRunner().invoke(main, ["--dsn", as_url(dsn), "list", "resolved:perhaps"])

    assert (ended.exit_code, "write resolved:yes or resolved:no" in ended.stderr) == (2, True)
    with psycopg.connect(dsn, autocommit=True) as connection, pytest.raises(FieldError):
        list(TaskResult.objects.using(connection).filter(hidden="yes"))


def test_a_task_that_nobody_knows_is_told(dsn: str, log: Log) -> None:
    """Exit code 1; the others are annotated, and nothing is recorded of one that does not exist."""
    ended = annotate(dsn, "a", "evil\x1b[2J", "--note", "x", "--yes")

    assert (ended.exit_code, ended.stdout) == (1, "annotated 1 task\n")
    assert ended.stderr == "the journal knows no task evil\\x1b[2J\n"
    assert recorded(dsn, "evil\x1b[2J") == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["a"], "there is nothing to note; give --note", id="nothing"),
        pytest.param(["--note", "x"], "no task is named", id="nobody"),
        pytest.param(["a", "--note", "x"], "there is nobody to ask; say --yes or --dry-run", id="nobody to ask"),
    ],
)
def test_wrong_usage_is_one_sentence(dsn: str, log: Log, arguments: list[str], sentence: str) -> None:
    """Exit code 2, and nothing is recorded."""
    ended = annotate(dsn, *arguments)

    assert (ended.exit_code, sentence in ended.stderr) == (2, True)
    assert notes(dsn, "a") == []


def test_dry_run_only_says(dsn: str, log: Log) -> None:
    """What would be done."""
    assert annotate(dsn, "a", "b", "--note", "x", "--dry-run").stdout.startswith("would annotate 2 tasks\n")
    assert notes(dsn, "a") == []


def test_a_group_is_its_tasks(dsn: str, log: Log) -> None:
    """Nobody would see what is noted about the group itself; a chord too."""
    for task_id in ("x", "y"):
        log.tell(TaskFailed, task_id, group_id="g")
    log.tell(ChordStarted, "g", size=2)

    ended = annotate(dsn, "g", "--resolved", "--yes")

    assert (ended.exit_code, ended.stdout) == (0, "annotated 2 tasks\n")
    assert [notes(dsn, stream) for stream in ("x", "y", "g")] == [[{"action": "annotate", "resolved": True}]] * 2 + [[]]
