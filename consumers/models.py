"""The models, whose managers find the journal by themselves: that of the current Celery app, or else of CELERY_JOURNAL_DSN.

    from celery_journal.consumers.models import TaskResult

    for task in TaskResult.objects.filter(status="FAILURE", date_done__within=timedelta(hours=1)):
        print(task.task_id, task.task_name)

They are those of celery_journal.projections, which know no Celery, and whose managers need to be told a connection.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

from celery import current_app, states

from celery_journal.consumers.backend import JournalBackend
from celery_journal.consumers.backend.adatabase import AsyncDatabase
from celery_journal.consumers.backend.connection import Database
from celery_journal.consumers.options import Options, locate
from celery_journal.consumers.payloads import opened
from celery_journal.consumers.replay import send_again
from celery_journal.consumers.words import first_line
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.codec import DEFAULT_MAX_PAYLOAD_BYTES
from celery_journal.projections import ChordCounter, GroupResult, NoJournal, TaskResult, aquery, managers, task_result

__all__ = ["ChordCounter", "GroupResult", "TaskResult", "TaskResultMeta"]

#: As django-celery-fulldbresult calls it.
TaskResultMeta = TaskResult


@dataclass(frozen=True, slots=True)
class Found:
    """A journal that nobody had to name."""

    _database: Database
    journal: Journal
    emitter: Emitter

    def reading(self) -> AbstractContextManager[Connection]:
        """Lend a connection to read from, a replica where there is one."""
        return self._database.lend(fresh=False)

    def writing(self) -> AbstractContextManager[Connection]:
        """Lend a connection to append by."""
        return self._database.lend()


def find() -> Found:
    """Return the journal of the current app, or else the one that the environment names; raise NoJournal if there is neither."""
    backend = current_app.backend
    if isinstance(backend, JournalBackend):
        return Found(backend.database, backend.journal, backend.emitter)
    if dsn := os.environ.get("CELERY_JOURNAL_DSN"):
        return _named(dsn, Options.read(None))
    name = type(backend).__name__
    raise NoJournal(
        f"the results of the current app go to {name}, not to a journal; write result_backend = 'journal+postgresql://...', "
        "or set CELERY_JOURNAL_DSN"
    )


@cache
def _named(dsn: str, options: Options) -> Found:
    journal = Journal(options.schema_name, max_payload_bytes=options.max_payload_bytes, announcing=True)
    return Found(Database(locate(dsn), options), journal, Emitter())


def find_async() -> AsyncDatabase:
    """Return the same for an event loop."""
    backend = current_app.backend
    if isinstance(backend, JournalBackend):
        return backend.adatabase
    find()  # says what to do if there is none
    return _named_async(os.environ["CELERY_JOURNAL_DSN"], Options.read(None))


@cache
def _named_async(dsn: str, options: Options) -> AsyncDatabase:
    return AsyncDatabase(locate(dsn), options)


def replay(task_id: str, **wishes: Any) -> Any:
    """Send the task again by the current app, and return its result."""
    app, backend = current_app._get_current_object(), current_app.backend
    if not isinstance(backend, JournalBackend):
        find()  # says what to do if there is no journal
        raise NoJournal("a replay sends tasks, for which it takes an app: make the one whose results go to this journal the current one")
    return app.AsyncResult(send_again(backend, task_id, **wishes))


def decode(task: TaskResult) -> Any:
    """Return the result as the current app's `AsyncResult.result` has it; raise ValueError where the app cannot decode it."""
    if task.result is None:
        return None
    backend: Any = current_app.backend
    try:
        value = opened(task.result, task.content_type, task.content_encoding, backend.accept, DEFAULT_MAX_PAYLOAD_BYTES)
        return backend.exception_to_python(value) if task.status in states.EXCEPTION_STATES else value
    except Exception as exc:  # a serializer may raise anything
        raise ValueError(f"the result of {task.task_id} cannot be decoded: {first_line(exc)}") from exc


managers.find_database = find
task_result.replay_task = replay
task_result.decode_result = decode
aquery.find_database = find_async
