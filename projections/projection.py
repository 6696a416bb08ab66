"""The registry of the projections, and what the models of their rows have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self

import psycopg
from psycopg.rows import dict_row
from pydantic import BaseModel, ConfigDict

from celery_journal import sql
from celery_journal.journal.codec import escape
from celery_journal.journal.errors import JournalError
from celery_journal.sql.fold import PROJECTIONS

Connection = psycopg.Connection[Any]

__all__ = ["PROJECTIONS", "Connection", "NoJournal", "Row", "RowDoesNotExist", "SeveralRows"]


class NoJournal(JournalError, RuntimeError):
    """No journal is named, and none can be found."""

    def __init__(
        self, text: str = "no journal is named; say .using(connection), or import the models from celery_journal.consumers.models"
    ) -> None:
        super().__init__(text)


class RowDoesNotExist(JournalError, LookupError):
    """The view has no row of that key."""


class SeveralRows(JournalError, LookupError):
    """The view has more than one such row."""


class Row(BaseModel):
    """One row of a view, as it was when it was read."""

    model_config = ConfigDict(frozen=True)

    #: The named query of sql/views.sql, and the field that is the key.
    query: ClassVar[str]
    key: ClassVar[str]
    #: Raised by `get`; each model has its own, as Django's models have.
    DoesNotExist: ClassVar[type[RowDoesNotExist]] = RowDoesNotExist
    #: Raised by a query that was to find one row.
    MultipleObjectsReturned: ClassVar[type[SeveralRows]] = SeveralRows

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.DoesNotExist = type("DoesNotExist", (RowDoesNotExist,), {"__qualname__": f"{cls.__qualname__}.DoesNotExist"})
        cls.MultipleObjectsReturned = type(
            "MultipleObjectsReturned", (SeveralRows,), {"__qualname__": f"{cls.__qualname__}.MultipleObjectsReturned"}
        )

    @classmethod
    def get(cls, connection: Connection, key: str, schema: str = sql.DEFAULT_SCHEMA) -> Self:
        """Return the row of the key; raise `DoesNotExist` if there is none."""
        rows = cls.get_many(connection, [key], schema)
        if key not in rows:
            raise cls.DoesNotExist(f"{cls.query} has no {cls.key} {key!r}")
        return rows[key]

    @classmethod
    def get_many(cls, connection: Connection, keys: Iterable[str], schema: str = sql.DEFAULT_SCHEMA) -> dict[str, Self]:
        """Return the rows of those of the keys that have one, by key, in one query."""
        given = {escape(key): key for key in keys}
        with connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(sql.query("views.sql", cls.query, schema), {"keys": list(given)})
            return {given[row[cls.key]]: cls.model_validate(row) for row in cursor}
