"""What the log and the batch know of tasks: who received which attempt, and what has been told first-hand."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from celery_journal.journal.codec import escape
from celery_journal.journal.events import TaskReceived, TaskRevoked

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


class Receipt(NamedTuple):
    """A worker received the message of an attempt; `run` is None where only a witness of that is at hand."""

    occurred_at: datetime
    attempt: int
    run: str | None


@dataclass(slots=True)
class Known:
    """What is known of the tasks of a batch, all names as the log writes them."""

    #: By stream and worker.
    receipts: dict[tuple[str, str], list[Receipt]] = field(default_factory=lambda: defaultdict(list))
    #: The newest attempt of a task that anybody has told of.
    attempts: dict[str, int] = field(default_factory=dict)
    #: How often the log has a fact first-hand, and how often that was witnessed.
    facts: Counter[Fact] = field(default_factory=Counter)
    witnessed: Counter[Fact] = field(default_factory=Counter)
    #: The ids of what is recorded as a witness already.
    ids: set[UUID] = field(default_factory=set)

    def learn(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Take in what the log tells."""
        for told in map(Told._make, rows):
            self._learn_attempt(told)
            # A retry is sent by the worker that ran the task, which its signal may name; nobody else's broadcast tells of it.
            worker = "" if told.state == "PENDING" else told.worker or ""
            if told.kind == "task-witnessed":
                self.witnessed[told.stream, told.state, told.attempt, worker] += 1
                self.ids.add(told.event_id)
            elif told.source != "broadcast":
                self.facts[told.stream, told.state, told.attempt, worker] += 1

    def learn_attempts(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Take in what the log tells of attempts, and nothing else."""
        for told in map(Told._make, rows):
            self._learn_attempt(told)

    def hear(self, testimony: Testimony) -> None:
        """Take in what the batch tells of attempts."""
        if testimony.attempt is not None:
            stream = escape(testimony.stream)
            self.attempts[stream] = max(testimony.attempt, self.attempts.get(stream, 0))
            if testimony.kind is TaskReceived:
                receipt = Receipt(testimony.occurred_at, testimony.attempt, testimony.event_id.hex)
                self.receipts[stream, escape(testimony.hostname)].append(receipt)

    def delivery_of(self, testimony: Testimony) -> tuple[int | None, str | None]:
        """Return the attempt and the run that the testimony is about: of the last delivery to that worker before it."""
        receipts = self.receipts.get((escape(testimony.stream), escape(testimony.hostname)), ())
        before = [receipt for receipt in receipts if receipt.occurred_at <= testimony.occurred_at]
        if not before:
            return None, None
        attempt = max(before, key=_moment).attempt
        runs = [receipt for receipt in before if receipt.attempt == attempt and receipt.run is not None]
        return attempt, max(runs, key=_moment).run if runs else None

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

    def _learn_attempt(self, told: Told) -> None:
        if told.state == "RECEIVED" and told.worker is not None:
            self.receipts[told.stream, told.worker].append(Receipt(told.occurred_at, told.attempt, told.run))
        self.attempts[told.stream] = max(told.attempt, self.attempts.get(told.stream, 0))


def _moment(receipt: Receipt) -> datetime:
    return receipt.occurred_at
