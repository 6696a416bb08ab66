"""The managers: `TaskResult.objects` and its like, by which the views are asked and facts are stored.

Names and signatures are those of django-celery-results and django-celery-fulldbresult. What differs: nothing that is stored here changes
a row by itself. It is a fact in the log, and what comes back is the row that the log makes of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self, TypeVar
from uuid import UUID

import psycopg
from psycopg.pq import TransactionStatus

from celery_journal import sql
from celery_journal.journal import DatabaseError
from celery_journal.journal.events import Event, GroupExpired, GroupSaved, TaskExpired

from .aquery import AsyncManager
from .chord_counter import ChordCounter
from .expiry import take_out
from .fields import CHORD_COUNTER, GROUP_RESULT, TASK_RESULT, View
from .group_result import GroupResult
from .projection import Connection, NoJournal, Row
from .query import Q, Query, R
from .queryset import Database, Opened, QuerySet, Rows, open_connection
from .storing import arguments, attempt_of, encoded, facts_of, id_of, made, members_of, payload
from .task_result import TaskResult

M = TypeVar("M", bound=Row)

#: Finds the journal that is meant where none is named: the one of the current Celery app. The consumers, who know Celery, put it here.
find_database: Callable[[], Database] | None = None

#: The states after which nothing is expected any more.
ACCEPTABLE = frozenset({"SUCCESS", "FAILURE", "REVOKED", "IGNORED"})

#: By how much a clock may be ahead of the database's, and be believed.
_AHEAD = timedelta(days=1)

#: How often a fact is told again when its connection breaks, unless the caller says otherwise.
RETRIES = 2


class TxIsolationWarning(UserWarning):
    """The transaction sees the views as they were when it began: a task that has ended since does not end for it."""


class Manager(Rows[R]):
    """The way to the rows of one model, in the journal of the current Celery app unless another is named."""

    def __init__(self, query: Query[R], database: Database | None = None) -> None:
        self.query = query
        self._database = database

    @property
    def database(self) -> Database:
        """Where they are."""
        if self._database is not None:
            return self._database
        if find_database is None:
            raise NoJournal()
        return find_database()

    def using(self, connection: Connection | str, schema: str = sql.DEFAULT_SCHEMA) -> Self:
        """Return the same manager for the journal behind an open connection; `default`, as Django calls it, is that of the current app.

        Raises TypeError of anything else.
        """
        return type(self)(self.query, None if connection == "default" else Opened.of(connection, schema))


class ResultManager(Manager[M]):
    """What tasks and groups have in common: they expire, and are stored by facts."""

    #: The statement of sql/expiry.sql that finds what is old, the event that takes it out, and the date that tells.
    _expired: ClassVar[tuple[str, type[TaskExpired | GroupExpired], str]]
    #: What was last asked for, and not there.
    _last_id: str | None = None

    def connection_for_write(self) -> AbstractContextManager[Connection]:
        """Lend the connection by which facts are appended: `with TaskResult.objects.connection_for_write() as connection:`."""
        return self.database.writing()

    def connection_for_read(self) -> AbstractContextManager[Connection]:
        """Lend the connection by which rows are read; with the option read_dsn, that of the replica."""
        return self.database.reading()

    def current_engine(self) -> str:
        """Return `postgresql`."""
        return "postgresql"

    def server_version(self) -> int:
        """Return the version of the server, 180001 being 18.1."""
        with self.connection_for_read() as connection:
            return connection.info.server_version

    def get_all_expired(self, expires: float | timedelta | None) -> QuerySet[M]:
        """Return what ended longer ago than `expires` (seconds, or a timedelta; None is never).

        Where the clock that says when cannot be true, what was recorded longer ago.
        """
        _, _, date = self._expired
        if expires is None:
            return self.none()
        # The date has an index; whether its clock is to be believed has none.
        looked_at = Q(**{f"{date}__older_than": _duration(expires)}) | Q(**{f"{date}__within": -_AHEAD})
        return self.filter(looked_at, **{f"believed_{date}__older_than": _duration(expires)})

    def delete_expired(self, expires: float | timedelta | None) -> int:
        """Take what ended longer ago than `expires` out of the views, in batches; return how many. The log keeps it."""
        if expires is None:
            return 0
        name, kind, _ = self._expired
        database = self.database
        with database.writing() as connection:
            moment = connection.execute(sql.query("expiry.sql", "moment", database.journal.schema), {"age": _duration(expires)}).fetchone()
            limits = dict.fromkeys(("results", "failures", "chords"), moment and moment[0])
            return take_out(connection, database.journal, database.emitter, name, kind, limits)

    def warn_if_repeatable_read(self) -> None:
        """Warn if the connection reads in a transaction that does not see what others commit."""
        with self.connection_for_read() as connection:
            (level,) = connection.execute(sql.query("query.sql", "isolation")).fetchone() or ("",)
        if level in {"repeatable read", "serializable"}:
            warnings.warn(
                f"transactions here are {level}: polling for a result inside of one never sees it; use read committed",
                TxIsolationWarning,
                stacklevel=3,
            )

    def _through(self, using: Connection | str | None) -> Database:
        """Return the journal, by another connection if one is given."""
        database = self.database
        if using is None or using == "default":
            return database
        return Opened(open_connection(using, psycopg.Connection), database.journal, database.emitter)

    def _row(self, given: str | UUID) -> M:
        """Return the row; or a new one that is not stored, with a warning if it was asked for before in vain."""
        model = self.query.model
        key = id_of(model.key, given)
        with self.connection_for_read() as connection:
            row = model.get_many(connection, [key], self.database.journal.schema).get(key)
        if row is None:
            if self._last_id == key:
                self.warn_if_repeatable_read()
            self._last_id = key
        return self.query.make({model.key: key}) if row is None else row  # type: ignore[return-value]

    def _store(self, key: str, events: Iterable[Event], using: Connection | str | None, retries: int) -> M:
        """Append the events, again with the same ids when the connection breaks; return the row as they leave it."""
        database = self._through(using)
        while True:
            retries -= 1
            lent: Connection | None = None
            try:
                with database.writing() as lent:
                    database.journal.append(lent, *events)
                    return self.query.model.get(lent, key, database.journal.schema)  # type: ignore[return-value]
            except (psycopg.OperationalError, psycopg.InterfaceError, DatabaseError):
                # In a transaction of the caller's own, which is over now, nothing can be tried again.
                if retries < 0 or (isinstance(using, psycopg.Connection) and using.info.transaction_status != TransactionStatus.IDLE):
                    raise


class TaskResultManager(ResultManager[TaskResult]):
    """The tasks."""

    _expired = ("expired tasks", TaskExpired, "date_done")

    def get_task(self, task_id: str | UUID) -> TaskResult:
        """Return the task; one that nothing is known of is PENDING, and not stored."""
        return self._row(task_id)

    def get_stale_tasks(self, max_duration: timedelta, acceptable_states: Collection[str] | None = None) -> QuerySet[TaskResult]:
        """Return the tasks sent longer ago than `max_duration` that are in none of the acceptable states, the oldest first.

        Acceptable is, unless given, what Celery takes for an end, and IGNORED. A task with an eta counts from then on.
        """
        acceptable = ACCEPTABLE if acceptable_states is None else frozenset(acceptable_states)
        stale = self.exclude(status__in=acceptable).filter(
            Q(eta__isnull=True) | Q(eta__older_than=max_duration), date_created__older_than=max_duration
        )
        if acceptable >= ACCEPTABLE:
            stale = stale.filter(date_done__isnull=True)  # it has an index
        return stale.order_by("date_created")

    def store_result(
        self,
        content_type: str,
        content_encoding: str,
        task_id: str | UUID,
        result: str | bytes | None,
        status: str,
        traceback: str | None = None,
        meta: str | bytes | None = None,
        periodic_task_name: str | None = None,
        task_name: str | None = None,
        task_args: str | bytes | None = None,
        task_kwargs: str | bytes | None = None,
        worker: str | None = None,
        using: Connection | str | None = None,
        *,
        date_started: datetime | None = None,
        retries: int | None = None,
        exception_retry_count: int = RETRIES,
    ) -> TaskResult:
        """Record that the task is in this state, and return the row that the log makes of it.

        It is the attempt `retries` that is told of; unless given, the one that the journal knows, or the next after a RETRY. What is
        final stays: a SUCCESS that is recorded is no FAILURE afterwards.

        What is encoded is text or bytes, and text of binary content base64. Raises TypeError or ValueError of what cannot be recorded.
        """
        task_id = id_of("task_id", task_id)
        if retries is None:
            with self._through(using).writing() as connection:
                row = TaskResult.get_many(connection, [task_id], self.database.journal.schema).get(task_id)
            retries = attempt_of(row, status)
        fields = {
            "name": task_name,
            "periodic_task_name": periodic_task_name,
            **arguments(task_args, task_kwargs, content_type, content_encoding),
            "worker": worker,
            "result": payload("result", result, content_type, content_encoding),
            "content_type": content_type,
            "content_encoding": content_encoding,
            "traceback": traceback,
            "meta": encoded("meta", meta),
        }
        # Made once: what is told again after a broken connection is the same fact.
        facts = facts_of(self.database.emitter, task_id, status, retries, date_started, fields)
        return self._store(task_id, facts, using, exception_retry_count)


class GroupResultManager(ResultManager[GroupResult]):
    """The saved groups."""

    _expired = ("expired groups", GroupExpired, "date_saved")

    def get_group(self, group_id: str | UUID) -> GroupResult:
        """Return the group; one that nobody has saved is empty, and not stored."""
        return self._row(group_id)

    def store_group_result(
        self,
        content_type: str,
        content_encoding: str,
        group_id: str | UUID,
        result: str | bytes | None,
        using: Connection | str | None = None,
        *,
        exception_retry_count: int = RETRIES,
    ) -> GroupResult:
        """Record that the group was saved, and return the row that the log makes of it."""
        group_id = id_of("group_id", group_id)
        saved = made(
            self.database.emitter.emit,
            GroupSaved,
            group_id,
            result=payload("result", result, content_type, content_encoding),
            content_type=content_type,
            content_encoding=content_encoding,
            members=members_of(result),
        )
        return self._store(group_id, [saved], using, exception_retry_count)


def _duration(expires: float | timedelta) -> timedelta:
    return expires if isinstance(expires, timedelta) else timedelta(seconds=expires)


def _every(model: type[Row], view: View, **where: object) -> Query[Any]:
    return Query(model, view, tuple(model.model_fields), model.model_validate, Q(**where), view.order)


_TASKS = _every(TaskResult, TASK_RESULT)
_GROUPS = _every(GroupResult, GROUP_RESULT)
_OPEN_CHORDS, _CHORDS = _every(ChordCounter, CHORD_COUNTER, state="open"), _every(ChordCounter, CHORD_COUNTER)

TaskResult.objects, TaskResult.aobjects = TaskResultManager(_TASKS), AsyncManager(_TASKS)
GroupResult.objects, GroupResult.aobjects = GroupResultManager(_GROUPS), AsyncManager(_GROUPS)
ChordCounter.objects, ChordCounter.aobjects = Manager(_OPEN_CHORDS), AsyncManager(_OPEN_CHORDS)
ChordCounter.all_objects = Manager(_CHORDS)
