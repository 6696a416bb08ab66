"""The events: one model a kind, and a discriminated union of them all.

A kind that this version does not know is an `UnknownEvent`, and a field that it does not know is kept in
`model_extra`: both come through a round trip as they were.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeInt, PlainValidator, TypeAdapter

from .constraints import OF_ANOTHER_KIND
from .event import Event as Event  # noqa: PLC0414  also for those who import it here
from .event import Text, text
from .periodic import (
    PeriodicTaskChanged,
    PeriodicTaskCreated,
    PeriodicTaskDeleted,
    PeriodicTaskDisabled,
    PeriodicTaskEnabled,
    PeriodicTaskReset,
    PeriodicTaskSent,
)
from .replays import ReplayDoubted, ReplayFinished, ReplayPlanned, ReplaySending, ReplayStarted
from .workers import WorkerForgotten, WorkerHeartbeat, WorkerOffline, WorkerOnline


def _custom_state(value: object) -> str:
    if (state := text(value)) in OF_ANOTHER_KIND:
        raise ValueError(f"{state} is the state of another kind")
    return state


#: Any state but those of Celery's that have a kind of their own.
CustomState = Annotated[str, PlainValidator(_custom_state)]


class Encoded(BaseModel):
    """A value as Celery's serializer made it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    result: bytes | None = None
    content_type: Text | None = None
    content_encoding: Text | None = None


class TaskEvent(Event):
    """A fact about a task, with what the emitter knows of the request."""

    name: Text | None = None
    #: The arguments, encoded as `args_content_type` says; JSON where it is None.
    args: bytes | None = None
    kwargs: bytes | None = None
    args_content_type: Text | None = None
    queue: Text | None = None
    root_id: Text | None = None
    parent_id: Text | None = None
    group_id: Text | None = None
    group_index: int | None = None
    periodic_task_name: Text | None = None
    #: Who ran the task; None when the emitter did not.
    worker: Text | None = None
    pid: int | None = None
    #: What tells one delivery of the message from another: a redelivered one is another run of the same attempt.
    run: Text | None = None
    #: When it is to run at the earliest; of a `task-retried`, the next attempt.
    eta: AwareDatetime | None = None
    #: When it is not worth running any more.
    expires: AwareDatetime | None = None
    #: Seconds that it may run (Celery's hard time limit).
    time_limit: float | None = None
    #: Why, in words, where the result does not say it: rejected for good, cancelled, ...
    reason: Text | None = None
    #: Children, the request's `meta` and stamps, as JSON.
    meta: bytes | None = None
    #: What else the request says: time limits, priority, origin, whether it was redelivered, ...
    request: dict[Any, Any] | None = None


class TaskSent(TaskEvent):
    """The message was handed to the broker; `message` and `embedded` are all that it takes to send it again."""

    kind: Literal["task-sent"] = "task-sent"
    state: Literal["PENDING"] = "PENDING"
    #: Where it was sent, with its headers and properties.
    message: dict[Any, Any] | None = None
    #: Callbacks, errbacks, chain and chord, encoded as `embedded_content_type` says; None where there are none, `null` where no serializer
    #: took them.
    embedded: bytes | None = None
    embedded_content_type: Text | None = None


class TaskReceived(TaskEvent):
    relaxed = True
    kind: Literal["task-received"] = "task-received"
    state: Literal["RECEIVED"] = "RECEIVED"


class TaskStarted(TaskEvent, Encoded):
    relaxed = True
    kind: Literal["task-started"] = "task-started"
    state: Literal["STARTED"] = "STARTED"


class TaskProgress(TaskEvent, Encoded):
    """A custom state, as `Task.update_state` sets it."""

    relaxed = True
    kind: Literal["task-progress"] = "task-progress"
    state: CustomState


class TaskRetried(TaskEvent, Encoded):
    kind: Literal["task-retried"] = "task-retried"
    state: Literal["RETRY"] = "RETRY"
    traceback: Text | None = None


class TaskRejected(TaskEvent, Encoded):
    kind: Literal["task-rejected"] = "task-rejected"
    state: Literal["REJECTED"] = "REJECTED"
    traceback: Text | None = None


