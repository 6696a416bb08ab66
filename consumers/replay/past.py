"""What is known of tasks that are to be sent again: how they were sent, how they stand, and as what they were sent again before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from celery import states

from celery_journal import sql
from celery_journal.journal import Connection, Journal, RecordedEvent
from celery_journal.journal.codec import escape
from celery_journal.journal.events import (
    OperatorActed,
    TaskErased,
    TaskFailed,
    TaskIgnored,
    TaskReplayed,
    TaskRevoked,
    TaskSent,
    TaskSucceeded,
)
from celery_journal.projections import TaskResult

from .canvas import new_id
from .lineage import origin_of

#: What is noted about a task of which it is in doubt whether a replay has sent it; the label is the replay, `task_id` its new id.
DOUBTED = "replay-doubted"

#: The states of a task that has done what it was for; of one whose result is ignored it is known only that it came to its end.
DONE = frozenset({states.SUCCESS, states.IGNORED})

_OF_MESSAGES = ("task-sent", "task-erased", "task-replayed", "operator-acted")
_OF_ENDS = ("task-succeeded", "task-ignored", "task-failed", "task-revoked")


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of one task."""

    task_id: str
    #: The message of its first attempt; None where the sending is not recorded, or nobody knows with what.
    sent: TaskSent | None = None
    #: Whether nobody recorded that message, and it is what the app would send today.
    guessed: bool = False
    #: Whether its payload was erased since.
    erased: bool = False
    #: As what it was sent again, in the order of the log.
    replayed: tuple[TaskReplayed, ...] = ()
    #: The replays that may have sent it, and of which it is not recorded that they have.
    doubted: frozenset[str] = frozenset()
    #: None of a task that nobody has heard of.
    status: str | None = None
    #: Whether it has ended, or is lost: nothing more comes of it by itself.
    ended: bool = False
    ended_at: datetime | None = None
    root_id: str | None = None

    @property
    def done(self) -> bool:
        """Whether it has succeeded."""
        return self.status in DONE

    @property
    def origin(self) -> str | None:
        """The task that it was sent again of."""
        return None if self.sent is None else origin_of(self.sent)

    @property
    def known(self) -> bool:
        """Whether anything was ever heard of it."""
        return self.status is not None or self.sent is not None or self.erased

    def replayed_in(self, replay_id: str) -> bool:
        """Return whether that replay has sent it."""
        return any(event.replay == replay_id for event in self.replayed)


