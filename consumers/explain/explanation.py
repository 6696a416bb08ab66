"""The explanation of an id, as sentences and as facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import states

from celery_journal import sql
from celery_journal.consumers.words import duration, listed, moment, shown
from celery_journal.journal import Connection
from celery_journal.journal.events import GroupDeleted, GroupExpired, TaskErased, TaskEvent, TaskExpired, TaskForgotten

from .known import Chord, Known, Reader, Row
from .task import tell_clocks, tell_task
from .unsent import unsent_step

#: Members of a chord or a group that are named.
NAMED = 10

#: How many wait for each other at most, for their causes to be told.
DEEPEST = 10

#: The states of a task that does nothing at the moment.
_WAITING = frozenset({states.PENDING, states.RECEIVED, states.RETRY, states.REJECTED})


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why something is where it is; `str()` is the text."""

    id: str
    #: `task`, `body` (of a chord that is still open), `unsent` (a step of a chain), `chord`, `group`, `worker`, `forgotten` or `unknown`.
    kind: str
    #: The Celery state of a task; whether a chord is open, unlocked or failed.
    state: str | None
    #: Fit for a terminal: nothing in a name is obeyed.
    sentences: tuple[str, ...]
    #: What the sentences are made of.
    facts: dict[str, Any] = field(default_factory=dict)
    #: What it waits for and does not run, if that is known; it says more.
    blocker: str | None = None
    #: What there is to say of that, and of what that waits for in turn, the cause last.
    causes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(self.lines)

    @property
    def lines(self) -> list[str]:
        """The sentences, and on a line of its own what there is to say of each that it waits for."""
        behind = enumerate(self.causes.items())
        return [
            *self.sentences,
            *(f"{shown(one)}, which {'that' if place else 'it'} waits for: {' '.join(told)}" for place, (one, told) in behind),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain data, as `--json` prints it."""
        causes = [{"id": blocker, "sentences": list(sentences)} for blocker, sentences in self.causes.items()]
        told = {"id": self.id, "kind": self.kind, "state": self.state, "sentences": list(self.sentences)}
        return {**told, "causes": causes, "facts": _plain(self.facts)}


def explain(connection: Connection, subject: str, schema: str = sql.DEFAULT_SCHEMA) -> Explanation:
    """Return why the task, the chord or the group of that id is where it is, by the journal and the clock of its database.

    Where it waits for others, also why the first of them that does not run is where it is, and so on to the cause.
    """
    told = _explain(connection, subject, schema)
    causes: dict[str, tuple[str, ...]] = {}
    blocker = told.blocker
    while blocker is not None and blocker not in {subject, *causes} and len(causes) < DEEPEST:
        behind = _explain(connection, blocker, schema)
        if behind.kind == "unknown":  # which the sentence before has said
            break
        causes[blocker] = behind.sentences
        blocker = behind.blocker
    return replace(told, causes=causes)


def _explain(connection: Connection, subject: str, schema: str) -> Explanation:
    known = Reader(connection, schema).known(subject)
    is_marked_only = known.body_of is None and known.task is not None and not _is_heard_of(known.task)
    if (known.task is None or is_marked_only) and (step := unsent_step(connection, subject, schema)) is not None:
        lost = f"It is lost: {known.task['lost_reason']}." if known.task and known.task["lost_reason"] else None
        facts = {"number": step.number, "before": asdict(step.before), "before_number": step.before_number, "task": known.task}
        blocker = step.before.id if step.before.state in _WAITING or step.before.kind != "task" else None
        return _explanation(known, "unsent", "PENDING", [step.sentence, lost], facts, blocker)
    if known.task is not None and _is_of_a_task(known):
        return _task(known)
    if known.body_of is not None:
        lost = f"It is lost: {known.task['lost_reason']}." if known.task and known.task["lost_reason"] else None
        waits = f"It is the body of a chord, and is sent when all parts have returned: {_waits(known.body_of)}.{_unsent(known.body_of)}"
        facts = {"chord": known.body_of.row, "missing": known.body_of.missing}
        return _explanation(known, "body", "PENDING", [waits, lost], facts, _blocker(known.body_of.missing))
    if known.chord is not None:
        return _chord(known, known.chord)
    if known.group is not None:
        return _group(known, known.group["members"] or [])
    if known.id in known.workers:
        return _worker(known, known.workers[known.id])
    if known.events:
        return _gone(known)
    if known.members:
        listed = _named(known.members)
        return _explanation(
            known,
            "group",
            None,
            [f"It is a group of which these tasks have not ended: {listed}."],
            {"members": known.members},
            _blocker(known.members),
        )
    told = [
        "It was never heard of: neither a task, nor the body of a chord, nor a group has that id.",
        "Perhaps it was never sent, or not yet; or by a process that does not keep this journal, and no worker has received it.",
    ]
    return _explanation(known, "unknown", None, told, {})


def _is_of_a_task(known: Known) -> bool:
    """Return whether the row is more than the mark that the body of a chord is lost."""
    return known.body_of is None or _is_heard_of(known.task or {})


def _is_heard_of(task: Row) -> bool:
    return task["name"] is not None or task["worker"] is not None or task["state"] != "PENDING"


def _task(known: Known) -> Explanation:
    task = known.task or {}
    facts = {
        "task": task,
        "attempts": known.attempts,
        "workers": list(known.workers.values()),
        "consumers": known.consumers,
        "sent_earlier": known.ahead,
    }
    return _explanation(known, "task", task["state"], [*tell_task(known), *tell_clocks(known)], facts)


def _chord(known: Known, chord: Chord) -> Explanation:
    row = chord.row
    body = row["body_task_id"]
    match row["state"]:
        case "unlocked":
            told = f"It is a chord, which has ended: its body {body} was sent."
        case "failed":
            told = f"It is a chord, which has failed: {row['failed']} of its parts did not succeed, or its body {body} could not be sent."
        case _:
            told = f"It is a chord: {_waits(chord)}. Its body is {body or 'not known by an id'}.{_unsent(chord)}"
    blocker = _blocker(chord.missing) if row["state"] == "open" else None
    return _explanation(known, "chord", row["state"], [told], {"chord": row, "missing": chord.missing}, blocker)


def _waits(chord: Chord) -> str:
    row, missing = chord.row, chord.missing
    if row["size"] is not None and row["done"] >= row["size"]:
        return f"all {row['size']} parts have returned to chord {row['group_id']}, and nobody has sent the body yet"
    size = "an unknown number" if row["size"] is None else row["size"]
    waits = len(missing) if missing or row["count"] is None else row["count"]
    names = f": {_named(missing)}" if missing else ""
    return f"waiting in chord {row['group_id']} for {waits} of {size}{names}"


def _unsent(chord: Chord) -> str:
    return (
        f" Its header has not been sent to its end, as far as is known: nobody has heard of {listed(chord.unsent)}." if chord.unsent else ""
    )


def _group(known: Known, members: list[str]) -> Explanation:
    left = [member for member in known.members if member["state"] not in {"SUCCESS", "FAILURE", "REVOKED", "IGNORED"}]
    told = f"It is a saved group of {len(members)}: " + (f"{len(left)} have not ended: {_named(left)}." if left else "all have ended.")
    return _explanation(known, "group", None, [told], {"group": known.group, "members": known.members}, _blocker(left))


def _worker(known: Known, row: Row) -> Explanation:
    heard = f"last heard of {duration(known.now - row['last_seen'])} ago"
    state = "alive" if row["alive"] else "offline" if row["offline"] else "silent"
    told = f"It is a worker, {state}: first seen at {moment(row['first_seen'])}, {heard}."
    return _explanation(known, "worker", state, [told], {"worker": row})


def _gone(known: Known) -> Explanation:
    why = {
        TaskForgotten: "somebody called forget()",
        TaskExpired: "result_expires has passed",
        TaskErased: "it was erased on request",
        GroupExpired: "result_expires has passed",
        GroupDeleted: "somebody deleted the group",
    }
    for index in range(len(known.events) - 1, -1, -1):
        event, heard_at = known.events[index].event, known.events[index].recorded_at
        if type(event) in why:
            told = [f"It has left the views at {moment(heard_at)}, because {why[type(event)]}; the log still has it."]
            before = [recorded.event for recorded in known.events[:index] if isinstance(recorded.event, TaskEvent)]
            if before:
                last = before[-1]
                told.append(f"The last that was heard before: {getattr(last, 'state', last.kind)}, at {moment(last.occurred_at)}.")
            return _explanation(known, "forgotten", None, told, {"kinds": [recorded.event.kind for recorded in known.events]})
    kinds = [recorded.event.kind for recorded in known.events]
    told = [f"No task of that id was sent, as far as the journal knows; the log has {', '.join(dict.fromkeys(kinds))} about it."]
    return _explanation(known, "unknown", None, told, {"kinds": kinds})


def _named(members: list[Row]) -> str:
    named = [f"{member['task_id']} ({_state(member)})" for member in members[:NAMED]]
    return ", ".join(named) + (f" and {len(members) - NAMED:,} more" if len(members) > NAMED else "")


def _state(member: Row) -> str:
    state = member["state"] or "not heard of"
    return state + (f" on {member['worker']}" if member["worker"] else "") + (", lost" if member["lost"] else "")


def _blocker(members: list[Row]) -> str | None:
    """Return the first of the members that is lost, or else of those that do nothing at the moment, or of which nobody has heard."""
    for is_it in (lambda one: one["lost"], lambda one: one["state"] in _WAITING, lambda one: one["state"] is None):
        if (blocker := next((member["task_id"] for member in members if is_it(member)), None)) is not None:
            return str(blocker)
    return None


def _explanation(
    known: Known, kind: str, state: str | None, told: Sequence[str | None], facts: dict[str, Any], blocker: str | None = None
) -> Explanation:
    sentences = tuple(shown(sentence) for sentence in told if sentence)
    return Explanation(known.id, kind, state, sentences, {"now": known.now, **facts}, blocker)


def _plain(value: Any) -> Any:
    match value:
        case dict():
            return {name: _plain(item) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case datetime():
            return value.astimezone(UTC).isoformat()
        case timedelta():
            return value.total_seconds()
    return value
