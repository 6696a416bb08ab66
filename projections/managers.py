"""The managers: `TaskResult.objects` and its like, by which the views are asked and facts are stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from celery_journal import sql

from .chord_counter import ChordCounter
from .fields import CHORD_COUNTER, GROUP_RESULT, TASK_RESULT, View
from .group_result import GroupResult
from .projection import Connection, Row
from .query import Q, Query, R
from .queryset import Database, Opened, Rows
from .task_result import TaskResult

#: Finds the journal that is meant where none is named: the one of the current Celery app. The consumers, who know Celery, put it here.
find_database: Callable[[], Database] | None = None


class NoJournal(RuntimeError):
    """No journal is named, and none can be found."""


class ResultManager(Rows[R]):
    """The way to the rows of one model, those of the journal of the current Celery app unless another is named."""

    def __init__(self, query: Query[R], database: Database | None = None) -> None:
        self.query = query
        self._database = database

    @property
    def database(self) -> Database:
        """Where they are."""
        if self._database is not None:
            return self._database
        if find_database is None:
            raise NoJournal("no journal is named; say .using(connection), or import the models from celery_journal.consumers.models")
        return find_database()

    def using(self, connection: Connection, schema: str = sql.DEFAULT_SCHEMA) -> Self:
        """Return the same manager for the journal behind an open connection."""
        return type(self)(self.query, Opened.of(connection, schema))


def _every(model: type[Row], view: View, **where: object) -> Query[Any]:
    return Query(model, view, tuple(model.model_fields), model.model_validate, Q(**where), view.order)


class TaskResultManager(ResultManager[TaskResult]):
    """The tasks."""


class GroupResultManager(ResultManager[GroupResult]):
    """The saved groups."""


class ChordCounterManager(ResultManager[ChordCounter]):
    """The chords."""


TaskResult.objects = TaskResultManager(_every(TaskResult, TASK_RESULT))
GroupResult.objects = GroupResultManager(_every(GroupResult, GROUP_RESULT))
ChordCounter.objects = ChordCounterManager(_every(ChordCounter, CHORD_COUNTER, state="open"))
ChordCounter.all_objects = ChordCounterManager(_every(ChordCounter, CHORD_COUNTER))
