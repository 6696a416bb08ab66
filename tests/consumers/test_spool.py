"""The spool: what it is given it keeps, in order, on disk, and hands to the log once."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from psycopg.conninfo import make_conninfo

from celery_journal.consumers.drain import Drained, drain
from celery_journal.consumers.spool import Spool, SpoolFailed, SpoolFull, packed, spool_of, spools_in, unpacked
from celery_journal.journal import Connection, Emitter, Journal, PayloadTooLarge, redact
from celery_journal.journal.codec import encode
from celery_journal.journal.events import Event, TaskFailed, TaskSucceeded
from tests.strategies import events, unknown_events

from .scene import ask, kinds, start
from .test_cli import as_url, command


@pytest.fixture(scope="module")
def database(embedded_database: str) -> str:
    """One server will do: what it refuses is the same for all."""
    return embedded_database


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool"


@pytest.fixture
def spool(dsn: str, folder: Path) -> Spool:
    """The spool of the test's journal, with nothing in it yet."""
    return spool_of(dsn, "celery_journal", folder)


@pytest.fixture
def run(dsn: str) -> Iterator[Callable[[Callable[[Connection], object]], object]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield lambda work: work(connection)


Run = Callable[[Callable[[Connection], object]], object]


def put(spool: Spool, emitter: Emitter, *streams: str) -> list[TaskSucceeded]:
    """Put a fact of each stream there, one by one."""
    facts = [emitter.emit(TaskSucceeded, stream, result=stream.encode()) for stream in streams]
    for fact in facts:
        spool.put(packed(fact))
    return facts


def streams(dsn: str) -> list[str]:
    """Return the streams of the log, in its order."""
    return [stream for (stream,) in ask(dsn, b"select stream from celery_journal.event order by position")]


def away(work: Callable[[Connection], object]) -> object:
    """A database that does not answer."""
    with psycopg.connect("host=127.0.0.1 port=1") as connection:
        return work(connection)


# What goes in comes out


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(events() | unknown_events())
def test_any_event_comes_back_as_the_same_row_of_the_log(event: Event) -> None:
    """Whatever users put into an event, and kinds of newer versions: what is recorded late is what would have been recorded."""
    again = unpacked(packed(event))

    assert encode(again) == encode(event)
    assert type(again) is type(event)


def test_an_event_above_the_limit_is_refused_before_it_is_kept(emitter: Emitter) -> None:
    """The caller learns of it at once, and not an hour later from a log."""
    with pytest.raises(PayloadTooLarge):
        packed(emitter.emit(TaskSucceeded, "a", result=b"x" * 1000), 999)


def test_what_is_put_there_leaves_in_the_same_order(spool: Spool, emitter: Emitter, dsn: str, run: Run) -> None:
    """More than fit into one append, and each once."""
    names = [f"t{number}" for number in range(1200)]
    spool.put(*(packed(emitter.emit(TaskSucceeded, name)) for name in names))

    assert drain(spool, Journal(), run) == Drained(recorded=1200)

    assert streams(dsn) == names
    assert spool.length() == spool.status().waiting == 0


def test_the_status_tells_how_much_waits_and_for_how_long(spool: Spool, emitter: Emitter, dsn: str) -> None:
    """Nothing before the first fact, not even a file."""
    assert (spool.status().waiting, spool.status().size, spool.path.exists()) == (0, 0, False)

    put(spool, emitter, "a", "b")

    status = spool.status()
    assert (status.waiting, status.refused, status.schema, status.file) == (2, 0, "celery_journal", spool.path)
    assert status.place.endswith(str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]))
    assert 0 <= status.age < 300
    assert status.size > 0
    assert [other.status().waiting for other in spools_in(spool.path.parent)] == [2]


def test_nobody_else_may_read_it(spool: Spool, emitter: Emitter) -> None:
    """Arguments and results are in there."""
    put(spool, emitter, "a")

    assert stat.S_IMODE(spool.path.parent.stat().st_mode) == 0o700
    with spool._using():  # while it is open, there are more files
        assert {stat.S_IMODE(file.stat().st_mode) for file in spool.path.parent.iterdir()} == {0o600}


