"""The spool: facts that could not be written while the database was away, kept on disk until it is back.

An SQLite file for each journal, which any process of the machine may use at any time. No connection outlives a call,
so none is ever inherited through a fork.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import psycopg

from celery_journal import sql
from celery_journal.journal import redact
from celery_journal.journal.codec import COLUMNS, DEFAULT_MAX_PAYLOAD_BYTES, encode, event_of, pack, unpack
from celery_journal.journal.constraints import MAX_ID_BYTES
from celery_journal.journal.dsn import parts_of
from celery_journal.journal.errors import JournalError
from celery_journal.journal.events import Event

DEFAULT_MAX_BYTES = 1 << 30

#: Facts that are read, and so appended, at once: so many, and so many bytes, but always one.
BATCH_EVENTS, BATCH_BYTES = 500, 16 << 20

#: Seconds that a process waits for its turn at the file.
PATIENCE = 30.0

PAGE = 4096
SUFFIX = ".spool"

#: What SQLite keeps beside its file.
BESIDE = ("-wal", "-shm", "-journal")

# SQLite has mutexes of its own. A child that is forked while another thread holds one would wait for it for ever, so that no
# process forks while any of its threads is in SQLite.
_mutex = threading.RLock()
os.register_at_fork(before=_mutex.acquire, after_in_parent=_mutex.release, after_in_child=_mutex.release)


class SpoolFailed(JournalError):
    """The spool did not take the fact; the text is one sentence that says why."""


class SpoolFull(SpoolFailed):
    """The spool holds as much as it may."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A fact in the spool."""

    number: int
    spooled_at: float
    data: bytes

    @property
    def event(self) -> Event:
        """The fact, as it was."""
        return unpacked(self.data)


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """What a spool holds."""

    file: Path
    #: Whose facts these are; empty when there is no file.
    place: str
    schema: str
    waiting: int
    refused: int
    #: Seconds since the oldest of those that wait was put there.
    age: float
    #: What it takes on disk.
    size: int


def default_directory() -> Path:
    """Return where spools are unless somebody says otherwise: the user's folder for state."""
    state = Path(os.environ.get("XDG_STATE_HOME") or "")
    if not state.is_absolute():
        try:
            state = Path.home() / ".local" / "state"
        except RuntimeError:  # an account without a home, as some containers have; that this cannot be written is said later
            state = Path("/.local/state")
    return state / "celery-journal"


def spool_of(location: str | Path, schema: str, directory: Path | str | None = None, max_bytes: int = DEFAULT_MAX_BYTES) -> Spool:
    """Return the spool of the journal at that location (a DSN, or the directory of an embedded server)."""
    where = str(location.absolute()) if isinstance(location, Path) else _server(location)
    digest = hashlib.blake2b(f"{where}\0{schema}".encode(), digest_size=8).hexdigest()
    place = f"embedded://{where}" if isinstance(location, Path) else redact(location)
    folder = Path(directory).expanduser() if directory else default_directory()
    return Spool(folder / f"{digest}{SUFFIX}", place, schema, max_bytes)


def spools_in(directory: Path | str | None = None) -> list[Spool]:
    """Return every spool of the directory."""
    return [Spool(path) for path in sorted((Path(directory).expanduser() if directory else default_directory()).glob(f"*{SUFFIX}"))]


def beside(spool: Spool) -> list[SpoolStatus]:
    """Return what waits, or was refused, in the other spools of the directory; one that cannot be read is left out."""
    found: list[SpoolStatus] = []
    for other in spools_in(spool.path.parent):
        if other.path != spool.path:
            with suppress(sqlite3.Error, OSError):
                found.append(other.status())
    return [status for status in found if status.waiting or status.refused]


