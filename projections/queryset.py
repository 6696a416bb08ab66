"""Sets of rows, lazy as Django's: what they hold is asked for when it is needed.

    for task in TaskResult.objects.filter(status="FAILURE").exclude(worker="w3"):
        print(task.task_id)

Such a loop reads row by row from a cursor of the server, however many there are, and asks anew each time. Meanwhile its connection is in
a transaction. Only `len()`, and `list()` which calls it, read a set whole and keep what they have read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, overload
from uuid import uuid4

import psycopg
from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.journal import Emitter, Journal

from .aggregates import Aggregate, named
from .projection import Connection
from .query import Q, Query, Question

R = TypeVar("R")
S = TypeVar("S")
C = TypeVar("C")

#: Rows that are fetched at a time; what cannot be more needs no cursor on the server.
PAGE = 1000

#: Rows that are shown of a set.
SHOWN = 20


class Database(Protocol):
    """Where the rows are, and where the facts go."""

    @property
    def journal(self) -> Journal:
        """The log, and its schema."""
        ...

    @property
    def emitter(self) -> Emitter:
        """Who says what is stored."""
        ...

    def reading(self) -> AbstractContextManager[Connection]:
        """Lend a connection to read from."""
        ...

    def writing(self) -> AbstractContextManager[Connection]:
        """Lend a connection to append by."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """The database behind a connection that is open already."""

    connection: Connection
    journal: Journal
    emitter: Emitter

    @classmethod
    def of(cls, connection: object, schema: str = sql.DEFAULT_SCHEMA) -> Opened:
        """Return the journal of that schema, by this connection; raise TypeError if it is none."""
        return cls(open_connection(connection, psycopg.Connection), Journal(schema, announcing=True), Emitter())

    def reading(self) -> AbstractContextManager[Connection]:
        """Lend the connection."""
        return nullcontext(self.connection)

    writing = reading


def open_connection(given: object, kind: type[C]) -> C:
    """Return the connection; raise TypeError if it is something else, such as the alias of a database of Django."""
    if isinstance(given, kind):
        return given
    what = repr(given) if isinstance(given, str) else f"a {type(given).__name__}"
    raise TypeError(f"it takes an open psycopg.{kind.__name__}, not {what}: without one, the journal is that of the current Celery app")


class Chain(ABC, Generic[R, S]):
    """What sets and managers have in common: each step makes another set."""

    query: Query[R]

    def all(self) -> S:
        """Return every row."""
        return self._set(self.query)

    def filter(self, *conditions: Q, **lookups: object) -> S:
        """Return the rows for which every condition and every lookup holds."""
        return self._set(self.query.where_also(Q(*conditions, **lookups)))

    def exclude(self, *conditions: Q, **lookups: object) -> S:
        """Return the rows for which not all of them hold."""
        return self._set(self.query.where_also(~Q(*conditions, **lookups)))

    def order_by(self, *names: str) -> S:
        """Return the rows in the order of the fields, `-date_done` being descending; the key decides between equals."""
        return self._set(self.query.in_order(names))

    def none(self) -> S:
        """Return no row."""
        return self.filter(pk__in=())

    def distinct(self) -> S:
        """Return the rows of `values` and `values_list` without those that are the same as another: `values_list("worker").distinct()`."""
        return self._set(self.query.distinct())

    @abstractmethod
    def _set(self, query: Query[R]) -> S:
        """Return the set of another query in the same journal."""


class Rows(Chain[R, "QuerySet[R]"]):
    """Rows that can be asked for."""

    @property
    @abstractmethod
    def database(self) -> Database:
        """Where they are."""

    def values(self, *names: str) -> QuerySet[dict[str, Any]]:
        """Return the rows as dicts of these fields, of all unless given."""
        return QuerySet(self.query.values(names), self.database)

    def values_list(self, *names: str, flat: bool = False, named: bool = False) -> QuerySet[Any]:
        """Return the rows as tuples of these fields, of all unless given: named tuples if `named`, and of one field itself if `flat`."""
        return QuerySet(self.query.values_list(names, flat=flat, named=named), self.database)

    def get(self, *conditions: Q, **lookups: object) -> R:
        """Return the one row; raise the model's `DoesNotExist` or `MultipleObjectsReturned` if it is not one."""
        query = self.filter(*conditions, **lookups).query if conditions or lookups else self.query
        rows = self._fetched(query.part(slice(2)))
        if len(rows) != 1:
            raise query.several_found() if rows else query.none_found()
        return rows[0]

    def first(self) -> R | None:
        """Return the first row, or None."""
        return next(iter(self._fetched(self.query.part(slice(1)))), None)

    def last(self) -> R | None:
        """Return the last row, or None; raise TypeError of a slice."""
        return next(iter(self._fetched(self.query.backwards().part(slice(1)))), None)

    def count(self) -> int:
        """Return how many there are."""
        return int(self._answer(self.query.count(self.database.journal.schema)))

    def exists(self) -> bool:
        """Return whether there are any."""
        return bool(self._answer(self.query.exists(self.database.journal.schema)))

    def aggregate(self, *asked: Aggregate, **by_name: Aggregate) -> dict[str, Any]:
        """Return what is reckoned of the rows, by name: `aggregate(Max("date_done"))` has `date_done__max`.

        Raises FieldError where something is not reckoned of such a field.
        """
        wanted = named(asked, by_name)
        if not wanted:
            return {}
        with self.database.reading() as connection:
            row = connection.execute(*self.query.aggregated(wanted.values(), self.database.journal.schema)).fetchone()
        return dict(zip(wanted, row or (), strict=True))

    def iterator(self, chunk_size: int = PAGE) -> Iterator[R]:
        """Yield the rows from a cursor of the server, so many at a time, and keep none; asked for anew also where `len()` has kept them."""
        name = f"rows_{uuid4().hex}"
        with (
            self.database.reading() as connection,
            connection.transaction(),
            connection.cursor(name, row_factory=dict_row) as cursor,
            suppress(GeneratorExit),  # or what the loop did by the same connection would be rolled back
        ):
            cursor.itersize = chunk_size
            cursor.execute(*self.query.rows(self.database.journal.schema))
            for row in cursor:
                yield self.query.make(row)

    def _set(self, query: Query[R]) -> QuerySet[R]:
        return QuerySet(query, self.database)

    def _fetched(self, query: Query[R]) -> list[R]:
        with self.database.reading() as connection, connection.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(*query.rows(self.database.journal.schema)).fetchall()
        return [query.make(row) for row in rows]

    def _answer(self, question: Question) -> Any:
        with self.database.reading() as connection:
            (answer,) = connection.execute(*question).fetchone() or (None,)
        return answer


