"""An export back into a log: in order, in batches that are recorded whole or not at all, and again without harm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO
from uuid import UUID

import psycopg

from celery_journal.journal import Connection, Journal
from celery_journal.journal.codec import BINARY_COLUMNS, Row
from celery_journal.journal.constraints import broken_by
from celery_journal.journal.faults import is_outage

from .archive import BrokenFile, rows_in

#: Events that are recorded in one statement: so many, and so many bytes, but always one.
BATCH_EVENTS, BATCH_BYTES = 500, 16 << 20

#: Ids of conflicts that are kept to be shown.
EXAMPLES = 5


@dataclass(slots=True)
class Restored:
    """How far an import has come."""

    new: int = 0
    #: What the log had already.
    known: int = 0
    #: What it has under the same id with other content: that stands.
    conflicting: int = 0
    examples: list[UUID] = field(default_factory=list)
    #: What makes no sense, as an older log may hold it, and this one does not take; and why, of the first of them.
    refused: int = 0
    reasons: list[str] = field(default_factory=list)


def restore(connection: Connection, journal: Journal, file: BinaryIO, *, dry_run: bool = False) -> Iterator[Restored]:
    """Record the events of an export; yield after each batch how far it is. Raises BrokenFile; what was yielded is recorded."""
    restored = Restored()
    yield restored
    for first, last, found in _batches(file):
        rows = list(_sensible(found, restored))
        try:
            new, conflicts = journal.restore(connection, rows, dry_run=dry_run)
        except psycopg.Error as exc:
            if is_outage(exc):
                raise
            raise BrokenFile(f"the database refuses what stands between {first} and {last}: {str(exc).partition(chr(10))[0]}") from exc
        restored.new += new
        restored.conflicting += len(conflicts)
        restored.known += len(rows) - new - len(conflicts)
        restored.examples += conflicts[: EXAMPLES - len(restored.examples)]
        yield restored


def _sensible(rows: Iterable[Row], restored: Restored) -> Iterator[Row]:
    """Yield the rows that the log takes; count the others."""
    for row in rows:
        if (why := broken_by(row)) is None:
            yield row
            continue
        restored.refused += 1
        if len(restored.reasons) < EXAMPLES:
            restored.reasons.append(f"{row['event_id']} is not taken: {why}")


def _batches(file: BinaryIO) -> Iterator[tuple[str, str, list[Row]]]:
    """Yield rows that are recorded together, with where the first and the last of them stand."""
    batch, size, first, where = list[Row](), 0, "", ""
    for where, row in rows_in(file):
        first = first if batch else where
        batch.append(row)
        size += sum(len(row[column] or b"") for column in (*BINARY_COLUMNS, "body"))
        if len(batch) == BATCH_EVENTS or size > BATCH_BYTES:
            yield first, where, batch
            batch, size = [], 0
    if batch:
        yield first, where, batch
