"""A saved group."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from .projection import Row
from .task_result import text_of

if TYPE_CHECKING:
    from .aquery import AsyncManager
    from .managers import GroupResultManager


class GroupResult(Row):
    """A group as `GroupResult.save()` stored it.

    `date_created` is the first save, `date_saved` the last, `date_done` the moment the last member became ready (None before).
    """

    query: ClassVar[str] = "group_result"
    key: ClassVar[str] = "group_id"
    objects: ClassVar[GroupResultManager]
    aobjects: ClassVar[AsyncManager[GroupResult]]

    group_id: str
    #: The encoded `as_tuple()` of the group, by `content_type` and `content_encoding`.
    result: bytes | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    #: The ids of the group's tasks, those of nested groups included.
    members: tuple[str, ...] | None = None
    date_created: datetime | None = None
    date_saved: datetime | None = None
    date_done: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return every field by name; the result as text (base64 where it is binary)."""
        return {**self.model_dump(), "result": text_of(self.result)}

    def __str__(self) -> str:
        return f"<Group: {self.group_id}>"


def task_ids_in(nodes: list[Any]) -> Iterator[str]:
    """Yield the ids of the tasks in a list of results as tuples: [[id, parent], null] is a task, [[id, parent], [nodes]] a group.

    Raises ValueError or TypeError where it is none.
    """
    for (task_id, _), inner in nodes:
        if inner:
            yield from task_ids_in(inner)
        else:
            yield task_id
