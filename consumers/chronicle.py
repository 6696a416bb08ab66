"""A history told line by line: what happened, how long it took to the next, and what there is to remark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from celery import states

from celery_journal import sql
from celery_journal.consumers.clock import now_of
from celery_journal.consumers.contents import LINE, arguments_of, cut, read
from celery_journal.consumers.raised import error_of
from celery_journal.consumers.routing import way_of
from celery_journal.consumers.timeline import Transition, timeline
from celery_journal.consumers.words import counted, duration, moment, who
from celery_journal.journal import Connection, Journal
from celery_journal.journal.events import (
    ChordFailed,
    ChordPartReturned,
    ChordStarted,
    ChordUnlocked,
    Event,
    GroupSaved,
    OperatorActed,
    TaskEvent,
    TaskProgress,
    TaskReplayed,
    TaskSent,
    UnreadableEvent,
)
from celery_journal.journal.periodic import PeriodicTaskSent
from celery_journal.journal.replays import ReplayDoubted, ReplayFinished, ReplayPlanned, ReplaySending, ReplayStarted

#: Those of which many in a row say no more than one.
_ALIKE = {"worker-heartbeat"}

#: The states after which nothing is waited for.
_ENDS = states.READY_STATES | {states.IGNORED}


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that happened."""

    transition: Transition
    #: How many of the kind came in a row.
    times: int
    #: Since the first of the history.
    after: timedelta
    #: Until the next, or until now; None after an end, and after the last if nothing more is to come.
    until_next: timedelta | None
    #: What there is to say of it besides, in words.
    remark: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        one = self.transition
        return {
            "at": one.told_at,
            "occurred_at": one.occurred_at,
            "clock_offset": one.clock_offset,
            "after": self.after,
            "until_next": self.until_next,
            "kind": one.kind,
            "state": one.state,
            "attempt": one.attempt,
            "run": one.run,
            "worker": one.worker,
            "witnesses": list(one.witnesses),
            "times": self.times,
            "remark": self.remark,
            "traceback": one.traceback,
            "recorded_by": one.recorded_by,
        }


@dataclass(frozen=True, slots=True)
class Chronicle:
    """The history of one stream."""

    id: str
    lines: list[Line]
    #: The clock of the database, when it was asked.
    now: datetime
    #: Whether something is to come: a task that has not ended.
    is_open: bool

    @classmethod
    def of(cls, connection: Connection, stream: str, schema: str = sql.DEFAULT_SCHEMA) -> Chronicle:
        """Return the history of a task, a group, a chord or a worker."""
        transitions = timeline(Journal(schema).read_stream(connection, stream))
        now = now_of(connection, schema)
        return cls(stream, list(_lines(transitions, now)), now, bool(transitions) and _is_open(transitions))

    @property
    def length(self) -> timedelta:
        """From the first to the last that happened, or until now."""
        if not self.lines:
            return timedelta(0)
        last = self.lines[-1]
        return last.after + (last.until_next or timedelta(0))


def _is_open(transitions: Sequence[Transition]) -> bool:
    """Return whether the last that was told of a task is no end."""
    told = [one for one in transitions if isinstance(one.event, TaskEvent)]
    return bool(told) and told[-1].state not in _ENDS


def _lines(transitions: Sequence[Transition], now: datetime) -> Iterator[Line]:
    runs = list(_in_a_row(transitions))
    ends = _is_open(transitions)
    is_told_apart = len({_sending(one.event) for one in transitions if isinstance(one.event, TaskSent)}) > 1
    for place, (one, times) in enumerate(runs):
        after = runs[place + 1][0].told_at if place + 1 < len(runs) else max(now, one.told_at) if ends else None
        yield Line(
            transition=one,
            times=times,
            after=max(one.told_at - runs[0][0].told_at, timedelta(0)),
            until_next=None if after is None or one.state in _ENDS else max(after - one.told_at, timedelta(0)),
            remark=_remark(one, is_told_apart=is_told_apart),
        )


