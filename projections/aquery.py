"""The same sets for asyncio: `async for task in TaskResult.aobjects.filter(status="FAILURE")`, `await ....count()`.

A loop over more than a page that is left early lets go of its connection when the loop of asyncio gets to it; `contextlib.aclosing` does
so at once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self
from uuid import uuid4

import psycopg
from psycopg.rows import dict_row

from celery_journal import sql

from .aggregates import Aggregate, named
from .projection import NoJournal
from .query import Q, Query, Question, R
from .queryset import PAGE, Chain, open_connection

AsyncConnection = psycopg.AsyncConnection[Any]


class AsyncDatabase(Protocol):
    """Where the rows are."""

    @property
    def schema(self) -> str:
        """The schema of the journal."""
        ...

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Lend a connection to read from."""
        ...


@dataclass(frozen=True, slots=True)
class AsyncOpened:
    """The database behind a connection that is open already."""

    connection: AsyncConnection
    schema: str

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Lend the connection."""
        return nullcontext(self.connection)


#: Finds the journal of the current Celery app, as `managers.find_database` does.
find_database: Callable[[], AsyncDatabase] | None = None


class AsyncRows(Chain[R, "AsyncQuerySet[R]"]):
    """Rows that can be asked for."""

    @property
    @abstractmethod
    def database(self) -> AsyncDatabase:
        """Where they are."""

    def values(self, *names: str) -> AsyncQuerySet[dict[str, Any]]:
        """Return the rows as dicts of these fields, of all unless given."""
        return AsyncQuerySet(self.query.values(names), self.database)

    def values_list(self, *names: str, flat: bool = False, named: bool = False) -> AsyncQuerySet[Any]:
        """Return the rows as tuples of these fields, of all unless given: named tuples if `named`, and of one field itself if `flat`."""
        return AsyncQuerySet(self.query.values_list(names, flat=flat, named=named), self.database)

    async def get(self, *conditions: Q, **lookups: object) -> R:
        """Return the one row; raise the model's `DoesNotExist` or `MultipleObjectsReturned` if it is not one."""
        query = self.filter(*conditions, **lookups).query if conditions or lookups else self.query
        rows = await self._fetched(query.part(slice(2)))
        if len(rows) != 1:
            raise query.several_found() if rows else query.none_found()
        return rows[0]

    async def first(self) -> R | None:
        """Return the first row, or None."""
        return next(iter(await self._fetched(self.query.part(slice(1)))), None)

    async def last(self) -> R | None:
        """Return the last row, or None; raise TypeError of a slice."""
        return next(iter(await self._fetched(self.query.backwards().part(slice(1)))), None)

    async def count(self) -> int:
        """Return how many there are."""
        return int(await self._answer(self.query.count(self.database.schema)))

    async def exists(self) -> bool:
        """Return whether there are any."""
        return bool(await self._answer(self.query.exists(self.database.schema)))

    async def aggregate(self, *asked: Aggregate, **by_name: Aggregate) -> dict[str, Any]:
        """Return what is reckoned of the rows, by name: `aggregate(Max("date_done"))` has `date_done__max`.

        Raises FieldError where something is not reckoned of such a field.
        """
        wanted = named(asked, by_name)
        if not wanted:
            return {}
        async with self.database.reading() as connection:
            cursor = await connection.execute(*self.query.aggregated(wanted.values(), self.database.schema))
            row = await cursor.fetchone()
        return dict(zip(wanted, row or (), strict=True))

    async def iterator(self, chunk_size: int = PAGE) -> AsyncGenerator[R, None]:
        """Yield the rows from a cursor of the server, so many at a time."""
        name = f"rows_{uuid4().hex}"
        async with (
            self.database.reading() as connection,
            connection.transaction(),
            connection.cursor(name, row_factory=dict_row) as cursor,
        ):
            cursor.itersize = chunk_size
            await cursor.execute(*self.query.rows(self.database.schema))
            with suppress(GeneratorExit):  # or what the loop did by the same connection would be rolled back
                async for fields in cursor:
                    yield self.query.make(fields)

    def _set(self, query: Query[R]) -> AsyncQuerySet[R]:
        return AsyncQuerySet(query, self.database)

    async def _fetched(self, query: Query[R]) -> list[R]:
        async with self.database.reading() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(*query.rows(self.database.schema))
            rows = await cursor.fetchall()
        return [query.make(row) for row in rows]

    async def _answer(self, question: Question) -> Any:
        async with self.database.reading() as connection:
            cursor = await connection.execute(*question)
            (answer,) = await cursor.fetchone() or (None,)
        return answer


class AsyncQuerySet(AsyncRows[R]):
    """A set of rows of one view."""

    def __init__(self, query: Query[R], database: AsyncDatabase) -> None:
        self.query = query
        self._database = database

    @property
    def database(self) -> AsyncDatabase:
        """Where they are."""
        return self._database

    def __getitem__(self, place: slice) -> AsyncQuerySet[R]:
        return self._set(self.query.part(place))

    async def __aiter__(self) -> AsyncGenerator[R, None]:
        if self.query.limit is not None and self.query.limit <= PAGE:
            for row in await self._fetched(self.query):
                yield row
            return
        async with aclosing(self.iterator()) as rows:
            async for row in rows:
                yield row


class AsyncManager(AsyncRows[R]):
    """The way to the rows of one model, in the journal of the current Celery app unless another is named."""

    def __init__(self, query: Query[R], database: AsyncDatabase | None = None) -> None:
        self.query = query
        self._database = database

    @property
    def database(self) -> AsyncDatabase:
        """Where they are."""
        if self._database is not None:
            return self._database
        if find_database is None:
            raise NoJournal()
        return find_database()

    def using(self, connection: AsyncConnection | str, schema: str = sql.DEFAULT_SCHEMA) -> Self:
        """Return the same manager for the journal behind an open connection; `default` is that of the current app.

        Raises TypeError of anything else.
        """
        if connection == "default":
            return type(self)(self.query)
        return type(self)(self.query, AsyncOpened(open_connection(connection, psycopg.AsyncConnection), schema))
