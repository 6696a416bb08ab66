"""A full disk, and a server that ends sessions all the time: outages like any other, of which no user hears."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from celery import chord
from psycopg.conninfo import make_conninfo

from celery_journal.journal import migrate
from celery_journal.projections import verify

from .scene import kinds, stored, until, url_of
from .servers import Server, folder_of_servers, make_folder, postgresql
from .workers import Worker, available, working

#: Seconds to wait for a result: only a test that fails waits so long.
PATIENCE = 60

BROKER = "redis" if available("redis") else "filesystem"


@dataclass(frozen=True, slots=True)
class Disk:
    """A small file system."""

    folder: Path

    @property
    def ballast(self) -> Path:
        """The file that fills it."""
        return self.folder / "ballast"

    def fill(self) -> None:
        """Take every byte there is."""
        with suppress(OSError), self.ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def clear(self) -> None:
        """Give them back."""
        self.ballast.unlink()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Disk]:
    """A file system of that size, as only root can make one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "celery-journal", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of our own."""
    with folder_of_servers() as folder, postgresql(folder) as server:
        yield server


def new_journal(server: Server, name: str, options: str = "") -> str:
    """Return the DSN of a new database with a journal in it."""
    server.tell(f"create database {name} {options}")
    dsn = make_conninfo(server.dsn, dbname=name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        migrate(connection)
    return dsn


@pytest.fixture(params=["of the journal", "of the server"])
def on_small_disk(request: pytest.FixtureRequest, server: Server) -> Iterator[tuple[Server, Disk, str]]:
    """A server, a disk that it needs, and the DSN of a journal there: a database on a disk of its own, or all of the server."""
    if request.param == "of the journal":
        with small_disk(server.folder / "disk", "32m") as disk:
            make_folder(disk.folder / "space")
            server.tell(f"create tablespace small location '{disk.folder / 'space'}'")
            yield server, disk, new_journal(server, "small", "tablespace small")
            server.tell("drop database small with (force)")
            server.tell("drop tablespace small")
    else:
        small = {"wal_keep_size": "0", "min_wal_size": "2MB", "max_wal_size": "4MB"}
        with (
            folder_of_servers() as folder,
            small_disk(folder / "disk", "80m") as disk,
            postgresql(disk.folder, "--wal-segsize=1", **small) as all_of_it,
        ):
            yield all_of_it, disk, new_journal(all_of_it, "small")


def test_a_full_disk_is_sat_out(on_small_disk: tuple[Server, Disk, str], tmp_path: Path) -> None:
    """B37: results go to the spool as long as there is no room, and into the journal when there is; the worker works on."""
    server, disk, dsn = on_small_disk
    options = {"retry_budget": 0.2, "spool": str(tmp_path / "spool")}
    with working(BROKER, url_of(dsn), dsn, tmp_path, result_backend_transport_options=options) as worker:
        worker.send("add", 1, 1).get(timeout=PATIENCE)
        disk.fill()

        results = [worker.send("noise", 100_000) for _ in range(20)]
        until(lambda: in_spool(worker) > 5)
        gathered = chord([worker.signature("add", 2, number) for number in range(5)], app=worker.app)(worker.signature("collect"))
        assert "No space left on device" in server.said()

        disk.clear()
        server.ensure_running()  # for its log of transactions it needs room, and stops without
        assert {len(result.get(timeout=PATIENCE)) for result in results} == {100_000}
        assert gathered.get(timeout=PATIENCE) == [2 + number for number in range(5)]
        until(lambda: not in_spool(worker))

        assert {tuple(stored(dsn, result.id)[-1:]) for result in results} == {("task-succeeded",)}
        with psycopg.connect(dsn, autocommit=True) as connection:
            assert not verify(connection).differences


def in_spool(worker: Worker) -> int:
    """Return how many facts wait in the worker's spool."""
    return int(worker.app.backend.spool.length())


@pytest.mark.parametrize("by", ["pg_terminate_backend", "pg_cancel_backend"])
def test_sessions_that_the_server_ends_are_no_affair_of_the_users(server: Server, tmp_path: Path, by: str) -> None:
    """B37: again and again, while tasks run and results are waited for: all of them arrive, once, and the log shows no error.

    Besides, no transaction is left idle for longer than a millisecond.
    """
    dsn = new_journal(server, by)
    url = url_of(dsn, options="-c idle_in_transaction_session_timeout=1")
    over, ended = threading.Event(), list[int]()
    query = f"select count({by}(pid)) from pg_stat_activity where datname = %s and pid <> pg_backend_pid()"
    if by == "pg_cancel_backend":
        query += " and state = 'active'"

    def end_sessions() -> None:
        while not over.wait(0.1 if by == "pg_terminate_backend" else 0.01):
            ended.append(int(str(server.ask(query, by))))

    with working(BROKER, url, dsn, tmp_path, result_backend_transport_options={"retry_budget": PATIENCE}) as worker:
        timeout = worker.app.backend.database.run(
            lambda connection: connection.execute("show idle_in_transaction_session_timeout").fetchone()
        )
        ending = threading.Thread(target=end_sessions)
        ending.start()
        try:
            results = [worker.send("add", 1, number) for number in range(60)]
            retried = [worker.send("persist", 2) for _ in range(5)]
            gathered = [
                chord([worker.signature("add", 2, number) for number in range(8)], app=worker.app)(worker.signature("collect"))
                for _ in range(5)
            ]

            assert [result.get(timeout=PATIENCE) for result in results] == [1 + number for number in range(60)]
            assert [result.get(timeout=PATIENCE) for result in retried] == [2] * 5
            assert [result.get(timeout=PATIENCE) for result in gathered] == [[2 + number for number in range(8)]] * 5
            while not sum(ended):  # a statement is so short that it may have escaped so far
                assert worker.send("add", 1, 1).get(timeout=PATIENCE) == 2
        finally:
            over.set()
            ending.join()

        assert timeout == ("1ms",)
        assert {kinds(dsn, result.id).count("task-succeeded") for result in results} == {1}
        assert "Traceback" not in worker.said()
        with psycopg.connect(dsn, autocommit=True) as connection:
            assert not verify(connection).differences
