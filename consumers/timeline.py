"""The history of a task as people read it: one transition after the other, whoever has told it, and however wrong their clocks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from celery import states

from celery_journal.journal import RecordedEvent
from celery_journal.journal.events import KIND_OF_STATE, Event, TaskEvent, TaskProgress, TaskSent, TaskWitnessed

_ORDER = {kind.model_fields["kind"].default: place for place, kind in enumerate(KIND_OF_STATE.values())}

#: Stands for the sending of an attempt among its runs.
_SENT = "\0sent"

#: A clock that is further from that of the database than this is wrong, and not only late.
TOLERANCE = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Transition:
    """One fact about a task, as `AsyncResult.history()` tells it."""

    #: By the clock of whoever has told it.
    occurred_at: datetime
    #: As the log names it: `task-started`, `task-succeeded`, `task-forgotten`, ...
    kind: str
    #: As Celery names it; None for what Celery has no state for, such as `task-forgotten`.
    state: str | None
    #: From 0; each retry is an attempt of its own.
    attempt: int
    #: Who ran the task.
    worker: str | None
    traceback: str | None
    #: The fact itself, with everything else that is recorded of it.
    event: Event = field(repr=False)
    #: Who has told it: `backend`, `signal`, `broadcast`, `sweep`. A fact has one row in the log, the others confirm it.
    witnesses: tuple[str, ...] = ()
    #: What tells one delivery of a message from another: a task that was redelivered, and really ran twice, has two runs.
    run: str | None = None
    #: How far the clock of whoever has told it is ahead of that of the database, where it is wrong; zero where it is not.
    clock_offset: timedelta = timedelta(0)
    #: The login by which the fact was recorded, from the database and not from the client; None where that is not known.
    recorded_by: str | None = None
    _backend: Any = field(default=None, repr=False, compare=False)

    @property
    def info(self) -> Any:
        """What was stored with it: the return value, the exception, the meta of a custom state.

        Decoded when it is asked for; raises what `AsyncResult.result` raises for a content type that is not accepted.
        """
        if not hasattr(self.event, "result"):
            return None
        value = self._backend._decoded(self.event)
        return self._backend.exception_to_python(value) if self.state in states.EXCEPTION_STATES else value

    @property
    def told_at(self) -> datetime:
        """When it happened by the clock of the database, as far as can be known."""
        try:
            return self.occurred_at - self.clock_offset
        except OverflowError:  # a clock that was thousands of years off, and not always
            return self.occurred_at


def timeline(recorded: Sequence[RecordedEvent], backend: Any = None) -> list[Transition]:
    """Return the transitions of one stream: each once, with its witnesses, in the order in which they happened."""
    offsets = clock_offsets(recorded)
    transitions = list[Transition]()
    told: dict[tuple[str, int], list[int]] = defaultdict(list)
    for place in sorted(recorded, key=_nearest_first):
        fact = _transition(place, offsets.get(_teller(place.event), timedelta(0)), backend)
        # A broadcast does not say that the result is ignored.
        alike = [*told[fact.kind, fact.attempt], *(told["task-ignored", fact.attempt] if fact.kind == "task-succeeded" else ())]
        witnessed = _same(transitions, alike, fact) if fact.kind in _ORDER else None
        if witnessed is not None:
            one = transitions[witnessed]
            transitions[witnessed] = replace(one, witnesses=(*one.witnesses, *fact.witnesses), worker=one.worker or fact.worker)
            continue
        told[fact.kind, fact.attempt].append(len(transitions))
        transitions.append(fact)
    return _in_order(transitions)


def _in_order(transitions: Sequence[Transition]) -> list[Transition]:
    """Return the transitions as they happened: none of a run before what it follows, though clocks differ by a little."""
    latest: dict[tuple[int, str | None], datetime] = {}
    moments: dict[int, datetime] = {}
    for place, fact in sorted(enumerate(transitions), key=lambda one: _rank(one[1])):
        sent, run = (fact.attempt, _SENT), (fact.attempt, fact.run)
        before = [latest[key] for key in (sent, run) if key in latest]
        moments[place] = max([fact.told_at, *before]) if fact.kind in _ORDER else fact.told_at
        if fact.kind in _ORDER:
            key = sent if fact.kind == "task-sent" else run
            earlier = latest.get(key, moments[place])
            # Of an id that was sent again, the runs before that do not follow the newest sending.
            latest[key] = min(moments[place], earlier) if key == sent else max(moments[place], earlier)
    order = sorted(range(len(transitions)), key=lambda place: (moments[place], _rank(transitions[place])))
    return [transitions[place] for place in order]


def _rank(fact: Transition) -> int:
    return _ORDER.get(fact.kind, len(_ORDER))


def clock_offsets(recorded: Iterable[RecordedEvent]) -> dict[str | None, timedelta]:
    """Return whose clocks are wrong and how far they are ahead (behind, where negative); None stands for whoever sent the task.

    A clock is wrong for sure where it says that something happened after it was recorded, or that a task ran before it
    was sent; that something was recorded late alone means nothing.
    """
    recorded = [place for place in recorded if isinstance(place.event, TaskEvent)]
    leads: dict[str | None, list[timedelta]] = defaultdict(list)
    for place in recorded:
        leads[_teller(place.event)].append(place.event.occurred_at - place.recorded_at)
    # The quickest on its way to the log is the nearest to the truth.
    nearest = {teller: max(lead) for teller, lead in leads.items()}
    wrong = {teller: lead for teller, lead in nearest.items() if lead > TOLERANCE}
    sent = {place.event.attempt: place.event for place in recorded if place.event.kind == "task-sent"}
    for place in recorded:
        teller, before = _teller(place.event), sent.get(place.event.attempt)
        if before is not None and place.event.occurred_at < before.occurred_at - TOLERANCE and _teller(before) not in {teller, *wrong}:
            wrong |= {teller: nearest[teller]} if nearest[teller] < -TOLERANCE else {}
    return wrong


def _teller(event: Event) -> str | None:
    """Return whose clock it is: the worker's also where a task sends a task."""
    if isinstance(event, TaskSent):
        return (event.message or {}).get("sent_by")
    return getattr(event, "worker", None)