def others_may_write(spool: Spool, _other: Path) -> None:
    spool.path.parent.chmod(0o777)


def it_may_be_written(spool: Spool, _other: Path) -> None:
    spool.path.chmod(0o666)


def it_is_a_link(spool: Spool, other: Path) -> None:
    spool.path.rename(other)
    spool.path.symlink_to(other)


def beside_it_is_a_link(spool: Spool, other: Path) -> None:
    Path(f"{spool.path}-wal").symlink_to(other)


def its_lock_is_a_link(spool: Spool, other: Path) -> None:
    spool.path.with_suffix(".lock").unlink(missing_ok=True)
    spool.path.with_suffix(".lock").symlink_to(other)


def its_folder_is_another_users(spool: Spool, _other: Path) -> None:
    os.chown(spool.path.parent, 65534, 65534)


def it_is_another_users(spool: Spool, _other: Path) -> None:
    os.chown(spool.path, 65534, 65534)


@pytest.mark.parametrize(
    "changed",
    [
        others_may_write,
        it_may_be_written,
        it_is_a_link,
        beside_it_is_a_link,
        its_lock_is_a_link,
        pytest.param(its_folder_is_another_users, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")),
        pytest.param(it_is_another_users, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")),
    ],
)
def test_a_spool_that_others_can_reach_is_refused(
    spool: Spool, emitter: Emitter, tmp_path: Path, changed: Callable[[Spool, Path], None]
) -> None:
    """What they put there would be recorded as ours, and where their links lead we would write; nothing is, and it is said."""
    put(spool, emitter, "a")
    other = tmp_path / "other"
    changed(spool, other)
    before = other.read_bytes() if other.exists() else None

    with pytest.raises(SpoolFailed, match=r"^the spool .+ cannot be written \(.+\); have the option spool name"):
        put(spool, emitter, "b")
    with pytest.raises(PermissionError):
        spool.first()
    with pytest.raises(PermissionError), spool.draining():
        pass

    assert (other.read_bytes() if other.exists() else None) == before


def test_a_spool_in_a_folder_of_everybody_has_one_of_its_own(dsn: str, emitter: Emitter, tmp_path: Path) -> None:
    """As in /tmp, or in a volume; and no folder that is made on the way is open to others, whatever the umask."""
    tmp_path.chmod(0o1777)
    mask = os.umask(0)
    try:
        put(spool_of(dsn, "celery_journal", tmp_path / "deep" / "spool"), emitter, "a")
    finally:
        os.umask(mask)

    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("deep", "deep/spool")] == [0o700, 0o700]


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        pytest.param({"user": "somebody", "password": "rotated"}, True, id="another user"),
        pytest.param({"connect_timeout": "3", "application_name": "x"}, True, id="other parameters"),
        pytest.param({"dbname": "other"}, False, id="another database"),
        pytest.param({"host": "elsewhere"}, False, id="another host"),
    ],
)
def test_a_journal_has_one_spool_whoever_logs_in(dsn: str, folder: Path, changed: dict[str, str], same: bool) -> None:
    """A new password does not hide what was spooled under the old one; another database's facts are its own."""
    one, other = spool_of(dsn, "celery_journal", folder), spool_of(make_conninfo(dsn, **changed), "celery_journal", folder)

    assert (one.path == other.path) is same
    assert spool_of(dsn, "another_schema", folder).path != one.path
    assert "rotated" not in other.place


# Many at once, and too much


