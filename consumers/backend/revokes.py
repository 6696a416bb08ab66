"""What somebody has asked to revoke, read by each worker before it consumes: Celery's workers know only what they heard since they started.

It is read once the worker listens to remote control, and again whenever it has lost its broker: who revokes records it before
the workers are told, so that one of the two reaches each of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from celery import bootsteps
from celery.exceptions import ImproperlyConfigured
from celery.signals import worker_init
from celery.worker import state
from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.consumers.capture.control import REVOKES
from celery_journal.journal import Connection, Journal
from celery_journal.journal.answering import within
from celery_journal.journal.codec import decode, escape
from celery_journal.journal.events import OperatorActed

from .base import JournalBase
from .connection import JournalUnavailable

logger = logging.getLogger(__name__)

#: Seconds for which a worker that starts waits for the database, which may be away.
PATIENCE = 10.0

#: Tasks that are remembered where Celery's own set has no bound.
MOST = 50_000

#: Tasks that are looked at because workers have told that somebody wants them revoked.
MOST_HEARD = 10_000

#: Tasks that are looked at for stamps that were revoked too long ago for a worker to remember them.
MOST_STAMPED = 10_000

Stamps = dict[str, list[Any]]


@dataclass(slots=True)
class Revokes:
    """What a worker is to revoke."""

    #: The ids of tasks, those that were revoked last at the end, without doubles.
    task_ids: dict[str, None] = field(default_factory=dict)
    stamps: Stamps = field(default_factory=dict)


def revokes_of(connection: Connection, journal: Journal, worker: str, *, seconds: float, at_most: int) -> Revokes:
    """Return what the worker is to revoke: what was asked for in the last `seconds`, and what still waits in a queue.

    Of `at_most` tasks, those that somebody has asked for last.
    """
    recent, past = dict[str, None](), dict[str, datetime]()
    stamps, past_stamps = dict[str, list[Any]](), list[tuple[datetime, Stamps]]()
    for asked, is_recent in _requests(connection, journal, seconds, at_most):
        if worker not in (asked.destination or (worker,)):
            continue
        tasks: dict[str, Any] = recent if is_recent else past
        for task_id in asked.members or ():
            tasks.pop(task_id, None)
            tasks[task_id] = asked.occurred_at
        if is_recent:
            _add(stamps, _stamps_in(asked.stamps))
        elif asked.stamps:
            past_stamps.append((asked.occurred_at, _stamps_in(asked.stamps)))
    heard = connection.execute(sql.query("revoke.sql", "heard", journal.schema), {"at_most": min(MOST_HEARD, at_most)}).fetchall()
    waiting = [
        *_stamped(connection, journal, past_stamps),
        *_waiting(connection, journal, past, seconds),
        *(task_id for (task_id,) in heard),
    ]
    task_ids = [*(task_id for task_id in dict.fromkeys(waiting) if task_id not in recent), *recent]
    return Revokes(dict.fromkeys(task_ids[-at_most:]), stamps)


def _requests(connection: Connection, journal: Journal, seconds: float, at_most: int) -> list[tuple[OperatorActed, bool]]:
    """Return the newest requests, the last one at the end, and whether each is of the last `seconds`; as many as name that many tasks."""
    query = sql.query("revoke.sql", "asked", journal.schema)
    found, named = list[tuple[OperatorActed, bool]](), 0
    for stretch in reversed(journal.stretches(connection)):
        parameters = {"stream": REVOKES, "seconds": seconds, "at_most": at_most, **stretch}
        with connection.cursor(row_factory=dict_row) as cursor:
            for row in cursor.execute(query, parameters, prepare=False):
                if named >= at_most:
                    return found[::-1]
                is_recent = row.pop("is_recent")
                if isinstance(event := decode(row).event, OperatorActed):
                    found.append((event, is_recent))
                    named += len(event.members or (event,))
    return found[::-1]


def _waiting(connection: Connection, journal: Journal, asked: Mapping[str, datetime], seconds: float) -> list[str]:
    """Return those of the tasks that still wait, though somebody has asked for their end long ago."""
    if not asked:
        return []
    parameters = {"task_ids": [escape(one) for one in asked], "asked_at": list(asked.values())}
    found = dict(connection.execute(sql.query("revoke.sql", "waiting", journal.schema), parameters).fetchall())
    if unknown := [task_id for task_id, is_known in found.items() if not is_known]:  # such as those whose results have expired
        query = sql.query("revoke.sql", "delayed", journal.schema)
        found |= {row["task_id"]: True for row in journal.look(connection, query, {"task_ids": unknown, "seconds": seconds})}
    return [task_id for task_id in asked if found.get(escape(task_id))]


def remember(revokes: Revokes) -> None:
    """Have this worker revoke them, as if it had been told."""
    state.revoked.update(list(revokes.task_ids))
    _add(state.revoked_stamps, revokes.stamps)


class RevokesStep(bootsteps.StartStopStep):
    """A step of a worker's consumer that reads what it is to revoke. Nothing is consumed before the last step."""

    requires = ("celery.worker.consumer.control:Control",)

    def start(self, c: Any) -> None:
        """Read it; where the database is away, the worker goes on, and knows only what it hears itself."""
        backend = c.app.backend
        if not (isinstance(backend, JournalBase) and backend.options.remember_revokes):
            return
        seconds, at_most = float(state.revoked.expires or 0), int(state.revoked.maxlen or MOST)

        def read(connection: Connection) -> Revokes:
            return revokes_of(connection, backend.journal, c.hostname, seconds=seconds, at_most=at_most)

        try:
            with within(PATIENCE):
                found = backend.database.run(read, budget=0)
            remember(found)
        except (JournalUnavailable, ImproperlyConfigured, psycopg.Error, OSError) as exc:
            logger.warning("what was revoked before this worker started is not known to it, because the journal cannot be read: %s", exc)
            return
        except Exception:  # such as of facts that make no sense: the worker is to run what was not revoked
            logger.exception("what was revoked before this worker started is not known to it")
            return
        if found.task_ids or found.stamps:
            logger.info(
                "the journal knows of %d tasks and %d stamps that were revoked before",
                len(found.task_ids),
                sum(map(len, found.stamps.values())),
            )