def _in_a_row(transitions: Sequence[Transition]) -> Iterator[tuple[Transition, int]]:
    """Yield each with its number, one for many alike."""
    first, times = None, 0
    for one in transitions:
        if first is not None and one.kind == first.kind and one.kind in _ALIKE:
            times += 1
            continue
        if first is not None:
            yield first, times
        first, times = one, 1
    if first is not None:
        yield first, times


def _remark(one: Transition, *, is_told_apart: bool) -> str:
    """Return what there is to say of it; of a sending also what was sent, where under one id that was not always the same."""
    what = _call(one.event) if is_told_apart and isinstance(one.event, TaskSent) else ""
    remarks = [" ".join(filter(None, (what, remark_on(one.event, one.recorded_by)))), _clock(one)]
    return cut("; ".join(remark for remark in remarks if remark), 3 * LINE)


def _sending(sent: TaskSent) -> tuple[object, ...]:
    return sent.name, sent.args, sent.kwargs


def _call(sent: TaskSent) -> str:
    return f"{sent.name or ''}({arguments_of(sent)})"


def _clock(one: Transition) -> str:
    if not one.clock_offset:
        return ""
    whose = f"the clock of {one.worker}" if one.worker else "the sender's clock"
    return f"{whose} is {duration(one.clock_offset)} {'ahead' if one.clock_offset > timedelta(0) else 'behind'}"


def remark_on(event: Event, login: str | None = None) -> str:
    """Return what there is to say of a fact besides its kind, in words; with the login by which people's were recorded."""
    match event:
        case TaskSent():
            sender, to = (event.message or {}).get("sent_by"), event.queue or way_of(event)
            return _words(
                to and f"to {to}",
                sender and f"by {sender}",
                event.eta and f"not before {moment(event.eta)}",
                event.expires and f"not after {moment(event.expires)}",
            )
        case TaskProgress():
            value = read(event.result, event.content_type, event.content_encoding)
            return cut(f"{event.state} {'' if value is None else value}", LINE)
        case TaskEvent():
            error = error_of(event) if getattr(event, "state", None) in states.EXCEPTION_STATES else None
            by = event.source == "operator" and login and f"by {who(None, login)}"
            return "; ".join(part for part in (error, event.reason, event.eta and f"due at {moment(event.eta)}", by) if part)
        case OperatorActed():
            marks = [
                event.label,
                _either(event.marks.get("resolved"), "resolved", "unresolved"),
                _either(event.marks.get("hidden"), "hidden", "shown"),
            ]
            about = ", ".join(part for part in (event.reason, *marks) if part)
            return f"{event.action or 'acted'} by {who(event.author, login)}{f': {about}' if about else ''}"
        case TaskReplayed():
            by = f" by {who(event.author, login)}" if event.author else ""
            guessed = ", where the app sends it now (guessed)" if event.guessed else ""
            return f"sent again as {event.task_id or 'itself'}{guessed}{by}{f': {event.reason}' if event.reason else ''}"
        case UnreadableEvent():
            return f"cannot be read: {event.unreadable}"
        case _:
            return _on_many(event, login)


def _on_many(event: Event, login: str | None) -> str:
    """Return the same of what is about a group, a chord or a replay."""
    match event:
        case GroupSaved():
            return counted(len(event.members or ()), "member")
        case ChordStarted():
            return _words(event.size is not None and f"of {counted(event.size, 'part')}", event.task_id and f"for {event.task_id}")
        case ChordPartReturned():
            return f"{event.task_id} {event.state}"
        case ChordUnlocked() | ChordFailed() | PeriodicTaskSent():
            return _words(event.task_id, getattr(event, "reason", None))
        case ReplayStarted():
            planned = counted(event.size or 0, "task")
            return f"{planned} by {who(event.author, login)}{f': {event.reason}' if event.reason else ''}"
        case ReplayPlanned() | ReplaySending() | ReplayDoubted():
            return counted(len(event.members or ()), "task")
        case ReplayFinished():
            return ", ".join(f"{number:,} {what}" for what, number in (event.counts or {}).items() if isinstance(number, int))
        case _:
            return str(getattr(event, "reason", None) or "")


def _words(*parts: object) -> str:
    return " ".join(str(part) for part in parts if part)


def _either(mark: bool | None, yes: str, no: str) -> str | None:
    return None if mark is None else yes if mark else no