def test_processes_may_put_facts_there_at_once(spool: Spool, folder: Path, dsn: str, run: Run) -> None:
    """None is lost, and each process's own stay in their order; also where the file is made by the first of them."""
    processes = [start("spooling", dsn, str(folder), "put", name) for name in ("one", "two", "three")]
    for process in processes:
        process.communicate()
        assert process.returncode == 0

    assert drain(spool, Journal(), run) == Drained(recorded=150)

    recorded = streams(dsn)
    for name in ("one", "two", "three"):
        assert [stream for stream in recorded if stream.startswith(f"{name}-")] == [f"{name}-{number}" for number in range(50)]
    assert [file.suffix for file in sorted(folder.iterdir())] == [".lock", ".spool"]


def test_a_full_spool_says_so_keeps_what_it_has_and_takes_more_when_drained(dsn: str, folder: Path, emitter: Emitter, run: Run) -> None:
    """It is bounded, and what was drained is given back to the disk."""
    spool = spool_of(dsn, "celery_journal", folder, max_bytes=200_000)
    kept = 0

    def fill() -> None:
        nonlocal kept
        for kept in range(1000):
            spool.put(packed(emitter.emit(TaskSucceeded, f"t{kept}", result=b"x" * 1000)))

    with pytest.raises(SpoolFull, match=f"{spool.path} holds all that it may, 200,000 bytes; raise spool_max_bytes"):
        fill()

    assert 50 < kept < 200
    assert spool.status().waiting == kept
    assert spool.path.stat().st_size <= 200_000
    assert drain(spool, Journal(), run) == Drained(recorded=kept)
    assert spool.path.stat().st_size < 60_000
    assert put(spool, emitter, "more")
    assert spool.length() == 1


def test_a_folder_that_cannot_be_made_is_named(dsn: str, tmp_path: Path, emitter: Emitter) -> None:
    """One sentence, with the option that helps."""
    (tmp_path / "file").touch()
    spool = spool_of(dsn, "celery_journal", tmp_path / "file" / "spool")

    with pytest.raises(SpoolFailed, match=r"cannot be written \(Not a directory\); have the option spool name"):
        put(spool, emitter, "a")


def test_a_file_that_is_no_spool_is_named(spool: Spool, emitter: Emitter) -> None:
    """A damaged file is an error that is told, and is left as it is for whoever can mend it."""
    spool.path.parent.mkdir(parents=True)
    spool.path.write_bytes(b"something else " * 1000)

    with pytest.raises(SpoolFailed, match="cannot be written"):
        put(spool, emitter, "a")

    assert spool.path.read_bytes().startswith(b"something else")


# The drain


def test_a_drain_that_finds_the_database_away_loses_nothing(spool: Spool, emitter: Emitter, dsn: str, run: Run) -> None:
    """It raises, and what waits, waits on."""
    put(spool, emitter, "a", "b")

    with pytest.raises(psycopg.OperationalError):
        drain(spool, Journal(), away)

    assert spool.length() == 2
    assert drain(spool, Journal(), run) == Drained(recorded=2)
    assert streams(dsn) == ["a", "b"]


def test_a_drain_that_is_killed_after_the_commit_records_nothing_twice(
    spool: Spool, folder: Path, emitter: Emitter, dsn: str, run: Run
) -> None:
    """The facts leave the spool only afterwards, and the log knows them by their ids."""
    put(spool, emitter, "a", "b", "c")

    with start("spooling", dsn, str(folder), "die") as process:
        process.communicate()
    assert process.returncode == -9
    assert (streams(dsn), spool.length()) == (["a", "b", "c"], 3)

    assert drain(spool, Journal(), run) == Drained(recorded=3)
    assert (streams(dsn), spool.length()) == (["a", "b", "c"], 0)


def test_a_child_that_is_forked_while_a_thread_is_in_the_spool_can_use_it(dsn: str, folder: Path) -> None:
    """SQLite's own mutexes would be locked in the child for ever: a worker that forks during an outage got children that hung."""
    with start("spooling", dsn, str(folder), "fork busily") as process:
        said, _ = process.communicate()

    assert said == "0\n"


