"""Ctrl-C as the end of what goes on by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from celery_journal.journal import Connection


@contextmanager
def until_interrupted(connection: Connection) -> Iterator[None]:
    """Take Ctrl-C for the end of the block, and of the connection: it may be in the middle of a statement."""
    try:
        yield
    except KeyboardInterrupt:
        connection.close()
