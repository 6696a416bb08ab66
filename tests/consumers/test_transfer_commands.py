"""`celery-journal export` and `celery-journal import`, as people and other programs use them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import Celery
from click.testing import CliRunner, Result

from celery_journal.consumers.cli.main import main
from celery_journal.consumers.transfer.sheet import View, sheet
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import ChordPartReturned, ChordStarted, GroupSaved, TaskFailed, TaskStarted, TaskSucceeded
from celery_journal.journal.workers import WorkerOnline
from tests.conftest import empty

from .test_cli import as_url

EMITTER = Emitter()

#: What a spreadsheet would calculate, and what a terminal would obey.
HOSTILE = "=cmd|'/c calc'!A1"


@pytest.fixture
def connection(embedded_database: str) -> Iterator[Connection]:
    with psycopg.connect(embedded_database, autocommit=True) as connection:
        empty(connection)
        yield connection


@pytest.fixture
def filled(connection: Connection) -> Connection:
    """A journal of two tasks, a group, a chord and a worker."""
    emit = EMITTER.emit
    Journal().append(
        connection,
        emit(WorkerOnline, "w1", pid=1),
        emit(TaskStarted, "t", name=HOSTILE, args=b"[1]", worker="w1", group_id="g", run="r"),
        emit(
            TaskSucceeded, "t", name=HOSTILE, args=b"[1]", worker="w1", group_id="g", run="r", result=b"-1", content_type="application/json"
        ),
        emit(TaskFailed, "u", name="+1", result=b"\x00\xff", traceback='Traceback, "quoted"\r\n\x1b[2J\0'),
        emit(GroupSaved, "g", members=("t",), result=b"[]"),
        emit(ChordStarted, "g", size=2, result=b"[]"),
        emit(ChordPartReturned, "g", task_id="t", group_index=0, state="SUCCESS", result=b"@x"),
    )
    return connection


@pytest.fixture
def run(embedded_database: str) -> Any:
    """Runs the command, and returns how it ended."""

    def invoke(*arguments: str, given: bytes | str | None = None) -> Result:
        return CliRunner().invoke(main, ["--dsn", as_url(embedded_database), *arguments], input=given)

    return invoke


def cells(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def test_an_export_goes_through_a_pipe_into_another_journal(filled: Connection, run: Any) -> None:
    """In either form; what it says of itself goes to standard error."""
    exports = [run("export"), run("export", "--format", "msgpack")]
    empty(filled)

    first, second = (run("import", "-", "--yes", given=export.stdout_bytes) for export in exports)

    assert [export.exit_code for export in exports] == [0, 0]
    assert (first.exit_code, first.stdout) == (0, "imported 7 events; 0 known already, 0 conflicting\n")
    assert (second.exit_code, second.stdout) == (0, "imported 0 events; 7 known already, 0 conflicting\n")
    assert run("projections", "verify").exit_code == 0
    assert run("export").stdout_bytes == exports[0].stdout_bytes


def test_an_empty_journal_has_an_export_too(connection: Connection, run: Any) -> None:
    """Of no events; and every view has its columns."""
    export = run("export")

    assert len(export.stdout.splitlines()) == 2
    assert run("import", "-", "--yes", given=export.stdout).stdout == "imported 0 events; 0 known already, 0 conflicting\n"
    for view in View.__args__:  # type: ignore[attr-defined]
        sheet_of_it = run("export", "--format", "csv", "--view", view)
        assert (sheet_of_it.exit_code, sheet_of_it.stdout_bytes.count(b"\r\n")) == (0, 1)


def test_a_file_appears_when_it_is_complete(filled: Connection, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under its name; what was there before stays until then, and nothing half-written is left."""
    file = tmp_path / "journal.jsonl"
    file.write_text("before")

    with monkeypatch.context() as broken:
        broken.setattr("celery_journal.consumers.transfer.forms.JsonLines.record_of", lambda *_: 1 / 0)
        failed = run("export", "--output", str(file), "--yes")
    assert isinstance(failed.exception, ZeroDivisionError)
    assert (file.read_text(), [path.name for path in tmp_path.iterdir()]) == ("before", ["journal.jsonl"])
    file.chmod(0o600)
    whole = run("export", "--output", str(file), "--yes")

    assert (whole.exit_code, whole.stdout) == (0, "")
    assert whole.stderr == f"exported 7 events to {file}\n"
    assert file.read_bytes() == run("export").stdout_bytes
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]