class TaskRevoked(TaskEvent, Encoded):
    """Revoked by the worker that had it; or, with no `worker`, asked for by somebody."""

    kind: Literal["task-revoked"] = "task-revoked"
    state: Literal["REVOKED"] = "REVOKED"
    traceback: Text | None = None


class TaskFailed(TaskEvent, Encoded):
    kind: Literal["task-failed"] = "task-failed"
    state: Literal["FAILURE"] = "FAILURE"
    traceback: Text | None = None


class TaskSucceeded(TaskEvent, Encoded):
    kind: Literal["task-succeeded"] = "task-succeeded"
    state: Literal["SUCCESS"] = "SUCCESS"
    traceback: Text | None = None


class TaskIgnored(TaskEvent, Encoded):
    """The task has ended, and there is no result; `state` is IGNORED, or the custom one that it has given itself before."""

    kind: Literal["task-ignored"] = "task-ignored"
    state: CustomState = "IGNORED"


class TaskReplaced(TaskEvent):
    """A run has put another task in its place (`Task.replace`), which goes on under the same id: the run has ended, the task has not."""

    kind: Literal["task-replaced"] = "task-replaced"
    state: Literal["REPLACED"] = "REPLACED"


class TaskForgotten(Event):
    """Somebody called `forget()`: what stands before it in the log leaves the views."""

    kind: Literal["task-forgotten"] = "task-forgotten"


class TaskExpired(Event):
    """`result_expires` has passed: what stands before it in the log leaves the views."""

    kind: Literal["task-expired"] = "task-expired"


class TaskErased(Event):
    """The payload was erased on request: what stands before it in the log leaves the views."""

    kind: Literal["task-erased"] = "task-erased"
    reason: Text | None = None


class TaskLost(Event):
    """It will not go on by itself, for all that is known; one that goes on after all is simply not lost."""

    kind: Literal["task-lost"] = "task-lost"
    reason: Text | None = None
    worker: Text | None = None


class TaskWitnessed(Event):
    """What the log knows already from somebody nearer, or will know, was told by Celery's broadcast as well.

    `state` is that of the fact (SUCCESS is `task-succeeded`, ...), `worker` who broadcast it, `occurred_at` what its clock said.
    """

    relaxed = True
    kind: Literal["task-witnessed"] = "task-witnessed"
    state: Text
    worker: Text | None = None
    pid: int | None = None


class TaskReplayed(Event):
    """The recorded task was sent again, under the id `task_id`; what comes after it in its chain went along."""

    kind: Literal["task-replayed"] = "task-replayed"
    task_id: Text | None = None
    #: The id of the replay that it was a part of.
    replay: Text | None = None
    author: Text | None = None
    reason: Text | None = None
    #: True where nobody had recorded how it was sent, so that the app's routing at that moment decided.
    guessed: bool | None = None


class GroupSaved(Event, Encoded):
    """`GroupResult.save()`; `members` are the ids of its tasks, those of nested groups included."""

    kind: Literal["group-saved"] = "group-saved"
    members: tuple[Text, ...] | None = None


class GroupDeleted(Event):
    kind: Literal["group-deleted"] = "group-deleted"


class GroupExpired(Event):
    """`result_expires` has passed for a saved group or a finished chord."""

    kind: Literal["group-expired"] = "group-expired"


class ChordStarted(Event, Encoded):
    """`result` is the JSON list of the header's `AsyncResult.as_tuple()`, or None when the header is a generator."""

    kind: Literal["chord-started"] = "chord-started"
    size: NonNegativeInt | None = None
    #: The task whose result is the chord's.
    task_id: Text | None = None
    #: The signature to send when all parts have returned, encoded as `callback_content_type` says.
    callback: bytes | None = None
    callback_content_type: Text | None = None
    #: An HMAC of what decides what is sent, by a key of the app; None where it has none.
    signature: bytes | None = None


class ChordSizeSet(Event):
    """The number of parts (`size`), or one more member (`task_id`) that `add_to_chord` brought."""

    kind: Literal["chord-size-set"] = "chord-size-set"
    size: NonNegativeInt | None = None
    task_id: Text | None = None


class ChordPartReturned(Event, Encoded):
    """The member `task_id` of the header has ended in `state`."""

    kind: Literal["chord-part-returned"] = "chord-part-returned"
    task_id: Text
    group_index: NonNegativeInt | None = None
    state: Text
    worker: Text | None = None
    pid: int | None = None
    #: Of the body of an inner chord that failed without having run: marks of the errbacks that were called for it.
    errbacks: tuple[Text, ...] | None = None