class QuerySet(Rows[R]):
    """A set of rows of one view."""

    def __init__(self, query: Query[R], database: Database) -> None:
        self.query = query
        self._database = database
        self._kept: list[R] | None = None

    @property
    def database(self) -> Database:
        """Where they are."""
        return self._database

    def __iter__(self) -> Iterator[R]:
        if self._kept is None and self.query.limit is not None and self.query.limit <= PAGE:
            yield from self._fetched(self.query)
        elif self._kept is None:
            yield from self.iterator()
        else:
            yield from self._kept

    def __len__(self) -> int:
        if self._kept is None:
            self._kept = self._fetched(self.query)
        return len(self._kept)

    def __bool__(self) -> bool:
        return self.exists() if self._kept is None else bool(self._kept)

    @overload
    def __getitem__(self, place: int) -> R: ...

    @overload
    def __getitem__(self, place: slice) -> QuerySet[R]: ...

    def __getitem__(self, place: int | slice) -> R | QuerySet[R]:
        if isinstance(place, slice):
            return self._set(self.query.part(place))
        part = self.query.part(slice(place, place + 1))
        rows = self._fetched(part) if self._kept is None else self._kept[place : place + 1]
        if not rows:
            raise IndexError(f"there is no row {place}")
        return rows[0]

    def __repr__(self) -> str:
        rows = self._fetched(self.query.part(slice(SHOWN + 1))) if self._kept is None else self._kept[: SHOWN + 1]
        shown = [str(row) if isinstance(row, self.query.model) else repr(row) for row in rows[:SHOWN]]
        return f"<QuerySet [{', '.join([*shown, *(['...'] if len(rows) > SHOWN else [])])}]>"
