"""The current state of a task."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ValidationInfo, computed_field, field_validator

from .projection import Row

if TYPE_CHECKING:
    from .aquery import AsyncManager
    from .managers import TaskResultManager

#: Sends the task of that id again, as it was published, and returns its result; the consumers, who know Celery, put it here.
replay_task: Callable[..., Any] | None = None

#: Decodes the result of a row as Celery's serializers made it; put here by those who know them.
decode_result: Callable[[TaskResult], Any] | None = None


def text_of(encoded: bytes | None) -> str | None:
    """Return encoded data as text: as it is where it is UTF-8, as base64 where it is binary."""
    if encoded is None:
        return None
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return base64.b64encode(encoded).decode()


class TaskResult(Row):
    """A task's status and result, with what was asked and who ran it: all of one run, where an id was sent more than once.

    The times are aware, in UTC, and come from the events: `date_created` is the first fact about the task,
    `date_started` the start of the run that ended it, or of the newest, `date_done` the end (None before), `date_updated` the last fact.
    Only `recorded_at` is by the clock of the database.
    """

    query: ClassVar[str] = "task_result"
    key: ClassVar[str] = "task_id"
    objects: ClassVar[TaskResultManager]
    aobjects: ClassVar[AsyncManager[TaskResult]]

    task_id: str
    task_name: str | None = None
    periodic_task_name: str | None = None
    #: The host name of the worker that ran it last.
    worker: str | None = None
    #: One of celery.states, or a custom state; PENDING is a task that is sent and not yet seen by a worker.
    status: str = "PENDING"
    #: As Celery's serializer made it, by `content_type` and `content_encoding`.
    result: bytes | None = None
    traceback: str | None = None
    #: Children, the request's own `meta` and its stamps, as JSON text.
    meta: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    date_created: datetime | None = None
    date_started: datetime | None = None
    date_done: datetime | None = None
    date_updated: datetime | None = None
    #: When its message was handed to the broker, that of a retry included; None where the sending is not recorded.
    date_sent: datetime | None = None
    #: When the last fact about it was recorded.
    recorded_at: datetime | None = None
    #: Why it will not go on by itself, in words; None where it has ended, or was heard of since somebody thought so.
    lost_reason: str | None = None
    retries: int = 0
    pid: int | None = None
    queue: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    #: The encoded arguments, as `args_content_type` says (JSON where it is None).
    args: bytes | None = None
    kwargs: bytes | None = None
    args_content_type: str | None = None

    @field_validator("meta", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return text_of(value) if isinstance(value, bytes) else value

    @field_validator("parent_id")
    @classmethod
    def _of_another(cls, value: str | None, info: ValidationInfo) -> str | None:
        """Return the parent, unless it is the task itself: so says Celery where a task without one tries again, and so do older logs."""
        return None if value == info.data.get("task_id") else value

    @computed_field  # type: ignore[prop-decorator]
    @property
    def task_args(self) -> str | None:
        """The arguments as JSON text; None when they are not stored, or not as JSON (then `args` has the bytes)."""
        return text_of(self.args) if self.args_content_type is None else None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def task_kwargs(self) -> str | None:
        """The keyword arguments as JSON text, like `task_args`."""
        return text_of(self.kwargs) if self.args_content_type is None else None

    @property
    def task(self) -> str | None:
        """The name of the task, as django-celery-fulldbresult calls it."""
        return self.task_name

    @property
    def hostname(self) -> str | None:
        """The worker that ran it last, as django-celery-fulldbresult calls it."""
        return self.worker

    @property
    def date_submitted(self) -> datetime | None:
        """When its message was handed to the broker, as django-celery-fulldbresult calls it."""
        return self.date_sent

    @property
    def result_repr(self) -> str | None:
        """The result as Python writes it where it is JSON; otherwise as text, base64 where it is binary."""
        try:
            return None if self.result is None else repr(json.loads(self.result))
        except (ValueError, RecursionError):
            return text_of(self.result)

    @property
    def return_value(self) -> Any:
        """What the task returned, or the exception that it failed with, as `AsyncResult.result` of the current app has it; None before.

        Raises ValueError, in one sentence, where it cannot be decoded, such as a pickle that the app's `accept_content` does not name;
        `result` has its bytes. Raises RuntimeError without Celery.
        """
        if decode_result is None:
            raise RuntimeError("return_value needs Celery; import TaskResult from celery_journal.consumers.models")
        return decode_result(self)

    def replay(self, **wishes: Any) -> Any:
        """Send the task again as it was published, and return its `celery.result.AsyncResult`; raise RuntimeError without Celery.

        `reason="..."` and `set={"kwargs.amount": 3}` are the wishes that most have; see celery_journal.consumers.replay.send_again.
        """
        if replay_task is None:
            raise RuntimeError("replay() needs Celery; import TaskResult from celery_journal.consumers.models")
        return replay_task(self.task_id, **wishes)

    def as_dict(self) -> dict[str, Any]:
        """Return every field by name; encoded data as text (base64 where it is binary)."""
        return {**self.model_dump(), **{name: text_of(getattr(self, name)) for name in ("result", "args", "kwargs")}}

    def __str__(self) -> str:
        return f"<Task: {self.task_id} ({self.status})>"
