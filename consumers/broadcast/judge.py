"""Which testimonies are facts of their own, and which only witness a fact that the log has from somebody nearer.

A worker that journals by itself is the authority on what it does. Of any other worker, and of those who send tasks, the
broadcast is the fact itself, unless the log has that fact first-hand: the second of two testimonies of the same state is a
witness only if there are two such facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from celery_journal import sql
from celery_journal.journal import Connection
from celery_journal.journal.codec import escape
from celery_journal.journal.events import Event, TaskReceived, TaskSent, TaskWitnessed, WorkerHeartbeat

from .known import Known
from .translator import Testimony

#: How far the clocks of two who tell of one fact may be apart.
_AROUND = timedelta(days=1)

#: Between these, that can be reckoned with.
_FIRST, _LAST = datetime(1971, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)

Authorities = dict[tuple[str, int | None], float]


@dataclass(slots=True)
class Judgement:
    """What is to be recorded of a batch, and what nobody can tell yet."""

    events: list[Event] = field(default_factory=list)
    #: The places of those in the batch whose attempt nobody knows, and that may be told soon.
    open: set[int] = field(default_factory=set)
    facts: int = 0
    witnessed: int = 0


def judge(
    connection: Connection, schema: str, testimonies: Sequence[Testimony], may_wait: Sequence[bool], *, alone: bool = True
) -> Judgement:
    """Return what is to be recorded of the testimonies; those that may wait are left open if their attempt is unknown.

    `alone` says that nobody else is told of the same tasks.
    """
    judgement = Judgement()
    authorities = _authorities(connection, schema, testimonies)
    known = _known(connection, schema, testimonies, alone)
    newest = _newest_heartbeats(testimonies)
    for place, testimony in enumerate(testimonies):
        speaks_for_itself = testimony.occurred_at.timestamp() <= authorities.get((testimony.hostname, testimony.pid), 0.0)
        if not testimony.is_of_task:
            is_old = testimony.kind is WorkerHeartbeat and newest[testimony.stream] != place
            if not speaks_for_itself and not is_old:
                judgement.events.append(_fact(testimony, 0, None))
                judgement.facts += 1
        elif testimony.event_id not in known.ids:
            attempt, name = testimony.attempt, testimony.event_id.hex if testimony.kind is TaskReceived else None
            if attempt is None:
                run = known.run_of(testimony)
                if run is None and may_wait[place]:
                    judgement.open.add(place)
                    continue
                if run is None:
                    attempt = known.attempts.get(escape(testimony.stream), 0)
                else:
                    attempt, name = run.attempt, run.name
                known.reach(escape(testimony.stream), run, attempt, testimony.state)
            known.ids.add(testimony.event_id)
            if (speaks_for_itself and testimony.kind is not TaskSent) or known.has_first_hand(testimony, attempt):
                known.witness(testimony, attempt)
                judgement.events.append(_witness(testimony, attempt))
                judgement.witnessed += 1
            else:
                judgement.events.append(_fact(testimony, attempt, name))
                judgement.facts += 1
    return judgement


def _authorities(connection: Connection, schema: str, testimonies: Sequence[Testimony]) -> Authorities:
    """Return the workers that journal by themselves, by name and process, and until when that is known, as a timestamp."""
    workers = [escape(hostname) for hostname in {testimony.hostname for testimony in testimonies}]
    rows = connection.execute(sql.query("broadcast.sql", "journalling workers", schema), {"workers": workers})
    return {(worker, pid): until for worker, pid, until in rows}


def _known(connection: Connection, schema: str, testimonies: Sequence[Testimony], alone: bool) -> Known:
    """Return what the log and the batch tell of the tasks."""
    known = Known(alone=alone)
    of_tasks = [testimony for testimony in testimonies if testimony.is_of_task]
    if not of_tasks:
        return known
    moments = [min(max(testimony.occurred_at, _FIRST), _LAST) for testimony in of_tasks]
    window = {"since": min(moments) - _AROUND, "until": max(moments) + _AROUND}
    streams = list({escape(testimony.stream) for testimony in of_tasks})
    known.learn(connection.execute(sql.query("broadcast.sql", "told", schema), {"streams": streams, **window}))
    for testimony in of_tasks:
        known.hear(testimony)
    unknown = {escape(one.stream) for one in of_tasks if one.attempt is None and known.run_of(one) is None}
    if unknown:
        known.learn(connection.execute(sql.query("broadcast.sql", "ever told", schema), {"streams": list(unknown)}))
    return known


def _newest_heartbeats(testimonies: Sequence[Testimony]) -> dict[str, int]:
    """Return the place of the newest heartbeat of each worker."""
    newest: dict[str, int] = {}
    for place, testimony in enumerate(testimonies):
        if testimony.kind is WorkerHeartbeat:
            before = newest.get(testimony.stream)
            if before is None or testimonies[before].occurred_at <= testimony.occurred_at:
                newest[testimony.stream] = place
    return newest


def _fact(testimony: Testimony, attempt: int, run: str | None) -> Event:
    fields: dict[str, Any] = testimony.fields if run is None else {**testimony.fields, "run": run}
    return testimony.kind(
        event_id=testimony.event_id,
        stream=testimony.stream,
        attempt=attempt,
        occurred_at=testimony.occurred_at,
        source="broadcast",
        **fields,
    )


def _witness(testimony: Testimony, attempt: int) -> Event:
    return TaskWitnessed(
        event_id=testimony.event_id,
        stream=testimony.stream,
        attempt=attempt,
        occurred_at=testimony.occurred_at,
        source="broadcast",
        state=testimony.state,
        worker=testimony.worker,
        pid=testimony.pid,
    )