@pytest.mark.parametrize("form", ["jsonl", "msgpack", "csv"])
def test_an_export_is_for_nobody_elses_eyes(filled: Connection, run: Any, tmp_path: Path, form: str) -> None:
    """Arguments and results are in there."""
    mask = os.umask(0)
    try:
        assert run("export", "--format", form, "--output", str(tmp_path / "export")).exit_code == 0
    finally:
        os.umask(mask)

    assert (tmp_path / "export").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_export_does_not_follow_the_link_of_another_user(filled: Connection, run: Any, tmp_path: Path) -> None:
    """Who would have it written elsewhere; one's own link is followed."""
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("precious")
    link.symlink_to(victim)
    os.chown(link, 65534, 65534, follow_symlinks=False)

    refused = run("export", "--output", str(link), "--yes")

    assert (refused.exit_code, refused.stderr) == (1, f"Error: {link} is a link or a pipe of another user; name another file\n")
    assert victim.read_text() == "precious"


def test_a_file_that_is_there_stays_unless_somebody_says_so(filled: Connection, embedded_database: str, run: Any, tmp_path: Path) -> None:
    """It may be the only copy of another journal: `--yes`, or the answer at a terminal."""
    file = tmp_path / "journal.jsonl"
    file.write_text("before")

    piped = run("export", "-o", str(file), given="y\n")
    declined = at_a_terminal("export", "-o", str(file), dsn=embedded_database, types="n\n")
    assert file.read_text() == "before"
    agreed = at_a_terminal("export", "-o", str(file), dsn=embedded_database, types="y\n")

    assert (piped.exit_code, piped.stdout) == (2, "")
    assert f"{file} is there already; say --yes to write over it, or name another file" in piped.stderr
    assert [code for code, _ in (declined, agreed)] == [0, 0]
    assert all("is there already; write over it?" in told for _, told in (declined, agreed))
    assert file.read_bytes() == run("export").stdout_bytes


