"""What a watch remembers on the machine that it runs on: the episodes of the spool, which begin when the database is away."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from celery_journal.consumers.spool import Spool

from .episodes import Episodes


@dataclass(frozen=True, slots=True)
class Note:
    """A file beside the spool, of one watch."""

    path: Path

    @classmethod
    def beside(cls, spool: Spool, watch: str) -> Note:
        """Return that of the watch of this name."""
        return cls(spool.path.with_suffix(f".{watch}.watch"))

    def read(self) -> Episodes:
        """Return what is remembered. Raises OSError where that cannot be known."""
        try:
            return Episodes.read(self.path.read_bytes())
        except FileNotFoundError:
            return Episodes()

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