def test_one_process_drains_at_a_time_and_its_death_lets_go(spool: Spool, folder: Path, emitter: Emitter, dsn: str, run: Run) -> None:
    """Others leave it to the one that is at it; none has to be told when it has died."""
    put(spool, emitter, "a")
    with start("spooling", dsn, str(folder), "hold") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"

        assert drain(spool, Journal(), run) is None
        put(spool, emitter, "b")  # putting goes on

        process.kill()
    assert drain(spool, Journal(), run) == Drained(recorded=2)


def test_what_the_database_refuses_for_its_own_sake_is_set_aside(
    spool: Spool, emitter: Emitter, dsn: str, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged as an error, kept with the reason, and keeps nobody waiting."""
    other = emitter.emit(TaskSucceeded, "conflict", result=b"1")
    run(lambda connection: Journal().append(connection, other))
    put(spool, emitter, "a")
    spool.put(packed(other.model_copy(update={"result": b"2"})))
    put(spool, emitter, "b")
    spool.put(packed(emitter.emit(TaskFailed, "x", root_id="".join(str(uuid4()) for _ in range(300)), worker="too long for an index")))
    spool.put(b"not what we write")
    put(spool, emitter, "c")

    with caplog.at_level(logging.ERROR):
        assert drain(spool, Journal(), run) == Drained(recorded=3, refused=3)

    assert streams(dsn) == ["conflict", "a", "b", "c"]
    assert (spool.status().waiting, spool.status().refused) == (0, 3)
    (_, _, first), (_, _, second), (_, _, third) = spool.reasons()
    assert first.startswith(f"event {other.event_id} is recorded already, with other content")
    assert "index" in second
    assert third
    assert [record.message for record in caplog.records] == [
        f"a spooled event is refused and was set aside: {reason}" for reason in (first, second, third)
    ]


def test_a_journal_that_is_not_there_refuses_nothing(spool: Spool, emitter: Emitter, empty_database: str) -> None:
    """A database without its tables is no reason to set facts aside; they wait for whoever puts it right."""
    put(spool, emitter, "a")

    with psycopg.connect(empty_database, autocommit=True) as connection, pytest.raises(psycopg.errors.UndefinedTable):
        drain(spool, Journal(), lambda work: work(connection))

    assert (spool.status().waiting, spool.status().refused) == (1, 0)


# The command line


def spool_command(folder: Path, *arguments: str, dsn: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `celery-journal spool`."""
    main = [] if dsn is None else ["--dsn", as_url(dsn)]
    return command(*main, "spool", "--directory", str(folder), *arguments)


def test_the_command_shows_what_waits(spool: Spool, folder: Path, emitter: Emitter, dsn: str) -> None:
    """B37: of all journals of the machine, or of the one named; as lines with tabs, or as JSON for programs."""
    nothing = spool_command(folder)
    put(spool, emitter, "a", "b")
    spool_of("postgresql://me:s3cret@elsewhere/other", "celery_journal", folder).put(packed(emitter.emit(TaskSucceeded, "x")))

    table, everything, ours = spool_command(folder), spool_command(folder, "--json"), spool_command(folder, "--json", dsn=dsn)

    assert (nothing.returncode, nothing.stdout) == (0, f"there is no spool in {folder}\n")
    assert (table.returncode, table.stderr) == (0, "")
    cells = [row.split("\t") for row in table.stdout.splitlines()]
    assert [row[3:5] for row in cells if row[0] == "me@elsewhere/other"] == [["1", "0"]]
    assert [row[3:5] for row in cells if row[2] == str(spool.path)] == [["2", "0"]]
    assert "s3cret" not in table.stdout + everything.stdout
    assert sorted(one["waiting"] for one in json.loads(everything.stdout)) == [1, 2]
    (one,) = json.loads(ours.stdout)
    assert (one["file"], one["waiting"], one["refused"], one["refusals"]) == (str(spool.path), 2, 0, [])
    assert one["oldest_seconds"] >= 0
    assert one["bytes"] > 0


@pytest.mark.parametrize("arguments", [[], ["--json"], ["drain"], ["drain", "--dry-run"]], ids=" ".join)
def test_what_waits_under_other_words_is_told(folder: Path, emitter: Emitter, dsn: str, arguments: list[str]) -> None:
    """A spool is found by the words that name the database: where nothing waits under these, what waits under others is named."""
    nothing = spool_command(folder, *arguments, dsn=dsn)
    other = spool_of(make_conninfo(dsn, application_name="x", hostaddr="127.0.0.1"), "celery_journal", folder)
    put(other, emitter, "a", "b")
    put(spool_of("postgresql://me:s3cret@elsewhere/other", "celery_journal", folder), emitter, "c")

    told = spool_command(folder, *arguments, dsn=dsn)

    assert nothing.stderr == ""
    assert (told.returncode, told.stdout) == (0, nothing.stdout)
    first, *others = told.stderr.splitlines()
    assert first == (
        f"no spool is kept here for {redact(dsn)}, schema celery_journal; "
        "a spool is found by host, port, database and schema as they are written"
    )
    assert sorted(others) == sorted(
        [f"for {other.place}, schema celery_journal: 2 events waiting", "for me@elsewhere/other, schema celery_journal: 1 event waiting"]
    )
    assert other.length() == 2


def test_what_waits_under_other_words_is_not_told_where_something_waits(spool: Spool, folder: Path, emitter: Emitter, dsn: str) -> None:
    """Then it is that which is asked for."""
    put(spool, emitter, "a")
    put(spool_of("postgresql://me@elsewhere/other", "celery_journal", folder), emitter, "c")

    assert spool_command(folder, dsn=dsn).stderr == ""


def test_the_command_drains(spool: Spool, folder: Path, emitter: Emitter, dsn: str) -> None:
    """After it, the results are where they belong; when the database is away, the exit code is 3 and nothing is lost."""
    put(spool, emitter, "a", "b")
    gone = spool_of("postgresql://me@127.0.0.1:1/gone", "celery_journal", folder)
    put(gone, emitter, "c")

    drained, failed = (
        spool_command(folder, "drain", dsn=dsn),
        command("--dsn", "postgresql://me@127.0.0.1:1/gone", "spool", "--directory", str(folder), "drain"),
    )

    assert (drained.returncode, drained.stdout, drained.stderr) == (0, "2 events left the spool\n", "")
    assert kinds(dsn, "a") == kinds(dsn, "b") == ["task-succeeded"]
    assert failed.returncode == 3
    assert failed.stderr == "Error: no PostgreSQL answers at me@127.0.0.1:1/gone; start it or correct the URL\n"
    assert (spool.length(), gone.length()) == (0, 1)


def test_the_command_tells_what_was_refused(spool: Spool, folder: Path, emitter: Emitter, dsn: str) -> None:
    """Exit code 1: it found something; the reason is in the JSON."""
    spool.put(b"not what we write")

    drained, shown = spool_command(folder, "drain", dsn=dsn), spool_command(folder, "--json", dsn=dsn)

    assert drained.returncode == 1
    first, second = drained.stdout.splitlines()
    assert first == "0 events left the spool"
    assert re.fullmatch(r"1 event was refused, now or before; run: celery-journal --dsn '\S+' spool --json", second)
    assert drained.stderr.startswith("a spooled event is refused and was set aside: ")
    assert json.loads(shown.stdout)[0]["refusals"][0]["reason"]


def test_a_spool_that_cannot_be_read_is_one_sentence(spool: Spool, folder: Path) -> None:
    """No traceback."""
    spool.path.parent.mkdir(parents=True)
    spool.path.write_bytes(b"something else " * 1000)

    failed = spool_command(folder)

    assert failed.returncode == 1
    assert failed.stderr == f"Error: the spool in {folder} cannot be read: file is not a database\n"


def test_the_drain_needs_a_database(folder: Path) -> None:
    """Which of them, it cannot guess."""
    failed = spool_command(folder, "drain")

    assert failed.returncode == 2
    assert "give --dsn" in failed.stderr
