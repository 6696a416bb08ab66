"""What a watch remembers on the machine that it runs on: the episodes of the spool, which begin when the database is away."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from celery_journal.consumers.spool import Spool, locked

from .episodes import Episodes


@dataclass(frozen=True, slots=True)
class Note:
    """A file beside the spool, of one watch."""

    path: Path

    @classmethod
    def beside(cls, spool: Spool, watch: str) -> Note:
        """Return that of the watch of this name."""
        return cls(spool.path.with_suffix(f".{watch}.watch"))

    @contextmanager
    def ours(self) -> Iterator[bool]:
        """Whether, in this block, no other process of the machine tells what is remembered here; a process that dies lets go of it."""
        if not self.path.parent.exists():  # nor was anything ever spooled
            yield False
            return
        with locked(self.path.with_suffix(".lock")) as is_ours:
            yield is_ours

    def read(self) -> Episodes:
        """Return what is remembered. Raises OSError where that cannot be known, or was written by somebody else."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return Episodes()
        with os.fdopen(descriptor, "rb") as file:
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, f"{self.path} belongs to another user; look at it, and remove it")
            return Episodes.read(file.read())

    def write(self, episodes: Episodes) -> None:
        """Remember this, on disk when it returns, all of it or what was there. Raises OSError where that fails."""
        data = episodes.written()
        if data is None:
            self.path.unlink(missing_ok=True)
            return
        new = self.path.with_suffix(".new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        new.replace(self.path)
