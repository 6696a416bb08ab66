"""The events of a periodic task. Its stream is its name."""

from __future__ import annotations

from typing import Any, Literal

from .event import Event, Text


class PeriodicTaskChange(Event):
    """A change of a periodic task's definition: what it is afterwards, and who did it."""

    definition: dict[Any, Any] | None = None
    author: Text | None = None
    reason: Text | None = None


class PeriodicTaskCreated(PeriodicTaskChange):
    kind: Literal["periodic-task-created"] = "periodic-task-created"


class PeriodicTaskChanged(PeriodicTaskChange):
    kind: Literal["periodic-task-changed"] = "periodic-task-changed"


class PeriodicTaskEnabled(PeriodicTaskChange):
    kind: Literal["periodic-task-enabled"] = "periodic-task-enabled"


class PeriodicTaskDisabled(PeriodicTaskChange):
    kind: Literal["periodic-task-disabled"] = "periodic-task-disabled"


class PeriodicTaskDeleted(PeriodicTaskChange):
    kind: Literal["periodic-task-deleted"] = "periodic-task-deleted"


class PeriodicTaskReset(PeriodicTaskChange):
    kind: Literal["periodic-task-reset"] = "periodic-task-reset"


class PeriodicTaskSent(Event):
    """A run that fell due was sent, as task `task_id`."""

    kind: Literal["periodic-task-sent"] = "periodic-task-sent"
    task_id: Text | None = None