@worker_init.connect(weak=False, dispatch_uid="celery-journal-revokes")
def _add_step(sender: Any, **_signal: Any) -> None:
    app = getattr(sender, "app", None)
    if app is not None and isinstance(app.backend, JournalBase):
        app.steps["consumer"].add(RevokesStep)


def _stamped(connection: Connection, journal: Journal, past: list[tuple[datetime, Stamps]]) -> list[str]:
    """Return the tasks that have not ended and had such a stamp when that was revoked; what was sent later with it was not meant."""
    if not past:
        return []
    before = {"before": max(asked_at for asked_at, _ in past), "at_most": MOST_STAMPED}
    waiting = [task_id for (task_id,) in connection.execute(sql.query("revoke.sql", "open before", journal.schema), before)]
    rows = journal.look(connection, sql.query("revoke.sql", "stamped", journal.schema), {"task_ids": waiting}) if waiting else ()
    return [
        row["task_id"]
        for row in rows
        if any(row["occurred_at"] <= asked_at and _match(_stamps_in(row["stamps"]), stamps) for asked_at, stamps in past)
    ]


def _match(carried: Stamps, revoked: Mapping[str, list[Any]]) -> bool:
    return any(stamp in revoked.get(name, ()) for name, stamps in carried.items() for stamp in stamps)


def _stamps_in(given: object) -> Stamps:
    """Return the stamps of each header; none of what somebody else has recorded as some."""
    if not isinstance(given, dict):
        return {}
    return {name: stamps if isinstance(stamps, list) else [stamps] for name, stamps in given.items()}


def _add(stamps: Stamps, more: Mapping[str, Iterable[Any]]) -> None:
    for name, values in more.items():
        before = stamps.get(name) or []
        before = before if isinstance(before, list) else [before]
        stamps[name] = [*before, *(value for value in values if value not in before)]
