"""What the log and the batch know of tasks: their runs, and what has been told first-hand."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from celery import states

from celery_journal.journal.codec import escape
from celery_journal.journal.events import TaskReceived, TaskRevoked

from .runs import ENDS, Run, run_of
from .translator import Testimony

#: Stream, state, attempt, and worker, '' where none is named.
Fact = tuple[str, str, int, str]

#: What is recorded first-hand of a transition that is broadcast as that state, where it is not that: a broadcast does not say that
#: the result is ignored, and a message that is rejected because its task has failed is rejected by the word of the broadcast alone.
ALIKE: dict[str, tuple[str, ...]] = {states.SUCCESS: (states.IGNORED,), states.REJECTED: (states.FAILURE,)}

#: Seconds between the moments of which a task's process and its worker's main process tell the same: it may wait for the database.
_NEAR = timedelta(seconds=10)


class Told(NamedTuple):
    """An event of the log, as far as it matters here; in the order of the queries of sql/broadcast.sql."""

    event_id: UUID
    stream: str
    kind: str
    state: str
    attempt: int
    worker: str | None
    run: str | None
    source: str | None
    occurred_at: datetime


@dataclass(slots=True)
class Known:
    """What is known of the tasks of a batch, all names as the log writes them."""

    #: Whether nobody else is told of the same tasks.
    alone: bool = True
    #: By stream and worker.
    runs: dict[tuple[str, str], list[Run]] = field(default_factory=lambda: defaultdict(list))
    #: The newest attempt of a task that anybody has told of.
    attempts: dict[str, int] = field(default_factory=dict)
    #: The attempts of which the broadcast has told how they ended.
    over: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    #: How often the log has a fact first-hand, and how often that was witnessed.
    facts: Counter[Fact] = field(default_factory=Counter)
    witnessed: Counter[Fact] = field(default_factory=Counter)
    #: When that was, by stream, state and worker: moment, attempt, and run.
    moments: dict[tuple[str, str, str], list[tuple[datetime, int, str | None]]] = field(default_factory=lambda: defaultdict(list))
    #: Which run it is that was received, by the id of the testimony.
    received: dict[UUID, Run] = field(default_factory=dict)
    #: The ids of what the log has, or will have of this batch.
    ids: set[UUID] = field(default_factory=set)
    _heard: set[UUID] = field(default_factory=set)

    def learn(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Take in what the log tells. How far a run has come counts by the broadcast alone, which is behind what is told first-hand."""
        unknown = [told for told in map(Told._make, rows) if told.event_id not in self.ids]
        for told in unknown:
            self.ids.add(told.event_id)
            self.attempts[told.stream] = max(told.attempt, self.attempts.get(told.stream, 0))
            # A retry is sent by the worker that ran the task, which its signal may name; nobody else's broadcast tells of it.
            fact = (told.stream, told.state, told.attempt, "" if told.state == states.PENDING else told.worker or "")
            if told.kind == "task-witnessed":
                self.witnessed[fact] += 1
            elif told.source != "broadcast":
                self.facts[fact] += 1
                self.moments[told.stream, told.state, told.worker or ""].append((told.occurred_at, told.attempt, told.run))
        unknown.sort(key=lambda told: told.occurred_at)
        received = [told for told in unknown if told.state == states.RECEIVED and told.worker is not None]
        for told in received:
            if told.kind != "task-witnessed":
                self._receive((told.stream, told.worker or ""), _run(told), anew=True)
        for told in unknown:
            if told.source != "broadcast" and told.worker is not None and told.run is not None:
                self._begin((told.stream, told.worker), told)
        for told in received:
            if told.kind == "task-witnessed":
                self._receive((told.stream, told.worker or ""), _run(told), anew=False)
        for told in unknown:
            if told.kind == "task-witnessed" or told.source == "broadcast":
                self._reach(told)

    def _begin(self, key: tuple[str, str], told: Told) -> None:
        """Take in a run whose worker journals, also if that it was received is not told yet, or never."""
        if all(run.name != told.run for run in self.runs[key]):
            self.runs[key].append(_run(told))

    def _reach(self, told: Told) -> None:
        runs = self.runs.get((told.stream, told.worker or ""), [])
        named = [run for run in runs if told.run is not None and run.name == told.run]
        self.reach(
            told.stream,
            named[0] if named else run_of([run for run in runs if run.attempt == told.attempt], told.state, told.occurred_at),
            told.attempt,
            told.state,
        )

    def reach(self, stream: str, run: Run | None, attempt: int, state: str) -> None:
        """Take in how far the broadcast tells that an attempt has come."""
        if run is not None:
            run.reach(state)
        if state in ENDS:
            self.over[stream].add(attempt)

    def hear(self, testimony: Testimony) -> None:
        """Take in what the batch tells of attempts."""
        if testimony.attempt is not None and testimony.event_id not in self.ids and testimony.event_id not in self._heard:
            self._heard.add(testimony.event_id)
            stream = escape(testimony.stream)
            self.attempts[stream] = max(testimony.attempt, self.attempts.get(stream, 0))
            if testimony.kind is TaskReceived:
                run = Run(testimony.occurred_at, testimony.attempt, testimony.event_id.hex, heard=True)
                self.received[testimony.event_id] = self._receive((stream, escape(testimony.hostname)), run, anew=False)

    def _receive(self, key: tuple[str, str], run: Run, *, anew: bool) -> Run:
        """Take in that a worker received a message, and return its run: unless that is `anew`, perhaps one that is known first-hand."""
        runs = self.runs[key]
        same = None if anew else next((other for other in runs if other.attempt == run.attempt and not other.heard), None)
        if same is None:
            runs.append(run)
            return run
        same.heard = True
        same.received_at = min(same.received_at, run.received_at)
        return same

    def run_of(self, testimony: Testimony) -> Run | None:
        """Return the run that the testimony is about; None if nobody has told of it."""
        stream = escape(testimony.stream)
        runs = self.runs.get((stream, escape(testimony.hostname)), ())
        if (fact := self._nearest(testimony)) is not None:
            _, attempt, name = fact
            named = [run for run in runs if run.name == name and name is not None]
            runs = named or [run for run in runs if run.attempt == attempt] or runs
        return run_of(runs, testimony.state, testimony.occurred_at, self.over.get(stream, ()) if self.alone else None)

    def _nearest(self, testimony: Testimony) -> tuple[datetime, int, str | None] | None:
        """Return the first-hand fact of the same transition that is nearest in time, of those that nobody has witnessed."""
        if testimony.attempt is not None or not self.moments:
            return None
        stream, worker = escape(testimony.stream), escape(testimony.hostname)
        facts = [
            fact
            for state in (testimony.state, *ALIKE.get(testimony.state, ()))
            for fact in self.moments.get((stream, state, worker), ())
            if abs(fact[0] - testimony.occurred_at) <= _NEAR and self.has_first_hand(testimony, fact[1])
        ]
        return min(facts, key=lambda fact: abs(fact[0] - testimony.occurred_at), default=None)

    def has_first_hand(self, testimony: Testimony, attempt: int) -> bool:
        """Return whether the log has the fact from somebody nearer, and no other testimony has witnessed that yet."""
        stream, worker = escape(testimony.stream), escape(testimony.worker or "")
        # Who asks for a revoke is no worker: that is another fact.
        workers = {worker} if testimony.kind is TaskRevoked else {worker, ""}
        alike = (testimony.state, *ALIKE.get(testimony.state, ()))
        facts = sum(self.facts[stream, state, attempt, each] for state in alike for each in workers)
        return facts > self.witnessed[stream, testimony.state, attempt, worker]

    def witness(self, testimony: Testimony, attempt: int) -> None:
        """Take in that the testimony is recorded as a witness."""
        self.witnessed[escape(testimony.stream), testimony.state, attempt, escape(testimony.worker or "")] += 1


def _run(told: Told) -> Run:
    """Return the run that a fact, or a witness, tells of; one that was only witnessed is that of a worker that journals."""
    first_hand = told.source != "broadcast" or told.kind == "task-witnessed"
    return Run(told.occurred_at, told.attempt, told.run, heard=told.source == "broadcast", first_hand=first_hand)
