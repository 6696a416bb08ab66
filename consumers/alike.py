"""Tasks that wait for the same reason in the same queue, counted: thirty thousand of them are one line."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from .words import listed

_MOMENT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
_ID = r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}\b"

#: What differs between reasons that are the same: moments, ids, one after the other, and numbers that stand alone.
_VARYING = re.compile(rf"{_MOMENT}|{_ID}(?:, {_ID})*|(?<!\S)\d[\d,.]*(?!\S)")

#: Stands for it.
_LEFT_OUT = "…"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task, as far as it is counted."""

    id: str
    name: str | None
    queue: str | None
    #: For how long; None where that is not known.
    age: timedelta | None
    reason: str


@dataclass(slots=True)
class Alike:
    """Tasks of one queue and one reason."""

    queue: str | None
    #: That of all of them, with an ellipsis for what differs.
    reason: str
    #: How many there are of each name.
    names: Counter[str] = field(default_factory=Counter)
    count: int = 0
    #: For how long the oldest waits, and which it is.
    age: timedelta | None = None
    example: str = ""

    def told_names(self) -> str:
        """Return the names, the most frequent first; with their numbers, if there are several."""
        if len(self.names) == 1:
            return next(iter(self.names))
        return listed([f"{name} ({number:,})" for name, number in self.names.most_common()], 3)


def alike(tasks: Iterable[Waiting]) -> list[Alike]:
    """Return the tasks by queue and reason, the most frequent first."""
    found: dict[tuple[str | None, str], Alike] = {}
    for task in tasks:
        common = _VARYING.sub(_LEFT_OUT, task.reason)
        group = found.setdefault((task.queue, common), Alike(task.queue, task.reason))
        group.count += 1
        if group.reason != task.reason:
            group.reason = common
        if task.name is not None:
            group.names[task.name] += 1
        if not group.example or (task.age is not None and (group.age is None or task.age > group.age)):
            group.age, group.example = task.age, task.id
    return sorted(found.values(), key=lambda group: -group.count)