def test_a_pipe_is_written_as_it_is(filled: Connection, run: Any, tmp_path: Path) -> None:
    """It must not be replaced by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        assert run("export", "-o", str(pipe)).exit_code == 0
        assert reader.stdout is not None
        assert reader.stdout.read() == run("export").stdout_bytes

    assert pipe.is_fifo()
    assert run("export", "-o", "-").stdout_bytes == run("export").stdout_bytes


def test_query_words_choose(filled: Connection, run: Any) -> None:
    """And exit code 1 says that they find nothing; a word that means nothing is a wrong usage."""
    failed, none, wrong = run("export", "state:FAILURE"), run("export", "-name:*"), run("export", "colour:red")

    assert [json.loads(line)["event"]["stream"] for line in failed.stdout.splitlines()[1:-1]] == ["u"]
    assert (none.exit_code, none.stderr) == (1, "no task is found by these words\n")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "colour" in wrong.stderr


@pytest.mark.parametrize("view", View.__args__)  # type: ignore[attr-defined]
def test_every_view_is_a_sheet(filled: Connection, run: Any, view: str) -> None:
    """With the columns of the view, and a row for each of its rows."""
    rows = cells(run("export", "--format", "csv", "--view", view).stdout_bytes)

    query = f"select * from celery_journal.{view}".encode()
    cursor = filled.execute(query)
    columns = {column.name for column in cursor.description or ()}
    assert len(rows) == len(cursor.fetchall()) > 0
    assert set(rows[0]) == columns - ({"position"} if view == "chord_part" else set())


def test_no_cell_can_start_a_formula_and_none_can_write_to_a_terminal(filled: Connection, run: Any) -> None:
    """RFC 4180: quotes are doubled, lines end as on a telex; moments are in UTC, what is not known is empty."""
    data = run("export", "--format", "csv").stdout_bytes
    first, second = cells(data)

    assert first["task_name"] == f"'{HOSTILE}"
    assert (first["result"], first["result_json"]) == ("'-1", "-1")
    assert second["task_name"] == "'+1"
    assert second["traceback"] == 'Traceback, "quoted"\r\n\\x1b[2J\\x00'
    assert second["result"] == "AP8="
    assert (second["worker"], second["retries"]) == ("", "0")
    assert datetime.fromisoformat(second["date_done"]).utcoffset() == datetime.now(UTC).utcoffset()
    assert not re.search(rb"[\x00\x1b]", data)
    assert [row["result"] for row in cells(run("export", "--format", "csv", "--view", "chord_part").stdout_bytes)] == ["'@x"]


@pytest.mark.parametrize("start", list("=+-@\t\r\n＝＋－＠"))  # noqa: RUF001
def test_each_beginning_of_a_formula_is_escaped(connection: Connection, start: str) -> None:
    """Those that OWASP names."""
    Journal().append(connection, EMITTER.emit(TaskStarted, f"{start}t"))

    (row,) = cells(b"".join(sheet(connection, "celery_journal", "task_result")))

    assert row["task_id"] == f"'{start}t"


@pytest.mark.parametrize("separator", list(";\t\n"))
def test_no_cell_starts_a_formula_where_others_separate_cells(connection: Connection, separator: str) -> None:
    """A spreadsheet in Germany separates cells by semicolons, and takes the rest of the text for the next one."""
    Journal().append(connection, EMITTER.emit(TaskStarted, f"t{separator}=1+1{separator}x"))

    (row,) = cells(b"".join(sheet(connection, "celery_journal", "task_result")))

    assert row["task_id"] == f"t{separator}'=1+1{separator}x"


def test_words_choose_the_rows_of_a_sheet(filled: Connection, run: Any) -> None:
    """Those of the tasks, or those of their groups."""
    for view, found in (("task_result", 1), ("task_attempt", 1), ("group_result", 1), ("chord_counter", 1), ("chord_part", 1)):
        assert len(cells(run("export", "id:t", "--format", "csv", "--view", view).stdout_bytes)) == found
    assert cells(run("export", "id:u", "--format", "csv", "--view", "group_result").stdout_bytes) == []


def test_more_than_a_page_of_keys_is_a_whole_sheet(connection: Connection) -> None:
    """Each row once, by their keys."""
    Journal().append(connection, *(EMITTER.emit(TaskStarted, f"t{number:04}") for number in range(1001)))

    rows = cells(b"".join(sheet(connection, "celery_journal", "task_result")))

    assert [row["task_id"] for row in rows] == [f"t{number:04}" for number in range(1001)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["export", "--view", "worker"], "--view goes with --format csv", id="view of the log"),
        pytest.param(["export", "id:t", "--format", "csv", "--view", "worker"], "--view worker shows all workers", id="words and workers"),
        pytest.param(["import", "-"], "say --yes or --dry-run as well", id="nobody to ask"),
        pytest.param(["import", "x", "--accept", "pickle"], "say --from as well", id="options of another backend"),
        pytest.param(["import", "x", "--timezone", "Mars/Base"], "there is no time zone Mars/Base", id="no zone"),
        pytest.param(["import", "x", "--json"], "say --yes or --dry-run as well", id="json asks nobody"),
    ],
)
def test_wrong_usage_is_one_sentence(connection: Connection, run: Any, arguments: list[str], sentence: str) -> None:
    """With exit code 2."""
    result = run(*arguments)

    assert result.exit_code == 2
    assert sentence in result.stderr


@pytest.mark.parametrize("arguments", [["export"], ["export", "--format", "csv"], ["import", "-", "--yes"]])
def test_without_a_journal_one_sentence_says_so(embedded_server: str, tmp_path: Path, arguments: list[str]) -> None:
    """Exit code 2 where no database is named, 3 where none answers, 6 where it has no journal; and no file is made."""
    output = ["-o", str(tmp_path / "out")] if arguments[0] == "export" else []
    targets: tuple[list[str], ...] = [], ["--dsn", "postgresql://u@127.0.0.1:1/d"], ["--dsn", as_url(embedded_server)]

    ended = [CliRunner().invoke(main, [*target, *arguments, *output], env={"CELERY_JOURNAL_DSN": None}) for target in targets]

    assert [result.exit_code for result in ended] == [2, 3, 6]
    assert all("Error: " in result.stderr and result.stdout == "" for result in ended)
    assert list(tmp_path.iterdir()) == []


def test_import_asks_first(filled: Connection, run: Any, tmp_path: Path) -> None:
    """Unless --yes; --dry-run only counts; --json says it to a program."""
    file = tmp_path / "journal.jsonl"
    run("export", "-o", str(file))
    empty(filled)

    dry = run("import", str(file), "--dry-run")
    refused = run("import", str(file), given="n\n")
    assert filled.execute(b"select count(*) from celery_journal.event").fetchone() == (0,)
    accepted = run("import", str(file), given="y\n")
    as_json = run("import", str(file), "--yes", "--json")

    assert (dry.exit_code, dry.stdout) == (0, "would import 7 events; 0 known already, 0 conflicting\n")
    assert refused.exit_code == 0
    assert f"import {file} into the journal?" in refused.stderr
    assert accepted.stdout == "imported 7 events; 0 known already, 0 conflicting\n"
    told = {"new": 0, "known": 7, "conflicting": 0, "conflicts": [], "refused": 0, "refusals": [], "dry_run": False, "broken": None}
    assert json.loads(as_json.stdout) == told


def test_conflicts_are_listed_and_exit_code_1(filled: Connection, run: Any) -> None:
    """The recorded fact stands."""
    export = run("export").stdout
    (recorded,) = Journal().read_stream(filled, "u")
    empty(filled)
    Journal().append(filled, recorded.event.model_copy(update={"name": "other"}))

    result = run("import", "-", "--yes", given=export)

    assert result.exit_code == 1
    assert result.stdout == (
        "imported 6 events; 0 known already, 1 conflicting\n"
        f"conflicting: {recorded.event.event_id} is in the log with other content, which stands\n"
    )
    assert filled.execute(b"select task_name from celery_journal.task_result where task_id = 'u'").fetchone() == ("other",)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"nonsense\x1b[2J", "that is no export of celery-journal", id="no export"),
        pytest.param(gzip.compress(b"{}"), "the file is compressed; unpack it first", id="compressed"),
        pytest.param(b'{"celery-journal":1,"schema_version":1}\n{"a":"\x1b', "line 2 cannot be read", id="cut"),
        pytest.param(
            b'{"celery-journal":1,"schema_version":1}\n{"recorded_at":"\\u001b[2J","event":{}}\n', "line 2 is no event", id="escape"
        ),
    ],
)
def test_a_broken_file_is_one_sentence(connection: Connection, run: Any, content: bytes, sentence: str) -> None:
    """Which a terminal does not obey."""
    result = run("import", "-", "--yes", given=content)

    assert (result.exit_code, result.stdout) == (1, "imported 0 events; 0 known already, 0 conflicting\n")
    assert sentence in result.stderr
    assert "\x1b" not in result.output


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        pytest.param(lambda lines: lines[:-3], "before the end of the export; it was cut", id="cut"),
        pytest.param(lambda lines: [*lines[:-2], lines[-2].replace(b"g", b"h"), lines[-1]], "its digest is another", id="changed"),
        pytest.param(lambda lines: [*lines[:-2], b"{}\n", lines[-1]], "is no event", id="no event"),
    ],
)
def test_of_a_broken_file_nothing_is_recorded(filled: Connection, run: Any, tmp_path: Path, break_it: Any, sentence: str) -> None:
    """What is in the log stays there, so a file is looked through first; of a pipe that is not possible."""
    lines = run("export").stdout_bytes.splitlines(keepends=True)
    (file := tmp_path / "broken.jsonl").write_bytes(b"".join(break_it(lines)))
    empty(filled)

    ended = run("import", str(file), "--yes")

    assert (ended.exit_code, ended.stdout) == (1, "imported 0 events; 0 known already, 0 conflicting\n")
    assert sentence in ended.stderr
    assert filled.execute(b"select count(*) from celery_journal.event").fetchone() == (0,)


def test_a_file_that_cannot_be_read_or_written_is_one_sentence(connection: Connection, run: Any, tmp_path: Path) -> None:
    """With its name."""
    missing, folder = tmp_path / "missing", tmp_path / "no" / "folder"

    assert run("import", str(missing), "--yes").stderr == f"Error: {missing} cannot be read: No such file or directory\n"
    assert run("import", str(tmp_path), "--yes").stderr == f"Error: {tmp_path} cannot be read: Is a directory\n"
    assert run("export", "-o", str(folder)).stderr == f"Error: {folder} cannot be written: No such file or directory\n"


def test_the_past_of_another_backend_is_imported(connection: Connection, run: Any, tmp_path: Path) -> None:
    """With what is not taken over; once more there is nothing new; the password of the URL is not shown."""
    url = f"sqlite:///{tmp_path / 'results.db'}"
    old = Celery("old", backend=f"db+{url}", set_as_current=False)
    old.backend.mark_as_done("t", 5)
    old.backend.store_result("half\x1b[2J", None, "PROGRESS")

    dry = run("import", "--from", "sqlalchemy", url, "--dry-run")
    first = run("import", "--from", "sqlalchemy", url, "--yes")
    second = run("import", "--from", "sqlalchemy", url, "--yes", "--json")
    failing = run("import", "--from", "redis", "redis://:secret@127.0.0.1:1/0", given="y\n")
    asked = run("import", "--from", "redis", "redis://127.0.0.1:1/0?password=secret", given="y\n")
    unreadable = run("import", "--from", "redis", "redis://:secret@127.0.0.1:port/0", given="y\n")

    left = "not taken over: half\\x1b[2J: it is PROGRESS, and nothing says since when; import again when it has ended\n"
    assert (dry.exit_code, dry.stdout) == (1, f"would take over 1 task and 0 groups; 0 known already\n{left}")
    assert (first.exit_code, first.stdout) == (1, f"took over 1 task and 0 groups; 0 known already\n{left}")
    assert {**json.loads(second.stdout), "untaken": None} == {"tasks": 0, "groups": 0, "known": 1, "untaken": None, "dry_run": False}
    for ended in (failing, asked, unreadable):
        assert (ended.exit_code, type(ended.exception)) == (1, SystemExit)
        assert "secret" not in ended.output


def at_a_terminal(*arguments: str, dsn: str, types: str = "") -> tuple[int, str]:
    """Run the command at a terminal of its own, where somebody types; return its exit code, and what the terminal was told."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "celery_journal.consumers.cli", "--dsn", as_url(dsn), *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    os.write(leader, types.encode())
    told = b""
    with suppress(OSError):  # the end of a terminal
        while part := os.read(leader, 65536):
            told += part
    os.close(leader)
    return process.wait(60), told.decode()


