"""What the log and the batch know of tasks: their runs, and what has been told first-hand."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from celery import states

from celery_journal.journal.codec import escape
from celery_journal.journal.events import TaskReceived, TaskRevoked

from .runs import ENDS, Run, run_of
from .translator import Testimony

#: Stream, state, attempt, and worker, '' where none is named.
Fact = tuple[str, str, int, str]


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
        received = [told for told in unknown if told.state == states.RECEIVED and told.worker is not None]
        for told in sorted(received, key=lambda told: (told.kind == "task-witnessed", told.occurred_at)):
            run = Run(told.occurred_at, told.attempt, told.run, heard=told.source == "broadcast")
            self._receive((told.stream, told.worker or ""), run, anew=told.kind != "task-witnessed")
        for told in sorted(unknown, key=lambda told: told.occurred_at):
            if told.kind == "task-witnessed" or told.source == "broadcast":
                self._reach(told)

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
                self._receive((stream, escape(testimony.hostname)), run, anew=False)

    def _receive(self, key: tuple[str, str], run: Run, *, anew: bool) -> None:
        """Take in that a worker received a message; unless it did so `anew`, perhaps the one that is known first-hand."""
        runs = self.runs[key]
        same = None if anew else next((other for other in runs if other.attempt == run.attempt and not other.heard), None)
        if same is None:
            runs.append(run)
        else:
            same.heard = True

    def run_of(self, testimony: Testimony) -> Run | None:
        """Return the run that the testimony is about; None if nobody has told of it."""
        stream = escape(testimony.stream)
        runs = self.runs.get((stream, escape(testimony.hostname)), ())
        return run_of(runs, testimony.state, testimony.occurred_at, self.over.get(stream, ()) if self.alone else None)

    def has_first_hand(self, testimony: Testimony, attempt: int) -> bool:
        """Return whether the log has the fact from somebody nearer, and no other testimony has witnessed that yet."""
        stream, state, worker = escape(testimony.stream), testimony.state, escape(testimony.worker or "")
        facts = self.facts[stream, state, attempt, worker]
        if worker and testimony.kind is not TaskRevoked:  # who asks for a revoke is no worker: that is another fact
            facts += self.facts[stream, state, attempt, ""]
        return facts > self.witnessed[stream, state, attempt, worker]

    def witness(self, testimony: Testimony, attempt: int) -> None:
        """Take in that the testimony is recorded as a witness."""
        self.witnessed[escape(testimony.stream), testimony.state, attempt, escape(testimony.worker or "")] += 1
