"""Expiring what Celery's settings say, by events: the log keeps it, and has a retention of its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from celery_journal import sql
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import GroupExpired, TaskExpired
from celery_journal.journal.workers import WorkerForgotten
from celery_journal.projections.expiry import take_out

#: A worker that was not heard of for this long will not come back under its name: in containers each start has another.
SILENCE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Limits:
    """What ended before these moments leaves the views; None is never."""

    #: `result_expires`: results and saved groups.
    results: datetime | None
    #: `result_failure_expires`: results of failed tasks.
    failures: datetime | None
    #: `result_chord_expires`: chords that have ended. An open one never expires, nor do its parts.
    chords: datetime | None


def expire(connection: Connection, journal: Journal, emitter: Emitter, limits: Limits) -> int:
    """Take results, saved groups, finished chords and workers long silent out of the views; return how many."""
    expired = 0
    before = {"results": limits.results, "failures": limits.failures, "chords": limits.chords, "silence": SILENCE}
    for name, kind in (("expired tasks", TaskExpired), ("expired groups", GroupExpired), ("silent workers", WorkerForgotten)):
        expired += take_out(connection, journal, emitter, name, kind, before)
    for _step in ("mark", "remove"):
        connection.execute(sql.query("expiry.sql", "purge", journal.schema))
    connection.execute(sql.query("schema.sql", "create partitions", journal.schema))
    return expired
