"""Tasks that will not go on by themselves, for all that is known: found, told why, and marked in the log.

Being lost is a judgement and no state: a task that goes on after all is simply not lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.codec import escape
from celery_journal.journal.events import Event, TaskLost

from .words import counted, listed, moment

#: Seconds without any news after which a task can be lost, unless given.
GRACE = 300.0

#: The most that one search finds.
LIMIT = 10_000

#: Tasks that one sweep marks at most, so that its transaction is short.
SWEEP = 1000


@dataclass(frozen=True, slots=True)
class Lost:
    """A task that will not go on by itself, or the body of such a chord, and why."""

    #: None of a chord whose body is not known by an id.
    task_id: str | None
    name: str | None
    #: The Celery state, which being lost does not change.
    state: str
    #: `never received`, `expired`, `worker gone`, `worker restarted`, `end not heard`, `over time`, `body not sent`, `members lost`;
    #: `marked` of what was found before.
    cause: str
    #: The same in words.
    reason: str
    attempt: int = 0
    #: The delivery of the message that was lost.
    run: str | None = None
    worker: str | None = None
    queue: str | None = None
    #: The group it is in.
    group_id: str | None = None
    #: The open chord whose body it is.
    body_of: str | None = None
    date_sent: datetime | None = None
    #: When it was last heard of, by the clock of the database.
    recorded_at: datetime | None = None
    #: Whether the log says that it is lost.
    marked: bool = False

    @property
    def is_body(self) -> bool:
        """Whether it is the body of a chord, which nobody has sent."""
        return self.body_of is not None


def find_lost(
    connection: Connection, grace: float = GRACE, schema: str = sql.DEFAULT_SCHEMA, *, unmarked: bool = False, limit: int = LIMIT
) -> list[Lost]:
    """Return what is lost: tasks of which nothing was heard for `grace` seconds though something should have been, and open chords.

    A worker that is gone gives its messages back to the broker; after a minute, if `grace` is longer, another should have
    received them. `unmarked` leaves out what the log says to be lost already.
    """
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:

        def rows(name: str, **parameters: Any) -> list[dict[str, Any]]:
            query = sql.query("lost.sql", name, schema)
            return cursor.execute(query, {"grace": grace, "limit": limit, "unmarked": unmarked, **parameters}).fetchall()

        rows("plan")
        marked = [_marked(row) for row in rows("marked")]
        found = [_found(row) for row in _of_equal_priority(connection, rows("found"), schema)]
        known = {lost.task_id for lost in marked}
        chords = [_complete(row) for row in rows("complete chords")]
        chords += [_waiting(row) for row in rows("waiting chords", lost=[lost.task_id for lost in (*marked, *found) if lost.task_id])]
    chords = [chord for chord in chords if chord.task_id is None or chord.task_id not in known]
    return [*([] if unmarked else marked), *found, *chords]


def mark_lost(connection: Connection, lost: Iterable[Lost], journal: Journal, emitter: Emitter, source: str = "operator") -> list[Lost]:
    """Record in the log that these are lost, unless they were heard of since they were found; return those that it says now."""
    unmarked = [one for one in lost if one.task_id is not None and not one.marked]
    if not unmarked:
        return []
    with connection.transaction():
        connection.execute(sql.query("lost.sql", "lock", journal.schema))
        return _mark(connection, unmarked, journal, emitter, source)


def sweep_lost(connection: Connection, journal: Journal, emitter: Emitter, grace: float = GRACE) -> list[Lost]:
    """Find what is lost and mark it, one process of all at a time; return what was marked now."""
    with connection.transaction():
        if connection.execute(sql.query("lost.sql", "try lock", journal.schema)).fetchone() != (True,):
            return []
        found = find_lost(connection, grace, journal.schema, unmarked=True, limit=SWEEP)
        return _mark(connection, [one for one in found if one.task_id is not None], journal, emitter, "sweep")


def still_lost(connection: Connection, lost: Sequence[Lost], schema: str = sql.DEFAULT_SCHEMA) -> list[Lost]:
    """Return those that have neither ended nor been heard of since they were found."""
    with connection.cursor() as cursor:
        tasks = {escape(one.task_id): one.recorded_at for one in lost if one.task_id is not None and not one.is_body}
        cursor.execute(sql.query("lost.sql", "still open", schema), {"task_ids": list(tasks), "heard_at": list(tasks.values())})
        open_tasks = {task_id for (task_id,) in cursor}
        bodies = [escape(one.task_id) for one in lost if one.task_id is not None and one.is_body]
        cursor.execute(sql.query("lost.sql", "has ended", schema), {"task_ids": bodies})
        ended = {task_id for (task_id,) in cursor}
    return [
        one
        for one in lost
        if one.task_id is not None and (escape(one.task_id) not in ended if one.is_body else escape(one.task_id) in open_tasks)
    ]


def _mark(connection: Connection, lost: Sequence[Lost], journal: Journal, emitter: Emitter, source: str) -> list[Lost]:
    lost = still_lost(connection, lost, journal.schema)
    events = [
        emitter.emit(TaskLost, one.task_id or "", attempt=one.attempt, reason=one.reason, worker=one.worker, source=source) for one in lost
    ]
    if not events:
        return []
    journal.append(connection, *events)
    (now,) = connection.execute(sql.query("lost.sql", "now", journal.schema)).fetchone() or (None,)
    return [replace(one, marked=True, recorded_at=now) for one in lost]


def _marked(row: dict[str, Any]) -> Lost:
    reason = row.pop("lost_reason") or "marked as lost, without a reason"
    return Lost(**row, cause="marked", reason=reason, marked=True)


def _found(row: dict[str, Any]) -> Lost:
    kept = {
        name: row[name] for name in ("task_id", "name", "state", "cause", "attempt", "run", "queue", "group_id", "date_sent", "recorded_at")
    }
    return Lost(**kept, worker=row["worker"], reason=_reason(row))


def _of_equal_priority(connection: Connection, rows: list[dict[str, Any]], schema: str) -> list[dict[str, Any]]:
    """Return the rows without those that were overtaken by what was sent with another priority, which may well be first."""
    overtaken = {row["task_id"]: row["overtaken_by"] for row in rows if row["cause"] == "never received" and row["idle_worker"] is None}
    if not overtaken:
        return rows
    sent, _ = Journal(schema).read_transitions(connection, {*overtaken, *overtaken.values()}, ["task-sent"])
    priorities = {escape(place.event.stream): _priority(place.event) for place in sent}
    return [
        row
        for row in rows
        if row["task_id"] not in overtaken or priorities.get(row["task_id"]) == priorities.get(overtaken[row["task_id"]])
    ]


def _priority(event: Event) -> int:
    properties = (getattr(event, "message", None) or {}).get("properties")
    priority = properties.get("priority") if isinstance(properties, dict) else None
    return priority if isinstance(priority, int) else 0


def _reason(row: dict[str, Any]) -> str:
    doing = "received" if row["run_status"] == "RECEIVED" else "started"
    match row["cause"]:
        case "expired" if row["worker"] is not None:
            return f"received by {row['worker']}, expired at {moment(row['expires'])}, and nobody has said since what became of it"
        case "worker gone" if row["offline"]:
            return f"{doing} by {row['worker']}, which went offline at {moment(row['last_seen'])}"
        case "worker gone":
            return f"{doing} by {row['worker']}, which has not been heard of since {moment(row['last_seen'])}"
        case "worker restarted":
            return f"{doing} by {row['worker']}, which was started anew at {moment(row['online_since'])}"
        case "end not heard":
            return f"started by {row['worker']} and not heard to end, though it has nothing to do any more"
        case "over time":
            limit = f"its time limit of {row['time_limit']:g} s"
            return f"started at {moment(row['date_started'])} by {row['worker']}, which is alive, and {limit} has passed"
    return _never_received(row)


def _never_received(row: dict[str, Any]) -> str:
    again = f" for attempt {row['attempt']}" if row["attempt"] else ""
    what = "given back to its queue" if row["state"] == "REJECTED" else f"sent{again} at {moment(row['date_sent'])}"
    if row["expires"] is not None and row["expires"] < row["now"]:
        what += f", expired at {moment(row['expires'])}"
    if row["cause"] == "expired":
        return f"{what}, and never received"
    if row["idle_worker"] is not None and row["is_derived"]:
        has_broadcast = f"as far as {row['idle_worker']}, which consumes {row['queue']} and has nothing to do, has broadcast"
        return f"{what} and never received, {has_broadcast}"
    if row["idle_worker"] is not None:
        return f"{what} and never received, though {row['idle_worker']}, which consumes {row['queue']}, has nothing to do"
    consumers = counted(row["consumers"], "live worker consumes", "live workers consume")
    return f"{what} and never received, though {consumers} {row['queue']} and {row['overtaken_by']}, which was sent later, was received"


def _complete(row: dict[str, Any]) -> Lost:
    claimed = f"{row['claimed_by'].partition('/')[0]} was about to send it, and did not" if row["claimed_by"] else "nobody has sent it"
    reason = f"body of chord {row['group_id']}: all {row['size']} parts had returned by {moment(row['heard_at'])}, and {claimed}"
    return _body(row, "body not sent", reason)


def _waiting(row: dict[str, Any]) -> Lost:
    missing = f"{row['waits']} of {row['size']} parts" if row["size"] is not None else counted(row["waits"], "part")
    why = [
        f"these {what}: {listed(list(dict.fromkeys(row[ids])))}"
        for ids, what in (("lost", "are lost"), ("unsent", "were never sent"))
        if row[ids]
    ]
    return _body(row, "members lost", f"body of chord {row['group_id']}: it waits for {missing}, and {'; and '.join(why)}")


def _body(row: dict[str, Any], cause: str, reason: str) -> Lost:
    return Lost(
        task_id=row["body_task_id"],
        name=None,
        state="PENDING",
        cause=cause,
        reason=reason,
        body_of=row["group_id"],
        recorded_at=row["heard_at"],
    )
