"""Real servers that a test may break: PostgreSQL with standbys, and PgBouncer; nothing of them is left after the block."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from celery_journal.consumers import embedded

from .scene import until

#: Debian keeps it where only root's PATH leads.
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

#: That of the logins that tests make; it must not be shown anywhere.
PASSWORD = "geheim-7f3a"

#: Small and quick: what these servers hold need not outlive the machine.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "wal_keep_size": "64MB",
    "wal_receiver_status_interval": "1s",
    "wal_retrieve_retry_interval": "100ms",
    "dynamic_shared_memory_type": "mmap",  # leaves nothing in /dev/shm when it is killed
    "logging_collector": "off",
}


def unused_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def folder_of_servers() -> Iterator[Path]:
    """A folder that the servers' account can reach, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="celery-journal-servers-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def account() -> tuple[int, int] | None:
    """Return whom the servers run as when we are root, which they refuse; None is ourselves."""
    return embedded._account() if os.geteuid() == 0 else None


def make_folder(folder: Path) -> Path:
    """Make a folder that belongs to the servers' account."""
    folder.mkdir(mode=0o700)
    if (owner := account()) is not None:
        os.chown(folder, *owner)
    return folder


def start(log: Path, *command: Path | str) -> subprocess.Popen[bytes]:
    """Start a program as the servers' account; it ends with this process."""
    user, group = account() or (None, None)
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd="/",
            env={key: value for key, value in os.environ.items() if not key.startswith("PG")},
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            preexec_fn=embedded._end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - nothing else starts here
        )


def run(log: Path, *command: Path | str) -> None:
    """Run a program as the servers' account."""
    assert start(log, *command).wait() == 0, log.read_text()


@dataclass
class Server:
    """A PostgreSQL server with a directory of its own, on a port of 127.0.0.1."""

    folder: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """Where its administrator connects."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What it and the programs that made it have said."""
        return self.folder / "log"

    def said(self) -> str:
        """Return what it has logged."""
        return self.log.read_text(errors="replace")

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = [f"--{name}={value}" for name, value in {**SETTINGS, **self.settings, "port": str(self.port)}.items()]
        self.process = start(self.log, embedded._binaries() / "postgres", "-D", self.data, *options)
        until(lambda: self.answers() or self._ended())
        assert not self._ended(), self.said()

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def ensure_running(self) -> None:
        """Start again if it has ended by itself, and wait until it answers."""
        if self._ended():
            self.start()
        until(self.answers)

    def answers(self) -> bool:
        """Return whether it lets anybody in."""
        try:
            psycopg.connect(self.dsn, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def ask(self, query: str, *parameters: object) -> object:
        """Return the first value that the query answers."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            row = connection.execute(query.encode(), parameters).fetchone()
        return row and row[0]

    def tell(self, command: str) -> None:
        """Run a command that answers nothing."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(command.encode())

    def kill(self) -> None:
        """End it as a power cut does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """End every session, and it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(2)  # SIGINT: a fast shutdown
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        self.kill()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It is away during the block."""
        self.stop()
        try:
            yield
        finally:
            self.start()


@contextmanager
def postgresql(folder: Path, *initdb: str, **settings: str) -> Iterator[Server]:
    """A new server in the folder, which must exist, made with these options of initdb."""
    server = Server(folder, unused_port(), settings)
    make_folder(server.data)
    locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    run(server.log, embedded._binaries() / "initdb", "-D", server.data, "-U", "postgres", "--auth=trust", "--no-sync", *locale, *initdb)
    with (server.data / "pg_hba.conf").open("a") as file:
        file.write("host replication all 127.0.0.1/32 trust\n")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def standby_of(primary: Server, folder: Path, name: str = "standby", **settings: str) -> Iterator[Server]:
    """A server in the folder that follows the primary by streaming replication."""
    server = Server(folder, unused_port(), settings)
    make_folder(server.data)
    source = make_conninfo(primary.dsn, application_name=name)
    programs = embedded._binaries()
    copy: list[Path | str] = [
        "-D",
        server.data,
        "-d",
        source,
        "--write-recovery-conf",
        "--checkpoint=fast",
        "--wal-method=stream",
        "--no-sync",
    ]
    run(server.log, programs / "pg_basebackup", *copy)
    try:
        server.start()
        until(lambda: primary.ask("select count(*) from pg_stat_replication where state = 'streaming'"))
        yield server
    finally:
        server.stop()


@contextmanager
def pgbouncer(dsn: str, folder: Path, port: int = 0, **settings: str) -> Iterator[str]:
    """The DSN of a PgBouncer in transaction mode before the server of that DSN, to the same database."""
    assert PGBOUNCER is not None
    parts, port = conninfo_to_dict(dsn), port or unused_port()
    own = Path(tempfile.mkdtemp(prefix="pgbouncer-", dir=folder))
    own.chmod(0o711)  # the account of the servers has to pass
    home = make_folder(own / "home")
    server = " ".join(f"{name}={parts[name]}" for name in ("host", "port") if parts.get(name))
    (home / "users.txt").write_text('"postgres" ""\n')
    values = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "trust",
        "auth_file": str(home / "users.txt"),
        "admin_users": "postgres",
        "pool_mode": "transaction",
        "default_pool_size": "3",
        "max_client_conn": "200",
        **settings,
    }
    (home / "pgbouncer.ini").write_text(
        "\n".join(["[databases]", f"* = {server}", "[pgbouncer]", *(f"{name} = {value}" for name, value in values.items()), ""])
    )
    for path in home.iterdir():
        path.chmod(0o644)
    log = home / "log"
    process = start(log, PGBOUNCER, home / "pgbouncer.ini")
    through = make_conninfo(dsn, host="127.0.0.1", port=port)
    try:
        until(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None, log.read_text()
        yield through
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False