class ChordUnlocked(Event):
    """The body was sent, as task `task_id`."""

    kind: Literal["chord-unlocked"] = "chord-unlocked"
    task_id: Text | None = None
    worker: Text | None = None
    pid: int | None = None


class ChordFailed(Event):
    """The body `task_id` will not run: a part failed, or the body could not be sent."""

    kind: Literal["chord-failed"] = "chord-failed"
    task_id: Text | None = None
    worker: Text | None = None
    pid: int | None = None
    reason: Text | None = None


class OperatorActed(Event):
    """Somebody did or noted something about the stream."""

    kind: Literal["operator-acted"] = "operator-acted"
    #: The account and the machine, or whom they say they are.
    author: Text | None = None
    #: What was done: `revoke`, `terminate`, `annotate`, ...
    action: Text | None = None
    #: Why; of an `annotate`, the note.
    reason: Text | None = None
    #: A word for the task.
    label: Text | None = None
    #: Of a replay that may have sent it again, and may not: under which id.
    task_id: Text | None = None
    #: JSON, where SQL finds it: `resolved`, whether nobody needs to look at it any more; `hidden`, whether lists leave it out.
    meta: bytes | None = None
    #: Of a request to revoke, which is in the stream of all of them: the tasks, or the stamps that theirs have, by header.
    members: tuple[Text, ...] | None = None
    stamps: dict[str, Any] | None = None
    #: The workers that are to do so, if not all.
    destination: tuple[Text, ...] | None = None

    @property
    def marks(self) -> dict[str, bool]:
        """What `meta` says."""
        try:
            told = json.loads(self.meta or b"{}")
        except (ValueError, RecursionError):  # the latter of what is nested too deeply
            return {}
        return {name: value for name, value in told.items() if isinstance(value, bool)} if isinstance(told, dict) else {}


class UnknownEvent(Event):
    """A kind of a newer version, or of somebody else; its fields are in `model_extra`."""


class UnreadableEvent(Event):
    """What stands in the log and is no event that can be read: its columns, in `model_extra` where all events have not that field."""

    #: Why, in words.
    unreadable: str


KnownEvent = Annotated[
    TaskSent
    | TaskReceived
    | TaskStarted
    | TaskProgress
    | TaskRetried
    | TaskRejected
    | TaskRevoked
    | TaskFailed
    | TaskSucceeded
    | TaskIgnored
    | TaskReplaced
    | TaskForgotten
    | TaskExpired
    | TaskErased
    | TaskLost
    | TaskWitnessed
    | TaskReplayed
    | GroupSaved
    | GroupDeleted
    | GroupExpired
    | ChordStarted
    | ChordSizeSet
    | ChordPartReturned
    | ChordUnlocked
    | ChordFailed
    | WorkerOnline
    | WorkerHeartbeat
    | WorkerOffline
    | WorkerForgotten
    | PeriodicTaskCreated
    | PeriodicTaskChanged
    | PeriodicTaskEnabled
    | PeriodicTaskDisabled
    | PeriodicTaskDeleted
    | PeriodicTaskReset
    | PeriodicTaskSent
    | OperatorActed
    | ReplayStarted
    | ReplayPlanned
    | ReplaySending
    | ReplayDoubted
    | ReplayFinished,
    Field(discriminator="kind"),
]

known_event: TypeAdapter[KnownEvent] = TypeAdapter(KnownEvent)

#: Every kind that this version knows, with its model.
KINDS: dict[str, type[Event]] = {model.model_fields["kind"].default: model for model in get_args(get_args(KnownEvent)[0])}

_OF_STATES: tuple[type[TaskEvent], ...] = (
    TaskSent,
    TaskReceived,
    TaskStarted,
    TaskRetried,
    TaskRejected,
    TaskRevoked,
    TaskIgnored,
    TaskFailed,
    TaskSucceeded,
)

#: The kind of event that each of Celery's states is, in the order in which they follow each other; any other state is a task-progress.
KIND_OF_STATE: dict[str, type[TaskEvent]] = {model.model_fields["state"].default: model for model in _OF_STATES}
