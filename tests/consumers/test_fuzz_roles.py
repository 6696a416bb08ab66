"""Whatever a writer may insert, broadcast or hand over: the sweeps of a worker go on, and every command ends, whoever runs it.

Each role logs in with a password, on PostgreSQL 18 and on that of the machine. Commands are found by walking the group.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import psycopg
import pytest
from click.testing import Result
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier, Literal

from celery_journal.consumers.backend import JournalBackend
from celery_journal.consumers.backend.sweeper import Sweeper
from celery_journal.consumers.broadcast import Recorder
from celery_journal.consumers.broadcast.delivery import Delivery
from celery_journal.consumers.cli import main
from celery_journal.consumers.transfer.archive import archive
from celery_journal.consumers.transfer.forms import FORMS
from celery_journal.journal import Connection, Journal, connect, migrate, role_name
from celery_journal.journal.events import ChordPartReturned, ChordStarted, TaskSucceeded
from celery_journal.projections import verify
from tests.conftest import LOCAL_SERVER, answers, empty, new_database, require
from tests.roles import KINDS

from .fuzzing import FUZZ, ROWS, SUBJECTS, TIMES, plain, row_of, run, write
from .lostscene import SOON, Log
from .scene import kinds, new_app, until, url_of
from .test_broadcast_judging import Message
from .test_every_command import leaves
from .test_fuzz import MESSAGES

ROLES = KINDS

PASSWORD = "geheim-7f3a-fuzz"

#: What a command is told besides its subject, where it needs to be told something or would not do all of its work.
TOLD: dict[str, list[list[str]]] = {
    "annotate": [["--note", "seen", "--hidden", "--yes"]],
    "capture": [["--broker", "memory://", "--once", "--linger", "0"]],
    "doctor": [[], ["--payloads"]],
    "export": [["-o", "{folder}/log.jsonl", "--yes"], ["--format", "msgpack", "-o", "{folder}/log.msgpack", "--yes"]]
    + [
        ["--format", "csv", "--view", view, "-o", "{folder}/view.csv", "--yes"]
        for view in ("task_result", "task_attempt", "group_result", "chord_counter", "chord_part", "worker")
    ],
    "import": [["{folder}/log.jsonl", "--yes"], ["{folder}/log.msgpack", "--dry-run"]],
    "lost": [[], ["--grace", "0.05", "--fail", "--yes"]],
    "migrate": [["--yes"]],
    "projections rebuild": [["--yes"]],
    "replay": [["--also-succeeded", "--also-unfinished", "--broker", "memory://", "--yes"]],
    "revoke": [["--unknown", "--broker", "memory://", "--yes"]],
    "spool drain": [["--yes"]],
    "stale": [["--seconds", "1"]],
    "tail": [["-n", "50"]],
    "top": [["--once"]],
    "watch": [["--exec", "true", "--once", "--from-start"]],
}

#: Those whose subjects may be left out, and that do nothing then.
ABOUT_TASKS = {"annotate", "replay", "revoke"}

#: This starts a server and a worker of its own.
NOT_HERE = {"demo"}

#: What a role is refused, which all others may; the owner may do all.
WRITING = {"annotate", "capture", "lost --fail", "replay", "revoke"}
OF_THE_OWNER = {"migrate", "projections rebuild"}
REFUSED: dict[str, set[str]] = {
    "owner": set(),
    "writer": {"import", "projections verify"} | OF_THE_OWNER,
    "reader": {"import", "projections verify", "watch"} | WRITING | OF_THE_OWNER,
    "auditor": {"import"} | WRITING | OF_THE_OWNER,
    "importer": {"projections verify"} | OF_THE_OWNER,
}


def commands(group: click.Group = main) -> Iterator[tuple[str, click.Command, list[str]]]:
    """Yield every command that ends by itself, with each of what it is told."""
    for path in leaves(group):
        if path[0] in NOT_HERE:
            continue
        command: click.Command = group
        for name in path:
            assert isinstance(command, click.Group)
            command = command.commands[name]
        for told in TOLD.get(" ".join(path), [[]]):
            yield " ".join(path), command, told


EVERY = list(commands())


def typed(path: str, command: click.Command, told: list[str], folder: Path, subject: str, as_json: bool = False) -> list[str]:
    """Return the command as it is typed, about the subject where it is about one."""
    options = ["--json"] if as_json and any("--json" in parameter.opts for parameter in command.params) else []
    wants = any(isinstance(parameter, click.Argument) and parameter.required for parameter in command.params) and path != "import"
    return [
        *path.split(),
        *(word.format(folder=folder) for word in told),
        *options,
        *(["--", subject] if wants or path in ABOUT_TASKS else []),
    ]


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """A journal with roles, whose logins have passwords; and a worker's backend on it."""

    #: That of the administrator.
    dsn: str
    #: By role.
    logins: dict[str, str]
    backend: JournalBackend

    @contextmanager
    def connected(self, role: str) -> Iterator[Connection]:
        """A connection of that role, as the package makes them."""
        with closing(connect(self.logins[role])) as connection:
            yield connection

    def run(self, role: str, arguments: list[str]) -> Result:
        """Run the command as that role: no traceback, no password, and a sentence where it is refused."""
        result = run(self.logins[role], *arguments)
        assert result.exit_code in {0, 1, 2, 4, 7}, (role, arguments, result.output)
        assert PASSWORD not in result.output, (role, arguments)
        if result.exit_code == 4:
            refusal = result.stderr.splitlines()[-1]
            assert re.fullmatch(r"Error: (permission denied|must be owner|the login \S+ may not) .*", refusal), (
                role,
                arguments,
                result.stderr,
            )
        if result.exit_code == 0 and "--json" in arguments:
            json.loads(result.stdout)
        return result