def test_at_a_terminal(filled: Connection, embedded_database: str, tmp_path: Path) -> None:
    """The log is shown, not obeyed; msgpack is for files; progress is shown and goes away."""
    code, told = at_a_terminal("export", dsn=embedded_database)
    assert (code, told.count("\r\n") >= 9, "\x1b[2J" in told, "\\u001b[2J" in told) == (0, True, False, True)
    code, told = at_a_terminal("export", "--format", "msgpack", dsn=embedded_database)
    assert (code, "msgpack is not for a terminal; say --output FILE" in told) == (2, True)
    code, told = at_a_terminal("export", "-o", str(tmp_path / "out"), dsn=embedded_database)
    assert (code, told.endswith(f"exported 7 events to {tmp_path / 'out'}\r\n")) == (0, True)


def test_a_reader_that_goes_away_is_no_error_to_read_about(connection: Connection, embedded_database: str) -> None:
    """`celery-journal export | head -1`."""
    Journal().append(connection, *(EMITTER.emit(TaskStarted, f"t{number}", meta=bytes(500)) for number in range(2000)))
    command = f"{sys.executable} -m celery_journal.consumers.cli --dsn '{as_url(embedded_database)}' export | head -1"

    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)

    assert len(ended.stdout.splitlines()) == 1
    assert ended.stderr == ""