def _nearest_first(place: RecordedEvent) -> tuple[bool, bool, tuple[int, int]]:
    """What was told at first hand is the fact, and what was told besides confirms it."""
    return isinstance(place.event, TaskWitnessed), place.event.source == "broadcast", place.place


def _same(transitions: Sequence[Transition], candidates: Iterable[int], fact: Transition) -> int | None:
    """Return which of the transitions is the same that the fact tells of: the first that nobody of its kind has told yet."""
    (source,) = fact.witnesses or (None,)
    if source != "broadcast":  # nobody else tells what is told at first hand already
        return None
    unheard = [place for place in candidates if source not in transitions[place].witnesses]
    if fact.kind == "task-sent":
        return next(iter(unheard), None)
    # That of the same worker, and else one of which it is not known whose it is.
    same = [place for place in unheard if transitions[place].worker == fact.worker]
    unknown = [place for place in unheard if None in {transitions[place].worker, fact.worker} and not _is_asked_for(transitions[place])]
    return next(iter([*same, *unknown]), None)


def _is_asked_for(one: Transition) -> bool:
    """Return whether it is a revoke that somebody has asked for: who effects it tells another fact."""
    return one.kind == "task-revoked" and one.worker is None


def _transition(place: RecordedEvent, offset: timedelta, backend: Any) -> Transition:
    event = place.event
    state = getattr(event, "state", None)
    return Transition(
        occurred_at=event.occurred_at,
        kind=KIND_OF_STATE.get(str(state), TaskProgress).model_fields["kind"].default if isinstance(event, TaskWitnessed) else event.kind,
        state=state,
        attempt=event.attempt,
        worker=getattr(event, "worker", None),
        traceback=getattr(event, "traceback", None),
        event=event,
        witnesses=() if event.source is None else (event.source,),
        run=getattr(event, "run", None),
        clock_offset=offset,
        recorded_by=place.recorded_by,
        _backend=backend,
    )
