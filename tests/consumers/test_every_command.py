"""Every command there is: on a terminal and in a pipe, on an empty journal and a large one, without a database, with a bad query.

Commands are found by walking the group, so that a new one is tried as well; what it is run with stands in ARGUMENTS.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest

from celery_journal.consumers.cli import main
from celery_journal.consumers.spool import packed, spool_of
from celery_journal.journal import Emitter, migrate
from celery_journal.journal.events import ChordStarted, GroupSaved, OperatorActed, TaskFailed, TaskLost, TaskSent, TaskStarted
from celery_journal.journal.workers import WorkerOnline
from tests.conftest import new_database

from . import manytasks
from .commanding import Commands, Ended
from .lostscene import Log, ago
from .test_cli import as_url

#: How each command is run where it needs to be told something, or would not end by itself. `{folder}` is one of the test's own.
ARGUMENTS = {
    "annotate": ["task-000100", "--note", "seen", "--dry-run"],
    "capture": ["--broker", "memory://", "--once"],
    "explain": ["task-000100"],
    "graph": ["task-000100"],
    "history": ["task-000100"],
    "import": ["{folder}/nothing.jsonl", "--dry-run"],
    "projections rebuild": ["--yes"],
    "replay": ["task-000100", "--dry-run", "--broker", "memory://"],
    "revoke": ["task-000100", "--dry-run", "--broker", "memory://"],
    "show": ["task-000100"],
    "stale": ["--seconds", "10"],
    "top": ["--once"],
    "watch": ["--exec", "true", "--once"],
}

#: Those that start a worker, or bring the whole log to the screen.
NOT_HERE = {"demo", "export"}

#: Those that tell something without a database.
WITHOUT_DATABASE = {"sql", "roles", "spool"}

#: Those whose words are a query.
SEARCHING = ["list", "stats", "tail"]

NOWHERE = "postgresql://me@127.0.0.1:1/app"


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield every command, as it is typed."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
            if command.invoke_without_command:
                yield (*path, name)
        else:
            yield (*path, name)


def named(paths: Iterable[tuple[str, ...]]) -> list[Any]:
    """Return the commands as parameters."""
    return [pytest.param(path, id=" ".join(path)) for path in paths]


EVERY = list(leaves(main))
TRIED = [path for path in EVERY if path[0] not in NOT_HERE]
QUICK = [path for path in TRIED if path[0] not in {"capture", "projections"}]
PLACES = [pytest.param(False, id="in a pipe"), pytest.param(True, id="on a terminal")]


def arguments_of(path: tuple[str, ...], folder: object) -> list[str]:
    """Return the command with what it needs."""
    return [*path, *(argument.format(folder=folder) for argument in ARGUMENTS.get(" ".join(path), []))]


def is_told(ended: Ended, *codes: int) -> None:
    """Assert that the command ended as it should, and not with a traceback of its own."""
    assert ended.code in codes, ended
    assert not re.search(r"Traceback \(most recent call last\):\s+File ", ended.text), ended.said


@pytest.fixture(scope="module")
def empty_journal(embedded_server: str) -> Iterator[str]:
    """A journal without any fact."""
    for dsn in new_database(embedded_server):
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
        yield as_url(dsn)


@pytest.fixture(scope="module")
def many_tasks(embedded_server: str) -> Iterator[str]:
    """A journal with 200,000 tasks."""
    for dsn in new_database(embedded_server):
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
            manytasks.fill(connection)
        yield as_url(dsn)


@pytest.mark.parametrize("terminal", PLACES)
@pytest.mark.parametrize("path", named(TRIED))
def test_on_an_empty_journal(path: tuple[str, ...], terminal: bool, commands: Commands, empty_journal: str, tmp_path: object) -> None:
    """Nothing to tell is told, or is exit code 1 of what was asked for by its id."""
    is_told(commands.run(*arguments_of(path, tmp_path), dsn=empty_journal, terminal=terminal), 0, 1, 2, 7)


@pytest.mark.parametrize("terminal", PLACES)
@pytest.mark.parametrize("path", named(QUICK))
def test_on_two_hundred_thousand_tasks(
    path: tuple[str, ...], terminal: bool, commands: Commands, many_tasks: str, tmp_path: object
) -> None:
    """As much is told as there is room for."""
    is_told(commands.run(*arguments_of(path, tmp_path), dsn=many_tasks, terminal=terminal), 0, 1, 2, 7)


@pytest.mark.parametrize("path", named(TRIED))
def test_without_a_database(path: tuple[str, ...], commands: Commands, tmp_path: object) -> None:
    """One sentence with the place, and exit code 3; what needs no database does without."""
    ended = commands.run(*arguments_of(path, tmp_path), dsn=NOWHERE)

    if path[0] in WITHOUT_DATABASE and len(path) == 1:
        is_told(ended, 0)
    else:
        is_told(ended, 2, 3)
        assert ended.code == 2 or "no PostgreSQL answers at me@127.0.0.1:1/app" in ended.err


def test_a_rebuild_that_only_says_what_it_would_do_needs_the_database_too(commands: Commands, empty_journal: str) -> None:
    """Or else it would promise what cannot be done."""
    nowhere, there = (commands.run("projections", "rebuild", "--dry-run", dsn=dsn) for dsn in (NOWHERE, empty_journal))

    is_told(nowhere, 3)
    is_told(there, 0)
    assert there.out.startswith("would rebuild task_result")


@pytest.mark.parametrize("path", [*([name] for name in SEARCHING), ["list", "--order"], ["show"], ["history"]])
def test_a_database_that_is_not_named_is_wrong_usage(path: list[str], commands: Commands) -> None:
    """Exit code 2, and how to name one."""
    ended = commands.run(*path, *(["x"] if path[-1] in {"--order", "show", "history"} else []))

    is_told(ended, 2)
    assert "--dsn" in ended.err


@pytest.mark.parametrize("name", ["list", "show", "history", "explain"])
def test_no_more_than_a_second(name: str, commands: Commands, many_tasks: str) -> None:
    """On 200,000 tasks. Half of the second is the start of Python, which is over here; the quickest of five, for the machine does more."""

    def took() -> float:
        began = time.monotonic()
        is_told(commands.run(*arguments_of((name,), ""), dsn=many_tasks), 0)
        return time.monotonic() - began

    assert any(took() < 0.5 for _ in range(5))


@pytest.mark.parametrize(
    "word", ["state:FAILURE", "-worker:w3", "since:1h", "args.user_id:42", "args.0:77", "error:x", "took:>5s", "billing"]
)
def test_a_query_of_two_hundred_thousand_tasks_is_quick(word: str, commands: Commands, many_tasks: str) -> None:
    """Also where no index knows what is asked for, and every row is looked at."""
    began = time.monotonic()
    is_told(commands.run("list", word, dsn=many_tasks), 0, 1)

    assert time.monotonic() - began < 2


def test_a_page_is_what_the_terminal_shows_and_more_is_said(commands: Commands, many_tasks: str) -> None:
    """M23: the first fifty of those found, and that there are more."""
    ended = commands.run("list", "state:FAILURE", dsn=many_tasks, terminal=True)

    assert ended.text.count(" FAILURE ") == 50
    assert "there are more than 50;" in ended.text


def test_who_counts_lines_in_a_pipe_is_told_that_there_are_more(commands: Commands, many_tasks: str) -> None:
    """Beside the lines, whatever their form: fifty are not all, and `wc -l` does not know."""
    for form in ([], ["--json"], ["--jsonl"]):
        ended = commands.run("list", "state:FAILURE", *form, dsn=many_tasks)

        assert ended.err == "there are more than 50; narrow the query, or say --limit 0\n"
        assert "more than" not in ended.out
    assert commands.run("list", "id:task-0001*", "state:FAILURE", dsn=many_tasks).err == ""


# Narrow terminals


@pytest.mark.parametrize("columns", [40, 60, 80])
@pytest.mark.parametrize(
    "path",
    [["list", "task-0001"], ["stats"], ["top", "--once"], ["history", "task-000100"], ["spool"], ["stale"]],
    ids=lambda path: path[0],
)
def test_a_narrow_terminal_is_not_overrun(path: list[str], columns: int, commands: Commands, many_tasks: str) -> None:
    """No line is longer than the terminal, unless it is one word, such as a path: that is never broken."""
    ended = commands.run(*path, dsn=many_tasks, terminal=True, COLUMNS=str(columns))

    is_told(ended, 0, 1)
    lines = [line for line in ended.text.splitlines() if not line.startswith(("no task", "there is no"))]
    assert not [line for line in lines if len(line) > columns and " " in line.strip()]


def test_what_waits_under_other_words_is_told_on_a_narrow_terminal(
    commands: Commands, many_tasks: str, spool_folder: Path, emitter: Emitter
) -> None:
    """Between words, as all prose."""
    spool_of("postgresql://somebody@a.host.of.theirs/journal", "celery_journal", spool_folder).put(packed(emitter.emit(TaskStarted, "a")))

    ended = commands.run("spool", dsn=many_tasks, terminal=True, COLUMNS="60", CELERY_JOURNAL_SPOOL=str(spool_folder))

    lines = ended.text.splitlines()
    assert "for somebody@a.host.of.theirs/journal, schema" in lines
    assert not [line for line in lines if len(line) > 60 and " " in line.strip()]


def test_a_narrow_terminal_shows_names_and_whole_numbers(commands: Commands, many_tasks: str) -> None:
    """A number whose end is on the next line would be taken for another; what has no room is left out."""
    narrow = {
        path: commands.run(path, "--once" if path == "top" else "name:shop.task1", dsn=many_tasks, terminal=True, COLUMNS="40").text
        for path in ("top", "stats")
    }

    assert re.search(r"^shop\.task0 +1 +0 +0 *$", narrow["top"], re.MULTILINE), narrow["top"]
    assert re.search(r"^shop\.task1 +\d,\d{3} +0 *$", narrow["stats"], re.MULTILINE), narrow["stats"]


# Wrong words


BAD = [
    pytest.param("colour:red", "there is no colour:", id="unknown"),
    pytest.param("stat:FAILURE", "perhaps state:", id="misspelt"),
    pytest.param("state:", "has no value; write state:FAILURE,RETRY", id="without a value"),
    pytest.param("since:yesteryear", "is no moment", id="no moment"),
    pytest.param("since:99999999999w", "longer than time is reckoned", id="too long ago"),
    pytest.param("retries:many", "write retries:2 or retries:>2", id="no number"),
    pytest.param("took:5s", "write took:>10s", id="no comparison"),
    pytest.param("lost:perhaps", "write lost:yes or lost:no", id="neither yes nor no"),
    pytest.param("-colour:red", "there is no colour:", id="not unknown"),
    pytest.param("\x1b]0;x\x07:y", "means nothing", id="terminal escape"),
]


@pytest.mark.parametrize("terminal", PLACES)
@pytest.mark.parametrize(("word", "sentence"), BAD)
def test_a_bad_word_is_one_sentence(word: str, sentence: str, terminal: bool, commands: Commands, empty_journal: str) -> None:
    """Exit code 2, and what there is; of every command that takes a query."""
    for name in SEARCHING:
        ended = commands.run(name, word, dsn=empty_journal, terminal=terminal)

        is_told(ended, 2)
        assert sentence in ended.said
        assert "\x07" not in ended.said
        assert len(ended.said.strip().splitlines()) <= 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["list", "--dsn", "x"], "--dsn stands before the command: celery-journal --dsn ... COMMAND", id="after the command"),
        pytest.param(
            ["list", "--since", "1h"], "there is no option --since; write a word, without hyphens: since:2h", id="a word as an option"
        ),
        pytest.param(["tail", "--state", "x"], "write a word, without hyphens: state:FAILURE,RETRY", id="another"),
    ],
)
def test_an_option_that_is_none_is_told_as_what_it_is_meant_to_be(arguments: list[str], sentence: str, commands: Commands) -> None:
    """Wrong usage, and what would be right."""
    ended = commands.run(*arguments, dsn=NOWHERE)

    is_told(ended, 2)
    assert sentence in ended.err


@pytest.mark.parametrize("task_id", [pytest.param("", id="empty"), pytest.param("x" * 2501, id="long")])
@pytest.mark.parametrize(
    "path", [["annotate", "--note", "x"], ["replay", "--broker", "memory://"], ["revoke", "--unknown", "--broker", "memory://"]]
)
def test_an_id_that_no_task_has_is_wrong_usage(path: list[str], task_id: str, commands: Commands, empty_journal: str) -> None:
    """Before anybody is told to revoke it."""
    ended = commands.run(*path, "--yes", task_id, dsn=empty_journal)

    is_told(ended, 2)
    assert "no task has an id that is empty, or longer than 2,500 bytes" in ended.err


def test_words_that_found_nothing_and_may_be_wrong_are_doubted(commands: Commands, many_tasks: str) -> None:
    """FAILED is what people write at three in the morning, and that there is none would be taken for good news."""
    for path in (["list"], ["stats"], ["annotate", "--note", "x", "--yes", "--filter"]):
        ended = commands.run(*path, "state:FAILED", dsn=many_tasks)

        assert ended.err == "FAILED is none of Celery's states; perhaps you mean FAILURE\n"
    assert "is in the future: it is " in commands.run("stats", "--since", "2999-01-01", dsn=many_tasks).err
    assert commands.run("list", "state:FAILED,FAILURE", "--limit", "0", dsn=many_tasks).err == ""


def test_a_field_that_does_not_exist_is_told_with_those_that_do(commands: Commands, empty_journal: str) -> None:
    """M22: also in --order."""
    ended = commands.run("list", "--order", "colour; drop table", dsn=empty_journal)

    is_told(ended, 2)
    assert "task_result has no field" in ended.err
    assert "date_done" in ended.err


# Outputs that fail


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "<&-", "| head -1"])
@pytest.mark.parametrize("path", ["list --json", "list --limit 0", "show task-000100", "tail -n 3000", "doctor", "migrate"])
def test_an_output_that_takes_no_more_is_no_traceback(path: str, redirection: str, many_tasks: str) -> None:
    """A full disk, a closed output, and a pipe whose reader has seen enough."""
    command = f"set -o pipefail; {shlex.quote(sys.executable)} -m celery_journal.consumers.cli {path} {redirection}"

    ended = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "CELERY_JOURNAL_DSN": many_tasks},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert ended.returncode in {0, 1}
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    if redirection == ">/dev/full":
        assert ended.stderr.endswith("Error: standard output cannot be written: No space left on device\n")


def test_a_schema_that_is_not_ours_is_one_sentence(commands: Commands, embedded_server: str) -> None:
    """Somebody has dropped what we need; nothing of a list is printed then."""
    for dsn in new_database(embedded_server):
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
            connection.execute("drop view celery_journal.task_result cascade")
        ended = commands.run("list", "--json", dsn=as_url(dsn))

        is_told(ended, 6)
        assert ended.out == ""
        assert "run: celery-journal migrate" in ended.err


# Help


GROUPS = [(name,) for name, command in main.commands.items() if isinstance(command, click.Group)]


@pytest.mark.parametrize("path", named([*EVERY, *GROUPS]))
def test_help_has_an_example(path: tuple[str, ...], commands: Commands) -> None:
    """`--help` of each shows how it is typed, and fits a terminal of 160 columns."""
    ended = commands.run(*path, "--help")

    assert ended.code == 0
    assert re.search(rf"^ +(celery-journal|celery -A \w+ journal)( --dsn \S+)? .*\b{path[-1]}\b", ended.out, re.MULTILINE), ended.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands(shell: str, commands: Commands) -> None:
    """As click gives it: a script to be sourced, which asks the command."""
    script = commands.run(_CELERY_JOURNAL_COMPLETE=f"{shell}_source")

    assert script.code == 0
    assert "_CELERY_JOURNAL_COMPLETE" in script.out
    completed = commands.run(_CELERY_JOURNAL_COMPLETE="bash_complete", COMP_WORDS="celery-journal hist", COMP_CWORD="1")
    assert completed.out == "plain,history\n"


# What users write is shown and not obeyed


EVIL = "a\x1b]0;owned\x07\x1b[2J\rb\x9b31m\u202ec[bold]"


@pytest.fixture(scope="module")
def evil_journal(embedded_server: str) -> Iterator[str]:
    """A journal in which every name, argument and traceback would write to the terminal."""
    for dsn in new_database(embedded_server):
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
            log = Log(connection)
            told = {"name": EVIL, "worker": EVIL, "queue": EVIL, "root_id": EVIL, "run": "r"}
            log.tell(
                TaskSent,
                EVIL,
                occurred_at=ago(8000),
                name=EVIL,
                queue=EVIL,
                args=json.dumps([EVIL]).encode(),
                kwargs=json.dumps({EVIL: EVIL}).encode(),
                message={"headers": {EVIL: EVIL}, "exchange": EVIL, "sent_by": EVIL},
                embedded=json.dumps({"chain": [{"task": EVIL, "options": {"task_id": f"{EVIL} next"}}]}).encode(),
                embedded_content_type="application/json",
                meta=json.dumps({EVIL: EVIL}).encode(),
            )
            log.tell(TaskStarted, EVIL, occurred_at=ago(7900), **told)
            log.tell(OperatorActed, EVIL, author=EVIL, action=EVIL, reason=EVIL)
            log.tell(TaskLost, EVIL, reason=EVIL)
            failed = json.dumps({"exc_type": EVIL, "exc_message": [EVIL]}).encode()
            ended = {"result": failed, "content_type": "application/json", "traceback": f"{EVIL}\n{EVIL}"}
            log.tell(TaskFailed, "failed", occurred_at=ago(10), group_id=EVIL, **ended, **told)
            log.tell(TaskFailed, "binary", result=b"\x80\x9b\x1b", content_type="application/x-python-serialize", **told)
            log.tell(GroupSaved, EVIL, members=("failed", EVIL))
            log.tell(ChordStarted, EVIL, size=2, task_id=f"{EVIL} body")
            log.tell(WorkerOnline, EVIL, pid=1, meta=json.dumps({"queues": [EVIL], "software": EVIL, "freq": 2}).encode())
        yield as_url(dsn)


TELLING = [
    pytest.param([*command, *form], id=" ".join([*command[:1], *form, *(command[-1:] if command[0] == "graph" else [])]))
    for command in (
        ["list"],
        ["show", EVIL],
        ["show", "failed"],
        ["history", EVIL],
        ["explain", EVIL],
        ["tail"],
        ["top", "--once"],
        ["stats", "--since", "all"],
        ["stale"],
        ["lost", "--grace", "0.001"],
        ["graph", EVIL],
        ["graph", EVIL, "--format", "mermaid"],
        ["graph", EVIL, "--format", "dot"],
        ["graph", EVIL, "--format", "svg"],
    )
    for form in ([], ["--json"], ["--jsonl"])
]


@pytest.mark.parametrize("terminal", PLACES)
@pytest.mark.parametrize("arguments", TELLING)
def test_escape_sequences_are_shown_and_not_obeyed(arguments: list[str], terminal: bool, commands: Commands, evil_journal: str) -> None:
    """Of names, ids, arguments, tracebacks, workers, queues and reasons: nothing but our own colours reaches the terminal."""
    ended = commands.run(*arguments, dsn=evil_journal, terminal=terminal)

    is_told(ended, 0, 1)
    assert "owned" in ended.said
    text = ended.text if terminal else ended.said
    assert not [char for char in text if not char.isprintable() and char not in "\n\t"], repr(text)


@pytest.mark.parametrize(
    "path", [["list"], ["history", EVIL], ["show", EVIL], ["tail"], ["top", "--once"], ["stats", "--since", "all"], ["graph", EVIL]]
)
def test_no_color_is_heeded(path: list[str], commands: Commands, evil_journal: str) -> None:
    """Of a terminal that wants none: bold is no colour."""
    coloured = commands.run(*path, dsn=evil_journal, terminal=True)
    plain = commands.run(*path, dsn=evil_journal, terminal=True, NO_COLOR="1")

    assert STYLED.search(coloured.said)
    assert not re.search(r"\x1b\[(?:\d+;)*(?:3\d|9\d|4\d)(?:;\d+)*m", plain.said)


STYLED = re.compile(r"\x1b\[\d")


# What users write is no SQL


INJECTIONS = [
    "'; drop table celery_journal.task_result_row; --",
    '"; select pg_sleep(9)',
    "\\",
    "%s %(x)s {condition}",
    "$1",
    "x' or '1'='1",
    "*'*",
    "[1,2",
    '{"a": {"b": ["\\u0000"]}}',
    "\ud800",
]


@pytest.mark.parametrize("name", SEARCHING)
def test_no_word_of_a_query_is_sql(name: str, commands: Commands, evil_journal: str) -> None:
    """M22: what is not a value is refused; test_search tries every word."""
    for injection in INJECTIONS:
        is_told(commands.run(name, injection, f"name:{injection}", f"-args.x:{injection}", dsn=evil_journal), 0, 1, 2)
        is_told(commands.run(name, f"since:{injection}", dsn=evil_journal), 2)

    assert "owned" in commands.run("list", dsn=evil_journal).said


@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("name", ["show", "history", "explain", "graph"])
def test_no_id_is_sql(name: str, injection: str, commands: Commands, evil_journal: str) -> None:
    """Of these nothing was ever heard."""
    is_told(commands.run(name, injection, dsn=evil_journal), 1)


# What is added while one looks


@pytest.mark.parametrize("path", [["top", "--interval", "0.2"], ["tail", "--follow"]])
def test_ctrl_c_ends_what_goes_on_by_itself(path: list[str], commands: Commands, evil_journal: str) -> None:
    """As it should: exit code 0, and no word of it."""
    ended = commands.run(*path, dsn=evil_journal, terminal=True, interrupt_at="owned")

    is_told(ended, 0)
    assert "Abort" not in ended.said


@pytest.mark.parametrize(
    ("path", "at"),
    [
        pytest.param(["list", "--limit", "0", "--jsonl"], "task_id", id="at work"),
        pytest.param(["annotate", "task-000100", "--note", "x"], "[y/N]", id="asked"),
    ],
)
def test_what_was_interrupted_has_an_exit_code_of_its_own(path: list[str], at: str, commands: Commands, many_tasks: str) -> None:
    """Not 1, which means that something was found."""
    ended = commands.run(*path, dsn=many_tasks, terminal=True, interrupt_at=at)

    is_told(ended, 130)
    assert ended.text.endswith("Error: interrupted\n")
