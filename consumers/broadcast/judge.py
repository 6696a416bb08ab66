"""Which testimonies are facts of their own, and which only witness a fact that the log has from somebody nearer.

A worker that journals by itself is the authority on what it does, and so is one that has journalled anything of the same run.
Of any other worker, and of those who send tasks, the broadcast is the fact itself, unless the log has that fact first-hand: the
second of two testimonies of the same state is a witness only if there are two such facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from celery_journal import sql
from celery_journal.journal import Connection, Journal
from celery_journal.journal.codec import escape
from celery_journal.journal.events import Event, TaskFailed, TaskSent, TaskWitnessed
from celery_journal.journal.workers import WorkerHeartbeat

from .authorities import Authorities
from .known import Known
from .runs import Run
from .translator import Testimony

#: How far the clocks of two who tell of one fact may be apart.
_AROUND = timedelta(days=1)

#: Between these, that can be reckoned with.
_FIRST, _LAST = datetime(1971, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Judgement:
    """What is to be recorded of a batch, and what nobody can tell yet."""

    events: list[Event] = field(default_factory=list)
    #: The places of those in the batch of which something may be told soon.
    open: set[int] = field(default_factory=set)
    facts: int = 0
    witnessed: int = 0


def judge(
    connection: Connection,
    schema: str,
    testimonies: Sequence[Testimony],
    may_wait: Sequence[bool],
    authorities: Authorities,
    *,
    alone: bool = True,
) -> Judgement:
    """Return what is to be recorded of the testimonies.

    Those that may wait are left open if their attempt is unknown, or if they tell of a sending that nobody has recorded first-hand.

    `alone` says that nobody else is told of the same tasks.
    """
    judgement = Judgement()
    authorities.learn(connection, schema, testimonies)
    known = _known(connection, schema, testimonies, alone)
    newest = _newest_heartbeats(testimonies)
    for place, testimony in enumerate(testimonies):
        if not testimony.is_of_task:
            is_old = testimony.kind is WorkerHeartbeat and newest[testimony.stream] != place
            if not is_old and not authorities.speaks_for_itself(testimony):
                judgement.events.append(_fact(testimony, 0, None))
                judgement.facts += 1
        elif testimony.event_id not in known.ids:
            run = known.received.get(testimony.event_id) if testimony.attempt is not None else known.run_of(testimony)
            is_unknown = run is None if testimony.attempt is None else _is_awaited(testimony, known)
            if is_unknown and may_wait[place]:
                judgement.open.add(place)
                continue
            if testimony.kind is TaskSent:
                authorities.note_sender(testimony, journals=known.has_first_hand(testimony, testimony.attempt or 0))
            known.ids.add(testimony.event_id)
            _judge_task(testimony, run, known, judgement, is_authority=authorities.speaks_for_itself(testimony))
    return judgement


def _is_awaited(testimony: Testimony, known: Known) -> bool:
    """Return whether the sender of a task may yet record that it was sent."""
    return testimony.kind is TaskSent and not known.has_first_hand(testimony, testimony.attempt or 0)


def _judge_task(testimony: Testimony, run: Run | None, known: Known, judgement: Judgement, *, is_authority: bool) -> None:
    """Add what is to be recorded of a testimony about a task, and that run of it."""
    stream, attempt = escape(testimony.stream), testimony.attempt
    if attempt is None:
        if run is not None and testimony.kind is TaskFailed and testimony.state in run.ends:
            return  # Celery says so twice where a hard time limit has passed: when it is noticed, and when the process is gone
        attempt = known.attempts.get(stream, 0) if run is None else run.attempt
        known.reach(stream, run, attempt, testimony.state)
    if is_authority or (run is not None and run.first_hand) or known.has_first_hand(testimony, attempt):
        known.witness(testimony, attempt)
        judgement.events.append(_witness(testimony, attempt))
        judgement.witnessed += 1
    else:
        judgement.events.append(_fact(testimony, attempt, None if run is None else run.name))
        judgement.facts += 1


def _known(connection: Connection, schema: str, testimonies: Sequence[Testimony], alone: bool) -> Known:
    """Return what the log and the batch tell of the tasks."""
    known = Known(alone=alone)
    of_tasks = [testimony for testimony in testimonies if testimony.is_of_task]
    if not of_tasks:
        return known
    moments = [min(max(testimony.occurred_at, _FIRST), _LAST) for testimony in of_tasks]
    window = {"since": min(moments) - _AROUND, "until": max(moments) + _AROUND}
    streams = list({escape(testimony.stream) for testimony in of_tasks})
    # Not prepared: only a plan made for this window locks no other partitions.
    known.learn(connection.execute(sql.query("broadcast.sql", "told", schema), {"streams": streams, **window}, prepare=False))
    for testimony in of_tasks:
        known.hear(testimony)
    unknown = {escape(one.stream) for one in of_tasks if one.attempt is None and known.run_of(one) is None}
    if unknown:
        rows = Journal(schema).look(connection, sql.query("broadcast.sql", "ever told", schema), {"streams": list(unknown)})
        known.learn(tuple(row.values()) for row in rows)
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