@pytest.fixture(scope="module", params=[pytest.param("scram", id="18 with passwords"), pytest.param("local", id="local")])
def fuzzed(request: pytest.FixtureRequest) -> Iterator[Fuzzed]:
    """A journal with all roles on each server in turn, that only this module writes to."""
    if request.param == "scram":
        server = request.getfixturevalue("scram_server").dsn
    else:
        require("PostgreSQL", answers(LOCAL_SERVER))
        server = LOCAL_SERVER
    for dsn in new_database(server):
        names = {role: f"fuzz_{role}_{uuid4().hex[:8]}" for role in ROLES}
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection, roles=True)
            roles = {role: role_name(connection, role) for role in ROLES}
            for role, name in names.items():
                create = SQL("create role {} login password {} in role {}")
                connection.execute(create.format(Identifier(name), Literal(PASSWORD), Identifier(roles[role])))
            logins = {role: make_conninfo(dsn, user=name, password=PASSWORD) for role, name in names.items()}
            options = {"sweep_interval": 0.02, "lost_grace": 0.05}
            app = new_app(url_of(logins["writer"]), result_backend_transport_options=options)
            try:
                yield Fuzzed(dsn, logins, app.backend)
            finally:
                app.backend.database.close()
                for name in (*names.values(), *roles.values()):
                    leave = SQL("reassign owned by {0} to current_user; drop owned by {0}; drop role {0}")
                    connection.execute(leave.format(Identifier(name)))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("CELERY_JOURNAL_SPOOL", str(tmp_path_factory.mktemp("spool")))


@pytest.fixture
def empty_log(fuzzed: Fuzzed) -> Iterator[Connection]:
    """The administrator's connection, to empty the log with."""
    with psycopg.connect(fuzzed.dsn, autocommit=True) as connection:
        empty(connection)
        yield connection


# The sweeps


