"""What the log has of a replay: what was asked for, what is planned, and how far it got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from celery_journal import sql
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.replays import ReplayDoubted, ReplayFinished, ReplayPlanned, ReplaySending, ReplayStarted

from .edits import Edit
from .errors import ReplayRefused
from .order import Order, Wishes

#: Tasks whose ids stand in one fact.
PLAN = 1000

#: Unfinished replays that are listed.
UNFINISHED = 100

_KINDS = ("replay-started", "replay-planned", "replay-sending", "replay-doubted", "replay-finished")


@dataclass(slots=True)
class Record:
    """How far a replay got."""

    order: Order
    #: When it was begun, by the clock of the database.
    begun_at: datetime | None = None
    planned: list[str] = field(default_factory=list)
    #: When each task was about to be sent, by the clock of the database.
    sending: dict[str, datetime] = field(default_factory=dict)
    #: The last batch that was, and the fact that says so.
    batch: tuple[str, ...] = ()
    last: UUID | None = None
    doubted: set[str] = field(default_factory=set)
    #: What it ended with; None while there is something left to send.
    counts: Mapping[str, int] | None = None

    @classmethod
    def of(cls, connection: Connection, journal: Journal, replay_id: str) -> Record:
        """Return what the log has; raise ReplayRefused if there is no such replay."""
        for record in cls._of_all(connection, journal, [replay_id]):
            return record
        raise ReplayRefused(f"there is no replay {replay_id}")

    @classmethod
    def unfinished(cls, connection: Connection, journal: Journal) -> list[Record]:
        """Return the newest replays that have something left to send or to decide, running ones too, the oldest of them first."""
        rows = connection.execute(sql.query("replay.sql", "unfinished", journal.schema), {"limit": UNFINISHED}, prepare=False).fetchall()
        return cls._of_all(connection, journal, [replay_id for (replay_id,) in rows])

    @classmethod
    def _of_all(cls, connection: Connection, journal: Journal, replay_ids: Sequence[str]) -> list[Record]:
        """Return what the log has of those of the replays that there are."""
        events, _ = journal.read_transitions(connection, replay_ids, _KINDS)
        records: dict[str, Record] = {}
        for recorded in events:
            replay_id = recorded.event.stream
            record = records.get(replay_id)
            match recorded.event:
                case ReplayStarted() as started:
                    order = Order(replay_id, _wishes(started.options or {}), started.author, started.reason)
                    records[replay_id] = cls(order, recorded.recorded_at)
                case ReplayPlanned(members=members) if record is not None:
                    record.planned += members or ()
                case ReplaySending(members=members) if record is not None:
                    record.batch, record.last = members or (), recorded.event.event_id
                    record.sending |= dict.fromkeys(record.batch, recorded.recorded_at)
                case ReplayDoubted(members=members) if record is not None:
                    record.doubted |= set(members or ())
                case ReplayFinished(counts=counts) if record is not None:
                    record.counts = counts or {}
        return list(records.values())


def begin(connection: Connection, journal: Journal, emitter: Emitter, order: Order, task_ids: Sequence[str]) -> None:
    """Record what is asked for and planned; raise ReplayRefused if that id is taken, or an edit means nothing."""
    for text in order.wishes.set:
        Edit.of(text)
    if journal.known(connection, [order.replay_id]):
        raise ReplayRefused(f"there is a replay, or something else, named {order.replay_id} already; take another --id, or --resume it")
    facts: dict[str, Any] = {"author": order.author, "reason": order.reason, "size": len(task_ids), "options": asked_for(order.wishes)}
    started = emitter.emit(ReplayStarted, order.replay_id, source="operator", **facts)
    parts = [tuple(task_ids[start : start + PLAN]) for start in range(0, len(task_ids), PLAN)]
    planned = [emitter.emit(ReplayPlanned, order.replay_id, source="operator", members=members) for members in parts]
    journal.append(connection, started, *planned)


def asked_for(wishes: Wishes) -> dict[str, Any]:
    """Return the wishes as the log keeps them: those that were expressed."""
    named = {name: getattr(wishes, name) for name in Wishes.__slots__}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in named.items() if value}


def _wishes(options: Mapping[Any, Any]) -> Wishes:
    known = {name: value for name, value in options.items() if name in Wishes.__slots__}
    return Wishes(**{**known, "set": tuple(known.get("set", ()))})
