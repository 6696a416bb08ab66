"""Tasks that will not go on by themselves, for all that is known: found, told why, and marked in the log.

Being lost is a judgement and no state: a task that goes on after all is simply not lost.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

import psycopg
from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.journal import Connection, Emitter, EventRefused, Journal
from celery_journal.journal.codec import escape
from celery_journal.journal.events import Event, TaskLost
from celery_journal.journal.faults import is_outage

from .clock import now_of
from .neversent import NeverSent, never_sent
from .redelivery import Held
from .request import ACKNOWLEDGES_LATE, CANCELLED_FOR_GOOD, REJECTED_FOR_GOOD
from .settlement import settled_in
from .words import counted, first_line, listed, moment

logger = logging.getLogger(__name__)

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
    #: `never received`, `expired`, `cancelled`, `rejected`, `worker gone`, `worker restarted`, `end not heard`, `over time`,
    #: `body not sent`, `members lost`, `never sent` (the last step of a chain); `marked` of what was found before.
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
    #: The step of its chain after which it is never sent.
    after: str | None = None
    #: When the last fact of it was recorded, which a mark is too.
    recorded_at: datetime | None = None
    #: The last word of the worker that had it, where that is silent, and else the last news of the task; by the clock of the database.
    heard_at: datetime | None = None
    #: Whether the log says that it is lost.
    marked: bool = False
    #: Why nobody needs to look at it any more; None while it is not settled.
    settled: str | None = None

    @property
    def is_unsent(self) -> bool:
        """Whether nobody has sent it, so that it has no row: the body of a chord, or a step of a chain."""
        return self.is_body or self.after is not None

    @property
    def is_body(self) -> bool:
        """Whether it is the body of a chord, which nobody has sent."""
        return self.body_of is not None


def find_lost(
    connection: Connection,
    grace: float = GRACE,
    schema: str = sql.DEFAULT_SCHEMA,
    *,
    unmarked: bool = False,
    also_settled: bool = False,
    limit: int = LIMIT,
    held: Held | None = None,
) -> list[Lost]:
    """Return what is lost: tasks of which nothing was heard for `grace` seconds though something should have been, and open chords.

    What a worker that is gone had not acknowledged is given back by the broker, and waits: it is lost only once a worker that could
    have it has nothing to do, and the broker does not hold it (`held`), where it can be asked. `unmarked` leaves out what the log says
    to be lost already, for those who mark. Else what people have noted to be resolved, or was sent again and has succeeded so, is
    settled, and only there if `also_settled`.
    """
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:

        def rows(name: str, **parameters: Any) -> list[dict[str, Any]]:
            query = sql.query("lost.sql", name, schema)
            words = {"late": ACKNOWLEDGES_LATE, "cancelled": CANCELLED_FOR_GOOD, "rejected": REJECTED_FOR_GOOD}
            asked = {"grace": grace, "limit": limit, "unmarked": unmarked, **words, **parameters}
            return cursor.execute(query, asked, prepare=False).fetchall()  # only a plan made for these values locks no older partitions

        def search_marked(passed: list[str]) -> list[Lost]:
            found = rows("marked", passed=passed)
            return [_marked(row) for row in (found if unmarked else _with_last_news(connection, found, schema))]

        def search(passed: list[str]) -> list[Lost]:
            unfinished = rows("found", passed=passed, **oldest)
            return [_found(row) for row in _not_held(_of_equal_priority(connection, unfinished, schema), held)]

        # A sweep only marks, and must not lock all of the log to find out what people have said of that; who reads is told what is settled.
        settle = list[Lost] if unmarked else partial(_settled, connection, schema)
        (oldest,) = rows("oldest")
        marked = _paged(search_marked, settle, limit)
        found = _paged(search, settle, limit)
        lost = [one.task_id for one in (*marked, *found) if one.task_id]  # a settled member does not return to its chord either
        chords = _each(_complete, connection, lambda: rows("complete chords"))
        chords += _each(_waiting, connection, lambda: rows("waiting chords", lost=lost, **oldest))
        steps = [_never_sent(step) for step in never_sent(connection, grace, schema, limit)]
        heard_at = {chord.task_id: chord.heard_at for chord in chords}
        known = {one.task_id for one in marked}
        unsent = settle([*(chord for chord in chords if chord.task_id is None or chord.task_id not in known), *steps])
    marked = [replace(one, heard_at=heard_at.get(one.task_id)) if one.heard_at is None else one for one in marked]
    everything = [*([] if unmarked else marked), *found, *unsent]
    return everything if also_settled else [one for one in everything if one.settled is None]


def mark_lost(connection: Connection, lost: Iterable[Lost], journal: Journal, emitter: Emitter, source: str = "operator") -> list[Lost]:
    """Record in the log that these are lost, unless they were heard of since they were found; return those that it says now."""
    unmarked = [one for one in lost if one.task_id is not None and not one.marked]
    if not unmarked:
        return []
    with connection.transaction():
        connection.execute(sql.query("lost.sql", "lock", journal.schema))
        return _mark(connection, unsettled(connection, unmarked, journal.schema), journal, emitter, source)


def sweep_lost(connection: Connection, journal: Journal, emitter: Emitter, grace: float = GRACE, held: Held | None = None) -> list[Lost]:
    """Find what is lost and mark it, one process of all at a time; return what was marked now."""
    with connection.transaction():
        if connection.execute(sql.query("lost.sql", "try lock", journal.schema)).fetchone() != (True,):
            return []
        found = find_lost(connection, grace, journal.schema, unmarked=True, limit=SWEEP, held=held)
        return _mark(connection, [one for one in found if one.task_id is not None], journal, emitter, "sweep")


def unsettled(connection: Connection, lost: Sequence[Lost], schema: str = sql.DEFAULT_SCHEMA) -> list[Lost]:
    """Return those that are not settled, as far as the log says now."""
    return [one for one in _settled(connection, schema, lost) if one.settled is None]


def still_lost(connection: Connection, lost: Sequence[Lost], schema: str = sql.DEFAULT_SCHEMA) -> list[Lost]:
    """Return those that have neither ended nor been heard of since they were found."""
    with connection.cursor() as cursor:
        tasks = {escape(one.task_id): one.recorded_at for one in lost if one.task_id is not None and not one.is_unsent}
        cursor.execute(sql.query("lost.sql", "still open", schema), {"task_ids": list(tasks), "heard_at": list(tasks.values())})
        open_tasks = {task_id for (task_id,) in cursor}
        unsent = [escape(one.task_id) for one in lost if one.task_id is not None and one.is_unsent]
        cursor.execute(sql.query("lost.sql", "has ended", schema), {"task_ids": unsent})
        ended = {task_id for (task_id,) in cursor}
    return [
        one
        for one in lost
        if one.task_id is not None and (escape(one.task_id) not in ended if one.is_unsent else escape(one.task_id) in open_tasks)
    ]


def _mark(connection: Connection, lost: Sequence[Lost], journal: Journal, emitter: Emitter, source: str) -> list[Lost]:
    lost = still_lost(connection, lost, journal.schema)
    marked = _append(connection, lost, journal, emitter, source)
    if not marked:
        return []
    now = now_of(connection, journal.schema)
    return [replace(one, marked=True, recorded_at=now) for one in marked]


def _append(connection: Connection, lost: Sequence[Lost], journal: Journal, emitter: Emitter, source: str) -> list[Lost]:
    """Record that these are lost, and return them without those that the log refuses: one of them does not keep the others from it."""
    if not lost:
        return []
    try:
        with connection.transaction():
            events = [
                emitter.emit(TaskLost, one.task_id or "", attempt=one.attempt, reason=one.reason, worker=one.worker, source=source)
                for one in lost
            ]
            journal.append(connection, *events)
    except (psycopg.Error, EventRefused, ValueError, TypeError) as exc:
        if is_outage(exc):
            raise
        if len(lost) == 1:
            logger.error("a lost task cannot be marked: %s", first_line(exc), extra={"task_id": lost[0].task_id})
            return []
        middle = len(lost) // 2
        parts = (lost[:middle], lost[middle:])
        return [one for part in parts for one in _append(connection, part, journal, emitter, source)]
    return list(lost)


def _paged(search: Callable[[list[str]], list[Lost]], settle: Callable[[list[Lost]], list[Lost]], limit: int) -> list[Lost]:
    """Return what the search finds, told whether it is settled: the settled ones keep none of the others out of the limit."""
    settled: list[Lost] = []
    while True:
        page = settle(search([one.task_id or "" for one in settled]))
        passed = [one for one in page if one.settled is not None]
        if not passed or len(page) < limit:
            return [*settled, *page]
        settled += passed


def _settled(connection: Connection, schema: str, lost: Sequence[Lost]) -> list[Lost]:
    why = settled_in(connection, [one.task_id for one in lost if one.task_id is not None], schema)
    return [replace(one, settled=why.get(escape(one.task_id or ""))) for one in lost]


def _with_last_news(connection: Connection, rows: list[dict[str, Any]], schema: str) -> list[dict[str, Any]]:
    """Return the rows of what was marked with when there was news of it before that, None where there was none."""
    query = sql.query("lost.sql", "last news", schema)
    news: dict[str, datetime] = {}
    for told in Journal(schema).look(connection, query, {"task_ids": [row["task_id"] for row in rows]}) if rows else ():
        news[told["stream"]] = max(told["heard_at"], news.get(told["stream"], told["heard_at"]))
    return [{**row, "heard_at": news.get(row["task_id"])} for row in rows]


def _marked(row: dict[str, Any]) -> Lost:
    names = ("task_id", "name", "state", "attempt", "run", "queue", "group_id", "worker", "date_sent", "recorded_at", "body_of")
    reason = row["lost_reason"] or "marked as lost, without a reason"
    return Lost(**{name: row[name] for name in names}, cause="marked", reason=reason, heard_at=_last_word(row), marked=True)


def _last_word(row: dict[str, Any]) -> datetime | None:
    """Return the last word of the process that has the task, if it is that which is silent, and else the last news of the task."""
    news: datetime | None = row.get("heard_at")
    last_seen: datetime | None = row["last_seen"]
    online_since: datetime | None = row["online_since"]
    if news is None or last_seen is None or row["alive"] or (online_since is not None and online_since > news):
        return news
    return max(news, last_seen)


def _found(row: dict[str, Any]) -> Lost:
    kept = {
        name: row[name] for name in ("task_id", "name", "state", "cause", "attempt", "run", "queue", "group_id", "date_sent", "recorded_at")
    }
    heard_at = _last_word({**row, "heard_at": row["recorded_at"]})
    try:
        reason = _reason(row)
    except (ValueError, TypeError, LookupError, OverflowError) as exc:  # what is odd about one must not hide it, nor the others
        logger.warning("why a task is lost cannot be told: %s", first_line(exc), extra={"task_id": row["task_id"]})
        reason = f"{row['cause']}; more cannot be told, because the log has something odd of it"
    return Lost(**kept, worker=row["worker"], heard_at=heard_at, reason=reason)


def _each(tell: Callable[[dict[str, Any]], Lost], connection: Connection, search: Callable[[], list[dict[str, Any]]]) -> list[Lost]:
    """Return what is told of each chord that is found. A fact that ends the search for them does not end that for tasks."""
    try:
        with connection.transaction():
            return [tell(row) for row in search()]
    except psycopg.DataError as exc:
        logger.error("the search for lost chords failed: %s", first_line(exc))
        return []


def _not_held(rows: list[dict[str, Any]], held: Held | None) -> list[dict[str, Any]]:
    """Return the rows without those that were to be received, and that the broker holds for a worker that it has not given up yet."""
    waiting = {row["task_id"] for row in rows if row["cause"] == "never received"}
    if held is None or not waiting:
        return rows
    kept = held(waiting)
    return [row for row in rows if row["task_id"] not in kept]


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
        case "cancelled":
            how = f"cancelled by a cold shutdown of {row['worker']}"
            return f"{how}; its message was acknowledged early, so nobody will run it again"
        case "rejected":
            how = f"rejected by {row['worker']}, which was gone before it said that it has failed"
            return f"{how}; its message was acknowledged early, so nobody will run it again"
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
    if row["is_given_back"]:
        doing = "received" if row["run_status"] == "RECEIVED" else "begun"
        whose = "which has connected to its broker anew" if row["alive"] and row["source"] == "broadcast" else "which is gone"
        what = f"{doing} by {row['worker']}, {whose}, then given back to the broker"
    elif row["state"] == "REJECTED":
        what = "given back to its queue"
    else:
        what = f"sent{again}" + (f" at {moment(row['date_sent'])}" if row["date_sent"] else "")
    if row["expires"] is not None and row["expires"] < row["now"]:
        what += f", expired at {moment(row['expires'])}"
    if row["cause"] == "expired":
        return f"{what}, and never received"
    if row["idle_worker"] is not None and row["is_derived"]:
        has_broadcast = f"as far as {row['idle_worker']}, which consumes {row['queue']} and has nothing to do, has broadcast"
        return f"{what} and never received, {has_broadcast}"
    if row["idle_worker"] is not None:
        return f"{what} and never received, though {row['idle_worker']}, which consumes {row['queue']}, has nothing to do"
    consumers = counted(row["consumers"] or 0, "live worker consumes", "live workers consume")
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


def _never_sent(step: NeverSent) -> Lost:
    reason = f"last step of a chain, which is never sent: {step.before}, a step before it, was revoked or has expired"
    at = step.recorded_at
    return Lost(step.task_id, step.name, "PENDING", "never sent", reason, after=step.before, recorded_at=at, heard_at=at)


def _body(row: dict[str, Any], cause: str, reason: str) -> Lost:
    return Lost(
        task_id=row["body_task_id"],
        name=None,
        state="PENDING",
        cause=cause,
        reason=reason,
        body_of=row["group_id"],
        recorded_at=row["heard_at"],
        heard_at=row["heard_at"],
    )
