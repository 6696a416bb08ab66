"""Everything that is known under one id: of a task, a group, a chord and a worker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from celery import states

from celery_journal import sql
from celery_journal.consumers.contents import read, shallow
from celery_journal.consumers.raised import error_of
from celery_journal.consumers.replaced import under_first_names
from celery_journal.consumers.replay.lineage import Lineage, lineage_in
from celery_journal.consumers.settlement import ListedTask, with_settlement
from celery_journal.journal import Connection, Journal, RecordedEvent
from celery_journal.journal.events import OperatorActed, TaskEvent, TaskSent
from celery_journal.projections import ChordCounter, ChordPart, GroupResult, TaskAttempt, TaskResult, Worker
from celery_journal.projections.task_result import text_of

#: Members of a group, and tasks with a worker, that are looked at.
MEMBERS = 1000

#: What stands for the state of a member of a group of which the views know nothing.
UNHEARD = "not heard of"


@dataclass(frozen=True, slots=True)
class Dossier:
    """What the views and the log hold under an id; what is None, or empty, is not there."""

    id: str
    task: ListedTask | None
    attempts: list[TaskAttempt]
    group: GroupResult | None
    #: The tasks of the group, or of the id of a group that was not saved: those that have succeeded only as far as there is room.
    members: list[TaskResult]
    #: How many of them there are in all, by their states.
    tally: Counter[str]
    chord: ChordCounter | None
    parts: list[ChordPart]
    worker: Worker | None
    #: What the worker has at the moment.
    running: list[TaskResult]
    #: The replays around the task.
    lineage: Lineage
    #: The facts about it in the log; none of a worker, a group or a chord, of which there may be any number.
    events: list[RecordedEvent]

    @classmethod
    def of(cls, connection: Connection, subject: str, schema: str = sql.DEFAULT_SCHEMA) -> Dossier:
        """Return what there is under the id."""
        tasks = TaskResult.objects.using(connection, schema)
        named = under_first_names(connection, tasks.filter(task_id=subject)[:1], schema)
        task = next(with_settlement(connection, named, schema), None)
        group = GroupResult.get_many(connection, [subject], schema).get(subject)
        chord = ChordCounter.get_many(connection, [subject], schema).get(subject)
        worker = Worker.get_many(connection, [subject], schema).get(subject)
        is_other = task is None and (group or chord or worker)
        events = [] if is_other else Journal(schema).read_stream(connection, subject)
        members, tally = ([], Counter()) if task else _members(connection, subject, group, schema)
        return cls(
            id=subject,
            task=task,
            attempts=TaskAttempt.of(connection, subject, schema) if task else [],
            group=group,
            members=members,
            tally=tally,
            chord=chord,
            parts=ChordPart.of(connection, subject, schema) if chord else [],
            worker=worker,
            running=list(tasks.filter(worker=subject, date_done__isnull=True)[:MEMBERS]) if worker else [],
            lineage=lineage_in(subject, [recorded.event for recorded in events]),
            events=events,
        )

    @property
    def is_known(self) -> bool:
        """Whether anybody has ever told anything of it."""
        return any((self.task, self.group, self.members, self.chord, self.worker, self.events))

    @property
    def sent(self) -> TaskSent | None:
        """The last message that was sent of it."""
        return next((recorded.event for recorded in reversed(self.events) if isinstance(recorded.event, TaskSent)), None)

    @property
    def actions(self) -> list[tuple[RecordedEvent, OperatorActed]]:
        """What people did or noted about it."""
        return [(recorded, recorded.event) for recorded in self.events if isinstance(recorded.event, OperatorActed)]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        found: dict[str, Any] = {"id": self.id}
        if self.task:
            found |= {"task": task_object(self.task), "meta": self.meta(), "message": self.message()}
            found["attempts"] = [attempt.model_dump() for attempt in self.attempts]
            found |= asdict(self.lineage)
        if self.group:
            found["group"] = self.group.as_dict()
        if self.chord:
            found["chord"] = self.chord.as_dict()
            found["parts"] = [{**part.model_dump(exclude={"result"}), "result": _read(part)} for part in self.parts]
        if self.worker:
            found |= {"worker": self.worker.as_dict(), "running": [task.task_id for task in self.running]}
        if self.members:
            found["tally"] = dict(self.tally)
            found["members"] = [{"task_id": task.task_id, "name": task.task_name, "state": task.status} for task in self.members]
        left_out = {"event_id", "stream", "kind", "meta"}
        found["actions"] = [
            {"at": one.recorded_at, "recorded_by": one.recorded_by, **act.model_dump(exclude=left_out), **act.marks}
            for one, act in self.actions
        ]
        found["facts"] = [recorded.event.kind for recorded in self.events]
        return found

    def meta(self) -> Any:
        """Return what was told beside the task, such as its stamps, decoded: who told the end may not have known them."""
        told = (recorded.event.meta for recorded in reversed(self.events) if isinstance(recorded.event, TaskEvent))
        return _loaded((self.task.meta if self.task else None) or text_of(next(filter(None, told), None)))

    def message(self) -> dict[str, Any] | None:
        """Return the last message that was sent of it: where it went, and with what."""
        sent = self.sent
        if sent is None:
            return None
        told = {"occurred_at": sent.occurred_at, "eta": sent.eta, "expires": sent.expires, "time_limit": sent.time_limit}
        embedded = read(sent.embedded, sent.embedded_content_type, in_part=True)
        return {**shallow(sent.message or {}), **told, **({"embedded": embedded} if embedded else {})}


def _members(connection: Connection, subject: str, group: GroupResult | None, schema: str) -> tuple[list[TaskResult], Counter[str]]:
    """Return the members of the group, those that have succeeded last, and how many there are in each state."""
    tasks = TaskResult.objects.using(connection, schema)
    in_group = tasks.filter(task_id__in=group.members) if group and group.members else tasks.filter(group_id=subject)
    found = list(in_group.exclude(status=states.SUCCESS).order_by("task_id")[:MEMBERS])
    if len(found) < MEMBERS:
        found += in_group.filter(status=states.SUCCESS).order_by("task_id")[: MEMBERS - len(found)]
    tally = Counter(one.status for one in found) if len(found) < MEMBERS else Counter(in_group.values_list("status", flat=True))
    if group and group.members and (unheard := len(set(group.members)) - tally.total()) > 0:
        tally[UNHEARD] = unheard
    return list(under_first_names(connection, found, schema)), tally


def task_object(task: TaskResult) -> dict[str, Any]:
    """Return the task as plain data, as every command gives it to programs: its fields, what is encoded as what it stands for."""
    return {**task.as_dict(), **values_of(task), "error": raised_by(task), "took": took_of(task)}


def values_of(task: TaskResult) -> dict[str, Any]:
    """Return arguments, result and meta of the task, decoded."""
    return {
        "args": read(task.args, task.args_content_type, in_part=True),
        "kwargs": read(task.kwargs, task.args_content_type, in_part=True),
        "result": _read(task),
        "meta": _loaded(task.meta),
    }


def raised_by(one: TaskResult | ChordPart) -> str | None:
    """Return the error of what has not succeeded, on one line."""
    return error_of(one) if one.status in states.EXCEPTION_STATES else None


def took_of(task: TaskResult) -> timedelta | None:
    """Return how long its last run took; None of one that has not ended, or whose clocks disagree."""
    if task.date_started is None or task.date_done is None or task.date_done < task.date_started:
        return None
    return task.date_done - task.date_started


def _read(stored: TaskResult | ChordPart) -> Any:
    return read(stored.result, stored.content_type, stored.content_encoding, in_part=True)


def _loaded(meta: str | None) -> Any:
    try:
        return meta and shallow(json.loads(meta))
    except (ValueError, RecursionError):
        return meta


def flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Yield what is inside objects with the names that lead there: `headers.lang`; lists are left whole, empty ones out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    elif value is not None and value != []:
        yield name, value