class Pasts:
    """The pasts of tasks, read many at a time."""

    def __init__(self, connection: Connection, journal: Journal) -> None:
        self._connection = connection
        self._journal = journal
        self._known: dict[str, Past] = {}

    def load(self, task_ids: Iterable[str]) -> None:
        """Read what is not known yet of these tasks, of those as which they were sent again, and of those that they were sent again of."""
        wanted = {task_id for task_id in task_ids if escape(task_id) not in self._known}
        while wanted:
            found = self._read(wanted)
            self._known |= {escape(past.task_id): past for past in found}
            copies = {copy for past in found for copy in self._copies(past)}
            origins = {past.origin for past in found if past.origin}
            wanted = {task_id for task_id in copies | origins if escape(task_id) not in self._known}

    def __getitem__(self, task_id: str) -> Past:
        self.load([task_id])
        return self._known[escape(task_id)]

    def forget(self) -> None:
        """Forget what was read, because it may have changed."""
        self._known.clear()

    def of_root(self, root_id: str) -> list[Past]:
        """Return those of the tasks that began with this one."""
        tasks = TaskResult.objects.using(self._connection, self._journal.schema).filter(root_id=root_id)
        ids = [row["task_id"] for row in tasks.values("task_id")]
        self.load(ids)
        return [self[task_id] for task_id in ids]

    @staticmethod
    def _copies(past: Past) -> list[str]:
        """Return the tasks as which it was sent again, or may have been."""
        told = [event.task_id for event in past.replayed if event.task_id]
        return [*told, *(new_id(replay, past.task_id) for replay in sorted(past.doubted))]

    def _read(self, task_ids: Iterable[str]) -> list[Past]:
        pasts = {escape(task_id): Past(task_id) for task_id in task_ids}
        for recorded in self._events(pasts, _OF_MESSAGES):
            key = escape(recorded.event.stream)
            pasts[key] = _with(pasts[key], recorded)
        for replay, key in self._last_batches(list(pasts)):
            pasts[key] = replace(pasts[key], doubted=pasts[key].doubted | {replay})
        for key, past in pasts.items():
            pasts[key] = replace(past, doubted=past.doubted - {event.replay for event in past.replayed})
        for row in self._rows(list(pasts)):
            told = {"status": row["status"], "ended_at": row["date_done"], "root_id": row["root_id"]}
            ended = row["date_done"] is not None or row["lost_reason"] is not None
            pasts[row["task_id"]] = replace(pasts[row["task_id"]], ended=ended, **told)
        self._follow_same_ids(pasts)
        # The views may have forgotten what the log still knows.
        unseen = [key for key, past in pasts.items() if past.status is None and past.sent is not None]
        for recorded in self._events(unseen, _OF_ENDS):
            key = escape(recorded.event.stream)
            pasts[key] = _with_end(pasts[key], recorded)
        return list(pasts.values())

    def _follow_same_ids(self, pasts: dict[str, Past]) -> None:
        """Take a task that was sent again under its own id, and of which no end was heard since, for one that has not ended."""
        again = {key for key, past in pasts.items() if any(event.task_id in {None, past.task_id} for event in past.replayed)}
        last: dict[str, RecordedEvent] = {}
        for recorded in self._events(again, (*_OF_ENDS, "task-replayed")):
            last[escape(recorded.event.stream)] = recorded
        for key, recorded in last.items():
            event = recorded.event
            if isinstance(event, TaskReplayed) and event.task_id in {None, pasts[key].task_id}:
                pasts[key] = replace(pasts[key], status=states.PENDING, ended=False)

    def _events(self, streams: Iterable[str], kinds: Iterable[str]) -> list[RecordedEvent]:
        streams = list(streams)
        return self._journal.read_transitions(self._connection, streams, kinds)[0] if streams else []

    def _last_batches(self, keys: list[str]) -> list[tuple[str, str]]:
        query = sql.query("replay.sql", "last batches", self._journal.schema)
        return self._connection.execute(query, {"task_ids": keys}).fetchall()

    def _rows(self, keys: list[str]) -> list[dict[str, Any]]:
        tasks = TaskResult.objects.using(self._connection, self._journal.schema).filter(task_id__in=keys)
        return list(tasks.values("task_id", "status", "date_done", "lost_reason", "root_id"))


def _with(past: Past, recorded: RecordedEvent) -> Past:
    match recorded.event:
        case TaskSent(message=None):  # told by Celery's broadcast, which knows nothing of the message
            return past
        case TaskSent() as sent:
            first = past.sent is None or sent.attempt <= past.sent.attempt
            return replace(past, sent=sent if first else past.sent, root_id=past.root_id or sent.root_id)
        case TaskErased():
            return replace(past, erased=True, sent=None)
        case TaskReplayed() as replayed:
            return replace(past, replayed=(*past.replayed, replayed))
        case OperatorActed(label=str() as replay) as acted if acted.action == DOUBTED:
            return replace(past, doubted=past.doubted | {replay})
        case _:
            return past


def _with_end(past: Past, recorded: RecordedEvent) -> Past:
    match recorded.event:
        case TaskSucceeded() | TaskIgnored():
            return replace(past, status=states.SUCCESS, ended=True, ended_at=recorded.event.occurred_at)
        case TaskFailed(state=state) | TaskRevoked(state=state, worker=str()) if not past.done:
            return replace(past, status=state, ended=True)
        case _:
            return past
