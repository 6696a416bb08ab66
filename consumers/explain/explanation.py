"""The explanation of an id, as sentences and as facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from celery_journal import sql
from celery_journal.consumers.words import duration, listed, moment, shown
from celery_journal.journal import Connection
from celery_journal.journal.events import GroupDeleted, GroupExpired, TaskErased, TaskEvent, TaskExpired, TaskForgotten

from .known import Chord, Known, Reader, Row
from .task import tell_clocks, tell_task

#: Members of a chord or a group that are named.
NAMED = 10


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why something is where it is; `str()` is the text."""

    id: str
    #: `task`, `body` (of a chord that is still open), `chord`, `group`, `worker`, `forgotten` or `unknown`.
    kind: str
    #: The Celery state of a task; whether a chord is open, unlocked or failed.
    state: str | None
    #: Fit for a terminal: nothing in a name is obeyed.
    sentences: tuple[str, ...]
    #: What the sentences are made of.
    facts: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain data, as `--json` prints it."""
        return {"id": self.id, "kind": self.kind, "state": self.state, "sentences": list(self.sentences), "facts": _plain(self.facts)}


def explain(connection: Connection, subject: str, schema: str = sql.DEFAULT_SCHEMA) -> Explanation:
    """Return why the task, the chord or the group of that id is where it is, by the journal and the clock of its database."""
    known = Reader(connection, schema).known(subject)
    if known.task is not None and _is_of_a_task(known):
        return _task(known)
    if known.body_of is not None:
        lost = f"It is lost: {known.task['lost_reason']}." if known.task and known.task["lost_reason"] else None
        waits = f"It is the body of a chord, and is sent when all parts have returned: {_waits(known.body_of)}.{_unsent(known.body_of)}"
        return _explanation(known, "body", "PENDING", [waits, lost], {"chord": known.body_of.row, "missing": known.body_of.missing})
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
            known, "group", None, [f"It is a group of which these tasks have not ended: {listed}."], {"members": known.members}
        )
    told = [
        "It was never heard of: neither a task, nor the body of a chord, nor a group has that id.",
        "Perhaps it was never sent, or not yet; or by a process that does not keep this journal, and no worker has received it.",
    ]
    return _explanation(known, "unknown", None, told, {})


def _is_of_a_task(known: Known) -> bool:
    """Return whether the row is more than the mark that the body of a chord is lost."""
    task = known.task or {}
    return known.body_of is None or task["name"] is not None or task["worker"] is not None or task["state"] != "PENDING"


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
    return _explanation(known, "chord", row["state"], [told], {"chord": row, "missing": chord.missing})


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
    return _explanation(known, "group", None, [told], {"group": known.group, "members": known.members})


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


def _explanation(known: Known, kind: str, state: str | None, told: Sequence[str | None], facts: dict[str, Any]) -> Explanation:
    return Explanation(known.id, kind, state, tuple(shown(sentence) for sentence in told if sentence), {"now": known.now, **facts})


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
