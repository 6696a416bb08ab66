"""What Celery reads of a task: its meta, made of a row of the view or of an event of the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from celery import states
from celery.exceptions import TaskError
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.serialization import loads, registry
from kombu.utils import json

from celery_journal.consumers.payloads import bytes_of, opened
from celery_journal.journal import RecordedEvent
from celery_journal.journal import events as kinds
from celery_journal.projections import TaskResult

from .base import JournalBase, named
from .waited import Waited

logger = logging.getLogger(__name__)

Meta = dict[str, Any]

#: The names in the meta of a row that are the journal's; others are those of django-celery-results, and of whoever stores by a manager.
_OURS = {"children", "meta", "stamps", "stamped_headers"}

#: The kinds of events that are a state between a task's sending and its end.
TRANSITIONS = [kind.model_fields["kind"].default for kind in (kinds.TaskReceived, kinds.TaskStarted, kinds.TaskProgress, kinds.TaskRetried)]


#: The kind of an end without a result.
IGNORED = kinds.TaskIgnored.model_fields["kind"].default


class Reading(JournalBase):
    """The part of the backend that reads tasks."""

    #: The model of the rows it reads.
    TaskModel = TaskResult

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(app=app, url=url, **kwargs)
        self._waited = Waited(self)

    def _get_task_meta_for(self, task_id: Any) -> Meta:
        task_id = self.check_id(task_id)
        return self._meta_of(task_id, self._rows(self.TaskModel, [task_id]).get(task_id))

    def task_result_exists(self, task_id: Any) -> bool:
        """Return whether the journal knows the task: true for one that is queued, or that another is to send; false for an unknown id."""
        if named(task_id) in self._rows(self.TaskModel, [str(task_id)]):
            return True
        from celery_journal.consumers.explain.unsent import unsent_step  # which stands on the backend

        return self.database.read(lambda connection: unsent_step(connection, str(task_id), self.journal.schema)) is not None

    def remembered(self, task_id: str) -> Meta | None:
        """Return the meta of a task that is ready, if it need not be read."""
        cached: Meta | None = self._cache.get(task_id)
        return cached if cached is not None and cached["status"] in self.READY_STATES else None

    def ready_of(
        self, task_ids: Iterable[str], parents: dict[str, Meta | None] | None = None, *, budget: float | None = None
    ) -> list[Meta]:
        """Return the meta of each task that is ready, as the primary has it; those of parents that are not are put where they belong.

        Raises JournalUnavailable when the database is away for longer than `budget` seconds, retry_budget unless given.
        """
        task_ids = list(task_ids)
        rows = self.database.run(lambda connection: self.TaskModel.get_many(connection, task_ids, self.journal.schema), budget=budget)
        ready = []
        without = [task_id for task_id, row in rows.items() if row.status == states.IGNORED and task_id not in (parents or ())]
        if without:
            recorded, _ = self.database.run(lambda connection: self.journal.read_transitions(connection, without, [IGNORED]), budget=budget)
            ready += [self._meta_without_result(task_id, rows[task_id]) for task_id in ignored_in(recorded)]
        for task_id in task_ids:
            row: TaskResult | None = rows.get(task_id)
            if row is not None and row.status in self.READY_STATES:
                ready.append(meta := self._meta_of(task_id, row))
                if meta["status"] == states.SUCCESS:
                    self._cache[task_id] = meta
            elif parents is not None and task_id in parents:
                parents[task_id] = self._meta_of(task_id, row)
        return ready

    def transitions_of(
        self, task_ids: Iterable[str], since: int = 0, *, budget: float | None = None
    ) -> tuple[list[tuple[UUID, Meta]], int]:
        """Return what the log says of the tasks between their sending and their end, as (event id, meta), in its order.

        And the `since` with which the next call need not return it again.
        """
        recorded, horizon = self.database.run(
            lambda connection: self.journal.read_transitions(connection, task_ids, TRANSITIONS, since), budget=budget
        )
        stored = (place.event for place in recorded if place.event.source != "signal")  # what Celery itself makes no state of
        return [(event.event_id, self._meta_of_event(event)) for event in stored], horizon

    def _meta_of(self, task_id: str, row: TaskResult | None) -> Meta:
        if row is None:
            return {"task_id": task_id, "status": states.PENDING, "result": None, "traceback": None, "children": []}
        more = self._decoded_meta(row)
        meta: Meta = {
            "task_id": task_id,
            "status": _stored_state(row),
            "result": self._decoded(row),
            "traceback": row.traceback,
            "children": more.get("children") or [],
            "date_done": row.date_done and row.date_done.astimezone(self.app.timezone),
        }
        if row.group_id:
            meta["group_id"] = row.group_id
        if row.parent_id:
            meta["parent_id"] = row.parent_id
        # First what others have named, so that a stamp called `status` cannot stand for the status.
        own = more.get("meta")
        named = {**{name: said for name, said in more.items() if name not in _OURS}, **(own if isinstance(own, dict) else {})}
        if self.app.conf.find_value_for_key("extended", "result"):
            args, kwargs = (self._decoded_arguments(row, encoded) for encoded in (row.args, row.kwargs))
            extended = {"name": row.task_name, "args": args, "kwargs": kwargs}
            extended |= {"task_name": row.task_name, "task_args": args, "task_kwargs": kwargs}  # as django-celery-results has them
            extended |= {"worker": row.worker, "retries": row.retries, "queue": row.queue}
            if stamps := more.get("stamps"):
                extended["stamped_headers"] = more.get("stamped_headers")
            named |= {**(stamps or {}), **extended}
        return self._made_python({**named, **meta})

    def _meta_without_result(self, task_id: str, row: TaskResult) -> Meta:
        """Return the meta of a task that has ended and whose result is ignored, for those who wait for it: else they would for ever."""
        self._waited.tell(task_id, row.task_name)
        return {**self._meta_of(task_id, row), "status": states.IGNORED}

    def _decoded_meta(self, row: TaskResult) -> dict[str, Any]:
        """Return what the row says of itself in JSON, or as the serializer of its result made it; nothing where that is no object."""
        if not row.meta:
            return {}
        try:
            try:
                more = json.loads(row.meta)
            except ValueError:
                content = bytes_of(row.meta, row.content_encoding)
                more = opened(content, row.content_type, row.content_encoding, self.accept, self.options.max_payload_bytes)
        except Exception as exc:  # noqa: BLE001  a serializer may raise anything, and who asks for the result gets it
            logger.warning("the meta of %s cannot be shown: %s", row.task_id, exc)
            return {}
        return more if isinstance(more, dict) else {}

    def _meta_of_event(self, event: Any) -> Meta:
        return self._made_python(
            {
                "task_id": event.stream,
                "status": event.state,
                "result": self._decoded(event) if isinstance(event, kinds.Encoded) else None,
                "traceback": getattr(event, "traceback", None),
                "children": [],
                "date_done": None,
                "retries": event.attempt,
            }
        )

    def _made_python(self, meta: Meta) -> Meta:
        made: Meta = self.meta_from_decoded(meta)
        if made["result"] is None and made["status"] in states.PROPAGATE_STATES:
            made["result"] = TaskError("what the task raised could not be stored")  # to raise nothing is an error of its own
        return made

    def _decoded_arguments(self, row: TaskResult, encoded: bytes | None) -> Any:
        """Return the arguments; the text that stands in their place; and of what is not accepted, that it is."""
        if encoded is None:
            return None
        content_type = row.args_content_type
        try:
            if content_type is None:
                return _json_or_text(encoded)
            return loads(encoded, content_type=content_type, content_encoding="utf-8", accept=self.accept)
        except ContentDisallowed:
            return f"({registry.type_to_name.get(content_type, content_type)}, {len(encoded):,} bytes: accept_content does not allow it)"
        except (DecodeError, ValueError) as exc:  # no reason to keep the result from who asks for that
            logger.warning("the arguments of %s cannot be shown: %s", row.task_id, exc)
            return None


def ignored_in(recorded: Iterable[RecordedEvent]) -> set[str]:
    """Return the tasks whose results are ignored by what was said last of their ends: one that has raised Ignore may get a result yet."""
    last = {place.event.stream: place.event.source for place in recorded if isinstance(place.event, kinds.TaskIgnored)}
    return {task_id for task_id, source in last.items() if source == "backend"}


def _json_or_text(encoded: bytes) -> Any:
    """Return the value; or the text, where somebody has stored a repr."""
    text = encoded.decode()
    try:
        return json.loads(text)
    except ValueError:
        return text


def _stored_state(row: TaskResult) -> str:
    """Return the state as Celery knows it: it never stores these two, and who asks it of such a task expects PENDING."""
    is_told = row.status in {states.RECEIVED, states.IGNORED} and row.content_type is None  # a task that stores one itself means it
    return str(states.PENDING) if is_told else row.status
