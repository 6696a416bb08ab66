"""A chord: how many of its parts have returned, and what became of its body."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from psycopg.rows import dict_row
from pydantic import BaseModel, ConfigDict

from celery_journal import sql
from celery_journal.journal.codec import escape

from .projection import Connection, Row

if TYPE_CHECKING:
    from .aquery import AsyncManager
    from .managers import Manager

#: Makes a `celery.result.GroupResult` of a group id, its results as tuples and an app (None: the current one).
#: The consumers, who know Celery, put it here.
make_group_result: Callable[[str, list[Any], Any], Any] | None = None


class ChordCounter(Row):
    """A chord's counter: `count` starts at `size`, the number of parts expected, and falls to 0 as they return."""

    query: ClassVar[str] = "chord_counter"
    key: ClassVar[str] = "group_id"
    #: The chords that are not finished yet.
    objects: ClassVar[Manager[ChordCounter]]
    aobjects: ClassVar[AsyncManager[ChordCounter]]
    #: Those whose body is sent, or has failed, included.
    all_objects: ClassVar[Manager[ChordCounter]]

    group_id: str
    #: The header's results as JSON text, a list of `AsyncResult.as_tuple()`; None when the header was a generator.
    sub_tasks: str | None = None
    #: Parts still to come; None as long as the size is not known.
    count: int | None = None
    size: int | None = None
    #: Parts that have returned, and those of them that failed or were revoked.
    done: int = 0
    failed: int = 0
    state: Literal["open", "unlocked", "failed"] = "open"
    body_task_id: str | None = None
    date_created: datetime | None = None
    date_done: datetime | None = None

    def group_result(self, app: Any = None) -> Any:
        """Return the `celery.result.GroupResult` of the header, for the app (the current one if None).

        Raises RuntimeError where no result backend of celery-journal is loaded.
        """
        if make_group_result is None:
            raise RuntimeError("group_result() needs Celery; import celery_journal.consumers.backend first")
        return make_group_result(self.group_id, json.loads(self.sub_tasks or "[]"), app)

    def as_dict(self) -> dict[str, Any]:
        """Return every field by name."""
        return self.model_dump()

    def __str__(self) -> str:
        return f"<Chord: {self.group_id} ({self.done} of {self.size})>"


class ChordPart(BaseModel):
    """One member of a chord's header that has returned."""

    model_config = ConfigDict(frozen=True)

    group_id: str
    task_id: str
    #: The place in the header; None when Celery gave none.
    group_index: int | None = None
    status: str
    #: The encoded result, by `content_type` and `content_encoding`.
    result: bytes | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    date_done: datetime | None = None

    @classmethod
    def of(cls, connection: Connection, group_id: str, schema: str = sql.DEFAULT_SCHEMA) -> list[Self]:
        """Return the parts of a chord that have returned, in the order of its header."""
        with connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(sql.query("views.sql", "parts", schema), {"group_id": escape(group_id)})
            return [cls.model_validate(row) for row in cursor]