def _server(dsn: str) -> str:
    """Return what tells a database from another. Not the user: who changes a password wants the facts all the same."""
    defaults = {option.keyword.decode(): option.val for option in psycopg.pq.Conninfo.get_defaults()}
    given = parts_of(dsn)
    names = ("service", "host", "hostaddr", "port", "dbname")
    return "\0".join(str(given.get(name) or (defaults.get(name) or b"").decode()) for name in names)


def packed(event: Event, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES, max_id_length: int = MAX_ID_BYTES) -> bytes:
    """Return the event as bytes, losing nothing; raise EventRefused if the log would not take it."""
    row = encode(event, max_payload_bytes, max_id_length)
    return pack({**{name: value for name, value in row.items() if value is not None}, "event_id": event.event_id.bytes})


def unpacked(data: bytes) -> Event:
    """Return the event of `packed`."""
    row = {**dict.fromkeys(COLUMNS), **unpack(data)}
    place = {"transaction": 0, "position": 0, "recorded_at": row["occurred_at"]}
    return event_of({**row, **place, "event_id": UUID(bytes=row["event_id"])})


@dataclass(frozen=True, slots=True)
class Spool:
    """The file of one journal. Any thread and any process may use it; it is made when the first fact is put there."""

    path: Path
    place: str = ""
    schema: str = ""
    max_bytes: int = DEFAULT_MAX_BYTES

    def put(self, *facts: bytes) -> int:
        """Keep the facts, on disk when this returns, all or none; return how many wait now. Raises SpoolFailed or SpoolFull."""
        moment = time.time()
        try:
            with self._using(create=True) as connection, _transaction(connection):
                for fact in facts:
                    connection.execute(_query("put"), {"spooled_at": moment, "event": fact})
                (length,) = connection.execute(_query("length")).fetchone()
        except (sqlite3.Error, OSError) as exc:
            if getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL and self._is_full(facts):
                raise SpoolFull(f"the spool {self.path} holds all that it may, {self.max_bytes:,} bytes; raise spool_max_bytes") from exc
            reason = getattr(exc, "strerror", None) or exc
            raise SpoolFailed(
                f"the spool {self.path} cannot be written ({reason}); have the option spool name a directory that can"
            ) from exc
        return int(length)

    def first(self) -> list[Waiting]:
        """Return those that came first, as many as are appended at once."""
        batch, size = list[Waiting](), 0
        if self.path.exists():
            with self._using() as connection, closing(connection.execute(_query("first"), {"limit": BATCH_EVENTS})) as rows:
                for row in rows:
                    batch.append(Waiting(*row))
                    size += len(batch[-1].data)
                    if size > BATCH_BYTES:
                        break
        return batch

    def settle(self, batch: Sequence[Waiting], refused: Mapping[int, str]) -> None:
        """Take the facts out, which are in the log now; set aside those refused, by number, with the reason."""
        with self._using() as connection, _transaction(connection):
            for fact in batch:
                if fact.number in refused:
                    connection.execute(_query("refuse"), {"number": fact.number, "reason": refused[fact.number]})
                connection.execute(_query("remove"), {"number": fact.number})

    @property
    def exists(self) -> bool:
        """Whether anything was ever put there, by whoever names the database with the same words."""
        return self.path.exists()

    def length(self) -> int:
        """Return how many facts wait."""
        if not self.path.exists():
            return 0
        with self._using() as connection:
            (length,) = connection.execute(_query("length")).fetchone()
        return int(length)

    def status(self) -> SpoolStatus:
        """Return what it holds."""
        if not self.path.exists():
            return SpoolStatus(self.path, self.place, self.schema, waiting=0, refused=0, age=0.0, size=0)
        with self._using() as connection:
            place, schema, waiting, refused, oldest = connection.execute(_query("status")).fetchone()
            size = sum(file.stat().st_size for file in self.path.parent.glob(f"{self.path.name}*") if file.exists())
        age = 0.0 if oldest is None else max(0.0, time.time() - oldest)
        return SpoolStatus(self.path, place, schema, waiting, refused, age, size)

    def reasons(self) -> list[tuple[int, float, str]]:
        """Return of each fact that was refused its number, when it was spooled, and why it was refused."""
        if not self.path.exists():
            return []
        with self._using() as connection:
            return connection.execute(_query("reasons")).fetchall()

    @contextmanager
    def draining(self) -> Iterator[bool]:
        """Whether, in this block, it is ours to drain, and nobody else's; a process that dies lets go of it."""
        if not self.path.exists():
            yield True
            return
        self._check()
        with locked(self.path.with_suffix(".lock")) as is_ours:
            yield is_ours

    def _is_full(self, facts: Sequence[bytes]) -> bool:
        """Return whether it is our limit that is reached, and not the end of the disk."""
        return self.path.stat().st_size + 2 * sum(map(len, facts)) + 16 * PAGE > self.max_bytes

    @contextmanager
    def _using(self, *, create: bool = False) -> Iterator[sqlite3.Connection]:
        if create and not self.path.exists():
            self._create()
        self._check()
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        with _mutex, closing(sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None)) as connection:
            connection.execute("pragma synchronous = full")
            connection.execute(f"pragma max_page_count = {max(1, self.max_bytes // PAGE)}")
            yield connection

    def _check(self) -> None:
        """Raise PermissionError where others could have put something there, or could read or change what we do.

        SQLite opens what stands beside its file by name, so it is the directory that has to be ours.
        """
        _check_ours(self.path.parent, self.path.parent.stat())
        for file in (self.path, self.path.with_suffix(".lock"), *(Path(f"{self.path}{end}") for end in BESIDE)):
            with suppress(FileNotFoundError):
                found = file.lstat()
                if not stat.S_ISREG(found.st_mode):
                    raise PermissionError(errno.EPERM, f"{file} is no file of ours but a link or something else; look at it, and remove it")
                _check_ours(file, found)

    def _create(self) -> None:
        """Make the file beside its place first, so that nobody sees half of one; the facts of users are for nobody else's eyes."""
        folder = self.path.parent.absolute()
        for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        _check_ours(folder, folder.stat())
        new = self.path.with_name(f"{self.path.stem}.{uuid4().hex}.new")
        os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            with _mutex, closing(sqlite3.connect(new, isolation_level=None)) as connection:
                connection.execute(f"pragma page_size = {PAGE}")
                connection.execute("pragma auto_vacuum = full")  # what was drained is given back to the disk
                connection.execute("pragma journal_mode = wal")
                for statement in ("create journal", "create waiting", "create refused"):
                    connection.execute(_query(statement))
                connection.execute(_query("name journal"), {"place": self.place, "schema": self.schema})
            with suppress(FileExistsError):  # somebody was faster
                self.path.hardlink_to(new)
        finally:
            for file in self.path.parent.glob(f"{new.name}*"):
                file.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Whether, in this block, the file is locked for this process alone; one that dies lets go of it."""
    # A POSIX lock: a child that is forked meanwhile does not have it.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _check_ours(path: Path, found: os.stat_result) -> None:
    """Raise PermissionError if it belongs to somebody else, or others may write to it; a group may that is a user's own."""
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"{path} belongs to another user, number {found.st_uid}; be that user, or name another place")
    others = stat.S_IWOTH | (stat.S_IWGRP if found.st_gid != os.getegid() else 0)
    if found.st_mode & others:
        hint = "name a directory below it, which is made, or run" if stat.S_ISDIR(found.st_mode) else "run"
        raise PermissionError(errno.EPERM, f"others may write to {path}; {hint}: chmod go-w {path}")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("begin immediate")
    try:
        yield
    except BaseException:
        with suppress(sqlite3.Error):  # it may be rolled back already, as by a full disk
            connection.execute("rollback")
        raise
    connection.execute("commit")


def _query(name: str) -> str:
    return sql.queries("spool.sql")[name]