def tell_of_innocents(log: Log) -> None:
    """A task that is lost, a chord whose body nobody has sent, and one whose member ended without its part."""
    log.online("innocent worker", queues=("innocent",), freq=SOON)
    log.sent("innocent task", queue="innocent")
    log.started("innocent task", worker="innocent worker", queue="innocent")
    for chord in ("innocent chord", "innocent late chord"):
        options = {"task_id": f"body of {chord}"}
        body: dict[str, Any] = {"task": "scene.sum", "args": [], "kwargs": {}, "options": options, "subtask_type": None}
        started = {"callback": json.dumps(body).encode(), "callback_content_type": "application/json", "task_id": f"body of {chord}"}
        header = json.dumps([[[f"member of {chord}", None], None]]).encode()
        log.tell(ChordStarted, chord, result=header, content_type="application/json", content_encoding="utf-8", size=1, **started)
    result = {"result": b"1", "content_type": "application/json", "content_encoding": "utf-8"}
    log.tell(ChordPartReturned, "innocent chord", task_id="member of innocent chord", group_index=0, state="SUCCESS", **result)
    log.tell(TaskSucceeded, "member of innocent late chord", group_id="innocent late chord", group_index=0, **result)


class Heard(logging.Handler):
    """What the package logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record))


#: What a sweep says that could not do its work.
STOPPED = ("the sweep failed", "must wait", "could not be looked for", "the search for lost chords failed")


@contextmanager
def hearing() -> Iterator[list[str]]:
    """What the package logs in the block."""
    handler, logger = Heard(), logging.getLogger("celery_journal")
    logger.addHandler(handler)
    try:
        yield handler.records
    finally:
        logger.removeHandler(handler)


def sweep(fuzzed: Fuzzed) -> None:
    """Have a worker sweep until the innocents are helped; no sweep may have failed."""
    with fuzzed.connected("writer") as connection:
        tell_of_innocents(Log(connection))
    sweeper = Sweeper(fuzzed.backend)
    with hearing() as heard:
        sweeper.start()
        try:
            until(lambda: "task-lost" in kinds(fuzzed.dsn, "innocent task") or said(heard), 60)
            chords = ("innocent chord", "innocent late chord")
            until(lambda: all("chord-unlocked" in kinds(fuzzed.dsn, chord) for chord in chords) or said(heard), 120)
        finally:
            sweeper.stop()
            sweeper.join()
    assert not said(heard)


def unlocked_or_stopped(dsn: str, chord: str, heard: list[str]) -> bool:
    """Return whether the body of the chord was sent, or a sweep failed."""
    return "chord-unlocked" in kinds(dsn, chord) or bool(said(heard))


def said(heard: list[str]) -> list[str]:
    """Return what a sweep said that failed as a whole."""
    return [text for text in heard if any(words in text for words in STOPPED)]


def run_all(fuzzed: Fuzzed, folder: Path, subjects: list[str], first: int, as_json: bool) -> None:
    """Run every command, each as the next of the roles, which begin with `first`; then the views are right."""
    for number, (path, command, told) in enumerate(EVERY):
        if path == "capture":  # takes a second to find that nobody broadcasts anything
            continue
        role = ROLES[(first + number) % len(ROLES)]
        fuzzed.run(role, typed(path, command, told, folder, subjects[number % len(subjects)], as_json))
    with fuzzed.connected("auditor") as connection:
        assert not verify(connection).differences


#: Not made smaller when one fails: each runs forty commands.
QUICK = settings(FUZZ, max_examples=3 * TIMES, phases=[Phase.explicit, Phase.reuse, Phase.generate])


def test_no_row_stops_a_sweep_or_a_command_of_anybody(fuzzed: Fuzzed, empty_log: Connection, tmp_path: Path) -> None:
    """By INSERT or COPY, whatever the constraints let through."""

    @QUICK
    @given(st.lists(ROWS, min_size=1, max_size=12), st.booleans(), st.integers(0, len(ROLES) - 1), st.booleans())
    def goes_on(rows: list[dict[str, Any]], by_copy: bool, first: int, as_json: bool) -> None:
        empty(empty_log)
        with fuzzed.connected("writer") as connection:
            write(connection, rows, by_copy=by_copy)

        sweep(fuzzed)
        run_all(fuzzed, tmp_path, [*(row["stream"] for row in rows), *SUBJECTS], first, as_json)

    goes_on()


BROADCASTS = [
    "task-sent",
    "task-received",
    "task-started",
    "task-retried",
    "task-succeeded",
    "task-failed",
    "task-revoked",
    "task-rejected",
]
BROADCASTS += ["worker-online", "worker-heartbeat", "worker-offline"]


def _broadcast(name: str, message: dict[str, Any], whole: bool) -> dict[str, Any]:
    told = {"type": name, "uuid": "task-1", "hostname": "w@h", "timestamp": time.time(), "pid": 1, "clock": 1, "utcoffset": 0}
    return {**told, **message} if whole else message


BROADCAST = st.builds(_broadcast, st.sampled_from(BROADCASTS), MESSAGES, st.sampled_from([True, True, True, False]))


def test_no_sixty_broadcasts_stop_a_sweep_or_a_command(fuzzed: Fuzzed, empty_log: Connection, tmp_path: Path) -> None:
    """Anybody can publish to the exchange, in one message or in many."""

    @QUICK
    @given(st.lists(BROADCAST, min_size=1, max_size=60), st.integers(1, 60), st.integers(0, len(ROLES) - 1), st.booleans())
    def goes_on(events: list[dict[str, Any]], together: int, first: int, shared: bool) -> None:
        empty(empty_log)
        recorder = Recorder(Journal(), shared=shared)
        messages = [json.dumps(plain(events[start : start + together])).encode() for start in range(0, len(events), together)]
        recorder.take(Delivery(Message(message), time.monotonic()) for message in messages)
        with fuzzed.connected("writer") as connection:
            recorder.record(connection, all_of_it=True)
        assert recorder.waiting == 0

        sweep(fuzzed)
        run_all(fuzzed, tmp_path, ["task-1", "w@h", *SUBJECTS], first, False)

    goes_on()


def test_no_export_stops_an_import_or_a_command(fuzzed: Fuzzed, empty_log: Connection, tmp_path: Path) -> None:
    """Of rows that no table has checked, with bytes that somebody has changed."""

    @QUICK
    @given(st.data(), st.sampled_from(["jsonl", "msgpack"]), st.integers(0, len(ROLES) - 1))
    def goes_on(data: st.DataObject, form: str, first: int) -> None:
        empty(empty_log)
        rows = [plain(row_of(row)) for row in data.draw(st.lists(ROWS, min_size=1, max_size=6))]
        header, end = list(archive([], FORMS[form]))
        lines = [FORMS[form].written({"recorded_at": row["occurred_at"], "event": row} if form == "jsonl" else row) for row in rows]
        file = bytearray(header + b"".join(lines) + end)
        for _ in range(data.draw(st.sampled_from([0, 0, 1, 3]))):
            file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
        (tmp_path / f"made.{form}").write_bytes(bytes(file))

        for role in ("importer", "owner"):
            fuzzed.run(role, ["import", str(tmp_path / f"made.{form}"), "--yes"])
        sweep(fuzzed)
        run_all(fuzzed, tmp_path, SUBJECTS, first, False)

    goes_on()


# Who may do what


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_refused_with_a_sentence_what_it_may_not_do(role: str, fuzzed: Fuzzed, empty_log: Connection, tmp_path: Path) -> None:
    """Exit code 4; and what it may do it is not refused."""
    with fuzzed.connected("writer") as connection:
        tell_of_innocents(Log(connection))
    for path, command, told in EVERY:
        if path == "export":
            fuzzed.run("owner", typed(path, command, told, tmp_path, ""))

    refused = set()
    for path, command, told in EVERY:
        if fuzzed.run(role, typed(path, command, told, tmp_path, "innocent task")).exit_code == 4:
            refused.add(f"{path} --fail" if "--fail" in told else path)

    assert refused == REFUSED[role]
